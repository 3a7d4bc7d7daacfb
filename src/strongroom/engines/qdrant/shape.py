"""What does a shard's configuration say of its points, and which columns do their rows have? Pure.

A shard is one collection. Its dense vectors are vector columns; multi-vectors and sparse ones are columns that only Qdrant
understands. Of the payload, texts under `document` and `uri` are columns of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from strongroom.model import ROLE, Collection, Field, Json, LedgerItem, Role, Status

KIND = b"strongroom.qdrant"
"""Key of the metadata of a column that is a multi-vector ('multi') or a sparse vector ('sparse')."""
METRICS = {"Cosine": "cosine", "Dot": "ip", "Euclid": "l2", "Manhattan": "l1"}
DISTANCES = {metric: distance for distance, metric in METRICS.items()}
DOCUMENT, URI = "document", "uri"
SPARSE = pa.struct([pa.field("indices", pa.list_(pa.uint32())), pa.field("values", pa.list_(pa.float32()))])
_ELEMENTS = {"float32": pa.float32(), "float16": pa.float16(), "uint8": pa.uint8()}


@dataclass(frozen=True, slots=True)
class Vector:
    """One named vector of a shard: `column` is what it is called in rows, `kind` dense, multi or sparse."""

    name: str
    column: str
    kind: str
    said: Mapping[str, Json]

    @property
    def dtype(self) -> str:
        """In which the points give it; what is only kept as codes is given as float32."""
        kept = str(self.said.get("datatype", "float32"))
        return kept if kept in _ELEMENTS else "float32"

    @property
    def coded(self) -> bool:
        return str(self.said.get("datatype", "float32")) not in _ELEMENTS

    @property
    def dimension(self) -> int:
        return int(self.said["size"])

    @property
    def column_field(self) -> pa.Field:
        if self.kind == "dense":
            kind = pa.list_(_ELEMENTS[self.dtype], self.dimension)
            return pa.field(self.column, kind, metadata={ROLE: Role.VECTOR.encode()})
        kind = SPARSE if self.kind == "sparse" else pa.list_(pa.list_(_ELEMENTS[self.dtype]))
        return pa.field(self.column, kind, metadata={ROLE: Role.COLUMN.encode(), KIND: self.kind.encode()})


@dataclass(frozen=True, slots=True)
class Shape:
    """All vectors of a shard, and how the other columns are called so that no vector has their name."""

    vectors: tuple[Vector, ...]
    id: str
    document: str
    uri: str
    payload: str

    @property
    def names(self) -> dict[str, str]:
        """Of each column that is a vector what the vector is called, '' the one without a name."""
        return {one.column: one.name for one in self.vectors}

    @property
    def schema(self) -> pa.Schema:
        def text(name: str, role: Role, *, nullable: bool = True) -> pa.Field:
            return pa.field(name, pa.utf8(), nullable=nullable, metadata={ROLE: role.encode()})

        fields = [text(self.id, Role.ID, nullable=False), *(one.column_field for one in self.vectors)]
        others = [text(self.document, Role.DOCUMENT), text(self.uri, Role.URI), text(self.payload, Role.PAYLOAD)]
        return pa.schema([*fields, *others])


def shape_of(config: Mapping[str, Any]) -> Shape:
    """The shape of a shard with this `edge_config.json`."""
    dense = {name: ("multi" if said.get("multivector_config") else "dense", said) for name, said in config["vectors"].items()}
    sparse = {name: ("sparse", said) for name, said in (config.get("sparse_vectors") or {}).items()}
    every = {**dense, **sparse}
    taken = {name for name in every if name}
    default = _free("vector", taken)
    vectors = [Vector(name, name or default, kind, said) for name, (kind, said) in sorted(every.items())]
    taken.add(default)
    return Shape(tuple(vectors), *(_free(name, taken) for name in ("id", DOCUMENT, URI, "payload")))


def fields_of(config: Mapping[str, Any], shape: Shape) -> tuple[Field, ...]:
    """Its dense vectors."""
    found = []
    for one in shape.vectors:
        if one.kind == "dense":
            hnsw = {**(config.get("hnsw_config") or {}), **(one.said.get("hnsw_config") or {})}
            codes = one.said.get("quantization_config") or config.get("quantization_config")
            index = {"kind": "hnsw", **hnsw, **({"quantization": codes} if codes else {})}
            metric = METRICS[one.said["distance"]]
            found.append(Field(one.column, one.dtype, one.dimension, metric, index, one.coded))
    return tuple(found)


def collection_of(name: str, count: int, config: Mapping[str, Any], indexes: Mapping[str, Json]) -> Collection:
    """A shard as a collection; `indexes` are those of the payload, by key."""
    return Collection(
        name, count, fields_of(config, shape_of(config)), {"edge_config": dict(config), "payload_indexes": dict(indexes)}
    )


def config_for(collection: Collection) -> dict[str, Json]:
    """The configuration of a shard that takes the rows of a collection of any engine. A single field called `vector` is the default
    vector, which has no name."""
    own = collection.catalog.get("edge_config")
    if own is not None:
        return dict(own)
    vectors = {}
    for one in collection.fields:
        name = "" if one.name == "vector" else one.name
        vectors[name] = {"size": one.dimension, "distance": DISTANCES.get(one.metric, "Euclid")}
        if one.dtype in ("float16", "uint8"):
            vectors[name]["datatype"] = one.dtype
    return {"vectors": vectors, "sparse_vectors": {}}


def ledger(config: Mapping[str, Any], indexes: Mapping[str, Json]) -> tuple[LedgerItem, ...]:
    shape = shape_of(config)
    kinds = {kind: [one.column for one in shape.vectors if one.kind == kind] for kind in ("dense", "multi", "sparse")}
    items = [
        LedgerItem("points", Status.CAPTURED, "ids, payload and all vectors"),
        LedgerItem("segments and write-ahead log", Status.CAPTURED, "the shard's files, byte for byte"),
        LedgerItem("configuration", Status.CAPTURED, "vectors, HNSW, quantization, optimizers"),
        LedgerItem("payload indexes", Status.CAPTURED, ", ".join(sorted(indexes)) or "there are none"),
    ]
    if kinds["multi"] or kinds["sparse"]:
        names = ", ".join(kinds["multi"] + kinds["sparse"])
        items.append(LedgerItem("probes of multi-vectors and sparse vectors", Status.NOT_CAPTURED, f"{names}: their rows are"))
    coded = [one.column for one in shape.vectors if one.coded]
    if coded:
        items.append(LedgerItem("vectors as they were given", Status.NOT_OFFERED, f"{', '.join(coded)}: only codes are kept"))
    if any(one.said.get("distance") == "Cosine" for one in shape.vectors):
        items.append(LedgerItem("lengths of vectors measured by Cosine", Status.NOT_OFFERED, "Qdrant keeps unit vectors"))
    items.append(LedgerItem("users, roles, aliases", Status.NOT_OFFERED, "an embedded shard has none"))
    return tuple(items)


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name
