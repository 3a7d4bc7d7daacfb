"""How rows become a FAISS index and its sidecar again. Rows pass through files, so that only FAISS itself holds them all."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from strongroom.engines.faiss.library import Plan
from strongroom.engines.indexfile.spill import Spilled, indexed_field, spilled
from strongroom.engines.isolation import call
from strongroom.model import Collection, Field

DEFAULT_INDEX = "HNSW32,Flat"
"""What is built for rows of another engine: the graph that most other engines build too."""

METRIC_TYPES = {"ip": 0, "cosine": 0, "l2": 1}
"""FAISS's number of a metric. Cosine is inner product; whether the vectors have unit length is the source's business."""


def rebuild(collection: Collection, batches: Iterable[pa.RecordBatch], scratch: Path, index: Path) -> None:
    """Write the index, and beside it a Parquet sidecar if there are ids or columns that the index can't hold.

    Vectors and ids pass through files in the directory `scratch`. Raises WrongRequest for rows without a vector, EngineFailed
    if FAISS can't build such an index.
    """
    spill = spilled(collection, batches, scratch, index)
    call("strongroom.engines.faiss.library:build", _plan(indexed_field(collection), spill), str(index))


def factory_of(indexed: Field) -> str:
    """What the index is built as: what it was in FAISS, if that is known."""
    return str(indexed.index.get("factory") or DEFAULT_INDEX)


def metric_type_of(indexed: Field) -> int:
    """FAISS's number of the metric that the index is built for."""
    known = "factory" in indexed.index
    return int(indexed.index["metric_type"]) if known else METRIC_TYPES.get(indexed.metric, METRIC_TYPES["l2"])


def _plan(indexed: Field, spill: Spilled) -> Plan:
    known = "factory" in indexed.index
    kind = str(indexed.index.get("inner") or indexed.index.get("kind", "")) if known else ""
    id_map = indexed.index.get("id_map") if known else None
    named = spill.indexable and not (spill.natural and id_map is None)
    if named and id_map is None and not kind.startswith("IVF"):  # inverted lists keep ids of their own, nothing else does
        id_map = "IDMap2"
    return Plan(
        str(spill.vectors),
        str(spill.ids) if named else None,
        spill.count,
        indexed.dimension,
        metric_type_of(indexed),
        factory_of(indexed),
        str(id_map) if named and id_map else None,
        dict(indexed.index) if known else {},
    )
