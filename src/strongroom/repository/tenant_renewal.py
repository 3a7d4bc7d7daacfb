"""How do tenants' keys come under the repository's newest keys? Sealed anew, the old objects then deleted; what they seal stays."""

from __future__ import annotations

from strongroom.errors import NotFound
from strongroom.repository.crypto import SALT_BYTES
from strongroom.repository.erasures import erased_tenants, erasures
from strongroom.repository.framing import HEADER_BYTES
from strongroom.repository.repository import Repository
from strongroom.repository.tenants import FOLDER, destroy_keys, read_key, sealed_key
from strongroom.repository.writer import create_once


def reseal(repository: Repository) -> int:
    """Seal all tenants' keys with the keys of the newest epoch; gives how many were of an earlier one. Each is there at any moment,
    and may be read from either object; one of a tenant who is erased meanwhile goes. Raises Damaged. May be repeated."""
    newest, done = repository.keys.newest, 0
    for listed in list(repository.store.list(FOLDER)):
        try:
            salt = repository.store.read(listed.name, HEADER_BYTES, SALT_BYTES)
            if not newest.number or salt.startswith(newest.tag):
                continue
            key = read_key(repository, listed.name)
        except NotFound:
            continue  # it was destroyed since it was listed
        name, content = sealed_key(repository.keys, key.tenant, key.secret, key.created)
        create_once(repository.store, name, content)
        repository.store.delete(listed.name)
        if key.tenant in erased_tenants(erasures(repository)):
            destroy_keys(repository.store, repository.keys, key.tenant)
        done += 1
    return done
