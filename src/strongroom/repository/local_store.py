"""How a local directory keeps objects: a finished, durable file is linked to its name, which fails if the name is taken.

obstore's own local store was left for this: it copies the bytes once more and doesn't make them durable, so that a power cut
could leave a visible object that is empty.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from strongroom.errors import AlreadyExists, NotFound, StrongroomError, from_os_error
from strongroom.repository.store import Listed

_UNFINISHED = ".unfinished-"


class LocalStore:
    """Objects in a directory, which is made by the first `create`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._durable: set[Path] = set()

    @property
    def url(self) -> str:
        return str(self._root)

    def create(self, name: str, data: bytes | memoryview) -> None:
        path = self._root / name
        with _translated(path):
            if path.exists():
                raise AlreadyExists(f"{path} is already there")
            self._make_directory(path.parent)
            unfinished = path.parent / f"{_UNFINISHED}{secrets.token_hex(8)}"
            try:
                _write_durably(unfinished, data)
                os.link(unfinished, path)
            finally:
                unfinished.unlink(missing_ok=True)
            _sync(path.parent)

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        path = self._root / name
        with _translated(path), path.open("rb", buffering=0) as file:
            left = os.fstat(file.fileno()).st_size - offset if length is None else length
            first = os.pread(file.fileno(), max(0, left), offset)
            if len(first) >= left or not first:
                return first
            pieces = [first]
            while left > sum(map(len, pieces)):
                done = sum(map(len, pieces))
                piece = os.pread(file.fileno(), left - done, offset + done)
                if not piece:
                    break
                pieces.append(piece)
            return b"".join(pieces)

    def size(self, name: str) -> int:
        path = self._root / name
        with _translated(path):
            found = path.stat()
            if not stat.S_ISREG(found.st_mode):
                raise NotFound(f"{path} is not there")
            return found.st_size

    def list(self, prefix: str, after: str = "") -> Iterator[Listed]:
        with _translated(self._root / prefix):
            yield from _files(f"{self._root}/{prefix}", prefix, after)

    def folders(self, prefix: str) -> Sequence[str]:
        path = self._root / prefix
        try:
            with _translated(path), os.scandir(path) as found:
                return sorted(entry.name for entry in found if entry.is_dir() and not entry.is_symlink())
        except NotFound:
            return []

    def delete(self, name: str) -> None:
        path = self._root / name
        with _translated(path):
            path.unlink(missing_ok=True)
            if path.parent.is_dir():
                _sync(path.parent)

    def remove_leftovers(self, before: float) -> int:
        """A writer that lives and is robbed of its file fails to link it: nothing half written gets a name."""
        removed = 0
        with _translated(self._root):
            for path in self._root.rglob(f"{_UNFINISHED}*"):
                with suppress(FileNotFoundError):
                    if path.stat().st_mtime < before:
                        path.unlink()
                        removed += 1
        return removed

    def _make_directory(self, directory: Path) -> None:
        """With all above it up to the root, each made durable in its parent: also one that is there, since the process that made it
        may have been killed before it did."""
        if directory in self._durable and directory.is_dir():
            return
        if self._root in directory.parents or not directory.parent.is_dir():
            self._make_directory(directory.parent)
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
        except FileExistsError as error:
            hint = "give the path of a directory, or of one that is to be made"
            raise StrongroomError(f"{directory} is not a directory", hint=hint) from error
        with suppress(PermissionError):  # what is above the root may be closed to us
            _sync(directory.parent)
        self._durable.add(directory)


def _write_durably(path: Path, data: bytes | memoryview) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_missing(error: OSError) -> bool:
    """Also where a file stands in the place of a directory above it, or a directory in its own."""
    return error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)


def _files(directory: str, prefix: str, after: str) -> Iterator[Listed]:
    """The objects below a directory, by name, folders after files; without what vanishes meanwhile. `prefix` ends in '/'. One look
    at each file after `after` and no paths: a repository may have a hundred thousand of them."""
    least = after.removeprefix(prefix).partition("/")[0] if after.startswith(prefix) else ""
    try:
        with os.scandir(directory) as found:
            wanted = (entry for entry in found if entry.name >= least or least.startswith(entry.name))  # 'a/' is after 'a-b/'
            entries = sorted(wanted, key=lambda entry: entry.name)
    except OSError as error:
        if _is_missing(error):
            return
        raise
    folders: list[os.DirEntry[str]] = []
    for entry in entries:
        if entry.is_dir():
            folders.append(entry)
        elif not entry.name.startswith(_UNFINISHED) and prefix + entry.name > after:
            with suppress(FileNotFoundError):
                status = entry.stat()
                yield Listed(prefix + entry.name, status.st_size, status.st_mtime)
    for entry in folders:
        if not entry.is_symlink():
            yield from _files(entry.path, f"{prefix}{entry.name}/", after)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except StrongroomError:
        raise
    except FileExistsError as error:
        raise AlreadyExists(f"{path} is already there") from error
    except OSError as error:
        if _is_missing(error):
            raise NotFound(f"{path} is not there") from error
        raise from_os_error(error, str(path)) from error
