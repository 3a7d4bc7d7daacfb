"""How are all rows of a server read so that they are one moment? A server has no snapshots, and pages shift while others write.

First all ids of a collection are asked for, in one request, then the rows by their ids: so none is skipped or given twice. All of
that is done again until two readings in a row are the same: then it was so when the first had ended and the second begun. A server
that gives fewer ids at a time than it counts is asked for the next ones, and what was read is held against what it counts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from blake3 import blake3

from strongroom.engines.agreement import read_until_same
from strongroom.engines.chroma.rows import schema_of
from strongroom.engines.chroma.server import listing
from strongroom.engines.chroma.server.bodies import INCLUDED, batch_of
from strongroom.engines.chroma.server.connection import Server
from strongroom.engines.chroma.server.listing import Listed
from strongroom.engines.protocol import rows_per_block
from strongroom.errors import NotFound, Unreadable
from strongroom.progress import Progress

_TOGETHER = 1024
_ATTEMPTS = 50


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
        """In blocks of `rows_per_block`; none if there are no rows."""
        if self.count:
            with pa.memory_map(str(self.path)) as file:
                yield from pa.ipc.open_stream(file)


@dataclass(frozen=True, slots=True)
class Moment:
    """All rows of one moment, how often they were read, and which collections of restores were left out."""

    rows: tuple[Rows, ...]
    databases: tuple[str, ...]
    version: str
    readings: int
    left: tuple[str, ...]

    def print(self) -> str:
        """The same for the same rows and catalog."""
        said = [(one.listed.name, json.dumps(one.listed.raw, sort_keys=True), one.counted, one.prints) for one in self.rows]
        return blake3(repr((self.databases, said)).encode()).hexdigest(16)

    def forget(self) -> None:
        """Let go of the files."""
        for one in self.rows:
            one.path.unlink(missing_ok=True)


def read_moment(server: Server, found: Sequence[Listed] | None, folder: Path, progress: Progress) -> Moment:
    """Read what there is (the collections `found`, which nobody else writes to, are read once) into files in `folder`. Raises
    SourceChanged if it never was the same twice, Unreadable if the server shows fewer rows than it counts."""
    if found is not None:
        return read_once(server, found, folder, 1, progress)
    moment = read_until_same(lambda number: read_once(server, None, folder, number, progress), server.place.shown)
    for one in moment.rows:
        if one.count != one.counted:
            raise Unreadable(f"{one.listed.name} has {one.counted:,} rows, and the server gives {one.count:,} of them")
    return moment


def read_once(server: Server, found: Sequence[Listed] | None, folder: Path, reading: int, progress: Progress) -> Moment:
    """All rows, which others may change meanwhile, into files of a new folder in `folder`."""
    own = folder / str(reading)
    own.mkdir(mode=0o700, parents=True)
    present = listing.collections(server) if found is None else found
    rows = tuple(_read_rows(server, one, own / str(number), progress) for number, one in enumerate(present))
    left = listing.left_by_restores(server) if found is None else ()
    return Moment(rows, tuple(listing.databases(server)), listing.version_of(server), reading, tuple(left))


def _read_rows(server: Server, listed: Listed, path: Path, progress: Progress) -> Rows:
    progress.begin(f"rows of {listed.name}", None, "rows")
    where = server.collections(listed.database, listed.id)
    try:
        ids, counted = _ids(server, where)
        if not ids or not listed.dimension:
            return Rows(listed, path, 0, counted, ())
        return replace(_spooled(server, listed, ids, path, progress), counted=counted)
    except NotFound:  # it was dropped meanwhile: the next reading doesn't list it
        return Rows(listed, path, 0, 0, (b"gone",))


def _ids(server: Server, where: Sequence[str]) -> tuple[Sequence[str], int]:
    """All ids, and how many rows the server counts."""
    found = dict.fromkeys(server.ask("POST", *where, "get", include=[])["ids"])
    counted, before = int(server.ask("GET", *where, "count")), -1
    while before < len(found) < counted:
        before = len(found)
        found.update(dict.fromkeys(server.ask("POST", *where, "get", include=[], offset=before)["ids"]))
    return list(found), counted


def _spooled(server: Server, listed: Listed, ids: Sequence[str], path: Path, progress: Progress) -> Rows:
    where = server.collections(listed.database, listed.id)
    block = rows_per_block(4 * listed.dimension)
    step, count, prints = min(block, _TOGETHER), 0, []
    gathered: list[pa.RecordBatch] = []
    with pa.ipc.new_stream(str(path), schema_of(listed.dimension)) as writer:
        for start in range(0, len(ids), step):
            some = ids[start : start + step]
            for answer in _rows_of(server, where, some):
                batch = batch_of(answer, listed.dimension)
                prints.append(blake3(memoryview(batch.serialize())).digest(16))
                count += batch.num_rows
                gathered.append(batch)
                progress.advance(batch.num_rows)
            if gathered and (sum(one.num_rows for one in gathered) >= block or start + step >= len(ids)):
                writer.write_batch(pa.concat_batches(gathered))
                gathered = []
    return Rows(listed, path, count, count, tuple(prints))


def _rows_of(server: Server, where: Sequence[str], ids: Sequence[str]) -> Sequence[Any]:
    """The rows of these ids that are there. A server fails where one of them is deleted just then. Raises Unreadable."""
    for _ in range(_ATTEMPTS):
        with suppress(Unreadable):
            return list(server.rows(where, ids, INCLUDED))
        time.sleep(0.02)
    return list(server.rows(where, ids, INCLUDED))
