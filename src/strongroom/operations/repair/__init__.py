"""What verify finds damaged or missing is made whole: from other packs, from replicas, from the live source.

Order is what makes it safe: what is still readable and what was fetched is stored first, then listed, then read back; only then
do damaged packs go. It may be cut off anywhere and run again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from contextlib import suppress

from strongroom import engines
from strongroom.clock import SYSTEM_CLOCK, Clock
from strongroom.errors import StrongroomError
from strongroom.journal.segments import number_in
from strongroom.operations.repair.entrance import enter
from strongroom.operations.repair.objects import abandon_forgotten, mend_objects
from strongroom.operations.repair.packs import PackRepair
from strongroom.operations.repair.replacing import finish
from strongroom.operations.repair.replicas import Replica
from strongroom.operations.repair.report import Notes, Outcome, RepairOptions, RepairReport
from strongroom.operations.repair.unchanged import Unchanged
from strongroom.operations.verify import Finding, Level, VerifyOptions, VerifyReport, examine
from strongroom.operations.verify.examination import Examination
from strongroom.progress import SILENT, Progress
from strongroom.repository import INDEX, PACKS, SNAPSHOTS, Repository, Secret, Store, config, read_config
from strongroom.repository.key_slots import FOLDER as KEYS
from strongroom.repository.reading_back import as_written

__all__ = ["Outcome", "RepairOptions", "RepairReport", "repair"]

_ROUNDS = 3
"""A pack that nobody needed, and so nobody read, may be relied on now: by a repair, or by others who work meanwhile. And what is
needed of one that had to stay may lie elsewhere by now, copied by a prune, so that it may go."""


def repair(
    store: Store,
    secret: Secret,
    snapshot: str | None = None,
    *,
    replicas: Sequence[Repository] = (),
    looking: VerifyOptions | None = None,
    options: RepairOptions | None = None,
    clock: Clock = SYSTEM_CLOCK,
    progress: Progress = SILENT,
) -> RepairReport:
    """Verify as `looking` says, repair what levels OBJECTS and DATA found, and verify again what was repaired.

    Raises what `Repository.open` raises if `config` and key slots can't be put back, UnsafeStore, and Unreachable and the like if a
    store can't be asked; then, and after a crash, nothing that could be read before is lost, and it may be run again.
    """
    looking, options = looking or VerifyOptions(), options or RepairOptions()
    for url in options.sources:
        engines.source_of(url)
    notes, store = Notes(), _as_written(store)
    over = Unchanged(store) if options.dry_run else store
    found = [] if options.dry_run else _finish(store, notes, config.NAME, KEYS, INDEX)
    repository, entering = enter(over, secret, replicas, notes, clock, dry_run=options.dry_run)
    for replica in replicas:
        repository.keys.share(replica.keys)  # what is carried there can be put back here
    found += entering
    if not options.dry_run:
        repository.require_safe_store()
        found += _finish(store, notes, SNAPSHOTS) if abandon_forgotten(repository) else []
    others = [Replica(replica, repository.keys) for replica in replicas]
    found += _examined(repository, snapshot, dataclasses.replace(looking, level=Level.OBJECTS), progress)[1].findings
    found += mend_objects(repository, others, found, notes, dry_run=options.dry_run)
    look, before = _examined(repository, snapshot, dataclasses.replace(looking, level=min(looking.level, Level.DATA)), progress)
    found += before.findings
    mend_objects(repository, others, [one for one in before.findings if number_in(one.subject)], notes, dry_run=options.dry_run)
    PackRepair(look, others, options, notes).run()
    if options.dry_run:
        return RepairReport(tuple(notes.outcome(one, None) for one in _each(found)), before, dry_run=True)
    after, known = before, set(look.bad)
    for left in reversed(range(_ROUNDS if found or looking.level > Level.DATA else 0)):
        reopened = Repository.open(store, secret, clock=clock)  # as another process would see it
        look, after = _examined(reopened, snapshot, looking, progress, look.proven)
        if not left or not look.bad - known | look.spare:
            break
        known |= look.bad
        found += after.findings
        PackRepair(look, others, options, notes).run()
    return RepairReport(tuple(notes.outcome(one, after.findings) for one in _each(found)), after, dry_run=False)


def _as_written(store: Store) -> Store:
    with suppress(StrongroomError):  # what is wrong with `config` is the repair's own matter
        return as_written(store, read_config(store))
    return store


def _finish(store: Store, notes: Notes, *folders: str) -> list[Finding]:
    names = list(finish(store, *folders))
    for name in names:
        notes.did(name, "put back")
    return [Finding(name, "a repair was cut off while it was put back") for name in names]


def _examined(
    repository: Repository, snapshot: str | None, options: VerifyOptions, progress: Progress, proven: dict[str, int] | None = None
) -> tuple[Examination, VerifyReport]:
    look = Examination(repository, options, progress, dict(proven or {}))
    return look, examine(look, snapshot)


def _each(findings: Iterable[Finding]) -> list[Finding]:
    """Those of several looks, each once, without those that only follow from the others."""
    return list({(one.subject, one.problem): one for one in findings if one.subject not in (PACKS, SNAPSHOTS)}.values())
