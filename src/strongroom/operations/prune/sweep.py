"""How condemned packs are deleted: after the time of grace, and after every needed blob in them was read back from another pack."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from strongroom.errors import Damaged, NotFound
from strongroom.operations.prefetch import ahead
from strongroom.progress import Progress
from strongroom.repository import SNAPSHOTS, Repository, leaving
from strongroom.repository.evacuation import Standing, copy, unproven
from strongroom.repository.packs import pack_name
from strongroom.repository.rewriting import rewrite_index
from strongroom.repository.tombstones import Tombstone, What
from strongroom.snapshots import history

SKEW = timedelta(days=1)
"""By which the clocks of two machines may differ before a tombstone counts as one of a clock that was wrong."""


@dataclass
class Needs:
    """The blobs that snapshots need. A snapshot that is forgotten meanwhile keeps its own: that errs on the safe side."""

    repository: Repository
    snapshots: set[str] = field(default_factory=set)
    blobs: set[bytes] = field(default_factory=set)

    def read(self) -> None:
        """Add what snapshots need that weren't read yet. Raises Damaged if one can't be."""
        fresh = [one for one in self.repository.manifest_ids() if one not in self.snapshots]
        for snapshot_id, blobs in zip(fresh, ahead(fresh, self._blobs_of), strict=True):
            if blobs is None:
                self._require_gone(snapshot_id)
                continue
            self.blobs |= blobs
            self.snapshots.add(snapshot_id)

    def forget_all(self) -> None:
        """Nothing was read yet."""
        self.snapshots.clear()
        self.blobs.clear()

    def _blobs_of(self, snapshot_id: str) -> set[bytes] | None:
        try:
            return {bytes.fromhex(blob) for blob in history.read(self.repository, snapshot_id).manifest.blobs()}
        except NotFound:
            return None
        except Damaged as error:
            hint = "nobody knows what it needs, so nothing is pruned: bring it back, or forget it by its id"
            raise Damaged(error.subject, error.problem, hint=hint) from error

    def _require_gone(self, snapshot_id: str) -> None:
        if snapshot_id in self.repository.manifest_ids():
            raise Damaged(SNAPSHOTS + snapshot_id, "it was listed and is not there")


@dataclass(frozen=True, slots=True)
class Sweep:
    """Packs with their bytes: deleted (in a dry run: those that would be), and still waiting, the first of them until `due`; of
    these `locked` only by the store."""

    deleted: dict[str, int]
    waiting: dict[str, int]
    due: datetime | None
    problems: tuple[str, ...] = ()
    locked: dict[str, int] = field(default_factory=dict)


def sweep(needs: Needs, grace: timedelta, progress: Progress, *, damaged: Iterable[str], dry_run: bool) -> Sweep:
    """Delete the packs that were condemned at least a time of grace ago. The tombstones are read before the manifests: whoever
    stores a manifest later has seen them. A pack with a needed blob that can't be read anywhere else stays.

    Order: a tombstone of its own, copies of what is needed, blob index without the packs, packs, tombstones. Its own one stays till
    the packs are gone: another sweep may be done with the others', and a copy or a repair bring a pack back under the same name.
    After a crash the next sweep goes on.
    """
    repository = needs.repository
    marks = [mark if dry_run else _redated(repository, mark) for mark in repository.tombstones(What.CONDEMNED)]
    now = repository.clock.now()
    due = [mark for mark in marks if max(mark.since.values()) + grace <= now]
    going = {one for mark in due for one in mark.since}
    locked = _locked(repository, going)
    going -= locked.keys()
    own = repository.bury(What.CONDEMNED, going) if going and not dry_run else None
    standing = Standing.now(repository, damaged)
    problems: tuple[str, ...] = ()
    if own:
        needs.read()
        held, problems = _evacuate(needs, going, standing, progress)
        going -= held
        rewrite_index(repository, going)
        _delete(repository, going, progress)
        for mark in [mark for mark in due if going.issuperset(mark.since)] + [own]:
            repository.store.delete(mark.name)
    waiting = _sizes({one for mark in marks for one in mark.since} - going, standing)
    left = [mark for mark in marks if not waiting.keys().isdisjoint(mark.since)]
    times = [max([max(mark.since.values()) + grace, *(locked[one] for one in mark.since if one in locked)]) for mark in left]
    return Sweep(_sizes(going, standing), waiting, min(times, default=None), problems, _sizes(locked, standing))


def _locked(repository: Repository, going: Collection[str]) -> dict[str, datetime]:
    """Packs that the store doesn't let go yet, and until when: they stay as they are, condemned."""
    from strongroom.repository.locking import locking_of  # a directory needs no client of object stores

    writer = locking_of(repository.store)
    named = {pack_name(one): one for one in going}
    return {named[name]: until for name, until in writer.locked(named).items()} if writer else {}


def _evacuate(needs: Needs, going: Collection[str], standing: Standing, progress: Progress) -> tuple[set[str], tuple[str, ...]]:
    """Prove that what is needed of these packs lies whole in others, and copy what doesn't. Gives the packs that must stay."""
    repository = needs.repository
    index = repository.index
    concerned = [
        blob_id
        for blob_id in needs.blobs
        if any(place.pack.id in going for place in index.places(blob_id)) or not standing.somewhere(blob_id)
    ]
    progress.begin("reading back", None, "bytes")
    missing = unproven(repository, concerned, standing, progress.advance)
    lost = copy(repository, missing, progress.advance)
    places = [place for blob_id in lost for place in (*index.places(blob_id), *repository.unlisted.places(blob_id))]
    return {place.pack.id for place in places}.intersection(going), tuple(str(problem) for problem in lost.values())


def _delete(repository: Repository, going: Collection[str], progress: Progress) -> None:
    progress.begin("deleting packs", len(going), "objects")
    for pack_id in sorted(going):
        repository.store.delete(pack_name(pack_id))
        progress.advance(1)
    leaving.unsay(repository.store, leaving.said(repository.store).intersection(going))


def _redated(repository: Repository, mark: Tombstone) -> Tombstone:
    """A clock that was far ahead condemned these: say it again by ours, or they would wait for years."""
    if max(mark.since.values()) <= repository.clock.now() + SKEW:
        return mark
    again = repository.bury(What.CONDEMNED, mark.since)
    repository.store.delete(mark.name)
    return again


def _sizes(packs: Iterable[str], standing: Standing) -> dict[str, int]:
    return {one: standing.sizes[pack_name(one)] for one in packs if pack_name(one) in standing.sizes}
