"""Which lost blobs can be made again of single rows or vectors, wherever these lie now? Those whose fingerprints are known."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain

import numpy as np

from strongroom.errors import Damaged
from strongroom.model import Bytes
from strongroom.model import Field as VectorField
from strongroom.snapshots.fingerprints import Short
from strongroom.snapshots.history import Snapshot
from strongroom.snapshots.known import read_prints
from strongroom.snapshots.manifest import Segment, StoredCollection

_ROW_BYTES = 512
"""What the columns of a row that aren't vectors take, more or less."""


@dataclass(frozen=True, slots=True)
class LostVectors:
    """A blob of vectors of `width` bytes each, by their fingerprints."""

    blob: bytes
    prints: Short
    dtype: str
    width: int

    @property
    def nbytes(self) -> int:
        return len(self.prints) * self.width


@dataclass(frozen=True, slots=True)
class LostRows:
    """A segment's blob of all columns but `apart`, or of the rows' ids alone, by the rows' fingerprints."""

    blob: bytes
    prints: Short
    apart: frozenset[str]
    ids_only: bool

    @property
    def nbytes(self) -> int:
        return len(self.prints) * _ROW_BYTES


Lost = LostVectors | LostRows


def lost_among(snapshots: Iterable[Snapshot], wanted: Collection[bytes], read_blob: Callable[[bytes], Bytes]) -> list[Lost]:
    """Those of the wanted blobs that hold rows or vectors and whose fingerprints can be read; `snapshots` oldest first."""
    found: dict[tuple[str, str], Lost] = {}
    for snapshot in snapshots:
        ids_only = snapshot.manifest.rows_plane == "artifacts"
        for collection in snapshot.manifest.collections:
            for blob, prints, make in chain(_vectors(collection), _rows(collection, ids_only=ids_only)):
                if bytes.fromhex(blob) in wanted and prints and (blob, prints) not in found:
                    with suppress(Damaged):
                        found[blob, prints] = make(read_blob)
    return list(found.values())


Make = Callable[[Callable[[bytes], Bytes]], Lost]


def _vectors(collection: StoredCollection) -> Iterator[tuple[str, str, Make]]:
    for field in collection.catalog.fields:
        for block in collection.vectors.get(field.name, ()):

            def make(
                read_blob: Callable[[bytes], Bytes],
                blob: str = block.blob,
                prints: str = block.prints,
                count: int = block.count,
                field: VectorField = field,
            ) -> Lost:
                return LostVectors(bytes.fromhex(blob), read_prints(prints, count, read_blob), field.dtype, _width(field))

            yield block.blob, block.prints, make


def _rows(collection: StoredCollection, *, ids_only: bool) -> Iterator[tuple[str, str, Make]]:
    for segment in collection.segments:

        def make(read_blob: Callable[[bytes], Bytes], segment: Segment = segment) -> Lost:
            prints = read_prints(segment.prints, segment.rows, read_blob)
            return LostRows(bytes.fromhex(segment.rest), prints, _apart(collection, segment), ids_only)

        yield segment.rest, segment.prints, make


def _apart(collection: StoredCollection, segment: Segment) -> frozenset[str]:
    """The columns whose vectors lie in blocks. As the oldest snapshot of a segment says it: a block may go before the segment."""
    own = {name for name, blocks in collection.vectors.items() if any(one.start == segment.start for one in blocks)}
    return frozenset(own | segment.vectors.keys())


def _width(field: VectorField) -> int:
    return field.dimension * (2 if field.dtype == "bfloat16" else np.dtype(field.dtype).itemsize)


def in_passes(lost: Sequence[Lost], budget: int) -> Iterator[list[Lost]]:
    """So many at a time as fit into `budget` bytes, at least one."""
    some: list[Lost] = []
    for one in lost:
        if some and sum(other.nbytes for other in some) + one.nbytes > budget:
            yield some
            some = []
        some.append(one)
    if some:
        yield some
