"""How is one moment of a database file copied? Under DuckDB's own lock, as a reader: who has it open for reading goes on. While
somebody has it open for writing nothing can be copied: he may write at any time.

POSIX locks belong to the process, and closing any descriptor of the file drops them all: a process of its own does this.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path

from strongroom.engines.copied_file import copying, require, stamps_of
from strongroom.engines.private_copy import copy_bytes, copy_file
from strongroom.errors import Locked, SourceChanged, Unreadable

SUFFIXES = (".wal", ".wal.checkpoint", ".wal.recovery")
"""Of what DuckDB keeps beside the file: its log, and what a checkpoint under way or a recovery makes of it."""


def capture(source: str, copy: str, lock: int = -1) -> str:
    """Copy one moment of the database `source`, with what lies beside it, to the file `copy`. The descriptor `lock` is of a file
    whose lock says that somebody works there. Gives the position's value. Raises NotFound, Unreadable, Locked or SourceChanged."""
    path, target = Path(source), Path(copy)
    require(path)
    database = _opened(path)
    try:
        with copying(path):
            _share(database, path)
            if os.fstat(database).st_ino != path.stat().st_ino:
                raise SourceChanged(f"{path} was replaced while it was copied")
            stamps = stamps_of(path, beside(path)).value
            copy_bytes(database, target)
            for one in beside(path):
                copy_file(one, target.with_name(target.name + one.name.removeprefix(path.name)))
            return stamps
    finally:
        os.close(database)


def beside(path: Path) -> tuple[Path, ...]:
    """What DuckDB keeps beside the file."""
    return tuple(one for suffix in SUFFIXES if (one := path.with_name(path.name + suffix)).exists())


def _opened(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise Unreadable(f"{path} can't be opened: {error.strerror}", hint="run as a user who may read it") from error
    head = b""
    with suppress(OSError):  # a directory, a pipe
        head = os.pread(descriptor, 4, 8)
    if head != b"DUCK":
        os.close(descriptor)
        raise Unreadable(f"{path} is not a DuckDB database", hint="check the path; if it was one, restore it from a snapshot")
    return descriptor


def _share(database: int, path: Path) -> None:
    try:
        fcntl.lockf(database, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            raise Unreadable(f"{path} can't be locked: {error.strerror}", hint="copy it to a local file system") from error
        hint = "close it there, or open it there with read_only=True, while the backup runs"
        raise Locked(f"another process has {path} open for writing", hint=hint) from error
