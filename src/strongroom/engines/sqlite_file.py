"""How is an sqlite file copied while others write it? Under sqlite's own locks, and never by a connection that would change it:
one that opens a file with a crashed writer's journal rolls it back. The copy takes the journal along, and there sqlite settles it.

POSIX locks belong to the process, and closing *any* descriptor of the file drops them all. So a process of its own does this, opens
the file once and closes it last.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import struct
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from strongroom.engines.private_copy import copy_bytes
from strongroom.errors import Locked, Unreadable

HOLD_SECONDS = 15.0
"""Longest time for which a writer is kept waiting at a stretch."""
PATIENCE_SECONDS = 120.0
TICK_SECONDS = 0.025
"""More than one tick of the file system's clock (10 ms at most): a later write shows another time."""
SIDECARS = ("-journal", "-wal")
_HEAD = 32
"""Of a log: its salt is another one when it is begun anew."""

_PENDING, _RESERVED, _SHARED, _SHARED_SIZE = 0x40000000, 0x40000001, 0x40000002, 510  # sqlite's lock bytes

Signature = tuple[int, int, int, int]


class Unsettled(Exception):
    """A file is being written at this moment."""


def opened(path: Path) -> int:
    """A descriptor, for writing if that is allowed, since sqlite's writers' lock needs it. Raises Unreadable."""
    try:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise Unreadable(f"{path} can't be opened: {error.strerror}", hint="run as a user who may read it") from error
    try:
        head = os.pread(descriptor, 16, 0)
    except OSError:  # a directory, a pipe
        head = b""
    if head != b"SQLite format 3\0":
        os.close(descriptor)
        raise Unreadable(f"{path} is not an sqlite database", hint="check the path; if it was one, restore it from a snapshot")
    return descriptor


def in_wal_mode(descriptor: int) -> bool:
    return os.pread(descriptor, 2, 18) == b"\x02\x02"


@contextmanager
def locked(descriptor: int, deadline: float, shown: Path, *, writers_too: bool = True) -> Iterator[None]:
    """Of a database that isn't in WAL mode: keep commits out, and readers in; if `writers_too`, and the descriptor is for writing,
    keep out who prepares a commit as well. Raises Locked."""
    writable = writers_too and fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
    while not try_lock(descriptor, writable):
        if time.monotonic() > deadline:
            raise Locked(f"another process has had {shown} locked for {PATIENCE_SECONDS:g} s")
        time.sleep(0.002)
    try:
        yield
    finally:
        fcntl.lockf(descriptor, fcntl.LOCK_UN, 2 + _SHARED_SIZE, _PENDING)


def try_lock(descriptor: int, writable: bool) -> bool:
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


def reserved_elsewhere(descriptor: int) -> bool:
    """Does a live writer prepare a commit?"""
    question = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, _RESERVED, 1, 0)
    answer: int = struct.unpack("hhqqi4x", fcntl.fcntl(descriptor, fcntl.F_GETLK, question))[0]
    return answer != fcntl.F_UNLCK


@contextmanager
def locked_wal(path: Path, *, writers_too: bool = True) -> Iterator[None]:
    """In WAL mode the locks are in shared memory: sqlite must take them. A checkpoint by others does no harm: what it takes over
    stays in the log too. Without `writers_too` nobody waits: our read transaction keeps the log from being begun anew."""
    mode = "rw" if writers_too or not _has_log(path) else "ro"  # who may write checks a crashed writer's log in when he closes
    try:
        address = f"{path.as_uri()}?mode={mode}"
        with closing(sqlite3.connect(address, uri=True, isolation_level=None, timeout=PATIENCE_SECONDS)) as connection:
            connection.execute("BEGIN IMMEDIATE" if writers_too else "BEGIN")
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            yield
            connection.execute("ROLLBACK")
    except sqlite3.Error as error:
        hint = "run as a user who may write to its directory"
        raise Unreadable(f"{path} is in WAL mode and can't be locked: {error}", hint=hint) from error


def _has_log(path: Path) -> bool:
    with suppress(FileNotFoundError):
        return path.with_name(path.name + "-wal").stat().st_size > 0
    return False


def take_sidecars(path: Path, descriptor: int, target: Path) -> None:
    """Copy the journals beside a locked database. A journal that nobody owns belongs to a writer that crashed: without it the
    database file is not whole."""
    named = Path(os.path.realpath(path))  # by a link too sqlite keeps them beside the file itself
    for suffix in SIDECARS:
        original, copy = named.with_name(named.name + suffix), target.with_name(target.name + suffix)
        copy.unlink(missing_ok=True)
        if suffix == "-journal" and reserved_elsewhere(descriptor):
            continue  # a live writer's, who has not touched the database yet
        with suppress(FileNotFoundError):
            source = os.open(original, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _copy_of_one(source, copy)
            finally:
                os.close(source)


def _copy_of_one(source: int, copy: Path) -> None:
    """Copy a journal, and once more if it was begun anew meanwhile: the front of a log that is in the file already would set pages
    back. A log that a reader needs not is begun anew at the next commit, and not again as long as he reads."""
    while True:
        head = os.pread(source, _HEAD, 0)
        copy_bytes(source, copy)
        if os.pread(source, _HEAD, 0) == head:
            return


def settle(database: Path) -> None:
    """Let sqlite roll back or check in, in a copy, what the writer's journal holds, so that the database is one file."""
    journal, log = (database.with_name(database.name + suffix) for suffix in SIDECARS)
    if not journal.exists() and not log.exists():
        return
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
        if log.exists():
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for leftover in (journal, log, database.with_name(database.name + "-shm")):
        leftover.unlink(missing_ok=True)


def signature_of(status: os.stat_result) -> Signature:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def signature(path: Path) -> Signature | None:
    try:
        return signature_of(path.stat())
    except FileNotFoundError:
        return None


def age(time_ns: int) -> float:
    return (time.time_ns() - time_ns) / 1e9


def settled_signature(path: Path) -> Signature:
    """The signature once it is older than the clock's tick, so that any write after this call changes it. Raises Unsettled."""
    found = signature_of(path.stat())
    young = TICK_SECONDS - age(max(found[2:]))
    if young > 0:
        time.sleep(min(young, TICK_SECONDS))
        found = signature_of(path.stat())
        if age(max(found[2:])) < TICK_SECONDS / 2:
            raise Unsettled(f"{path.name} is written all the time")
    return found
