"""How are blobs made again that no backup would cut the same way? Their rows and vectors are found in the source, by fingerprint.

What an incremental backup stored was cut by what had changed then. Rows that are as they were still lie somewhere in the source,
and each vector in its rows or files. All of a blob must be there: it is proven by its id, or it is not repaired.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np
import pyarrow as pa

from strongroom import engines
from strongroom.codecs import strided
from strongroom.codecs.runs import NONE
from strongroom.engines.protocol import Frozen
from strongroom.model import Bytes, Role
from strongroom.operations.repair.fingerprinted import Lost, LostRows, LostVectors, in_passes, lost_among
from strongroom.progress import Progress
from strongroom.repository import BlobWriter, Repository
from strongroom.repository.blob_index import BlobIndex
from strongroom.snapshots.fingerprints import Fingerprinter, Short, role_of, short
from strongroom.snapshots.history import Snapshot
from strongroom.snapshots.known import Lookup
from strongroom.snapshots.segments import bare_values, encode_rest

BUDGET_BYTES = 256 << 20
"""How much of rows and vectors is gathered at a time; the source is read once for each."""

Made = tuple[bytes, Bytes, str]
"""The id that a blob should have, its bytes, and what they are (`codecs.encode`)."""


def remake(
    repository: Repository,
    source: str,
    snapshots: Sequence[Snapshot],
    wanted: Collection[bytes],
    read_blob: Callable[[bytes], Bytes],
    progress: Progress,
    budget: int = BUDGET_BYTES,
) -> set[bytes]:
    """Store those of the wanted blobs durably whose rows or vectors are all in the source, listed in the blob index. Gives their
    ids. Raises what `Source.freeze` raises, SourceChanged. `snapshots` are all, oldest first; `read_blob` reads fingerprints."""
    found = set[bytes]()
    fingerprinter = Fingerprinter(repository.keys.fingerprint)
    for some in in_passes(lost_among(snapshots, wanted, read_blob), budget):
        with (
            BlobWriter(repository.store, repository.keys, BlobIndex()) as writer,
            engines.source_of(source).freeze(progress) as frozen,
        ):
            made = set[bytes]()
            for blob, content, kind in _read(frozen, some, fingerprinter, progress):
                if blob not in made and repository.keys.identify(content) == blob:
                    writer.submit(content, kind)
                    made.add(blob)
            repository.add_index(writer.close())
        found |= made
    return found


def _read(frozen: Frozen, lost: Sequence[Lost], fingerprinter: Fingerprinter, progress: Progress) -> Iterator[Made]:
    vectors = _Vectors([one for one in lost if isinstance(one, LostVectors)])
    rows = [one for one in lost if isinstance(one, LostRows)]
    for collection in frozen.description.collections:
        progress.begin(f"rows of {collection.name}", collection.count, "rows")
        search = _Rows(rows)
        for block in frozen.rows(collection.name):
            prints = fingerprinter.prints(block.batch)
            search.add(block.batch, short(prints.rows))
            for name, those in prints.vectors.items():
                vectors.add(short(those), bare_values(block.batch.column(name)))
            progress.advance(block.batch.num_rows)
        yield from search.made()
    if not vectors.complete:
        _read_files(frozen, vectors, fingerprinter, progress)
    yield from vectors.made()


def _read_files(frozen: Frozen, vectors: _Vectors, fingerprinter: Fingerprinter, progress: Progress) -> None:
    """Vectors that no row has any more may still lie in the engine's files."""
    artifacts = frozen.artifacts()
    progress.begin("index and engine files", sum(artifact.size for artifact in artifacts), "bytes")
    for artifact in artifacts:
        for region in artifact.regions():
            progress.advance(region.length)
            if not region.stride or region.vector_length not in vectors.widths or region.length % region.stride:
                continue
            content = artifact.read(region.offset, region.length)
            found, _ = strided.split(content, region.stride, region.vector_offset, region.vector_length)
            vectors.add(short(fingerprinter.vectors(found, region.vector_length)), found)
            if vectors.complete:
                return


class _Sought:
    """The places of some fingerprints, each different one once: `places` of each blob's, and which were found."""

    def __init__(self, prints: Sequence[Short]) -> None:
        joined = np.concatenate([np.zeros((0, 3), np.uint32), *prints])
        different, inverse = np.unique(joined, axis=0, return_inverse=True)
        self._lookup = Lookup(different, np.arange(len(different), dtype=np.uint32))
        self.found = np.zeros(len(different), np.bool_)
        ends = np.cumsum([len(one) for one in prints])
        self.places = np.split(inverse.reshape(-1), ends[:-1]) if len(ends) else []

    def new(self, prints: Short) -> tuple[np.ndarray, np.ndarray]:
        """Which of these are sought and were not found before, and the place of each."""
        place = self._lookup.find(prints)
        there = np.flatnonzero(place != NONE)
        there = there[~self.found[place[there]]]
        self.found[place[there]] = True
        return there, place[there]


class _Vectors:
    """Gathers the vectors of lost blobs, whatever holds them. Memory: that of the blobs."""

    def __init__(self, lost: Sequence[LostVectors]) -> None:
        by_width = defaultdict[int, list[LostVectors]](list)
        for one in lost:
            by_width[one.width].append(one)
        self._lost = dict(by_width)
        self._sought = {width: _Sought([one.prints for one in those]) for width, those in by_width.items()}
        self._content = {width: np.zeros((len(one.found), width), np.uint8) for width, one in self._sought.items()}

    @property
    def widths(self) -> Collection[int]:
        return self._lost.keys()

    @property
    def complete(self) -> bool:
        return all(one.found.all() for one in self._sought.values())

    def add(self, prints: Short, content: Bytes) -> None:
        """Vectors that lie one after another, with their fingerprints."""
        width = len(content) // len(prints) if len(prints) else 0
        if width in self._sought:
            here, places = self._sought[width].new(prints)
            self._content[width][places] = np.frombuffer(content, np.uint8).reshape(-1, width)[here]

    def made(self) -> Iterator[Made]:
        for width, those in self._lost.items():
            sought = self._sought[width]
            for one, places in zip(those, sought.places, strict=True):
                if sought.found[places].all():
                    yield one.blob, self._content[width][places].data.cast("B"), one.dtype


class _Rows:
    """Gathers the rows of lost segments from one collection, without the vectors that lie apart."""

    def __init__(self, lost: Sequence[LostRows]) -> None:
        self._lost = lost
        self._sought = _Sought([one.prints for one in lost])
        self._apart = frozenset[str].intersection(*(one.apart for one in lost)) if lost else frozenset()
        self._where = np.zeros(len(self._sought.found), np.int64)
        self._pieces: list[pa.RecordBatch] = []
        self._count = 0

    def add(self, batch: pa.RecordBatch, prints: Short) -> None:
        """A block of rows, with their fingerprints."""
        here, places = self._sought.new(prints)
        if len(here):
            self._where[places] = self._count + np.arange(len(here))
            self._pieces.append(_without(batch, self._apart).take(pa.array(here)))
            self._count += len(here)

    def made(self) -> Iterator[Made]:
        if not self._pieces:
            return
        rows = pa.Table.from_batches(self._pieces)
        for one, places in zip(self._lost, self._sought.places, strict=True):
            if self._sought.found[places].all():
                batch = rows.take(pa.array(self._where[places])).combine_chunks().to_batches()[0]
                kept = _ids_of(batch) if one.ids_only else _without(batch, one.apart)
                yield one.blob, encode_rest(kept), "text"


def _without(batch: pa.RecordBatch, columns: frozenset[str]) -> pa.RecordBatch:
    return batch.select([name for name in batch.schema.names if name not in columns])


def _ids_of(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.select([one.name for one in batch.schema if role_of(one) == Role.ID])
