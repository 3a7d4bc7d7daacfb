"""What is a row, whole, once an operation is applied? The rules of `engines.changes.Act`, and the rows that operations touch.

`outcome` tells by fingerprints whether an engine came to the same; here are the rows themselves, in a scratch file, so that memory
doesn't grow with them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from strongroom.engines.changes import (
    ACT,
    BATCH,
    MARK,
    TIME,
    Act,
    CatalogChange,
    Change,
    RowChanges,
    column_of,
    counts_copies,
)
from strongroom.engines.payloads import exact, written
from strongroom.errors import WrongRequest
from strongroom.model import Role
from strongroom.snapshots.fingerprints import row_key

OWN = (ACT, TIME, MARK, BATCH)
Row: TypeAlias = pa.RecordBatch
"""One row, with the columns of its collection."""

_TABLE = """
CREATE TABLE rows (identity TEXT, id TEXT, kind INTEGER, row BLOB, PRIMARY KEY (identity, id)) WITHOUT ROWID
"""
_STEP = 1024


def applied(before: Row | None, act: Act, given: Row) -> Row | None:
    """The row that an operation leaves of `before`; None is one that isn't there."""
    if act is Act.DELETE:
        return None
    if act is Act.PUT:
        return given
    if (act is Act.INSERT and before is not None) or (act is Act.UPDATE and before is None):
        return before
    return _without_nulls(given) if before is None else _merged(before, given)


def _merged(before: Row, given: Row) -> Row:
    """What isn't named stays."""
    payload = column_of(given, Role.PAYLOAD)
    fields = {field.name: (field, before.column(field.name)) for field in before.schema}
    for field, now in zip(given.schema, given.columns, strict=True):
        if field.name == payload and field.name in fields:
            merged = merged_payload(fields[field.name][1][0].as_py(), now[0].as_py())
            fields[field.name] = field, pa.array([merged], field.type)
        elif field.name not in fields or not now.null_count:
            fields[field.name] = field, now
    return pa.record_batch([column for _, column in fields.values()], schema=pa.schema([field for field, _ in fields.values()]))


def _without_nulls(given: Row) -> Row:
    """A new row: keys that an operation takes away were never there."""
    payload = column_of(given, Role.PAYLOAD)
    if payload is None or given.column(payload).null_count:
        return given
    place = given.schema.get_field_index(payload)
    field = given.schema.field(place)
    return given.set_column(place, field, pa.array([merged_payload(None, given.column(place)[0].as_py())], field.type))


def merged_payload(before: str | None, changes: str | None) -> str | None:
    """A payload with the keys that a change names: null removes one."""
    if changes is None:
        return before
    kept = {key: value for key, value in {**exact(before), **exact(changes)}.items() if value is not None}
    return written(kept) if kept else None


def ids_of(batch: pa.RecordBatch) -> list[str]:
    """The ids of rows, as text."""
    name = column_of(batch, Role.ID)
    assert name is not None  # noqa: S101 - every batch of rows has ids
    found: list[str] = row_key(batch.column(name)).to_pylist()
    return found


def operations_of(change: RowChanges) -> Iterator[tuple[int, Act, str, Row]]:
    """Each operation of a change: its place in it, what it does, the id of its row and what it says of it."""
    names = [field.name for field in change.batch.schema if field.name not in OWN]
    rows = change.batch.select(names)
    for place, (act, one) in enumerate(zip(change.batch.column(ACT).to_pylist(), ids_of(rows), strict=True)):
        yield place, Act(act), one, rows.slice(place, 1)


class Overlay:
    """Rows by collection and id. First `touch` all operations, then `take` the rows of the snapshot, then `settle` all operations;
    then `rows` are what is left of those that were touched."""

    def __init__(self, path: Path) -> None:
        """`path` is a new file."""
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)  # an engine may pull from its own
        self._connection.execute("PRAGMA journal_mode = OFF")
        self._connection.execute("PRAGMA synchronous = OFF")
        self._connection.execute(_TABLE)
        self._connection.execute("BEGIN")
        self._kinds: dict[bytes, int] = {}
        self._schemas: list[pa.Schema] = []
        self.present: dict[str, None] = {}
        """The collections that are there, by identity."""
        self.emptied: set[str] = set()
        """Collections of which no row of the snapshot is left: they were dropped."""

    def touch(self, change: Change) -> None:
        """Note which rows an operation is about. Raises WrongRequest if it doesn't know them by their ids."""
        if isinstance(change, RowChanges):
            if counts_copies(change.batch.schema):
                raise WrongRequest(
                    f"rows of {change.name} have no id that is theirs alone: single ones can't be followed through the journal",
                    hint="restore a whole moment, to the engine of the source; followed with --scan, rows are known by id",
                )
            ids = ids_of(change.batch)
            self._connection.executemany(
                "INSERT OR IGNORE INTO rows (identity, id) VALUES (?, ?)", ((change.identity, one) for one in ids)
            )

    def take(self, identity: str, batch: pa.RecordBatch) -> npt.NDArray[np.bool_]:
        """Rows of the snapshot: those that are touched are kept. Gives which ones these are."""
        self.present[identity] = None
        ids = ids_of(batch)
        touched = np.fromiter((self.touches(identity, one) for one in ids), np.bool_, len(ids))
        for place in np.flatnonzero(touched).tolist():
            self.put(identity, ids[place], batch.slice(place, 1))
        return touched

    def touches(self, identity: str, one: str) -> bool:
        """Is an operation about this row?"""
        query = "SELECT 1 FROM rows WHERE identity = ? AND id = ?"
        return self._connection.execute(query, (identity, one)).fetchone() is not None

    def settle(self, change: Change) -> None:
        """Apply an operation."""
        if isinstance(change, CatalogChange):
            self.settle_catalog(change)
            return
        for _, act, one, given in operations_of(change):
            whole = act in (Act.PUT, Act.DELETE)
            self.put(change.identity, one, applied(None if whole else self.get(change.identity, one), act, given))

    def settle_catalog(self, change: CatalogChange) -> set[str]:
        """Drop the collections that went; gives their identities."""
        gone = self.present.keys() - change.present.keys() if change.whole else set(change.gone)
        self.present = {**{one: None for one in self.present if one not in gone}, **dict.fromkeys(change.present)}
        self.emptied |= gone
        for identity in gone:
            self._connection.execute("UPDATE rows SET kind = NULL, row = NULL WHERE identity = ?", (identity,))
        return gone

    def get(self, identity: str, one: str) -> Row | None:
        """The row as it is now; None if it isn't there."""
        query = "SELECT kind, row FROM rows WHERE identity = ? AND id = ?"
        found = self._connection.execute(query, (identity, one)).fetchone()
        return None if found is None or found[0] is None else self._row(*found)

    def put(self, identity: str, one: str, row: Row | None) -> None:
        """The row is this from now on; None if it isn't there any more."""
        stored = (None, None) if row is None else (self._kind(row.schema), row.serialize().to_pybytes())
        self._connection.execute("INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?)", (identity, one, *stored))

    def schemas(self, identity: str) -> list[pa.Schema]:
        """Those of the touched rows that live, in the order in which they were met."""
        kinds = self._connection.execute("SELECT DISTINCT kind FROM rows WHERE identity = ? AND kind IS NOT NULL", (identity,))
        return [self._schemas[kind] for kind in sorted(kind for (kind,) in kinds)]

    def rows(self, identity: str) -> Iterator[tuple[list[str], pa.RecordBatch]]:
        """The touched rows that live: their ids as text, and them, in batches of one schema each."""
        query = "SELECT id, kind, row FROM rows WHERE identity = ? AND kind IS NOT NULL ORDER BY kind, id"
        cursor = self._connection.execute(query, (identity,))
        while some := cursor.fetchmany(_STEP):
            for kind in dict.fromkeys(row[1] for row in some):
                chosen = [row for row in some if row[1] == kind]
                table = pa.Table.from_batches([self._row(kind, row[2]) for row in chosen], self._schemas[kind])
                yield [row[0] for row in chosen], table.combine_chunks().to_batches()[0]

    def close(self) -> None:
        self._connection.close()

    def _kind(self, schema: pa.Schema) -> int:
        key = schema.serialize().to_pybytes()
        if key not in self._kinds:
            self._kinds[key] = len(self._schemas)
            self._schemas.append(schema)
        return self._kinds[key]

    def _row(self, kind: int, content: bytes) -> Row:
        return pa.ipc.read_record_batch(pa.py_buffer(content), self._schemas[kind])
