"""What follows from what is there: the fingerprints of rows and vectors, from blobs or from what this machine keeps of them.

No other repository has them, being keyed.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from contextlib import suppress
from itertools import chain

import numpy as np

from strongroom.errors import Damaged
from strongroom.operations.backup.predecessor import cache_of
from strongroom.repository import Repository
from strongroom.snapshots.fingerprints import Fingerprinter, Short, short
from strongroom.snapshots.history import Snapshot
from strongroom.snapshots.known import KnownRows, kept
from strongroom.snapshots.manifest import StoredCollection
from strongroom.snapshots.segments import read_segment
from strongroom.snapshots.slots import Slots

_LINES = 1 << 16


def derive(repository: Repository, snapshots: Iterable[Snapshot], wanted: Container[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Ids and bytes of those of the wanted blobs that can be computed anew."""
    done = set[bytes]()
    for snapshot in snapshots:
        for collection in snapshot.manifest.collections:
            lost = _lost(collection, wanted)
            if not lost:
                continue
            table = kept(collection, cache_of(repository, snapshot.manifest.source, collection.name), repository.keys.identify)
            remembered = _remembered(table, collection, wanted) if table else iter(())
            for made in chain(remembered, _fingerprints(repository, collection, wanted)):
                blob_id = repository.keys.identify(made)
                if blob_id in wanted and blob_id not in done:
                    done.add(blob_id)
                    yield blob_id, made


def _lost(collection: StoredCollection, wanted: Container[bytes]) -> bool:
    blocks = chain.from_iterable(collection.vectors.values())
    prints = chain((one.prints for one in collection.segments), (one.prints for one in blocks))
    return any(one and bytes.fromhex(one) in wanted for one in prints)


def _remembered(table: KnownRows, collection: StoredCollection, wanted: Container[bytes]) -> Iterator[bytes]:
    """By this machine's table of what lies in which slot; not those of rows and vectors that lie in none."""
    segments = {one.start: _Prints(one.rows) for one in collection.segments if one.prints and bytes.fromhex(one.prints) in wanted}
    blocks = {
        (name, one.start): _Prints(one.count)
        for name, those in collection.vectors.items()
        for one in those
        if one.prints and bytes.fromhex(one.prints) in wanted
    }
    for first in range(0, table.slots, _LINES):
        lines = table.lines(first, _LINES)
        rows = np.ascontiguousarray(lines.rows).view(np.uint32).reshape(-1, 4)[:, :3]
        for start, prints in segments.items():
            prints.put(lines.numbers.astype(np.int64) - start, rows)
        for (name, start), prints in blocks.items():
            if name in lines.places:
                prints.put(lines.places[name].astype(np.int64) - start, lines.vectors[name])
    for prints in (*segments.values(), *blocks.values()):
        yield prints.prints.tobytes()


class _Prints:
    """The fingerprints of a segment or block, as they are found."""

    def __init__(self, count: int) -> None:
        self.prints: Short = np.zeros((count, 3), np.uint32)

    def put(self, at: np.ndarray, prints: Short) -> None:
        inside = (at >= 0) & (at < len(self.prints))
        self.prints[at[inside]] = prints[inside]


def _fingerprints(repository: Repository, collection: StoredCollection, wanted: Container[bytes]) -> Iterator[bytes]:
    fingerprinter = Fingerprinter(repository.keys.fingerprint)
    for block in (block for blocks in collection.vectors.values() for block in blocks):
        if block.count and block.prints and bytes.fromhex(block.prints) in wanted:
            with suppress(Damaged):
                content = repository.read_blob(bytes.fromhex(block.blob))
                yield short(fingerprinter.vectors(content, len(content) // block.count)).tobytes()
    slots = Slots(collection, repository.read_blob)
    for segment in collection.segments:
        if segment.prints and bytes.fromhex(segment.prints) in wanted:
            with suppress(Damaged):
                rows = read_segment(segment, collection.arrow_schema(), slots, repository.read_blob)
                yield short(fingerprinter.rows(rows.batch)).tobytes()
