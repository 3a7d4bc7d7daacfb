"""How are all rows of a server read so that they are one moment? By ascending id, so that none is skipped or given twice whatever
others write; and again, until two readings are the same (see `agreement`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
from blake3 import blake3

from strongroom.engines.agreement import read_until_same
from strongroom.engines.protocol import rows_per_block
from strongroom.engines.qdrant.conversion import batch_of
from strongroom.engines.qdrant.server.connection import Server
from strongroom.engines.qdrant.server.definitions import Listed, Listing, listing
from strongroom.errors import NotFound, Unreadable
from strongroom.progress import Progress

_TOGETHER = 1000


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a collection in a file of this machine, and how many the server counted. `prints` tell what they are, a piece
    each."""

    listed: Listed
    path: Path
    count: int
    counted: int
    prints: tuple[bytes, ...]

    def batches(self) -> Iterator[pa.RecordBatch]:
        """None if there are no rows."""
        if self.count:
            with pa.memory_map(str(self.path)) as file:
                yield from pa.ipc.open_stream(file)


@dataclass(frozen=True, slots=True)
class Moment:
    """All rows of one moment, how often they were read, and which collections of restores were left out."""

    rows: tuple[Rows, ...]
    left: tuple[str, ...]
    version: str
    readings: int

    def print(self) -> str:
        said = [(one.listed.collection(one.count).catalog, one.counted, [a.hex() for a in one.prints]) for one in self.rows]
        return blake3(json.dumps(said, sort_keys=True).encode()).hexdigest(16)

    def forget(self) -> None:
        for one in self.rows:
            one.path.unlink(missing_ok=True)


def read_moment(
    server: Server, folder: Path, progress: Progress, *, narrow: bool, between: Callable[[Moment], None] | None = None
) -> Moment:
    """`between` is called between two readings with the first of them: the last time, the source was what the moment is. Raises
    SourceChanged if it never was the same twice, Unreadable if the server shows fewer points than it counts."""
    last: list[Moment] = []

    def read(number: int) -> Moment:
        if between is not None and last:
            between(last[0])
        moment = read_once(server, listing(server, narrow=narrow), folder / str(number), progress)
        last[:] = [replace(moment, readings=number)]
        return last[0]

    moment = read_until_same(read, server.shown)
    for one in moment.rows:
        if one.count != one.counted:
            hint = "see whether all of its shards and replicas are active, then run the backup again"
            raise Unreadable(f"{one.listed.name} has {one.counted:,} points, and shows {one.count:,} of them", hint=hint)
    return moment


def read_once(server: Server, found: Listing, folder: Path, progress: Progress) -> Moment:
    """All rows, into files of a new folder."""
    folder.mkdir(mode=0o700, parents=True)
    rows = tuple(_read_rows(server, one, folder / str(number), progress) for number, one in enumerate(found.found))
    return Moment(rows, found.left, server.version(), 1)


def _read_rows(server: Server, listed: Listed, path: Path, progress: Progress) -> Rows:
    progress.begin(f"rows of {listed.name}", None, "rows")
    shape, count = listed.shape, 0
    row_bytes = max((4 * one.dimension for one in shape.vectors if one.kind == "dense"), default=4)
    most = min(rows_per_block(row_bytes), _TOGETHER)
    prints: list[bytes] = []
    try:
        with pa.ipc.new_stream(str(path), shape.schema) as writer:
            offset = None
            while True:
                ask = {"limit": most, "offset": offset, "with_payload": True, "with_vectors": True}
                records, offset = server.ask("scroll", listed.actual, **ask)
                if records:
                    batch = batch_of(shape, records)
                    prints.append(blake3(memoryview(batch.serialize())).digest(16))
                    writer.write_batch(batch)
                    count += batch.num_rows
                    progress.advance(batch.num_rows)
                if offset is None:
                    break
        counted = server.ask("count", listed.actual, exact=True).count
    except NotFound:  # it was dropped meanwhile: the next reading doesn't list it
        return Rows(listed, path, 0, 0, (b"gone",))
    return Rows(listed, path, count, counted, tuple(prints))
