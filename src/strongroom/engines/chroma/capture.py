"""How is one moment of a Chroma directory copied while its writer goes on, without making the writer fail?

Chroma writes sqlite under sqlite's own lock, but the HNSW files outside of it: header, level 0, lengths, links and at last
`index_metadata.pickle`, and only then the segment's position in sqlite. So a lock on sqlite alone proves nothing about them.
A moment is taken when, under the lock,

- no HNSW file changed while it was copied (inode, size and times, with a margin for the clock's tick), and
- in every folder the pickle is the youngest file, so that no write of that index was under way.

HNSW files may then be ahead of the position in sqlite, never behind it, and everything that they hold is in the log too: the
log is replayed over them to the same state. That makes the locked moment the state after some whole call of the writer.

Most of the copying is done before the lock is taken; under it only what changed since is copied again. The lock is let go
after `hold` seconds: Chroma's writers wait for it, but the more of them wait, the sooner its connection pool runs dry.

POSIX locks belong to the process, and closing *any* descriptor of the file drops them all. So this runs in a process of its
own (a Chroma in the caller's process keeps its locks), opens the database once and closes it last.
"""

from __future__ import annotations

import errno
import fcntl
import math
import os
import re
import sqlite3
import struct
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from strongroom.errors import Locked, NotFound, SourceChanged, Unreadable

DATABASE = "chroma.sqlite3"
PICKLE = "index_metadata.pickle"
INDEX_FILES = ("header.bin", "data_level0.bin", "length.bin", "link_lists.bin", PICKLE)
HOLD_SECONDS = 15.0
"""Longest time for which the writer is kept waiting at a stretch."""
PATIENCE_SECONDS = 120.0
TICK_SECONDS = 0.025
"""More than one tick of the file system's clock (10 ms at most): a later write shows another time."""
QUIET_SECONDS = 2.0
"""A folder whose times are out of order (it was copied there by a tool) counts as whole once it is this old."""

_FOLDER = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_FICLONE = 0x40049409
_PENDING, _RESERVED, _SHARED, _SHARED_SIZE = 0x40000000, 0x40000001, 0x40000002, 510  # sqlite's lock bytes
_JOURNAL_MAGIC = bytes.fromhex("d9d505f920a163d7")

Signature = tuple[int, int, int, int]


class _TooLong(Exception):
    """The lock was held for as long as is decent."""


class _Unsettled(Exception):
    """An index file is being written at this moment."""


def capture(source: str, destination: str, lock: int = -1, hold: float = HOLD_SECONDS) -> None:
    """Copy one moment of the Chroma directory `source` into the existing empty directory `destination`. The descriptor
    `lock` is of a file whose lock says that somebody works there; it is held until this process ends.

    Raises NotFound, Unreadable, Locked (another process holds sqlite's write lock all the time) or SourceChanged.
    """
    root = Path(source)
    database = _open_database(root)
    try:
        copy = _Copy(root, Path(destination), database)
        _until_one_moment(copy, hold)
    except FileNotFoundError as error:
        raise SourceChanged(f"{error.filename} vanished while it was copied") from error
    except PermissionError as error:
        raise Unreadable(f"{error.filename} can't be read", hint="run as a user who may read the whole directory") from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise Unreadable(
            f"no room for a private copy of {root}",
            hint="free as much space as the database takes, or keep it on a file system with reflinks (XFS, Btrfs)",
        ) from error
    finally:
        os.close(database)
    _settle_journal(Path(destination) / DATABASE)


def _open_database(root: Path) -> int:
    path = root / DATABASE
    try:
        if not root.is_dir():
            raise NotFound(f"there is no directory {root}", hint="check the path; it is the one given to PersistentClient")
        if not path.exists():
            raise Unreadable(f"{root} is not a Chroma database: it has no {DATABASE}", hint="check the path")
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise Unreadable(f"{path} can't be opened: {error.strerror}", hint="run as a user who may read it") from error
    if os.pread(descriptor, 16, 0) != b"SQLite format 3\0":
        os.close(descriptor)
        raise Unreadable(f"{path} is not an sqlite database", hint="check the path; if it was one, restore it from a snapshot")
    return descriptor


def _until_one_moment(copy: _Copy, hold: float) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    overruns = 0
    while True:
        copy.ahead()
        try:
            with _locked(copy.root / DATABASE, copy.database, deadline):
                copy.under_lock(time.monotonic() + hold)
            return
        except _Unsettled as unsettled:
            if time.monotonic() > deadline:
                raise SourceChanged(f"{copy.root}: {unsettled}") from unsettled
            time.sleep(0.05)
        except _TooLong as error:
            overruns += 1
            if overruns == 4:
                raise SourceChanged(
                    f"{copy.root} is too busy and too big to be copied while its writer waits (at most {hold:g} s)",
                    hint="pause the writer for the backup, or keep the database on a file system with reflinks (XFS, Btrfs)",
                ) from error


class _Copy:
    """The private copy, and for each file of it the state of the original that it was taken from."""

    def __init__(self, root: Path, destination: Path, database: int) -> None:
        self.root, self.database = root, database
        self._destination = destination
        self._taken: dict[str, Signature] = {}

    def ahead(self) -> None:
        """Copy everything, without a lock. What changes meanwhile is simply not remembered as taken."""
        for name in [*self._index_files(), DATABASE]:
            with suppress(FileNotFoundError, _Unsettled):
                self._take(name)

    def under_lock(self, deadline: float) -> None:
        """Bring the copy to this moment. Raises _TooLong or _Unsettled: let go of the lock and try again."""
        self._take_sidecars()
        names = self._index_files()
        for name in [DATABASE, *names]:
            try:
                self._take(name, deadline)
            except FileNotFoundError as error:
                if name == DATABASE:
                    raise
                raise _Unsettled(f"{name} vanished: a collection is being deleted") from error
        if self._index_files() != names or not all(map(self._current, names)):
            raise _Unsettled("an index is written all the time")
        if _signature(self.root / DATABASE) != _signature_of(os.fstat(self.database)):
            raise SourceChanged(f"{self.root / DATABASE} was replaced while it was copied")
        for folder in sorted({Path(name).parent.name for name in names}):
            self._check_whole(folder)
        for name in [name for name in self._taken if name not in names and name != DATABASE]:
            (self._destination / name).unlink(missing_ok=True)
            del self._taken[name]

    def _index_files(self) -> list[str]:
        folders = sorted(entry.name for entry in os.scandir(self.root) if _FOLDER.fullmatch(entry.name) and entry.is_dir())
        return [f"{folder}/{file}" for folder in folders for file in INDEX_FILES if (self.root / folder / file).is_file()]

    def _current(self, name: str) -> bool:
        return self._taken.get(name) == _signature(self.root / name)

    def _take(self, name: str, deadline: float = math.inf) -> None:
        if self._current(name):
            return
        if time.monotonic() > deadline:
            raise _TooLong
        before = _settled_signature(self.root / name)
        target = self._destination / name
        target.parent.mkdir(mode=0o700, exist_ok=True)
        if name == DATABASE:
            _copy_bytes(self.database, target, deadline)
        else:
            descriptor = os.open(self.root / name, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _copy_bytes(descriptor, target, deadline)
            finally:
                os.close(descriptor)
        if _signature(self.root / name) != before:
            raise _Unsettled(f"{name} is written all the time")
        self._taken[name] = before

    def _take_sidecars(self) -> None:
        """A journal that nobody owns belongs to a writer that crashed: without it the database file is not whole."""
        for suffix in ("-journal", "-wal"):
            original, target = self.root / (DATABASE + suffix), self._destination / (DATABASE + suffix)
            target.unlink(missing_ok=True)
            if suffix == "-journal" and _reserved_elsewhere(self.database):
                continue  # a live writer's, who has not touched the database yet
            with suppress(FileNotFoundError):
                descriptor = os.open(original, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    _copy_bytes(descriptor, target)
                finally:
                    os.close(descriptor)

    def _check_whole(self, folder: str) -> None:
        taken = {file: self._taken[f"{folder}/{file}"] for file in INDEX_FILES if f"{folder}/{file}" in self._taken}
        youngest = max(signature[2] for signature in taken.values())
        if PICKLE in taken:
            whole = taken[PICKLE][1] > 0 and taken[PICKLE][2] == youngest
        else:
            header = self._destination / folder / INDEX_FILES[0]
            whole = not header.exists() or not any(header.read_bytes()[20:28])  # nothing was written into the index yet
        if not whole and _age(youngest) < QUIET_SECONDS:
            raise _Unsettled(f"{folder} is written all the time")


@contextmanager
def _locked(path: Path, descriptor: int, deadline: float) -> Iterator[None]:
    """Keep every writer of the database out, and every reader in. With a read-only descriptor, a reader's lock: commits wait."""
    if os.pread(descriptor, 2, 18) == b"\x02\x02":
        with _locked_wal(path):
            yield
        return
    writable = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
    while not _try_lock(descriptor, writable):
        if time.monotonic() > deadline:
            raise Locked(f"another process has had {path} locked for {PATIENCE_SECONDS:g} s")
        time.sleep(0.002)
    try:
        yield
    finally:
        fcntl.lockf(descriptor, fcntl.LOCK_UN, 2 + _SHARED_SIZE, _PENDING)


def _try_lock(descriptor: int, writable: bool) -> bool:
    """Sqlite's own protocol: SHARED (through PENDING), then RESERVED. Done by hand, because an sqlite connection would roll a
    crashed writer's journal back in the source."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, _PENDING)
        fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB, _SHARED_SIZE, _SHARED)
        fcntl.lockf(descriptor, fcntl.LOCK_UN, 1, _PENDING)
        if writable:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _RESERVED)
    except OSError as error:
        fcntl.lockf(descriptor, fcntl.LOCK_UN, 2 + _SHARED_SIZE, _PENDING)
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        raise Unreadable(
            f"the database can't be locked: {error.strerror}", hint="stop its writer and copy it to a local file system"
        ) from error
    return True


@contextmanager
def _locked_wal(path: Path) -> Iterator[None]:
    """In WAL mode the locks are in shared memory: sqlite must take them. A checkpoint by others does no harm, the log stays."""
    try:
        connection = sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, isolation_level=None, timeout=PATIENCE_SECONDS)
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.Error as error:
        raise Unreadable(
            f"{path} is in WAL mode and can't be locked: {error}", hint="run as a user who may write to its directory"
        ) from error
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


def _reserved_elsewhere(descriptor: int) -> bool:
    question = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, _RESERVED, 1, 0)
    answer: int = struct.unpack("hhqqi4x", fcntl.fcntl(descriptor, fcntl.F_GETLK, question))[0]
    return answer != fcntl.F_UNLCK


def _settle_journal(database: Path) -> None:
    """Let sqlite roll back or check in, in the copy, what the writer's journal holds, so that the database is one file."""
    journal, log = (database.with_name(database.name + suffix) for suffix in ("-journal", "-wal"))
    if not journal.exists() and not log.exists():
        return
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
        if log.exists():
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for leftover in (journal, log, database.with_name(database.name + "-shm")):
        leftover.unlink(missing_ok=True)


def _signature_of(status: os.stat_result) -> Signature:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _signature(path: Path) -> Signature | None:
    try:
        return _signature_of(path.stat())
    except FileNotFoundError:
        return None


def _age(time_ns: int) -> float:
    return (time.time_ns() - time_ns) / 1e9


def _settled_signature(path: Path) -> Signature:
    """The signature once it is older than the clock's tick, so that any write after this call changes it."""
    signature = _signature_of(path.stat())
    young = TICK_SECONDS - _age(max(signature[2:]))
    if young > 0:
        time.sleep(min(young, TICK_SECONDS))
        signature = _signature_of(path.stat())
        if _age(max(signature[2:])) < TICK_SECONDS / 2:
            raise _Unsettled(f"{path.name} is written all the time")
    return signature


def _copy_bytes(source: int, target: Path, deadline: float = math.inf) -> None:
    """By reference where the file system can, else inside of the kernel, else through memory."""
    with target.open("wb") as file:
        try:
            fcntl.ioctl(file.fileno(), _FICLONE, source)
        except OSError:
            pass
        else:
            return
        offset = 0
        try:
            while done := os.copy_file_range(source, file.fileno(), 64 << 20, offset, offset):
                offset += done
                if time.monotonic() > deadline:
                    raise _TooLong
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            while block := os.pread(source, 8 << 20, offset):
                offset += os.pwrite(file.fileno(), block, offset)
