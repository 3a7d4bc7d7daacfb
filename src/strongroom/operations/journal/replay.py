"""How a staged snapshot goes on to a later moment: the engine applies the operations of the journal, and every row is compared."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pyarrow as pa

from strongroom.engines.changes import Change
from strongroom.engines.protocol import Frozen, KnownByContent, Replaying, Stage
from strongroom.engines.staging import remove
from strongroom.errors import EngineFailed, VerificationFailed, WrongRequest
from strongroom.journal.outcome import Outcome
from strongroom.model import Collection, Fidelity, Selection
from strongroom.operations.journal.moment import MomentPlan, changes_of
from strongroom.operations.machine import pace
from strongroom.progress import SILENT, Progress
from strongroom.repository import Repository
from strongroom.snapshots.fingerprints import Fingerprinter, RowsRoot


class JournalReplay:
    """Applies the operations of a moment to a stage, and proves that the rows are those that they leave."""

    def __init__(self, repository: Repository, plan: MomentPlan, selection: Selection, progress: Progress) -> None:
        self._repository = repository
        self._plan = plan
        self._selection = selection
        self._progress = progress
        self._fingerprinter = Fingerprinter(repository.keys.fingerprint)

    def run(self, stage: Stage, fidelity: Fidelity) -> tuple[dict[str, str], str]:
        """Gives the root of each collection, by name, and a line that says what was compared. Raises EngineFailed or
        VerificationFailed."""
        if not isinstance(stage, Replaying):
            raise WrongRequest(
                "operations of a journal can't be applied to such a target", hint="restore to the engine of the source"
            )
        path = stage.directory / "outcome.sqlite"
        remove(path)
        outcome = Outcome(path, self._fingerprinter, self._changes, fidelity)
        try:
            return self._run(stage, outcome)
        finally:
            outcome.close()
            remove(path)

    def _run(self, stage: Stage, outcome: Outcome) -> tuple[dict[str, str], str]:
        assert isinstance(stage, Replaying)  # noqa: S101 - told apart in `run`
        outcome.touch()
        untouched: dict[str, RowsRoot] = {}
        with stage.source().freeze(SILENT) as frozen:
            for collection in frozen.description.collections:
                identity = stage.identity(collection)
                outcome.present.add(identity)  # also if it has no rows
                untouched[identity] = self._root_of(stage, frozen, collection, outcome, identity, keep=True)[0]
        outcome.settle()
        self._progress.begin("journal", self._plan.operations, "rows")
        began = time.perf_counter()
        applied = stage.apply(self._advancing(), self._selection)
        stage.seal()
        pace.remember(self._plan.span.head.engine, applied, time.perf_counter() - began)
        if self._selection.everything and applied != self._plan.operations:
            raise EngineFailed(f"{applied:,} of {self._plan.operations:,} operations were applied")
        with stage.source().freeze(SILENT) as frozen:
            return self._compare(stage, frozen, outcome, untouched)

    def _compare(
        self, stage: Replaying, frozen: Frozen, outcome: Outcome, untouched: dict[str, RowsRoot]
    ) -> tuple[dict[str, str], str]:
        collections = {stage.identity(one): one for one in frozen.description.collections}
        wanted = {one for one in outcome.present if one in untouched or self._selection.everything}
        if not wanted <= collections.keys() or (self._selection.everything and collections.keys() != wanted):
            raise VerificationFailed(f"the collections after the replay are {sorted(collections)}, not {sorted(wanted)}")
        roots, rows, changed = {}, 0, 0
        for identity, collection in collections.items():
            rest, root = self._root_of(stage, frozen, collection, outcome, identity, keep=False)
            before = untouched.get(identity) if identity not in outcome.emptied else None
            if rest.digest() != (before or RowsRoot(self._fingerprinter)).digest():
                raise VerificationFailed(f"{collection.name}: rows that no operation touched are not what they were")
            lost = outcome.lost(identity)
            if lost is not None:
                raise VerificationFailed(f"{collection.name}: after the replay row {lost!r} is not there")
            roots[collection.name] = root.digest()
            rows, changed = rows + root.count, changed + root.count - rest.count
        line = (
            f"{self._plan.operations:,} operations replayed; {rows:,} rows read back, {changed:,} of them changed: all as must be"
        )
        return roots, line

    def _root_of(
        self, stage: Replaying, frozen: Frozen, collection: Collection, outcome: Outcome, identity: str, *, keep: bool
    ) -> tuple[RowsRoot, RowsRoot]:
        """The root of the rows that no operation touches, and that of all rows. The others are kept to begin with, or else compared
        with what they should be. Raises VerificationFailed."""
        rest, whole = RowsRoot(self._fingerprinter), RowsRoot(self._fingerprinter)
        named = stage.named if isinstance(stage, KnownByContent) else _as_it_is
        for block in frozen.rows(collection.name):
            batch = block.live()
            whole.add(batch)
            batch = named(collection, batch)
            touched = outcome.take(identity, batch) if keep else outcome.touched(identity, batch)
            rest.add(outcome.compared(batch.filter(pa.array(~touched))))
            odd = outcome.odd(identity, batch.filter(pa.array(touched))) if not keep and touched.any() else None
            if odd is not None:
                raise VerificationFailed(f"{collection.name}: after the replay {odd}")
        return rest, whole

    def _changes(self) -> Iterator[Change]:
        return changes_of(self._repository, self._plan)

    def _advancing(self) -> Iterator[Change]:
        for change in self._changes():
            yield change
            self._progress.advance(len(change))


def _as_it_is(collection: Collection, batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch
