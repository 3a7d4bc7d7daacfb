"""Where objects are kept: a small promise over obstore. The only module that touches it.

    create   durable, all or nothing, never overwrites          read   exactly these bytes
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import obstore
from obstore import exceptions as foreign
from obstore.store import LocalStore, MemoryStore, S3Store, from_url

from strongroom.errors import (
    AlreadyExists,
    NotFound,
    StoreDenied,
    StoreFull,
    StrongroomError,
    Unreachable,
    UnsafeStore,
    WrongRequest,
)


@dataclass(frozen=True, slots=True)
class Listed:
    """One object of a listing."""

    name: str
    size: int


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

    def list(self, prefix: str) -> Iterator[Listed]:
        """All objects below `prefix` (a folder, ending in '/')."""

    def delete(self, name: str) -> None:
        """Remove an object; it is no error if it is gone already."""


_MEMORY: dict[str, MemoryStore] = {}


def open_store(location: str) -> Store:
    """The store at a path or URL: a directory, file://, memory://NAME (lives as long as the process), s3://BUCKET/PREFIX, gs://,
    az://. Cloud credentials come from their standard environment variables. Raises WrongRequest."""
    parts = urlsplit(location)
    if parts.username or parts.password:
        raise WrongRequest(
            "a repository URL must not hold credentials", hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead"
        )
    if parts.scheme in ("", "file"):
        return LocalObjects(Path(parts.path if parts.scheme else location).expanduser().absolute())
    if parts.scheme == "memory":
        return Objects(location, _MEMORY.setdefault(location, MemoryStore()))
    if parts.scheme not in ("s3", "s3a", "gs", "az", "azure"):
        raise WrongRequest(f"no store is called {parts.scheme!r}", hint="give a directory, or a URL of file, memory, s3, gs or az")
    with _translated(location):
        return Objects(location, _cloud(location, parts.scheme, parts.netloc, parts.path.strip("/")))


def _cloud(location: str, scheme: str, bucket: str, prefix: str) -> Any:
    seconds = float(os.environ.get("STRONGROOM_RETRY_SECONDS", "60"))
    retries: Any = {"max_retries": 8, "retry_timeout": timedelta(seconds=seconds)}
    endpoint = os.environ.get("AWS_ENDPOINT_URL", os.environ.get("AWS_ENDPOINT", ""))
    options: Any = {"timeout": timedelta(seconds=max(30.0, seconds)), "connect_timeout": timedelta(seconds=5)}
    if endpoint.startswith("http://"):
        options["allow_http"] = True
    if scheme in ("s3", "s3a"):
        return S3Store(bucket, prefix=prefix or None, client_options=options, retry_config=retries)
    return from_url(location, client_options=options, retry_config=retries)


@contextmanager
def _translated(subject: str) -> Iterator[None]:
    """Foreign errors become ours here and nowhere else."""
    try:
        yield
    except StrongroomError:
        raise
    except foreign.AlreadyExistsError as error:
        raise AlreadyExists(f"{subject} is already there") from error
    except (foreign.NotFoundError, FileNotFoundError) as error:
        raise NotFound(f"{subject} is not there") from error
    except (foreign.PermissionDeniedError, foreign.UnauthenticatedError, PermissionError) as error:
        raise StoreDenied(f"{subject}: the store refused access") from error
    except (foreign.BaseError, OSError) as error:
        raise _by_message(subject, error) from error


def _by_message(subject: str, error: Exception) -> StrongroomError:
    """obstore reports what the operating system said only as text."""
    text = str(error)
    if "os error 28" in text or "os error 122" in text or "No space left" in text:
        return StoreFull(f"{subject}: no space left on the store")
    if "os error 13" in text or "os error 1)" in text or "os error 30" in text or "403" in text:
        return StoreDenied(f"{subject}: the store refused access")
    if isinstance(error, foreign.PreconditionError) or "412" in text:
        return AlreadyExists(f"{subject} is already there")
    first = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    return Unreachable(f"{subject}: the store did not answer as it should ({first[:160]})")


class Objects:
    """Objects in any store that obstore speaks to."""

    def __init__(self, url: str, backend: Any) -> None:
        self._url = url
        self._backend = backend

    @property
    def url(self) -> str:
        return self._url

    def create(self, name: str, data: bytes | memoryview) -> None:
        with _translated(self._named(name)):
            obstore.put(self._backend, name, data, mode="create", use_multipart=False)

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        with _translated(self._named(name)):
            if length is None and offset == 0:
                return bytes(obstore.get(self._backend, name).bytes())
            return bytes(obstore.get_range(self._backend, name, start=offset, length=length or 0))

    def size(self, name: str) -> int:
        with _translated(self._named(name)):
            return int(obstore.head(self._backend, name)["size"])

    def list(self, prefix: str) -> Iterator[Listed]:
        with _translated(self._named(prefix)):
            for chunk in obstore.list(self._backend, prefix=prefix.rstrip("/"), chunk_size=1000):
                for item in chunk:
                    yield Listed(item["path"], int(item["size"]))

    def delete(self, name: str) -> None:
        with _translated(self._named(name)):
            try:
                obstore.delete(self._backend, name)
            except (foreign.NotFoundError, FileNotFoundError):
                return

    def _named(self, name: str) -> str:
        return f"{self._url.rstrip('/')}/{name}"


class LocalObjects(Objects):
    """Objects in a directory. obstore links a finished file into place; here it is made durable before `create` returns."""

    def __init__(self, root: Path) -> None:
        self._root = root
        with _translated(str(root)):
            super().__init__(str(root), LocalStore(prefix=root) if root.is_dir() else None)

    def create(self, name: str, data: bytes | memoryview) -> None:
        path = self._root / name
        with _translated(str(path)):
            if self._backend is None:
                self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._backend = LocalStore(prefix=self._root)
            fresh: set[Path] = {path.parent, *self._directories_to_make(path.parent)}
            super().create(name, data)
            _sync(path, os.O_RDONLY)
            for directory in fresh:
                _sync(directory, os.O_RDONLY | os.O_DIRECTORY)

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        path = self._root / name
        with _translated(str(path)), path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            wanted = max(0, size - offset) if length is None else length
            return os.pread(file.fileno(), wanted, offset) if wanted < 1 << 30 else _read_long(file.fileno(), wanted, offset)

    def list(self, prefix: str) -> Iterator[Listed]:
        if self._backend is not None and (self._root / prefix).is_dir():
            yield from super().list(prefix)

    def size(self, name: str) -> int:
        path = self._root / name
        with _translated(str(path)):
            return path.stat().st_size

    def delete(self, name: str) -> None:
        path = self._root / name
        with _translated(str(path)):
            path.unlink(missing_ok=True)
            if path.parent.is_dir():
                _sync(path.parent, os.O_RDONLY | os.O_DIRECTORY)

    def _directories_to_make(self, parent: Path) -> tuple[Path, ...]:
        fresh: tuple[Path, ...] = ()
        while parent != self._root and not parent.exists():
            parent = parent.parent
            fresh = (*fresh, parent)
        return fresh


def _read_long(descriptor: int, wanted: int, offset: int) -> bytes:
    pieces = []
    while wanted > 0:
        piece = os.pread(descriptor, min(wanted, 1 << 30), offset)
        if not piece:
            break
        pieces.append(piece)
        wanted -= len(piece)
        offset += len(piece)
    return b"".join(pieces)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
        f"{store.url} ignores conditional creates (If-None-Match): it would overwrite objects in silence",
        hint="use a store that honours them: a local directory, AWS S3, GCS, Azure, or a recent SeaweedFS, MinIO or Ceph",
    )
