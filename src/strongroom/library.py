"""Everything that Strongroom can do, as one object: what `strongroom.open` and `strongroom.init` give.

What a method works with is imported when it is called: a backup needs nothing of a restore.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from strongroom.access.gate import gated, repairing
from strongroom.access.recorded import outcome_of, without_secrets
from strongroom.clock import SYSTEM_CLOCK, Clock
from strongroom.credentials import secret_of
from strongroom.errors import Damaged, WrongKey, WrongRequest
from strongroom.keeping import Keeping
from strongroom.model import Selection
from strongroom.progress import SILENT, UNHURRIED, Pace, Progress
from strongroom.repository import Argon2Cost, Repository, Secret, Store, open_store
from strongroom.snapshots import history
from strongroom.snapshots.history import Snapshot

if TYPE_CHECKING:
    from strongroom.operations.backup.run import BackupReport
    from strongroom.operations.coverage import CoverageReport
    from strongroom.operations.diff.run import DiffReport
    from strongroom.operations.drill import DrillHistory, DrillReport
    from strongroom.operations.fall_over import Reading, StandIns
    from strongroom.operations.follow.run import Event, FollowOptions, FollowReport
    from strongroom.operations.journal.batches import Batch
    from strongroom.operations.journal.moment import MomentPlan
    from strongroom.operations.journal.status import StreamStatus
    from strongroom.operations.repair import RepairReport
    from strongroom.operations.restore.plan import RestorePlan, Rung
    from strongroom.operations.restore.run import RestoreReport
    from strongroom.operations.undo.run import UndoRequest
    from strongroom.operations.verify import Level, VerifyReport


@gated
class Strongroom(Keeping):
    """An opened repository and all that can be asked of it. Methods raise subclasses of StrongroomError. Each passes the gate:
    may this key do it (access/roles), and who did what (the audit log)?"""

    def __init__(self, repository: Repository, stand_ins: StandIns | None = None) -> None:
        super().__init__(repository)
        self.stand_ins = stand_ins

    def backup(
        self,
        source: str,
        *,
        model: str | None = None,
        tags: Mapping[str, str] | None = None,
        probes: int | None = None,
        reread: bool = False,
        tenant_column: str | None = None,
        pace: Pace = UNHURRIED,
        progress: Progress = SILENT,
    ) -> BackupReport:
        """Make a snapshot of the source that a URL names, such as 'chroma:///srv/chroma'. `reread` has it read even if its files
        look as they did at the snapshot before; `pace` may hold the reading and writing back. `tenant_column` says whose each row
        is: rows are kept under keys of their tenants."""
        from strongroom.operations.backup.run import BackupOptions, backup
        from strongroom.operations.machine.witness import Witness

        count = BackupOptions().probes if probes is None else probes
        options = BackupOptions(model, dict(tags or {}), count, reread, pace, tenant_column)
        report = backup(self.repository, source, options, progress)
        known, damaged = history.headlines(self.repository)
        present = {headline.id for headline in known} | {problem.subject.rpartition("/")[2] for problem in damaged}
        Witness(self.repository).saw(history.heads(known), present)
        return report

    def snapshots(self) -> list[Snapshot]:
        """All readable snapshots, oldest first."""
        return history.read_all(self.repository)[0]

    def damaged_snapshots(self) -> list[Damaged]:
        """The manifests that can't be read."""
        return history.read_all(self.repository)[1]

    def snapshot(self, name: str = "latest") -> Snapshot:
        """The snapshot that 'latest' or the beginning of an id means; with ~N, the N-th of its source before that."""
        return history.find(self.repository, name)

    def diff(
        self,
        before: str = "latest~1",
        after: str = "latest",
        *,
        collections: Iterable[str] = (),
        sample: int | None = None,
        progress: Progress = SILENT,
    ) -> DiffReport:
        """What differs between two snapshots: rows by collection, catalog, files. Fetches no vectors."""
        from strongroom.operations.diff.run import DiffOptions, diff

        options = DiffOptions(tuple(collections), DiffOptions().sample if sample is None else sample)
        return diff(self.repository, before, after, options, progress)

    def plan_restore(
        self,
        snapshot: str,
        target: str,
        *,
        collections: Iterable[str] = (),
        renames: Mapping[str, str] | None = None,
        require_exact: bool = False,
        rung: Rung | None = None,
        at: str | None = None,
        source: str | None = None,
        undo: str | None = None,
        where: str | None = None,
        between: tuple[str, str] | None = None,
        progress: Progress = SILENT,
    ) -> RestorePlan:
        """What `restore` would do; touches nothing. `moment.undo` says what becomes of the rows."""
        from strongroom.operations.restore.erased import erased_in
        from strongroom.operations.restore.plan import plan_restore
        from strongroom.operations.undo.run import UndoRequest
        from strongroom.snapshots.tenant_parts import opened

        selection = Selection(tuple(collections), dict(renames or {}))
        moment = self._moment(at, source, UndoRequest.of(undo, where, between), selection, progress)
        found = opened(self.repository, self.snapshot(moment.snapshot if moment else snapshot))
        erased = erased_in(self.repository, found, moment, selection)
        return plan_restore(found, target, selection, require_exact=require_exact, rung=rung, moment=moment, erased=erased)

    def restore(
        self,
        snapshot: str,
        target: str,
        *,
        collections: Iterable[str] = (),
        renames: Mapping[str, str] | None = None,
        require_exact: bool = False,
        overwrite: bool = False,
        rung: Rung | None = None,
        at: str | None = None,
        source: str | None = None,
        undo: str | None = None,
        where: str | None = None,
        between: tuple[str, str] | None = None,
        tell: Callable[[RestorePlan], None] | None = None,
        progress: Progress = SILENT,
    ) -> RestoreReport:
        """Restore a snapshot to the target that a URL names; run again after a failure it goes on where it stopped. `at` is a
        moment of the journal of `source` instead, from which the snapshot follows: '2026-11-24T10:15:00Z', '10 minutes ago', a
        position of the engine's, 'before:BATCH', or 'latest': all that is sealed. `undo` names an ingest batch that is left out,
        while later good writes stay; `where` and `between` say instead on which rows (`source=crawler-7 and year>2020`) and from
        when to when. `tell` is called with the plan before something is done."""
        from strongroom.operations.restore.run import RestoreOptions, restore
        from strongroom.operations.undo.run import UndoRequest

        selection = Selection(tuple(collections), dict(renames or {}))
        moment = self._moment(at, source, UndoRequest.of(undo, where, between), selection, progress)
        options = RestoreOptions(selection, require_exact, overwrite, rung, moment=moment, tell=tell)
        return restore(self.repository, moment.snapshot if moment else snapshot, target, options, progress)

    def _moment(
        self, at: str | None, source: str | None, undo: UndoRequest | None, selection: Selection, progress: Progress
    ) -> MomentPlan | None:
        from strongroom.operations.journal.moment import plan_moment
        from strongroom.operations.undo.run import plan_undo

        if undo is not None:
            return plan_undo(self.repository, undo, at, source, progress)
        return None if at is None else plan_moment(self.repository, at, source, selection.collections)

    def follow(
        self,
        source: str,
        options: FollowOptions | None = None,
        *,
        stop: threading.Event | None = None,
        tell: Callable[[Event], None] = lambda _: None,
    ) -> FollowReport:
        """Keep every change of a source in the journal until `stop` is set. Not in a process that has the source open itself."""
        from strongroom.operations.follow.run import follow

        return follow(self.repository, source, options, stop=stop, tell=tell)

    def release(self, source: str) -> bool:
        """Follow a source no more: its engine need not hold its log back. Gives whether it did."""
        from strongroom.operations.follow.run import release

        return release(self.repository, source)

    def journal_status(self, source: str | None = None, *, ask: bool = False) -> list[StreamStatus]:
        """What each journal covers and how far behind it is; with `ask` the sources are asked too."""
        from strongroom.operations.journal.status import journal_status

        return journal_status(self.repository, source, ask=ask)

    def journal_batches(self, source: str | None = None) -> list[Batch]:
        """The ingest batches in the journal of a source, by time: what `restore(undo=...)` can take back."""
        from strongroom.operations.journal.batches import journal_batches

        return journal_batches(self.repository, source)

    def verify(
        self,
        snapshot: str | None = None,
        *,
        level: Level | None = None,
        budget: int | None = None,
        scratch: Path | None = None,
        progress: Progress = SILENT,
    ) -> VerifyReport:
        """Verify one snapshot or, without a name, all of them; at level DATA unless another is asked for."""
        from strongroom.operations.verify import Level, VerifyOptions, verify

        options = VerifyOptions(Level.DATA if level is None else level, budget, scratch)
        return verify(self.repository, snapshot, options, progress)

    def drill(
        self,
        target: str | None = None,
        *,
        source: str | None = None,
        moment: str = "newest",
        seed: int | None = None,
        objectives: Mapping[str, float] | str = "",
        scratch: Path | None = None,
        budget: int | None = None,
        out: Path | None = None,
        progress: Progress = SILENT,
    ) -> DrillReport:
        """Restore a recovery point (`moment`: 'newest', 'random', 'at=TIME') to a scratch target, or a free one that a URL names,
        restart it, verify and measure it. `objectives` are such as 'rpo=5m,rto=30m,recall=0.95,p95=50ms', or limits by name in
        seconds and shares. `out` is where reports are written for people and pipelines."""
        from strongroom.operations.drill import DrillOptions, drill, objectives_of
        from strongroom.operations.drill.publishing import publish

        options = DrillOptions(source, moment, seed, objectives_of(objectives), scratch, target, budget)
        report = drill(self.repository, options, progress)
        if out is not None:
            publish(self.repository, report, out)
        return report

    def drill_history(self, source: str | None = None) -> DrillHistory:
        """The reports of all drills, or of one source's, oldest first."""
        from strongroom.operations.drill import drill_history

        return drill_history(self.repository, source)

    def coverage(self) -> CoverageReport:
        """How much of what the snapshots need was proven within 1, 7, 30 and 90 days, and what never was."""
        from strongroom.operations.coverage import coverage

        return coverage(self.repository)


def init_repository(
    location: str,
    *,
    password: str | None = None,
    key_file: str | Path | None = None,
    kms: str | None = None,
    clock: Clock = SYSTEM_CLOCK,
    cost: Argon2Cost | None = None,
    overwriting: bool = False,
) -> Strongroom:
    """Make a new repository at a path or URL. `overwriting` is for a store without conditional creates: no journal can be kept
    there. Raises AlreadyExists, UnsafeStore, or WrongRequest if the store has them."""
    secret = secret_of(password, key_file, kms)
    room = Strongroom(Repository.create(open_store(location), secret, clock=clock, cost=cost, overwriting=overwriting))
    room.access.begun()
    return room


def open_repository(
    location: str,
    *,
    password: str | None = None,
    key_file: str | Path | None = None,
    kms: str | None = None,
    clock: Clock = SYSTEM_CLOCK,
    reading: Reading | None = None,
) -> Strongroom:
    """Open the repository at a path or URL; `kms` is the URL of a key service. To read alone, with `reading`, what it can't give
    comes from replicas, all of it if it is gone (`stand_ins` says so). Raises NoRepository, WrongKey or Damaged."""
    secret = secret_of(password, key_file, kms)
    if reading is None:
        return Strongroom(Repository.open(open_store(location), secret, clock=clock))
    from strongroom.operations.fall_over import open_with_stand_ins

    return Strongroom(*open_with_stand_ins(location, secret, reading, clock))


def capture_index(
    index: Any,
    room: Strongroom | None,
    source: str,
    *,
    every_ms: float = 0.0,
    ship: bool = False,
    anew: bool = False,
    options: FollowOptions | None = None,
) -> Any:
    """Wrap an index (FAISS, hnswlib, USearch) that `source` names the file of, an open shard of Qdrant Edge, or the client of a
    Chroma server, so that every change that is made through it can be followed.

    The wrapper is used as the index itself. A change is durable before its call returns, or `every_ms` milliseconds later; with
    `ship` a thread of this process keeps it in the journal of `room`, else `strongroom journal follow` does. After a crash load
    the index from its file and capture it: what the file lacks comes from the log. With `anew` the file is replaced by what is in
    memory. Raises Refused where the two don't hold the same, WrongRequest for what can't be captured, Locked.
    """
    from strongroom.operations.follow.capture import capture
    from strongroom.operations.follow.run import FollowOptions

    if ship and room is None:
        raise WrongRequest("there is no repository to ship to", hint="give strongroom.open(...)")
    if room is None or not ship:
        return capture(index, source, every=every_ms / 1000, anew=anew)
    with room.access.doing("capture", {"source": without_secrets(source)}):
        return capture(index, source, every=every_ms / 1000, anew=anew, ship=(room.repository, options or FollowOptions()))


def repair_repository(
    location: str,
    snapshot: str | None = None,
    *,
    password: str | None = None,
    key_file: str | Path | None = None,
    sources: Iterable[str] = (),
    sources_secret: Secret | None = None,
    own_sources: bool = True,
    level: Level | None = None,
    budget: int | None = None,
    scratch: Path | None = None,
    dry_run: bool = False,
    clock: Clock = SYSTEM_CLOCK,
    progress: Progress = SILENT,
) -> RepairReport:
    """Verify a repository and repair what is damaged or missing, be it so damaged that it doesn't open.

    `sources` are replicas (paths or URLs of stores) and live sources (URLs of engines); replicas open with `sources_secret`, else
    with the repository's own. With `own_sources` the sources that the broken snapshots name are read again too. Raises WrongKey if
    a replica doesn't open.
    """
    from strongroom import engines
    from strongroom.operations.repair import RepairOptions, repair
    from strongroom.operations.verify import Level, VerifyOptions

    secret, store, given = secret_of(password, key_file), open_store(location), list(sources)
    live = tuple(one for one in given if one.partition(":")[0] in engines.known())
    stores = [open_store(one) for one in given if one not in live]
    if any(one.url == store.url for one in stores):
        raise WrongRequest(f"{store.url} can't be repaired from itself", hint="give another copy with --from")
    said = {"snapshot": snapshot or "", "sources": [without_secrets(one) for one in given], "dry_run": dry_run}
    with repairing(store, secret, clock, said) as deed:
        report = repair(
            store,
            secret,
            snapshot,
            replicas=[_opened_replica(one, sources_secret or secret, clock) for one in stores],
            looking=VerifyOptions(Level.DATA if level is None else level, budget, scratch),
            options=RepairOptions(live, own_sources, dry_run),
            clock=clock,
            progress=progress,
        )
        deed.outcome = outcome_of(report)
    return report


def _opened_replica(store: Store, secret: Secret, clock: Clock) -> Repository:
    try:
        return Repository.open(store, secret, clock=clock)
    except Damaged as error:
        hint = "repair that one first, or leave it out"
        raise Damaged(f"{store.url}, {error.subject}", error.problem, hint=hint) from error
    except WrongKey as error:
        raise WrongKey(str(error), hint="set STRONGROOM_FROM_PASSWORD, _PASSWORD_FILE, _PASSWORD_COMMAND or _KEY_FILE") from error
