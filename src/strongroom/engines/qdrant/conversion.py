"""How do points become rows, and rows of any engine points? Without libraries: their objects are looked into, never made.

Qdrant's ids are whole numbers and UUIDs. Rows have them as text. A text that is neither becomes a UUID made of it, and stands in
the payload, from where it comes back.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from strongroom.engines.payloads import common, joined, plain
from strongroom.engines.python_values import values_of
from strongroom.engines.qdrant.shape import KIND, SPARSE, Shape, Vector
from strongroom.errors import EngineFailed, Unreadable
from strongroom.model import ROLE, Json, Role

ORIGINAL_ID = "strongroom_id"
"""The key of the payload under which an id stands that Qdrant can't have."""
DEEPEST = 123
"""How many objects and lists may be inside of each other in a payload. Qdrant Edge 0.9 takes more, and then can't be opened."""
_NAMESPACE = uuid.UUID("5a6c1b5e-6f0a-5d0e-9a51-7c1d0f7f2a11")
_HIGHEST = (1 << 64) - 1


def point_id(text: str) -> int | str:
    """The id of the point of a row."""
    if text.isascii() and text.isdigit() and int(text) <= _HIGHEST and str(int(text)) == text:
        return int(text)
    try:
        if str(uuid.UUID(text)) == text:
            return text
    except ValueError:
        pass
    return str(uuid.uuid5(_NAMESPACE, text))


def row_id(point: int | str | uuid.UUID, payload: dict[str, Json]) -> str:
    """The id of the row of a point; if it stands in the payload, it is taken from there."""
    said = payload.get(ORIGINAL_ID)
    if isinstance(said, str) and point_id(said) == str(point):
        del payload[ORIGINAL_ID]
        return said
    return str(point)


# -- points to rows ----------------------------------------------------------------------------------------------------------


def batch_of(shape: Shape, records: Sequence[Any]) -> pa.RecordBatch:
    """Points as records of `qdrant_edge` or `qdrant_client`, as rows."""
    payloads = [dict(one.payload or {}) for one in records]
    given = [_named(one.vector) for one in records]
    columns: list[Any] = [[row_id(one.id, payload) for one, payload in zip(records, payloads, strict=True)]]
    columns += [_column(one, [its.get(one.name) for its in given]) for one in shape.vectors]
    columns += [[_taken(payload, key) for payload in payloads] for key in ("document", "uri")]
    columns.append([_canonical(payload) for payload in payloads])
    schema = shape.schema
    arrays = [one if isinstance(one, pa.Array) else pa.array(one, field.type) for one, field in zip(columns, schema, strict=True)]
    return pa.record_batch(arrays, schema=schema)


def _named(vector: Any) -> dict[str, Any]:
    """A lone vector without a name is given as it is."""
    if vector is None:
        return {}
    return vector if isinstance(vector, dict) else {"": vector}


def _column(vector: Vector, values: list[Any]) -> pa.Array:
    field = vector.column_field
    if vector.kind == "sparse":
        found = [None if one is None else {"indices": list(one.indices), "values": list(one.values)} for one in values]
        return pa.array(found, field.type)
    if vector.kind == "multi":
        return pa.array(values, field.type)
    there = np.array([one is not None for one in values], bool)
    empty = [0] * vector.dimension
    given = np.array([empty if one is None else one for one in values], np.float32).reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        numbers = given.astype(vector.dtype)
    if not np.array_equal(numbers, given, equal_nan=numbers.dtype.kind == "f"):
        raise Unreadable(f"vectors {vector.name!r} are said to be {vector.dtype}, and hold numbers that are none")
    mask = None if there.all() else pa.array(~there)
    return pa.FixedSizeListArray.from_arrays(pa.array(numbers), type=field.type, mask=mask)


def _taken(payload: dict[str, Json], key: str) -> str | None:
    return payload.pop(key) if isinstance(payload.get(key), str) else None


def _canonical(payload: dict[str, Json]) -> str:
    return json.dumps(payload, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


# -- rows to points ----------------------------------------------------------------------------------------------------------


Given = tuple[int | str, dict[str, Any], dict[str, Json]]
"""A point: id, vectors by name (numbers, lists of them, or a struct of indices and values), payload."""


def points_of(batch: pa.RecordBatch, names: Mapping[str, str]) -> Iterator[Given]:
    """Rows as points; `names` are what the vectors of the columns are called (`Shape.names`). Columns and documents of other
    engines go into the payload by their names. Raises EngineFailed if a row has something else there by that name."""
    roles = {field.name: role_of(field) for field in batch.schema}
    ids = batch.column(next(name for name, role in roles.items() if role is Role.ID)).to_pylist()
    vectors = {names[name]: _lists(batch, name) for name in roles if _is_vector(batch.schema.field(name))}
    texts = {key: _of_role(batch, roles, role) for key, role in (("document", Role.DOCUMENT), ("uri", Role.URI))}
    payloads = _of_role(batch, roles, Role.PAYLOAD)
    others = {
        name: values_of(batch.column(name))
        for name, role in roles.items()
        if role is Role.COLUMN and not _is_vector(batch.schema.field(name))
    }
    for row, one in enumerate(ids):
        point = point_id(str(one))
        more = {name: plain(values[row]) for name, values in (others | texts).items() if values[row] is not None}
        if str(point) != str(one):
            more[ORIGINAL_ID] = str(one)
        payload = joined(one, _shallow(one, payloads[row]), more)
        yield point, {name: values[row] for name, values in vectors.items() if values[row] is not None}, payload


def _shallow(row: object, text: str | None) -> dict[str, Json]:
    """A payload of which Qdrant can read its own log. Raises EngineFailed."""
    payload = common(text)
    if text and text.count("{") + text.count("[") > DEEPEST and _depth(payload) > DEEPEST:
        hint = "restore to another engine, or change the row at the source"
        what = f"row {str(row)[:40]!r} has a payload nested {_depth(payload)} deep, and Qdrant can't read more than {DEEPEST}"
        raise EngineFailed(what, hint=hint)
    return payload


def _depth(value: Json) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, inner), default=0) if isinstance(value, dict | list) else 0


def role_of(field: pa.Field) -> Role:
    """What a column means."""
    return Role((field.metadata or {}).get(ROLE, Role.COLUMN.encode()).decode())


def _is_vector(field: pa.Field) -> bool:
    return role_of(field) is Role.VECTOR or KIND in (field.metadata or {})


def _of_role(batch: pa.RecordBatch, roles: dict[str, Role], role: Role) -> list[Any]:
    name = next((name for name, its in roles.items() if its is role), None)
    return [None] * batch.num_rows if name is None else batch.column(name).to_pylist()


def _lists(batch: pa.RecordBatch, name: str) -> list[Any]:
    column = batch.column(name)
    if column.type == SPARSE or not pa.types.is_fixed_size_binary(column.type):
        return list(column.to_pylist())
    raw = [None if one is None else np.frombuffer(one, "<u2").astype(np.uint32) << 16 for one in column.to_pylist()]
    return [None if one is None else one.view(np.float32).tolist() for one in raw]
