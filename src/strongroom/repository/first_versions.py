"""What was stored under each name, whatever was done to the name since? The oldest version that is what its name says.

Objects are written once. So whoever hides one behind a delete marker, or writes over it, comes after the version that counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from strongroom.errors import Damaged, NotFound, StoreDenied
from strongroom.repository.framing import require_whole
from strongroom.repository.object_lock import Version
from strongroom.repository.store import Listed

_ID_DIGITS = 64


class Versions(Protocol):
    """Where the versions of objects are had."""

    @property
    def url(self) -> str: ...

    def versions(self, prefix: str) -> Iterator[Version]: ...

    def read(self, version: Version, offset: int = 0, length: int | None = None) -> bytes: ...


@dataclass
class FirstVersions:
    """A store to read from: the objects below a prefix as they were first stored, at one look. `strange` are names that were taken
    out of it since they are nobody's."""

    inner: Versions
    prefix: str = ""
    history: dict[str, tuple[Version, ...]] = field(default_factory=dict)
    strange: dict[str, str] = field(default_factory=dict)
    _first: dict[str, Version] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises StoreDenied or UnsafeStore where versions can't be asked for."""
        found: dict[str, list[Version]] = {}
        for version in self.inner.versions(self.prefix):
            found.setdefault(version.name, []).append(version)
        self.history = {
            name: tuple(versions) for name, versions in found.items() if not all(version.is_marker for version in versions)
        }

    @property
    def url(self) -> str:
        return self.inner.url

    def first(self, name: str) -> Version:
        """The version of a name that counts. Raises NotFound."""
        if name not in self.history or name in self.strange:
            raise NotFound(f"{self.url}/{name} is not there")
        if name not in self._first:
            versions = [one for one in reversed(self.history[name]) if not one.is_marker]
            known = len(versions) == 1 or not _says_its_hash(name)
            self._first[name] = versions[0] if known else next(filter(self._is_whole, versions), versions[0])
        return self._first[name]

    def _is_whole(self, version: Version) -> bool:
        try:
            require_whole(version.name, self.inner.read(version))
        except (Damaged, NotFound):
            return False
        return True

    def shows(self, name: str) -> Version:
        """What is there now under a name: a version or a marker."""
        return self.history[name][0]

    def is_current(self, name: str) -> bool:
        """Is what counts also what is there, be it as a copy?"""
        shown, first = self.shows(name), self.first(name)
        return shown == first or (not shown.is_marker and shown.etag != "" and (shown.etag, shown.size) == (first.etag, first.size))

    def names(self, prefix: str = "") -> list[str]:
        return sorted(name for name in self.history if name.startswith(prefix) and name not in self.strange)

    def leave_out(self, name: str, why: str) -> None:
        """From here on it isn't there."""
        self.strange[name] = why

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        return self.inner.read(self.first(name), offset, length)

    def size(self, name: str) -> int:
        return self.first(name).size

    def list(self, prefix: str, after: str = "") -> Iterator[Listed]:
        for name in self.names(prefix):
            if name > after:
                version = self.first(name)
                yield Listed(name, version.size, version.stored.timestamp())

    def folders(self, prefix: str) -> Sequence[str]:
        below = (name.removeprefix(prefix).partition("/") for name in self.names(prefix))
        return sorted({folder for folder, slash, _ in below if slash})

    def create(self, name: str, data: bytes | memoryview) -> None:
        raise StoreDenied(f"{self.url}/{name}: old versions are only read", hint="'strongroom lock recover' brings them back")

    def delete(self, name: str) -> None:
        self.create(name, b"")


def _says_its_hash(name: str) -> bool:
    return len(name.rpartition("/")[2]) == _ID_DIGITS
