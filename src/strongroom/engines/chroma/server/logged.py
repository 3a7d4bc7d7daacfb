"""How are rows read at one moment while a captured client goes on writing? Once, and what changed meanwhile is in its log.

A row may be read as it was at any time of the reading. Each one that changed then is in the log, whole, as it was after the last
call that was done: put over what was read, the log makes that the state after that call. A call that is under way when the reading
ends may be in what was read: it is waited for.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from strongroom.engines.changes import ACT, Act, CatalogChange, Change, RowChanges
from strongroom.engines.chroma.rows import schema_of
from strongroom.engines.chroma.server.moment import Moment, Rows
from strongroom.engines.oplog.calls import end_of
from strongroom.engines.oplog.folder import OplogFolder
from strongroom.engines.oplog.layout import Kind, Record, mark_of, number_of
from strongroom.engines.oplog.reader import OplogReader
from strongroom.engines.oplog.rows import changes_of
from strongroom.engines.protocol import rows_per_block
from strongroom.errors import Gap, Locked, SourceChanged

_ATTEMPTS = 5
_PATIENCE = 2.0
"""After so many seconds of waiting for a call it is looked whether its process still lives."""


@dataclass(frozen=True, slots=True)
class Marked:
    """A moment, and the mark of the last operation that it holds."""

    moment: Moment
    mark: str


class Unsettled(Exception):
    """A process died in a call, and nobody has asked the server yet what came of it."""


def read_marked(folder: OplogFolder, log: bytes, read: Callable[[int], Moment]) -> Marked:
    """`read` reads all rows once; its argument is the number of the attempt. Raises Unsettled, Gap, or SourceChanged if collections
    are made or dropped again and again."""
    for attempt in range(1, _ATTEMPTS + 1):
        since = end_of(folder, log).place
        moment = read(attempt)
        changes, mark = _until_done(folder, log, since)
        if not any(isinstance(change, CatalogChange) for change in changes):
            rows = [change for change in changes if isinstance(change, RowChanges)]
            return Marked(replace(moment, rows=tuple(_patched(one, rows) for one in moment.rows)), mark)
    raise SourceChanged(f"collections of {folder.of} were made or dropped whenever it was read", hint="run the backup again")


def _until_done(folder: OplogFolder, log: bytes, since: str) -> tuple[list[Change], str]:
    """What came after a mark, up to where every call is done that has begun by now; and the mark there."""
    with OplogReader(folder, log) as reader:
        reader.seek(since)
        found = list(reader.all())
        began = time.monotonic()
        while _is_open(found, since):
            more = _up_to_done(reader.read())
            found += more
            if not more:
                if time.monotonic() - began > _PATIENCE and not _is_written(folder):
                    raise Unsettled
                time.sleep(0.005)
        if reader.log is None:
            raise Gap(f"the log of {folder.of} is gone")
        last = next((one for one in reversed(found) if one.operations), None)
        mark = since if last is None else mark_of(log, last.last, last.chain)
        return list(changes_of(reader.log, found)), mark


def _is_open(found: Sequence[Record], since: str) -> bool:
    """Is a call under way? After its changes comes the word that it is done; nothing came before the first call."""
    return found[-1].kind is not Kind.DONE if found else number_of(since) > 0


def _up_to_done(found: Sequence[Record]) -> list[Record]:
    end = next((place for place, one in enumerate(found) if one.kind is Kind.DONE), len(found))
    return list(found[: end + 1])


def _is_written(folder: OplogFolder) -> bool:
    try:
        os.close(folder.take_lock())
    except Locked:
        return True
    return False


def _patched(rows: Rows, changes: Sequence[RowChanges]) -> Rows:
    """The rows that were read, those that changed meanwhile replaced by what the log says of them."""
    own = [change for change in changes if change.identity == rows.listed.id]
    if not own:
        return rows
    schema = schema_of(rows.listed.dimension)
    last: dict[str, pa.RecordBatch | None] = {}
    for change in own:
        acts, kept = change.batch.column(ACT).to_pylist(), change.batch.select(schema.names)
        for place, one in enumerate(change.batch.column("id").to_pylist()):
            last[one] = kept.slice(place, 1) if acts[place] == Act.PUT else None
    touched = pa.array(last, pa.utf8())
    path, count = rows.path.with_name(rows.path.name + ".patched"), 0
    with pa.ipc.new_stream(str(path), schema) as writer:
        for batch in rows.batches():
            stay = batch.filter(pc.invert(pc.is_in(batch.column("id"), touched)))
            writer.write_batch(stay)
            count += stay.num_rows
        block = rows_per_block(4 * rows.listed.dimension)
        fresh = pa.Table.from_batches(
            [one.cast(schema) for one in last.values() if one is not None], schema=schema
        ).combine_chunks()
        for batch in fresh.to_batches(max_chunksize=block):
            writer.write_batch(batch)
        count += fresh.num_rows
    rows.path.unlink(missing_ok=True)
    return replace(rows, path=path, count=count, prints=())
