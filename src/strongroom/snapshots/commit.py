"""How a snapshot comes to be and goes, so that prunes beside it do no harm and nobody takes it for theft."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress

from strongroom.errors import Damaged, NotFound, StrongroomError
from strongroom.repository import SNAPSHOTS, Repository
from strongroom.repository.evacuation import secure, still_hold
from strongroom.repository.holds import Hold
from strongroom.repository.tombstones import What, earliest
from strongroom.snapshots import manifest
from strongroom.snapshots.holding import held_among
from strongroom.snapshots.manifest import Manifest


def commit(repository: Repository, record: Manifest) -> str:
    """Store a manifest whose blobs all lie in listed packs, and give the snapshot's id: from here on it exists.

    A prune may have condemned some of these packs since the backup began, and may do so at any time. So what is needed is secured
    before, and once more after the manifest is there for every later prune to see; if that fails the snapshot is withdrawn.
    Raises Overtaken if a blob is lost already.
    """
    needs = {bytes.fromhex(blob) for blob in record.blobs()}
    packs = secure(repository, needs)
    snapshot_id = repository.add_manifest(manifest.encode(record), record.source)
    try:
        if not still_hold(repository, packs):
            secure(repository, needs)
    except Exception:
        with suppress(StrongroomError):
            if not repository.reads:  # it can't bury it, and no other names it
                repository.delete_manifest(snapshot_id)
            else:
                withdraw(repository, [snapshot_id], record.parents)
        raise
    return snapshot_id


def withdraw(repository: Repository, snapshot_ids: Iterable[str], parents: Iterable[str]) -> dict[str, tuple[Hold, ...]]:
    """Bury snapshots, then delete their manifests: after a crash in between they are whole until somebody forgets
    them again. Gives those that stay because they are held.

    `parents` are those that they name as their predecessors and that stay. Holds are read once the tombstone is there: a hold that
    is stored later reads the tombstone, and brings back what it covers (docs/ARCHITECTURE.md, "One hold").
    """
    ids, named = list(snapshot_ids), list(parents)
    buried = repository.bury(What.FORGOTTEN, ids, named)
    held = held_among(repository, ids)
    if held:
        going = [one for one in ids if one not in held]
        if going:
            repository.bury(What.FORGOTTEN, going, named)
        repository.store.delete(buried.name)
    for snapshot_id in ids:
        if snapshot_id not in held:
            repository.delete_manifest(snapshot_id)
    return held


def finish_forgotten(repository: Repository, broken: Callable[[Manifest], bool]) -> int:
    """Delete the manifests of snapshots that are forgotten, still there and `broken`, unless they are held, and tell how many.

    A tombstone excuses an absence; it orders nothing: who may only add objects must not have others delete for him. So a whole
    snapshot stays until somebody who may delete it forgets it himself.
    """
    left = forgotten(repository)[0].intersection(repository.manifest_ids())
    going = [one for one in sorted(left) if _is_broken(repository, one, broken)]
    for snapshot_id in going:
        repository.delete_manifest(snapshot_id)
    return len(going)


def _is_broken(repository: Repository, snapshot_id: str, broken: Callable[[Manifest], bool]) -> bool:
    try:
        return broken(manifest.decode(SNAPSHOTS + snapshot_id, repository.read_manifest(snapshot_id)))
    except (NotFound, Damaged):
        return False


def forgotten(repository: Repository) -> tuple[frozenset[str], frozenset[str]]:
    """The ids of all snapshots that were forgotten, but for those that are still there and held; and those that these named as
    their predecessors. The tombstones are read before the holds. Raises Damaged."""
    buried = repository.tombstones(What.FORGOTTEN)
    ids = frozenset(earliest(buried))
    there = ids.intersection(repository.manifest_ids()) if ids else ids
    ids -= held_among(repository, there).keys()
    return ids, frozenset(one for tombstone in buried for one in tombstone.parents) - ids
