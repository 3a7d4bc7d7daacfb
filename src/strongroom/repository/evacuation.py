"""How what is needed leaves packs that are condemned. Once a tombstone condemns a pack, nobody relies on it ever again.

Nothing here rests on clocks: a backup stores its manifest and then reads the tombstones; who deletes a pack stores its tombstone
and then reads the manifests. Whichever comes second sees the other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from strongroom.errors import Damaged, NotFound, Overtaken
from strongroom.repository import leaving, sessions
from strongroom.repository.blob_index import BlobIndex
from strongroom.repository.packs import CodedBlob, Pack, pack_name
from strongroom.repository.repository import Repository
from strongroom.repository.tombstones import Tombstone, What, earliest
from strongroom.repository.unlocking import PACKS
from strongroom.repository.writer import BlobWriter

T = TypeVar("T")
R = TypeVar("R")

_READERS = 4
_BATCH = 8
"""Blobs read at once; with blobs of 8 MiB at most, 64 MiB as they are coded and as much plain."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Which packs can be relied on: those that are there with their length and that nobody has condemned, of an epoch that isn't
    about to be closed. Damage that is known counts as absence."""

    repository: Repository
    condemned: frozenset[str]
    sizes: dict[str, int]
    damaged: frozenset[str] = frozenset()

    @classmethod
    def now(cls, repository: Repository, damaged: Iterable[str] = ()) -> Standing:
        """Tombstones are read first and packs listed last: a tombstone goes only after all of its packs, so that a pack that is
        listed was not condemned before."""
        repository.keys.look_again()
        condemned = frozenset(earliest(repository.tombstones(What.CONDEMNED)))
        repository.look_again()
        return cls(repository, condemned, {one.name: one.size for one in repository.store.list(PACKS)}, frozenset(damaged))

    def is_there(self, pack: Pack) -> bool:
        """With its length."""
        return self._size(pack.name) == pack.size

    def exists(self, pack_id: str) -> bool:
        return self._size(pack_name(pack_id)) is not None

    def _size(self, name: str) -> int | None:
        """A listing may lag behind, an answer for one name doesn't."""
        if name not in self.sizes:
            with suppress(NotFound):
                self.sizes[name] = self.repository.store.size(name)
        return self.sizes.get(name)

    def holds(self, pack: Pack) -> bool:
        if self.repository.keys.is_outdated(pack.salt):
            return False
        return pack.id not in self.condemned and pack.id not in self.damaged and self.is_there(pack)

    def speaks_for(self, pack: Pack, host: str) -> bool:
        """May what a pack says it holds be believed, unread, for a snapshot that this host made ('': for one of the repository's)?
        That of another host may not: it could claim what it hasn't."""
        keys = self.repository.keys
        if not self.repository.reads or not keys.by_host(pack.salt):
            return True
        return host != "" and keys.host_of(pack.salt) == host

    def pack_of(self, blob_id: bytes, host: str = "") -> Pack | None:
        """One that can be relied on for a snapshot of this host."""
        packs = (place.pack for place in self.repository.index.places(blob_id))
        return next((pack for pack in packs if self.holds(pack) and self.speaks_for(pack, host)), None)

    def somewhere(self, blob_id: bytes) -> bool:
        """Does any pack that can be relied on say that it holds the blob?"""
        return any(self.holds(place.pack) for place in self.repository.index.places(blob_id))


def condemn(repository: Repository, packs: Collection[str]) -> Tombstone:
    """Say that nobody may rely on these packs, by id, any more."""
    if any(True for _ in repository.store.list(sessions.FOLDER)):
        leaving.say(repository.store, packs)  # hosts that can't read tombstones
    return repository.bury(What.CONDEMNED, packs)


def secure(repository: Repository, needs: Iterable[bytes], host: str = "") -> list[Pack]:
    """See to it that every blob lies in a pack that can be relied on: those that only condemned packs have are copied. Gives the
    packs. To be called before a manifest is stored, and once more after. Raises Overtaken if a blob is lost already."""
    standing = Standing.now(repository)
    packs = {blob_id: standing.pack_of(blob_id, host) for blob_id in needs}
    endangered = [blob_id for blob_id, pack in packs.items() if pack is None]
    lost = copy(repository, endangered)
    if lost:
        problem = next(iter(lost.values()))
        raise Overtaken(
            f"{problem.subject} went while this ran ({problem.problem}; a prune, or damage): no snapshot was recorded",
            hint="run the backup again; if a prune was it, give prunes a longer --grace than the longest backup takes",
        )
    packs |= {blob_id: standing.pack_of(blob_id, host) for blob_id in endangered}
    return list({pack.id: pack for pack in packs.values() if pack is not None}.values())


def still_hold(repository: Repository, packs: Iterable[Pack]) -> bool:
    """Can all of these be relied on now?"""
    standing = Standing.now(repository)
    return all(standing.holds(pack) for pack in packs)


def copy(
    repository: Repository, blob_ids: Iterable[bytes], advance: Callable[[int], None] = lambda _: None
) -> dict[bytes, Damaged]:
    """Copy blobs, from any pack that has them whole, into new packs that the blob index lists, and tell what could not be read.
    `advance` hears of the bytes."""
    lost: dict[bytes, Damaged] = {}

    def read(blob_id: bytes) -> CodedBlob | None:
        try:
            return repository.read_coded(blob_id)
        except Damaged as error:
            lost[blob_id] = error
            return None

    wanted = list(blob_ids)
    if not wanted:
        return lost
    with BlobWriter(repository.store, repository.keys, BlobIndex()) as writer:
        for found in _a_few_at_once(wanted, read):
            if found is not None:
                writer.submit_coded(found)
                advance(len(found.payload))
        packs = writer.close()
    repository.add_index(packs)
    return lost


def unproven(
    repository: Repository, blob_ids: Iterable[bytes], standing: Standing, advance: Callable[[int], None] = lambda _: None
) -> list[bytes]:
    """Read blobs back from the packs that can be relied on; gives those that none of these has whole."""
    missing: list[bytes] = []

    def proof(blob_id: bytes) -> int | None:
        for place in repository.index.places(blob_id):
            if standing.holds(place.pack):
                with suppress(Damaged, NotFound):
                    repository.open_place(place)
                    return place.blob.stored
        return None

    wanted = list(blob_ids)
    for blob_id, stored in zip(wanted, _a_few_at_once(wanted, proof), strict=True):
        if stored is None:
            missing.append(blob_id)
        else:
            advance(stored)
    return missing


def _a_few_at_once(items: Sequence[T], work: Callable[[T], R]) -> Iterator[R]:
    """`work` of each item, in order, `_BATCH` of them at a time."""
    with ThreadPoolExecutor(_READERS, thread_name_prefix="strongroom-evacuation") as pool:
        for start in range(0, len(items), _BATCH):
            yield from pool.map(work, items[start : start + _BATCH])
