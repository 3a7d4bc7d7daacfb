"""How the files of one index are held open, so that what is read of them is one moment."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from strongroom.engines.indexfile.place import ARRAY, SUFFIXES
from strongroom.errors import Locked, NotFound, SourceChanged, Unreadable
from strongroom.model import Position

QUIET_SECONDS = 0.1
"""A file must not have been written to for so long before it counts as at rest. Kernels stamp files with a clock that ticks
every few milliseconds: a write in the same tick as the stamp that we remember would leave no trace."""

PATIENCE_SECONDS = 5.0
"""How long to wait for files to come to rest and to be one pair."""

LOCK_PATIENCE_SECONDS = 120.0
"""How long to wait for a writer that holds the lock file."""


TICK_SECONDS = 2.0
"""More than a file system's clock is coarse (2 s on FAT)."""


@dataclass(frozen=True, slots=True)
class OpenFile:
    """One open file and what it looked like when it was opened. Stays readable after its name is gone."""

    path: Path
    descriptor: int
    status: os.stat_result

    @property
    def size(self) -> int:
        return self.status.st_size

    def read(self, offset: int, length: int) -> bytes:
        """Exactly these bytes. Thread-safe. Raises SourceChanged if the file became shorter."""
        content = os.pread(self.descriptor, length, offset)
        while len(content) < length:
            more = os.pread(self.descriptor, length - len(content), offset + len(content))
            if not more:
                raise SourceChanged(f"{self.path} became shorter while it was read")
            content += more
        return content

    def stream(self) -> io.BufferedReader:
        """The file as a seekable stream with a position of its own."""
        return io.BufferedReader(_Positioned(self), 1 << 20)

    def check(self) -> None:
        """Raises SourceChanged if somebody wrote to the file. Its removal or replacement under its name is no change."""
        now = os.fstat(self.descriptor)
        before = self.status
        same = (now.st_size, now.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
        # A rename or removal of the name also stamps st_ctime; then only size and st_mtime can tell.
        if not same or (now.st_nlink == before.st_nlink and now.st_ctime_ns != before.st_ctime_ns):
            raise SourceChanged(f"{self.path} was written to while it was read")


class _Positioned(io.RawIOBase):
    def __init__(self, file: OpenFile) -> None:
        self._file = file
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._file.size}[whence]
        self._position = origin + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # what the io module passes
        length = min(len(buffer), max(0, self._file.size - self._position))
        buffer[:length] = self._file.read(self._position, length)
        self._position += length
        return length


@dataclass(frozen=True, slots=True)
class Held:
    """The open files of one index: the index itself, those beside it, and whether its writers' lock is held."""

    index: OpenFile
    beside: tuple[OpenFile, ...]
    locked: bool

    @property
    def sidecars(self) -> tuple[OpenFile, ...]:
        """The tables, the preferred one first."""
        return tuple(file for file in self.beside if file.path.suffix in SUFFIXES)

    @property
    def array(self) -> OpenFile | None:
        """The array of the vectors."""
        return next((file for file in self.beside if file.path.suffix == ARRAY), None)

    @property
    def files(self) -> tuple[OpenFile, ...]:
        return (self.index, *self.beside)

    def check(self) -> None:
        for file in self.files:
            file.check()


def position_of(files: Iterable[os.stat_result]) -> Position:
    """Stamps, size and inode of each."""
    stamps = (f"{one.st_mtime_ns}-{one.st_ctime_ns}-{one.st_size}-{one.st_ino}" for one in files)
    return Position("file", "+".join(stamps))


def unchanged_since(path: Path, sidecars: Iterable[Path], position: Position, moment: float) -> bool:
    """The same files, last written clearly before that moment: a clock may stand still for a tick, and a writer write twice."""
    try:
        files = [path.stat(), *(one.stat() for one in sidecars if one.exists())]
    except OSError:
        return False
    last = max(max(one.st_mtime, one.st_ctime) for one in files)
    return position_of(files) == position and last < moment - TICK_SECONDS


@contextmanager
def hold(path: Path, sidecars: tuple[Path, ...]) -> Iterator[Held]:
    """Open the index and those of its sidecars that exist, as one pair, at rest; close them at the end.

    If `<index>.lock` exists a shared flock on it is held all the while: a writer that takes it exclusively for saving index
    and sidecar is never seen half done. Without it a pair is what stood under both names at one instant. Raises NotFound,
    Unreadable, Locked, or SourceChanged if the files don't come to rest.
    """
    with ExitStack() as stack:
        locked = _share_lock(path.with_name(path.name + ".lock"), stack)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (held := _attempt(path, sidecars, locked, deadline, stack)) is None:
            if time.monotonic() > deadline:
                hint = f"let the writer hold flock on {path.name}.lock while it saves both files"
                raise SourceChanged(f"{path} and its sidecar are replaced again and again", hint=hint)
        yield held


def _attempt(path: Path, sidecars: tuple[Path, ...], locked: bool, deadline: float, stack: ExitStack) -> Held | None:
    """The files, opened and at rest; None if they were replaced meanwhile, so that they may not belong together."""
    with ExitStack() as attempt:
        index = _open(path, attempt)
        if index is None:
            raise NotFound(f"there is no index at {path}", hint="check the path; after three slashes it is absolute")
        found = tuple(file for file in (_open(sidecar, attempt) for sidecar in sidecars) if file is not None)
        pair = bool(found) and not locked
        if pair and not _named(index, found, sidecars):
            return None
        index = _at_rest(index, deadline, names=pair)
        found = tuple(_at_rest(file, deadline, names=pair) for file in found)
        if pair and not _named(index, found, sidecars):
            return None
        stack.push(attempt.pop_all())
        return Held(index, found, locked)


def _share_lock(path: Path, stack: ExitStack) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror}", hint="give this user permission to read the lock file") from error
    stack.callback(os.close, descriptor)
    deadline = time.monotonic() + LOCK_PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return True
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise Locked(f"a writer holds {path} for more than {LOCK_PATIENCE_SECONDS:.0f} s") from error
            time.sleep(0.002)


def _open(path: Path, stack: ExitStack) -> OpenFile | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO must not make us wait
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        hint = "run the backup as a user who may read it" if error.errno in (errno.EACCES, errno.EPERM) else ""
        raise Unreadable(f"{path}: {error.strerror}", hint=hint) from error
    stack.callback(os.close, descriptor)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise Unreadable(f"{path} is not a file", hint="name the index file itself, not its directory")
    return OpenFile(path, descriptor, status)


def _named(index: OpenFile, found: tuple[OpenFile, ...], sidecars: tuple[Path, ...]) -> bool:
    """Do the open files still stand under their names, and nothing under the names that were free?"""
    opened = {file.path: file for file in found}
    return _still_named(index) and all(_still_named(opened[p]) if p in opened else not p.exists() for p in sidecars)


def _still_named(file: OpenFile) -> bool:
    try:
        now = file.path.stat()
    except OSError:
        return False
    return (now.st_dev, now.st_ino) == (file.status.st_dev, file.status.st_ino)


def _at_rest(file: OpenFile, deadline: float, *, names: bool) -> OpenFile:
    """The file with its status, once nobody has written to it for a while, nor (`names`) renamed it: a writer that replaces
    two files has an instant between them, and st_ctime tells of it."""
    while True:
        status = os.fstat(file.descriptor)
        age = time.time() - (max(status.st_mtime, status.st_ctime) if names else status.st_mtime)
        if not 0 <= age < QUIET_SECONDS:  # a stamp from the future is a wrong clock, not a writer
            return OpenFile(file.path, file.descriptor, status)
        if time.monotonic() > deadline:
            raise SourceChanged(f"{file.path} is being written to")
        time.sleep(QUIET_SECONDS - age + 0.001)
