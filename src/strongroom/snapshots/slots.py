"""Which row lies in which slot of the engine's storage order, and which vectors has it?"""

from __future__ import annotations

import functools
import threading
from pathlib import Path

import numpy as np

from strongroom.codecs import CodecError, runs
from strongroom.codecs.runs import NONE, Numbers
from strongroom.errors import Damaged
from strongroom.snapshots.manifest import Segment, StoredCollection, Vectors
from strongroom.snapshots.vectors import ReadBlob, VectorReader


class Slots:
    """The order and the vectors of one stored collection. Any thread."""

    def __init__(self, collection: StoredCollection, read_blob: ReadBlob, spill: Path | None = None) -> None:
        """`spill` is a directory for decoded vectors for which there is no room in memory; the system's own unless given."""
        self.collection = collection
        self._read_blob = read_blob
        self._spill = spill
        self._segments = sorted(collection.segments, key=lambda segment: segment.start)
        self._starts = np.array([segment.start for segment in self._segments], np.int64)
        self._ends = np.array([segment.start + segment.rows for segment in self._segments], np.int64)
        self._lock = threading.Lock()
        self._order: Numbers | None = None
        self._readers: dict[str, VectorReader] = {}
        self._own = functools.lru_cache(maxsize=64)(self._expanded)

    def numbers(self, first: int, count: int) -> Numbers:
        """The numbers of the rows in the slots from `first` on. Raises Damaged if there are not so many."""
        if first < 0 or first + count > self.collection.slots:
            raise Damaged(f"collection {self.collection.name}", f"it has no slots {first} to {first + count}")
        if not self.collection.order:
            return np.arange(first, first + count, dtype=np.uint32)
        with self._lock:
            if self._order is None:
                self._order = self._read_order()
        return self._order[first : first + count]

    def places(self, field: str, numbers: Numbers) -> Numbers:
        """The numbers of the vectors that these rows have; NONE for a row that isn't stored."""
        places = numbers.copy()
        if not len(numbers):
            return places
        segment_of = np.searchsorted(self._starts, numbers, side="right") - 1
        known = (segment_of >= 0) & (numbers < self._ends[segment_of]) if len(self._starts) else np.zeros(len(numbers), bool)
        places[~known] = NONE
        for at in np.flatnonzero(np.bincount(segment_of[known])):
            segment = self._segments[at]
            if field in segment.vectors:
                here = known & (segment_of == at)
                own = self._own(segment.vectors[field], segment.rows)
                places[here] = own[numbers[here].astype(np.int64) - segment.start]
        return places

    def of_segment(self, segment: Segment, field: str) -> Numbers:
        """The numbers of the vectors of a segment's rows."""
        if field in segment.vectors:
            return self._own(segment.vectors[field], segment.rows)
        return np.arange(segment.start, segment.start + segment.rows, dtype=np.uint32)

    def reader(self, field: str) -> VectorReader:
        """Reads the field's vectors by their numbers. Raises Damaged if the field has none."""
        with self._lock:
            if field not in self._readers:
                blocks = self.collection.vectors.get(field)
                if blocks is None:
                    raise Damaged(f"collection {self.collection.name}", f"no vectors of {field!r} are stored")
                self._readers[field] = VectorReader(f"of {field}", blocks, self._read_blob, spill=self._spill)
            return self._readers[field]

    def resolve(self, vectors: Vectors) -> Numbers:
        """The numbers of the vectors that an artifact refers to."""
        if vectors.places:
            found = runs.expand(self._runs(vectors.places), vectors.count)
        elif vectors.by == "numbers":
            found = np.arange(vectors.first, vectors.first + vectors.count, dtype=np.uint32)
        else:
            found = self.places(vectors.field, self.numbers(vectors.first, vectors.count))
        return found

    def _read_order(self) -> Numbers:
        order = np.arange(self.collection.slots, dtype=np.uint32)
        for blob in self.collection.order:
            runs.apply(self._runs(blob), order)
        return order

    def _expanded(self, blob: str, count: int) -> Numbers:
        return runs.expand(self._runs(blob), count)

    def _runs(self, blob: str) -> runs.Runs:
        try:
            return runs.decode(self._read_blob(bytes.fromhex(blob)))
        except CodecError as error:
            raise Damaged(f"blob {blob[:16]}", f"it holds no runs ({error})") from error
