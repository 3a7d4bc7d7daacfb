"""How a snapshot comes to be and goes, so that prunes beside it do no harm and nobody takes it for theft."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from strongroom.errors import StrongroomError
from strongroom.repository import Repository
from strongroom.repository.evacuation import secure, still_hold
from strongroom.repository.tombstones import What, earliest
from strongroom.snapshots import manifest
from strongroom.snapshots.manifest import Manifest


def commit(repository: Repository, record: Manifest) -> str:
    """Store a manifest whose blobs all lie in listed packs, and give the snapshot's id: from here on it exists.

    A prune may have condemned some of these packs since the backup began, and may do so at any time. So what is needed is secured
    before, and once more after the manifest is there for every later prune to see; if that fails the snapshot is withdrawn.
    Raises Overtaken if a blob is lost already.
    """
    needs = {bytes.fromhex(blob) for blob in record.blobs()}
    packs = secure(repository, needs)
    snapshot_id = repository.add_manifest(manifest.encode(record))
    try:
        if not still_hold(repository, packs):
            secure(repository, needs)
    except Exception:
        with suppress(StrongroomError):
            withdraw(repository, [snapshot_id], record.parents)
        raise
    return snapshot_id


def withdraw(repository: Repository, snapshot_ids: Iterable[str], parents: Iterable[str]) -> None:
    """Bury snapshots, then delete their manifests: a crash in between is made good by the next forget or prune.

    `parents` are those that they name as their predecessors and that stay.
    """
    ids = list(snapshot_ids)
    repository.bury(What.FORGOTTEN, ids, parents)
    for snapshot_id in ids:
        repository.delete_manifest(snapshot_id)


def forgotten(repository: Repository) -> tuple[frozenset[str], frozenset[str]]:
    """The ids of all snapshots that were forgotten, and those that these named as their predecessors. Raises Damaged."""
    buried = repository.tombstones(What.FORGOTTEN)
    ids = frozenset(earliest(buried))
    return ids, frozenset(one for tombstone in buried for one in tombstone.parents) - ids
