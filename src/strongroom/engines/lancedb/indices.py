"""Which indices does a table get that is loaded from rows, and how are they built? Building runs in a child process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from strongroom.engines.lancedb.library import failing_as, open_table
from strongroom.errors import EngineFailed
from strongroom.model import Collection, Field, Json

GRAPH_FROM = 20_000
"""From how many rows on a field of another engine gets a graph: fewer are searched exactly in a few milliseconds."""

_PARTITION_ROWS = 1_000_000
_PQ_ROWS = 256  # fewer can't train a code book of 8 bits
_METRICS = {"ip": "dot"}
_SCALAR = {
    "BTree": "BTREE",
    "Bitmap": "BITMAP",
    "LabelList": "LABEL_LIST",
    "Inverted": "INVERTED",
    "NGram": "NGRAM",
    "ZoneMap": "ZONEMAP",
    "BloomFilter": "BLOOMFILTER",
}
_TEXT_OPTIONS = (
    "base_tokenizer",
    "language",
    "with_position",
    "max_token_length",
    "lower_case",
    "stem",
    "remove_stop_words",
    "ascii_folding",
)


@dataclass(frozen=True, slots=True)
class IndexPlan:
    """An index to build on `column`; `kind` as Lance names it when asked to build one, `metric` None for a scalar index."""

    column: str
    kind: str
    name: str | None = None
    metric: str | None = None
    options: Mapping[str, Json] = field(default_factory=dict)


def from_lance(collection: Collection) -> bool:
    """True if the collection was a Lance table, so that its catalog says how it was indexed."""
    return collection.catalog.get("format") == "lance"


def plan(collection: Collection, rows: int) -> list[IndexPlan]:
    """The indices of `collection` once its `rows` rows are loaded: those that it had in Lance, else one for each vector field."""
    vectors = [_vector(each, rows) for each in collection.fields]
    scalars = [_scalar(index) for index in collection.catalog.get("indices", ())] if from_lance(collection) else []
    return [index for index in (*vectors, *scalars) if index is not None] if rows else []


def _vector(vectors: Field, rows: int) -> IndexPlan | None:
    metric = _METRICS.get(vectors.metric, vectors.metric)
    kind = str(vectors.index.get("kind", ""))
    if kind.startswith("IVF_"):
        options = {
            key: vectors.index[key] for key in ("num_sub_vectors", "num_bits", "m", "ef_construction") if key in vectors.index
        }
        options["num_partitions"] = max(1, min(int(vectors.index.get("num_partitions") or 1), rows))
        if "PQ" in kind and rows < _PQ_ROWS:
            return IndexPlan(vectors.name, "IVF_FLAT", vectors.index.get("name"), metric, {"num_partitions": 1})
        return IndexPlan(vectors.name, kind, vectors.index.get("name"), metric, options)
    if vectors.dtype not in ("float32", "float16") or (not vectors.index and metric == "l2" and rows < GRAPH_FROM):
        return None
    if rows >= GRAPH_FROM:
        return IndexPlan(vectors.name, "IVF_HNSW_SQ", None, metric, {"num_partitions": 1 + rows // _PARTITION_ROWS})
    return IndexPlan(vectors.name, "IVF_FLAT", None, metric, {"num_partitions": 1})


def _scalar(index: Mapping[str, Json]) -> IndexPlan | None:
    kind = _SCALAR.get(index["kind"])
    if kind is None or len(index["columns"]) != 1:
        return None
    details = index.get("details") or {}
    options = {key: details[key] for key in _TEXT_OPTIONS if key in details} if kind == "INVERTED" else {}
    return IndexPlan(index["columns"][0], kind, index["name"], None, options)


def build(table: str, plans: Sequence[IndexPlan]) -> None:
    """Build the indices of the table in the directory `table`. Raises EngineFailed."""
    data = open_table(Path(table))
    for index in plans:
        with failing_as(EngineFailed, f"building the index {index.kind} on {index.column}"):
            if index.metric is None:
                data.create_scalar_index(index.column, index.kind, name=index.name, replace=True, **index.options)
            else:
                data.create_index(index.column, index.kind, name=index.name, metric=index.metric, replace=True, **index.options)


def catch_up(table: str, plans: Sequence[IndexPlan] | None) -> None:
    """Let the indices of a table take in rows that were added. With `plans` it has those and no others. Raises EngineFailed."""
    data = open_table(Path(table))
    with failing_as(EngineFailed, f"bringing the indices of {Path(table).stem} forward"):
        present = {(index.name, tuple(index.field_names)) for index in data.describe_indices()}
        if plans is not None:
            wanted = {(index.name or f"{index.column}_idx", (index.column,)) for index in plans}
            for name, _ in present - wanted:
                data.drop_index(name)
            build(table, [one for one in plans if (one.name or f"{one.column}_idx", (one.column,)) not in present])
            data = open_table(Path(table))
        if data.describe_indices():
            data.optimize.optimize_indices()
