"""Which columns do the rows of a collection have, by its schema? Pure: schemas are the JSON form of Milvus's own message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from strongroom.model import ROLE, Field, Json, Role

TYPE = b"strongroom.milvus"
"""Key of the metadata of a column: Milvus's type of it; 'partition' for the partition that a row is in."""
META = "$meta"
"""What Milvus calls the fields of a row that the schema doesn't name."""
SPARSE = pa.struct([pa.field("indices", pa.list_(pa.uint32())), pa.field("values", pa.list_(pa.float32()))])
SCALARS = {
    "Bool": pa.bool_(),
    "Int8": pa.int8(),
    "Int16": pa.int16(),
    "Int32": pa.int32(),
    "Int64": pa.int64(),
    "Float": pa.float32(),
    "Double": pa.float64(),
    **dict.fromkeys(("VarChar", "Text", "JSON", "Geometry", "Timestamptz"), pa.utf8()),
}
DTYPES = {"FloatVector": "float32", "Float16Vector": "float16", "BFloat16Vector": "bfloat16", "Int8Vector": "int8"}
_ELEMENTS = {"float32": pa.float32(), "float16": pa.float16(), "int8": pa.int8()}
_METRICS = {"L2": "l2", "IP": "ip", "COSINE": "cosine"}
_DOCUMENTS = ("document", "text", "content")
_MOST_BYTES_OF_TEXT = 4096


@dataclass(frozen=True, slots=True)
class Column:
    """A field of the schema as a column of rows. `kind` is Milvus's type, `element` that of an array's values."""

    name: str
    kind: str
    arrow: pa.DataType
    role: Role
    element: str = ""
    dimension: int = 0

    @property
    def field(self) -> pa.Field:
        return pa.field(self.name, self.arrow, metadata={ROLE: self.role.encode(), TYPE: self.kind.encode()})


@dataclass(frozen=True, slots=True)
class Shape:
    """The rows of a collection: its fields, then, each '' if there is none, the columns for what of a row no field has (`document`
    and `uri` are texts of those names, `payload` is all else), and for its partition. `left_out` are fields that can't be read."""

    columns: tuple[Column, ...]
    payload: str
    document: str
    uri: str
    partition: str
    left_out: tuple[str, ...]

    @property
    def schema(self) -> pa.Schema:
        others = [(self.document, Role.DOCUMENT), (self.uri, Role.URI), (self.payload, Role.PAYLOAD)]
        fields = [one.field for one in self.columns]
        fields += [pa.field(name, pa.utf8(), metadata={ROLE: role.encode()}) for name, role in others if name]
        if self.partition:
            fields.append(pa.field(self.partition, pa.utf8(), metadata={ROLE: Role.COLUMN.encode(), TYPE: b"partition"}))
        return pa.schema(fields)

    @property
    def id(self) -> Column:
        return next(one for one in self.columns if one.role is Role.ID)

    @property
    def row_bytes(self) -> int:
        """About how many bytes a row takes."""
        texts = sum(_MOST_BYTES_OF_TEXT for one in self.columns if one.arrow == pa.utf8()) // 8
        return max(256, texts + sum(one.dimension * 4 for one in self.columns))


def shape_of(schema: Mapping[str, Any], *, partitioned: bool) -> Shape:
    """`partitioned` says that users put rows into partitions."""
    outputs = bm25_outputs(schema)
    document = next((one["name"] for name in _DOCUMENTS for one in schema["fields"] if _is_text(one, name)), "")
    found, left_out = [], [str(one["name"]) for one in schema.get("struct_array_fields", ())]
    for one in schema["fields"]:
        column = _column(one, document)
        if column is not None and column.name not in outputs:
            found.append(column)
        elif column is None:
            left_out.append(str(one["name"]))
    taken = {str(one["name"]) for one in schema["fields"]}
    dynamic = bool(schema.get("enable_dynamic_field"))
    return Shape(
        tuple(found),
        _free("payload", taken) if dynamic else "",
        "document" if dynamic and not document and "document" not in taken else "",
        "uri" if dynamic and "uri" not in taken else "",
        _free("partition", taken) if partitioned else "",
        tuple(left_out),
    )


def bm25_outputs(schema: Mapping[str, Any]) -> set[str]:
    """The fields that Milvus makes of texts, and gives to nobody."""
    functions = [one for one in schema.get("functions", ()) if one.get("type") == "BM25"]
    return {str(name) for one in functions for name in one["output_field_names"]}


def fields_of(schema: Mapping[str, Any], indexes: Sequence[Mapping[str, Json]]) -> tuple[Field, ...]:
    """The dense vectors, with their indexes."""
    found = []
    for one in shape_of(schema, partitioned=False).columns:
        if one.kind in DTYPES:
            index = next((its for its in indexes if its["field"] == one.name), None)
            said = dict(index["params"]) if index else {}
            metric = _METRICS.get(str(said.pop("metric_type", "L2")).upper(), "l2")
            kind = {"kind": said.pop("index_type"), **said} if index else {}
            found.append(Field(one.name, DTYPES[one.kind], one.dimension, metric, kind))
    return tuple(found)


def parameters(said: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Key and value pairs, sorted."""
    return {one["key"]: one.get("value", "") for one in sorted(said, key=lambda one: one["key"])}


def _is_text(field: Mapping[str, Any], name: str) -> bool:
    return field["name"] == name and field.get("data_type") in ("VarChar", "Text") and not field.get("is_primary_key")


def _column(field: Mapping[str, Any], document: str) -> Column | None:
    """None if it is of a type that isn't known."""
    name, kind, element = str(field["name"]), str(field.get("data_type")), str(field.get("element_type", ""))
    dimension = int(parameters(field.get("type_params", ())).get("dim", 0))
    if field.get("is_primary_key"):
        return Column(name, kind, SCALARS[kind], Role.ID)
    if kind in SCALARS:
        return Column(name, kind, SCALARS[kind], Role.DOCUMENT if name == document else Role.COLUMN)
    if kind == "BFloat16Vector":
        return Column(name, kind, pa.binary(2 * dimension), Role.VECTOR, "", dimension)
    if kind in DTYPES:
        return Column(name, kind, pa.list_(_ELEMENTS[DTYPES[kind]], dimension), Role.VECTOR, "", dimension)
    if kind == "BinaryVector":
        return Column(name, kind, pa.binary(dimension // 8), Role.COLUMN, "", dimension)
    if kind == "SparseFloatVector":
        return Column(name, kind, SPARSE, Role.COLUMN)
    if kind == "Array" and element in SCALARS:
        return Column(name, kind, pa.list_(SCALARS[element]), Role.COLUMN, element)
    return None


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name
