"""What does a database hold: which vec0 tables, which others, and what of it is in the rows?"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from strongroom.engines.sqlite_vec import shadow
from strongroom.engines.sqlite_vec.definition import Kind, Table, parsed
from strongroom.engines.sqlite_vec.pages import Placed
from strongroom.errors import NotFound
from strongroom.model import Collection, Json, LedgerItem, Status

_VEC0 = re.compile(r"CREATE\s+VIRTUAL\s+TABLE\b.*\bUSING\b.*\bvec0\b", re.IGNORECASE | re.DOTALL)
_PRAGMAS = ("page_size", "encoding", "user_version", "application_id", "auto_vacuum")


@dataclass(frozen=True, slots=True)
class Catalog:
    """`placed` are the vec0 tables, `counts` their rows, `half` the rows of each that a failed INSERT left half written, `misfits`
    the values of each auxiliary column of each that are of another type; `strange` are vec0 tables that can't be read as rows, and
    why; `others` all other tables and views, `more` what else is defined."""

    placed: tuple[Placed, ...]
    counts: Mapping[str, int]
    half: Mapping[str, int]
    misfits: Mapping[str, Mapping[str, int]]
    strange: Mapping[str, str]
    others: tuple[str, ...]
    more: tuple[str, ...]
    settings: Mapping[str, Json]

    def table(self, name: str) -> Table:
        """Raises NotFound."""
        for one in self.placed:
            if one.table.name == name:
                return one.table
        raise NotFound(f"there is no collection {name!r}", hint=f"vec0 tables: {', '.join(self.counts) or 'none'}")

    def collections(self) -> tuple[Collection, ...]:
        return tuple(one.table.collection(self.counts[one.table.name]) for one in self.placed)

    def ledger(self) -> tuple[LedgerItem, ...]:
        captured, not_captured, not_offered = Status.CAPTURED, Status.NOT_CAPTURED, Status.NOT_OFFERED
        items = [
            LedgerItem("rows", captured, "vectors, keys, metadata, auxiliary and partition columns of all vec0 tables"),
            LedgerItem("database file", captured, "byte for byte, one file: what lay in its log or journal is checked in"),
            LedgerItem("definitions of vec0 tables", captured),
            LedgerItem("vector index", not_offered, "vec0 has none: it looks at every vector"),
        ]
        if self.others:
            note = f"{', '.join(self.others)}: they are in the file, and come back with it only"
            items.append(LedgerItem("rows of other tables", not_captured, note))
        if self.more:
            items.append(LedgerItem("indexes, triggers", not_captured, f"{', '.join(self.more)}: they are in the file"))
        for name, problem in self.strange.items():
            items.append(LedgerItem(f"rows of {name}", not_captured, f"{problem}: it is in the file"))
        for name, count in self.half.items():
            note = f"{count} have none: an INSERT failed half way, and sqlite-vec doesn't take that back"
            items.append(LedgerItem(f"{name}: auxiliary values of all rows", not_offered, note))
        for name, columns in self.misfits.items():
            held = ", ".join(f"{column} ({count})" for column, count in columns.items())
            note = f"{held}: an UPDATE put them there; null in the rows, they are in the file"
            items.append(LedgerItem(f"{name}: values of another type than their column's", not_captured, note))
        for one in self.placed:
            for column in one.table.of(Kind.VECTOR):
                if column.metric in ("l1", "hamming"):
                    note = f"it is measured by {column.metric}, and right answers by l2; those of vec0 itself are kept"
                    items.append(LedgerItem(f"{one.table.name}: right answers of {column.name}", not_captured, note))
        items.append(LedgerItem("users, roles, aliases", not_offered, "sqlite has none"))
        return tuple(items)


def read(connection: sqlite3.Connection) -> Catalog:
    """That of a database; the connection gives text as bytes."""
    listed = [
        (kind.decode(), name.decode(), root, (statement or b"").decode())
        for kind, name, root, statement in connection.execute("SELECT type, name, rootpage, sql FROM sqlite_master ORDER BY rowid")
    ]
    roots = {name: int(root) for kind, name, root, _ in listed if kind == "table"}
    placed, strange = [], {}
    for kind, name, _, statement in listed:
        if kind == "table" and _VEC0.match(statement):
            table = parsed(name, statement)
            missing = [one for one in table.shadows() if one not in roots] if table else []
            if table is None:
                strange[name] = "its definition is of another version of sqlite-vec"
            elif missing:
                strange[name] = f"it lacks its table {missing[0]}"
            else:
                vectors = [roots[f"{name}_vector_chunks{one.place:02}"] for one in table.of(Kind.VECTOR)]
                placed.append(Placed(table, tuple(vectors), shadow.chunks(connection, table)))
    tables = [one.table for one in placed]
    own = {part for one in tables for part in (one.name, *one.shadows())} | strange.keys()
    half = {one.name: shadow.half_written(connection, one) for one in tables}
    return Catalog(
        tuple(placed),
        {one.name: shadow.count(connection, one) for one in tables},
        {name: count for name, count in half.items() if count},
        {one.name: found for one in tables if (found := shadow.misfits(connection, one))},
        strange,
        tuple(name for kind, name, *_ in listed if kind in ("table", "view") and name not in own and not _internal(name)),
        tuple(name for kind, name, *_ in listed if kind in ("index", "trigger") and not _internal(name)),
        _settings(connection),
    )


def _settings(connection: sqlite3.Connection) -> dict[str, Json]:
    found = {one: connection.execute(f"PRAGMA {one}").fetchone()[0] for one in _PRAGMAS}
    return {one: value.decode() if isinstance(value, bytes) else value for one, value in found.items()}


def _internal(name: str) -> bool:
    return name.startswith("sqlite_")
