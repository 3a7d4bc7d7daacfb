"""What USearch's index file is at one moment: rows, regions and answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from strongroom.engines.indexfile.content import Block, Matrix, vector_array
from strongroom.engines.indexfile.describe import ids_note
from strongroom.engines.indexfile.frozen import IndexFrozen
from strongroom.engines.indexfile.held import Held, OpenFile
from strongroom.engines.indexfile.join import Join
from strongroom.engines.indexfile.order import Ids, Order, unique
from strongroom.engines.indexfile.place import beside
from strongroom.engines.indexfile.source import IndexSource
from strongroom.engines.isolation import Descriptor, call
from strongroom.engines.usearch.layout import Layout, NotAnIndex, order_of, parse
from strongroom.errors import Unreadable
from strongroom.model import Json, LedgerItem, Region, Status

EXPANSION = 64
"""How many candidates a search keeps, USearch's own default: the file doesn't say. Part of what sealed answers mean, so that it
must not change."""

Numbers = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class UsearchContent:
    """An open index file."""

    file: OpenFile
    layout: Layout
    order: Order
    repeated: bool = False  # a key is that of several rows
    decoded: bool = False
    opaque: bool = False

    @property
    def dimension(self) -> int:
        return self.layout.dimension

    @property
    def dtype(self) -> str:
        return self.layout.dtype

    @property
    def metric(self) -> str:
        return self.layout.metric

    @property
    def parameters(self) -> Mapping[str, Json]:
        known = self.layout
        return {"kind": "HNSW", "connectivity": known.connectivity, "expansion_search": EXPANSION, "multi": known.multi}

    @property
    def matrix(self) -> Matrix:
        known = self.layout
        length = known.count * known.record
        return Matrix(lambda offset, size: self.file.read(known.vectors + offset, size), length, known.record, known.dtype)

    def blocks(self) -> Iterator[Block]:
        known = self.layout
        for start, rows in known.pieces():
            content = self.file.read(known.vectors + start * known.record, rows * known.record)
            yield Block(vector_array(content, known.dtype, known.dimension))

    def fetch(self, rows: Ids) -> Numbers | None:
        known = self.layout
        if known.dtype != "float32":
            return None
        if len(rows) and int(rows[-1]) - int(rows[0]) == len(rows) - 1 and bool((np.diff(rows) == 1).all()):
            content = self.file.read(known.vectors + int(rows[0]) * known.record, len(rows) * known.record)
        else:
            content = b"".join(self.file.read(known.vectors + int(row) * known.record, known.record) for row in rows)
        return np.frombuffer(content, "<f4").reshape(-1, known.dimension)

    def regions(self) -> Iterable[Region]:
        return self.layout.regions()

    def search(self, queries: Numbers, k: int) -> tuple[Ids, Ids, Numbers]:
        arguments = (Descriptor(self.file.descriptor), self.dtype, EXPANSION, np.ascontiguousarray(queries, np.float32), k)
        keys, distances = call("strongroom.engines.usearch.library:search", *arguments)
        if not self.repeated:
            return keys, keys, distances
        slots = np.stack([self._slots_of(row, query) for row, query in zip(keys, queries, strict=True)]) if len(keys) else keys
        return slots, slots, distances

    def _slots_of(self, keys: Ids, query: Numbers) -> Ids:
        """Which row each answer is, where a key is that of several: USearch tells only the keys, nearest first."""
        slots = np.full(len(keys), -1, np.int64)
        for key in np.unique(keys[keys >= 0]):
            answers = np.flatnonzero(keys == key)
            rows = np.flatnonzero(self.order.labels_of(0, self.order.count) == key)
            nearest = rows[np.argsort(self._distances(rows, query), kind="stable")]
            slots[answers] = nearest[: len(answers)]
        return slots

    def _distances(self, rows: Ids, query: Numbers) -> Numbers:
        """Something that grows as the metric's distance does; squared l2 for metrics that are none of three."""
        content = b"".join(self.matrix.read(int(row) * self.layout.record, self.layout.record) for row in rows)
        if self.dtype == "bfloat16":
            vectors: Numbers = (np.frombuffer(content, "<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
        else:
            vectors = np.frombuffer(content, self.dtype).astype(np.float32)
        vectors = vectors.reshape(-1, self.dimension)
        if self.metric == "ip":
            return -(vectors @ query)
        if self.metric == "cosine":
            lengths = np.linalg.norm(vectors, axis=1)
            return np.asarray(-(vectors @ query) / np.where(lengths == 0, 1, lengths), np.float32)
        return np.asarray(((vectors - query) ** 2).sum(axis=1), np.float32)

    def ledger(self, plan: Join) -> Sequence[LedgerItem]:
        known = self.layout
        items = [
            LedgerItem("rows", Status.CAPTURED, f"{self.order.live:,} vectors"),
            LedgerItem("vectors", Status.CAPTURED, "" if known.dtype == "float32" else f"as the index keeps them, {known.dtype}"),
            LedgerItem("index", Status.CAPTURED, f"HNSW, connectivity {known.connectivity}"),
            LedgerItem("ids", Status.CAPTURED, ids_note(self.order, plan)),
        ]
        if self.order.dead is not None:
            note = f"{self.order.count - self.order.live:,}, in the index file: no rows, but their vectors are still there"
            items.append(LedgerItem("removed rows", Status.CAPTURED, note))
        note = f"the file doesn't keep them; answers were asked for with expansion_search={EXPANSION}"
        items.append(LedgerItem("search parameters of the application", Status.NOT_OFFERED, note))
        return items


class UsearchFrozen(IndexFrozen):
    """One moment of an index and what lies beside it."""

    def __init__(self, held: Held, name: str, engine_version: str) -> None:
        """Reads the nodes, for their keys, and the sidecar. Raises Unreadable, or SourceChanged if index and sidecar don't fit
        together."""
        layout, order = _understood(held.index)
        super().__init__(held, name, "usearch", engine_version, UsearchContent(held.index, layout, order, _repeats(order)))


def usearch_source(path: Path, engine_version: str, name: str | None = None) -> IndexSource:
    """An index file, and the sidecar of its stem if there is one. `name` is the collection's, if not the file's stem."""
    return IndexSource(path, beside(path), lambda held: UsearchFrozen(held, name or path.stem, engine_version))


def _repeats(order: Order) -> bool:
    return order.own_ids is not None and not unique(order.own_ids)


def _understood(file: OpenFile) -> tuple[Layout, Order]:
    try:
        layout = parse(file.read, file.size)
        return layout, order_of(layout, file.read)
    except NotAnIndex as error:
        raise Unreadable(
            f"{file.path} {error}", hint="name a file that usearch's save wrote; if it was one, restore an earlier snapshot"
        ) from error
