"""What does the database say about its tables: columns, key, constraints, indexes, sequences?"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from strongroom.engines.pgvector import tables_sql
from strongroom.engines.pgvector.address import Layout
from strongroom.engines.pgvector.server import Connection, quoted
from strongroom.model import Json

VECTORS = ("vector", "halfvec", "sparsevec", "bit")
_METHODS = ("hnsw", "ivfflat")


@dataclass(frozen=True, slots=True)
class Column:
    """`type` is the full one, `base` the name of the type alone, `ours` of which extension or system schema it is; `output` is the
    function that gives its text form."""

    name: str
    type: str
    base: str
    modifier: int
    builtin: bool
    vector: bool
    output: str
    not_null: bool
    identity: str
    generated: str
    default: str | None
    collation: str | None
    storage: str | None

    def described(self) -> dict[str, Json]:
        found = {"name": self.name, "type": self.type, "not_null": self.not_null, "identity": self.identity}
        found |= {"generated": self.generated, "default": self.default, "collation": self.collation, "storage": self.storage}
        return {name: value for name, value in found.items() if value not in (None, "", False)}


@dataclass(frozen=True, slots=True)
class Index:
    """`expression` is what the first key is computed from; `definition` what stands after USING."""

    name: str
    method: str
    operators: str
    expression: str
    columns: tuple[str, ...]
    definition: str
    unique: bool
    primary: bool
    constraint: bool
    valid: bool
    options: tuple[str, ...]

    @property
    def of_vectors(self) -> bool:
        return self.method in _METHODS

    def described(self) -> dict[str, Json]:
        return {"name": self.name, "unique": self.unique, "definition": self.definition, "method": self.method}


@dataclass(frozen=True, slots=True)
class Table:
    """A table with vectors. `oid` stays its own for as long as it lives, whatever it is called."""

    oid: int
    schema: str
    name: str
    collection: str
    inherits: bool
    persistence: str
    options: tuple[str, ...]
    columns: tuple[Column, ...]
    indexes: tuple[Index, ...]
    constraints: tuple[tuple[str, str, str], ...]
    sequences: tuple[Mapping[str, Json], ...]

    @property
    def key(self) -> tuple[str, ...]:
        """The columns of the primary key, none if there is none, or one that is computed from other columns: it is in no row."""
        found = next((one.columns for one in self.indexes if one.primary), ())
        return found if set(found) <= {one.name for one in self.stored} else ()

    @property
    def stored(self) -> tuple[Column, ...]:
        """The columns that hold what was put there, not what is computed from others."""
        return tuple(one for one in self.columns if not one.generated)

    def described(self) -> dict[str, Json]:
        """The catalog of the collection. Whatever schema it lies in."""
        return {
            "format": "pgvector",
            "identity": str(self.oid),
            "table": self.name,
            "columns": [one.described() for one in self.columns],
            "key": list(self.key),
            "constraints": [{"name": name, "kind": kind, "definition": text} for name, kind, text in self.constraints],
            "indexes": [one.described() for one in self.indexes if not one.constraint and one.valid],
            "sequences": [dict(one) for one in self.sequences],
            "options": list(self.options),
            **({"unlogged": True} if self.persistence == "u" else {}),
        }


@dataclass(frozen=True, slots=True)
class Found:
    """The tables with vectors, and what else is there: (kind, name)."""

    tables: tuple[Table, ...]
    others: tuple[tuple[str, str], ...]


def read(connection: Connection, layout: Layout, extension: str) -> Found:
    """All tables of the layout, in one transaction of the caller's; `extension` is the schema of pgvector."""
    tables, others = [], []
    for oid, schema, name, kind in connection.execute(tables_sql.TABLES).fetchall():
        called = layout.collection(schema, name)
        if called is None:
            continue
        found = table_of(described(connection, oid, schema, extension), layout) if kind == "r" else None
        if found is not None:
            tables.append(found)
        else:
            others.append((_KINDS[kind], called))
    return Found(tuple(tables), tuple(others))


def described(connection: Connection, oid: int, schema: str, extension: str) -> dict[str, Json]:
    """What the server says of a table, for `table_of`."""
    connection.execute(f"SET LOCAL search_path = {quoted(schema)}, {quoted(extension)}".encode())
    found: dict[str, Json] = connection.execute(tables_sql.description("%(oid)s"), {"oid": oid}).fetchall()[0][0]
    connection.execute(b"SET LOCAL search_path = ''")
    return found


def table_of(body: Mapping[str, Any], layout: Layout) -> Table | None:
    """A table as the server describes it; None if it isn't of the layout."""
    oid, schema, name, inherits, persistence, options, extension = body["table"]
    called = layout.collection(schema, name)
    columns = tuple(_column(row, extension) for row in body["columns"] or ())
    indexes = tuple(_index(row, name) for row in body["indexes"] or ())
    if called is None or not (layout.plain or _has_vectors(columns, indexes)):
        return None
    return Table(
        oid=oid,
        schema=schema,
        name=name,
        collection=called,
        inherits=inherits,
        persistence=persistence,
        options=tuple(options or ()),
        columns=columns,
        indexes=indexes,
        constraints=tuple((one[0], one[1], one[2]) for one in body["constraints"] or ()),
        sequences=tuple(_sequence(one) for one in body["sequences"] or ()),
    )


_KINDS = {"r": "table", "p": "partitioned table", "m": "materialized view", "f": "foreign table"}


def _has_vectors(columns: Sequence[Column], indexes: Sequence[Index]) -> bool:
    """A bit string is a vector where an index of vectors says so."""
    if any(one.vector for one in columns):
        return True
    indexed = {name for index in indexes if index.of_vectors for name in index.columns}
    return any(one.base == "bit" and one.name in indexed for one in columns)


def _column(row: Sequence[Any], extension: str) -> Column:
    name, kind, base, modifier, schema, output, place, not_null, identity, generated, default, collation, storage = row
    return Column(
        name=name,
        type=kind,
        base=base,
        modifier=modifier,
        builtin=schema == "pg_catalog",
        vector=schema == extension and base in VECTORS,
        output=quoted(place, output),
        not_null=not_null,
        identity=identity,
        generated=generated,
        default=default,
        collation=collation,
        storage=storage,
    )


def _index(row: Sequence[Any], table: str) -> Index:
    name, primary, valid, method, definition, expression, operators, options, columns, constraint, unique = row
    return Index(
        name=name,
        method=method,
        operators=operators,
        expression=expression,
        columns=tuple(columns or ()) or _named_in(expression),
        definition=_after_using(definition, name, table),
        unique=unique,
        primary=primary,
        constraint=constraint,
        valid=valid,
        options=tuple(options or ()),
    )


def _sequence(one: Mapping[str, Any]) -> dict[str, Json]:
    """A sequence that gave no number yet begins with its first. What it gave isn't told to who may only read the table."""
    said = {name: value for name, value in one.items() if name != "readable"}
    called = one["last_value"] is not None
    return {**said, "last_value": one["last_value"] if called or not one["readable"] else one["start"], "is_called": called}


def _named_in(expression: str) -> tuple[str, ...]:
    """The column that an expression such as (embedding::halfvec(3)) casts."""
    found = re.match(r'\(*("(?:[^"]|"")+"|[\w$]+)\)*::', expression)
    if not found:
        return ()
    name = found[1]
    return (name[1:-1].replace('""', '"') if name.startswith('"') else name,)


def _after_using(definition: str, index: str, table: str) -> str:
    """What of a definition doesn't name the index or the table."""
    for unique in ("", "UNIQUE "):
        for only in ("", "ONLY "):
            for name in (table, f'"{table}"', quoted(table)):
                for own in (index, quoted(index)):
                    start = f"CREATE {unique}INDEX {own} ON {only}{name} USING "
                    if definition.startswith(start):
                        return definition[len(start) :]
    return definition.partition(" USING ")[2]
