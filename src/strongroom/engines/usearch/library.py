"""What the usearch library itself is asked. Every function here runs in a child process (see `strongroom.engines.isolation`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from strongroom.engines import stopwatch
from strongroom.engines.protocol import rows_per_block
from strongroom.errors import EngineFailed

Ids = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]

_NAMES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16", "int8": "i8", "uint8": "u8"}
_METRICS = {"l2": "l2sq", "ip": "ip", "cosine": "cos"}


def load() -> None:
    """Import the library, which takes longer than to ask it."""
    import usearch.index  # noqa: F401


def search(descriptor: int, dtype: str, expansion: int, queries: Vectors, k: int) -> tuple[Ids, Vectors]:
    """Keys (-1 where there is no answer) and distances (there NaN), each q x k, by the metric of the file.

    The file is mapped through /dev/fd: it is the very one that the parent holds, whatever stands under its name.
    """
    from usearch.index import Index

    index = Index.restore(f"/dev/fd/{descriptor}", view=True)
    if index is None:
        raise EngineFailed("usearch can't open the file")
    keys = np.full((len(queries), k), -1, np.int64)
    distances = np.full((len(queries), k), np.nan, np.float32)
    if not len(index):
        return keys, distances
    index.expansion_search = max(expansion, k)
    asked = _whole(queries, dtype)
    for place, query in enumerate(stopwatch.each(asked)):
        found = index.search(query, k, threads=1)
        keys[place, : len(found.keys)] = found.keys.view(np.int64)
        distances[place, : len(found.keys)] = found.distances
    return keys, distances


def _whole(queries: Vectors, dtype: str) -> npt.NDArray[Any]:
    """Queries as whole numbers where the index holds such: USearch would take fractions for shares of the largest one."""
    if dtype not in ("int8", "uint8"):
        return queries
    limits = np.iinfo(dtype)
    return np.clip(np.rint(queries), limits.min, limits.max).astype(dtype)


@dataclass(frozen=True, slots=True)
class Plan:
    """How to build an index from a file of count x dimension numbers of `dtype` and, if given, one of int64 keys."""

    vectors: str
    ids: str | None
    count: int
    dimension: int
    dtype: str
    metric: str
    connectivity: int
    expansion_add: int


def build(plan: Plan, path: str) -> None:
    """Build the index that `plan` describes with one thread, so that its vectors come in the order of the rows, and save it."""
    from usearch.index import Index

    name = _NAMES[plan.dtype]
    index = Index(
        ndim=plan.dimension,
        metric=_METRICS[plan.metric],
        dtype=name,
        connectivity=plan.connectivity,
        expansion_add=plan.expansion_add,
    )
    number = np.uint16 if plan.dtype == "bfloat16" else np.dtype(plan.dtype)
    width = np.dtype(number).itemsize * plan.dimension
    step = rows_per_block(width)
    for start in range(0, plan.count, step):
        rows = min(step, plan.count - start)
        block = np.fromfile(plan.vectors, number, rows * plan.dimension, offset=start * width).reshape(rows, plan.dimension)
        if plan.dtype == "bfloat16":
            block = (block.astype(np.uint32) << np.uint32(16)).view(np.float32)  # rounding it again changes nothing
        keys = np.arange(start, start + rows) if plan.ids is None else np.fromfile(plan.ids, np.int64, rows, offset=8 * start)
        index.add(keys.astype(np.uint64), block, threads=1)
    index.save(path)
