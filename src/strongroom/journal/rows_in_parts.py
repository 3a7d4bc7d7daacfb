"""What is left of rows of which operations name parts? By the rules of `engines.changes.Act`, in a scratch file, so that memory
doesn't grow with them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from strongroom.engines.changes import (
    ACT,
    OWN_COLUMNS,
    Act,
    RowChanges,
    column_of,
    counts_copies,
    has_gaps,
    is_vector,
    vector_bytes,
)
from strongroom.journal.overlay import ids_of, merged_payload
from strongroom.model import Role
from strongroom.snapshots.fingerprints import Words, role_of, row_key

_TABLES = """
CREATE TABLE rows (identity TEXT, id TEXT, alive INTEGER NOT NULL, vector BLOB, document TEXT, uri TEXT, payload TEXT, print BLOB,
                   PRIMARY KEY (identity, id)) WITHOUT ROWID;
CREATE TEMP TABLE asked (id TEXT PRIMARY KEY) WITHOUT ROWID;
"""
_OWN = tuple(field.name for field in OWN_COLUMNS)
_STEP = 2048
_ALIVE, _SEEN = 1, -1
_SAME_DIRECTION = 0.9999
"""Cosine of the angle between two float32 vectors of which the engine keeps the direction alone."""

Parts = tuple[bytes | None, str | None, str | None, str | None]
"""Vector, document, uri and payload of a row, or what an operation says of them."""

State = tuple[int, bytes | None, str | None, str | None, str | None, bytes | None]
"""Of a row whether it is there, its parts, and its print if that is known."""

_NOTHING: Parts = (None, None, None, None)


class RowsInParts:
    """The rows of all collections of which parts are named. First `note` all of them, then `take` those of the snapshot, then
    `settle` all operations, then ask."""

    def __init__(self, path: Path, prints: Callable[[pa.RecordBatch], Words], *, directions: bool) -> None:
        """`path` is a new file; `prints` fingerprints rows by what is compared; `directions`: of vectors the direction is."""
        self._connection = sqlite3.connect(path, isolation_level=None)
        for setting in ("journal_mode = OFF", "synchronous = OFF", "temp_store = MEMORY"):
            self._connection.execute(f"PRAGMA {setting}")
        self._connection.executescript(_TABLES)
        self._connection.execute("BEGIN")
        self._fingerprint = prints
        self._directions = directions
        self._schemas: dict[str, pa.Schema] = {}

    def note(self, identity: str, batch: pa.RecordBatch) -> None:
        """An operation is about these rows."""
        self._connection.executemany(
            "INSERT OR IGNORE INTO rows (identity, id, alive) VALUES (?, ?, 0)", ((identity, one) for one in ids_of(batch))
        )

    def touched(self, identity: str, batch: pa.RecordBatch) -> npt.NDArray[np.bool_]:
        """Which of these rows an operation is about."""
        ids = ids_of(batch)
        noted = {one for (one,) in self._asked(identity, ids, "rows.id")}
        return np.fromiter((one in noted for one in ids), np.bool_, len(ids))

    def take(self, identity: str, batch: pa.RecordBatch) -> None:
        """Rows of the snapshot, all of them noted."""
        self._schemas.setdefault(identity, batch.schema)
        if counts_copies(batch.schema):
            self._count(identity, ((one, 1) for one in ids_of(batch)))
            return
        for some in _steps(batch):
            self._write(identity, zip(ids_of(some), self._states(some, [Act.PUT] * some.num_rows), strict=True))

    def settle(self, change: RowChanges) -> None:
        """Apply operations in order."""
        identity, rows = change.identity, rows_of(change)
        if identity not in self._schemas or any(len(rows.column(one)) > rows.column(one).null_count for one in _vectors_of(rows)):
            self._schemas[identity] = rows.schema  # who gives no vectors may not know how long they are
        acts = change.batch.column(ACT).to_pylist()
        if counts_copies(rows.schema):
            self._count(identity, zip(ids_of(rows), (-1 if act == Act.DELETE else 1 for act in acts), strict=True))
        elif Act.PUT in acts:
            for some, of in _steps_with(rows, acts):
                self._write(identity, zip(ids_of(some), self._states(some, of), strict=True))
        else:
            for some, of in _steps_with(rows, acts):
                self._merge(identity, of, some)

    def drop(self, identity: str) -> None:
        """All rows of a collection are gone."""
        self._connection.execute("UPDATE rows SET alive = 0 WHERE identity = ?", (identity,))

    def odd(self, identity: str, batch: pa.RecordBatch) -> str | None:
        """As `Outcome.odd`."""
        if counts_copies(batch.schema):
            return self._odd_copy(identity, batch)
        ids = ids_of(batch)
        states = self._known(identity, ids)
        wrong = next((one for one in ids if states[one][0] != _ALIVE), None)
        if wrong is not None:
            return f"row {wrong!r} is there and should not be"
        merged = list(dict.fromkeys(one for one in ids if states[one][5] is None))
        made = dict(zip(merged, self._prints_of(identity, merged, states), strict=True))
        for one, print_, (vector, *_) in zip(ids, self._prints(batch), _parts_of(batch), strict=True):
            if print_ != made.get(one, states[one][5]) or (self._directions and not _same_direction(states[one][1], vector)):
                return f"row {one!r} is not what the operations made of it"
        seen = ((_SEEN, identity, one) for one in ids)
        self._connection.executemany("UPDATE rows SET alive = ? WHERE identity = ? AND id = ?", seen)
        return None if len(states) == len(ids) else f"one of the rows from {ids[0]!r} on is there twice"

    def lost(self, identity: str) -> str | None:
        """As `Outcome.lost`."""
        query = "SELECT id FROM rows WHERE identity = ? AND alive > 0 LIMIT 1"
        found = self._connection.execute(query, (identity,)).fetchone()
        return None if found is None else str(found[0])

    def close(self) -> None:
        self._connection.close()

    def _asked(self, identity: str, ids: Sequence[str], columns: str) -> Iterator[tuple[Any, ...]]:
        """These columns of the rows of these ids that were noted, at one go."""
        self._connection.execute("DELETE FROM asked")
        self._connection.executemany("INSERT OR IGNORE INTO asked VALUES (?)", ((one,) for one in ids))
        query = f"SELECT {columns} FROM asked CROSS JOIN rows WHERE rows.identity = ? AND rows.id = asked.id"  # noqa: S608 - constants
        return iter(self._connection.execute(query, (identity,)).fetchall())

    def _known(self, identity: str, ids: Sequence[str]) -> dict[str, State]:
        columns = "rows.id, alive, vector, document, uri, payload, print"
        return {one: (alive, *state) for one, alive, *state in self._asked(identity, ids, columns)}

    def _write(self, identity: str, states: Iterable[tuple[str, State]]) -> None:
        """Of two of one row the later one stays."""
        self._connection.executemany(
            "UPDATE rows SET alive = ?, vector = ?, document = ?, uri = ?, payload = ?, print = ? WHERE identity = ? AND id = ?",
            ((*state, identity, one) for one, state in states),
        )

    def _states(self, rows: pa.RecordBatch, acts: Sequence[int]) -> Iterator[State]:
        """Of whole rows."""
        prints = self._prints(rows) if _is_whole(rows) else [None] * rows.num_rows
        for act, parts, print_ in zip(acts, _parts_of(rows), prints, strict=True):
            yield (int(act != Act.DELETE), *parts, print_)

    def _merge(self, identity: str, acts: Sequence[int], rows: pa.RecordBatch) -> None:
        ids = ids_of(rows)
        states = self._known(identity, ids)
        for act, one, given in zip(acts, ids, _parts_of(rows), strict=True):
            states[one] = _merged(Act(act), states[one], given)
        self._write(identity, states.items())

    def _count(self, identity: str, steps: Iterable[tuple[str, int]]) -> None:
        """Of rows that are known by what is in them there may be several: `alive` says how many."""
        self._connection.executemany(
            "UPDATE rows SET alive = alive + ? WHERE identity = ? AND id = ?", ((step, identity, one) for one, step in steps)
        )

    def _odd_copy(self, identity: str, batch: pa.RecordBatch) -> str | None:
        """`odd` where ids say what is in a row: only their number can be wrong."""
        ids = ids_of(batch)
        self._count(identity, ((one, -1) for one in ids))
        wrong = next((one for one, alive in self._asked(identity, ids, "rows.id, alive") if alive < 0), None)
        return None if wrong is None else f"row {wrong!r} is there once too often"

    def _prints(self, batch: pa.RecordBatch) -> list[bytes | None]:
        return [bytes(row.tobytes()) for row in self._fingerprint(batch)]

    def _prints_of(self, identity: str, ids: Sequence[str], states: Mapping[str, State]) -> list[bytes | None]:
        """The prints of rows as operations made them."""
        if not ids:
            return []
        schema, columns = self._schemas[identity], []
        places: Mapping[Role | None, int] = {Role.DOCUMENT: 2, Role.URI: 3, Role.PAYLOAD: 4}
        for field in schema:
            if role_of(field) is Role.ID:  # kept as text
                columns.append(pa.array([int(one) for one in ids] if pa.types.is_integer(field.type) else ids, field.type))
            elif is_vector(field):
                columns.append(_vectors([states[one][1] for one in ids], field.type))
            else:
                place = places[role_of(field)]
                columns.append(pa.array([states[one][place] for one in ids], field.type))
        return self._prints(pa.record_batch(columns, schema=schema))


def rows_of(change: RowChanges) -> pa.RecordBatch:
    """What operations say of rows."""
    return change.batch.select([field.name for field in change.batch.schema if field.name not in _OWN])


def id_column(batch: pa.RecordBatch) -> pa.Array:
    """The ids of rows, as text."""
    name = column_of(batch, Role.ID)
    assert name is not None  # noqa: S101 - every batch of rows has ids
    return row_key(batch.column(name))


def _merged(act: Act, before: State, given: Parts) -> State:
    alive = bool(before[0])
    if act is Act.DELETE:
        return (0, *before[1:])
    if (act is Act.INSERT and alive) or (act is Act.UPDATE and not alive):
        return before
    vector, document, uri, payload = before[1:5] if alive else _NOTHING
    return (
        _ALIVE,
        vector if given[0] is None else given[0],
        document if given[1] is None else given[1],
        uri if given[2] is None else given[2],
        merged_payload(payload, given[3]),
        None,
    )


def _steps(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    return (batch.slice(start, _STEP) for start in range(0, batch.num_rows, _STEP))


def _steps_with(batch: pa.RecordBatch, acts: Sequence[int]) -> Iterator[tuple[pa.RecordBatch, Sequence[int]]]:
    return ((batch.slice(start, _STEP), acts[start : start + _STEP]) for start in range(0, batch.num_rows, _STEP))


def _same_direction(expected: bytes | None, found: bytes | None) -> bool:
    if expected is None or found is None or expected == found:
        return True
    one, other = np.frombuffer(expected, np.float32).astype(np.float64), np.frombuffer(found, np.float32).astype(np.float64)
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return not lengths or float(one @ other) / lengths >= _SAME_DIRECTION


def _vectors_of(batch: pa.RecordBatch) -> list[str]:
    return [field.name for field in batch.schema if is_vector(field)]


def _is_whole(batch: pa.RecordBatch) -> bool:
    """Are rows compared by the print of all that they hold? Then no operation names a part of one: there are several vectors, a
    column without a role, or vectors with null elements."""
    keyed = {Role.ID, Role.DOCUMENT, Role.URI, Role.PAYLOAD}
    vectors = _vectors_of(batch)
    others = [field for field in batch.schema if not is_vector(field)]
    gaps = any(has_gaps(batch.column(name)) for name in vectors)
    return len(vectors) > 1 or gaps or any(role_of(field) not in keyed for field in others)


def _parts_of(batch: pa.RecordBatch) -> Iterator[Parts]:
    """Vector, document, uri and payload of each row, as far as there are such columns."""
    vector = next((field.name for field in batch.schema if is_vector(field)), None)
    names = (column_of(batch, Role.DOCUMENT), column_of(batch, Role.URI), column_of(batch, Role.PAYLOAD))
    lists = [batch.column(name).to_pylist() if name else [None] * batch.num_rows for name in names]
    yield from zip(vector_bytes(batch.column(vector)) if vector else [None] * batch.num_rows, *lists, strict=True)


def _vectors(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    there = np.array([one is not None for one in values], np.bool_)
    joined, count = pa.py_buffer(b"".join(one for one in values if one is not None)), int(there.sum())
    if pa.types.is_fixed_size_binary(kind):
        dense = pa.FixedSizeBinaryArray.from_buffers(kind, count, [None, joined])
    else:
        numbers = pa.Array.from_buffers(kind.value_type, count * kind.list_size, [None, joined])
        dense = pa.FixedSizeListArray.from_arrays(numbers, type=kind)
    return dense if there.all() else dense.take(pa.array(np.cumsum(there) - 1, mask=~there))
