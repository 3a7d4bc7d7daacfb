"""What does each column of a Lance table mean? Which is the id, which hold vectors, which the document."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from strongroom.engines import isolation
from strongroom.engines.lancedb.library import Dataset, open_table
from strongroom.model import ROLE, Role

POSITION = "strongroom_row"
"""The id column of a table that has none of its own: Lance's row id (int64), which a row keeps until it is compacted."""

BLOB = b"lance-encoding:blob"
"""Key of the metadata of a column that is to be kept as blobs; up to format 2.1 nothing else tells."""

ID_NAMES = ("id", "_id", "key", "pk", POSITION)
_MANY_ROWS = 200_000
DOCUMENT_NAMES = ("document", "text", "content")
_ELEMENTS = {pa.float32(): "float32", pa.float16(): "float16", pa.int8(): "int8", pa.uint8(): "uint8"}


def vector_dtype(kind: pa.DataType) -> str | None:
    """The dtype of a vector column, None if the type is no vector's: a fixed-size list of float32, float16, int8 or uint8."""
    return _ELEMENTS.get(kind.value_type) if pa.types.is_fixed_size_list(kind) else None


def vector_bytes(kind: pa.DataType) -> int:
    """Bytes of one vector of a vector column."""
    return int(kind.list_size * kind.value_type.bit_width // 8)


def is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def id_column(table: Dataset) -> str | None:
    """The column that names the rows: the first of ID_NAMES that is text or int64, never null and unique. None if there is none.

    Reads the candidate column: Lance knows no unique columns, so nothing else can tell.
    """
    return next((name for name in id_candidates(table.schema) if _identifies(table, name)), None)


def id_candidates(schema: pa.Schema) -> Iterator[str]:
    """The columns that may name the rows, the first choice first."""
    stated = [field.name for field in schema if (field.metadata or {}).get(ROLE) == Role.ID.encode()]
    for name in dict.fromkeys((*stated, *ID_NAMES)):
        position = schema.get_field_index(name)
        if position >= 0 and (is_text(schema.field(position).type) or schema.field(position).type == pa.int64()):
            yield str(name)


def _identifies(table: Dataset, name: str) -> bool:
    """In a child process where the column is long, since the column and a hash table of it are held in memory."""
    if table.count_rows() < _MANY_ROWS:
        return identifies(table, name)
    answer: bool = isolation.call("strongroom.engines.lancedb.columns:identifies_at", str(table.uri), table.version, name)
    return answer


def identifies_at(directory: str, version: int, name: str) -> bool:
    """`identifies` for the table in a directory."""
    return identifies(open_table(Path(directory), version), name)


def identifies(table: Dataset, name: str) -> bool:
    """Is every value of the column there, and there once?"""
    values = table.to_table(columns=[name]).column(name)
    return bool(values.null_count == 0 and pc.count_distinct(values).as_py() == len(values))


def row_schema(schema: pa.Schema, identifier: str | None) -> pa.Schema:
    """The schema of the rows of a table of `schema`: its columns with their roles, POSITION after them if `identifier` is None."""
    document = next((name for name in DOCUMENT_NAMES if name in schema.names and is_text(schema.field(name).type)), None)
    fields = [_with_role(field, _role(field, identifier, document)) for field in schema]
    if identifier is None:
        fields.append(_with_role(pa.field(POSITION, pa.int64(), nullable=False), Role.ID))
    return pa.schema(fields, metadata=schema.metadata)


def stored_schema(schema: pa.Schema) -> pa.Schema:
    """How rows of `schema`, from any engine, are stored in Lance: a role stays on a column where its name doesn't tell it."""
    plain = pa.schema([_with_role(field, None) for field in schema], metadata=schema.metadata)
    identifier = next((field.name for field in schema if role_of(field) is Role.ID), None)
    usual = next((name for name in ID_NAMES if name in schema.names), None)
    read = row_schema(plain, identifier)
    fields = []
    for position, field in enumerate(schema):
        role = role_of(field)
        evident = role is role_of(read.field(position)) and (role is not Role.ID or field.name == usual)
        fields.append(plain.field(position) if evident else field)
    return pa.schema(fields, metadata=schema.metadata)


def has_blobs(schema: pa.Schema) -> bool:
    """True if a column holds large blobs, of which Lance gives places unless it is asked for bytes."""
    return has_blob_files(schema) or any((one.metadata or {}).get(BLOB) == b"true" for one in _leaves(list(schema)))


def has_blob_files(schema: pa.Schema) -> bool:
    """True if Lance stores blobs in files of their own, or in places that others name: from format 2.2 on."""
    return any("blob" in str(getattr(one.type, "extension_name", "")) for one in _leaves(list(schema)))


def role_of(field: pa.Field) -> Role:
    """The role that a field's metadata states; COLUMN if none."""
    return Role((field.metadata or {}).get(ROLE, Role.COLUMN.encode()).decode())


def _role(field: pa.Field, identifier: str | None, document: str | None) -> Role:
    if field.name == identifier:
        return Role.ID
    if vector_dtype(field.type):
        return Role.VECTOR
    stated = role_of(field)
    if stated in (Role.DOCUMENT, Role.URI, Role.PAYLOAD):
        return stated
    return Role.DOCUMENT if field.name == document else Role.COLUMN


def _with_role(field: pa.Field, role: Role | None) -> pa.Field:
    metadata = {key: value for key, value in (field.metadata or {}).items() if key != ROLE}
    return field.with_metadata(metadata | ({ROLE: role.encode()} if role else {}))


def _leaves(fields: list[pa.Field]) -> Iterator[pa.Field]:
    for field in fields:
        yield field
        if pa.types.is_struct(field.type):
            yield from _leaves(list(field.type.fields))
