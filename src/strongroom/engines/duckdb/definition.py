"""What does DuckDB's catalog say of a table, and which columns do its rows have? Pure.

Numbers, booleans, texts, bytes, dates, times, decimals and FLOAT[n] travel as such, and lists, structs and maps of them; of other
types the text that DuckDB writes, which it reads back to the same value. A UNION is left out: its text lacks which member it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from strongroom.model import ROLE, Collection, Field, Json, Role

ROW = "strongroom_row"
"""The id of rows whose table has no column for it: the number of the row. A table that is built anew has it as a column."""
KEY = "strongroom_id"
"""The id of rows whose table has a primary key of several columns: their values as one JSON list."""
PAYLOAD = "strongroom_payload"
"""The column of a payload of another engine: one JSON object."""
CANDIDATES = ("id", "_id", "key", "pk", ROW)
DOCUMENTS = ("document", "text", "content")
METRICS = {"l2sq": "l2", "cosine": "cosine", "ip": "ip"}
INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER")

_VECTOR = re.compile(r"FLOAT\[(\d+)\]")
_PLAIN = {*INTEGERS, "UBIGINT", "BOOLEAN", "FLOAT", "DOUBLE", "VARCHAR", "BLOB", "DATE", "TIME", "TIME_NS"}
_PLAIN |= {"TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "TIMESTAMP WITH TIME ZONE"}
_TEXT = {"HUGEINT", "UHUGEINT", "UUID", "BIT", "INTERVAL", "TIME WITH TIME ZONE", "BIGNUM", "JSON", "ENUM"}
_QUOTED = re.compile(r'"(?:[^"]|"")*"|\'(?:[^\']|\'\')*\'')
_WORDS = re.compile(r"TIMESTAMP WITH TIME ZONE|TIME WITH TIME ZONE|[A-Z_]{3,}")
_IDENTIFIER = r'(?:"(?:[^"]|"")*"|[^\s"(.]+)'
_TABLE = re.compile(rf"CREATE TABLE (?:{_IDENTIFIER}\.)*{_IDENTIFIER}\s*\((?P<body>.*)\);?\s*", re.DOTALL)
_INDEX = re.compile(rf"CREATE (UNIQUE )?INDEX {_IDENTIFIER} ON (?:{_IDENTIFIER}\.)*{_IDENTIFIER}\s*(?P<rest>.*?);?\s*", re.DOTALL)


def quoted(*names: str) -> str:
    """As an identifier of SQL."""
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)


def collection_name(schema: str, table: str) -> str:
    """`items` is main.items, `app.items` that of schema app; a name with a dot or a quote in it is quoted."""
    parts = [table] if schema == "main" else [schema, table]
    return ".".join(quoted(one) if "." in one or '"' in one or not one else one for one in parts)


def place_of(name: str) -> tuple[str, str] | None:
    """Schema and table of a collection's name; None if it is none."""
    parts = re.findall(r'"((?:[^"]|"")*)"(?:\.|$)|([^."]+)(?:\.|$)', name)
    found = [(one.replace('""', '"') if one or not bare else bare) for one, bare in parts]
    if not 1 <= len(found) <= 2 or collection_name(*(["main", *found][-2:])) != name:
        return None
    schema, table = ["main", *found][-2:]
    return schema, table


def carried(kind: str) -> str:
    """How values of a type travel: 'plain', 'text', or 'out' if they don't."""
    bare = _QUOTED.sub("", kind)
    words = set(_WORDS.findall(bare.replace("STRUCT(", "(").replace("MAP(", "(").replace("DECIMAL", "")))
    if words <= _PLAIN:
        return "plain"
    return "text" if words <= _PLAIN | _TEXT else "out"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table; `computed` is made from others by DuckDB."""

    name: str
    type: str
    computed: bool = False

    @property
    def dimension(self) -> int:
        """That of a vector, 0 if it is none."""
        found = _VECTOR.fullmatch(self.type)
        return int(found[1]) if found else 0


@dataclass(frozen=True, slots=True)
class Index:
    """`rest` is what follows the table in its definition. Of an HNSW index `options` are what DuckDB tells of it."""

    name: str
    unique: bool
    rest: str
    options: Mapping[str, Json]

    @property
    def column(self) -> str:
        """That of an HNSW index; empty if it is another one."""
        found = re.fullmatch(r'USING HNSW \((?:"((?:[^"]|"")*)"|([^")]+))\)', self.rest)
        return (found[1] or found[2] or "").replace('""', '"') if found else ""

    def statement(self, place: tuple[str, str]) -> str:
        with_ = ", ".join(f"{name} = {value!r}" for name, value in self.options.items())
        unique = "UNIQUE " if self.unique else ""
        return f"CREATE {unique}INDEX {quoted(self.name)} ON {quoted(*place)} {self.rest}" + (f" WITH ({with_})" if with_ else "")


@dataclass(frozen=True, slots=True)
class Table:
    """A table with vectors. `key` are the columns of its primary key, or one that is as good; `items` its columns and constraints
    as they are defined, without foreign keys; `sequences` what these need."""

    schema: str
    table: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    items: tuple[str, ...]
    indexes: tuple[Index, ...]
    sequences: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return collection_name(self.schema, self.table)

    @property
    def stored(self) -> tuple[Column, ...]:
        """The columns that are in the rows, but for the id."""
        single = self.key[0] if len(self.key) == 1 else None
        return tuple(one for one in self.columns if not one.computed and carried(one.type) != "out" and one.name != single)

    @property
    def row_bytes(self) -> int:
        return sum(4 * one.dimension for one in self.stored)

    @property
    def id(self) -> pa.Field:
        name = ROW if not self.key else self.key[0] if len(self.key) == 1 else KEY
        of = next((one.type for one in self.columns if one.name == name), "BIGINT" if not self.key else "VARCHAR")
        kind = pa.int64() if of in INTEGERS else pa.utf8()
        return pa.field(name, kind, nullable=False, metadata={ROLE: Role.ID.encode()})

    def id_expression(self) -> str:
        if not self.key:
            return "rowid"
        if len(self.key) > 1:
            return f"CAST(to_json([{', '.join(f'CAST({quoted(one)} AS VARCHAR)' for one in self.key)}]) AS VARCHAR)"
        return f"CAST({quoted(self.key[0])} AS {'BIGINT' if self.id.type == pa.int64() else 'VARCHAR'})"

    def expressions(self) -> Iterator[str]:
        """What a SELECT names to give the rows."""
        yield self.id_expression()
        for one in self.stored:
            yield quoted(one.name) if carried(one.type) == "plain" else f"CAST({quoted(one.name)} AS VARCHAR)"

    def roles(self) -> Iterator[tuple[str, Role]]:
        """The columns of the rows, and what they mean."""
        texts = {one.name for one in self.stored if one.type in ("VARCHAR", "JSON")}
        document = next((name for name in DOCUMENTS if name in texts), None)
        yield self.id.name, Role.ID
        for one in self.stored:
            role = Role.VECTOR if one.dimension else Role.COLUMN
            if one.name in texts:
                role = {document: Role.DOCUMENT, "uri": Role.URI, PAYLOAD: Role.PAYLOAD}.get(one.name, Role.COLUMN)
            yield one.name, role

    def fields(self) -> tuple[Field, ...]:
        return tuple(self._field(one) for one in self.stored if one.dimension)

    def _field(self, column: Column) -> Field:
        index = next((one for one in self.indexes if one.column == column.name), None)
        if index is None:
            return Field(column.name, "float32", column.dimension, "l2")
        metric = METRICS.get(str(index.options.get("metric", "l2sq")), "l2")
        return Field(column.name, "float32", column.dimension, metric, {"kind": "hnsw", **index.options})

    def collection(self, count: int) -> Collection:
        indexes = [{"name": one.name, "unique": one.unique, "rest": one.rest, "options": dict(one.options)} for one in self.indexes]
        columns = [[one.name, one.type, one.computed] for one in self.columns]
        catalog = {"columns": columns, "key": list(self.key), "items": list(self.items), "indexes": indexes}
        return Collection(self.name, count, self.fields(), {"duckdb": {**catalog, "sequences": list(self.sequences)}})


def is_own(collection: Collection) -> bool:
    return "duckdb" in collection.catalog


def table_of(collection: Collection) -> Table:
    """The table of a collection of DuckDB, under the name that it has now."""
    said: Mapping[str, Any] = collection.catalog["duckdb"]
    schema, table = place_of(collection.name) or ("main", collection.name)
    indexes = tuple(Index(one["name"], one["unique"], one["rest"], one["options"]) for one in said["indexes"])
    columns = tuple(Column(*one) for one in said["columns"])
    return Table(schema, table, columns, tuple(said["key"]), tuple(said["items"]), indexes, tuple(said["sequences"]))


def items_of(statement: str) -> tuple[str, ...]:
    """The columns and constraints of a CREATE TABLE; empty if it isn't understood."""
    found = _TABLE.fullmatch(statement)
    return tuple(one.strip() for one in _split(found["body"])) if found else ()


def rest_of(statement: str) -> str:
    """What follows the table in a CREATE INDEX."""
    found = _INDEX.fullmatch(statement)
    return found["rest"] if found else ""


def computed_in(items: Sequence[str], name: str) -> bool:
    """Is this column one that DuckDB computes?"""
    begins = (quoted(name) + " ", name + " ")
    return any(one.startswith(begins) and "GENERATED ALWAYS AS" in _QUOTED.sub("", one) for one in items)


def _split(body: str) -> Iterator[str]:
    """At commas that are neither in parentheses nor in quotes."""
    depth, begin = 0, 0
    for found in re.finditer(r'"(?:[^"]|"")*"|\'(?:[^\']|\'\')*\'|[()\[\],]', body):
        if found[0] in "([":
            depth += 1
        elif found[0] in ")]":
            depth -= 1
        elif found[0] == "," and not depth:
            yield body[begin : found.start()]
            begin = found.end()
    yield body[begin:]
