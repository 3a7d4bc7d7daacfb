"""How the room of what nobody needs is freed: packs are condemned first, and deleted after a time of grace. Takes no lock.

docs/ARCHITECTURE.md has the argument why this is safe beside backups, restores and other prunes; the rules are in
`repository.evacuation` and `snapshots.commit`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from strongroom.errors import Damaged
from strongroom.operations.machine.witness import Witness
from strongroom.operations.prune.plan import PackPlan, plan_packs
from strongroom.operations.prune.sweep import SKEW, Needs, Sweep, sweep
from strongroom.operations.prune.trim import trim_journals
from strongroom.progress import SILENT, Progress
from strongroom.repository import Pack, Repository
from strongroom.repository.evacuation import Standing, condemn, copy
from strongroom.repository.pack_uses import PackUse, uses_of
from strongroom.repository.packs import pack_name
from strongroom.repository.rewriting import drop_settled, merge_forgotten, rewrite_index
from strongroom.repository.store import KeepsLeftovers, remove_old_probes, require_deletes
from strongroom.repository.tombstones import What, earliest
from strongroom.snapshots.commit import finish_forgotten
from strongroom.snapshots.holding import holding

if TYPE_CHECKING:
    from strongroom.operations.lock.free import Freed

GRACE = timedelta(hours=24)
_ID = re.compile("[0-9a-f]{64}")
_WRITING = timedelta(hours=1)
"""No object takes longer to be written to a local directory, and no store longer to be tried."""


@dataclass(frozen=True, slots=True)
class PruneOptions:
    """`grace` must be longer than any backup or restore takes; `max_unused` is the share of what stays that may be unused."""

    grace: timedelta = GRACE
    max_unused: float = 0.1
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Amount:
    """Packs and their bytes."""

    packs: int = 0
    bytes: int = 0

    @classmethod
    def of(cls, sizes: Iterable[int]) -> Amount:
        listed = list(sizes)
        return cls(len(listed), sum(listed))


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What was done, or would be in a dry run.

    `deleted`    condemned long enough ago, and gone now          `condemned`   by this prune
    `waiting`    condemned now or before, and not gone yet        `due`         when the first of them may go (ISO 8601)
    `unlisted`   no index object lists them: of a backup that runs or was killed; condemned if it is so after the time of grace
    `kept`       needed           `unused_bytes`   of these, what nobody needs
    `rewritten`  packs whose needed blobs were copied into others, `copied_bytes` of them
    `trimmed`    journal segments of before the oldest snapshot from which a moment can be restored
    `locked`     of the waiting ones: the store doesn't let them go yet (object lock)
    `freed`      old versions of what was deleted before, removed for good     `versions`  those that are locked still
    `relocked`   objects that snapshots need, locked anew
    `leftovers`  what killed processes left half written in a directory, or tried the store with
    `stays`      what the bucket itself keeps of what was deleted; '' if nothing, or if it can't be asked
    """

    dry_run: bool
    snapshots: int
    deleted: Amount
    condemned: Amount
    waiting: Amount
    due: str | None
    unlisted: Amount
    kept: Amount
    unused_bytes: int
    rewritten: Amount
    copied_bytes: int
    trimmed: Amount
    finished_forgets: int = 0
    merged_index_objects: int = 0
    leftovers: int = 0
    problems: tuple[str, ...] = ()
    stays: str = ""
    locked: Amount = field(default_factory=Amount)
    freed: Amount = field(default_factory=Amount)
    versions: Amount = field(default_factory=Amount)
    relocked: int = 0


def prune(repository: Repository, options: PruneOptions | None = None, progress: Progress = SILENT) -> PruneReport:
    """Condemn the packs that no snapshot needs, and delete those that were condemned at least a time of grace ago.

    Raises Damaged if a manifest or tombstone can't be read or a needed blob is nowhere: then nobody knows what is needed.
    Repeatable after any failure; safe beside backups, restores and other prunes. A pack goes only after every needed blob in it was
    read back whole from another.
    """
    return _Prune(repository, options or PruneOptions(), progress).run()


@dataclass
class _Prune:
    repository: Repository
    options: PruneOptions
    progress: Progress
    problems: list[str] = field(default_factory=list)

    def run(self) -> PruneReport:
        holding(self.repository)  # raises where a hold can't be read: then nobody knows what may go
        if not self.options.dry_run:
            require_deletes(self.repository.store)
        relocked = self._extend()
        damaged = frozenset(Witness(self.repository).damaged)
        needs = Needs(self.repository)
        needs.read()
        standing = Standing.now(self.repository, damaged)
        finished = self._require_all(needs, standing)
        uses = uses_of([pack for pack in self.repository.index.packs.values() if standing.holds(pack)], needs.blobs)
        packs = self.repository.index.packs.values()
        hosts = {pack.id for pack in packs if self.repository.keys.by_host(pack.salt)}
        plan = self._rewrite(_plan(uses, self.options.max_unused, hosts))
        fresh, stale = self._unlisted(standing)
        going = {use.pack.id: use.pack.size for use in (*plan.unneeded, *plan.rewritten)}
        going |= {pack.id: pack.size for pack in self._spent(uses, needs, standing)} | stale
        if not self.options.dry_run:
            self._bury(going, fresh)
        swept = sweep(needs, self.options.grace, self.progress, damaged=damaged, dry_run=self.options.dry_run)
        if self.options.dry_run:
            swept = self._with(swept, going)
        trimmed, merged = self._trim(), 0 if self.options.dry_run else self._tidy(swept.deleted)
        freed = self._free()
        return PruneReport(
            dry_run=self.options.dry_run,
            snapshots=len(needs.snapshots),
            deleted=Amount.of(swept.deleted.values()),
            condemned=Amount.of(going.values()),
            waiting=Amount.of(swept.waiting.values()),
            due=swept.due.isoformat() if swept.due else None,
            unlisted=Amount.of(fresh.values()),
            kept=Amount.of(use.pack.size for use in plan.kept),
            unused_bytes=sum(use.unused_bytes for use in plan.kept),
            rewritten=Amount.of(use.pack.size for use in plan.rewritten),
            copied_bytes=sum(use.needed_bytes for use in plan.rewritten),
            trimmed=trimmed,
            finished_forgets=finished,
            merged_index_objects=merged,
            leftovers=0 if self.options.dry_run else self._remove_leftovers(),
            problems=(*self.problems, *swept.problems),
            stays=_stays(self.repository) if swept.deleted else "",
            locked=Amount.of(swept.locked.values()),
            freed=Amount.of(freed.went),
            versions=Amount.of(freed.stay),
            relocked=relocked,
        )

    def _extend(self) -> int:
        """What snapshots need is kept locked, where there is a rule for it."""
        if not is_locking(self.repository):
            return 0
        from strongroom.operations.lock.extend import extend

        report = extend(self.repository, dry_run=self.options.dry_run, progress=self.progress)
        self.problems += [*report.problems, *(f"{one}: 'strongroom lock recover' brings it back" for one in report.hidden)]
        return report.extended

    def _free(self) -> Freed:
        from strongroom.operations.lock.free import Freed, free_versions

        if not is_locking(self.repository):
            return Freed()
        freed = free_versions(self.repository, self.options.grace, dry_run=self.options.dry_run, progress=self.progress)
        self.problems += freed.problems
        return freed

    def _require_all(self, needs: Needs, standing: Standing) -> int:
        """Every needed blob lies somewhere, be it in a condemned pack; packs that no index object lists are listed if they have
        any. What only forgotten snapshots need and is gone isn't needed: gives how many of these went. Raises Damaged."""
        index = self.repository.index

        def missing() -> list[bytes]:
            return [one for one in needs.blobs if not any(standing.is_there(place.pack) for place in index.places(one))]

        if lost := missing():
            self.repository.read_directories()
            found = {place.pack.id: place.pack for one in lost for place in self.repository.unlisted.places(one)}
            for pack in found.values():
                index.add(pack)
            if not self.options.dry_run:
                self.repository.add_index(list(found.values()))
        finished, lost = 0, missing()
        if lost and not self.options.dry_run:
            gone = set(lost)
            finished = finish_forgotten(self.repository, lambda one: any(bytes.fromhex(blob) in gone for blob in one.blobs()))
            if finished:
                needs.forget_all()
                needs.read()
                lost = missing()
        if lost:
            hint = "run 'strongroom verify': repair the snapshots that it breaks, or forget them; then prune"
            raise Damaged(f"blob {lost[0].hex()[:16]}", "a snapshot needs it and no pack has it", hint=hint)
        return finished

    def _rewrite(self, plan: PackPlan) -> PackPlan:
        """Copy what is needed of the packs that are to be written anew; those with a blob that can't be read stay."""
        if self.options.dry_run or not plan.rewritten:
            return plan
        self.progress.begin("rewriting packs", sum(use.needed_bytes for use in plan.rewritten), "bytes")
        lost = copy(self.repository, plan.copied, self.progress.advance)
        self.problems += [str(problem) for problem in lost.values()]
        hurt = [use for use in plan.rewritten if not lost.keys().isdisjoint(use.needed)]
        rewritten = tuple(use for use in plan.rewritten if use not in hurt)
        return PackPlan(plan.unneeded, rewritten, (*plan.kept, *hurt))

    def _spent(self, uses: Sequence[PackUse], needs: Needs, standing: Standing) -> list[Pack]:
        """Packs that this machine knows to be damaged, and that hold nothing that is needed and lies nowhere else."""
        served = {blob for use in uses for blob in use.needed}
        packs = self.repository.index.packs.values()
        damaged = [pack for pack in packs if pack.id in standing.damaged - standing.condemned and standing.is_there(pack)]
        return [pack for pack in damaged if not any(one.id in needs.blobs and one.id not in served for one in pack.blobs)]

    def _unlisted(self, standing: Standing) -> tuple[dict[str, int], dict[str, int]]:
        """Packs that no index object lists, with their bytes: those seen first now, and those seen first a time of grace ago. They
        may be of a backup that is under way; it says so only when it is done."""
        now = self.repository.clock.now()
        noted = earliest(self.repository.tombstones(What.UNLISTED))
        listed = self.repository.index.packs.keys() | standing.condemned
        found = {one: size for one, size in _packs_in(standing.sizes) if one not in listed}
        fresh = {one: size for one, size in found.items() if one not in noted or noted[one] > now + SKEW}
        stale = {one: size for one, size in found.items() if one in noted and noted[one] + self.options.grace <= now}
        return fresh, stale

    def _bury(self, going: Collection[str], fresh: Collection[str]) -> None:
        if going:
            condemn(self.repository, going)
        if fresh:
            self.repository.bury(What.UNLISTED, fresh)

    def _with(self, swept: Sweep, going: dict[str, int]) -> Sweep:
        """What a dry run doesn't condemn would wait too."""
        due = self.repository.clock.now() + self.options.grace if going else swept.due
        due = min(due, swept.due) if due and swept.due else due
        return replace(swept, waiting=swept.waiting | going, due=due)

    def _tidy(self, deleted: Collection[str]) -> int:
        """Drop what the blob index says of packs that are gone (nobody needs them: `_require_all`), and notes that are settled."""
        merge_forgotten(self.repository)
        standing = Standing.now(self.repository)
        packs = self.repository.index.packs.keys()
        absent = {one for one in packs - standing.condemned - set(deleted) if not standing.exists(one)}
        listed = packs | standing.condemned
        drop_settled(self.repository, What.UNLISTED, lambda one: one not in listed and standing.exists(one))
        return rewrite_index(self.repository, absent)

    def _trim(self) -> Amount:
        return Amount.of(trim_journals(self.repository, dry_run=self.options.dry_run).values())

    def _remove_leftovers(self) -> int:
        store, age = self.repository.store, max(self.options.grace, _WRITING)
        before = (self.repository.clock.now() - age).timestamp()
        unfinished = store.remove_leftovers(before) if isinstance(store, KeepsLeftovers) else 0
        return unfinished + remove_old_probes(store, age)


def _plan(uses: Sequence[PackUse], max_unused: float, hosts: Collection[str]) -> PackPlan:
    """Packs of hosts that can't read stay as they are while any of them is needed: the host wouldn't know where its blobs went."""
    kept = [use for use in uses if use.pack.id in hosts and use.needed]
    plan = plan_packs([use for use in uses if use not in kept] if kept else uses, max_unused)
    return PackPlan(plan.unneeded, plan.rewritten, (*plan.kept, *kept))


def is_locking(repository: Repository) -> bool:
    """Does its store lock what is stored?"""
    from strongroom.repository.locking import locking_of  # a directory needs no client of object stores

    return locking_of(repository.store) is not None


def _stays(repository: Repository) -> str:
    from strongroom.repository.bucket import bucket_of

    bucket = None if is_locking(repository) else bucket_of(repository.store.url)
    if bucket is None or bucket.versioning() != "Enabled":
        return ""
    lock = bucket.object_lock()
    held = f", by object lock ({lock}) not before its time" if lock not in (None, "on", "off") else ""
    return f"the bucket keeps old versions of what was deleted: their room is free when a lifecycle rule expires them{held}"


def _packs_in(sizes: dict[str, int]) -> Iterator[tuple[str, int]]:
    """Pack ids and bytes of a listing; names that are no pack's are nobody's business."""
    for name, size in sizes.items():
        pack_id = name.rpartition("/")[2]
        if _ID.fullmatch(pack_id) and name == pack_name(pack_id):
            yield pack_id, size
