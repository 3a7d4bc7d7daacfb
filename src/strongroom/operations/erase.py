"""How is somebody forgotten? The ledger says which rows never come back; nothing that a hold covers is erased."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from strongroom.errors import Refused, WrongRequest
from strongroom.journal import filters
from strongroom.operations.erased import concerning, rows_in
from strongroom.progress import SILENT, Progress
from strongroom.repository import Repository
from strongroom.repository.erasures import Erased, Erasure, add, hashed, new_key, revoke
from strongroom.repository.holds import Hold
from strongroom.snapshots import history
from strongroom.snapshots.history import Snapshot
from strongroom.snapshots.holding import Holding, holding


@dataclass(frozen=True, slots=True)
class EraseOptions:
    """Rows by `ids`, by a filter (`journal.filters`), or all of a tenant; of one collection or source if these are given."""

    ids: tuple[str, ...] = ()
    where: str = ""
    tenant: str = ""
    collection: str = ""
    source: str = ""
    reason: str = ""
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class StillIn:
    """A snapshot in which such rows lie, until it is forgotten and pruned; no restore gives them."""

    snapshot: str
    created: str
    source: str
    rows: int


@dataclass(frozen=True, slots=True)
class EraseReport:
    """The erasure's id ('' in a dry run), and where the rows still lie, encrypted."""

    erasure: str
    still_in: tuple[StillIn, ...]
    dry_run: bool


def erase(repository: Repository, options: EraseOptions, progress: Progress = SILENT) -> EraseReport:
    """Enter rows in the ledger. Raises WrongRequest, Damaged, or Refused if a hold covers some of it: nothing was erased then."""
    if not options.reason.strip():
        raise WrongRequest("--reason is empty", hint="say why: --reason TEXT")
    if not (options.ids or options.where or options.tenant):
        raise WrongRequest("nothing says what to erase", hint="give --id, --where or --tenant")
    if options.ids and options.where:
        raise WrongRequest("--id and --where are two erasures", hint="run it once with each")
    if options.where:
        filters.parse(options.where)
    key = new_key() if options.ids else b""
    what = Erased(
        frozenset(hashed(key, one) for one in options.ids), key, options.where, options.tenant, options.collection, options.source
    )
    meant = Erasure("", what, options.reason, datetime.now(UTC), "", {})
    snapshots, damaged = history.read_all(repository)
    if damaged:
        raise damaged[0]
    found = where_it_lies(repository, meant, snapshots, progress)
    _require_free(holding(repository), meant, snapshots, found)
    still = tuple(StillIn(one.id, one.manifest.created, one.manifest.source, found[one.id]) for one in snapshots if one.id in found)
    if options.dry_run:
        return EraseReport("", still, dry_run=True)
    done = add(repository, what, options.reason, found)
    try:  # a hold that was placed meanwhile: it reads the ledger once it is there, as this reads the holds
        _require_free(holding(repository), meant, snapshots, found)
    except Refused as error:
        revoke(repository, done.id, str(error))
        raise
    return EraseReport(done.id, still, dry_run=False)


def where_it_lies(
    repository: Repository, meant: Erasure, snapshots: Sequence[Snapshot], progress: Progress = SILENT
) -> dict[str, int]:
    """How many such rows each snapshot holds; those without any are left out."""
    progress.begin("looking for the rows", len(snapshots), "snapshots")
    found: dict[str, int] = {}
    for one in snapshots:
        rows = sum(rows_in(repository, [meant], one).values()) if concerning([meant], one) else 0
        progress.advance(1)
        if rows:
            found[one.id] = rows
    return found


def conflict(held: Sequence[Hold], erasure: Erasure, snapshots: Sequence[Snapshot], found: Mapping[str, int]) -> Hold | None:
    """A hold that covers rows which an erasure means: in a snapshot, or in whatever comes of the same collection or tenant."""
    now = Holding(tuple(held))
    for one in snapshots:
        if one.id in found and (over := now.over(one)):
            return over[0]
    for hold in held:
        scope, what = hold.scope, erasure.what
        same = (what.collection and what.collection in scope.collections) or (what.tenant and what.tenant == scope.tenant)
        if same and (not scope.source or not what.source or scope.source == what.source):
            return hold
    return None


def _require_free(now: Holding, meant: Erasure, snapshots: Sequence[Snapshot], found: Mapping[str, int]) -> None:
    hold = conflict(now.holds, meant, snapshots, found)
    if hold is not None:
        hint = "nothing was erased; 'strongroom hold release' ends the hold, if its authority agrees"
        raise Refused(f"rows to be erased are held: {hold.why}", hint=hint)
