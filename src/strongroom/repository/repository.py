"""A repository as a whole: opened with a secret, it gives blobs and manifests and takes new ones."""

from __future__ import annotations

import functools
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

from strongroom.clock import SYSTEM_CLOCK, Clock
from strongroom.errors import AlreadyExists, Damaged, NotFound, WrongKey, WrongRequest
from strongroom.model import Bytes
from strongroom.repository import config, key_slots, sessions, tombstones
from strongroom.repository.blob_index import BlobIndex, Place
from strongroom.repository.cache import Cache, Record, Remembered
from strongroom.repository.carrying import Carrying
from strongroom.repository.crypto import (
    KEY_BYTES,
    SIGNATURE_BYTES,
    Argon2Cost,
    NotAuthentic,
    Signer,
    random_bytes,
    signed_by,
)
from strongroom.repository.epochs import Session
from strongroom.repository.founding import create_config, require_fitting, require_vacant, two_at_once
from strongroom.repository.framing import Kind, salt_of, seal, unseal
from strongroom.repository.identity import Bearer, Identity
from strongroom.repository.key_slots import KeySlot, Secret
from strongroom.repository.keys import Keys
from strongroom.repository.pack_listing import PackListing
from strongroom.repository.packs import CodedBlob, Pack, PackReader
from strongroom.repository.reading_back import ReadingBack, as_written
from strongroom.repository.removed_hosts import RemovedHosts
from strongroom.repository.slot_making import add_slot
from strongroom.repository.slot_removal import remove_slot, take_away
from strongroom.repository.stand_in import StandIn
from strongroom.repository.store import Store, as_locked, require_conditional_create
from strongroom.repository.tombstones import Tombstone, What
from strongroom.repository.unlocking import PACKS, SNAPSHOTS, Unlocked, read_slots, unlock
from strongroom.repository.writer import BlobWriter, create_once

REPAIRS = "repairs/"
"""Where a repair keeps whole objects while they take the place of damaged ones, under their own names."""


class Repository:
    """An opened repository. Any number of threads and processes may read and write at once."""

    reads = True
    """Can who opened it read what is stored?"""

    def __init__(
        self, store: Store, settings: config.Config, keys: Keys, identity: Identity, clock: Clock, signer: Signer | None = None
    ) -> None:
        self.store = Carrying(as_written(store, settings), keys)
        self.config = settings
        self.keys = keys
        self.identity = identity
        self.signer = signer
        self.clock = clock
        self.stand_in: StandIn | None = None
        """Who is asked for what this store can't give: replicas, if it was opened with some."""
        self._remembered = Remembered(keys)
        self._listing = PackListing(lambda: self.store, keys, self._remembered)
        self._met: tuple[Damaged, ...] = ()
        self.proving: Callable[[Place], None] = lambda _: None
        """Hears of each blob that was read from a pack and found right."""
        self._damaged: set[str] = set()
        self._readers = functools.lru_cache(maxsize=64)(functools.partial(PackReader, keys))
        keys.find_session = keys.find_session or functools.partial(sessions.find, self.store, keys)
        self._removed_hosts = RemovedHosts(self.store, keys)
        self.hosts: dict[str, Session] = {}
        """Of the snapshots that were read and that a host made which can't read: id to the session in which it did."""

    # -- opening ---------------------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        store: Store,
        secret: Secret,
        *,
        label: str = "first",
        clock: Clock = SYSTEM_CLOCK,
        cost: Argon2Cost | None = None,
        overwriting: bool = False,
    ) -> Repository:
        """A new repository. The key slot is written first and `config` last, which makes it one; a loser of two takes its slot
        back, the winner removes those of killed ones. `overwriting`: for a store without conditional creates. Raises AlreadyExists,
        Damaged (objects but no config), or UnsafeStore, before there is a repository or anything of it."""
        require_vacant(store)
        require_fitting(store, overwriting=overwriting)
        inner, store = store, ReadingBack(store) if overwriting else store
        leftovers = [listed.name for listed in store.list(key_slots.FOLDER)]
        if overwriting and leftovers:
            raise two_at_once(store)
        master, repository_id, created = random_bytes(KEY_BYTES), random_bytes(16), clock.now().isoformat()
        slot, content = key_slots.make_slot(repository_id, master, secret, label, created, cost or Argon2Cost())
        create_once(store, slot.name, content)
        settings = config.Config(repository_id, created, overwriting)
        try:
            if overwriting and {listed.name for listed in store.list(key_slots.FOLDER)} != {slot.name}:
                raise two_at_once(store)  # each stores its slot before it looks: of two one sees the other, at least
            create_config(store, settings)
        except AlreadyExists:
            store.delete(slot.name)
            raise
        for leftover in leftovers:
            store.delete(leftover)
        return cls(inner, settings, Keys.of(master, repository_id), slot.identity, clock, (slot.unwrap(secret) or (b"", None))[1])

    @classmethod
    def open(cls, store: Store, secret: Secret, *, clock: Clock = SYSTEM_CLOCK) -> Repository:
        """Raises NoRepository, WrongKey, or Damaged if `config` or every key slot is."""
        return cls.unlocked(store, unlock(store, secret, clock), clock=clock)

    @classmethod
    def unlocked(cls, store: Store, found: Unlocked, *, clock: Clock = SYSTEM_CLOCK) -> Repository:
        """What `unlock` found in the store."""
        from strongroom.repository.host_keys import HostKeys
        from strongroom.repository.host_repository import HostRepository

        if isinstance(found.keys, HostKeys):
            repository: Repository = HostRepository(store, found.settings, found.keys, found.identity, clock)
        else:
            repository = cls(as_locked(store, found.keys), found.settings, found.keys, found.identity, clock, found.signer)
        repository._met = found.problems
        return repository

    def require_safe_store(self) -> None:
        """Before the first write: the store refuses to overwrite, or isn't relied on to. Costs one request that is refused. Raises
        UnsafeStore."""
        if not self.config.overwriting:
            require_conditional_create(self.store, config.NAME, self.config.encode())

    # -- blobs -----------------------------------------------------------------------------------------------------------

    @property
    def index(self) -> BlobIndex:
        """The blob index, read once. Damaged index objects are left out and noted in `problems`."""
        return self._listing.index

    @property
    def unlisted(self) -> BlobIndex:
        """Packs that no index object lists, by their own directories; filled by `read_directories`."""
        return self._listing.unlisted

    @property
    def problems(self) -> list[Damaged]:
        """What was wrong with key slots, and the damaged index objects that were met; what those listed may be unreachable."""
        return [*self._met, *self._listing.problems]

    def look_again(self) -> None:
        """Read the index objects that were added since the blob index was read: other processes back up too."""
        self._listing.look_again()

    def read_index_object(self, name: str) -> list[Pack] | Damaged:
        """The packs that an index object lists, or why they can't be told."""
        return self._listing.read(name)

    def read_directories(self) -> None:
        """Read the directories of the packs that no index object lists into `unlisted`."""
        self._listing.read_directories()

    def places(self, blob_id: bytes) -> Iterator[Place]:
        """Where a blob lies; places that cost requests to find come last, when they are asked for."""
        return self._listing.places(blob_id)

    def read_blob(self, blob_id: bytes) -> Bytes:
        """The plain bytes of a blob, decrypted and checked, from any pack that still has it whole. Raises Damaged."""
        return self._open_anywhere(blob_id)[1]

    def read_coded(self, blob_id: bytes) -> CodedBlob:
        """A blob as it is coded in a pack that has it whole, to be copied into another. Raises Damaged."""
        return self._open_anywhere(blob_id)[0]

    def open_place(self, place: Place) -> tuple[CodedBlob, Bytes]:
        """A blob from one pack: as it is coded, and plain, checked. Raises NotFound or Damaged."""
        sealed = self.store.read(place.pack.name, place.blob.offset, place.blob.stored)
        found = self.reader(place.pack).coded(place.blob, sealed)
        self.proving(place)
        return found

    def _open_anywhere(self, blob_id: bytes) -> tuple[CodedBlob, Bytes]:
        return self.open_blob(blob_id) if self.stand_in is None else self.stand_in.blob(blob_id, self.open_blob)

    def open_blob(self, blob_id: bytes) -> tuple[CodedBlob, Bytes]:
        """As it is coded and plain, from this store alone. Raises Damaged."""
        first: Damaged | None = None
        for place in self.places(blob_id):
            try:
                return self.open_place(place)
            except NotFound:
                first = first or Damaged(place.pack.name, f"missing, and with it blob {blob_id.hex()[:16]}")
            except Damaged as error:
                self._damaged.add(place.pack.id)
                first = first or error
        if first is not None:
            raise first
        lost = f" ({'; '.join(str(problem) for problem in self.problems)})" if self.problems else ""
        raise Damaged(f"blob {blob_id.hex()[:16]}", f"no index object lists it{lost}")

    def take_damaged(self) -> frozenset[str]:
        """The ids of the packs in which `read_blob` met damage since this was last asked."""
        met, self._damaged = frozenset(self._damaged), set()
        return met

    def reader(self, pack: Pack) -> PackReader:
        return self._readers(pack.id, pack.salt)

    def writer(self, damaged: Container[str] = ()) -> BlobWriter:
        """A writing session that skips every blob that is `reliable`, so that all others are stored anew.

        Raises UnsafeStore if the store ignores conditional creates, Damaged if a tombstone can't be read.
        """
        self.require_safe_store()
        self.keys.look_again()
        return BlobWriter(self.store, self.keys, self.reliable(damaged))

    def reliable(self, damaged: Container[str] = ()) -> BlobIndex:
        """The blobs that a new snapshot may rely on, since they are really there: packs that the store has lost don't count, nor do
        those that are condemned or whose ids are known as `damaged`. Nor does what a host says that can't read: it could claim to
        have stored what it hasn't. Raises Damaged if a tombstone can't be read."""
        condemned = tombstones.earliest(self.tombstones(What.CONDEMNED))
        self.look_again()
        there = {listed.name: listed.size for listed in self.store.list(PACKS)}
        return self._listing.sound(there, condemned, damaged)

    def add_index(self, packs: Sequence[Pack]) -> None:
        """List new packs in the blob index, durably. To be called when the packs are, and before any manifest that needs them."""
        if packs:
            self._listing.add(packs)

    # -- what this machine remembers ---------------------------------------------------------------------------------------

    def recall(self, kind: str, listed: Mapping[str, int]) -> Iterator[Record]:
        """What this machine's cache of a kind knows of objects that were just listed: id to length."""
        return self._remembered.read(kind, listed)

    def remember(self, kind: str, records: Sequence[Record]) -> None:
        """Keep what was read in the cache of a kind, if this machine can."""
        self._remembered.add(kind, records)

    def forget_recalled(self, series: str, least: str) -> None:
        """Of the kinds that are called `series` and a suffix, drop from the cache those whose suffix sorts before `least`."""
        Cache.forget(self.keys, series, least)

    def distrust_cache(self) -> None:
        """From here on everything is read from the store itself, the blob index anew: what a verification must look at."""
        self._remembered.distrusted = True
        self._listing.forget()

    # -- manifests -------------------------------------------------------------------------------------------------------

    def add_manifest(self, manifest: bytes, source: str = "") -> str:
        """Sign, seal and store a manifest of `source`: from here on the snapshot exists. Gives its id."""
        snapshot_id, content = seal(self.keys, Kind.SNAPSHOT, self.keys.sign(manifest) + manifest)
        create_once(self.store, SNAPSHOTS + snapshot_id, content)
        return snapshot_id

    def manifests(self) -> dict[str, int]:
        """The ids of all snapshots, in no meaningful order, and the lengths of their objects."""
        return {listed.name.removeprefix(SNAPSHOTS): listed.size for listed in self.store.list(SNAPSHOTS)}

    def manifest_ids(self) -> list[str]:
        return sorted(self.manifests())

    def read_manifest(self, snapshot_id: str) -> bytes:
        """The signed bytes of a manifest. Raises NotFound or Damaged."""
        return (
            self._manifest_here(snapshot_id) if self.stand_in is None else self.stand_in.manifest(snapshot_id, self._manifest_here)
        )

    def _manifest_here(self, snapshot_id: str) -> bytes:
        name = SNAPSHOTS + snapshot_id
        if "/" in snapshot_id:
            raise Damaged(name, "no manifest belongs in a folder")
        content = self.store.read(name)
        plain = unseal(self.keys, Kind.SNAPSHOT, name, content)
        signature, manifest = plain[:SIGNATURE_BYTES], plain[SIGNATURE_BYTES:]
        session = self.keys.session_of(salt_of(content))
        try:
            if session is None:
                self.keys.verify(signature, manifest)
                return manifest
        except NotAuthentic as error:
            raise Damaged(name, "its signature isn't this repository's") from error
        if not signed_by(session.signer, signature, sessions.snapshot_message(session.tag, self.keys.repository_id, manifest)):
            raise Damaged(name, f"its signature isn't that of the host in whose name it is ({session.label})")
        self._removed_hosts.require(session, snapshot_id)
        self.hosts[snapshot_id] = session
        return manifest

    def delete_manifest(self, snapshot_id: str) -> None:
        """Take a snapshot away, for good. It must have been buried before, or its absence will look like theft."""
        self.store.delete(SNAPSHOTS + snapshot_id)

    # -- tombstones ------------------------------------------------------------------------------------------------------

    def tombstones(self, what: What) -> list[Tombstone]:
        """All of one kind. Raises Damaged if one can't be read."""
        return tombstones.read_tombstones(self.store, self.keys, what)

    def bury(self, what: What, ids: Iterable[str], parents: Iterable[str] = ()) -> Tombstone:
        """Say durably, from now on, that snapshots are forgotten or packs unlisted or condemned."""
        since = dict.fromkeys(ids, self.clock.now())
        return tombstones.bury(self.store, self.keys, Tombstone(what, since, tuple(parents)))

    # -- key slots -------------------------------------------------------------------------------------------------------

    def key_slots(self) -> tuple[list[KeySlot], list[Damaged]]:
        """All key slots, oldest first, and those that are damaged or another repository's."""
        return read_slots(self.store, self.config)

    def add_key(
        self,
        secret: Secret,
        label: str,
        *,
        cost: Argon2Cost | None = None,
        bearer: Bearer | None = None,
        public: bool = False,
        write_only: bool = False,
    ) -> KeySlot:
        """One more secret that opens the repository. If it is `public`, later epochs are sealed to its slot; if it is `write_only`,
        it is for a host that can back up and not read."""
        created, cost = self.clock.now().isoformat(), cost or Argon2Cost()
        options: dict[str, Any] = {"public": public, "bearer": bearer, "write_only": write_only}
        return add_slot(self.store, self.keys, secret, label, created, cost, **options)

    def remove_key(self, prefix: str) -> KeySlot:
        """Remove the slot whose id begins so, be it a damaged one. Raises NotFound, or Refused for the last administrator's key."""
        return remove_slot(self, prefix)

    def change_passphrase(self, old: Secret, new: Secret, *, cost: Argon2Cost | None = None) -> KeySlot:
        """Put `new` in the place of `old`: the new slot is durable before the old one goes. Raises WrongKey."""
        slots, _ = self.key_slots()
        replaced = next((slot for slot, *_ in key_slots.opening(slots, old)), None)
        if replaced is None:
            raise WrongKey(f"no key slot opens with {old.called}")
        if replaced.identity.is_token:
            raise WrongRequest("a token has no password", hint="'strongroom token create' makes another one")
        if replaced.write_only:
            raise WrongRequest("a host that only writes can't make a key slot", hint="have an administrator make it a new one")
        fresh = self.add_key(new, replaced.label, cost=cost, bearer=replaced.bearer)
        take_away(self, replaced)
        return fresh
