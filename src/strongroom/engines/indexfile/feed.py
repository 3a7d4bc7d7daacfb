"""What did the capture of an index record, as the changes of its one collection?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pyarrow as pa

from strongroom.engines.changes import ACT, BATCH, MARK, TIME, Act, CatalogChange, Change, RowChanges, change_schema
from strongroom.engines.indexfile.beginning import require_alone
from strongroom.engines.indexfile.content import vector_array, vector_type
from strongroom.engines.indexfile.logfolder import IndexLogFolder
from strongroom.engines.indexfile.rowlog import Numbers, ids_of, numbers_of, vectors_of
from strongroom.engines.oplog import feed
from strongroom.engines.oplog.layout import Kind, Log, Record, mark_of, of_log, suffix
from strongroom.errors import Refused
from strongroom.model import ROLE, Collection, Field, Role

IDENTITY = "index"
"""An index file is one collection: what it is called may change, which it is can't."""
_ACTS = {Kind.PUT: Act.PUT, Kind.DELETE: Act.DELETE}


def following(path: Path, holder: str) -> AbstractContextManager[feed.OplogFeed]:
    """The feed of a captured index. Raises NotFound if it isn't captured."""
    folder = IndexLogFolder(path)

    def begin(current: bytes) -> str:
        """From where the index file ends."""
        mark = folder.current_mark()
        if mark is None or not of_log(mark, current):
            raise Refused(
                f"{path} is not what its capture saved last: somebody replaced it",
                hint="let the process that captures it save the index, then follow again",
            )
        return mark

    feed.require_log(folder)
    require_alone(path)
    return feed.following(folder, holder, lambda log, found: _changes(path.stem, log, found), begin)


def release(path: Path, holder: str) -> bool:
    """See `oplog.feed.release`."""
    return feed.release(IndexLogFolder(path), holder)


def _changes(name: str, log: Log, found: Sequence[Record]) -> Iterator[Change]:
    """Rows gathered, up to the next change of the parameters."""
    numbers = numbers_of(log.about)
    rows: list[Record] = []
    for record in found:
        if record.kind is not Kind.PARAMETERS:
            rows.append(record)
            continue
        if rows:
            yield _row_changes(name, log, numbers, rows)
            rows = []
        field = Field("vector", numbers.dtype, numbers.dimension, "", json.loads(record.tag))
        mark = mark_of(log.id, record.last, record.chain)
        yield CatalogChange({IDENTITY: Collection(name, 0, (field,))}, (), record.time, mark)
    if rows:
        yield _row_changes(name, log, numbers, rows)


def _row_changes(name: str, log: Log, numbers: Numbers, found: Sequence[Record]) -> RowChanges:
    counts = [one.operations for one in found]
    there = np.repeat([one.kind is Kind.PUT for one in found], counts)
    dense = vector_array(b"".join(vectors_of(one, numbers.width) for one in found), numbers.dtype, numbers.dimension)
    marks: list[str] = []
    for one in found:
        its = suffix(log.id, one.chain)
        marks.extend(f"{number}:{its}" for number in range(one.last - one.operations + 1, one.last + 1))
    tags = pa.array([one.tag or None for one in found], pa.utf8())
    columns = {
        ACT: pa.array(np.repeat([_ACTS[one.kind] for one in found], counts), pa.int8()),
        TIME: pa.array(np.repeat(np.array([one.time for one in found], np.int64), counts)),
        MARK: pa.array(marks, pa.utf8()),
        BATCH: tags.take(pa.array(np.repeat(np.arange(len(found)), counts))),
        "id": pa.array(np.concatenate([ids_of(one) for one in found])),
        "vector": dense if there.all() else dense.take(pa.array(np.cumsum(there) - 1, mask=~there)),
    }
    schema = change_schema(
        pa.schema(
            [
                pa.field("id", pa.int64(), metadata={ROLE: Role.ID.encode()}),
                pa.field("vector", vector_type(numbers.dtype, numbers.dimension), metadata={ROLE: Role.VECTOR.encode()}),
            ]
        )
    )
    return RowChanges(name, IDENTITY, pa.record_batch([columns[field.name] for field in schema], schema=schema))
