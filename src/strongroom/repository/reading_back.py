"""How is a store written that can't refuse to overwrite? Each object is looked for before, and read back after.

That is enough for what is named by its own bytes: whoever writes the same name writes the same bytes. It isn't for a journal, whose
segments are numbered and of whose writers only one may go on: nothing is written there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from strongroom.errors import AlreadyExists, Damaged, NotFound, Unreachable, UnsafeStore
from strongroom.repository.config import Config
from strongroom.repository.store import Listed, Overwrites, Store

_NUMBERED = "journal/"
_LOOK = "look at the store, then run the same command again"


def as_written(store: Store, settings: Config) -> Store:
    """The store, as a repository of these settings writes it."""
    return ReadingBack(store) if settings.overwriting and not isinstance(store, ReadingBack) else store


class ReadingBack:
    """A store whose `create` never overwrites what was there when it began, and ends when what it stored reads back."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self._write = inner.overwrite if isinstance(inner, Overwrites) else inner.create

    @property
    def url(self) -> str:
        return self.inner.url

    def create(self, name: str, data: bytes | memoryview) -> None:
        if name.startswith(_NUMBERED):
            hint = "make snapshots more often, or a repository in a store that honours conditional creates"
            raise UnsafeStore(f"{self.url} can't keep a journal: it has no conditional creates (config says so)", hint=hint)
        if self._is_there(name):
            raise AlreadyExists(f"{self.url}/{name} is already there")
        lost: Unreachable | None = None
        try:
            self._write(name, data)
        except Unreachable as error:  # it may have landed
            lost = error
        try:
            whole = self.inner.read(name) == data
        except NotFound:
            raise lost or Damaged(name, "it was stored and isn't there", hint=_LOOK) from None
        if not whole:
            raise Damaged(name, "what was stored doesn't read back", hint=_LOOK)

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        return self.inner.read(name, offset, length)

    def size(self, name: str) -> int:
        return self.inner.size(name)

    def list(self, prefix: str, after: str = "") -> Iterator[Listed]:
        return self.inner.list(prefix, after)

    def folders(self, prefix: str) -> Sequence[str]:
        return self.inner.folders(prefix)

    def delete(self, name: str) -> None:
        self.inner.delete(name)

    def _is_there(self, name: str) -> bool:
        try:
            self.inner.size(name)
        except NotFound:
            return False
        return True
