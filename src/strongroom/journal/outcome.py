"""What is left of the rows once operations are applied in order? The rules of `engines.changes.Act`, over the rows of a snapshot.

It is what a restored state is compared with: the engine applied the same operations by its own rules. Only rows that an operation
touches are kept: in a scratch file (`rows_in_parts`), but a fingerprint is enough of the rows of a collection of which no operation
names a part (`whole_rows`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from strongroom.engines.changes import ACT, Act, CatalogChange, Change, RowChanges, counts_copies, is_vector
from strongroom.journal.overlay import ids_of
from strongroom.journal.rows_in_parts import RowsInParts, id_column, rows_of
from strongroom.journal.whole_rows import Keys, WholeRows
from strongroom.model import ROLE, Fidelity, Role
from strongroom.snapshots.fingerprints import Fingerprinter, Words, canonical_name

_ID = pa.schema([pa.field("id", pa.utf8(), metadata={ROLE: Role.ID})])
_WHOLE = frozenset({Act.PUT, Act.DELETE})
MOST_WHOLE = 1 << 22
"""Of so many rows at most fingerprints are held in memory; what is more lies in the file."""

Kinds = frozenset[tuple[str, pa.DataType]]


class Outcome:
    """First `touch`, then `take` the rows of the snapshot, then `settle`; then ask."""

    def __init__(
        self,
        path: Path,
        fingerprinter: Fingerprinter,
        changes: Callable[[], Iterable[Change]],
        fidelity: Fidelity = Fidelity.KEPT,
    ) -> None:
        """`path` is a new file; `changes` gives all operations in order, whenever it is called. `fidelity` says what the engine
        keeps of vectors: their values, their direction, or a code, which isn't compared."""
        self._fingerprinter = fingerprinter
        self._changes = changes
        self._vectors = fidelity is Fidelity.KEPT
        self._directions = fidelity is Fidelity.NORMALIZED
        self._parts = RowsInParts(path, self._prints, directions=self._directions)
        self._whole: dict[str, WholeRows] = {}
        self._kinds: dict[str, Kinds] = {}
        self._in_file: set[str] = set()
        self._most = 0
        self.emptied: set[str] = set()
        """Collections of which no row of the snapshot is left: they were dropped."""
        self.present: set[str] = set()

    def touch(self) -> None:
        """Note which rows the operations are about."""
        again = True
        while again:  # the rows of a collection may turn out to be needed in the file when the first ones were noted already
            again = False
            for change in self._changes():
                again |= isinstance(change, RowChanges) and not self._noted(change)

    def _noted(self, change: RowChanges) -> bool:
        """False if what was noted of its collection before is to be noted once more."""
        begun = False
        if change.identity not in self._in_file:
            if self._says_all(change):
                self._whole.setdefault(change.identity, WholeRows()).note(self._keys(change.batch))
                self._most += len(change)
                if self._most > MOST_WHOLE:  # counted twice what was noted twice
                    self._most = sum(map(len, self._whole.values()))
                if self._most <= MOST_WHOLE:
                    return True
            self._in_file.add(change.identity)
            begun = self._whole.pop(change.identity, None) is not None
        self._parts.note(change.identity, change.batch)
        return not begun

    def _says_all(self, change: RowChanges) -> bool:
        """Does each operation say all of its row, or that it is gone, and all in columns of the same types?"""
        acts = set(change.batch.column(ACT).to_pylist())
        if self._directions or counts_copies(change.batch.schema) or not acts <= _WHOLE:
            return False
        if Act.PUT not in acts:
            return True
        rows = rows_of(change).schema
        single = sum(map(is_vector, rows)) == 1
        kinds = frozenset((canonical_name(field, single_vector=single), field.type) for field in rows)
        return self._kinds.setdefault(change.identity, kinds) == kinds

    def _keys(self, batch: pa.RecordBatch) -> Keys:
        return self._fingerprinter.rows(pa.record_batch([id_column(batch)], schema=_ID))

    def take(self, identity: str, batch: pa.RecordBatch) -> npt.NDArray[np.bool_]:
        """Rows of the snapshot: those that are touched are kept. Gives which ones these are."""
        self.present.add(identity)
        touched = self.touched(identity, batch)
        if identity in self._in_file:  # of others an operation says all
            self._parts.take(identity, batch.filter(pa.array(touched)))
        return touched

    def touched(self, identity: str, batch: pa.RecordBatch) -> npt.NDArray[np.bool_]:
        """Which of these rows an operation is about."""
        if identity in self._whole:
            return self._whole[identity].find(self._keys(batch))[1]
        return self._parts.touched(identity, batch) if identity in self._in_file else np.zeros(batch.num_rows, np.bool_)

    def settle(self) -> None:
        """Apply the operations."""
        for change in self._changes():
            if isinstance(change, CatalogChange):
                self._settle_catalog(change)
            elif change.identity in self._whole:
                rows, living = rows_of(change), change.batch.column(ACT).to_numpy() == Act.PUT
                self._whole[change.identity].settle(self._keys(rows), living, self._prints(rows))
            else:
                self._parts.settle(change)

    def _settle_catalog(self, change: CatalogChange) -> None:
        gone = self.present - change.present.keys() if change.whole else set(change.gone)
        self.present = (self.present - gone) | change.present.keys()
        self.emptied |= gone
        for identity in gone:
            if identity in self._whole:
                self._whole[identity].empty()
            else:
                self._parts.drop(identity)

    def odd(self, identity: str, batch: pa.RecordBatch) -> str | None:
        """Rows that the engine gives, all of them touched: is one of them not what the operations made of it, or there twice, or
        there and should not be? Gives the first one's id and what is wrong with it. Those that are right are ticked off."""
        if identity in self._whole:
            found = self._whole[identity].tick(self._keys(batch), self._prints(batch))
            return None if found is None else f"row {ids_of(batch)[found[0]]!r} {found[1].value}"
        return self._parts.odd(identity, batch)

    def lost(self, identity: str) -> str | None:
        """The id of a row that should be there and was never given to `odd`."""
        if identity in self._whole:
            return self._named(identity, self._whole[identity].lost())
        return self._parts.lost(identity)

    def _named(self, identity: str, keys: Keys) -> str | None:
        """The id of one of these rows, which the operations tell."""
        if not len(keys):
            return None
        wanted = WholeRows()
        wanted.note(keys)
        for change in self._changes():
            if isinstance(change, RowChanges) and change.identity == identity:
                meant = np.flatnonzero(wanted.find(self._keys(change.batch))[1])
                if len(meant):
                    return ids_of(change.batch)[int(meant[0])]
        return None

    def close(self) -> None:
        self._parts.close()

    def _prints(self, batch: pa.RecordBatch) -> Words:
        return self._fingerprinter.rows(self.compared(batch))

    def compared(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The columns by which rows are compared."""
        return batch if self._vectors else batch.select([field.name for field in batch.schema if not is_vector(field)])
