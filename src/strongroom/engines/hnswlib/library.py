"""What the hnswlib library itself is asked. Every function here runs in a child process (see `strongroom.engines.isolation`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from strongroom.engines import stopwatch
from strongroom.engines.protocol import rows_per_block

Ids = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]


def load() -> None:
    """Import the library, which takes longer than to ask it."""
    import hnswlib  # noqa: F401


@dataclass(frozen=True, slots=True)
class Opening:
    """What the library must be told of a file that it opens. `count` elements, `live` of them not deleted."""

    space: str
    dimension: int
    count: int
    live: int
    ef: int


def search(descriptor: int, opening: Opening, queries: Vectors, k: int) -> tuple[Ids, Vectors]:
    """Labels (-1 where there is no answer) and distances (there NaN), each q x k; squared l2, or 1 minus the inner product.

    The file is opened through /dev/fd: it is the very one that the parent holds, whatever stands under its name.
    """
    import hnswlib

    labels = np.full((len(queries), k), -1, np.int64)
    distances = np.full((len(queries), k), np.nan, np.float32)
    if not opening.live:
        return labels, distances
    index = hnswlib.Index(opening.space, opening.dimension)
    index.load_index(f"/dev/fd/{descriptor}", max_elements=opening.count)  # not the capacity, which may be any number
    index.set_ef(max(opening.ef, k))
    index.set_num_threads(1)
    most = min(k, opening.live)
    for place, query in enumerate(stopwatch.each(queries)):
        found = _nearest(index, query, most)
        if found is not None:
            labels[place, : found[0].shape[1]] = found[0].view(np.int64)
            distances[place, : found[1].shape[1]] = found[1]
    return labels, distances


def _nearest(index: Any, query: Vectors, k: int) -> tuple[Any, Any] | None:
    """The library refuses to answer at all where it reaches fewer than k elements: ask for as many as it does."""
    while k:
        try:
            labels, distances = index.knn_query(query[None], k)
            return labels, distances
        except RuntimeError:
            k -= 1
    return None


@dataclass(frozen=True, slots=True)
class Plan:
    """How to build an index from a file of count x dimension float32 vectors and, if given, one of int64 labels."""

    vectors: str
    ids: str | None
    count: int
    dimension: int
    space: str
    links: int
    ef_construction: int
    ef: int


def build(plan: Plan, path: str) -> None:
    """Build the index that `plan` describes with one thread, so that its elements come in the order of the rows, and save it."""
    import hnswlib

    index = hnswlib.Index(plan.space, plan.dimension)
    index.init_index(max(1, plan.count), M=plan.links, ef_construction=plan.ef_construction)
    index.set_num_threads(1)
    index.set_ef(plan.ef)
    vectors = np.memmap(plan.vectors, np.float32, "r", shape=(plan.count, plan.dimension)) if plan.count else None
    step = rows_per_block(4 * plan.dimension)
    for start in range(0, plan.count, step):
        assert vectors is not None  # noqa: S101 - there are rows
        block = np.ascontiguousarray(vectors[start : start + step])
        if plan.ids is None:
            labels: Any = np.arange(start, start + len(block))
        else:
            labels = np.fromfile(plan.ids, np.int64, len(block), offset=8 * start)
        index.add_items(block, labels, num_threads=1)
    index.save_index(path)
