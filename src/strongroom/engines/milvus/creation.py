"""How is a collection made that takes the rows of another one, of Milvus or of any engine? And what can't it take? Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from strongroom.engines.conversions import Becoming, Loaded, Ways, of_payloads, table
from strongroom.engines.milvus.place import NAME, is_own
from strongroom.engines.milvus.shape import DTYPES, META, bm25_outputs, fields_of, shape_of
from strongroom.engines.payloads import common, joined, plain
from strongroom.engines.python_values import values_of
from strongroom.model import ROLE, Collection, Conversion, Fidelity, Field, Json, Role

LONGEST_TEXT = 65_535
LONGEST_VECTOR = 32_768
_METRICS = {"l2": "L2", "ip": "IP", "cosine": "COSINE"}
_KINDS = {dtype: kind for kind, dtype in DTYPES.items()}
_PLAIN_INDEX = {"BinaryVector": ("BIN_FLAT", "HAMMING"), "SparseFloatVector": ("SPARSE_INVERTED_INDEX", "IP")}
_HNSW = {"M": 16, "efConstruction": 200}
_ASKED_FOR: Mapping[str, Mapping[str, Json]] = {"HNSW": _HNSW, "IVF_FLAT": {"nlist": 128}, "IVF_SQ8": {"nlist": 128}}


@dataclass(frozen=True, slots=True)
class Offer:
    """What a release of Milvus can hold. `auto_ids`: it takes given ids where it could make its own; `unindexed`: it lets rows be
    read without an index. `nested`: it takes the parameters of an index as one of JSON. `indexed_from`:
    rows from which on it builds an index."""

    release: str
    vectors: frozenset[str]
    several: bool = True
    nullable: bool = True
    auto_ids: bool = False
    unindexed: bool = False
    nested: bool = False
    indexed_from: int = 1024


LITE = Offer(
    "Milvus Lite", frozenset({"FloatVector", "SparseFloatVector"}), auto_ids=True, unindexed=True, nested=True, indexed_from=1
)


def offer_of(version: str) -> Offer:
    """Of a server, by its version as '2.3.5'."""
    found = re.match(r"(\d+)\.(\d+)", version)
    release = (int(found[1]), int(found[2])) if found else (0, 0)
    vectors = {"FloatVector", "BinaryVector"}
    vectors |= {"Float16Vector", "BFloat16Vector", "SparseFloatVector"} if release >= (2, 4) else set()
    vectors |= {"Int8Vector"} if release >= (2, 6) else set()
    return Offer(f"Milvus {version}", frozenset(vectors), release >= (2, 4), release >= (2, 5))


@dataclass(frozen=True, slots=True)
class Made:
    """A collection to be made: its schema as JSON of Milvus's message, and what is said beside it."""

    schema: Mapping[str, Any]
    partitions: Sequence[str]
    keyed: int
    indexes: Sequence[Mapping[str, Json]]
    said: Mapping[str, Json]


def is_of_milvus(collection: Collection) -> bool:
    """Is it of a server, or of Milvus Lite?"""
    return collection.catalog.get("milvus") == "schema"


def made_for(collection: Collection, schema: pa.Schema | None, offer: Offer) -> Made:
    """`schema` is that of the rows, None if there are none."""
    if not is_of_milvus(collection):
        return Made(_converted(collection, schema, offer), (), 0, [_hnsw(one.name, one.metric) for one in collection.fields], {})
    said = collection.catalog
    own = _made_again(said["schema"], offer)
    keyed = any(one.get("is_partition_key") for one in own["fields"])
    partitions = [one for one in said["partitions"] if one != "_default"]
    indexes = [*said["indexes"], *_lacking(own, said["indexes"])] if collection.count and not offer.unindexed else said["indexes"]
    if not offer.nested:
        indexes = [_completed(one) for one in indexes]
    return Made(own, () if keyed else partitions, len(partitions) if keyed else 0, indexes, said)


def _completed(index: Mapping[str, Json]) -> dict[str, Json]:
    """With the parameters that a server asks for and Milvus Lite doesn't tell."""
    return {**index, "params": {**_ASKED_FOR.get(index["params"]["index_type"], {}), **index["params"]}}


def _made_again(schema: Mapping[str, Any], offer: Offer) -> dict[str, Any]:
    """Without what can't be filled: ids of the server's own, vectors of a model, fields that weren't read."""
    left_out = shape_of(schema, partitioned=False).left_out
    kept = [one for one in schema.get("functions", ()) if one.get("type") == "BM25"]
    outputs = bm25_outputs(schema)
    fields = []
    for one in schema["fields"]:
        gone = {"is_function_output"} if one["name"] not in outputs else set()
        gone |= set() if offer.auto_ids else {"autoID"}
        if one["name"] not in left_out:
            fields.append({key: value for key, value in one.items() if key not in gone})
    without = {"struct_array_fields", "functions", *(() if offer.auto_ids else ("autoID",))}
    return {**{key: value for key, value in schema.items() if key not in without}, "fields": fields, "functions": kept}


def _lacking(schema: Mapping[str, Any], indexes: Sequence[Mapping[str, Json]]) -> Iterator[dict[str, Json]]:
    """Indexes that a server needs to read rows, of the kind that is none."""
    there = {one["field"] for one in indexes}
    for one in schema["fields"]:
        if str(one.get("data_type", "")).endswith("Vector") and one["name"] not in there:
            kind, metric = _PLAIN_INDEX.get(one["data_type"], ("FLAT", "L2"))
            metric = "BM25" if one["name"] in bm25_outputs(schema) else metric
            yield {"field": one["name"], "name": one["name"], "params": {"index_type": kind, "metric_type": metric}}


# -- rows of other engines -----------------------------------------------------------------------------------------------------


def _converted(collection: Collection, schema: pa.Schema | None, offer: Offer) -> dict[str, Any]:
    """An id and vectors; all else is dynamic."""
    named = _first(schema, Role.ID) if schema is not None else None
    text = named is None or not pa.types.is_integer(named.type)
    key: dict[str, Any] = {"name": field_name(named.name if named is not None else "id"), "is_primary_key": True}
    key |= {"data_type": "VarChar", "type_params": [_pair("max_length", LONGEST_TEXT)]} if text else {"data_type": "Int64"}
    vectors = [
        {
            "name": field_name(one.name),
            "data_type": _KINDS[one.dtype] if one.dtype in _KINDS and _KINDS[one.dtype] in offer.vectors else "FloatVector",
            "type_params": [_pair("dim", one.dimension)],
        }
        for one in collection.fields
    ]
    return {"name": collection.name, "fields": [key, *vectors], "enable_dynamic_field": True}


def field_name(name: str) -> str:
    """What a column is called as a field."""
    plain = re.sub(r"[^A-Za-z0-9_]", "_", name)
    return plain if NAME.fullmatch(plain) else f"_{plain}"


def others_of(batch: pa.RecordBatch, taken: set[str]) -> list[str]:
    """What of the rows of another engine no field has, as one JSON object each."""
    columns = {one.name: values_of(batch.column(one.name)) for one in batch.schema if role_of(one) is Role.COLUMN}
    payload, ids = _texts(batch, Role.PAYLOAD), _texts(batch, Role.ID)
    texts = {"document": _texts(batch, Role.DOCUMENT), "uri": _texts(batch, Role.URI)}
    found = []
    for row in range(batch.num_rows):
        beside = {name: plain(values[row]) for name, values in (columns | texts).items() if values[row] is not None}
        said = joined(ids[row], common(payload[row]), beside)
        found.append(json.dumps(_keyed({key: value for key, value in said.items() if value is not None and key}, taken)))
    return found


def _keyed(said: Mapping[str, Json], taken: set[str]) -> dict[str, Json]:
    """Under names that no field has, and that are as different as they were."""
    found = dict[str, Json]()
    for key, value in said.items():
        others = {*said, *found} if key in taken or key == META else set()
        found[_key(key, taken | others)] = value
    return found


def role_of(field: pa.Field) -> Role:
    return Role((field.metadata or {}).get(ROLE, Role.COLUMN.encode()).decode())


def _key(key: str, taken: set[str]) -> str:
    while key in taken or key == META:
        key = "_" + key
    return key


def _texts(batch: pa.RecordBatch, role: Role) -> list[Any]:
    field = _first(batch.schema, role)
    return [None] * batch.num_rows if field is None else list(batch.column(field.name).to_pylist())


def _first(schema: pa.Schema, role: Role) -> pa.Field | None:
    return next((one for one in schema if role_of(one) is role), None)


def _pair(key: str, value: object) -> dict[str, str]:
    return {"key": key, "value": str(value)}


def _hnsw(name: str, metric: str) -> dict[str, Json]:
    said = {"index_type": "HNSW", "metric_type": _METRICS.get(metric, "L2"), **_HNSW}
    return {"field": field_name(name), "name": field_name(name), "params": said}


def conversions(collection: Collection, schema: pa.Schema, offer: Offer) -> Sequence[Conversion]:
    """What becomes of each part of such rows."""
    made = made_for(collection, schema, offer)
    shape, own = shape_of(made.schema, partitioned=False), is_of_milvus(collection)
    there = dict(zip((one.name for one in collection.fields), fields_of(made.schema, made.indexes), strict=True))

    def load(batch: pa.RecordBatch) -> Loaded:
        key = next(one.name for one in batch.schema if role_of(one) is Role.ID)
        taken = {one.name for one in shape.columns}
        payloads = [json.loads(one) for one in others_of(batch, taken)]
        ids = batch.column(key).cast(shape.id.arrow).to_pylist()
        found = of_payloads(batch, ids, payloads, key_of=lambda name: _key(name, taken))
        return replace(found, types={key: shape.id.arrow}, called={key: shape.id.name})

    def vector(field: Field) -> Becoming:
        its = there[field.name]
        return Becoming(its.dtype, its.metric, str(its.index.get("kind", "")))

    return table(collection, schema, Ways(load, vector, Fidelity.KEPT, gaps=False, own=own))


# -- what doesn't fit, what changes -------------------------------------------------------------------------------------------


def objections(collection: Collection, schema: pa.Schema, own: str, offer: Offer) -> Iterator[str]:
    """Why such rows can't be loaded into a collection called `own`."""
    if is_own(own):
        yield f"{own!r} is a name that restores give to what they build: use --rename"
    if is_of_milvus(collection):
        yield from _unoffered(collection.catalog["schema"], offer)
        return
    if not collection.fields:
        yield "Milvus holds no rows without vectors"
    if len(collection.fields) > 1 and not offer.several:
        yield f"{offer.release} holds one vector a row, and these rows have {len(collection.fields)}: that takes 2.4 or later"
    for one in collection.fields:
        if one.dimension > LONGEST_VECTOR:
            yield f"field {one.name!r} has {one.dimension:,} dimensions, and Milvus at most {LONGEST_VECTOR:,}"
    if sum(role_of(one) is Role.ID for one in schema) != 1:
        yield "the rows have no id column"
    names = [field_name(one.name) for one in schema if role_of(one) in (Role.ID, Role.VECTOR)]
    if len(set(names)) < len(names):
        yield f"two fields would be called alike: {', '.join(sorted(names))}"


def _unoffered(schema: Mapping[str, Any], offer: Offer) -> Iterator[str]:
    kinds = [(str(one["name"]), str(one.get("data_type"))) for one in schema["fields"]]
    vectors = [(name, kind) for name, kind in kinds if kind.endswith("Vector")]
    for name, kind in vectors:
        if kind not in offer.vectors:
            yield f"{offer.release} has no {kind} (field {name!r})"
    if len(vectors) > 1 and not offer.several:
        yield f"{offer.release} holds one vector a row, and these rows have {len(vectors)}: that takes 2.4 or later"
    for one in schema["fields"]:
        if one.get("nullable") and not offer.nullable:
            yield f"{offer.release} has no nulls (field {one['name']!r}): that takes 2.5 or later"


def losses(collection: Collection, offer: Offer) -> Iterator[str]:
    """What loading rows changes beside their parts."""
    if is_of_milvus(collection):
        said = collection.catalog["schema"]
        if any(one.get("autoID") for one in said["fields"]) and not offer.auto_ids:
            yield f"{collection.name}: ids stay what they are, so Milvus won't make them any more (auto_id is off)"
        models = [one["name"] for one in said.get("functions", ()) if one.get("type") != "BM25"]
        if models:
            yield f"{collection.name}: functions that call a model are not made again ({', '.join(models)}); their vectors are kept"
        if "collection.ttl.seconds" in collection.catalog["properties"]:
            yield f"{collection.name}: rows expire by their TTL from the restore on"
        lacking = list(_lacking(said, collection.catalog["indexes"]))
        if lacking and collection.count and not offer.unindexed:
            kind = lacking[0]["params"]["index_type"]
            yield f"{collection.name}: {lacking[0]['field']!r} gets an index ({kind}): it couldn't be read without"
    else:
        yield "document, uri, columns and payload become dynamic fields; keys without a name are dropped"
        yield f"what is longer than Milvus takes stops the restore: ids of {LONGEST_TEXT:,} bytes, dynamic fields of 65,536 a row"
