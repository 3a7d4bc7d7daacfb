"""What do a shard's files say of its payload indexes, and how are such indexes, and new vectors, asked for?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from strongroom.model import Json

_PARAMETERS = {
    "keyword": "KeywordIndexParams",
    "integer": "IntegerIndexParams",
    "float": "FloatIndexParams",
    "geo": "GeoIndexParams",
    "text": "TextIndexParams",
    "bool": "BoolIndexParams",
    "datetime": "DatetimeIndexParams",
    "uuid": "UuidIndexParams",
}


def said_at(shard: Path) -> dict[str, Json]:
    """The payload indexes of the shard in a folder, by key: the name of a type, or what its parameters are."""
    found: dict[str, Json] = {}
    for config in sorted((shard / "segments").glob("*/payload_index/config.json")):
        found |= json.loads(config.read_bytes()).get("indexed_fields", {})
    return found


def made(said: Json) -> Any:
    """An index as `create_field_index` takes it. Parameters that this release doesn't know are left out."""
    import qdrant_edge

    if isinstance(said, str):
        return getattr(qdrant_edge.PayloadSchemaType, said.capitalize())
    kind = getattr(qdrant_edge, _PARAMETERS[said["type"]])
    known = {name: _value(name, value) for name, value in said.items() if name != "type" and value is not None}
    try:
        return kind(**known)
    except TypeError:
        return getattr(qdrant_edge.PayloadSchemaType, said["type"].capitalize())


def _value(name: str, value: Json) -> Any:
    import qdrant_edge

    if name == "tokenizer":
        return getattr(qdrant_edge.TokenizerType, str(value).capitalize())
    if name == "memory":
        return getattr(qdrant_edge.Memory, str(value).capitalize())
    return value


def new_vector(name: str, kind: str, said: Mapping[str, Json]) -> Any:
    """The operation that adds a named vector to a shard."""
    import qdrant_edge

    operations = qdrant_edge.UpdateOperation
    datatype = _enumerated(qdrant_edge.VectorStorageDatatype, said.get("datatype"))
    if kind == "sparse":
        return operations.create_sparse_vector(name, _enumerated(qdrant_edge.Modifier, said.get("modifier")), datatype)
    comparator = qdrant_edge.MultiVectorConfig(qdrant_edge.MultiVectorComparator.MaxSim) if kind == "multi" else None
    distance = getattr(qdrant_edge.Distance, said["distance"])
    return operations.create_dense_vector(name, said["size"], distance, comparator, datatype)


def _enumerated(kind: Any, value: Json) -> Any:
    return None if value is None else getattr(kind, str(value).capitalize())
