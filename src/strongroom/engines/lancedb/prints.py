"""Which rows are equal? Each row is named by what is in it, so that a row is known wherever Lance moves it, and copies of a row are
counted: a table may hold the same row twice, and its key, if it has one, is nobody's promise."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from blake3 import blake3

from strongroom.engines.changes import COPIES
from strongroom.engines.python_values import values_of
from strongroom.model import ROLE, Role

ROW = "strongroom:row"
"""The column of the names."""

FIELD = pa.field(ROW, pa.utf8(), nullable=False, metadata={ROLE: Role.ID.encode(), COPIES: b"yes"})
_NAME_BYTES = 18
_NULL, _VALUE = b"\x00", b"\x01"


def names(batch: pa.RecordBatch) -> pa.Array:
    """The name of each row: equal if and only if its columns, by their names and in their order, hold the same bytes."""
    head = blake3(repr(batch.schema.names).encode()).digest()
    columns = [_cells(column) for column in batch.columns]
    found = [
        base64.b64encode(blake3(b"".join((head, *cells))).digest(_NAME_BYTES)).decode() for cells in zip(*columns, strict=True)
    ]
    return pa.array(found if columns else [], pa.utf8())


def _cells(column: pa.Array) -> Iterator[bytes]:
    """Of each value bytes that no other value of its type has, none the beginning of another's."""
    column = _plain(column)
    values = iter(_values(column.drop_null()))
    for there in np.asarray(column.is_valid()):
        yield _VALUE + next(values) if there else _NULL


def _values(column: pa.Array) -> Iterator[bytes]:
    """Of an array without nulls."""
    kind = column.type
    if pa.types.is_null(kind):
        return
    if pa.types.is_boolean(kind):
        yield from _values(column.cast(pa.uint8()))
    elif pa.types.is_fixed_size_list(kind) and _is_fixed(kind.value_type):
        yield from _vectors(column.flatten(), kind.list_size, len(column))
    elif _is_fixed(kind):
        yield from _slices(column, 1, len(column))
    elif pa.types.is_string(kind) or pa.types.is_binary(kind) or pa.types.is_large_string(kind):
        yield from map(_prefixed, column.cast(pa.large_binary()).to_pylist())
    elif pa.types.is_large_binary(kind):
        yield from map(_prefixed, column.to_pylist())
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        cells = _cells(column.flatten())
        for length in (
            column.value_lengths().to_pylist() if not pa.types.is_fixed_size_list(kind) else [kind.list_size] * len(column)
        ):
            yield _prefixed(b"".join(next(cells) for _ in range(length)))
    elif pa.types.is_struct(kind):
        for parts in zip(*(_cells(part) for part in column.flatten()), strict=True):
            yield b"".join(parts)
    else:
        yield from (_prefixed(repr(value).encode()) for value in values_of(column))


def _vectors(elements: pa.Array, each: int, count: int) -> Iterator[bytes]:
    """Lists of `each` elements: their bytes at once, but for those that have a null in them, whatever their neighbours have."""
    plain = _slices(elements, each, count)
    if not elements.null_count:
        yield from (_VALUE + value for value in plain)
        return
    cells = _cells(elements)
    there = np.asarray(elements.is_valid()).reshape(count, each)
    for given, value in zip(there, plain, strict=True):
        single = b"".join(next(cells) for _ in range(each))
        yield _VALUE + value if given.all() else _NULL + single


def _plain(column: pa.Array) -> pa.Array:
    while isinstance(column, pa.ExtensionArray):
        column = column.storage
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _is_fixed(kind: pa.DataType) -> bool:
    return bool(pa.types.is_primitive(kind) or pa.types.is_decimal(kind) or pa.types.is_fixed_size_binary(kind)) and not (
        pa.types.is_boolean(kind)
    )


def _slices(column: pa.Array, each: int, count: int) -> Iterator[bytes]:
    width = column.type.bit_width // 8
    start = column.offset * width
    content = memoryview(column.buffers()[1] or b"")[start : start + len(column) * width].tobytes()
    step = each * width
    for place in range(count):
        yield content[place * step : (place + 1) * step]


def _prefixed(value: bytes) -> bytes:
    return len(value).to_bytes(8, "little") + value
