"""Which packs hold which blobs? The index objects, read once and looked at again, and the directories of packs that none lists."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from strongroom.errors import Damaged, NotFound
from strongroom.repository import blob_index
from strongroom.repository.blob_index import BlobIndex, Place
from strongroom.repository.cache import Record, Remembered
from strongroom.repository.crypto import SALT_BYTES
from strongroom.repository.framing import HEADER_BYTES, Kind, salt_of, seal, unseal
from strongroom.repository.keys import Keys
from strongroom.repository.packs import Pack, read_directory
from strongroom.repository.store import Store
from strongroom.repository.unlocking import PACKS
from strongroom.repository.writer import create_once

INDEX = "index/"
_GONE, _LOOKS = "it was listed and is not there", 5
_KIND = "index"
_BATCH = 1_000  # a machine that is stopped has kept most of what it read


class PackListing:
    """Any number of threads may ask and add at once."""

    def __init__(self, store: Callable[[], Store], keys: Keys, remembered: Remembered) -> None:
        self._store, self._keys, self._remembered = store, keys, remembered
        self.problems: list[Damaged] = []
        """Index objects that can't be read; what they listed may be unreachable."""
        self.unlisted = BlobIndex()
        """Packs that no index object lists, by their own directories; filled by `read_directories`."""
        self._index = BlobIndex()
        self._seen: set[str] | None = None
        self._loading = threading.Lock()

    @property
    def index(self) -> BlobIndex:
        """What the index objects say, read when it is first asked for."""
        if self._seen is None:
            self.look_again()
        return self._index

    def look_again(self) -> None:
        """Read the index objects that were added since: other processes back up too. Those that couldn't be read are tried again,
        and `problems` tells how it is now."""
        with self._loading:
            seen = self._seen
            for _ in range(_LOOKS):
                listed = {one.name.removeprefix(INDEX): one.size for one in self._store().list(INDEX)}
                seen = self._recall(listed) if seen is None else seen
                missed: list[Damaged] = []
                for some in _batches(sorted(listed.keys() - seen)):
                    missed += self._read_all(some, listed, seen)
                if not any(problem.problem == _GONE for problem in missed):
                    break  # else a prune merged what was listed into another object: look again
            if missed and self._remembered.distrusted:
                self._remembered.clear(_KIND)  # so that the next backup finds the damage too, and stores anew
            self.problems, self._seen = missed, seen

    def forget(self) -> None:
        """What was read is read anew when it is next asked for."""
        with self._loading:
            self._index, self._seen = BlobIndex(), None

    def sound(self, there: Mapping[str, int], *without: Container[str]) -> BlobIndex:
        """The blobs of packs that are whole where they are said to be (`there`: name to length), without those whose ids are in
        `without`, those of closed epochs, and those of hosts that can't read: they could claim to have stored what they haven't."""
        with self._loading:
            packs = [pack for pack in self._index.packs.values() if there.get(pack.name) == pack.size]
            own = {pack.id for pack in packs if not self._keys.is_outdated(pack.salt) and not self._keys.by_host(pack.salt)}
            kept = {one for one in own if not any(one in ids for ids in without)}
            return self._index.only(kept)

    def _recall(self, listed: Mapping[str, int]) -> set[str]:
        """Take in what this machine remembers of listed index objects; gives their ids."""
        seen: set[str] = set()
        for record in self._remembered.read(_KIND, listed):
            with contextlib.suppress(Damaged):
                for pack in list(blob_index.decode(INDEX + record.id, record.content)):
                    self._take_in(pack)
                seen.add(record.id)
        return seen

    def _read_all(self, ids: Sequence[str], listed: Mapping[str, int], seen: set[str]) -> list[Damaged]:
        """Take in these index objects from the store; gives those that can't be read, and adds the others to `seen`."""
        problems: list[Damaged] = []
        records: list[Record] = []
        with ThreadPoolExecutor(8) as pool:
            for object_id, read in zip(ids, pool.map(self.read, [INDEX + one for one in ids]), strict=True):
                if isinstance(read, Damaged):
                    problems.append(read)
                    continue
                for pack in read:
                    self._take_in(pack)
                seen.add(object_id)
                records.append(Record(object_id, listed[object_id], blob_index.encode(read)))
        self._remembered.add(_KIND, records)
        return problems

    def _take_in(self, pack: Pack) -> None:
        """Where two index objects disagree about a pack, it says itself whose it is: a host may list packs that aren't its own."""
        known = self._index.packs.get(pack.id)
        if known is not None and known.salt != pack.salt:
            with contextlib.suppress(NotFound):
                if self._store().read(pack.name, HEADER_BYTES, SALT_BYTES) == pack.salt:
                    self._index.replace(pack)
            return
        self._index.add(pack)

    def read(self, name: str) -> list[Pack] | Damaged:
        """The packs that an index object lists, or why they can't be told."""
        try:
            content = self._store().read(name)
            packs = list(blob_index.decode(name, unseal(self._keys, Kind.INDEX, name, content)))
            session = self._keys.session_of(salt_of(content))
            if session is not None and not all(pack.salt.startswith(self._keys.marked(session.tag)) for pack in packs):
                raise Damaged(name, f"the host that wrote it ({session.label}) lists packs that aren't its own")
            return packs
        except NotFound:
            return Damaged(name, _GONE)
        except Damaged as error:
            return error

    def read_directories(self) -> None:
        """Read the directories of the packs that no index object lists: an index object may have been lost, or its backup was
        killed. Packs that can't be read are left out."""
        indexed = self.index.packs
        with self._loading:
            for listed in self._store().list(PACKS):
                pack_id = listed.name.rpartition("/")[2]
                if pack_id in indexed or pack_id in self.unlisted.packs:
                    continue
                with contextlib.suppress(Damaged, NotFound):
                    read = functools.partial(self._store().read, listed.name)
                    self.unlisted.add(read_directory(self._keys, listed.name, listed.size, read))

    def places(self, blob_id: bytes) -> Iterator[Place]:
        """Where a blob lies: by the index as it was read, then as it is now, then by the packs' own directories. The later ones
        cost requests, which are made when they are asked for."""
        given: set[str] = set()
        for look in (None, self.look_again, self.read_directories):
            if look is not None:
                look()
            for place in (*self.index.places(blob_id), *self.unlisted.places(blob_id)):
                if place.pack.id not in given:
                    given.add(place.pack.id)
                    yield place

    def add(self, packs: Sequence[Pack]) -> None:
        """List new packs, durably."""
        plain = blob_index.encode(packs)
        object_id, content = seal(self._keys, Kind.INDEX, plain)
        create_once(self._store(), INDEX + object_id, content)
        with self._loading:
            for pack in packs:
                self._index.add(pack)
            if self._seen is not None:
                self._seen.add(object_id)
        self._remembered.add(_KIND, [Record(object_id, len(content), plain)])


def _batches(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[at : at + _BATCH] for at in range(0, len(ids), _BATCH))
