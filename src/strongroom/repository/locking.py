"""How does a store keep what it is given from being taken away? Each object is locked from its first moment (S3 object lock)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime

from strongroom.errors import NotFound, StoreDenied, UnsafeStore
from strongroom.repository.carrying import Carrying
from strongroom.repository.first_versions import FirstVersions
from strongroom.repository.keys import Keys
from strongroom.repository.lock_rules import FOLDER, Rule, rules
from strongroom.repository.object_lock import ObjectLock, object_lock_of
from strongroom.repository.object_store import Objects
from strongroom.repository.reading_back import ReadingBack
from strongroom.repository.store import Listed, Store

_AT_ONCE = 8


class Locking:
    """A store in a bucket with object lock, of a repository that has a rule for it.

    `delete` removes all versions of an object; where one is locked, or may not be removed, the object is only hidden.
    """

    def __init__(self, inner: Objects, lock: ObjectLock, rule: Rule) -> None:
        self.inner, self.lock, self.rule = inner, lock, rule

    @property
    def url(self) -> str:
        return self.inner.url

    def create(self, name: str, data: bytes | memoryview) -> None:
        if self.rule.covers(name):
            self.lock.put(name, data, self.rule.at(self.lock.now()))
        else:
            self.inner.create(name, data)

    def overwrite(self, name: str, data: bytes | memoryview) -> None:
        """As `create`, whatever is there: for stores that can't refuse."""
        if self.rule.covers(name):
            self.lock.put(name, data, self.rule.at(self.lock.now()), anew=False)
        else:
            self.inner.overwrite(name, data)

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        return self.inner.read(name, offset, length)

    def size(self, name: str) -> int:
        return self.inner.size(name)

    def list(self, prefix: str, after: str = "") -> Iterator[Listed]:
        return self.inner.list(prefix, after)

    def folders(self, prefix: str) -> Sequence[str]:
        return self.inner.folders(prefix)

    def delete(self, name: str) -> None:
        """Hidden first: else an older version would show while newer ones go."""
        self.lock.hide(name)
        versions = [one for one in self.lock.versions(name) if one.name == name]
        if all(self.lock.remove(one) for one in versions if not one.is_marker):
            for marker in versions:
                if marker.is_marker:
                    self.lock.remove(marker)

    def locked(self, names: Iterable[str]) -> dict[str, datetime]:
        """Which of these objects are locked as they are now, and until when."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            listed = list(names)
            found = dict(zip(listed, pool.map(self._until, listed), strict=True))
        return {name: until for name, until in found.items() if until is not None}

    def _until(self, name: str) -> datetime | None:
        ends = []
        for version in self.lock.versions(name):
            if version.name == name and not version.is_marker:
                with suppress(NotFound):
                    found = self.lock.retention(version)
                    ends += [found.until] if found else []
        return max(ends, default=None)


def locked(store: Store, keys: Keys) -> Store:
    """A store of S3 with the newest rule for locks that was declared there, or as it is without any."""
    if not isinstance(store, Objects):
        return store
    lock = object_lock_of(store.url)
    found = rules(_first(lock, store), keys) if lock else []
    return Locking(store, lock, found[-1]) if lock and found else store


def _first(lock: ObjectLock, store: Store) -> Store:
    try:
        return FirstVersions(lock, FOLDER)
    except (StoreDenied, UnsafeStore):  # then the rules that are shown are all that can be had
        return store


def locking_of(store: Store) -> Locking | None:
    """The locks of a repository's store, None if no rule for them was declared."""
    within = store.inner if isinstance(store, Carrying) else store
    inner = within.inner if isinstance(within, ReadingBack) else within
    return inner if isinstance(inner, Locking) else None
