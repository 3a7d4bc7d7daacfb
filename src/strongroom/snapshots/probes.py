"""Sealed queries: what was asked, what is exactly right, and what the live index answered. Pure but for the rows it is given."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from strongroom.codecs.runs import NONE, Numbers
from strongroom.errors import Damaged
from strongroom.model import Answers, Bytes, Field, Role
from strongroom.snapshots.fingerprints import role_of
from strongroom.snapshots.segments import vector_matrix

PROBES = 32
"""Queries a field, unless asked otherwise."""

K = 10

Matrix = npt.NDArray[np.float32]

_PIECE_ROWS = 1024
_FAR = np.finfo(np.float32).max


@dataclass(frozen=True, slots=True)
class Probes:
    """q queries (q x dimension, float32), the exact top-k, and the live index's answers (None if it could not be asked).

    `rows` are the numbers of the rows of the exact top-k, query by query: as long as a snapshot has them all, and no other row is
    new, the answer stands. None if nobody wrote them down.
    """

    k: int
    queries: Matrix
    exact: Answers
    live: Answers | None
    rows: tuple[Numbers, ...] | None = None

    def recall(self, answers: Answers) -> float:
        """Share of the exact top-k that is among `answers`, over all queries."""
        pairs = zip(self.exact.ids, answers.ids, strict=True)
        hits = sum(len(set(map(str, right)) & set(map(str, given))) for right, given in pairs)
        return hits / max(1, sum(len(right) for right in self.exact.ids))

    def only(self, places: npt.NDArray[np.intp]) -> Probes:
        """Those of the queries at these places."""
        chosen = places.tolist()
        rows = tuple(self.rows[place] for place in chosen) if self.rows is not None else None
        live = _only(self.live, chosen) if self.live else None
        return Probes(self.k, self.queries[places], _only(self.exact, chosen), live, rows)


def _only(answers: Answers, places: list[int]) -> Answers:
    return Answers(tuple(answers.ids[one] for one in places), tuple(answers.distances[one] for one in places))


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
    """The exact top-k of all rows, gathered batch by batch. Memory: queries x rows of one piece, which stays in a core's cache."""

    def __init__(self, queries: Matrix, field: Field, k: int, known: Probes | None = None) -> None:
        """`known` are these queries with their exact answers among all rows that are not going to be added."""
        self._field = field
        self._k = k
        self._ids = np.full((len(queries), k), None, object)
        self._rows = np.full((len(queries), k), NONE, np.uint32)
        self._distances = np.full((len(queries), k), np.inf, np.float32)
        self._asked, self._offsets = _prepared(queries, field.metric)
        if known is not None and known.rows is not None:
            for query, (ids, rows, distances) in enumerate(zip(known.exact.ids, known.rows, known.exact.distances, strict=True)):
                self._ids[query, : len(ids)] = ids
                self._rows[query, : len(ids)] = rows
                self._distances[query, : len(ids)] = distances

    def add(self, batch: pa.RecordBatch, numbers: Numbers) -> None:
        """Look at more rows, of these numbers."""
        there = np.asarray(batch.column(self._field.name).is_valid())
        if not there.any() or not len(self._asked):
            return
        rows, numbers = with_vectors(batch, self._field), numbers[there]
        vectors, ids = vector_matrix(rows, self._field), _ids_of(rows)
        for start in range(0, len(vectors), _PIECE_ROWS):
            measured = self._measure(vectors[start : start + _PIECE_ROWS])
            nearer = measured < self._distances[:, -1:]
            for query in np.flatnonzero(nearer.any(axis=1)):
                places = np.flatnonzero(nearer[query])
                self._keep_best(query, measured[query, places], ids, numbers, places + start)

    def _measure(self, vectors: Matrix) -> Matrix:
        """Distances, smaller is nearer: squared l2, 1 - cosine, or the negative inner product. What isn't a number is far."""
        with np.errstate(all="ignore"):
            measured: Matrix = self._asked @ vectors.T
            if self._field.metric == "cosine":
                lengths = np.linalg.norm(vectors, axis=1)
                measured /= np.where(lengths == 0, 1, lengths)
            elif self._field.metric != "ip":
                measured += np.vecdot(vectors, vectors)
            measured += self._offsets
        return np.fmin(measured, _FAR, out=measured)

    def _keep_best(self, query: np.intp, distances: Matrix, ids: pa.Array, numbers: Numbers, places: npt.NDArray[np.intp]) -> None:
        """The nearest of those that were known and these, which are nearer than the farthest of them; the earlier of equals."""
        best = np.argsort(distances, kind="stable")[: self._k]
        everyone = np.concatenate([self._distances[query], distances[best]])
        names = np.concatenate([self._ids[query], np.array(ids.take(pa.array(places[best])).to_pylist(), object)])
        rows = np.concatenate([self._rows[query], numbers[places[best]]])
        order = np.argsort(everyone, kind="stable")[: self._k]
        self._distances[query], self._ids[query], self._rows[query] = everyone[order], names[order], rows[order]

    def rows(self) -> tuple[Numbers, ...]:
        """The numbers of the rows that `answers` names."""
        return tuple(row[row != NONE] for row in self._rows)

    def answers(self) -> Answers:
        found = [np.array([one is not None for one in row], bool) for row in self._ids]
        pairs = zip(self._ids, self._distances, found, strict=True)
        kept = [(tuple(ids[there].tolist()), distances[there]) for ids, distances, there in pairs]
        return Answers(tuple(ids for ids, _ in kept), tuple(distances for _, distances in kept))


def _prepared(queries: Matrix, metric: str) -> tuple[Matrix, Matrix]:
    """What to multiply vectors with and what to add, for each query, to have distances but for the vectors' own lengths."""
    if metric == "ip":
        return -queries, np.zeros((len(queries), 1), np.float32)
    if metric == "cosine":
        lengths: Matrix = np.linalg.norm(queries, axis=1, keepdims=True)
        lengths[lengths == 0] = 1
        return -queries / lengths, np.ones((len(queries), 1), np.float32)
    return queries * np.float32(-2), np.vecdot(queries, queries)[:, None]


def _ids_of(batch: pa.RecordBatch) -> pa.Array:
    return next(batch.column(place) for place, field in enumerate(batch.schema) if role_of(field) == Role.ID)


def encode(probes: Probes) -> bytes:
    """An Arrow IPC stream: one row a query; ids as text with the type they had, distances as float64 with their own dtype named."""
    live = probes.live
    columns = {
        "query": pa.FixedSizeListArray.from_arrays(pa.array(probes.queries.ravel()), probes.queries.shape[1]),
        "exact_ids": _texts(probes.exact),
        "exact_distances": _numbers(probes.exact),
        "exact_rows": pa.array(probes.rows or [None] * len(probes.queries), pa.list_(pa.uint32())),
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


def decode(content: Bytes) -> Probes:
    """The inverse of `encode`. Raises Damaged if these are no probes."""
    try:
        batch = pa.ipc.open_stream(pa.py_buffer(content)).read_next_batch()
        notes = {key.decode(): value.decode() for key, value in (batch.schema.metadata or {}).items()}
        integers = notes["integer_ids"] == "1"
        column = batch.column("query")
        queries = np.asarray(column.values, np.float32).reshape(len(column), column.type.list_size)
        live = _answers(batch, "live", notes["live_dtype"], integers) if notes["live"] == "1" else None
        exact = _answers(batch, "exact", notes["exact_dtype"], integers)
        return Probes(int(notes["k"]), queries, exact, live, _rows(batch, exact))
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


def _rows(batch: pa.RecordBatch, exact: Answers) -> tuple[Numbers, ...] | None:
    """The numbers of the rows of the exact answers. None if they aren't all there: earlier snapshots lack them."""
    lists = batch.column("exact_rows").to_pylist() if "exact_rows" in batch.schema.names else []
    if [None if one is None else len(one) for one in lists] != [len(ids) for ids in exact.ids]:
        return None
    return tuple(np.array(one, np.uint32) for one in lists)


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
