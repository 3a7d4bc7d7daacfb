"""A store as a dry run sees it: everything can be read, and nothing is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from strongroom.repository import Store
from strongroom.repository.store import Listed


class Unchanged:
    """Over another store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def url(self) -> str:
        return self._store.url

    def create(self, name: str, data: bytes | memoryview) -> None:
        """Forgotten at once."""

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        return self._store.read(name, offset, length)

    def size(self, name: str) -> int:
        return self._store.size(name)

    def list(self, prefix: str, after: str = "") -> Iterator[Listed]:
        return self._store.list(prefix, after)

    def folders(self, prefix: str) -> Sequence[str]:
        return self._store.folders(prefix)

    def delete(self, name: str) -> None:
        """It stays."""
