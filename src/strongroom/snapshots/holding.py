"""Which snapshots does a hold cover? Asked by everything that takes a snapshot or its journal away."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from strongroom.errors import Damaged, NotFound
from strongroom.repository import SNAPSHOTS, Repository
from strongroom.repository.holds import Hold, HoldRecord, Subject, read_holds
from strongroom.repository.trusted_time import agreed_now, stored_at
from strongroom.snapshots import history
from strongroom.snapshots.history import Snapshot
from strongroom.snapshots.manifest import Manifest

TENANT = "tenant"
"""The tag that says whose a snapshot is, and the name under which an engine's catalog does of a collection."""


@dataclass(frozen=True, slots=True)
class Holding:
    """The holds that are neither released nor over."""

    holds: tuple[Hold, ...]

    def over(self, snapshot: Snapshot) -> tuple[Hold, ...]:
        subject = subject_of(snapshot.id, snapshot.manifest)
        return tuple(one for one in self.holds if one.scope.covers(subject))

    def over_unread(self, snapshot_id: str) -> tuple[Hold, ...]:
        """Of a snapshot whose manifest can't be read: every broad hold may cover it."""
        return tuple(one for one in self.holds if one.scope.is_broad or snapshot_id in one.scope.snapshots)


def subject_of(snapshot_id: str, record: Manifest) -> Subject:
    """As a hold sees a snapshot: a tenant is told by its tag, by the engine's catalog of its collections, or by his own key."""
    told = [record.tags.get(TENANT), *(one.catalog.catalog.get(TENANT) for one in record.collections)]
    told += [part.tenant for one in record.collections for part in one.tenants]
    names = frozenset(one.name for one in record.collections)
    return Subject(snapshot_id, record.source, names, frozenset(one for one in told if isinstance(one, str) and one))


def hold_records(repository: Repository) -> list[HoldRecord]:
    """All holds that were ever placed, oldest first. One is over once both this machine's clock and the store's stamp of some
    snapshot or hold say so. Raises Damaged."""
    holds, releases, found = read_holds(repository)
    if any(one.until for one in holds):
        stamps = [*stored_at(repository.store, SNAPSHOTS).values(), *(one.stored for one in found if one.stored)]
        now = agreed_now(repository.clock.now(), stamps)
    else:
        now = repository.clock.now()
    return [HoldRecord(one, releases.get(one.id), one.until is not None and one.until <= now) for one in holds]


def holding(repository: Repository) -> Holding:
    """The holds of now. Raises Damaged if one can't be read or was taken away: then nothing may go."""
    return Holding(tuple(one.hold for one in hold_records(repository) if one.is_active))


def held_among(repository: Repository, snapshot_ids: Iterable[str]) -> dict[str, tuple[Hold, ...]]:
    """Which of these snapshots are held, and by what. The holds are read first. Raises Damaged if a hold can't be read."""
    now = holding(repository)
    found = {one: held_by(repository, now, one) for one in snapshot_ids} if now.holds else {}
    return {one: holds for one, holds in found.items() if holds}


def held_by(repository: Repository, now: Holding, snapshot_id: str) -> tuple[Hold, ...]:
    """The holds over a snapshot, by its id; none over one that isn't there."""
    try:
        return now.over(history.read(repository, snapshot_id))
    except NotFound:
        return ()
    except Damaged:
        return now.over_unread(snapshot_id)
