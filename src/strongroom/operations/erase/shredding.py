"""How are a tenant's keys destroyed, in the repository and in every replica, so that nothing that they sealed is ever read again?

The erasure stands in the ledger before the first key goes: from then on no reader uses such a key and no copy brings one, so that
whatever is cut off in between is finished by the next run of the same command.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from strongroom.errors import StrongroomError
from strongroom.operations.copy.replica import open_replica
from strongroom.operations.copy.tenant_keys import send_erasures
from strongroom.operations.machine.replicas import known
from strongroom.repository import Repository, open_store
from strongroom.repository.erasures import Erasure, destroyed, destructions
from strongroom.repository.repository import REPAIRS
from strongroom.repository.tenants import destroy_keys, folder_of, key_objects
from strongroom.snapshots.history import Snapshot
from strongroom.snapshots.tenant_parts import parts_of


@dataclass(frozen=True, slots=True)
class KeysGone:
    """In the store at `place` no key of the tenant is left; `keys` are the names of those that were deleted there by this run.
    `warning` says why a deleted object may still be got there, '' if nothing is known of it."""

    place: str
    keys: tuple[str, ...]
    warning: str = ""


@dataclass(frozen=True, slots=True)
class Unreached:
    """A replica in which the keys may still be, and why nobody could look."""

    place: str
    problem: str


@dataclass(frozen=True, slots=True)
class Shredded:
    """What became of a tenant's keys. All of them are gone where there is nothing unreached."""

    gone: tuple[KeysGone, ...] = ()
    unreached: tuple[Unreached, ...] = ()

    @property
    def whole(self) -> bool:
        return not self.unreached and not any(one.warning for one in self.gone)


NOT_SHREDDED = Shredded()


def has_keys(repository: Repository, tenant: str, snapshots: Iterable[Snapshot]) -> bool:
    """Has the tenant a key of his own, or had he one?"""
    sealed = any(part.tenant == tenant for one in snapshots for part in parts_of(one.manifest))
    return sealed or bool(key_objects(repository.store, repository.keys, tenant))


def shred(repository: Repository, erasure: Erasure, replicas: Iterable[str]) -> Shredded:
    """Destroy the keys of the tenant whom an erasure in the ledger means, here, then in the replicas that this machine knows of and
    in those that are given. May be repeated. Raises what the repository's own store raises."""
    told = {one.place for one in destructions(repository, erasure.id)}
    gone = [_destroy(repository, repository, erasure, told)]
    unreached = []
    own = repository.store.url
    for url in dict.fromkeys([*known(own), *replicas]):
        try:
            store = open_store(url)
            if store.url == own:
                continue
            replica = open_replica(repository, store)
            send_erasures(repository, replica)
            gone.append(_destroy(repository, replica, erasure, told))
        except StrongroomError as error:
            unreached.append(Unreached(url, str(error)))
    return Shredded(tuple(gone), tuple(unreached))


def _destroy(primary: Repository, where: Repository, erasure: Erasure, told: set[str]) -> KeysGone:
    """What was destroyed is told in the ledger after it is gone: the ledger promises nothing that isn't so."""
    keys, place = destroy_keys(where.store, primary.keys, erasure.what.tenant), where.store.url
    if keys or place not in told:
        destroyed(primary, erasure.id, place, keys)
    return KeysGone(place, keys, _kept_versions(place, folder_of(primary.keys, erasure.what.tenant)))


def _kept_versions(place: str, folder: str) -> str:
    """See to it that a bucket that keeps versions of what is deleted keeps none below a folder. Why one may still be got back; ''
    if none can, as far as the store can be asked. Raises Unreachable."""
    from strongroom.repository.bucket import bucket_of  # a directory needs no client of object stores
    from strongroom.repository.bucket_versions import purge

    bucket = bucket_of(place)
    if bucket is None or not bucket.versioning() or (purge(bucket, folder) and purge(bucket, REPAIRS + folder)):
        return ""
    return f"the bucket keeps versions of what was deleted below {folder}, by a lock, or a right that is missing: delete them"
