"""Sealed queries: what was asked, what is exactly right, and what the live index answered. Pure but for the rows it is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from strongroom.errors import Damaged
from strongroom.model import Answers, Field, Role
from strongroom.snapshots.fingerprints import role_of
from strongroom.snapshots.segments import vector_matrix

PROBES = 32
"""Queries a field, unless asked otherwise."""

K = 10

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Probes:
    """q queries (q x dimension, float32), the exact top-k, and the live index's answers (None if it could not be asked)."""

    k: int
    queries: Matrix
    exact: Answers
    live: Answers | None

    def recall(self, answers: Answers) -> float:
        """Share of the exact top-k that is among `answers`, over all queries."""
        pairs = zip(self.exact.ids, answers.ids, strict=True)
        hits = sum(len(set(map(str, right)) & set(map(str, given))) for right, given in pairs)
        return hits / max(1, sum(len(right) for right in self.exact.ids))


def choose_queries(batch: pa.RecordBatch, field: Field, count: int, seed: int = 7) -> Matrix:
    """Up to `count` queries from the rows of a batch: stored vectors, and as many midpoints of two, which no row holds."""
    vectors = vector_matrix(with_vectors(batch, field), field)
    vectors = vectors[np.isfinite(vectors).all(axis=1)]
    if not len(vectors) or not count:
        return np.zeros((0, field.dimension), np.float32)
    draw = np.random.default_rng(seed)
    picked = vectors[draw.choice(len(vectors), min(count, len(vectors)), replace=False)]
    queries: Matrix = picked.copy()
    queries[1::2] = (picked[1::2] + picked[np.roll(np.arange(len(picked)), 1)][1::2]) / np.float32(2)
    return queries[np.isfinite(queries).all(axis=1)]


def with_vectors(batch: pa.RecordBatch, field: Field) -> pa.RecordBatch:
    """The rows whose vector is not null."""
    column = batch.column(field.name)
    return batch if not column.null_count else batch.filter(column.is_valid())


class ExactSearch:
    """The exact top-k of all rows, gathered batch by batch. Memory: queries x rows of one batch."""

    def __init__(self, queries: Matrix, field: Field, k: int) -> None:
        self._queries = queries
        self._field = field
        self._k = k
        self._ids: npt.NDArray[np.object_] = np.zeros((len(queries), 0), object)
        self._distances: Matrix = np.zeros((len(queries), 0), np.float32)
        lengths = np.linalg.norm(queries, axis=1, keepdims=True)
        self._directions = queries / np.where(lengths == 0, 1, lengths)

    def add(self, batch: pa.RecordBatch) -> None:
        """Look at more rows."""
        rows = with_vectors(batch, self._field)
        if not rows.num_rows or not len(self._queries):
            return
        distances = self._measure(vector_matrix(rows, self._field))
        near = min(self._k, rows.num_rows)
        nearest = np.argpartition(distances, near - 1, axis=1)[:, :near]
        ids = _ids_of(rows)
        found = np.empty(nearest.shape, object)
        found[:] = [[ids[int(place)].as_py() for place in places] for places in nearest]
        self._ids = np.concatenate([self._ids, found], axis=1)
        self._distances = np.concatenate([self._distances, np.take_along_axis(distances, nearest, 1)], axis=1)
        self._keep_best()

    def _measure(self, vectors: Matrix) -> Matrix:
        """Distances, smaller is nearer: squared l2, 1 - cosine, or the negative inner product."""
        with np.errstate(all="ignore"):
            measured: npt.NDArray[np.floating[Any]]
            if self._field.metric == "ip":
                measured = -(self._queries @ vectors.T)
            elif self._field.metric == "cosine":
                lengths = np.linalg.norm(vectors, axis=1)
                measured = 1 - (self._directions @ vectors.T) / np.where(lengths == 0, 1, lengths)
            else:
                squares = np.vecdot(vectors, vectors)
                measured = squares - 2 * (self._queries @ vectors.T) + np.vecdot(self._queries, self._queries)[:, None]
        return np.nan_to_num(measured, nan=np.inf).astype(np.float32, copy=False)

    def _keep_best(self) -> None:
        order = np.argsort(self._distances, axis=1, kind="stable")[:, : self._k]
        self._distances = np.take_along_axis(self._distances, order, 1)
        self._ids = np.take_along_axis(self._ids, order, 1)

    def answers(self) -> Answers:
        return Answers(tuple(tuple(row) for row in self._ids.tolist()), tuple(self._distances))


def _ids_of(batch: pa.RecordBatch) -> pa.Array:
    return next(batch.column(place) for place, field in enumerate(batch.schema) if role_of(field) == Role.ID)


def encode(probes: Probes) -> bytes:
    """An Arrow IPC stream: one row a query; ids as text with the type they had, distances as float64 with their own dtype named."""
    live = probes.live
    columns = {
        "query": pa.FixedSizeListArray.from_arrays(pa.array(probes.queries.ravel()), probes.queries.shape[1]),
        "exact_ids": _texts(probes.exact),
        "exact_distances": _numbers(probes.exact),
        "live_ids": _texts(live) if live else pa.nulls(len(probes.queries), pa.list_(pa.string())),
        "live_distances": _numbers(live) if live else pa.nulls(len(probes.queries), pa.list_(pa.float64())),
    }
    notes = {"k": str(probes.k), "exact_dtype": _dtype(probes.exact), "live": "1" if live else "0"}
    notes["live_dtype"] = _dtype(live) if live else "float32"
    notes["integer_ids"] = "1" if _has_integers(probes.exact) else "0"
    batch = pa.record_batch(columns).replace_schema_metadata(notes)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return bytes(sink.getvalue().to_pybytes())


def decode(content: bytes) -> Probes:
    """The inverse of `encode`. Raises Damaged if these are no probes."""
    try:
        batch = pa.ipc.open_stream(pa.py_buffer(content)).read_next_batch()
        notes = {key.decode(): value.decode() for key, value in (batch.schema.metadata or {}).items()}
        integers = notes["integer_ids"] == "1"
        column = batch.column("query")
        queries = np.asarray(column.values, np.float32).reshape(len(column), column.type.list_size)
        live = _answers(batch, "live", notes["live_dtype"], integers) if notes["live"] == "1" else None
        return Probes(int(notes["k"]), queries, _answers(batch, "exact", notes["exact_dtype"], integers), live)
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError, AttributeError, StopIteration) as error:
        raise Damaged("probes", "they can't be read") from error


def _texts(answers: Answers) -> pa.Array:
    return pa.array([[str(one) for one in row] for row in answers.ids], pa.list_(pa.string()))


def _numbers(answers: Answers) -> pa.Array:
    return pa.array([row.astype(np.float64) for row in answers.distances], pa.list_(pa.float64()))


def _dtype(answers: Answers) -> str:
    return str(answers.distances[0].dtype) if len(answers) else "float32"


def _has_integers(answers: Answers) -> bool:
    return all(isinstance(one, int) for row in answers.ids for one in row)


def _answers(batch: pa.RecordBatch, name: str, dtype: str, integers: bool) -> Answers:
    ids = batch.column(f"{name}_ids").to_pylist()
    distances = batch.column(f"{name}_distances").to_pylist()
    return Answers(
        tuple(tuple(int(one) if integers else one for one in row) for row in ids),
        tuple(np.asarray(row, np.float64).astype(dtype) for row in distances),
    )


RECALL_TOLERANCE = 0.05
"""How far the recall of an engine that doesn't repeat its own answers may fall below the sealed one: 16 of 320 neighbours."""


def disagreement(probes: Probes, given: Answers, *, repeatable: bool) -> str | None:
    """What is wrong with the answers, None if nothing is: they must be the sealed ones bit for bit or, where the engine doesn't
    repeat itself, of the same recall."""
    if probes.live is None:
        return "the live answers were not sealed: only recall could be measured"
    different = differences(probes.live, given)
    if repeatable:
        return f"{len(different)} of {len(probes.live)} answers differ from the sealed ones" if different else None
    if len(given) != len(probes.live):
        return f"{len(given)} answers to {len(probes.live)} queries"
    was, now = probes.recall(probes.live), probes.recall(given)
    return f"recall fell from {was:.3f} to {now:.3f}" if now < was - RECALL_TOLERANCE else None


def differences(expected: Answers, given: Answers) -> list[int]:
    """The queries whose answers are not the same: ids in order, and distances bit for bit."""
    if len(expected) != len(given):
        return list(range(max(len(expected), len(given))))
    return [
        place
        for place in range(len(expected))
        if expected.ids[place] != given.ids[place]
        or expected.distances[place].dtype != given.distances[place].dtype
        or expected.distances[place].tobytes() != given.distances[place].tobytes()
    ]
