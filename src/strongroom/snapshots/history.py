"""Which snapshots there are, which one a name means, and whether one was taken away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from strongroom.errors import Damaged, NotFound
from strongroom.repository import Repository
from strongroom.snapshots.manifest import Manifest, decode


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot: its id (64 hex digits) and its manifest."""

    id: str
    manifest: Manifest


def read_all(repository: Repository) -> tuple[list[Snapshot], list[Damaged]]:
    """All snapshots, oldest first, and the manifests that can't be read."""
    snapshots: list[Snapshot] = []
    damaged: list[Damaged] = []
    for snapshot_id in repository.manifest_ids():
        try:
            snapshots.append(read(repository, snapshot_id))
        except Damaged as error:
            damaged.append(error)
        except NotFound:
            damaged.append(Damaged(f"snapshots/{snapshot_id}", "it was listed and is not there"))
    return sorted(snapshots, key=lambda snapshot: (snapshot.manifest.created, snapshot.id)), damaged


def read(repository: Repository, snapshot_id: str) -> Snapshot:
    """The snapshot of a whole id. Raises NotFound or Damaged."""
    name = f"snapshots/{snapshot_id}"
    return Snapshot(snapshot_id, decode(name, repository.read_manifest(snapshot_id)))


def find(repository: Repository, name: str) -> Snapshot:
    """The snapshot that 'latest' or the beginning of an id means. Raises NotFound, or Damaged if it can't be read or if 'latest'
    can't be told because some other can't: an older state must not pass for the newest in silence."""
    ids = repository.manifest_ids()
    if name == "latest":
        snapshots, damaged = read_all(repository)
        if damaged:
            hint = "it may be the latest: give a snapshot's id; 'strongroom snapshots' lists those that can be read"
            raise Damaged(damaged[0].subject, damaged[0].problem, hint=hint)
        if snapshots:
            return snapshots[-1]
        raise NotFound("the repository has no snapshot yet", hint="make one with 'strongroom backup SOURCE'")
    found = [snapshot_id for snapshot_id in ids if snapshot_id.startswith(name.lower())]
    if len(found) != 1 or not name:
        what = "no snapshot's id begins" if not found else f"{len(found)} snapshots' ids begin"
        raise NotFound(f"{what} with {name!r}", hint="see 'strongroom snapshots'")
    return read(repository, found[0])


def heads(snapshots: Sequence[Snapshot]) -> tuple[str, ...]:
    """The snapshots that no other names as its parent: what a new one names."""
    named = {parent for snapshot in snapshots for parent in snapshot.manifest.parents}
    return tuple(snapshot.id for snapshot in snapshots if snapshot.id not in named)


def missing_parents(snapshots: Sequence[Snapshot], damaged: Sequence[Damaged]) -> dict[str, list[str]]:
    """Snapshots that others name and that aren't there: id to the ids of those that name it."""
    present = {snapshot.id for snapshot in snapshots} | {problem.subject.rpartition("/")[2] for problem in damaged}
    missing: dict[str, list[str]] = {}
    for snapshot in snapshots:
        for parent in snapshot.manifest.parents:
            if parent not in present:
                missing.setdefault(parent, []).append(snapshot.id)
    return missing
