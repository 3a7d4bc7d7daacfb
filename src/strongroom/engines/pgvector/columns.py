"""What is a PostgreSQL column in Arrow, and back? Numbers, booleans, texts, bytes and vectors are what they are; of every other
type the text form travels, with the type in the field's metadata, and PostgreSQL reads it back to the same value."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from strongroom.engines.pgvector.catalog import Column, Table
from strongroom.engines.pgvector.server import quoted
from strongroom.errors import Unreadable
from strongroom.model import ROLE, Role

TYPE = b"postgres.type"
"""Key of the field metadata that names the column's type."""

ROW_ID = "strongroom_id"
"""The id of rows whose table has no single column for it: the key's values as a JSON list; without a key, a hash of the row and
which of the equal ones it is."""

ROW = "strongroom_row"
"""What a row is called in queries, as no column is."""

_NUMBERS = {"int2": pa.int16(), "int4": pa.int32(), "int8": pa.int64(), "float4": pa.float32(), "float8": pa.float64()}
_NATIVE = {**_NUMBERS, "bool": pa.bool_(), "bytea": pa.binary(), "text": pa.utf8(), "varchar": pa.utf8()}
_BIG_ENDIAN = {"int16": ">i2", "int32": ">i4", "int64": ">i8", "float": ">f4", "double": ">f8"}
_ELEMENTS = {"vector": pa.float32(), "halfvec": pa.float16()}
_DOCUMENTS = ("document", "text", "content")


@dataclass(frozen=True, slots=True)
class Shape:
    """The rows of a table: the Arrow schema, and for each column of it the table's column, None for ROW_ID."""

    table: Table
    schema: pa.Schema
    columns: tuple[Column | None, ...]

    @property
    def fields(self) -> tuple[tuple[pa.Field, Column], ...]:
        """Those that the table has too."""
        return tuple((one, column) for one, column in zip(self.schema, self.columns, strict=True) if column is not None)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row's vectors, at least some."""
        vectors = (one.type for one, _ in self.fields if is_dense(one.type))
        return max(256, sum(int(kind.list_size * kind.value_type.bit_width // 8) for kind in vectors))


def shape_of(table: Table, dimensions: Mapping[str, int]) -> Shape:
    """`dimensions` are those of columns of type vector or halfvec that state none. Raises Unreadable."""
    stored = table.stored
    if any(one.name == ROW_ID for one in stored):
        raise Unreadable(f"table {table.collection} has a column {ROW_ID}, a name that is needed", hint="rename it")
    single = table.key[0] if len(table.key) == 1 else None
    document = next(
        (name for name in _DOCUMENTS for one in stored if one.name == name and one.builtin and one.base in ("text", "varchar")),
        None,
    )
    fields: list[pa.Field] = []
    for one in stored:
        kind = arrow_type(one, dimensions)
        role = Role.VECTOR if is_dense(kind) else Role.DOCUMENT if one.name == document else Role.COLUMN
        if one.name == single:
            role, kind = Role.ID, pa.int64() if pa.types.is_integer(kind) else pa.utf8()
        fields.append(pa.field(one.name, kind, metadata={ROLE: role.encode(), TYPE: one.type.encode()}))
    if single is not None:
        return Shape(table, pa.schema(fields), stored)
    own = pa.field(ROW_ID, pa.utf8(), metadata={ROLE: Role.ID.encode()})
    return Shape(table, pa.schema([own, *fields]), (None, *stored))


def is_dense(kind: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_list(kind))


def arrow_type(column: Column, dimensions: Mapping[str, int]) -> pa.DataType:
    """The Arrow type of a column's values."""
    if column.vector and column.base in _ELEMENTS:
        dimension = column.modifier if column.modifier > 0 else dimensions.get(column.name, 0)
        return pa.list_(_ELEMENTS[column.base], dimension) if dimension else pa.utf8()
    return _NATIVE.get(column.base, pa.utf8()) if column.builtin else pa.utf8()


def selected(shape: Shape) -> str:
    """The expressions by which a SELECT gives the columns of the shape."""
    found = []
    for one, column in zip(shape.schema, shape.columns, strict=True):
        if column is None:
            found.append(_own_id(shape.table))
        else:
            found.append(_expression(one.type, column))
    return ", ".join(found)


def _expression(kind: pa.DataType, column: Column) -> str:
    name = f"{ROW}.{quoted(column.name)}"
    if is_dense(kind) or (column.builtin and _NATIVE.get(column.base) == kind):
        return name
    if pa.types.is_integer(kind):
        return f"{name}::pg_catalog.int8"
    return f"pg_catalog.textin({column.output}({name}))"


def _own_id(table: Table) -> str:
    """Of a table with a key NULL, since it is computed here; without one what tells equal rows apart."""
    if table.key:
        return "NULL::pg_catalog.text"
    return counted_hash(ROW)


def counted_hash(row: str) -> str:
    """An expression for a hash of a whole row, and which of the equal ones it is."""
    whole = f"pg_catalog.md5(pg_catalog.textin(pg_catalog.record_out({row})))"
    return f"{whole} || '-' || pg_catalog.row_number() OVER (PARTITION BY {whole})"


# -- binary forms to Arrow and back --------------------------------------------------------------------------------------------


def from_binary(shape: Shape, rows: Sequence[Sequence[bytes | None]]) -> pa.RecordBatch:
    """Rows as `copying.fields` gives them."""
    cells: list[tuple[bytes | None, ...]] = list(zip(*rows, strict=True)) if rows else [() for _ in shape.schema]
    columns = [_decoded(one, cells[place]) for place, one in enumerate(shape.schema)]
    return with_ids(shape, columns)


def with_ids(shape: Shape, columns: list[pa.Array]) -> pa.RecordBatch:
    """The columns, ids of several columns put together."""
    if shape.columns[:1] == (None,) and shape.table.key:
        parts = [columns[shape.schema.get_field_index(name)].to_pylist() for name in shape.table.key]
        columns[0] = pa.array([composite_id(values) for values in zip(*parts, strict=True)], pa.utf8())
    return pa.record_batch(columns, schema=shape.schema)


def composite_id(values: Sequence[object]) -> str:
    """The values of a key of several columns as one text."""
    return json.dumps(
        [one.hex() if isinstance(one, bytes) else str(one) for one in values], ensure_ascii=False, separators=(",", ":")
    )


def id_of_texts(shape: Shape, values: Sequence[str]) -> str:
    """The id of the row of a key of several columns, whose values are as the server writes them."""
    fields = [shape.schema.field(name) for name in shape.table.key]
    return composite_id([_parsed(one, [value])[0].as_py() for one, value in zip(fields, values, strict=True)])


def from_text(shape: Shape, rows: Sequence[Sequence[str | None]]) -> pa.RecordBatch:
    """Rows as the server writes them, value by value in the order of the table's columns; ROW_ID is put before them."""
    cells = list(zip(*rows, strict=True))
    own = [pa.nulls(len(rows), pa.utf8())] if shape.columns[0] is None else []
    return with_ids(shape, own + [_parsed(one, cells[place]) for place, (one, _) in enumerate(shape.fields)])


def _parsed(field: pa.Field, cells: Sequence[str | None]) -> pa.Array:
    """Numbers are parsed by Arrow, which rounds right in the type itself; by way of a double some would be rounded twice."""
    kind, there = field.type, [one for one in cells if one is not None]
    if is_dense(kind):
        values = pa.array(",".join(one[1:-1] for one in there).split(",") if there else [], pa.utf8()).cast(pa.float32())
        if len(values) != len(there) * kind.list_size:
            raise Unreadable(f"column {field.name} holds vectors of several lengths")
        dense = pa.FixedSizeListArray.from_arrays(values.cast(kind.value_type), type=kind)
    elif pa.types.is_boolean(kind):
        dense = pa.array([one == "t" for one in there], kind)
    elif pa.types.is_binary(kind):
        dense = pa.array([bytes.fromhex(one[2:]) for one in there], kind)
    else:
        dense = pa.array(there, pa.utf8()).cast(kind)
    return spread(dense, [one is not None for one in cells])


def _decoded(field: pa.Field, cells: Sequence[bytes | None]) -> pa.Array:
    kind, there = field.type, [one for one in cells if one is not None]
    if is_dense(kind):
        dense = _vectors(field, there)
    elif pa.types.is_boolean(kind):
        dense = pa.array([one == b"\x01" for one in there], kind)
    elif str(kind) in _BIG_ENDIAN:
        coded = np.dtype(_BIG_ENDIAN[str(kind)])
        dense = pa.array(np.frombuffer(b"".join(there), coded).astype(coded.newbyteorder("=")), kind)
    else:
        dense = pa.array(there, pa.binary()).cast(kind)
    return spread(dense, [one is not None for one in cells])


def spread(dense: pa.Array, there: Sequence[bool]) -> pa.Array:
    """Nulls where values are not there."""
    if len(dense) == len(there):
        return dense
    mask = np.array(there, np.bool_)
    return dense.take(pa.array(np.cumsum(mask) - 1, mask=~mask))


def _vectors(field: pa.Field, cells: Sequence[bytes]) -> pa.Array:
    """pgvector sends int16 dimension, int16 zero, and the elements, all big-endian."""
    element, dimension = field.type.value_type, field.type.list_size
    coded = np.dtype(">f4" if pa.types.is_float32(element) else ">f2")
    width = 4 + coded.itemsize * dimension
    if any(len(one) != width for one in cells):
        raise Unreadable(
            f"column {field.name} holds vectors of several lengths", hint=f"give it a type with one, as vector({dimension})"
        )
    raw = np.frombuffer(b"".join(cells), np.uint8).reshape(len(cells), width)[:, 4:]
    values = np.ascontiguousarray(raw).view(coded).astype(coded.newbyteorder("=")).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(values, element), type=field.type)


def to_binary(column: pa.Array) -> Iterator[bytes | None]:
    """The binary form of each value: of the type that `load_type` names."""
    kind = column.type
    there = column.is_valid().to_pylist()
    if is_dense(kind):
        dense = iter(_packed_vectors(column.drop_null()))
    elif pa.types.is_boolean(kind):
        dense = iter([b"\x01" if one else b"\x00" for one in column.drop_null().to_pylist()])
    elif str(kind) in _BIG_ENDIAN:
        coded = np.dtype(_BIG_ENDIAN[str(kind)])
        raw, width = column.drop_null().to_numpy(zero_copy_only=False).astype(coded).tobytes(), coded.itemsize
        dense = iter([raw[at : at + width] for at in range(0, len(raw), width)])
    else:
        dense = iter(column.drop_null().cast(pa.large_binary()).to_pylist())
    for one in there:
        yield next(dense) if one else None


def _packed_vectors(column: pa.Array) -> list[bytes]:
    dimension = column.type.list_size
    coded = np.dtype(">f2" if pa.types.is_float16(column.type.value_type) else ">f4")
    values = column.flatten().to_numpy(zero_copy_only=False).astype(coded).reshape(len(column), dimension)
    head = np.array([dimension, 0], ">i2").view(np.uint8)
    rows = np.concatenate(
        [np.broadcast_to(head, (len(values), 4)), values.view(np.uint8).reshape(len(values), dimension * coded.itemsize)], axis=1
    )
    return [row.tobytes() for row in rows]


def load_type(kind: pa.DataType) -> str:
    """The type of a column into which `to_binary` is copied; a cast makes of it what the table has."""
    if is_dense(kind):
        return "halfvec" if pa.types.is_float16(kind.value_type) else "vector"
    for name, native in _NATIVE.items():
        if native == kind:
            return name
    return "text"
