"""What is left of the rows once operations are applied in order? The rules of `engines.changes.Act`, over the rows of a snapshot.

Only rows that an operation touches are kept, in a scratch file, so that memory doesn't grow with them. It is what a restored state
is compared with: the engine applied the same operations by its own rules.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

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
    has_gaps,
    is_vector,
)
from strongroom.engines.payloads import exact, written
from strongroom.model import Fidelity, Role
from strongroom.snapshots.fingerprints import Fingerprinter, role_of, row_key

_OWN = (ACT, TIME, MARK, BATCH)
_TABLE = """
CREATE TABLE rows (identity TEXT, id TEXT, alive INTEGER NOT NULL, vector BLOB, document TEXT, uri TEXT, payload TEXT, print BLOB,
                   PRIMARY KEY (identity, id)) WITHOUT ROWID
"""
_STEP = 2048
_ALIVE, _SEEN = 1, -1
_SAME_DIRECTION = 0.9999
"""Cosine of the angle between two float32 vectors of which the engine keeps the direction alone."""


class Outcome:
    """First `touch` all operations, then `take` the rows of the snapshot, then `settle` all operations; then ask."""

    def __init__(self, path: Path, fingerprinter: Fingerprinter, fidelity: Fidelity = Fidelity.KEPT) -> None:
        """`path` is a new file. `fidelity` says what the engine keeps of vectors: their values, their direction, or a code, which
        isn't compared."""
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = OFF")
        self._connection.execute("PRAGMA synchronous = OFF")
        self._connection.execute(_TABLE)
        self._connection.execute("BEGIN")
        self._fingerprinter = fingerprinter
        self._vectors = fidelity is Fidelity.KEPT
        self._directions = fidelity is Fidelity.NORMALIZED
        self._schemas: dict[str, pa.Schema] = {}
        self.emptied: set[str] = set()
        """Collections of which no row of the snapshot is left: they were dropped."""
        self.present: set[str] = set()

    def touch(self, change: Change) -> None:
        """Note which rows an operation is about."""
        if isinstance(change, RowChanges):
            ids = _ids(change.batch)
            self._connection.executemany(
                "INSERT OR IGNORE INTO rows (identity, id, alive) VALUES (?, ?, 0)", ((change.identity, one) for one in ids)
            )

    def take(self, identity: str, batch: pa.RecordBatch) -> npt.NDArray[np.bool_]:
        """Rows of the snapshot: those that are touched are kept. Gives which ones these are."""
        self.present.add(identity)
        self._schemas.setdefault(identity, batch.schema)
        touched = self.touched(identity, batch)
        if counts_copies(batch.schema):
            self._count(identity, ((one, 1) for one in _ids(batch.filter(pa.array(touched)))))
        elif touched.any():
            kept = batch.filter(pa.array(touched))
            for start in range(0, kept.num_rows, _STEP):
                self._put(identity, kept.slice(start, _STEP))
        return touched

    def touched(self, identity: str, batch: pa.RecordBatch) -> npt.NDArray[np.bool_]:
        """Which of these rows an operation is about."""
        query = "SELECT 1 FROM rows WHERE identity = ? AND id = ?"
        found = (self._connection.execute(query, (identity, one)).fetchone() is not None for one in _ids(batch))
        return np.fromiter(found, np.bool_, batch.num_rows)

    def settle(self, change: Change) -> None:
        """Apply an operation."""
        if isinstance(change, CatalogChange):
            gone = self.present - change.present.keys() if change.whole else set(change.gone)
            self.present = (self.present - gone) | change.present.keys()
            self.emptied |= gone
            for identity in gone:
                self._connection.execute("UPDATE rows SET alive = 0 WHERE identity = ?", (identity,))
            return
        names = [field.name for field in change.batch.schema if field.name not in _OWN]
        rows = change.batch.select(names)
        if change.identity not in self._schemas or any(
            len(rows.column(one)) > rows.column(one).null_count for one in _vectors_of(rows)
        ):
            self._schemas[change.identity] = rows.schema  # who gives no vectors may not know how long they are
        acts = change.batch.column(ACT).to_pylist()
        if counts_copies(rows.schema):
            steps = (-1 if act == Act.DELETE else 1 for act in acts)
            self._count(change.identity, zip(_ids(rows), steps, strict=True))
            return
        if Act.PUT in acts:
            self._settle_whole(change.identity, acts, rows)
            return
        for act, identity, row in zip(acts, _ids(rows), _texts(rows), strict=True):
            self._settle_one(Act(act), change.identity, identity, row)

    def states(self, identity: str) -> Iterator[tuple[str, bytes, bytes | None]]:
        """Of each row that lives: id, print, and the vector's bytes where they are known."""
        query = "SELECT id, vector, document, uri, payload, print FROM rows WHERE identity = ? AND alive"
        cursor = self._connection.execute(query, (identity,))
        while some := cursor.fetchmany(_STEP):
            merged = [row for row in some if row[5] is None]
            prints = self._prints(identity, merged) if merged else iter(())
            for row in some:
                yield row[0], row[5] if row[5] is not None else next(prints), row[1]

    def prints(self, batch: pa.RecordBatch) -> list[bytes]:
        """The prints of rows that are read back."""
        found = self._fingerprinter.rows(self.compared(batch))
        return [bytes(row.tobytes()) for row in found]

    def odd(self, identity: str, batch: pa.RecordBatch) -> str | None:
        """Rows that the engine gives, all of them touched: is one of them not what the operations made of it, or there twice, or
        there and should not be? Gives the first one's id and what is wrong with it. Those that are right are ticked off."""
        if counts_copies(batch.schema):
            return self._odd_copy(identity, batch)
        query = "SELECT id, vector, document, uri, payload, print, alive FROM rows WHERE identity = ? AND id = ?"
        ids, given = _ids(batch), [row[0] for row in _texts(batch)]
        rows = [self._connection.execute(query, (identity, one)).fetchone() for one in ids]
        wrong = next((row[0] for row in rows if row[6] != _ALIVE), None)
        if wrong is not None:
            return f"row {wrong!r} is there and should not be"
        merged = [row for row in rows if row[5] is None]
        made = self._prints(identity, merged) if merged else iter(())
        for row, print_, vector in zip(rows, self.prints(batch), given, strict=True):
            expected = row[5] if row[5] is not None else next(made)
            if print_ != expected or (self._directions and not _same_direction(row[1], vector)):
                return f"row {row[0]!r} is not what the operations made of it"
        seen = ((_SEEN, identity, one) for one in ids)
        self._connection.executemany("UPDATE rows SET alive = ? WHERE identity = ? AND id = ?", seen)
        return None if len(set(ids)) == len(ids) else f"one of the rows from {ids[0]!r} on is there twice"

    def lost(self, identity: str) -> str | None:
        """The id of a row that should be there and was never given to `odd`."""
        query = "SELECT id FROM rows WHERE identity = ? AND alive > 0 LIMIT 1"
        found = self._connection.execute(query, (identity,)).fetchone()
        return None if found is None else str(found[0])

    def close(self) -> None:
        self._connection.close()

    def compared(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The columns by which rows are compared."""
        return batch if self._vectors else batch.select([field.name for field in batch.schema if not is_vector(field)])

    def _count(self, identity: str, steps: Iterable[tuple[str, int]]) -> None:
        """Of rows that are known by what is in them there may be several: `alive` says how many."""
        self._connection.executemany(
            "UPDATE rows SET alive = alive + ? WHERE identity = ? AND id = ?", ((step, identity, one) for one, step in steps)
        )

    def _odd_copy(self, identity: str, batch: pa.RecordBatch) -> str | None:
        """`odd` where ids say what is in a row: only their number can be wrong."""
        ids = _ids(batch)
        self._count(identity, ((one, -1) for one in ids))
        query = "SELECT alive FROM rows WHERE identity = ? AND id = ?"
        wrong = next((one for one in ids if self._connection.execute(query, (identity, one)).fetchone()[0] < 0), None)
        return None if wrong is None else f"row {wrong!r} is there once too often"

    def _settle_whole(self, identity: str, acts: list[int], rows: pa.RecordBatch) -> None:
        whole, put = _is_whole(rows), "vector = ?, document = ?, uri = ?, payload = ?, print = ?"
        for act, one, row, print_ in zip(acts, _ids(rows), _texts(rows), self.prints(rows), strict=True):
            self._connection.execute(
                f"UPDATE rows SET alive = ?, {put} WHERE identity = ? AND id = ?",  # noqa: S608 - a constant
                (act != Act.DELETE, *row, print_ if whole else None, identity, one),
            )

    def _settle_one(
        self, act: Act, identity: str, one: str, given: tuple[bytes | None, str | None, str | None, str | None]
    ) -> None:
        key = (identity, one)
        if act is Act.DELETE:
            self._connection.execute("UPDATE rows SET alive = 0 WHERE identity = ? AND id = ?", key)
            return
        query = "SELECT alive, vector, document, uri, payload FROM rows WHERE identity = ? AND id = ?"
        alive, *before = self._connection.execute(query, key).fetchone()
        if (act is Act.INSERT and alive) or (act is Act.UPDATE and not alive):
            return
        vector, document, uri, payload = before if alive else (None, None, None, None)
        merged = (
            vector if given[0] is None else given[0],
            document if given[1] is None else given[1],
            uri if given[2] is None else given[2],
            _merged(payload, given[3]),
        )
        self._connection.execute(
            "UPDATE rows SET alive = 1, vector = ?, document = ?, uri = ?, payload = ?, print = NULL WHERE identity = ? AND id = ?",
            (*merged, *key),
        )

    def _put(self, identity: str, batch: pa.RecordBatch) -> None:
        prints = self.prints(batch)
        whole = _is_whole(batch)
        for one, row, print_ in zip(_ids(batch), _texts(batch), prints, strict=True):
            self._connection.execute(
                "UPDATE rows SET alive = 1, vector = ?, document = ?, uri = ?, payload = ?, print = ?"
                " WHERE identity = ? AND id = ?",
                (*row, print_ if whole else None, identity, one),
            )

    def _prints(self, identity: str, rows: list[tuple[str, bytes, str, str, str, bytes]]) -> Iterator[bytes]:
        schema = self._schemas[identity]
        by_role: Mapping[Role | None, int] = {Role.ID: 0, Role.DOCUMENT: 2, Role.URI: 3, Role.PAYLOAD: 4}
        columns = []
        for field in schema:
            values: list[Any] = [row[1 if is_vector(field) else by_role[role_of(field)]] for row in rows]
            if pa.types.is_integer(field.type):  # ids are kept as text
                values = [int(one) for one in values]
            columns.append(_vectors(values, field.type) if is_vector(field) else pa.array(values, field.type))
        return iter(self.prints(pa.record_batch(columns, schema=schema)))


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


def _ids(batch: pa.RecordBatch) -> list[str]:
    name = column_of(batch, Role.ID)
    assert name is not None  # noqa: S101 - every batch of rows has ids
    found: list[str] = row_key(batch.column(name)).to_pylist()
    return found


def _texts(batch: pa.RecordBatch) -> Iterator[tuple[bytes | None, str | None, str | None, str | None]]:
    """Vector, document, uri and payload of each row, as far as there are such columns."""
    vector = next((field.name for field in batch.schema if is_vector(field)), None)
    names = (column_of(batch, Role.DOCUMENT), column_of(batch, Role.URI), column_of(batch, Role.PAYLOAD))
    lists = [batch.column(name).to_pylist() if name else [None] * batch.num_rows for name in names]
    yield from zip(_bytes_of(batch.column(vector)) if vector else [None] * batch.num_rows, *lists, strict=True)


def _bytes_of(column: pa.Array) -> list[bytes | None]:
    if pa.types.is_fixed_size_binary(column.type):
        found: list[bytes | None] = column.to_pylist()
        return found
    dense = np.ascontiguousarray(column.drop_null().flatten().to_numpy(zero_copy_only=False)).reshape(-1, column.type.list_size)
    rows = iter(dense)
    return [next(rows).tobytes() if there else None for there in np.asarray(column.is_valid())]


def _vectors(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    there = np.array([one is not None for one in values], np.bool_)
    joined, count = pa.py_buffer(b"".join(one for one in values if one is not None)), int(there.sum())
    if pa.types.is_fixed_size_binary(kind):
        dense = pa.FixedSizeBinaryArray.from_buffers(kind, count, [None, joined])
    else:
        numbers = pa.Array.from_buffers(kind.value_type, count * kind.list_size, [None, joined])
        dense = pa.FixedSizeListArray.from_arrays(numbers, type=kind)
    return dense if there.all() else dense.take(pa.array(np.cumsum(there) - 1, mask=~there))


def _merged(before: str | None, changes: str | None) -> str | None:
    """A payload with the keys that a change names: null removes one."""
    if changes is None:
        return before
    kept = {key: value for key, value in {**exact(before), **exact(changes)}.items() if value is not None}
    return written(kept) if kept else None
