"""How do rows lie in the bodies of requests and answers? Pure.

Vectors come as JSON numbers, each the shortest that stands for one float32 and none else: reading them to the nearest float32 gives
back the bits that the server has.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from strongroom.engines.chroma.catalog import FIELD
from strongroom.engines.chroma.conversion import records
from strongroom.engines.chroma.documents import canonical
from strongroom.engines.chroma.rows import schema_of
from strongroom.errors import Unreadable
from strongroom.model import Json

INCLUDED = ["embeddings", "documents", "metadatas", "uris"]


def batch_of(answer: Mapping[str, Any], dimension: int) -> pa.RecordBatch:
    """The rows of an answer that includes all. Raises Unreadable if they aren't of that dimension."""
    ids = answer["ids"]
    try:
        vectors = np.array(answer["embeddings"] or [], np.float32).reshape(len(ids), dimension)
    except (TypeError, ValueError) as error:
        raise Unreadable(f"rows from {ids[0]!r} on: their vectors are not of {dimension} numbers each") from error
    schema = schema_of(dimension)
    dense = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), type=schema.field(FIELD).type)
    payloads = [canonical(one) if one else None for one in answer["metadatas"] or [None] * len(ids)]
    texts = [answer["documents"] or [None] * len(ids), answer["uris"] or [None] * len(ids), payloads]
    return pa.record_batch([pa.array(ids, pa.utf8()), dense, *(pa.array(one, pa.utf8()) for one in texts)], schema=schema)


def body_of(batch: pa.RecordBatch, *, coded: bool) -> dict[str, Json]:
    """Rows of any engine as `add` and `upsert` take them; with `coded` vectors as base64."""
    rows = records(batch)
    body: dict[str, Json] = {"ids": rows.ids, "embeddings": embeddings(rows.vectors, coded=coded)}
    for key, values in (("documents", rows.documents), ("metadatas", rows.metadatas), ("uris", rows.uris)):
        if any(value is not None for value in values):
            body[key] = values
    return body


def embeddings(vectors: npt.NDArray[np.float32], *, coded: bool) -> Sequence[Json]:
    """Vectors as a server takes them, bit for bit."""
    dense = np.ascontiguousarray(vectors, "<f4")
    return [base64.b64encode(one.tobytes()).decode() for one in dense] if coded else list(dense)


def creation_of(catalog: Mapping[str, Json], hnsw: Mapping[str, Json]) -> dict[str, Json]:
    """With what a collection is made that is like this one: of Chroma by its own schema (configuration, where it has none) and
    metadata without `later_metadata`, else by the index's parameters."""
    if "schema_str" not in catalog:
        return {"configuration": {"hnsw": dict(hnsw)}}
    schema, configured = catalog["schema_str"], catalog.get("configuration")
    body = {"schema": json.loads(schema)} if schema else {"configuration": configured or {"hnsw": dict(hnsw)}}
    metadata = {key: value for key, value in (catalog.get("metadata") or {}).items() if key not in later_metadata(catalog)}
    return {**body, "metadata": metadata} if metadata else body


def later_metadata(catalog: Mapping[str, Json]) -> Sequence[str]:
    """Keys that a server takes for a configuration, and refuses beside a schema, which says the same: given once it is made."""
    return [key for key in catalog.get("metadata") or {} if key.startswith("hnsw:")] if catalog.get("schema_str") else []
