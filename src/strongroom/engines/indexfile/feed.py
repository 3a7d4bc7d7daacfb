"""What did the capture of an index record, as the changes of its one collection?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa

from strongroom.engines.changes import ACT, BATCH, MARK, TIME, Act, CatalogChange, Change, RowChanges, change_schema
from strongroom.engines.indexfile.beginning import require_alone
from strongroom.engines.indexfile.content import vector_array, vector_type
from strongroom.engines.indexfile.oplog import Kind, Log, Record, of_log, suffix
from strongroom.engines.indexfile.oplog_folder import OplogFolder
from strongroom.engines.indexfile.oplog_reader import OplogReader
from strongroom.engines.indexfile.position import KIND
from strongroom.errors import Gap, NotFound, Refused
from strongroom.model import ROLE, Collection, Field, Role

IDENTITY = "index"
"""An index file is one collection: what it is called may change, which it is can't."""
_ACTS = {Kind.PUT: Act.PUT, Kind.DELETE: Act.DELETE}


@contextmanager
def following(path: Path, holder: str) -> Iterator[IndexFeed]:
    """The feed of a captured index. Raises NotFound if it isn't captured."""
    folder = _folder(path)
    require_alone(path)
    feed = IndexFeed(folder, holder)
    try:
        yield feed
    finally:
        feed.close()


def release(path: Path, holder: str) -> bool:
    """Hold nothing back for `holder` any more. Gives whether something was."""
    folder = _folder(path)
    held = folder.let_go(holder)
    folder.drop()
    return held


def _folder(path: Path) -> OplogFolder:
    folder = OplogFolder(path)
    if not folder.exists():
        raise NotFound(
            f"{path} has no log: index files have none of their own",
            hint="write through strongroom.capture(index, ...), or follow it with --scan",
        )
    return folder


class IndexFeed:
    """See `protocol.Feed`. The only scope is ''."""

    kind = KIND

    def __init__(self, folder: OplogFolder, holder: str) -> None:
        self._folder = folder
        self._holder = holder
        self._reader: OplogReader | None = None
        self._mark = ""
        self.ended: int | None = None

    def begin(self) -> Mapping[str, str]:
        """From where the index file ends: a snapshot of it can then be gone on from."""
        current, mark = self._folder.log_id(), self._folder.current_mark()
        if current is None or mark is None or not of_log(mark, current):
            raise Refused(
                f"{self._folder.index} is not what its capture saved last: somebody replaced it",
                hint="let the process that captures it save the index, then follow again",
            )
        self._go(current, mark)
        self._folder.hold(self._holder, mark)
        return {"": mark}

    def resume(self, marks: Mapping[str, str]) -> None:
        mark = marks[""]
        logs = dict.fromkeys(one.log for one in self._folder.segments())
        log = next((one for one in logs if of_log(mark, one)), None)
        if log is None:
            raise Gap(f"the log of {self._folder.index.name} is another one: it was captured anew")
        if self._go(log, mark).read():
            self._go(log, mark)
        elif log != self._folder.log_id():
            raise Gap(f"the log of {self._folder.index.name} ended here: it was captured anew")
        self._folder.hold(self._holder, mark)

    def read(self) -> tuple[Sequence[Change], Mapping[str, str], bool]:
        reader = self._reader
        assert reader is not None  # noqa: S101 - begun or resumed
        goes_on = self._folder.log_id() == reader.end.log  # asked before: what came before another log began is read
        found = reader.read()
        if not found and not goes_on:
            self.ended = reader.latest or None
            raise Gap(f"the log of {self._folder.index.name} ended with operation {reader.end.number}: it was captured anew")
        if not found:
            return [], {"": self._mark}, False
        assert reader.log is not None  # noqa: S101 - it has read
        self._mark = f"{found[-1].last}:{suffix(reader.log.id, found[-1].chain)}"
        more = not goes_on or reader.more()
        return list(_changes(self._folder.index.stem, reader.log, found)), {"": self._mark}, more

    def behind(self, marks: Mapping[str, str]) -> tuple[int, int]:
        mark = marks[""]
        current = self._folder.log_id()
        if current is None or not of_log(mark, current):
            raise Gap(f"the log of {self._folder.index.name} is another one")
        with OplogReader(self._folder, current) as reader:
            reader.seek(mark)
            count = size = 0
            for record in reader.all():
                count, size = count + len(record.ids), size + 8 * len(record.ids) + len(record.vectors)
            return count, size

    def shipped(self, marks: Mapping[str, str]) -> None:
        self._folder.hold(self._holder, marks[""])
        self._folder.drop()

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()

    def _go(self, log: bytes, mark: str) -> OplogReader:
        self.close()
        self._reader = OplogReader(self._folder, log)
        self._reader.seek(mark)
        self._mark = mark
        return self._reader


def _changes(name: str, log: Log, found: Sequence[Record]) -> Iterator[Change]:
    """Rows gathered, up to the next change of the parameters."""
    rows: list[Record] = []
    for record in found:
        if record.kind is not Kind.PARAMETERS:
            rows.append(record)
            continue
        if rows:
            yield _row_changes(name, log, rows)
            rows = []
        field = Field("vector", log.dtype, log.dimension, "", json.loads(record.tag))
        mark = f"{record.last}:{suffix(log.id, record.chain)}"
        yield CatalogChange({IDENTITY: Collection(name, 0, (field,))}, (), record.time, mark)
    if rows:
        yield _row_changes(name, log, rows)


def _row_changes(name: str, log: Log, found: Sequence[Record]) -> RowChanges:
    counts = [len(one.ids) for one in found]
    there = np.repeat([one.kind is Kind.PUT for one in found], counts)
    dense = vector_array(b"".join(one.vectors for one in found), log.dtype, log.dimension)
    marks: list[str] = []
    for one in found:
        its = suffix(log.id, one.chain)
        marks.extend(f"{number}:{its}" for number in range(one.first, one.last + 1))
    tags = pa.array([one.tag or None for one in found], pa.utf8())
    columns = {
        ACT: pa.array(np.repeat([_ACTS[one.kind] for one in found], counts), pa.int8()),
        TIME: pa.array(np.repeat(np.array([one.time for one in found], np.int64), counts)),
        MARK: pa.array(marks, pa.utf8()),
        BATCH: tags.take(pa.array(np.repeat(np.arange(len(found)), counts))),
        "id": pa.array(np.concatenate([one.ids for one in found])),
        "vector": dense if there.all() else dense.take(pa.array(np.cumsum(there) - 1, mask=~there)),
    }
    schema = change_schema(
        pa.schema(
            [
                pa.field("id", pa.int64(), metadata={ROLE: Role.ID.encode()}),
                pa.field("vector", vector_type(log.dtype, log.dimension), metadata={ROLE: Role.VECTOR.encode()}),
            ]
        )
    )
    return RowChanges(name, IDENTITY, pa.record_batch([columns[field.name] for field in schema], schema=schema))
