"""What does a database hold: which tables with vectors, which others, and what of it is in the rows?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from strongroom.engines.duckdb.definition import (
    CANDIDATES,
    INTEGERS,
    Column,
    Index,
    Table,
    carried,
    collection_name,
    computed_in,
    items_of,
    quoted,
    rest_of,
)
from strongroom.errors import NotFound
from strongroom.model import Collection, Json, LedgerItem, Status

Place = tuple[str, str]
Looked = tuple[int, str | None, int | None]
"""Rows, a column that is as good as a key, and the highest number of those columns that count."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """`tables` are those with vectors, `counts` their rows; `others` all other tables, `more` what else is defined; `foreign` are
    tables with foreign keys; `vss` says whether the indexes could be looked into."""

    tables: tuple[Table, ...]
    counts: Mapping[str, int]
    others: tuple[str, ...]
    more: tuple[str, ...]
    foreign: tuple[str, ...]
    vss: bool

    def table(self, name: str) -> Table:
        """Raises NotFound."""
        for one in self.tables:
            if one.name == name:
                return one
        raise NotFound(f"there is no collection {name!r}", hint=f"tables with vectors: {', '.join(self.counts) or 'none'}")

    def collections(self) -> tuple[Collection, ...]:
        return tuple(one.collection(self.counts[one.name]) for one in self.tables)

    def ledger(self) -> tuple[LedgerItem, ...]:
        return tuple(self._items())

    def _items(self) -> Iterator[LedgerItem]:
        captured, not_captured, not_offered = Status.CAPTURED, Status.NOT_CAPTURED, Status.NOT_OFFERED
        yield LedgerItem("rows", captured, "all columns of tables with FLOAT[n] columns, but those that are computed from others")
        yield LedgerItem("database file and its log", captured, "byte for byte, with the HNSW indexes")
        yield LedgerItem("columns, keys, unique and check constraints, index definitions, sequences of columns", captured)
        if any(one.column for table in self.tables for one in table.indexes):
            if self.vss:
                yield LedgerItem("ef_construction and ef_search of HNSW indexes", not_offered, "they are in the file")
            else:
                yield LedgerItem("metric, M and M0 of HNSW indexes", not_captured, "pip install duckdb-extension-vss")
        if self.others:
            yield LedgerItem("rows of other tables", not_captured, f"{', '.join(self.others)}: they are in the file only")
        if self.more:
            yield LedgerItem("views, macros, types", not_captured, f"{', '.join(self.more)}: they are in the file only")
        if self.foreign:
            yield LedgerItem("foreign keys", not_captured, f"those of {', '.join(self.foreign)}: they are in the file only")
        for table in self.tables:
            left = [f"{one.name} ({one.type})" for one in table.columns if carried(one.type) == "out" and not one.computed]
            if left:
                yield LedgerItem(f"{table.name}: columns in rows", not_captured, f"{', '.join(left)}: in the file only")
            if not table.key:
                yield LedgerItem(f"{table.name}: names of rows", not_offered, "it has no key: a row is known by its number")
        yield LedgerItem("users, roles, aliases", not_offered, "an embedded database has none")


def drafted(listed: Mapping[str, Any]) -> tuple[Table, ...]:
    """The tables with vectors, by what DuckDB lists; of keys only primary ones are known yet."""
    columns: dict[Place, list[tuple[str, str]]] = {}
    for schema, table, name, kind in listed["columns"]:
        columns.setdefault((schema, table), []).append((name, kind))
    keys = {(schema, table): tuple(names) for schema, table, kind, names in listed["constraints"] if kind == "PRIMARY KEY"}
    drafts = []
    for schema, table, statement in listed["tables"]:
        items = items_of(statement)
        found = tuple(Column(name, kind, computed_in(items, name)) for name, kind in columns[schema, table])
        items = tuple(one for one in items if not one.startswith("FOREIGN KEY"))
        draft = Table(
            *(schema, table, found, keys.get((schema, table), ()), items),
            tuple(_indexes(listed, (schema, table))),
        )
        if draft.fields():
            drafts.append(draft)
    return tuple(drafts)


def candidates(table: Table) -> Sequence[str]:
    """The columns that may be as good as a key."""
    kinds = {one.name: one.type for one in table.columns if not one.computed}
    return () if table.key else [name for name in CANDIDATES if kinds.get(name) in (*INTEGERS, "VARCHAR", "UUID", "UBIGINT")]


def numbered(table: Table) -> Sequence[str]:
    """The columns that take their defaults from a sequence."""
    kinds = {one.name: one.type for one in table.columns if not one.computed}
    begins = {name: (quoted(name) + " ", name + " ") for name, kind in kinds.items() if kind in INTEGERS}
    return [name for name, begin in begins.items() if any(one.startswith(begin) and "nextval(" in one for one in table.items)]


def completed(listed: Mapping[str, Any], drafts: Sequence[Table], looked: Mapping[str, Looked]) -> Catalog:
    """The catalog, once it is known how many rows tables have, what is as good as a key, and the highest number of a column."""
    keyed = []
    for one in drafts:
        _, unique, highest = looked[one.name]
        sequences = tuple(_sequences(listed["sequences"], one.items, highest))
        keyed.append(replace(one, key=one.key or ((unique,) if unique else ()), sequences=sequences))
    names = {one.name for one in keyed}
    foreign = {collection_name(schema, table) for schema, table, kind, _ in listed["constraints"] if kind == "FOREIGN KEY"}
    return Catalog(
        tuple(keyed),
        {name: count for name, (count, *_) in looked.items()},
        tuple(name for schema, table, _ in listed["tables"] if (name := collection_name(schema, table)) not in names),
        tuple(dict.fromkeys(collection_name(*one) for kind in ("views", "macros", "types") for one in listed[kind])),
        tuple(sorted(foreign & names)),
        listed["hnsw"] is not None,
    )


def _indexes(listed: Mapping[str, Any], place: Place) -> Iterator[Index]:
    told = {(schema, index): (metric, levels) for schema, _, index, metric, levels in listed["hnsw"] or ()}
    for schema, table, name, unique, statement in listed["indexes"]:
        if (schema, table) == place and statement:
            options = _options(*told[schema, name]) if (schema, name) in told else {}
            yield Index(name, bool(unique), rest_of(statement), options)


def _options(metric: str, levels: Sequence[Mapping[str, int]]) -> dict[str, Json]:
    """The metric, and how many links a node may have, which DuckDB tells for all nodes of a level together."""
    each = [level["max_edges"] // level["nodes"] for level in levels if level["nodes"]]
    return {"metric": metric, **dict(zip(("M", "M0"), each, strict=False))}


def _sequences(listed: Sequence[Any], items: Sequence[str], highest: int | None) -> Iterator[str]:
    """Those that a table's columns take their defaults from. They go on where they were, or after the highest number that there is:
    of a database that was not closed DuckDB doesn't tell."""
    for schema, name, start, least, most, step, cycle, last in listed:
        if any(f"nextval('{shown}'" in one for one in items for shown in (name, f"{schema}.{name}", quoted(name))):
            following = start if last is None else last  # of a database that was just opened it is the next one
            following = max(following, highest + step) if highest is not None and step > 0 else following
            cycles = "CYCLE" if cycle else "NO CYCLE"
            bounds = f"INCREMENT BY {step} MINVALUE {least} MAXVALUE {most} START {min(following, most)} {cycles}"
            yield f"CREATE SEQUENCE IF NOT EXISTS {quoted(schema, name)} {bounds}"
