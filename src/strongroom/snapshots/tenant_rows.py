"""What must be stored anew of one tenant's rows in a collection? Those whose fingerprints his part of the snapshot before hasn't.

Nothing is shared with other tenants, collections or sources, and nothing of it is kept on this machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from strongroom.codecs.runs import NONE, Numbers
from strongroom.model import Bytes, Collection
from strongroom.repository.tenants import TenantKey
from strongroom.snapshots.compaction import Piece, retired
from strongroom.snapshots.fingerprints import Fingerprinter, Prints, RowsRoot, short
from strongroom.snapshots.known import Lookup, read_prints
from strongroom.snapshots.manifest import Block, Segment, TenantPart, pack_dead
from strongroom.snapshots.marks import Marks
from strongroom.snapshots.matching import Found, Seen
from strongroom.snapshots.segment_writer import SegmentWriter
from strongroom.snapshots.segments import vector_columns
from strongroom.snapshots.tenant_parts import PartRecord, encode

Store = Callable[[Bytes, str], "Future[bytes]"]
_ROW_BYTES = 512


@dataclass(frozen=True, slots=True)
class Place:
    """How blobs of the repository are stored and read, and whether one is there."""

    store: Store
    has: Callable[[str], bool]
    read_blob: Callable[[bytes], Bytes]


class TenantRows:
    """Takes the rows of one tenant and gives his part. For one thread."""

    def __init__(
        self, tenant: str, key: TenantKey, collection: Collection, fingerprinter: Fingerprinter, place: Place, before: PartRecord
    ) -> None:
        """`before` is the part of the snapshot before, of the same columns and under the same key; empty if there is none."""
        self._tenant = tenant
        self._key = key
        self._place = place
        self._root = RowsRoot(fingerprinter)
        lasting = _lasting(before, place.has)
        self._segments = [one for one in before.segments if one.start in lasting]
        self._blocks = before.vectors or {}
        self._collection = collection
        self._fields = [one.name for one in collection.fields]
        self._living, self._lookup = Marks(), self._known()
        self._writer = SegmentWriter(collection, self._sealed, before.end(), with_vectors=True)
        self.gathered = 0
        """Bytes of rows, about, that wait for being stored."""

    def add(self, batch: pa.RecordBatch, prints: Prints) -> None:
        """Rows of the tenant, and their fingerprints."""
        self._root.add_prints(prints.rows)
        numbers = self._find(short(prints.rows))
        self._living.mark(numbers[numbers != NONE])
        values = {name: those for name, those in vector_columns(batch, self._collection.fields).items() if name in prints.vectors}
        vectors = {name: short(prints.vectors[name]) for name in values}
        seen = Seen(0, short(prints.rows), vectors, np.zeros(batch.num_rows, np.bool_))
        new = int((numbers == NONE).sum())
        if new:
            none = {name: np.full(batch.num_rows, NONE, np.uint32) for name in vectors}
            self._writer.gather(batch, seen, Found(numbers, none), values)
            self.gathered += batch.nbytes * new // batch.num_rows

    def flush(self) -> None:
        """Store what waits."""
        self._writer.flush()
        self.gathered = 0

    def finish(self) -> Callable[[], TenantPart]:
        """All rows were there. The result gives the part once the record is stored."""
        self.flush()
        kept = [one for one in map(self._with_dead, self._segments) if one is not None]
        starts = {one.start for one in kept}
        fresh = self._writer.segments()
        vectors = {name: tuple(one for one in blocks if one.start in starts) for name, blocks in self._blocks.items()}
        for name in self._fields:
            vectors[name] = (*vectors.get(name, ()), *self._writer.blocks(name))
        record = PartRecord((*kept, *fresh), vectors, self._root.encode())
        stored, blobs, rows = self._place.store(self._key.seal(encode(record), "bytes"), "uint8"), record.blobs(), record.rows
        return lambda: TenantPart(self._tenant, rows, self._key.id, stored.result().hex(), blobs)

    def _sealed(self, content: Bytes, kind: str) -> Future[bytes]:
        return self._place.store(self._key.seal(content, kind), "uint8")

    def _known(self) -> Lookup:
        def read(blob: bytes) -> Bytes:
            return self._key.open(self._place.read_blob(blob))

        prints, numbers = [np.zeros((0, 3), np.uint32)], [np.zeros(0, np.uint32)]
        for one in self._segments:
            there, dead = read_prints(one.prints, one.rows, read), one.dead_slots()
            live = np.ones(one.rows, np.bool_) if dead is None else ~dead
            prints.append(there[live])
            numbers.append((one.start + np.flatnonzero(live)).astype(np.uint32))
        return Lookup(np.concatenate(prints), np.concatenate(numbers))

    def _find(self, prints: np.ndarray) -> Numbers:
        """The numbers of rows that are stored; NONE for new ones, and for all but one of rows that are alike."""
        numbers = self._lookup.find(prints)
        numbers[self._living.of(numbers) & (numbers != NONE)] = NONE
        there = np.flatnonzero(numbers != NONE)
        _, firsts = np.unique(numbers[there], return_index=True)
        again = np.ones(len(there), np.bool_)
        again[firsts] = False
        numbers[there[again]] = NONE
        return numbers

    def _with_dead(self, segment: Segment) -> Segment | None:
        living = self._living.part(segment.start, segment.rows)
        return replace(segment, dead=pack_dead(~living)) if living.any() else None


def _lasting(before: PartRecord, has: Callable[[str], bool]) -> frozenset[int]:
    """The segments that are neither lost nor given up to keep them few."""
    given_up = retired([Piece(one.start, one.rows, one.rows - one.dead_count(), _ROW_BYTES) for one in before.segments])
    blocks: Mapping[str, tuple[Block, ...]] = before.vectors or {}
    lost = {one.start for those in blocks.values() for one in those if not all(map(has, one.blobs()))}
    whole = {one.start for one in before.segments if one.prints and all(map(has, one.blobs()))}
    return frozenset(whole - given_up - lost)
