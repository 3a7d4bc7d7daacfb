"""What must become of rows, from whichever engine, before Chroma takes them? And why can't it take some? Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from strongroom.engines.conversions import Loaded, of_payloads
from strongroom.engines.payloads import Number, exact, joined, written
from strongroom.engines.python_values import values_of
from strongroom.errors import WrongRequest
from strongroom.model import ROLE, Json, Role

_RESERVED = ("chroma:", "#")
_INT64 = range(-(1 << 63), 1 << 63)


@dataclass(frozen=True, slots=True)
class Records:
    """Rows as chromadb's `add` takes them. `vectors` is n x dimension float32."""

    ids: list[str]
    vectors: npt.NDArray[np.float32]
    documents: list[str | None]
    metadatas: list[dict[str, Json] | None]
    uris: list[str | None]


def role_of(field: pa.Field) -> Role | None:
    """What a column means; None if it doesn't say."""
    found = (field.metadata or {}).get(ROLE)
    return Role(found.decode()) if found else None


def columns_of(schema: pa.Schema, role: Role) -> list[str]:
    """The names of the columns that mean `role`. A column without a role is one of the engine's own."""
    return [field.name for field in schema if (role_of(field) or Role.COLUMN) is role]


def records(batch: pa.RecordBatch) -> Records:
    """Ids as text, vectors as float32, payload and all other columns as Chroma's metadata."""

    def first(role: Role) -> list[str | None]:
        names = columns_of(batch.schema, role)
        return batch.column(names[0]).to_pylist() if names else [None] * batch.num_rows

    def beside(row: int) -> dict[str, Any]:
        return {name: values[row] for name, values in extra.items() if values[row] is not None}

    ids = [str(value) for value in first(Role.ID)]
    vectors = floats(batch.column(columns_of(batch.schema, Role.VECTOR)[0]))
    extra = {name: values_of(batch.column(name)) for name in columns_of(batch.schema, Role.COLUMN)}
    payloads = enumerate(first(Role.PAYLOAD))
    metadatas = [metadata(joined(ids[row], exact(payload), beside(row))) for row, payload in payloads]
    return Records(ids, vectors, first(Role.DOCUMENT), metadatas, first(Role.URI))


def floats(column: pa.Array) -> npt.NDArray[np.float32]:
    """A vector column (fixed-size list of numbers, or bfloat16 as fixed-size binary) as n x dimension float32. Raises WrongRequest
    if a row has no vector."""
    if column.null_count:
        raise WrongRequest("a row has no vector", hint="Chroma can't hold a row without its vector; restore to another engine")
    if pa.types.is_fixed_size_binary(column.type):
        width = column.type.byte_width
        raw = np.frombuffer(column.buffers()[1], np.uint8)[column.offset * width : (column.offset + len(column)) * width]
        return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32).reshape(len(column), width // 2)
    values = column.flatten().to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(values, np.float32).reshape(len(column), column.type.list_size)


def metadata(values: dict[str, Any]) -> dict[str, Json] | None:
    """What Chroma can hold of it: nulls dropped, what is neither scalar nor uniform list as JSON text, reserved keys renamed."""
    kept = {}
    for key, value in values.items():
        if value is not None and key:
            name = key_of(key)
            while name != key and name in values:
                name = "_" + name
            kept[name] = _value(value)
    return kept or None


def key_of(key: str) -> str:
    """What a key is called in metadata."""
    return "_" + key if key.startswith(_RESERVED) else key


def loaded(batch: pa.RecordBatch) -> Loaded:
    """What Chroma is given of these rows."""
    found = records(batch)
    return of_payloads(batch, found.ids, found.metadatas, document=found.documents, uri=found.uris, key_of=key_of)


def _value(value: Any) -> Json:
    if isinstance(value, list) and value and len({type(item) for item in value}) == 1 and all(map(_fits, value)):
        return value
    if not isinstance(value, list) and _fits(value):
        return value
    return value.hex() if isinstance(value, bytes) else str(value) if isinstance(value, Number) else written(value, spaced=True)


def _fits(value: Any) -> bool:
    if isinstance(value, bool | str):
        return True
    return (isinstance(value, int) and value in _INT64) or (isinstance(value, float) and math.isfinite(value))


def objections(schema: pa.Schema) -> Iterable[str]:
    """Why rows of this schema can't be loaded at all."""
    vectors = columns_of(schema, Role.VECTOR)
    if len(vectors) != 1:
        yield f"Chroma holds one vector a row, and these rows have {len(vectors)} ({', '.join(vectors) or 'none'})"
    if len(columns_of(schema, Role.ID)) != 1:
        yield "the rows have no id column"
    for name in vectors:
        kind = schema.field(name).type
        numbers = pa.types.is_fixed_size_list(kind) and _is_number(kind.value_type)
        if not numbers and not pa.types.is_fixed_size_binary(kind):
            yield f"vectors of type {kind} can't be turned to float32"


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def losses(schema: pa.Schema) -> Iterable[str]:
    """What loading changes beside the parts of the rows."""
    if columns_of(schema, Role.COLUMN):
        yield "columns become metadata"
    if columns_of(schema, Role.COLUMN) or columns_of(schema, Role.PAYLOAD):
        yield "keys of metadata without a name are dropped"
