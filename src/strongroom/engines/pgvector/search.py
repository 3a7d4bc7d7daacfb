"""What does an index of vectors answer, at a moment? The server itself is asked, with its own defaults."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from strongroom.engines import stopwatch
from strongroom.engines.pgvector.catalog import Column, Index
from strongroom.engines.pgvector.columns import ROW, Shape, counted_hash, id_of_texts
from strongroom.engines.pgvector.server import Connection, quoted
from strongroom.model import Answers

_OPERATORS = {"l2": "<->", "ip": "<#>", "cosine": "<=>"}
_METRICS = {"l2_ops": "l2", "ip_ops": "ip", "cosine_ops": "cosine"}


def load() -> None:
    """The engine runs in its server: nothing need be loaded."""


def metric_of(index: Index | None) -> str:
    """By what an index measures; l2 if there is none, or it measures otherwise than probes can."""
    return _METRICS.get(index.operators.partition("_")[2], "l2") if index else "l2"


def index_of(shape: Shape, column: Column) -> Index | None:
    """The index that searches of a column use: the first one of a metric that probes know, else the first."""
    found = [one for one in shape.table.indexes if one.of_vectors and one.valid and one.columns[:1] == (column.name,)]
    known = [one for one in found if one.operators.partition("_")[2] in _METRICS]
    return next(iter(known or found), None)


def nearest(connection: Connection, shape: Shape, field: str, queries: npt.NDArray[np.float32], k: int, extension: str) -> Answers:
    """The k nearest rows to each query (q x dimension), those without a vector left out; distances are float64 and as the operator
    gives them. Rows of equal distance are put in the order of their ids."""
    column = next(column for one, column in shape.fields if one.name == field)
    statement = _statement(shape, column, extension)
    connection.execute(f"SET LOCAL search_path = {quoted(extension)}".encode())
    ids, distances = [], []
    for query in stopwatch.each(queries):
        text = "[" + ",".join(repr(float(one)) for one in query) + "]"
        found = [(_id(shape, row[:-1]), row[-1]) for row in connection.execute(statement, (text, k)).fetchall()]
        best = sorted((distance, one) for one, distance in found if distance is not None and not np.isnan(distance))
        ids.append(tuple(one for _, one in best))
        distances.append(np.array([distance for distance, _ in best], np.float64))
    return Answers(tuple(ids), tuple(distances))


def _statement(shape: Shape, column: Column, extension: str) -> bytes:
    index = index_of(shape, column)
    what, kind = quoted(column.name), column.base
    if index is not None and "::" in index.expression:
        what = f"({index.expression})"
        kind = next((one for one in ("halfvec", "vector") if f"::{one}" in index.expression), kind)
    distance = f"{what} OPERATOR({quoted(extension)}.{_OPERATORS[metric_of(index)]}) %s::{quoted(extension)}.{kind}"
    place = quoted(shape.table.schema, shape.table.name)
    near = f"SELECT {ROW} AS r, {distance} AS strongroom_distance FROM ONLY {place} AS {ROW} ORDER BY 2 LIMIT %s"
    keys = [f"pg_catalog.textin({_output(shape, name)}((r).{quoted(name)}))" for name in shape.table.key]
    return f"SELECT {', '.join(keys) or counted_hash('r')}, strongroom_distance FROM ({near}) AS near".encode()


def _output(shape: Shape, name: str) -> str:
    return next(one.output for one in shape.table.columns if one.name == name)


def _id(shape: Shape, values: tuple[str, ...]) -> int | str:
    """As the rows have it."""
    if len(shape.table.key) > 1:
        return id_of_texts(shape, values)
    return int(values[0]) if _has_integers(shape) else values[0]


def _has_integers(shape: Shape) -> bool:
    return len(shape.table.key) == 1 and str(shape.schema.field(shape.table.key[0]).type) == "int64"
