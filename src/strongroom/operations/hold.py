"""How is something put under a legal hold, and let out of it? What a hold covers is brought back if it was about to go."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from strongroom.errors import NotFound, Refused
from strongroom.operations.erase.run import conflict
from strongroom.repository import Repository
from strongroom.repository.erasures import erasures
from strongroom.repository.holds import Hold, Scope, place, release
from strongroom.repository.tombstones import What, earliest
from strongroom.snapshots import history
from strongroom.snapshots.commit import commit
from strongroom.snapshots.history import Snapshot
from strongroom.snapshots.holding import subject_of

_LOOKS = 5


@dataclass(frozen=True, slots=True)
class HoldOptions:
    """`scope.snapshots` may be 'latest' or the beginnings of ids; `until` None: until it is released."""

    scope: Scope
    reason: str
    authority: str
    until: datetime | None = None
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class HoldReport:
    """The hold (None in a dry run), the ids of the snapshots that it covers now, and of those that were about to go the ids under
    which they are there again."""

    hold: Hold | None
    covered: tuple[str, ...]
    rescued: tuple[str, ...]


def place_hold(repository: Repository, options: HoldOptions) -> HoldReport:
    """Place a hold. Raises NotFound (no such snapshot, or no data of it is left), WrongRequest, Overtaken (what it covers was
    deleted at the same time: the hold is there, and says what is lost) or Damaged."""
    named = {one.id: one for one in (history.find(repository, name) for name in options.scope.snapshots)}
    names, scope = tuple(named), replace(options.scope, snapshots=tuple(named))
    found = _covered(history.read_all(repository)[0], scope)
    covered = list({**named, **{one.id: one for one in found}}.values())  # one that was forgotten since is brought back, too
    if options.dry_run:
        return HoldReport(None, tuple(one.id for one in covered), ())
    _require_unerased(repository, covered, scope)
    hold = place(repository, scope, options.reason, options.authority, options.until)
    try:  # an erasure that was entered meanwhile reads the holds once it is there, as this reads the ledger
        _require_unerased(repository, covered, scope, hold)
    except Refused as error:
        release(repository, hold.id, str(error), options.authority)
        raise
    rescued = _rescued(repository, covered, options, by_name=bool(names))
    there = _covered(history.read_all(repository)[0], scope)
    doomed = {one.id for one in _doomed(repository, there)}  # whoever forgets them may not have seen the hold: nothing is promised
    return HoldReport(hold, tuple(dict.fromkeys([*(one.id for one in there if one.id not in doomed), *rescued])), rescued)


def _require_unerased(repository: Repository, covered: Sequence[Snapshot], scope: Scope, hold: Hold | None = None) -> None:
    """Raises Refused if rows that the hold would cover were erased: nobody can promise any more that they are there."""
    meant = hold or Hold("", scope, "", "", None, datetime.now(UTC), "")
    for one in erasures(repository):
        if conflict([meant], one, covered, one.found):
            hint = "hold other snapshots or collections; 'strongroom certificate show' says what was erased"
            raise Refused(f"rows of {scope} were erased on {one.erased:%Y-%m-%d} ({one.reason}): they can't be held", hint=hint)


def _rescued(repository: Repository, covered: Sequence[Snapshot], options: HoldOptions, *, by_name: bool) -> tuple[str, ...]:
    """What was being forgotten when the hold was stored, stored anew under other ids: who deletes the old ones may not have seen
    the hold. Named ones get a hold of their new names, which in turn may be too late."""
    rescued: list[str] = []
    doomed = _doomed(repository, covered)
    for _ in range(_LOOKS):
        if not doomed:
            return tuple(rescued)
        fresh = [Snapshot(commit(repository, one.manifest), one.manifest) for one in doomed]
        if by_name:
            place(repository, Scope(tuple(one.id for one in fresh)), options.reason, options.authority, options.until)
        rescued = [one for one in rescued if one not in {old.id for old in doomed}] + [one.id for one in fresh]
        doomed = _doomed(repository, fresh)
    raise NotFound("the snapshots are forgotten as fast as they are held", hint="find out who forgets them, and run it again")


def _doomed(repository: Repository, snapshots: Iterable[Snapshot]) -> list[Snapshot]:
    """Those that a tombstone names or that aren't there any more."""
    buried = earliest(repository.tombstones(What.FORGOTTEN))
    there = set(repository.manifest_ids())
    return [one for one in snapshots if one.id in buried or one.id not in there]


def _covered(snapshots: Iterable[Snapshot], scope: Scope) -> list[Snapshot]:
    return [one for one in snapshots if scope.covers(subject_of(one.id, one.manifest))]
