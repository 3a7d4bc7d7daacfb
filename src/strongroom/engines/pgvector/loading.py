"""How do rows get into a table? By binary COPY into a temporary one, of plain types, and from there by casts: so every type gets
its values back from their text form, and rows that must be replaced can be found by a join."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa

from strongroom.engines.payloads import finite, written
from strongroom.engines.pgvector.columns import is_dense, load_type, to_binary
from strongroom.engines.pgvector.copying import pieces
from strongroom.engines.pgvector.server import Connection, quoted
from strongroom.engines.python_values import values_of
from strongroom.model import ROLE, Role


class Loading:
    """A temporary table for batches of one schema, in a transaction; `columns` are the target's, with their types."""

    def __init__(
        self,
        connection: Connection,
        place: tuple[str, str],
        schema: pa.Schema,
        columns: Sequence[tuple[str, str]],
        name: str = "strongroom_rows",
    ) -> None:
        """`name` is that of the temporary table."""
        self._connection = connection
        self._name = name
        self._place = quoted(*place)
        self._columns = columns
        self._indices = [schema.get_field_index(name) for name, _ in columns]
        types = [load_type(_stored(schema.field(one))) for one in self._indices]
        parts = ", ".join(f"c{number} {kind}" for number, kind in enumerate(types))
        connection.execute(f"DROP TABLE IF EXISTS pg_temp.{name}".encode())
        connection.execute(f"CREATE TEMPORARY TABLE {name} ({parts}) ON COMMIT DROP".encode())

    def insert(self, batch: pa.RecordBatch) -> None:
        """Add the rows of a batch."""
        with self.arrived(batch):
            self.insert_arrived()

    @contextmanager
    def arrived(self, batch: pa.RecordBatch) -> Iterator[None]:
        """While this is open the rows of the batch are in the temporary table."""
        columns = [given(batch.schema.field(one), batch.column(one)) for one in self._indices]
        with (
            self._connection.cursor() as cursor,
            cursor.copy(f"COPY pg_temp.{self._name} FROM STDIN (FORMAT binary)".encode()) as copy,
        ):
            for piece in pieces([to_binary(one) for one in columns]):
                copy.write(piece)
        yield
        self._connection.execute(f"TRUNCATE pg_temp.{self._name}".encode())

    def insert_arrived(self) -> None:
        names = ", ".join(quoted(name) for name, _ in self._columns)
        values = ", ".join(self.value(name) for name, _ in self._columns)
        statement = f"INSERT INTO {self._place} ({names}) OVERRIDING SYSTEM VALUE SELECT {values} FROM pg_temp.{self._name}"
        self._connection.execute(statement.encode())

    def delete_arrived(self, key: Sequence[str]) -> None:
        """Delete the rows of the table that have the same key."""
        same = " AND ".join(f"t.{quoted(name)} = {self.value(name)}" for name in key)
        self._connection.execute(f"DELETE FROM ONLY {self._place} AS t USING pg_temp.{self._name} WHERE {same}".encode())

    def value(self, name: str) -> str:
        number, kind = next((place, kind) for place, (one, kind) in enumerate(self._columns) if one == name)
        return f"{self._name}.c{number}::{kind}"


def _stored(field: pa.Field) -> pa.DataType:
    """The nearest type that COPY is given."""
    kind = field.type
    if pa.types.is_fixed_size_binary(kind) and (field.metadata or {}).get(ROLE) != Role.VECTOR.encode():
        return pa.binary()
    if pa.types.is_fixed_size_binary(kind):  # bfloat16
        return pa.list_(pa.float32(), kind.byte_width // 2)
    if pa.types.is_fixed_size_list(kind) and not pa.types.is_float16(kind.value_type):
        return pa.list_(pa.float32(), kind.list_size)
    if pa.types.is_uint64(kind):
        return pa.utf8()  # cast to numeric
    if pa.types.is_integer(kind) and str(kind) not in ("int16", "int32", "int64"):
        return pa.int64()
    if pa.types.is_float16(kind):
        return pa.float32()
    return kind if load_type(kind) != "text" else pa.utf8()


def given(field: pa.Field, column: pa.Array) -> pa.Array:
    """The values of a column as COPY is given them. jsonb refuses NaN and infinity: they are texts in a payload."""
    values = _plain(column, _stored(field))
    if (field.metadata or {}).get(ROLE) != Role.PAYLOAD.encode():
        return values
    return pa.array([written(finite(one)) if one and _NO_NUMBER.search(one) else one for one in values.to_pylist()], values.type)


_NO_NUMBER = re.compile("NaN|Infinity")


def _plain(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """The values in that type."""
    if kind == column.type:
        return column
    if pa.types.is_fixed_size_binary(column.type) and is_dense(kind):
        return _from_bfloat16(column, kind)
    if pa.types.is_nested(column.type) and pa.types.is_string(kind):
        return pa.array([None if one is None else json.dumps(one, default=str) for one in values_of(column)], kind)
    if pa.types.is_duration(column.type):
        return pa.array([None if one is None else str(one) for one in values_of(column)], kind)
    return column.cast(kind)


def _from_bfloat16(column: pa.Array, kind: pa.DataType) -> pa.Array:
    import numpy as np

    rows: list[list[float] | None] = []
    for one in column.to_pylist():
        wide = None if one is None else (np.frombuffer(one, "<u2").astype(np.uint32) << 16).view(np.float32)
        rows.append(None if wide is None else wide.tolist())
    return pa.array(rows, kind)
