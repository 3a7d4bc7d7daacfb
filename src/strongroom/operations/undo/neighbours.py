"""How many of the sealed queries' nearest neighbours change with an undo? By exact search among all rows, with it and without it.

Rows that an undo leaves alone are searched once; memory is that of `ExactSearch`, whatever the number of rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from strongroom.journal.reckoning import Reckoned, Reckoning
from strongroom.journal.undoing import Fate
from strongroom.repository import Repository
from strongroom.snapshots import probes
from strongroom.snapshots.manifest import ProbeSet, StoredCollection
from strongroom.snapshots.probes import ExactSearch, Probes


@dataclass
class Changed:
    """Of so many queries some have others among their first `k` neighbours, `neighbours` in all."""

    k: int = 0
    probes: int = 0
    changed: int = 0
    neighbours: int = 0


class Neighbours:
    """The queries of one set of probes, and their neighbours among the rows that the undo leaves alone."""

    def __init__(self, repository: Repository, collection: StoredCollection, probe: ProbeSet) -> None:
        self._field = collection.catalog.vector_field(probe.field)
        self._sealed = probes.decode(repository.read_blob(bytes.fromhex(probe.blob)))
        self._search = ExactSearch(self._sealed.queries, self._field, self._sealed.k)
        self._count = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Rows that are the same either way."""
        self._add(self._search, batch)

    def compare(self, reckoning: Reckoning, identity: str, found: Changed) -> None:
        """Count what changes in, once all rows that the undo leaves alone were added but those that operations touched."""
        for batch in reckoning.good_rows(identity):
            self.add(batch)
        for one in reckoning.reckoned(identity):
            if one.real is not None and not _differs(one):
                self.add(one.real)
        real, bare = self._further(), self._further()
        for one in reckoning.reckoned(identity):
            if _differs(one):
                for search, row in ((real, one.real), (bare, one.bare)):
                    if row is not None:
                        self._add(search, row)
        pairs = zip(real.answers().ids, bare.answers().ids, strict=True)
        differing = [max(len(set(then) - set(now)), len(set(now) - set(then))) for then, now in pairs]
        found.k = max(found.k, self._sealed.k)
        found.probes += len(differing)
        found.changed += sum(one > 0 for one in differing)
        found.neighbours += sum(differing)

    def _further(self) -> ExactSearch:
        answers, rows = self._search.answers(), self._search.rows()
        known = Probes(self._sealed.k, self._sealed.queries, answers, None, rows)
        return ExactSearch(self._sealed.queries, self._field, self._sealed.k, known)

    def _add(self, search: ExactSearch, batch: pa.RecordBatch) -> None:
        if self._field.name in batch.schema.names:
            search.add(batch, np.arange(self._count, self._count + batch.num_rows, dtype=np.uint32))
            self._count += batch.num_rows


def _differs(one: Reckoned) -> bool:
    return one.fate not in (Fate.KEPT, Fate.UNCHANGED)
