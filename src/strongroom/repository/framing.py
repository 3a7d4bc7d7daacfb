"""How the repository's small objects (blob index, manifests, tombstones) are sealed.

    magic 4 | format 1 | kind 1 | salt 32 | AES-256-GCM ciphertext and tag, nonce 0, bound to magic..kind and the repository's id

An object's name is the BLAKE3 of all of its bytes: a truncated, altered or swapped one is found without a key.
"""

from __future__ import annotations

from enum import IntEnum

from strongroom.errors import Damaged
from strongroom.repository.crypto import SALT_BYTES, NotAuthentic, content_hash
from strongroom.repository.keys import Keys

MAGIC = b"SRRM"
FORMAT = 1
HEADER_BYTES = len(MAGIC) + 2
_SHORTEST = HEADER_BYTES + SALT_BYTES + 16


class Kind(IntEnum):
    """What an object is: its number stands in the object, its purpose in the derivation of the object's key."""

    PACK = 1
    INDEX = 2
    SNAPSHOT = 3
    TOMBSTONE = 4
    JOURNAL = 5
    EPOCH = 6
    HOLD = 7
    ERASURE = 8
    AUDIT = 9
    DRILL = 10
    PROOF = 11
    POLICY = 12
    REGION = 13
    APPROVAL = 14
    KEYRING = 15
    TENANT = 16
    SESSION = 18
    LOCK = 20
    CARRIED = 21

    @property
    def purpose(self) -> str:
        return self.name.lower()


def header(kind: Kind) -> bytes:
    return MAGIC + bytes([FORMAT, kind])


def seal(keys: Keys, kind: Kind, plain: bytes) -> tuple[str, bytes]:
    """The object of `plain` and its id (64 hex digits)."""
    start = header(kind)
    salt = keys.new_salt()
    content = start + salt + keys.box(kind.purpose, salt).seal(0, plain, start + keys.repository_id)
    return content_hash(content).hex(), content


def unseal(keys: Keys, kind: Kind, name: str, content: bytes) -> bytes:
    """The plain bytes of object `name`. Raises Damaged, with what is wrong with it."""
    require_whole(name, content)
    start = require_header(name, kind, content)
    try:
        return keys.box(kind.purpose, salt_of(content)).open(0, content[HEADER_BYTES + SALT_BYTES :], start + keys.repository_id)
    except NotAuthentic as error:
        raise Damaged(name, str(error) or "it was not written with this repository's key") from error


def salt_of(content: bytes) -> bytes:
    """The salt of an object that was opened: it tells the session of a host in which it was written."""
    return content[HEADER_BYTES : HEADER_BYTES + SALT_BYTES]


def require_whole(name: str, content: bytes) -> None:
    """Raises Damaged unless the last part of `name` is the hash of `content`."""
    if content_hash(content).hex() != name.rpartition("/")[2]:
        raise Damaged(name, "its bytes are not the ones that were written (altered, truncated or swapped)")


def require_header(name: str, kind: Kind, content: bytes) -> bytes:
    """The header of an object of `kind`. Raises Damaged if it is too short or of another kind or format."""
    if len(content) < _SHORTEST or content[:4] != MAGIC:
        raise Damaged(name, "it is not an object of a Strongroom repository")
    if content[4] != FORMAT:
        raise Damaged(name, f"it has format {content[4]}, this program reads format {FORMAT}", hint="use a newer Strongroom")
    if content[5] != kind:
        raise Damaged(name, f"it is no {kind.purpose} object")
    return content[:HEADER_BYTES]
