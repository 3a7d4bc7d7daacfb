"""A repository as a host sees it that can back up and not read: what it knows is what it noted itself, and what names tell."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

from strongroom.clock import Clock
from strongroom.errors import Damaged, NotFound, Refused
from strongroom.model import Bytes
from strongroom.repository import blob_index, config, leaving
from strongroom.repository.blob_index import BlobIndex, Place
from strongroom.repository.cache import Record
from strongroom.repository.framing import Kind, seal
from strongroom.repository.host_keys import HINT, REASON, HostKeys
from strongroom.repository.host_notes import HostNotes, Made
from strongroom.repository.identity import Identity
from strongroom.repository.pack_listing import INDEX
from strongroom.repository.packs import CodedBlob, Pack
from strongroom.repository.repository import Repository
from strongroom.repository.sessions import snapshot_message
from strongroom.repository.store import Store
from strongroom.repository.tombstones import Tombstone, What
from strongroom.repository.unlocking import PACKS, SNAPSHOTS
from strongroom.repository.writer import BlobWriter, create_once


class HostRepository(Repository):
    """Takes new snapshots, which may rely on what this host stored before. Nothing is read but its notes: blobs raise Damaged, all
    else that needs a key of the repository Refused."""

    reads = False

    def __init__(self, store: Store, settings: config.Config, keys: HostKeys, identity: Identity, clock: Clock) -> None:
        super().__init__(store, settings, keys, identity, clock, keys.signer)
        self._host = keys
        keys.store = self.store
        self._notes = HostNotes(keys.repository_id, keys.notes)
        self._own: BlobIndex | None = None

    # -- what it may rely on -----------------------------------------------------------------------------------------------

    @property
    def index(self) -> BlobIndex:
        """The host's own packs."""
        if self._own is None:
            self._own = BlobIndex()
            for pack in self._notes.read().packs.values():
                self._own.add(pack)
        return self._own

    def look_again(self) -> None:
        """Nobody else's packs count."""

    def read_directories(self) -> None:
        """They are encrypted."""

    def writer(self, damaged: Container[str] = ()) -> BlobWriter:
        """As `Repository.writer`. The marks are read before the packs are listed: a pack that is there then was not condemned."""
        self.require_safe_store()
        self._host.begin_backup()
        going = leaving.said(self.store)
        there = {listed.name: listed.size for listed in self.store.list(PACKS)}
        packs = self.index.packs.values()
        sound = {pack.id for pack in packs if pack.id not in damaged and there.get(pack.name) == pack.size}
        self._notes.keep(sound - going)
        return BlobWriter(self.store, self.keys, self.index.only(sound - going))

    def add_index(self, packs: Sequence[Pack]) -> None:
        if not packs:
            return
        object_id, content = seal(self.keys, Kind.INDEX, blob_index.encode(packs))
        create_once(self.store, INDEX + object_id, content)
        for pack in packs:
            self.index.add(pack)
        self._notes.add_packs(packs)

    def tombstones(self, what: What) -> list[Tombstone]:
        """Of the condemned packs what their marks tell; of others nothing can be told."""
        if what is not What.CONDEMNED:
            raise Refused(REASON, hint=HINT)
        return [Tombstone(what, dict.fromkeys(leaving.said(self.store), self.clock.now()))]

    # -- its snapshots -----------------------------------------------------------------------------------------------------

    def add_manifest(self, manifest: bytes, source: str = "") -> str:
        session = self._host.session
        signature = self._host.signer.sign(snapshot_message(session.tag, self.keys.repository_id, manifest))
        snapshot_id, content = seal(self.keys, Kind.SNAPSHOT, signature + manifest)
        create_once(self.store, SNAPSHOTS + snapshot_id, content)
        self._notes.add_snapshot(source, Made(snapshot_id, len(content), manifest))
        return snapshot_id

    def manifests(self) -> dict[str, int]:
        """Of the snapshots that are there those that this host noted."""
        noted = {one.id: one.size for one in self._notes.read().snapshots.values()}
        return {one: size for one, size in super().manifests().items() if noted.get(one) == size} if noted else {}

    def read_manifest(self, snapshot_id: str) -> bytes:
        """As it was noted."""
        found = next((one for one in self._notes.read().snapshots.values() if one.id == snapshot_id), None)
        if found is None:
            raise NotFound(f"this host has no note of snapshot {snapshot_id[:12]}", hint=HINT)
        return found.manifest

    # -- what it can't do --------------------------------------------------------------------------------------------------

    def open_blob(self, blob_id: bytes) -> tuple[CodedBlob, Bytes]:
        raise Damaged(f"blob {blob_id.hex()[:16]}", REASON)

    def places(self, blob_id: bytes) -> Iterator[Place]:
        return iter(self.index.places(blob_id))

    def bury(self, what: What, ids: Iterable[str], parents: Iterable[str] = ()) -> Tombstone:
        raise Refused(REASON, hint=HINT)

    def recall(self, kind: str, listed: Mapping[str, int]) -> Iterator[Record]:
        return iter(())

    def remember(self, kind: str, records: Sequence[Record]) -> None:
        """Its notes are all that it keeps."""

    def forget_recalled(self, series: str, least: str) -> None:
        """There is none."""
