"""Do columns of every type survive Milvus's own messages, bit for bit? And does each page begin where the last one ended?"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymilvus.grpc_gen import milvus_pb2, schema_pb2

from strongroom.engines.milvus.columns import batch_of, encoded
from strongroom.engines.milvus.loading import _meta
from strongroom.engines.milvus.reading import after
from strongroom.engines.milvus.shape import DTYPES, META, Shape, shape_of
from strongroom.engines.payloads import exact, written
from strongroom.errors import Unreadable

_INTS = {"Int8": 8, "Int16": 16, "Int32": 32, "Int64": 64}
_TEXT = st.text(max_size=20)
_FLOAT32 = st.floats(width=32, allow_nan=False)
SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "Bool": st.booleans(),
    **{kind: st.integers(-(1 << bits - 1), (1 << bits - 1) - 1) for kind, bits in _INTS.items()},
    "Float": _FLOAT32,
    "Double": st.floats(allow_nan=False),
    "VarChar": _TEXT,
    "JSON": st.dictionaries(_TEXT, st.none() | st.integers() | _TEXT, max_size=3).map(json.dumps),
    "Timestamptz": _TEXT,
    "Geometry": _TEXT,
}
SPARSE = st.dictionaries(st.integers(0, (1 << 32) - 2), _FLOAT32, max_size=5).map(
    lambda found: {"indices": list(found), "values": list(found.values())}
)
WIDTHS = {"FloatVector": 4, "Float16Vector": 2, "BFloat16Vector": 2, "Int8Vector": 1}
DIMENSION = 8


def schema_with(kind: str, **more: Any) -> dict[str, Any]:
    dim = {"type_params": [{"key": "dim", "value": str(DIMENSION)}]} if kind.endswith("Vector") else {}
    fields = [{"name": "id", "data_type": "Int64", "is_primary_key": True}, {"name": "x", "data_type": kind, **dim, **more}]
    return {"fields": fields}


def there_and_back(shape: Shape, batch: pa.RecordBatch) -> pa.RecordBatch:
    """By the bytes that go over the wire."""
    answer = milvus_pb2.QueryResults()
    for column in shape.columns:
        answer.fields_data.append(encoded(column, batch.column(column.name), schema_pb2))
    return batch_of(shape, milvus_pb2.QueryResults.FromString(answer.SerializeToString()), "")


def check(schema: dict[str, Any], values: pa.Array) -> None:
    shape = shape_of(schema, partitioned=False)
    batch = pa.record_batch([pa.array(range(len(values)), pa.int64()), values], schema=shape.schema)
    back = there_and_back(shape, batch)
    assert back.equals(batch, check_metadata=True)


@pytest.mark.parametrize("kind", SCALARS)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_scalars_and_arrays_of_them(kind: str, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.none() | SCALARS[kind], max_size=6))
    check(schema_with(kind, nullable=True), pa.array(values, shape_of(schema_with(kind), partitioned=False).columns[1].arrow))
    if kind in ("JSON", "Timestamptz", "Geometry"):
        return
    arrays = data.draw(st.lists(st.none() | st.lists(SCALARS[kind], max_size=4), max_size=6))
    said = schema_with("Array", element_type=kind)
    check(said, pa.array(arrays, shape_of(said, partitioned=False).columns[1].arrow))


@pytest.mark.parametrize("kind", [*DTYPES, "BinaryVector"])
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_vectors_of_any_bits(kind: str, data: st.DataObject) -> None:
    width = DIMENSION * WIDTHS[kind] if kind in WIDTHS else DIMENSION // 8
    raw = data.draw(st.lists(st.none() | st.binary(min_size=width, max_size=width), max_size=6))
    column = shape_of(schema_with(kind), partitioned=False).columns[1]
    if pa.types.is_fixed_size_binary(column.arrow):
        check(schema_with(kind), pa.array(raw, column.arrow))
        return
    dense = np.frombuffer(b"".join(one for one in raw if one is not None), DTYPES[kind])
    there = pa.array(np.cumsum([one is not None for one in raw]) - 1, mask=np.array([one is None for one in raw], bool))
    values = (
        pa.FixedSizeListArray.from_arrays(pa.array(dense), type=column.arrow).take(there) if raw else pa.array([], column.arrow)
    )
    shape = shape_of(schema_with(kind), partitioned=False)
    batch = pa.record_batch([pa.array(range(len(values)), pa.int64()), values], schema=shape.schema)
    back = there_and_back(shape, batch).column(1)
    assert back.is_valid().equals(values.is_valid())
    assert back.drop_null().flatten().to_numpy().tobytes() == dense.tobytes()  # NaN too


@given(st.lists(st.none() | SPARSE, max_size=6))
@settings(max_examples=50, deadline=None)
def test_sparse_vectors(values: list[Any]) -> None:
    column = shape_of(schema_with("SparseFloatVector"), partitioned=False).columns[1]
    check(schema_with("SparseFloatVector"), pa.array(values, column.arrow))


@pytest.mark.parametrize(("kind", "slot"), [("Int64", "long_data"), ("Float", "float_data"), ("VarChar", "string_data")])
@pytest.mark.parametrize("full", [True, False])
def test_nulls_lie_in_messages_in_two_ways(kind: str, slot: str, full: bool) -> None:
    """Servers tell a value for each row, or only those that are there."""
    values = ["a", "", "c"] if kind == "VarChar" else [1, 0, 3]
    data = schema_pb2.FieldData(field_name="x", type=schema_pb2.DataType.Value(kind), valid_data=[True, False, True])
    getattr(data.scalars, slot).data.extend(values if full else values[::2])
    ids = schema_pb2.FieldData(field_name="id", type=schema_pb2.DataType.Value("Int64"))
    ids.scalars.long_data.data.extend([1, 2, 3])
    answer = milvus_pb2.QueryResults(fields_data=[ids, data])
    found = batch_of(shape_of(schema_with(kind, nullable=True), partitioned=False), answer, "").column(1).to_pylist()
    assert found == [values[0], None, values[2]]
    del ids.scalars.long_data.data[2:]
    with pytest.raises(Unreadable, match="values for 2 rows"):
        batch_of(shape_of(schema_with(kind), partitioned=False), milvus_pb2.QueryResults(fields_data=[ids, data]), "")


def test_where_a_page_begins() -> None:
    key = shape_of(schema_with("Bool"), partitioned=False).columns[0]
    least = -(1 << 63)
    said = [after(key, last) for last in (None, least, least + 1, 0, 7)]
    assert said == ["", f"id >= {least + 1}", f"id > {least + 1}", "id > 0", "id > 7"]


def test_numbers_of_dynamic_fields_keep_their_digits() -> None:
    """A server keeps the text that it was given; a double wouldn't hold these."""
    texts = ['{"x":0.1234567890123456789,"y":[1e400,0.5]}', '{"x":0.1}', '{"x":12345678901234567890123}']
    said = {**schema_with("Int8"), "enable_dynamic_field": True}
    shape = shape_of(said, partitioned=False)
    answer = milvus_pb2.QueryResults()
    for column, values in zip(shape.columns, (pa.array([1, 2, 3]), pa.array([0, 0, 0], pa.int8())), strict=True):
        answer.fields_data.append(encoded(column, values, schema_pb2))
    meta = schema_pb2.FieldData(field_name=META, type=schema_pb2.DataType.Value("JSON"), is_dynamic=True)
    meta.scalars.json_data.data.extend(one.encode() for one in texts)
    answer.fields_data.append(meta)
    rows = batch_of(shape, answer, "")
    assert rows.column(shape.payload).to_pylist() == texts
    assert [written(exact(one)) for one in _meta(shape, rows)] == texts
