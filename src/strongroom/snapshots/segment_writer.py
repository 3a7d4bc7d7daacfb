"""How do new rows become segments, and new vectors blocks? Blocks of rows as they come, single rows once they fill one.

A segment and the block of its new vectors begin with the same number: as long as all of its vectors are new, nothing has to say
which belongs to which row.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from strongroom.codecs import runs
from strongroom.codecs.runs import NONE, Numbers
from strongroom.model import Bytes, Collection, Role
from strongroom.snapshots.fingerprints import Octets, Short, role_of
from strongroom.snapshots.manifest import Block, Segment
from strongroom.snapshots.matching import Flags, Found, Seen
from strongroom.snapshots.segments import Submit, encode_rest

_SEGMENT_BYTES = 4 << 20  # half a block of the source's: they wait here, and again as what their codec makes of them
_SEGMENT_ROWS = 1 << 16


@dataclass
class _Gathered:
    """Rows for the next segment, from number `start` on, with their fingerprints and the numbers of their vectors. New vectors lie
    one after another in `room`, (vectors, bytes of one), of which `filled` are there: they are stored from where they lie."""

    start: int
    widths: Mapping[str, int]
    batches: list[pa.RecordBatch] = field(default_factory=list)
    rows: list[Short] = field(default_factory=list)
    places: dict[str, list[Numbers]] = field(default_factory=dict)
    prints: dict[str, list[Short]] = field(default_factory=dict)
    room: dict[str, Octets] = field(default_factory=dict)
    filled: dict[str, int] = field(default_factory=dict)
    count: int = 0
    bytes: int = 0

    def has_room(self, count: int, size: int, widths: Mapping[str, int]) -> bool:
        fits = self.count + count <= _SEGMENT_ROWS and self.bytes + size <= _SEGMENT_BYTES
        return fits and widths == self.widths

    def keep(self, name: str, vectors: Octets, prints: Short) -> None:
        """New vectors of a field, and their fingerprints."""
        filled, room = self.filled.get(name, 0), self.room.get(name, vectors[:0])
        if filled + len(vectors) > len(room):
            most = _SEGMENT_BYTES // max(1, sum(self.widths.values()))
            larger = _room(max(filled + len(vectors), min(2 * len(room), most)), vectors.shape[1])
            larger[:filled] = room[:filled]
            room = self.room[name] = larger
        room[filled : filled + len(vectors)] = vectors
        self.filled[name] = filled + len(vectors)
        self.prints.setdefault(name, []).append(prints)


class SegmentWriter:
    """Gives numbers to new rows and vectors of one collection, and hands them to `submit`. For one thread."""

    def __init__(self, collection: Collection, submit: Submit, following: int, *, with_vectors: bool) -> None:
        """`following` is the first number that is free. `with_vectors` False keeps of each row its id only."""
        self._collection = collection
        self._submit = submit
        self._next = following
        self._with_vectors = with_vectors
        self._segments: list[Callable[[], Segment]] = []
        self._blocks: dict[str, list[Callable[[], Block]]] = {one.name: [] for one in collection.fields}
        self._gathered: _Gathered | None = None

    def store_whole(
        self, batch: pa.RecordBatch, seen: Seen, found: Found, values: Mapping[str, memoryview]
    ) -> dict[str, Callable[[], bytes]]:
        """Store a block of rows that are all new; `found` gets their numbers. Gives the ids of columns stored as they are."""
        self.flush()
        start = self._take(batch.num_rows)
        found.numbers[:] = np.arange(start, self._next, dtype=np.uint32)
        whole: dict[str, Callable[[], bytes]] = {}
        for name, content in values.items():
            fresh = found.places[name] == NONE
            if fresh.all():
                whole[name] = self._store_block(name, start, content, seen.vectors[name]).result
            elif fresh.any():
                self._store_block(name, start, _chosen(content, fresh), seen.vectors[name][fresh])
            found.places[name][fresh] = np.arange(start, start + int(fresh.sum()), dtype=np.uint32)
        others = batch.drop_columns(list(values)) if values else batch
        self._store_segment(start, others, seen.rows, {name: found.places[name] for name in values})
        return whole

    def gather(self, batch: pa.RecordBatch, seen: Seen, found: Found, values: Mapping[str, memoryview]) -> None:
        """Keep the rows of a block that are new for a segment to come; `found` gets their numbers and those of new vectors.
        `values` are the vectors of the whole block, of each field whose vectors have numbers."""
        new = found.numbers == NONE
        some = batch.drop_columns(list(values)).filter(pa.array(new)) if values else batch.filter(pa.array(new))
        count = int(new.sum())
        vectors = {name: np.frombuffer(content, np.uint8).reshape(len(seen), -1) for name, content in values.items()}
        widths = {name: those.shape[1] for name, those in vectors.items()}
        size = some.nbytes + count * sum(widths.values())
        waiting = self._gathered
        if waiting is None or not waiting.has_room(count, size, widths):
            self.flush()
            waiting = self._gathered = _Gathered(self._next, widths)
        found.numbers[new] = waiting.start + waiting.count + np.arange(count, dtype=np.uint32)
        waiting.batches.append(some)
        waiting.rows.append(seen.rows[new])
        for name, those in vectors.items():
            fresh = new & (found.places[name] == NONE)
            first = waiting.start + waiting.filled.get(name, 0)
            found.places[name][fresh] = first + np.arange(int(fresh.sum()), dtype=np.uint32)
            waiting.places.setdefault(name, []).append(found.places[name][new])
            if fresh.any():
                waiting.keep(name, those[fresh], seen.vectors[name][fresh])
        waiting.count += count
        waiting.bytes += size
        self._next = waiting.start + waiting.count

    def flush(self) -> None:
        """Store what was gathered."""
        waiting, self._gathered = self._gathered, None
        if waiting is None:
            return
        for name, room in waiting.room.items():
            vectors, prints = room[: waiting.filled[name]].data.cast("B"), np.concatenate(waiting.prints[name])
            self._store_block(name, waiting.start, vectors, prints)
        waiting.room.clear()
        batch = pa.Table.from_batches(waiting.batches).combine_chunks().to_batches()[0]
        places = {name: np.concatenate(those) for name, those in waiting.places.items()}
        self._store_segment(waiting.start, batch, np.concatenate(waiting.rows), places)

    def store_vectors(self, name: str, content: Bytes, prints: Short) -> Numbers:
        """Store vectors that belong to no row, and give their numbers."""
        self.flush()
        start = self._take(len(prints))
        self._store_block(name, start, content, prints)
        return np.arange(start, self._next, dtype=np.uint32)

    def adopt(self, name: str, block: Block) -> int:
        """Take a block of another collection in; gives the number of its first vector here."""
        self.flush()
        start = self._take(block.count)
        self._blocks[name].append(lambda: replace(block, start=start))
        return start

    def segments(self) -> list[Segment]:
        """All new segments, once their blobs are stored."""
        return [one() for one in self._segments]

    def blocks(self, name: str) -> list[Block]:
        """All new blocks of a field's vectors, once they are stored."""
        return [one() for one in self._blocks[name]]

    def _take(self, count: int) -> int:
        start = self._next
        self._next += count
        return start

    def _store_block(self, name: str, start: int, content: Bytes, prints: Short) -> Future[bytes]:
        dtype = next(one.dtype for one in self._collection.fields if one.name == name)
        blob, kept = self._submit(content, dtype), self._submit(prints.tobytes(), "bytes")
        count = len(prints)  # the fingerprints themselves must not wait for the end
        self._blocks[name].append(lambda: Block(start, count, blob.result().hex(), kept.result().hex()))
        return blob

    def _store_segment(self, start: int, batch: pa.RecordBatch, rows: Short, places: Mapping[str, Numbers]) -> None:
        """`batch` are the rows without the vectors that are stored by number, whose numbers are `places`."""
        if not self._with_vectors:
            batch = batch.select([one.name for one in batch.schema if role_of(one) == Role.ID])
        rest, prints = self._submit(encode_rest(batch), "text"), self._submit(rows.tobytes(), "bytes")
        own = np.arange(start, start + len(rows), dtype=np.uint32)
        mapped = {
            name: self._submit(runs.encode(runs.runs_of(np.arange(len(of)), of)), "int32")
            for name, of in places.items()
            if not np.array_equal(of, own)
        }
        count = len(rows)
        self._segments.append(
            lambda: Segment(
                start,
                count,
                rest.result().hex(),
                prints.result().hex(),
                {name: blob.result().hex() for name, blob in mapped.items()},
            )
        )


def _room(count: int, width: int) -> Octets:
    """For so many vectors. It goes back to the system when it is let go of, and leaves no hole among blocks of rows."""
    private = mmap.mmap(-1, max(1, count * width), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(private, np.uint8, count * width).reshape(count, width)


def _chosen(content: Bytes, flags: Flags) -> memoryview:
    """The vectors at these places, one after another; not copied if all are meant."""
    if flags.all():
        return memoryview(content).cast("B")
    records = np.frombuffer(content, np.uint8).reshape(len(flags), -1)
    return np.ascontiguousarray(records[flags]).data.cast("B")
