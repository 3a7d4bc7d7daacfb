"""What hnswlib's index file is at one moment: rows, regions, answers, and the file that says which space it is for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from strongroom.codecs.strided import split_proven
from strongroom.engines.hnswlib import space
from strongroom.engines.hnswlib.layout import Layout, NotAnIndex, check_upper, elements, order_of, parse
from strongroom.engines.hnswlib.library import Opening
from strongroom.engines.hnswlib.space import NOTHING_SAID
from strongroom.engines.indexfile.content import Block, Matrix, vector_array
from strongroom.engines.indexfile.describe import ids_note
from strongroom.engines.indexfile.frozen import IndexFrozen
from strongroom.engines.indexfile.held import Held, OpenFile
from strongroom.engines.indexfile.join import Join
from strongroom.engines.indexfile.order import Ids, Order
from strongroom.engines.indexfile.place import beside
from strongroom.engines.indexfile.source import IndexSource
from strongroom.engines.isolation import Descriptor, call
from strongroom.engines.protocol import Artifact
from strongroom.errors import Unreadable
from strongroom.model import Bytes, Cut, Json, LedgerItem, Records, Region, Status

_ROWS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class HnswlibContent:
    """An open index file. `said.space` is empty if nobody said which it is."""

    file: OpenFile
    layout: Layout
    order: Order
    said: space.Said
    dtype: str = "float32"
    decoded: bool = False
    opaque: bool = False

    @property
    def dimension(self) -> int:
        return self.layout.dimension

    @property
    def metric(self) -> str:
        return self.said.space or space.DEFAULT_SPACE

    @property
    def parameters(self) -> Mapping[str, Json]:
        known = self.layout
        return {"kind": "HNSW", "M": known.links, "ef_construction": known.ef_construction, "ef": self.said.ef}

    @property
    def matrix(self) -> Matrix:
        record = self.layout.vector_bytes
        return Matrix(self._bytes_of_vectors, self.layout.count * record, record)

    def blocks(self) -> Iterator[Block]:
        known = self.layout
        for block, (start, rows) in enumerate(known.pieces()):
            pieces = (some.data.cast("B") for _, some in elements(known, self.file.read, start, rows))
            vectors, rest = split_proven(pieces, rows, known.stride, known.vector_offset, known.vector_bytes)
            records = Records(self.file.path.name, known.elements(block, start, rows), rest.reshape(-1).data)
            yield Block(vector_array(vectors.reshape(-1).data, "float32", self.dimension), records)

    def fetch(self, rows: Ids) -> npt.NDArray[np.float32]:
        if len(rows) and int(rows[-1]) - int(rows[0]) == len(rows) - 1 and bool((np.diff(rows) == 1).all()):
            content: Bytes = self._vectors(int(rows[0]), len(rows))
        else:
            known = self.layout
            content = b"".join(self.file.read(known.place(int(row)) + known.vector_offset, known.vector_bytes) for row in rows)
        return np.frombuffer(content, "<f4").reshape(-1, self.dimension)

    def regions(self) -> Iterable[Region]:
        return self.layout.regions()

    def search(self, queries: npt.NDArray[np.float32], k: int) -> tuple[Ids, Ids, npt.NDArray[np.float32]]:
        opening = Opening(self.metric, self.dimension, self.order.count, self.order.live, self.said.ef)
        arguments = (Descriptor(self.file.descriptor), opening, np.ascontiguousarray(queries, np.float32), k)
        labels, distances = call("strongroom.engines.hnswlib.library:search", *arguments)
        return labels, labels, distances

    def ledger(self, plan: Join) -> Sequence[LedgerItem]:
        items = [
            LedgerItem("rows", Status.CAPTURED, f"{self.order.live:,} vectors"),
            LedgerItem("vectors", Status.CAPTURED),
            LedgerItem("index", Status.CAPTURED, f"HNSW, M={self.layout.links}"),
            LedgerItem("ids", Status.CAPTURED, ids_note(self.order, plan)),
            self._space_item(),
        ]
        if self.metric == "cosine":
            note = "with cosine, hnswlib keeps vectors of unit length"
            items.append(LedgerItem("original lengths of vectors", Status.NOT_OFFERED, note))
        if self.order.dead is not None:
            note = f"{self.order.count - self.order.live:,}, in the index file: no rows, but their vectors are still there"
            items.append(LedgerItem("deleted elements", Status.CAPTURED, note))
        note = f"the file doesn't keep ef; answers were asked for with ef={self.said.ef}"
        items.append(LedgerItem("search parameters of the application", Status.NOT_OFFERED, note))
        return items

    def _space_item(self) -> LedgerItem:
        if self.said.space:
            note = f"{self.said.space}, in {space.beside(self.file.path).name}, since the index file doesn't keep it"
            return LedgerItem("space", Status.CAPTURED, note)
        note = f"hnswlib doesn't keep it and nobody said: taken for {self.metric}; if it isn't, say ?space=ip or ?space=cosine"
        return LedgerItem("space", Status.NOT_OFFERED, note)

    def _vectors(self, start: int, rows: int) -> Bytes:
        """The bytes of vectors, one after another."""
        known = self.layout
        vectors = np.empty((rows, known.vector_bytes), np.uint8)
        for first, some in elements(known, self.file.read, start, rows):
            vectors[first - start : first - start + len(some)] = some[:, known.vector_offset : known.label_offset]
        return vectors.reshape(-1).data

    def _bytes_of_vectors(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset` of what the vectors would be without the links between them."""
        record = self.layout.vector_bytes
        first, last = offset // record, -(-(offset + length) // record)
        parts = (self._vectors(start, min(_ROWS_AT_ONCE, last - start)) for start in range(first, last, _ROWS_AT_ONCE))
        return b"".join(parts)[offset - first * record :][:length]


@dataclass(frozen=True, slots=True)
class SpaceArtifact:
    """The file that says which space the index is for, where only the URL said so: nobody can open the index without."""

    path: str
    collection: str
    content: bytes
    immutable: bool = False
    cut: Cut = Cut.FORMAT

    @property
    def size(self) -> int:
        return len(self.content)

    def regions(self) -> Iterable[Region]:
        return (Region(0, self.size),)

    def read(self, offset: int, length: int) -> bytes:
        return self.content[offset : offset + length]


class HnswlibFrozen(IndexFrozen):
    """One moment of an index and what lies beside it."""

    def __init__(self, held: Held, name: str, engine_version: str, asked: space.Said) -> None:
        """Reads level 0, for its labels, and the sidecar. Raises Unreadable, WrongRequest, or SourceChanged if index and sidecar
        don't fit together."""
        layout, order = _understood(held.index)
        said_by = next((file for file in held.beside if file.path == space.beside(held.index.path)), None)
        said = space.agreed(asked, said_by, layout.dimension)
        self._added = None if said_by is not None or not said.space else space.written(said)
        super().__init__(held, name, "hnswlib", engine_version, HnswlibContent(held.index, layout, order, said))

    def artifacts(self) -> Sequence[Artifact]:
        found = super().artifacts()
        if self._added is None:
            return found
        place = space.beside(self._held.index.path).name
        return [*found, SpaceArtifact(place, self.description.collections[0].name, self._added)]


def hnswlib_source(path: Path, engine_version: str, asked: space.Said = NOTHING_SAID, name: str | None = None) -> IndexSource:
    """An index file, the file that says for which space it is, and the sidecar of its stem if there is one. `name` is the
    collection's, if not the file's stem."""
    files = (*beside(path), space.beside(path))
    return IndexSource(path, files, lambda held: HnswlibFrozen(held, name or path.stem, engine_version, asked))


def _understood(file: OpenFile) -> tuple[Layout, Order]:
    try:
        layout = parse(file.read, file.size)
        check_upper(layout, file.read)
        return layout, order_of(layout, file.read)
    except NotAnIndex as error:
        raise Unreadable(
            f"{file.path} {error}", hint="name a file that hnswlib's save_index wrote; if it was one, restore an earlier snapshot"
        ) from error
