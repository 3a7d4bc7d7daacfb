"""What rows do the keys of a collection make? Hashes and JSON documents by key, vector sets by element."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from strongroom.engines.payloads import exact, written
from strongroom.engines.protocol import rows_per_block
from strongroom.engines.redis.definitions import HASH, Definition, VectorField
from strongroom.engines.redis.keyfile import Block, Record
from strongroom.engines.redis.names import OWN, raw_of, text_of
from strongroom.engines.redis.values import Element, VectorSet, hash_of, json_of, vector_set_of
from strongroom.model import ROLE, Collection, Field, Json, Role

EXPIRES, ATTRIBUTES, DOCUMENT = f"{OWN}expires", f"{OWN}attributes", f"{OWN}document"
"""Names in a payload that are no field of a hash: when the key expires; attributes and documents that are no JSON object."""
VECTOR = "vector"
_ARROW = {"float32": pa.float32(), "float16": pa.float16(), "int8": pa.int8(), "uint8": pa.uint8()}
_NUMPY: Mapping[str, Any] = {"float32": np.float32, "float16": np.float16, "int8": np.int8, "uint8": np.uint8}


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its vectors as bytes, None where it has none, and its payload."""

    id: str
    vectors: tuple[bytes | None, ...]
    payload: Mapping[str, Json]


def schema_of(fields: Sequence[Field]) -> pa.Schema:
    """The columns of rows with these vector fields."""
    vectors = [pa.field(one.name, vector_type(one), metadata={ROLE: Role.VECTOR.encode()}) for one in fields]
    identity = pa.field("id", pa.utf8(), nullable=False, metadata={ROLE: Role.ID.encode()})
    return pa.schema([identity, *vectors, pa.field("payload", pa.utf8(), metadata={ROLE: Role.PAYLOAD.encode()})])


def vector_type(field: Field) -> pa.DataType:
    return pa.binary(2 * field.dimension) if field.dtype == "bfloat16" else pa.list_(_ARROW[field.dtype], field.dimension)


def batch_of(rows: Sequence[Row], fields: Sequence[Field]) -> pa.RecordBatch:
    """Rows as a batch."""
    schema = schema_of(fields)
    columns: list[pa.Array] = [pa.array([row.id for row in rows], pa.utf8())]
    for place, field in enumerate(fields):
        columns.append(column_of([row.vectors[place] for row in rows], field))
    columns.append(pa.array([payload_text(row.payload) for row in rows], pa.utf8()))
    return pa.record_batch(columns, schema=schema)


def column_of(values: Sequence[bytes | None], field: Field) -> pa.Array:
    """Vectors as a column."""
    kind = vector_type(field)
    given = b"".join(one for one in values if one is not None)
    there = np.array([one is not None for one in values], np.bool_)
    count = int(there.sum())
    if field.dtype == "bfloat16":
        dense = pa.FixedSizeBinaryArray.from_buffers(kind, count, [None, pa.py_buffer(given)])
    else:
        numbers = pa.Array.from_buffers(kind.value_type, count * field.dimension, [None, pa.py_buffer(given)])
        dense = pa.FixedSizeListArray.from_arrays(numbers, type=kind)
    return dense if there.all() else dense.take(pa.array(np.cumsum(there) - 1, mask=~there))


def payload_text(payload: Mapping[str, Json]) -> str | None:
    return written(payload) if payload else None


# -- of keys -------------------------------------------------------------------------------------------------------------------


def row_of(record: Record, definition: Definition) -> Row:
    """The row of a hash or a JSON document."""
    if definition.kind == HASH:
        vectors, payload = hash_row(hash_of(record.value), definition.vectors)
    else:
        vectors, payload = json_row(json_of(record.value), definition.vectors)
    return Row(definition.id_of(record.key), vectors, payload | ({EXPIRES: record.expires} if record.expires >= 0 else {}))


def hash_row(fields: dict[bytes, bytes], vectors: Sequence[VectorField]) -> tuple[tuple[bytes | None, ...], dict[str, Json]]:
    """Vectors and payload of a hash: bytes of the right length are the vector."""
    found = []
    for one in vectors:
        value = fields.get(raw_of(one.source))
        found.append(value if value is not None and len(value) == one.bytes else None)
    held = {raw_of(one.source) for one, value in zip(vectors, found, strict=True) if value is not None}
    return tuple(found), {text_of(name): text_of(value) for name, value in fields.items() if name not in held}


def hash_fields(row: Row, vectors: Sequence[VectorField]) -> dict[bytes, bytes]:
    """The inverse of `hash_row`; values of other engines as JSON, unless they are text."""
    fields = {raw_of(one.source): value for one, value in zip(vectors, row.vectors, strict=True) if value is not None}
    for name, value in row.payload.items():
        if name != EXPIRES:
            fields[raw_of(name)] = raw_of(value if isinstance(value, str) else written(value, spaced=True))
    return fields


def json_row(text: str, vectors: Sequence[VectorField]) -> tuple[tuple[bytes | None, ...], dict[str, Json]]:
    """Vectors and payload of a document: the document without the vectors that are its numbers exactly, or all of it under a name
    of ours."""
    document = json.loads(text)
    found: list[bytes | None] = []
    for one in vectors:
        holder, name = _holder(document, one.source)
        value = holder.get(name) if holder is not None else None
        found.append(_packed(value, one))
        if found[-1] is not None and holder is not None and _numbers(found[-1], one) == value:
            del holder[name]
    if not isinstance(document, dict) or any(key.startswith(OWN) for key in document):
        return tuple(found), {DOCUMENT: document}
    return tuple(found), document


def json_document(row: Row, vectors: Sequence[VectorField]) -> Json:
    """The inverse of `json_row`."""
    payload = {name: value for name, value in row.payload.items() if name != EXPIRES}
    document = payload.pop(DOCUMENT, payload)
    for one, value in zip(vectors, row.vectors, strict=True):
        holder, name = _holder(document, one.source)
        if holder is not None and value is not None:
            holder.setdefault(name, _numbers(value, one))
    return document


def _numbers(vector: bytes, field: VectorField) -> list[float]:
    found: list[float] = np.frombuffer(vector, _NUMPY.get(field.dtype, np.float32)).astype(np.float64).tolist()
    return found


def _holder(document: Json, path: str) -> tuple[dict[str, Json] | None, str]:
    """The object that a plain path leads to, and the name in it."""
    *steps, name = path.split(".")[1:]
    for step in steps:
        document = document.get(step) if isinstance(document, dict) else None
    return (document, name) if isinstance(document, dict) else (None, name)


def _packed(value: Json, field: VectorField) -> bytes | None:
    if not isinstance(value, list) or len(value) != field.dimension or field.dtype not in _NUMPY:
        return None
    if not all(isinstance(one, int | float) and not isinstance(one, bool) for one in value):
        return None
    return bytes(np.array(value, np.float64).astype(_NUMPY[field.dtype]).tobytes())


# -- of vector sets ------------------------------------------------------------------------------------------------------------


def vector_set_collection(name: str, found: VectorSet) -> Collection:
    index = {
        "kind": "HNSW",
        "quantization": found.quantization,
        "m": found.connections,
        "reduced_from": found.reduced_from,
    }
    field = Field(VECTOR, "float32", found.dimension, "cosine", index, found.quantization != "f32")
    return Collection(name, found.count, (field,), {"kind": "vector set"})


def element_row(element: Element) -> Row:
    return Row(text_of(element.name), (element.vector.tobytes(),), attributes_payload(element.attributes))


def attributes_payload(attributes: bytes) -> dict[str, Json]:
    """Attributes as a payload: they are a JSON object as a rule, and any text by right. The text is kept beside the object where
    it is written otherwise than we would."""
    if not attributes:
        return {}
    try:
        found = exact(attributes.decode())
    except ValueError:
        found = None
    if not isinstance(found, dict) or any(name.startswith(OWN) for name in found):
        return {ATTRIBUTES: text_of(attributes)}
    return found if (payload_text(found) or "").encode() == attributes else {**found, ATTRIBUTES: text_of(attributes)}


def attributes_of(payload: Mapping[str, Json]) -> bytes:
    """The inverse, b'' for none."""
    if ATTRIBUTES in payload:
        return raw_of(payload[ATTRIBUTES])
    return (payload_text(payload) or "").encode()


# -- in blocks -----------------------------------------------------------------------------------------------------------------


def blocks_of(records: Iterable[Record], definition: Definition) -> Iterator[Block]:
    """Records in blocks of rows: those with all vectors, and those that lack one."""
    most = rows_per_block(sum(one.bytes for one in definition.vectors))
    full: list[tuple[Record, tuple[bytes, ...]]] = []
    partial: list[Record] = []
    for record in records:
        vectors = row_of(record, definition).vectors
        if None in vectors:
            partial.append(record)
        else:
            full.append((record, vectors))  # type: ignore[arg-type]
        if len(full) == most:
            yield _dense(full)
            full = []
        if len(partial) == most:
            yield Block(partial)
            partial = []
    if full:
        yield _dense(full)
    if partial:
        yield Block(partial)


def _dense(rows: Sequence[tuple[Record, tuple[bytes, ...]]]) -> Block:
    return Block([record for record, _ in rows], list(zip(*(vectors for _, vectors in rows), strict=True)))


def element_batches(value: bytes, fields: Sequence[Field]) -> Iterator[pa.RecordBatch]:
    """The rows of a vector set."""
    found = vector_set_of(value)
    most = rows_per_block(4 * found.dimension)
    rows: list[Row] = []
    for element in found.elements():
        rows.append(element_row(element))
        if len(rows) == most:
            yield batch_of(rows, fields)
            rows = []
    if rows:
        yield batch_of(rows, fields)
