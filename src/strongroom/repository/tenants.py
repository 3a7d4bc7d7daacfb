"""Whose data is it, and which key opens it? A tenant's own key, without which nobody reads what is sealed with it.

tenants/<tenant>/<id>   a key of one tenant: signed, sealed with the repository's keys; <tenant> tells no name, <id> is the BLAKE3
of the object. Destroying all keys of a tenant makes what they sealed unreadable, wherever copies of it lie.

What is sealed with such a key is stored as blobs like any other, which whoever has no key can check, copy and prune:

    salt 32 | AES-256-GCM of (codec 1 | plain length u32 | payload), nonce 0, bound to the repository's id

The salt is a keyed hash of what is sealed, and gives the blob a key of its own: the same bytes of the same tenant are stored once,
and no key meets two messages (a synthetic initialization vector, as in RFC 5297 and RFC 8452).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime

import zstandard
from blake3 import blake3

from strongroom import codecs
from strongroom.errors import Damaged, NotFound
from strongroom.model import Bytes
from strongroom.repository.crypto import KEY_BYTES, SALT_BYTES, SIGNATURE_BYTES, Box, NotAuthentic, derive, random_bytes
from strongroom.repository.framing import Kind, seal, unseal
from strongroom.repository.keys import Keys
from strongroom.repository.repository import REPAIRS, Repository
from strongroom.repository.store import Store
from strongroom.repository.writer import create_once

FOLDER = "tenants/"
FORMAT = 1
_ID_DIGITS = 32
_LONGEST = 1 << 20
_HEAD = struct.Struct("<BI")
_LOOKS = 5
_READERS = 8


@dataclass(frozen=True, slots=True)
class TenantKey:
    """One key of a tenant. `id` (32 hex digits) stands in manifests and tells nothing of the key; `name` is the object that holds
    it."""

    tenant: str
    id: str
    created: datetime
    name: str
    repository_id: bytes
    secret: bytes = field(repr=False)

    def seal(self, plain: Bytes, kind: str) -> bytes:
        """Seal bytes of a kind (`codecs.encode`). The same bytes give the same result."""
        codec, payload = codecs.encode(plain, kind)
        content = _HEAD.pack(codec, memoryview(plain).nbytes) + bytes(payload)
        salt = blake3(content, key=derive(self.secret, "tenant blob salt", salt=self.repository_id)).digest()
        return salt + self._box(salt).seal(0, content, self.repository_id)

    def open(self, sealed: Bytes) -> Bytes:
        """The inverse of `seal`. Raises Damaged."""
        view = memoryview(sealed)
        try:
            content = self._box(bytes(view[:SALT_BYTES])).open(0, view[SALT_BYTES:], self.repository_id)
            codec, length = _HEAD.unpack_from(content)
            return codecs.decode(codec, memoryview(content)[_HEAD.size :], length)
        except (NotAuthentic, struct.error, codecs.CodecError) as error:
            raise Damaged(self.name, f"it doesn't open what tenant {self.tenant!r} has stored") from error

    def _box(self, salt: bytes) -> Box:
        return Box(derive(self.secret, "tenant blob", salt=salt + self.repository_id))


def folder_of(keys: Keys, tenant: str) -> str:
    """Where the keys of a tenant lie: by a keyed hash, so that the store can't test for a name."""
    return f"{FOLDER}{blake3(tenant.encode(), key=derive(keys.blob_id, 'tenant name')).hexdigest()[:_ID_DIGITS]}/"


def keys_of(repository: Repository, tenant: str) -> list[TenantKey]:
    """All keys of a tenant in this very store, oldest first. Raises Damaged if one can't be read."""
    found = []
    for listed in repository.store.list(folder_of(repository.keys, tenant)):
        try:
            found.append(read_key(repository, listed.name))
        except NotFound:
            continue  # it was destroyed since it was listed
    return sorted(found, key=lambda one: (one.created, one.id))


def keys_of_all(repository: Repository, tenants: Iterable[str]) -> dict[str, list[TenantKey]]:
    """As `keys_of`, of many, several at once."""
    names = list(tenants)
    with ThreadPoolExecutor(_READERS) as pool:
        return dict(zip(names, pool.map(lambda one: keys_of(repository, one), names), strict=True))


def sealed_key(keys: Keys, tenant: str, secret: bytes, created: datetime) -> tuple[str, bytes]:
    """The object of a key, sealed with the newest keys of the repository, and its name."""
    body = {"strongroom_tenant": FORMAT, "tenant": tenant, "key": secret.hex(), "created": created.isoformat()}
    plain = zstandard.compress(json.dumps(body, sort_keys=True, separators=(",", ":")).encode())
    object_id, content = seal(keys, Kind.TENANT, keys.sign(plain) + plain)
    return folder_of(keys, tenant) + object_id, content


def make_key(repository: Repository, tenant: str) -> TenantKey:
    """A new key of a tenant, durable. Two that are made at once are both good."""
    secret, created = random_bytes(KEY_BYTES), repository.clock.now()
    name, content = sealed_key(repository.keys, tenant, secret, created)
    create_once(repository.store, name, content)
    return _key(repository, tenant, name, secret, created)


def read_key(repository: Repository, name: str) -> TenantKey:
    """The key in an object, whosever it is. Raises NotFound or Damaged."""
    return _decode(repository, name, repository.store.read(name))


def key_objects(store: Store, keys: Keys, tenant: str) -> list[str]:
    """The names of a tenant's key objects, and of copies that a repair keeps."""
    folder = folder_of(keys, tenant)
    return sorted(one.name for prefix in (folder, REPAIRS + folder) for one in store.list(prefix))


def destroy_keys(store: Store, keys: Keys, tenant: str) -> tuple[str, ...]:
    """Delete all keys of a tenant from a store, and look that they are gone; gives their names. Raises Damaged if they don't go."""
    gone: dict[str, None] = {}
    for _ in range(_LOOKS):
        names = key_objects(store, keys, tenant)
        if not names:
            return tuple(gone)
        for name in names:
            store.delete(name)
            gone[name] = None
    raise Damaged(folder_of(keys, tenant), "its objects are listed still after they were deleted", hint="run it again")


def with_key(found: Iterable[TenantKey], key_id: str) -> TenantKey | None:
    return next((one for one in found if one.id == key_id), None)


def _key(repository: Repository, tenant: str, name: str, secret: bytes, created: datetime) -> TenantKey:
    repository_id = repository.config.repository_id
    key_id = derive(secret, "tenant key id", salt=repository_id).hex()[:_ID_DIGITS]
    return TenantKey(tenant, key_id, created, name, repository_id, secret)


def _decode(repository: Repository, name: str, content: bytes) -> TenantKey:
    plain = unseal(repository.keys, Kind.TENANT, name, content)
    try:
        repository.keys.verify(plain[:SIGNATURE_BYTES], plain[SIGNATURE_BYTES:])
        if not 0 <= zstandard.frame_content_size(plain[SIGNATURE_BYTES:]) <= _LONGEST:
            raise Damaged(name, "it claims to be longer than any key")
        body = json.loads(zstandard.decompress(plain[SIGNATURE_BYTES:]))
        if body["strongroom_tenant"] != FORMAT:
            raise Damaged(name, "a newer Strongroom wrote this key", hint="use a newer Strongroom")
        secret, created = bytes.fromhex(body["key"]), datetime.fromisoformat(body["created"]).astimezone(UTC)
        tenant = str(body["tenant"])
        if not name.startswith(folder_of(repository.keys, tenant)) or len(secret) != KEY_BYTES:
            raise Damaged(name, "it is a key of another tenant")
    except NotAuthentic as error:
        raise Damaged(name, "its signature isn't this repository's") from error
    except (ValueError, KeyError, TypeError, RecursionError, zstandard.ZstdError) as error:
        raise Damaged(name, "it is no key of a tenant") from error
    return _key(repository, tenant, name, secret, created)
