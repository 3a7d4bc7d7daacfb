"""How do Milvus's columns lie in its messages, and in Arrow? Pure; messages are looked into and made by the class that is given.

Floats lie in messages one after another, so they are taken and put as they are, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from strongroom.engines.milvus.shape import DTYPES, META, SPARSE, Column, Shape
from strongroom.engines.payloads import exact, written
from strongroom.errors import EngineFailed, Unreadable
from strongroom.model import Json

_SLOTS = {
    "Bool": "bool_data",
    **dict.fromkeys(("Int8", "Int16", "Int32"), "int_data"),
    "Int64": "long_data",
    "Float": "float_data",
    "Double": "double_data",
    **dict.fromkeys(("VarChar", "Text", "Timestamptz"), "string_data"),
    "JSON": "json_data",
    "Geometry": "geometry_wkt_data",
}
_PACKED: Mapping[str, np.dtype[Any]] = {"Float": np.dtype("<f4"), "Double": np.dtype("<f8")}
_BYTES = {"BinaryVector": "binary_vector", "Float16Vector": "float16_vector", "BFloat16Vector": "bfloat16_vector"}
_BYTES |= {"Int8Vector": "int8_vector"}
_PAIR = np.dtype([("index", "<u4"), ("value", "<f4")])


def batch_of(shape: Shape, answer: Any, partition: str) -> pa.RecordBatch:
    """The rows of an answer to a query. Raises Unreadable if a column isn't there."""
    given = {str(one.field_name): one for one in answer.fields_data}
    if shape.id.name not in given:
        raise Unreadable(f"field {shape.id.name!r} is missing in what the server answered")
    count = len(_values(shape.id, given[shape.id.name]))
    arrays = []
    for column in shape.columns:
        if column.name not in given:
            raise Unreadable(f"field {column.name!r} is missing in what the server answered")
        arrays.append(_decoded(column, given[column.name], count))
    if shape.payload:
        arrays += _others(shape, given.get(META), count)
    if shape.partition:
        arrays.append(pa.array([partition] * count, pa.utf8()))
    return pa.record_batch(arrays, schema=shape.schema)


def _values(column: Column, data: Any) -> Any:
    """What a message holds: of nullable fields perhaps only the values that are there."""
    if column.kind in _SLOTS:
        slot = getattr(data.scalars, _SLOTS[column.kind])
        return _unpacked(slot, _PACKED[column.kind]) if column.kind in _PACKED else list(slot.data)
    if column.kind == "Array":
        return [list(getattr(one, _SLOTS[column.element]).data) for one in data.scalars.array_data.data]
    if column.kind == "FloatVector":
        return _unpacked(data.vectors.float_vector, np.dtype("<f4")).reshape(-1, column.dimension)
    if column.kind == "SparseFloatVector":
        return list(data.vectors.sparse_float_vector.contents)
    width = _width(column)
    return np.frombuffer(getattr(data.vectors, _BYTES[column.kind]), np.uint8).reshape(-1, width)


def _decoded(column: Column, data: Any, count: int) -> pa.Array:
    """Raises Unreadable if the message doesn't have `count` values."""
    there = np.array(data.valid_data, bool) if len(data.valid_data) else np.ones(count, bool)
    values = _values(column, data)
    if len(values) == len(there) == count:
        values = values[there] if isinstance(values, np.ndarray) else list(compress(values, there))
    if len(there) != count or len(values) != int(there.sum()):
        raise Unreadable(f"field {column.name!r}: the server answered with {len(values)} values for {count} rows")
    dense = _dense(column, values)
    if there.all():
        return dense
    return dense.take(pa.array(np.cumsum(there) - 1, mask=~there))


def _dense(column: Column, values: Any) -> pa.Array:
    if column.kind == "SparseFloatVector":
        return _sparse(values)
    if column.kind in DTYPES and pa.types.is_fixed_size_list(column.arrow):
        flat = np.ascontiguousarray(values).reshape(-1).view(DTYPES[column.kind])
        return pa.FixedSizeListArray.from_arrays(pa.array(flat), type=column.arrow)
    if pa.types.is_fixed_size_binary(column.arrow):
        buffer = pa.py_buffer(np.ascontiguousarray(values).tobytes())
        return pa.FixedSizeBinaryArray.from_buffers(column.arrow, len(values), [None, buffer])
    if column.kind == "JSON":
        values = [one.decode() for one in values]
    return pa.array(values if isinstance(values, list) else np.ascontiguousarray(values), column.arrow)


def _sparse(values: Sequence[bytes]) -> pa.Array:
    pairs = np.frombuffer(b"".join(values), _PAIR)
    ends = np.cumsum([0, *(len(one) // _PAIR.itemsize for one in values)]).astype(np.int32)
    parts = [pa.array(np.ascontiguousarray(pairs[name])) for name in ("index", "value")]
    lists = [pa.ListArray.from_arrays(pa.array(ends), one) for one in parts]
    return pa.StructArray.from_arrays(lists, fields=list(SPARSE)).cast(SPARSE)


def _others(shape: Shape, data: Any, count: int) -> list[pa.Array]:
    """Documents, uris and payloads in what no field has."""
    raw = list(data.scalars.json_data.data) if data is not None else [b"{}"] * count
    if len(raw) != count:
        raise Unreadable(f"the server answered with {len(raw)} dynamic fields for {count} rows")
    rows = [dict(exact(one.decode())) for one in raw]
    taken = [name for name in (shape.document, shape.uri) if name]
    texts = [[_text_of(row, name) for row in rows] for name in taken]
    payloads = [written(row) if row else None for row in rows]
    return [pa.array(one, pa.utf8()) for one in (*texts, payloads)]


def _text_of(row: dict[str, Json], name: str) -> str | None:
    return row.pop(name) if isinstance(row.get(name), str) else None


# -- rows into messages --------------------------------------------------------------------------------------------------------


def encoded(column: Column, values: pa.Array, kind: Any) -> Any:
    """A column as a FieldData of `kind`, schema_pb2. Raises EngineFailed if a value is of another width."""
    data = kind.FieldData(field_name=column.name, type=kind.DataType.Value(column.kind))
    if values.null_count:
        data.valid_data.extend(values.is_valid().to_pylist())
        values = values.drop_null()
    if column.kind in _PACKED:
        _put(getattr(data.scalars, _SLOTS[column.kind]), values.to_numpy(zero_copy_only=False).astype(_PACKED[column.kind]))
    elif column.kind in _SLOTS:
        plain = values.to_pylist()
        getattr(data.scalars, _SLOTS[column.kind]).data.extend([one.encode() for one in plain] if column.kind == "JSON" else plain)
        getattr(data.scalars, _SLOTS[column.kind]).SetInParent()
    elif column.kind == "Array":
        data.scalars.array_data.element_type = kind.DataType.Value(column.element)
        for row in values.to_pylist():
            slot = getattr(data.scalars.array_data.data.add(), _SLOTS[column.element])
            slot.data.extend([one.encode() for one in row] if column.element == "JSON" else row)
            slot.SetInParent()
    else:
        _put_vectors(column, values, data.vectors)
    return data


def _put_vectors(column: Column, values: pa.Array, vectors: Any) -> None:
    if column.kind == "SparseFloatVector":
        rows = values.to_pylist()
        pairs = [np.rec.fromarrays([one["indices"], one["values"]], dtype=_PAIR).tobytes() for one in rows]
        vectors.sparse_float_vector.contents.extend(pairs)
        vectors.dim = vectors.sparse_float_vector.dim = max((max(one["indices"], default=0) + 1 for one in rows), default=1)
        return
    vectors.dim = column.dimension
    if pa.types.is_fixed_size_list(values.type):
        flat = values.flatten().to_numpy(zero_copy_only=False)
        wanted = flat.astype(DTYPES[column.kind]) if column.kind in DTYPES and column.kind != "BFloat16Vector" else flat
    else:
        wanted = np.frombuffer(b"".join(values.to_pylist()), np.uint8)
    if wanted.nbytes != len(values) * _width(column):
        raise EngineFailed(f"field {column.name!r}: vectors are not of {column.dimension} numbers each")
    if column.kind == "FloatVector":
        _put(vectors.float_vector, wanted)
    else:
        setattr(vectors, _BYTES[column.kind], wanted.tobytes())


def _width(column: Column) -> int:
    """Bytes of a vector."""
    bits = {"FloatVector": 32, "Float16Vector": 16, "BFloat16Vector": 16, "Int8Vector": 8, "BinaryVector": 1}[column.kind]
    return column.dimension * bits // 8


def _unpacked(message: Any, kind: np.dtype[Any]) -> npt.NDArray[Any]:
    """The numbers of a message that has nothing but `data = 1`, packed floats."""
    content = message.SerializeToString()
    if not content:
        return np.empty(0, kind)
    place = 1
    while content[place] & 0x80:
        place += 1
    return np.frombuffer(content, kind, offset=place + 1)


def _put(message: Any, numbers: npt.NDArray[Any]) -> None:
    """The reverse."""
    raw = np.ascontiguousarray(numbers).tobytes()
    length, head = len(raw), bytearray(b"\x0a")
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    message.MergeFromString(bytes(head) + raw)
    message.SetInParent()
