"""What exact search answers over vectors that lie in a sidecar only. No index covers them; whoever keeps them scans them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from strongroom.engines.indexfile.sidecar import as_vectors
from strongroom.model import Answers

Matrix = npt.NDArray[np.floating[Any]]


def search(batches: Iterable[pa.RecordBatch], column: str, metric: str, queries: npt.NDArray[np.float32], k: int) -> Answers:
    """The k nearest rows of each query (q x dimension): inner product, largest first, for ip; squared l2 for any other metric.

    Computed in float64 and rounded to float32, so that the order of summation hardly ever shows. Rows without a vector are
    left out. Memory: queries x rows of one batch.
    """
    wanted = queries.astype(np.float64)
    ids: npt.NDArray[np.object_] = np.zeros((len(queries), 0), object)
    best = np.zeros((len(queries), 0), np.float32)
    for batch in batches:
        vectors = as_vectors(batch.column(column), queries.shape[1])
        if vectors is None or not len(vectors):
            continue
        measured = _cost(wanted, vectors.astype(np.float64), metric)
        near = np.argsort(measured, axis=1, kind="stable")[:, :k]
        names = np.array(batch.column("id").to_pylist(), object)
        ids = np.concatenate([ids, names[near]], axis=1)
        best = np.concatenate([best, np.take_along_axis(measured, near, 1)], axis=1)
        order = np.argsort(best, axis=1, kind="stable")[:, :k]
        ids, best = np.take_along_axis(ids, order, 1), np.take_along_axis(best, order, 1)
    distances = -best if metric == "ip" else best
    return Answers(tuple(tuple(row) for row in ids.tolist()), tuple(distances))


def _cost(queries: Matrix, vectors: Matrix, metric: str) -> npt.NDArray[np.float32]:
    cost: Matrix = -(queries @ vectors.T)
    if metric != "ip":
        cost = np.einsum("ij,ij->i", vectors, vectors) + 2 * cost + np.einsum("ij,ij->i", queries, queries)[:, None]
    return cost.astype(np.float32)
