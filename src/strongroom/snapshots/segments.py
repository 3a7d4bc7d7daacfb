"""How rows become a segment's blobs, and come back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from strongroom.errors import Damaged
from strongroom.model import Bytes, Field, Role, RowBlock
from strongroom.snapshots.fingerprints import role_of
from strongroom.snapshots.manifest import Segment, pack_dead

Submit = Callable[[Bytes, str], "Future[bytes]"]


@dataclass(frozen=True, slots=True)
class PendingSegment:
    """A segment whose blobs are on their way: their ids to come, and not the rows. `vectors` has each column's bytes and blob."""

    rows: int
    vectors: Mapping[str, tuple[int, Future[bytes]]]
    rest: Future[bytes]
    dead: str

    def result(self) -> Segment:
        """The segment, once all of its blobs are known."""
        ids = {name: blob.result().hex() for name, (_, blob) in self.vectors.items()}
        return Segment(self.rows, ids, self.rest.result().hex(), self.dead)


def store_block(block: RowBlock, fields: tuple[Field, ...], submit: Submit) -> PendingSegment:
    """Hand the columns of a block to `submit`.

    A vector column without nulls is one blob of its bare values; so it is the same blob as a region of an index file that holds
    the same vectors, and as another engine's. All other columns are one blob together.
    """
    kinds = {field.name: field.dtype for field in fields}
    batch = block.batch
    vectors: dict[str, tuple[int, Future[bytes]]] = {}
    for field, column in zip(batch.schema, batch.columns, strict=True):
        if role_of(field) == Role.VECTOR and field.name in kinds and not column.null_count:
            values = _values(column)
            vectors[field.name] = (values.nbytes, submit(values, kinds[field.name]))
    rest = submit(_ipc(batch.drop_columns(list(vectors)) if vectors else batch), "text")
    return PendingSegment(batch.num_rows, vectors, rest, pack_dead(block.dead))


def read_segment(segment: Segment, schema: pa.Schema, read_blob: Callable[[bytes], Bytes]) -> RowBlock:
    """The block of rows that was stored. Raises Damaged if the blobs don't fit together."""
    try:
        return _read_segment(segment, schema, read_blob)
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError, StopIteration) as error:
        raise Damaged(f"segment {segment.rest[:16]}", "its blobs are not the columns of its rows") from error


def _read_segment(segment: Segment, schema: pa.Schema, read_blob: Callable[[bytes], Bytes]) -> RowBlock:
    rest = pa.ipc.open_stream(pa.py_buffer(read_blob(bytes.fromhex(segment.rest)))).read_next_batch()
    columns = []
    for field in schema:
        if field.name in segment.vectors:
            column = _column(field, segment.rows, read_blob(bytes.fromhex(segment.vectors[field.name])))
        else:
            column = rest.column(field.name)
        if len(column) != segment.rows:
            raise Damaged(f"segment {segment.rest[:16]}", f"column {field.name} has {len(column)} of {segment.rows} rows")
        columns.append(column)
    return RowBlock(pa.record_batch(columns, schema=schema), segment.dead_slots())


def _values(column: pa.Array) -> memoryview:
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


def _ipc(batch: pa.RecordBatch) -> memoryview:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return memoryview(sink.getvalue())


def vector_matrix(batch: pa.RecordBatch, field: Field) -> np.ndarray:
    """A vector column as float32, shape (rows, dimension). Rows whose vector is null are left out by the caller."""
    column = batch.column(field.name)
    raw = np.frombuffer(_values(column), np.uint8)
    if field.dtype == "bfloat16":
        words = raw.view(np.uint16).astype(np.uint32) << np.uint32(16)
        return words.view(np.float32).reshape(-1, field.dimension)
    return raw.view(np.dtype(field.dtype)).reshape(-1, field.dimension).astype(np.float32, copy=False)
