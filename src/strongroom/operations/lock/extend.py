"""How is what snapshots need kept locked? Its locks are prolonged before they run out; what nobody needs is left to run out."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from strongroom.errors import NotFound, StoreDenied, UnsafeStore
from strongroom.operations.lock.looking import Looked, at_once, locking, look, survey
from strongroom.progress import SILENT, Progress
from strongroom.repository import Repository
from strongroom.repository.lock_mode import Mode
from strongroom.repository.lock_rules import Rule, declare_rule
from strongroom.repository.locking import Locking, locking_of
from strongroom.repository.object_lock import NEEDED, ObjectLock, Retention, require_object_lock
from strongroom.repository.object_store import Objects
from strongroom.repository.reading_back import ReadingBack, as_written
from strongroom.repository.store import PROBES

_TRIAL = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class ExtendReport:
    """What was locked anew, or would be in a dry run.

    `objects`, `bytes`    that snapshots need          `extended`   of them, locked anew until `until` (ISO 8601)
    `hidden`              of them, what the bucket doesn't show: 'strongroom lock recover' brings it back
    `problems`            locks that the store refused, and objects that are nobody's
    """

    dry_run: bool
    objects: int
    bytes: int
    extended: int
    until: str
    hidden: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return not self.hidden and not self.problems


def set_rule(
    repository: Repository, mode: Mode, period: timedelta, *, dry_run: bool = False, progress: Progress = SILENT
) -> ExtendReport | None:
    """Declare for how long what is needed is locked, and lock it; no time at all ends that for what is stored from now on.

    Raises UnsafeStore if the store has no object lock or doesn't enforce it, StoreDenied. Repeatable.
    """
    lock = require_object_lock(repository.store.url)
    wanted = Rule("", mode, period, lock.now(), "")
    before = locking_of(repository.store)
    plain = before.inner if before else _plain(repository)
    if dry_run:
        return _extend(repository, Locking(plain, lock, wanted), progress, dry_run=True)
    repository.require_safe_store()
    if wanted.is_on:
        require_enforced(lock)
    if before is None or (before.rule.mode, before.rule.period) != (mode, period):
        writer = Locking(plain, lock, before.rule if before and before.rule.period > period else wanted)
        rule = declare_rule(writer, repository.keys, mode, period, repository.clock.now(), repository.identity.slot)
        repository.store.inner = as_written(Locking(plain, lock, rule), repository.config)
    return extend(repository, progress=progress) if wanted.is_on else None


def extend(repository: Repository, *, dry_run: bool = False, progress: Progress = SILENT) -> ExtendReport:
    """Lock what is needed for as long as the rule says, if that is to run out. Many at once; a killed run is gone on with by the
    next. Raises UnsafeStore where there is no rule or no object lock, StoreDenied."""
    return _extend(repository, locking(repository), progress, dry_run=dry_run)


def _extend(repository: Repository, writer: Locking, progress: Progress, *, dry_run: bool) -> ExtendReport:
    lock, rule = writer.lock, writer.rule
    found = survey(repository, lock)
    looked = list(look(found, progress))
    now = lock.now()
    due = [one for one in looked if rule.renews(one.retention, now)] if rule.is_on else []
    wanted = rule.at(now)
    refused: list[str] = []
    if not dry_run:
        progress.begin("locking", len(due), "objects")
        for problem in at_once(due, lambda one: _retain(lock, one, wanted)):
            refused += [problem] if problem else []
            progress.advance(1)
    lost = [f"blob {blob[:16]}: a snapshot needs it and no pack has it" for blob in found.needed.missing]
    strange = [f"{name}: {why}" for name, why in sorted(found.first.strange.items())]
    return ExtendReport(
        dry_run,
        len(looked),
        sum(one.version.size for one in looked),
        len(due) - len(refused),
        _soonest(looked, due, wanted),
        tuple(f"{one.version.name}: {one.shown}" for one in looked if one.shown),
        (*refused, *lost, *strange),
    )


def _retain(lock: ObjectLock, one: Looked, wanted: Retention) -> str:
    """Gives what the store says against it."""
    stricter = one.retention is not None and one.retention.mode is Mode.COMPLIANCE
    try:
        lock.retain(one.version, Retention(Mode.COMPLIANCE if stricter else wanted.mode, wanted.until))
    except (StoreDenied, UnsafeStore, NotFound) as error:
        return f"{one.version.name}: {error}"
    return ""


def _soonest(looked: Sequence[Looked], due: Sequence[Looked], wanted: Retention) -> str:
    """When the first of them is free once the due ones are locked."""
    fresh = {id(one) for one in due}
    ends: list[datetime] = [wanted.until if id(one) in fresh or not one.retention else one.retention.until for one in looked]
    return min(ends).isoformat() if ends else ""


def require_enforced(lock: ObjectLock) -> None:
    """Prove that the store refuses to remove what is locked, with an object of no use that is locked for five seconds. Raises
    UnsafeStore if it doesn't, or takes no locks; StoreDenied."""
    name = f"{PROBES}{secrets.token_hex(16)}"
    lock.put(name, b"strongroom looks whether locks hold", Retention(Mode.COMPLIANCE, lock.now().replace(microsecond=0) + _TRIAL))
    version = next(iter(lock.versions(name)), None)
    if version is None or lock.retention(version) is None or lock.remove(version):
        raise UnsafeStore(f"{lock.url} takes locks and doesn't enforce them", hint=NEEDED)
    lock.hide(name)


def _plain(repository: Repository) -> Objects:
    written = repository.store.inner
    store = written.inner if isinstance(written, ReadingBack) else written
    assert isinstance(store, Objects)  # noqa: S101 - `object_lock` is of no other
    return store
