"""Which recovery point is restored? The newest there is, a random snapshot, or a moment of the journal."""

from __future__ import annotations

import secrets
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from strongroom.errors import Damaged, NotFound, Refused, StrongroomError, WrongRequest
from strongroom.journal.marks import SCAN
from strongroom.operations.drill.report import RecoveryPoint
from strongroom.operations.journal.moment import MomentPlan, plan_moment
from strongroom.operations.journal.status import StreamStatus, journal_status
from strongroom.repository import Repository
from strongroom.snapshots import history
from strongroom.snapshots.history import Snapshot

NEWEST, RANDOM, AT = "newest", "random", "at="
_INSIDE = timedelta(microseconds=2)
"""Before the end of a journal: what is after it isn't known, and a time is rounded."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A snapshot, and the moment to which the journal leads from it, if that is what is restored."""

    snapshot: Snapshot
    moment: MomentPlan | None
    point: RecoveryPoint


def choose(repository: Repository, source: str | None, moment: str, seed: int | None) -> Chosen:
    """`moment` is 'newest', 'random' or 'at=TIME'. Without a source it is that of the newest snapshot. Raises WrongRequest (no such
    choice), NotFound (no snapshot), and Refused or Damaged if what was chosen can't be restored."""
    if moment not in (NEWEST, RANDOM) and not moment.removeprefix(AT).strip():
        raise WrongRequest(f"--moment {moment!r} is no moment", hint="give newest, random, or at=TIME")
    if moment not in (NEWEST, RANDOM) and not moment.startswith(AT):
        raise WrongRequest(f"--moment {moment!r} is no moment", hint="give newest, random, or at=TIME")
    if seed is not None and moment != RANDOM:
        raise WrongRequest("--seed is for a random snapshot", hint="add --moment random")
    snapshots, damaged = history.read_all(repository)
    found = [one for one in snapshots if source is None or one.manifest.source == source]
    if not found:
        if damaged:
            raise damaged[0]
        of = f" of {source}" if source else ""
        raise NotFound(f"there is no snapshot{of} to restore", hint="'strongroom snapshots' lists them")
    of = found[-1].manifest.source
    same = [one for one in found if one.manifest.source == of] if source is None and moment != RANDOM else found
    if moment == RANDOM:
        drawn = secrets.randbelow(2**32) if seed is None else seed
        chosen = found[int(np.random.default_rng(drawn).integers(len(found)))]
        return _of_snapshot(repository, chosen, found, moment, drawn)
    if moment == NEWEST:
        return _newest(repository, same[-1], same)
    return _at(repository, of, moment.removeprefix(AT), same)


def _of_snapshot(repository: Repository, chosen: Snapshot, known: list[Snapshot], choice: str, seed: int | None) -> Chosen:
    same = [one for one in known if one.manifest.source == chosen.manifest.source]
    newest = max(_moment_of(same[-1]), _journal_end(repository, chosen.manifest.source) or "")
    return Chosen(chosen, None, _point(chosen, None, choice, seed, _moment_of(chosen), newest))


def _newest(repository: Repository, last: Snapshot, known: list[Snapshot]) -> Chosen:
    """The end of the journal if that is later than the newest snapshot and can be restored."""
    end = _journal_end(repository, last.manifest.source)
    if end is not None and end > _moment_of(last):
        with suppress(StrongroomError):
            return _at(repository, last.manifest.source, end, known, NEWEST)
    return Chosen(last, None, _point(last, None, NEWEST, None, _moment_of(last), _moment_of(last)))


def _at(repository: Repository, source: str, at: str, known: list[Snapshot], choice: str = "") -> Chosen:
    plan = plan_moment(repository, at, source)
    base = next((one for one in known if one.id == plan.snapshot), None)
    if base is None:
        raise Damaged(f"snapshots/{plan.snapshot}", "the moment needs it and it can't be read")
    newest = max(_moment_of(known[-1]), _journal_end(repository, source) or "")
    when = _utc(at) if choice == NEWEST else _utc(plan.time)
    return Chosen(base, plan, _point(base, plan, choice or f"{AT}{at}", None, when, newest))


def _point(snapshot: Snapshot, plan: MomentPlan | None, choice: str, seed: int | None, at: str, newest: str) -> RecoveryPoint:
    record = snapshot.manifest
    operations = plan.operations if plan else 0
    parts = (record.source, record.engine, snapshot.id, at, record.rows, operations, plan is not None, newest)
    return RecoveryPoint(choice, seed, *parts)


def _moment_of(snapshot: Snapshot) -> str:
    """What a snapshot holds may have been frozen as early as its backup began: a recovery point is no younger than that."""
    record = snapshot.manifest
    took = timedelta(seconds=float(record.seconds.get("total", 0.0)))
    return _utc((datetime.fromisoformat(record.created) - took).isoformat())


def _journal_end(repository: Repository, source: str) -> str | None:
    """Until when all that happened is sealed, None without a journal; of one that only knows scans, when the last one was."""
    ends: list[StreamStatus] = [one for one in journal_status(repository, source) if one.until]
    if not ends or (len(ends) == 1 and ends[0].kind == SCAN and not ends[0].operations):
        return None
    return max(_utc((datetime.fromisoformat(one.until) - _INSIDE).isoformat()) for one in ends)


def _utc(text: str) -> str:
    """So that times compare as texts."""
    found = datetime.fromisoformat(text)
    return found.astimezone(UTC).isoformat(timespec="microseconds")


def unrestorable(error: StrongroomError) -> bool:
    """Is it the repository that can't give what was asked for, rather than the request that is wrong?"""
    return isinstance(error, Refused | Damaged)
