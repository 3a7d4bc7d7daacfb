"""A repository as a whole: opened with a secret, it gives blobs and manifests and takes new ones."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from strongroom.clock import SYSTEM_CLOCK, Clock
from strongroom.errors import AlreadyExists, Damaged, NotFound, WrongKey, WrongRequest
from strongroom.model import Bytes
from strongroom.repository import blob_index, config, key_slots, sessions, tombstones
from strongroom.repository.blob_index import BlobIndex, Place
from strongroom.repository.cache import Cache, Record
from strongroom.repository.carrying import Carrying
from strongroom.repository.crypto import (
    KEY_BYTES,
    SALT_BYTES,
    SIGNATURE_BYTES,
    Argon2Cost,
    NotAuthentic,
    Signer,
    random_bytes,
    signed_by,
)
from strongroom.repository.epochs import Session
from strongroom.repository.founding import create_config, require_fitting, require_vacant, two_at_once
from strongroom.repository.framing import HEADER_BYTES, Kind, seal, unseal
from strongroom.repository.identity import Bearer, Identity
from strongroom.repository.key_slots import KeySlot, Secret
from strongroom.repository.keys import Keys
from strongroom.repository.packs import CodedBlob, Pack, PackReader, read_directory
from strongroom.repository.reading_back import ReadingBack, as_written
from strongroom.repository.removed_hosts import RemovedHosts
from strongroom.repository.slot_making import add_slot
from strongroom.repository.slot_removal import remove_slot, take_away
from strongroom.repository.stand_in import StandIn
from strongroom.repository.store import Store, as_locked, require_conditional_create
from strongroom.repository.tombstones import Tombstone, What
from strongroom.repository.unlocking import PACKS, SNAPSHOTS, Unlocked, read_slots, unlock
from strongroom.repository.writer import BlobWriter, create_once

INDEX = "index/"
_GONE, _LOOKS = "it was listed and is not there", 5
REPAIRS = "repairs/"
"""Where a repair keeps whole objects while they take the place of damaged ones, under their own names."""
_INDEX_CACHE = "index"
_BATCH = 1_000  # a machine that is stopped has kept most of what it read


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
        self.problems: list[Damaged] = []
        """Damaged index objects found while loading; what they listed may be unreachable."""
        self.unlisted = BlobIndex()
        """Packs that no index object lists, by their own directories; filled by `read_directories`."""
        self.stand_in: StandIn | None = None
        """Who is asked for what this store can't give: replicas, if it was opened with some."""
        self._index = BlobIndex()
        self.proving: Callable[[Place], None] = lambda _: None
        """Hears of each blob that was read from a pack and found right."""
        self._damaged: set[str] = set()
        self._seen: set[str] | None = None
        self._distrusting = False
        self._loading = threading.Lock()
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
        repository.problems.extend(found.problems)
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
        if self._seen is None:
            self.look_again()
        return self._index

    def look_again(self) -> None:
        """Read the index objects that were added since the blob index was read: other processes back up too. Those that couldn't
        be read are tried again, and `problems` tells how it is now."""
        with self._loading:
            seen = self._seen
            for _ in range(_LOOKS):
                listed = {one.name.removeprefix(INDEX): one.size for one in self.store.list(INDEX)}
                seen = self._recall_index(listed) if seen is None else seen
                missed: list[Damaged] = []
                for some in _batches(sorted(listed.keys() - seen)):
                    missed += self._read_index_objects(some, listed, seen)
                if not any(problem.problem == _GONE for problem in missed):
                    break  # else a prune merged what was listed into another object: look again
            problems = [problem for problem in self.problems if not problem.subject.startswith(INDEX)] + missed
            if self._distrusting and any(problem.subject.startswith(INDEX) for problem in problems):
                Cache(self.keys, _INDEX_CACHE).clear()  # so that the next backup finds the damage too, and stores anew
            self.problems, self._seen = problems, seen

    def _recall_index(self, listed: Mapping[str, int]) -> set[str]:
        """Add what the cache knows of listed index objects; gives their ids."""
        seen: set[str] = set()
        for record in self.recall(_INDEX_CACHE, listed):
            with contextlib.suppress(Damaged):
                for pack in list(blob_index.decode(INDEX + record.id, record.content)):
                    self._list(pack)
                seen.add(record.id)
        return seen

    def _read_index_objects(self, ids: Sequence[str], listed: Mapping[str, int], seen: set[str]) -> list[Damaged]:
        """Add these index objects from the store; gives those that can't be read, and adds the others to `seen`."""
        problems: list[Damaged] = []
        records: list[Record] = []
        with ThreadPoolExecutor(8) as pool:
            for object_id, read in zip(ids, pool.map(self.read_index_object, [INDEX + one for one in ids]), strict=True):
                if isinstance(read, Damaged):
                    problems.append(read)
                    continue
                for pack in read:
                    self._list(pack)
                seen.add(object_id)
                records.append(Record(object_id, listed[object_id], blob_index.encode(read)))
        self.remember(_INDEX_CACHE, records)
        return problems

    def _list(self, pack: Pack) -> None:
        """Take in what an index object says of a pack. Where two disagree, the pack itself says whose it is: a host may list packs
        that aren't its own."""
        known = self._index.packs.get(pack.id)
        if known is not None and known.salt != pack.salt:
            with contextlib.suppress(NotFound):
                if self.store.read(pack.name, HEADER_BYTES, SALT_BYTES) == pack.salt:
                    self._index.replace(pack)
            return
        self._index.add(pack)

    def read_index_object(self, name: str) -> list[Pack] | Damaged:
        """The packs that an index object lists, or why they can't be told."""
        try:
            content = self.store.read(name)
            packs = list(blob_index.decode(name, unseal(self.keys, Kind.INDEX, name, content)))
            session = self._session_of(content)
            if session is not None and not all(pack.salt.startswith(self.keys.marked(session.tag)) for pack in packs):
                raise Damaged(name, f"the host that wrote it ({session.label}) lists packs that aren't its own")
            return packs
        except NotFound:
            return Damaged(name, _GONE)
        except Damaged as error:
            return error

    def _session_of(self, content: bytes) -> Session | None:
        """In which session of a host an object was written that was opened."""
        return self.keys.session_of(content[HEADER_BYTES : HEADER_BYTES + SALT_BYTES])

    def read_directories(self) -> None:
        """Read the directories of the packs that no index object lists: an index object may have been lost, or its backup was
        killed. Packs that can't be read are left out."""
        indexed = self.index.packs
        with self._loading:
            for listed in self.store.list(PACKS):
                pack_id = listed.name.rpartition("/")[2]
                if pack_id in indexed or pack_id in self.unlisted.packs:
                    continue
                with contextlib.suppress(Damaged, NotFound):
                    read = functools.partial(self.store.read, listed.name)
                    self.unlisted.add(read_directory(self.keys, listed.name, listed.size, read))

    def places(self, blob_id: bytes) -> Iterator[Place]:
        """Where a blob lies: by the blob index as it was read, then as it is now, then by the packs' own directories. The later
        ones cost requests, which are made when they are asked for."""
        given: set[str] = set()
        for look in (None, self.look_again, self.read_directories):
            if look is not None:
                look()
            for place in (*self.index.places(blob_id), *self.unlisted.places(blob_id)):
                if place.pack.id not in given:
                    given.add(place.pack.id)
                    yield place

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
        """A writing session that skips every blob that is really there: packs that the store has lost don't count, nor do those
        that are condemned or whose ids are known as `damaged`, so that what they held is stored anew. Nor does what a host
        says that can't read: it could claim to have stored what it hasn't.

        Raises UnsafeStore if the store ignores conditional creates, Damaged if a tombstone can't be read.
        """
        self.require_safe_store()
        self.keys.look_again()
        condemned = tombstones.earliest(self.tombstones(What.CONDEMNED))
        self.look_again()
        there = {listed.name: listed.size for listed in self.store.list(PACKS)}
        with self._loading:
            indexed = [pack for pack in self._index.packs.values() if not self.keys.is_outdated(pack.salt)]
        sound = {pack.id for pack in indexed if pack.id not in damaged and there.get(pack.name) == pack.size}
        sound -= {pack.id for pack in indexed if self.keys.by_host(pack.salt)}
        return BlobWriter(self.store, self.keys, self._index.only(sound - condemned.keys()))

    def add_index(self, packs: Sequence[Pack]) -> None:
        """List new packs in the blob index, durably. To be called when the packs are, and before any manifest that needs them."""
        if not packs:
            return
        plain = blob_index.encode(packs)
        object_id, content = seal(self.keys, Kind.INDEX, plain)
        create_once(self.store, INDEX + object_id, content)
        with self._loading:
            for pack in packs:
                self._index.add(pack)
            if self._seen is not None:
                self._seen.add(object_id)
        self.remember(_INDEX_CACHE, [Record(object_id, len(content), plain)])

    # -- what this machine remembers ---------------------------------------------------------------------------------------

    def recall(self, kind: str, listed: Mapping[str, int]) -> Iterator[Record]:
        """What this machine's cache of a kind knows of objects that were just listed: id to length."""
        return iter(()) if self._distrusting else Cache(self.keys, kind).read(listed)

    def remember(self, kind: str, records: Sequence[Record]) -> None:
        """Keep what was read in the cache of a kind, if this machine can."""
        if records and not self._distrusting:
            Cache(self.keys, kind).add(records)

    def forget_recalled(self, series: str, least: str) -> None:
        """Of the kinds that are called `series` and a suffix, drop from the cache those whose suffix sorts before `least`."""
        Cache.forget(self.keys, series, least)

    def distrust_cache(self) -> None:
        """From here on everything is read from the store itself, the blob index anew: what a verification must look at."""
        with self._loading:
            self._distrusting = True
            self._index, self._seen = BlobIndex(), None

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
        session = self._session_of(content)
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


def _batches(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[at : at + _BATCH] for at in range(0, len(ids), _BATCH))
