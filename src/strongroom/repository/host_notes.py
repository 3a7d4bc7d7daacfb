"""What does a host remember that can't read what it stored? Which blobs lie in which of its packs, and its newest manifests.

One file in the state directory, encrypted under a key that the host's key slot wraps: ids under the repository's keyed hash, no
row and no vector. If it is lost, cut, altered or old, packs or manifests are unknown, and the next backup stores more than it must.

    salt 32 | AES-256-GCM ciphertext and tag, nonce 0, bound to the repository's id
    plain   length u32 | zstandard frame of JSON: `snapshots` (of what: id, size, length of the manifest) | manifests | packs as in
            an index object
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

import zstandard

from strongroom.errors import Damaged
from strongroom.repository import blob_index
from strongroom.repository.crypto import KEY_BYTES, SALT_BYTES, Box, NotAuthentic, derive, random_bytes
from strongroom.repository.packs import Pack
from strongroom.repository.state import alone_at, state_directory

_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Made:
    """A snapshot that this host made: its id, the length of its object, and its manifest."""

    id: str
    size: int
    manifest: bytes = field(repr=False)


@dataclass
class Noted:
    """The newest snapshot of each source, and the packs by id."""

    snapshots: dict[str, Made] = field(default_factory=dict)
    packs: dict[str, Pack] = field(default_factory=dict)


class HostNotes:
    """The notes of one host about one repository. Best effort: nothing here raises if the file can't be read or written."""

    def __init__(self, repository_id: bytes, key: bytes) -> None:
        self._repository_id = repository_id
        self._key = key
        name = derive(key, "name of notes")[: KEY_BYTES // 4].hex()
        self._path = state_directory() / f"{repository_id.hex()}-{name}.host"

    def read(self) -> Noted:
        try:
            content = self._path.read_bytes()
            plain = self._box(content[:SALT_BYTES]).open(0, content[SALT_BYTES:], self._repository_id)
            return _decode(plain)
        except (OSError, NotAuthentic, Damaged, ValueError, KeyError, TypeError, struct.error, zstandard.ZstdError):
            return Noted()

    def add_packs(self, packs: Iterable[Pack]) -> None:
        """These are stored, and listed in the blob index."""
        self._change(lambda noted: noted.packs.update({pack.id: pack for pack in packs}))

    def add_snapshot(self, source: str, made: Made) -> None:
        self._change(lambda noted: noted.snapshots.update({source: made}))

    def keep(self, packs: Collection[str]) -> None:
        """Forget the packs that aren't among these."""
        known = self.read().packs
        if known.keys() - set(packs):
            self._change(lambda noted: [noted.packs.pop(one) for one in known.keys() - set(packs) if one in noted.packs])

    def _change(self, change: Callable[[Noted], object]) -> None:
        """Change them as they are now, one process at a time."""
        with suppress(OSError), alone_at(self._path):
            noted = self.read()
            change(noted)
            salt = random_bytes(SALT_BYTES)
            fresh = self._path.with_suffix(".fresh")
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(salt + self._box(salt).seal(0, _encode(noted), self._repository_id))
            fresh.replace(self._path)

    def _box(self, salt: bytes) -> Box:
        return Box(derive(self._key, "host notes", salt=salt))


def _encode(noted: Noted) -> bytes:
    said = {source: [one.id, one.size, len(one.manifest)] for source, one in noted.snapshots.items()}
    head = zstandard.compress(json.dumps({"snapshots": said}).encode())
    manifests = b"".join(one.manifest for one in noted.snapshots.values())
    return _LENGTH.pack(len(head)) + head + manifests + blob_index.encode(noted.packs.values())


def _decode(plain: bytes) -> Noted:
    (length,) = _LENGTH.unpack_from(plain)
    at = _LENGTH.size + length
    noted = Noted()
    for source, (snapshot_id, size, count) in json.loads(zstandard.decompress(plain[_LENGTH.size : at]))["snapshots"].items():
        noted.snapshots[source] = Made(snapshot_id, size, plain[at : at + count])
        at += count
    noted.packs.update({pack.id: pack for pack in blob_index.decode("notes", plain[at:])})
    return noted
