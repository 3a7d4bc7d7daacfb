"""How is somebody forgotten? The ledger says which rows never come back, and a tenant's own keys are destroyed; nothing that a hold
covers is erased."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from strongroom.errors import Refused, WrongRequest
from strongroom.journal import filters
from strongroom.operations.erase.shredding import NOT_SHREDDED, Shredded, has_keys, shred
from strongroom.operations.restore.erased import concerning, rows_in
from strongroom.progress import SILENT, Progress
from strongroom.repository import Repository
from strongroom.repository.erasures import Erased, Erasure, add, erased_tenants, erasures, hashed, new_key, revoke
from strongroom.repository.holds import Hold
from strongroom.snapshots import history
from strongroom.snapshots.history import Snapshot
from strongroom.snapshots.holding import Holding, holding
from strongroom.snapshots.tenant_parts import parts_of, without_parts


@dataclass(frozen=True, slots=True)
class EraseOptions:
    """Rows by `ids`, by a filter (`journal.filters`), or all of a tenant; of one collection or source if these are given. Where a
    tenant is erased as a whole, the keys that he has of his own are destroyed in `replicas` (URLs), too."""

    ids: tuple[str, ...] = ()
    where: str = ""
    tenant: str = ""
    collection: str = ""
    source: str = ""
    reason: str = ""
    dry_run: bool = False
    replicas: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StillIn:
    """A snapshot in which such rows lie, until it is forgotten and pruned; no restore gives them. `sealed` of them are under a key
    of the tenant's, without which nobody reads them."""

    snapshot: str
    created: str
    source: str
    rows: int
    sealed: int = 0


@dataclass(frozen=True, slots=True)
class EraseReport:
    """The erasure's id ('' in a dry run), where the rows still lie, encrypted, and what became of the tenant's keys. `unsealed` are
    snapshots of the same sources that were made before these had tenants' keys: what of the tenant lies there isn't erased."""

    erasure: str
    still_in: tuple[StillIn, ...]
    dry_run: bool
    shredded: Shredded = NOT_SHREDDED
    unsealed: tuple[str, ...] = ()


def erase(repository: Repository, options: EraseOptions, progress: Progress = SILENT) -> EraseReport:
    """Enter rows in the ledger, and destroy a tenant's keys. Raises WrongRequest, Damaged, or Refused if a hold covers some of it:
    nothing was erased then. May be repeated: of a tenant what is left to be destroyed is."""
    what = _asked(options)
    meant = Erasure("", what, options.reason, datetime.now(UTC), "", {})
    snapshots, damaged = history.read_all(repository)
    if damaged:
        raise damaged[0]
    found = where_it_lies(repository, meant, snapshots, progress)
    _require_free(holding(repository), meant, snapshots, found)
    still = tuple(_still_in(one, found[one.id], what.tenant) for one in snapshots if one.id in found)
    keyed = what.is_of_whole_tenant and has_keys(repository, what.tenant, snapshots)
    unsealed = _unsealed(snapshots, what.tenant) if keyed else ()
    if options.dry_run:
        return EraseReport("", still, dry_run=True, unsealed=unsealed)
    standing = erased_tenants(erasures(repository)).get(what.tenant) if keyed else None
    done = standing or add(repository, what, options.reason, found)
    try:  # a hold that was placed meanwhile: it reads the ledger once it is there, as this reads the holds
        _require_free(holding(repository), meant, snapshots, found)
    except Refused as error:
        if standing is None:  # else keys may be gone already
            revoke(repository, done.id, str(error))
        raise
    shredded = shred(repository, done, options.replicas) if keyed else NOT_SHREDDED
    return EraseReport(done.id, still, dry_run=False, shredded=shredded, unsealed=unsealed)


def _asked(options: EraseOptions) -> Erased:
    """What is to be erased. Raises WrongRequest."""
    if not options.reason.strip():
        raise WrongRequest("--reason is empty", hint="say why: --reason TEXT")
    if not (options.ids or options.where or options.tenant):
        raise WrongRequest("nothing says what to erase", hint="give --id, --where or --tenant")
    if options.ids and options.where:
        raise WrongRequest("--id and --where are two erasures", hint="run it once with each")
    if options.where:
        filters.parse(options.where)
    key = new_key() if options.ids else b""
    return Erased(
        frozenset(hashed(key, one) for one in options.ids), key, options.where, options.tenant, options.collection, options.source
    )


def _still_in(snapshot: Snapshot, rows: int, tenant: str) -> StillIn:
    record = snapshot.manifest
    return StillIn(snapshot.id, record.created, record.source, rows, sealed_rows(snapshot, tenant))


def sealed_rows(snapshot: Snapshot, tenant: str) -> int:
    """How many rows of a snapshot are under a tenant's own key."""
    return sum(part.rows for part in parts_of(snapshot.manifest) if part.tenant == tenant)


def _unsealed(snapshots: Sequence[Snapshot], tenant: str) -> tuple[str, ...]:
    sources = {one.manifest.source for one in snapshots if sealed_rows(one, tenant)}
    return tuple(
        one.id
        for one in snapshots
        if one.manifest.source in sources and not any(stored.tenant_column for stored in one.manifest.collections)
    )


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
        over = [hold for hold in now.over(one) if not _holds_another(hold, erasure, one)] if one.id in found else []
        if over:
            return over[0]
    for hold in held:
        scope, what = hold.scope, erasure.what
        same = (what.collection and what.collection in scope.collections) or (what.tenant and what.tenant == scope.tenant)
        if same and (not scope.source or not what.source or scope.source == what.source):
            return hold
    return None


def _holds_another(hold: Hold, erasure: Erasure, snapshot: Snapshot) -> bool:
    """Is a snapshot held for one tenant's sake, and are the rows to be erased another one's, under a key of his own?"""
    scope, tenant = hold.scope, erasure.what.tenant
    if not scope.tenant or scope.collections or snapshot.id in scope.snapshots or scope.tenant == tenant:
        return False
    owner = replace(snapshot, manifest=without_parts(snapshot.manifest))
    return sealed_rows(snapshot, tenant) > 0 and not Holding((hold,)).over(owner)


def _require_free(now: Holding, meant: Erasure, snapshots: Sequence[Snapshot], found: Mapping[str, int]) -> None:
    hold = conflict(now.holds, meant, snapshots, found)
    if hold is not None:
        hint = "nothing was erased; 'strongroom hold release' ends the hold, if its authority agrees"
        raise Refused(f"rows to be erased are held: {hold.why}", hint=hint)
