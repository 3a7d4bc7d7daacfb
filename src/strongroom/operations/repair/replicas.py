"""What another repository can give: a copy of this one its objects and blobs, an independent one the blobs of the same content."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice

from strongroom.errors import Damaged, NotFound, StrongroomError
from strongroom.journal.segments import decode_changes, decode_front, number_in
from strongroom.repository import Repository, Store, read_config
from strongroom.repository.blob_index import Place
from strongroom.repository.framing import require_whole
from strongroom.repository.keys import Keys
from strongroom.repository.packs import CodedBlob

Wanted = Mapping[bytes, int | None]
"""Blob id to plain length, None if that isn't known."""


def copies_of(store: Store, replicas: Iterable[Repository]) -> Iterator[Repository]:
    """Those that are the same repository as the store, whose config must say so."""
    for replica in replicas:
        same = False
        with suppress(StrongroomError):
            same = read_config(store).repository_id == replica.config.repository_id
        if same:
            yield replica


def blobs_at(repository: Repository, places: Iterable[Place]) -> Iterator[CodedBlob]:
    """The blobs that are whole at these places."""
    for place in places:
        with suppress(Damaged, NotFound):
            sealed = repository.store.read(place.pack.name, place.blob.offset, place.blob.stored)
            yield repository.reader(place.pack).coded(place.blob, sealed)[0]


class Replica:
    """Another repository, opened; `ours` are the keys of the one to be repaired."""

    def __init__(self, repository: Repository, ours: Keys) -> None:
        self._repository = repository
        self._ours = ours
        theirs = repository.keys
        self.is_copy = (theirs.repository_id, theirs.blob_id) == (ours.repository_id, ours.blob_id)

    @property
    def name(self) -> str:
        return self._repository.store.url

    def object(self, name: str) -> bytes:
        """An object that a copy has under the same name, checked by its name. Raises NotFound or Damaged."""
        if not self.is_copy:
            raise NotFound(f"{self.name} is another repository: it has no {name}")
        content = self._repository.store.read(name)
        if number_in(name) is None:
            require_whole(name, content)
        else:  # its name doesn't say what its bytes are: the keys do
            deque(decode_changes(self._ours, decode_front(self._ours, name, content), content), maxlen=0)
        return content

    def find(self, wanted: Wanted) -> Iterator[CodedBlob]:
        """Those that it has whole, each once."""
        if self.is_copy:
            for blob_id in wanted:
                yield from islice(blobs_at(self._repository, self._repository.places(blob_id)), 1)
        else:
            yield from self._by_content(wanted)

    def _by_content(self, wanted: Wanted) -> Iterator[CodedBlob]:
        """Ids are keyed: only the plain bytes tell whether a blob is ours. So every blob of a length in question is read."""
        left, seen = dict(wanted), set[bytes]()
        for pack in self._repository.index.packs.values():
            lengths = None if None in left.values() else set(left.values())
            for blob in pack.blobs:
                if not left:
                    return
                if blob.id in seen or (lengths is not None and blob.plain not in lengths):
                    continue
                with suppress(Damaged, NotFound):
                    sealed = self._repository.store.read(pack.name, blob.offset, blob.stored)
                    coded, plain = self._repository.reader(pack).coded(blob, sealed)
                    seen.add(blob.id)
                    our_id = self._ours.identify(plain)
                    if our_id in left:
                        del left[our_id]
                        yield CodedBlob(our_id, coded.codec, coded.plain, coded.payload)
