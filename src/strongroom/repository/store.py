"""Where objects are kept: a small promise over a directory or, through obstore, over any object store.

create   durable, all or nothing, never overwrites          read   exactly these bytes
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable
from urllib.parse import unquote, urlsplit

from strongroom.errors import AlreadyExists, StoreDenied, UnsafeStore, WrongRequest

if TYPE_CHECKING:
    from strongroom.repository.keys import Keys


@dataclass(frozen=True, slots=True)
class Listed:
    """One object of a listing; `modified` is when it was stored by the store's own clock (seconds since 1970), if it says so."""

    name: str
    size: int
    modified: float | None = field(default=None, compare=False)


class Store(Protocol):
    """What the repository asks of a store. Names are relative, with forward slashes."""

    @property
    def url(self) -> str:
        """Where it is, without any secret."""

    def create(self, name: str, data: bytes | memoryview) -> None:
        """Store bytes durably, all or nothing. Raises AlreadyExists if the name is taken; never overwrites."""

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """`length` bytes from `offset`, or all of the object. May return fewer if the object is shorter. Raises NotFound."""

    def size(self, name: str) -> int:
        """Bytes of an object. Raises NotFound."""

    def list(self, prefix: str, after: str = "") -> Iterator[Listed]:
        """All objects below `prefix` (a folder, ending in '/'), in any order; after a name in that very folder, be it taken or not,
        only those whose names sort after it."""

    def folders(self, prefix: str) -> Sequence[str]:
        """The names, without `prefix`, of the folders directly below it. Costs one request for a thousand of them."""

    def delete(self, name: str) -> None:
        """Remove an object; it is no error if it is gone already."""


@runtime_checkable
class Overwrites(Protocol):
    """A store that can be asked to create an object without a condition."""

    def overwrite(self, name: str, data: bytes | memoryview) -> None:
        """Store bytes durably, in the place of any that are there."""


@runtime_checkable
class SendsParts(Protocol):
    """A store that takes an object in parts, too."""

    def send_parts(self, name: str, data: bytes) -> None:
        """Store bytes in parts of 5 MiB, in the place of any that are there."""


@runtime_checkable
class KeepsLeftovers(Protocol):
    """A store in which killed writers may leave something unfinished."""

    def remove_leftovers(self, before: float) -> int:
        """Remove what was left unfinished before a time (seconds since 1970, by the store's clock). Gives the number."""


PROBES = "probe/"
"""Where objects lie for a moment that are written only to see what a store does."""
USE_ANOTHER = (
    "use a store that honours them (a local directory, AWS S3, Azure, a recent SeaweedFS or Ceph), or make a repository "
    "that keeps no journals: 'strongroom init --without-conditional-creates'"
)
_FORMS = "give a directory, or a URL of file, memory, s3, gs or az"


def open_store(location: str) -> Store:
    """The store at a path or URL: a directory, file://, memory://NAME (lives as long as the process), s3://BUCKET/PREFIX, gs://,
    az://. Cloud credentials come from their standard environment variables. Raises WrongRequest."""
    try:
        parts = urlsplit(location)
    except ValueError as error:
        raise WrongRequest(f"{location!r} is not a URL ({error})", hint=_FORMS) from error
    if not location.strip() or "\0" in location:
        raise WrongRequest(f"{location!r} names no store", hint=_FORMS)
    if parts.username or parts.password:
        raise WrongRequest(
            "a repository URL must not hold credentials", hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead"
        )
    if parts.scheme in ("", "file"):
        from strongroom.repository.local_store import LocalStore

        if parts.netloc not in ("", "localhost"):
            raise WrongRequest(f"{location!r} names a host", hint="write a file URL as file:///absolute/path")
        return LocalStore(Path(unquote(parts.path) if parts.scheme else location).expanduser().absolute())
    from strongroom.repository.object_store import SCHEMES, open_objects

    if parts.scheme not in SCHEMES:
        raise WrongRequest(f"no store is called {parts.scheme!r}", hint=_FORMS)
    if not parts.netloc:
        raise WrongRequest(f"{location!r} names no bucket", hint=f"write it as {parts.scheme}://BUCKET/PREFIX")
    return open_objects(location)


def as_locked(store: Store, keys: Keys) -> Store:
    """The store, as a repository with these keys writes it: with object lock, if a rule for it was declared there."""
    if urlsplit(store.url).scheme not in ("s3", "s3a"):
        return store
    from strongroom.repository.locking import locked

    return locked(store, keys)


def require_conditional_create(store: Store, name: str, content: bytes) -> None:
    """Prove that the store refuses to create what exists, by creating `name` again with the very bytes that it holds.

    Some S3 look-alikes ignore If-None-Match and overwrite in silence; two writers could then destroy each other's objects.
    Harmless on such a store, since the bytes are the same. Raises UnsafeStore.
    """
    try:
        store.create(name, content)
    except AlreadyExists:
        return
    raise UnsafeStore(
        f"{store.url} ignores conditional creates (If-None-Match): it would overwrite objects in silence", hint=USE_ANOTHER
    )


def try_conditional_create(store: Store) -> None:
    """The same where no repository is yet, with an object that is removed again, if that is allowed. Raises UnsafeStore, also if
    the condition is refused."""
    name, content = f"{PROBES}{secrets.token_hex(16)}", b"strongroom looks whether this store overwrites"
    store.create(name, content)
    try:
        require_conditional_create(store, name, content)
    finally:
        with suppress(StoreDenied):
            store.delete(name)


def require_deletes(store: Store) -> None:
    """Prove that whoever this is may delete, with an object of no use: before anything is said to be gone. Raises StoreDenied,
    or what else the store says."""
    name = f"{PROBES}{secrets.token_hex(16)}"
    store.create(name, b"strongroom looks whether it may delete")
    store.delete(name)


def remove_old_probes(store: Store, age: timedelta) -> int:
    """Remove what somebody tried the store with who was killed before it was gone. It must be older than `age` by the store's own
    clock, which one more probe tells: so a clock of ours that is wrong takes away nothing that is in use. Gives the number."""
    if not any(True for _ in store.list(PROBES)):
        return 0
    name = f"{PROBES}{secrets.token_hex(16)}"
    store.create(name, b"strongroom asks what time it is here")
    try:
        stored = {one.name: one.modified for one in store.list(PROBES) if one.modified is not None}
        now = stored.get(name)
        old = [one for one, then in stored.items() if now is not None and then < now - age.total_seconds()]
        for one in old:
            store.delete(one)
    finally:
        store.delete(name)
    return len(old)
