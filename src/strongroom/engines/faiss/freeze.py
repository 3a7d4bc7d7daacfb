"""What FAISS says of one moment of its index file, as rows, regions and answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from strongroom.engines.faiss import describe, vectors
from strongroom.engines.faiss.headers import METRICS, Truncated, UnknownFormat, parse
from strongroom.engines.faiss.layout import Layout
from strongroom.engines.faiss.library import Found
from strongroom.engines.faiss.order import order_of
from strongroom.engines.indexfile.content import Block, Matrix
from strongroom.engines.indexfile.frozen import IndexFrozen
from strongroom.engines.indexfile.held import Held, OpenFile
from strongroom.engines.indexfile.join import Join
from strongroom.engines.indexfile.order import Ids, Order
from strongroom.engines.indexfile.place import beside
from strongroom.engines.indexfile.source import IndexSource
from strongroom.engines.isolation import Descriptor, call
from strongroom.errors import EngineFailed, Unreadable
from strongroom.model import Json, LedgerItem, Region

_LIBRARY = "strongroom.engines.faiss.library"


@dataclass(frozen=True, slots=True)
class FaissContent:
    """An index file whose layout is known, or that only FAISS itself can read."""

    file: OpenFile
    layout: Layout
    order: Order
    dtype: str = "float32"

    @property
    def dimension(self) -> int:
        return self.layout.dimension

    @property
    def metric(self) -> str:
        return self.layout.metric

    @property
    def parameters(self) -> Mapping[str, Json]:
        return self.layout.index

    @property
    def decoded(self) -> bool:
        return not describe.is_exact(self.layout)

    @property
    def opaque(self) -> bool:
        return not self.layout.exact

    @property
    def matrix(self) -> Matrix | None:
        span = self.layout.vectors if self.layout.exact else None
        if span is None:
            return None
        return Matrix(lambda offset, length: self.file.read(span.offset + offset, length), span.length, span.record)

    def blocks(self) -> Iterator[Block]:
        return map(Block, vectors.blocks(self.file, self.layout))

    def fetch(self, rows: Ids) -> npt.NDArray[np.float32] | None:
        return vectors.fetch(self.file, self.layout, rows)

    def regions(self) -> Iterable[Region] | None:
        return self.layout.regions() if self.layout.spans or not self.layout.count else None

    def search(self, queries: npt.NDArray[np.float32], k: int) -> tuple[Ids, Ids, npt.NDArray[np.float32]]:
        found: tuple[Ids, Ids, npt.NDArray[np.float32]] = call(f"{_LIBRARY}:search", Descriptor(self.file.descriptor), queries, k)
        return found

    def ledger(self, plan: Join) -> Sequence[LedgerItem]:
        return describe.ledger(self.layout, self.order, plan)


class FaissFrozen(IndexFrozen):
    """One moment of an index and its sidecar."""

    def __init__(self, held: Held, name: str, engine_version: str) -> None:
        """Reads headers, ids and the sidecar. Raises Unreadable, or SourceChanged if index and sidecar don't fit together."""
        layout, order = _understood(held.index)
        super().__init__(held, name, "faiss", engine_version, FaissContent(held.index, layout, order))


def faiss_source(path: Path, engine_version: str, name: str | None = None) -> IndexSource:
    """An index file, and the sidecar of its stem if there is one. `name` is the collection's, if not the file's stem."""
    return IndexSource(path, beside(path), lambda held: FaissFrozen(held, name or path.stem, engine_version))


def _understood(file: OpenFile) -> tuple[Layout, Order]:
    try:
        layout = parse(file.read, file.size)
        order = order_of(layout, file.read)
    except UnknownFormat as error:
        return _by_library(file, str(error))
    except (Truncated, IndexError) as error:
        raise Unreadable(
            f"{file.path} is not a whole FAISS index: {error}",
            hint="the file is damaged or was saved only in part; restore it from an earlier snapshot",
        ) from error
    return layout, order


def _by_library(file: OpenFile, code: str) -> tuple[Layout, Order]:
    """What FAISS itself says about a file that only it can read: its bytes are kept as they are."""
    if file.size < 4 or code.startswith("IB"):
        problem = "is a binary FAISS index, which isn't supported" if code.startswith("IB") else "is not a FAISS index"
        raise Unreadable(f"{file.path} {problem}", hint="name a file that faiss.read_index opens")
    try:
        found: Found = call(f"{_LIBRARY}:inspect", Descriptor(file.descriptor))
    except (EngineFailed, Unreadable) as error:
        hint = error.hint or "check the path; if the file is damaged restore it from an earlier snapshot"
        raise Unreadable(f"{file.path}: {error}", hint=hint) from error
    index = {"kind": found.kind, "ntotal": found.count, "metric_type": found.metric, "exact": found.exact}
    layout = Layout(file.size, found.dimension, found.count, METRICS.get(found.metric, f"metric_{found.metric}"), index)
    return layout, Order(found.count, found.labels, found.ids)
