"""What becomes of each row if some operations are taken back? Two states side by side: as it is, and as it is without them.

Only rows that an operation touches are kept, in scratch files; only those that a mistake touched are kept twice.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from strongroom.engines.changes import Act, CatalogChange, Change, RowChanges
from strongroom.engines.payloads import exact
from strongroom.journal.overlay import Overlay, Row, applied, operations_of
from strongroom.journal.undoing import Fate, Places, Undo
from strongroom.model import Role
from strongroom.snapshots.fingerprints import role_of

_TABLE = """
CREATE TABLE touched (identity TEXT, id TEXT, later INTEGER NOT NULL, PRIMARY KEY (identity, id)) WITHOUT ROWID
"""


@dataclass(frozen=True, slots=True)
class Reckoned:
    """A row that a mistake touched: as it is, and as it will be; None is one that isn't there."""

    id: str
    real: Row | None
    bare: Row | None
    fate: Fate
    changed: tuple[str, ...]


class Reckoning:
    """First `touch` all operations, then `take` the rows of the snapshot, then `settle` all operations; then ask."""

    def __init__(self, directory: Path, undo: Undo) -> None:
        """`directory` is empty."""
        self.real = Overlay(directory / "real.sqlite")
        self._bare = Overlay(directory / "bare.sqlite")
        self._undo = undo
        self._touched = sqlite3.connect(directory / "touched.sqlite", isolation_level=None)
        self._touched.execute("PRAGMA journal_mode = OFF")
        self._touched.execute("PRAGMA synchronous = OFF")
        self._touched.execute(_TABLE)
        self._touched.execute("BEGIN")
        self._taken: list[int] = []
        self._replacing: list[int] = []
        self._at = 0
        self.names: dict[str, str] = {}
        """What collections are called, by identity."""
        self.times: list[int] = []
        """When the first and the last operation that is taken back happened."""
        self.lost_updates = 0
        self.again = 0
        """Operations that are taken back, and put a row whole that one of them had changed before."""

    @property
    def taken(self) -> Places:
        return np.array(self._taken, np.int64)

    @property
    def replacing(self) -> Places:
        return np.array(self._replacing, np.int64)

    def touch(self, change: Change) -> None:
        """Note which rows an operation is about."""
        self.real.touch(change)

    def take(self, identity: str, name: str, batch: pa.RecordBatch) -> npt.NDArray[np.bool_]:
        """Rows of the snapshot: those that are touched are kept. Gives which ones these are."""
        self.names[identity] = name
        return self.real.take(identity, batch)

    def settle(self, change: Change) -> None:
        """Apply an operation to what is, and to what will be if it isn't taken back."""
        if isinstance(change, CatalogChange):
            self._bare.present = dict(self.real.present)
            self.real.settle_catalog(change)
            self._bare.settle_catalog(change)
            self.names |= {identity: one.name for identity, one in change.present.items()}
        else:
            self._settle_rows(change)
        self._at += len(change)

    def _settle_rows(self, change: RowChanges) -> None:
        suspects = self._undo.suspects(change)
        self.names.setdefault(change.identity, change.name)
        for place, act, one, given in operations_of(change):
            before = self.real.get(change.identity, one)
            self.real.put(change.identity, one, applied(before, act, given))
            if suspects[place] and self._undo.means(change, act, given, before):
                self._take_back(change, place, act, one, before)
            elif self._is_touched(change.identity, one):
                self._go_on(change.identity, one, act, given, before, place)

    def _take_back(self, change: RowChanges, place: int, act: Act, one: str, before: Row | None) -> None:
        self._taken.append(self._at + place)
        time = int(change.times()[place])
        self.times = [self.times[0] if self.times else time, time]
        if not self._is_touched(change.identity, one):
            self._bare.put(change.identity, one, before)
            self._touched.execute("INSERT INTO touched VALUES (?, ?, 0)", (change.identity, one))
        elif act is Act.PUT and before is not None:
            self.again += 1

    def _go_on(self, identity: str, one: str, act: Act, given: Row, before: Row | None, place: int) -> None:
        """A good write on a row that a mistake touched."""
        there = self._bare.get(identity, one)
        replaces = act is Act.INSERT and before is None and there is not None
        if replaces:
            self._replacing.append(self._at + place)
        if act is Act.UPDATE and there is None:
            self.lost_updates += before is not None
        elif act is not Act.INSERT or there is None or replaces:
            self._bare.put(identity, one, applied(None if replaces else there, act, given))
            self._touched.execute("UPDATE touched SET later = 1 WHERE identity = ? AND id = ?", (identity, one))

    def _is_touched(self, identity: str, one: str) -> bool:
        return self._bare.touches(identity, one)

    def reckoned(self, identity: str) -> Iterator[Reckoned]:
        """The rows of a collection that a mistake touched."""
        for one, later in self._touched.execute("SELECT id, later FROM touched WHERE identity = ?", (identity,)):
            real, bare = self.real.get(identity, one), self._bare.get(identity, one)
            changed = tuple(_differences(real, bare)) if real is not None and bare is not None else ()
            yield Reckoned(one, real, bare, _fate(real, bare, later=bool(later), same=not changed), changed)

    def good_rows(self, identity: str) -> Iterator[pa.RecordBatch]:
        """The rows that operations touched, and no mistake, as they are."""
        for ids, batch in self.real.rows(identity):
            mask = np.array([not self._is_touched(identity, one) for one in ids], np.bool_)
            if mask.any():
                yield batch.filter(pa.array(mask))

    def close(self) -> None:
        self.real.close()
        self._bare.close()
        self._touched.close()


def _fate(real: Row | None, bare: Row | None, *, later: bool, same: bool) -> Fate:
    if (real is None) == (bare is None) and same:
        return Fate.KEPT if later else Fate.UNCHANGED
    if bare is None:
        return Fate.REMOVED
    if later:
        return Fate.PARTLY
    return Fate.BROUGHT_BACK if real is None else Fate.PUT_BACK


def _differences(one: Row, other: Row) -> Iterator[str]:
    """The columns, and keys of the payload, in which two rows differ."""
    fields = {field.name: field for field in (*one.schema, *other.schema)}
    for name, field in fields.items():
        values = [row.column(name) if name in row.schema.names else pa.nulls(1, field.type) for row in (one, other)]
        if role_of(field) is Role.PAYLOAD:
            then, now = (exact(value[0].as_py()) for value in values)
            yield from (key for key in {**then, **now} if then.get(key) != now.get(key))
        elif not values[0].equals(values[1]):
            yield name
