"""How does an object keep its name, its hash and its signature when the key that sealed it is given up? It is carried: whole, with
its own key, inside of an object of a later epoch.

    <name>~/<epoch, 6 digits>
    header 6 (kind 21) | salt 32 | ciphertext and tag of: key 32 | when u64, microseconds | the object's bytes
    nonce 0, bound to header || R || the object's name

`Carrying` shows a store as if every object were where it was. What reads and writes a repository needn't know of it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from strongroom.errors import AlreadyExists, Damaged, NotFound
from strongroom.repository.crypto import KEY_BYTES, SALT_BYTES, TAG_BYTES, NotAuthentic
from strongroom.repository.framing import HEADER_BYTES, MAGIC, Kind, header, require_header
from strongroom.repository.keys import Keys
from strongroom.repository.store import KeepsLeftovers, Listed, Store

MARK = "~/"
START_BYTES = HEADER_BYTES + SALT_BYTES
"""So much of an object tells its kind and its epoch."""
_WHEN = struct.Struct("<Q")
OVERHEAD = START_BYTES + KEY_BYTES + _WHEN.size + TAG_BYTES
_NEVER = ("packs/", "index/", "keys/", "keyring/", "sessions/", "leaving/", "tenants/", "probe/", "config")
"""What is written anew instead, or is of no epoch."""
_NUMBERED = ("journal/", "audit/", "approvals/")
"""Names that aren't hashes: a writer must not take one for free because its object is carried."""


@dataclass(frozen=True, slots=True)
class Carried:
    """An object as it was, and since when it is carried (microseconds since 1970; 0: it never was here by itself)."""

    content: bytes = field(repr=False)
    when: int


def carried_name(name: str, epoch: int) -> str:
    return f"{name}{MARK}{epoch:06d}"


def plain_name(name: str) -> str:
    """The name of the object, whether this is it or it is carried by this."""
    return name.partition(MARK)[0]


def carrier_of(name: str) -> int | None:
    """The epoch of an object that carries another; None if this is none."""
    _, mark, epoch = name.partition(MARK)
    return int(epoch) if mark and epoch.isdigit() else None


def can_be_carried(name: str) -> bool:
    return not name.startswith(_NEVER)


def start_of(content: bytes) -> tuple[Kind, bytes] | None:
    """The kind and the salt that stand in an object's first bytes; None if it is none."""
    if len(content) < START_BYTES or content[: len(MAGIC)] != MAGIC:
        return None
    with suppress(ValueError):
        return Kind(content[HEADER_BYTES - 1]), content[HEADER_BYTES:START_BYTES]
    return None


def carry(keys: Keys, name: str, content: bytes, key: bytes, when: int) -> bytes:
    """The object that carries `content`, whose own key is `key`; `when` is now, in microseconds since 1970."""
    start, salt = header(Kind.CARRIED), keys.new_salt()
    plain = key + _WHEN.pack(when) + content
    return start + salt + keys.box(Kind.CARRIED.purpose, salt).seal(0, plain, start + keys.repository_id + name.encode())


def take_out(keys: Keys, name: str, content: bytes) -> Carried:
    """What an object carries; from here on `keys` open it. Raises Damaged."""
    start, salt = require_header(name, Kind.CARRIED, content), content[HEADER_BYTES:START_BYTES]
    bound = start + keys.repository_id + plain_name(name).encode()
    try:
        plain = keys.box(Kind.CARRIED.purpose, salt).open(0, content[START_BYTES:], bound)
    except NotAuthentic as error:
        raise Damaged(plain_name(name), "altered, swapped, or not written with this repository's key") from error
    at = KEY_BYTES + _WHEN.size
    within = start_of(plain[at:])
    if within is None:
        raise Damaged(name, "what it carries is no object")
    keys.adopt(within[0].purpose, within[1], plain[:KEY_BYTES])
    return Carried(plain[at:], _WHEN.unpack_from(plain, KEY_BYTES)[0])


class Carrying:
    """A store in which carried objects stand under their own names. `inner` shows them as they are."""

    def __init__(self, inner: Store, keys: Keys) -> None:
        self.inner = inner
        self._keys = keys

    @property
    def url(self) -> str:
        return self.inner.url

    def create(self, name: str, data: bytes | memoryview) -> None:
        """What is carried elsewhere is carried here too."""
        within = start_of(bytes(data[:START_BYTES])) if can_be_carried(name) else None
        key = self._keys.adopted(within[0].purpose, within[1]) if within else None
        if key is not None:
            content = carry(self._keys, name, bytes(data), key, 0)
            self.inner.create(carried_name(name, self._keys.newest.number), content)
            return
        self.inner.create(name, data)
        if name.startswith(_NUMBERED) and self._places(name):
            self.inner.delete(name)
            raise AlreadyExists(f"{self.url}/{name} is already there")

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        try:
            return self.inner.read(name, offset, length)
        except NotFound:
            for place in self._places(name):
                with suppress(NotFound):
                    content = take_out(self._keys, place, self.inner.read(place)).content
                    return content[offset : None if length is None else offset + length]
            raise

    def size(self, name: str) -> int:
        try:
            return self.inner.size(name)
        except NotFound:
            for place in self._places(name):
                with suppress(NotFound):
                    return self.inner.size(place) - OVERHEAD
            raise

    def list(self, prefix: str, after: str = "") -> Iterator[Listed]:
        """An object is carried long before it goes where it was: whichever a listing meets, it meets one."""
        given: set[str] = set()
        for listed in self.inner.list(prefix, after):
            if not can_be_carried(listed.name):
                yield listed
                continue
            name = plain_name(listed.name)
            if name not in given and name > after:  # what carries an object sorts after it
                given.add(name)
                yield listed if name == listed.name else Listed(name, listed.size - OVERHEAD, listed.modified)

    def folders(self, prefix: str) -> Sequence[str]:
        return [one for one in self.inner.folders(prefix) if not one.endswith(MARK.rstrip("/"))]

    def delete(self, name: str) -> None:
        self.inner.delete(name)
        for place in self._places(name):
            self.inner.delete(place)

    def remove_leftovers(self, before: float) -> int:
        """As the store does, if it leaves any."""
        return self.inner.remove_leftovers(before) if isinstance(self.inner, KeepsLeftovers) else 0

    def _places(self, name: str) -> Sequence[str]:
        """Where an object is carried, the newest epoch first."""
        if not can_be_carried(name):
            return ()
        return sorted((one.name for one in self.inner.list(f"{name}{MARK}")), reverse=True)
