"""What follows from blobs that are there: the fingerprints of rows and vectors, which no other repository has, being keyed."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from contextlib import suppress

from strongroom.errors import Damaged
from strongroom.repository import Repository
from strongroom.snapshots.fingerprints import Fingerprinter, short
from strongroom.snapshots.history import Snapshot
from strongroom.snapshots.manifest import StoredCollection
from strongroom.snapshots.segments import read_segment
from strongroom.snapshots.slots import Slots


def derive(repository: Repository, snapshots: Iterable[Snapshot], wanted: Container[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Ids and bytes of those of the wanted blobs that can be computed anew."""
    done = set[bytes]()
    for snapshot in snapshots:
        for collection in snapshot.manifest.collections:
            for made in _fingerprints(repository, collection, wanted):
                blob_id = repository.keys.identify(made)
                if blob_id in wanted and blob_id not in done:
                    done.add(blob_id)
                    yield blob_id, made


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
