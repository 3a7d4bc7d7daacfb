"""How rows become a segment's blobs, and come back."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from strongroom.errors import Damaged
from strongroom.model import Bytes, Field, Role, RowBlock
from strongroom.snapshots.fingerprints import role_of
from strongroom.snapshots.manifest import Segment
from strongroom.snapshots.slots import Slots

Submit = Callable[[Bytes, str], "Future[bytes]"]


def vector_columns(batch: pa.RecordBatch, fields: tuple[Field, ...]) -> dict[str, memoryview]:
    """The bare values of the vector columns that are stored as vectors, one after another: those of `fields` without nulls."""
    names = {field.name for field in fields}
    return {
        field.name: bare_values(column)
        for field, column in zip(batch.schema, batch.columns, strict=True)
        if field.name in names and role_of(field) == Role.VECTOR and not column.null_count
    }


def encode_rest(batch: pa.RecordBatch) -> memoryview:
    """An Arrow IPC stream of one batch. The same rows give the same bytes, whatever they were cut from, so that a repair can make
    them again."""
    tight = pa.record_batch([_tight(column) for column in batch.columns], schema=batch.schema) if batch.num_columns else batch
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, tight.schema) as stream:
        stream.write_batch(tight)
    return memoryview(sink.getvalue())


def _tight(column: pa.Array) -> pa.Array:
    """The same values in buffers of their own: a slice would be written with some of what follows it, and a null with what lies
    beneath it."""
    if column.null_count or pa.types.is_nested(column.type):
        return column.take(pa.array(np.arange(len(column))))
    return pa.concat_arrays([column])


def read_segment(segment: Segment, schema: pa.Schema, slots: Slots, read_blob: Callable[[bytes], Bytes]) -> RowBlock:
    """The block of rows that was stored. Raises Damaged if the blobs don't fit together."""
    try:
        return _read_segment(segment, schema, slots, read_blob)
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError, StopIteration) as error:
        raise Damaged(f"segment {segment.rest[:16]}", "its blobs are not the columns of its rows") from error


def _read_segment(segment: Segment, schema: pa.Schema, slots: Slots, read_blob: Callable[[bytes], Bytes]) -> RowBlock:
    rest = pa.ipc.open_stream(pa.py_buffer(read_blob(bytes.fromhex(segment.rest)))).read_next_batch()
    if rest.num_rows != segment.rows:
        raise Damaged(f"segment {segment.rest[:16]}", f"its columns have {rest.num_rows} of {segment.rows} rows")
    columns, dead = [], segment.dead_slots()
    for field in schema:
        if role_of(field) == Role.VECTOR and field.name not in rest.schema.names:
            column = _column(field, segment.rows, _vectors_of(segment, field.name, slots, dead))
        else:
            column = rest.column(field.name)
        columns.append(column)
    return RowBlock(pa.record_batch(columns, schema=schema), dead)


def _vectors_of(segment: Segment, name: str, slots: Slots, dead: npt.NDArray[np.bool_] | None) -> Bytes:
    """The vectors of a segment's rows; zeros for dead ones whose vectors are stored no longer."""
    places, reader = slots.of_segment(segment, name), slots.reader(name)
    gone = dead & ~reader.has(places) if dead is not None else None
    if gone is None or not gone.any():
        return reader.take(places)
    there = np.frombuffer(reader.take(places[~gone]), np.uint8).reshape(int((~gone).sum()), -1)
    vectors = np.zeros((len(places), there.shape[1]), np.uint8)
    vectors[~gone] = there
    return vectors.data.cast("B")


def bare_values(column: pa.Array) -> memoryview:
    """The bare bytes of a fixed-width column, without a copy."""
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if pa.types.is_fixed_size_list(column.type):
        width = column.type.list_size
        column = column.values.slice(column.offset * width, len(column) * width)
    each = column.type.bit_width // 8
    buffer = column.buffers()[1]
    if buffer is None:
        return memoryview(b"")
    return memoryview(buffer)[column.offset * each : (column.offset + len(column)) * each]


def _column(field: pa.Field, rows: int, content: Bytes) -> pa.Array:
    kind = field.type.storage_type if isinstance(field.type, pa.ExtensionType) else field.type
    width = kind.bit_width // 8 if not pa.types.is_fixed_size_list(kind) else kind.list_size * kind.value_type.bit_width // 8
    if len(content) != rows * width:
        raise Damaged(f"vector column {field.name}", f"{len(content)} bytes for {rows} rows of {width}: wrong dimension")
    if pa.types.is_fixed_size_list(kind):
        values = pa.Array.from_buffers(kind.value_type, rows * kind.list_size, [None, pa.py_buffer(content)])
        array = pa.FixedSizeListArray.from_arrays(values, type=kind)
    else:
        array = pa.Array.from_buffers(kind, rows, [None, pa.py_buffer(content)])
    return pa.ExtensionArray.from_storage(field.type, array) if isinstance(field.type, pa.ExtensionType) else array


def vector_matrix(batch: pa.RecordBatch, field: Field) -> np.ndarray:
    """A vector column as float32, shape (rows, dimension). Rows whose vector is null are left out by the caller."""
    column = batch.column(field.name)
    raw = np.frombuffer(bare_values(column), np.uint8)
    if field.dtype == "bfloat16":
        words = raw.view(np.uint16).astype(np.uint32) << np.uint32(16)
        return words.view(np.float32).reshape(-1, field.dimension)
    return raw.view(np.dtype(field.dtype)).reshape(-1, field.dimension).astype(np.float32, copy=False)
