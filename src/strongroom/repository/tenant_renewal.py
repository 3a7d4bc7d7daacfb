"""How do tenants' keys come under the repository's newest keys? Sealed anew, the old objects then deleted; what they seal stays."""

from __future__ import annotations

from contextlib import suppress

from strongroom.errors import Damaged, NotFound
from strongroom.repository.crypto import SALT_BYTES
from strongroom.repository.erasures import erased_tenants, erasures
from strongroom.repository.framing import HEADER_BYTES
from strongroom.repository.repository import Repository
from strongroom.repository.tenants import FOLDER, TenantKey, destroy_keys, read_key, sealed_key
from strongroom.repository.writer import create_once


def reseal(repository: Repository) -> int:
    """Seal all tenants' keys with the keys of the newest epoch; gives how many were of an earlier one. Each is there at any moment,
    and may be read from either object; one of a tenant who is erased meanwhile goes. May be repeated."""
    fresh: set[tuple[str, str]] = set()
    old: list[TenantKey] = []
    for listed in repository.store.list(FOLDER):
        with suppress(NotFound, Damaged):  # destroyed since it was listed; or for verify to tell
            key = read_key(repository, listed.name)
            if _is_of_newest(repository, key.name):
                fresh.add((key.tenant, key.id))
            else:
                old.append(key)
    for key in old:
        if (key.tenant, key.id) not in fresh:
            create_once(repository.store, *sealed_key(repository.keys, key.tenant, key.secret, key.created))
        repository.store.delete(key.name)
    for tenant in erased_tenants(erasures(repository)).keys() & {key.tenant for key in old}:
        destroy_keys(repository.store, repository.keys, tenant)
    return len(old)


def _is_of_newest(repository: Repository, name: str) -> bool:
    newest = repository.keys.newest
    return not newest.number or repository.store.read(name, HEADER_BYTES, SALT_BYTES).startswith(newest.tag)
