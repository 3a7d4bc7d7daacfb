"""How is one moment of a database copied while others write it? In a process of its own: see `engines/sqlite_file`.

In WAL mode nobody waits: our read transaction keeps the log from being begun anew, so that the file and then the log, copied, are
the state of the last whole commit in the log. Otherwise commits wait: the file is copied ahead, and once more under the lock
if it changed. What the copy's journal or log holds is settled in the copy, so that it is one file.
"""

from __future__ import annotations

import math
import os
import time
from contextlib import suppress
from pathlib import Path

from strongroom.engines.copied_file import copying, require, stamps_of
from strongroom.engines.private_copy import TooLong, copy_bytes
from strongroom.engines.sqlite_file import (
    HOLD_SECONDS,
    PATIENCE_SECONDS,
    SIDECARS,
    Unsettled,
    in_wal_mode,
    locked,
    locked_wal,
    opened,
    settle,
    settled_signature,
    signature,
    signature_of,
    take_sidecars,
)
from strongroom.errors import SourceChanged

_ATTEMPTS = 4


def capture(source: str, copy: str, lock: int = -1, hold: float = HOLD_SECONDS) -> str:
    """Copy one moment of the database `source` to the file `copy`. The descriptor `lock` is of a file whose lock says that somebody
    works there; it is held until this process ends. Gives the value of the position. Raises NotFound, Unreadable, Locked or
    SourceChanged."""
    path = Path(source)
    require(path)
    database = opened(path)
    try:
        with copying(path):
            stamps = _one_moment(path, database, Path(copy), hold)
    finally:
        os.close(database)
    settle(Path(copy))
    return stamps


def beside(path: Path) -> tuple[Path, ...]:
    """The files of sqlite's beside a database that hold something. (Who opens one in WAL mode makes an empty log.)"""
    found = []
    for suffix in SIDECARS:
        with suppress(FileNotFoundError):
            sidecar = path.with_name(path.name + suffix)
            if sidecar.stat().st_size:
                found.append(sidecar)
    return tuple(found)


def _one_moment(path: Path, database: int, copy: Path, hold: float) -> str:
    deadline = time.monotonic() + PATIENCE_SECONDS
    overruns = 0
    while True:
        if in_wal_mode(database):
            with locked_wal(path, writers_too=False):
                return _under_lock(path, database, copy, None, math.inf)
        ahead = _ahead(path, database, copy)
        try:
            with locked(database, deadline, path, writers_too=False):
                if in_wal_mode(database):
                    continue  # it was changed to that meanwhile, and this lock keeps nobody out
                return _under_lock(path, database, copy, ahead, time.monotonic() + hold)
        except TooLong as error:
            overruns += 1
            if overruns == _ATTEMPTS:
                hint = "put it in WAL mode (PRAGMA journal_mode = wal), in which writers don't wait, or pause its writers"
                raise SourceChanged(f"{path} is too busy and too big to be copied while its writers wait", hint=hint) from error


def _ahead(path: Path, database: int, copy: Path) -> object:
    """Copy the file without a lock. Gives what must be the same under it for the copy to be right."""
    with suppress(Unsettled, FileNotFoundError):
        before = settled_signature(path), _changes(database)
        copy_bytes(database, copy)
        return before
    return None


def _under_lock(path: Path, database: int, copy: Path, ahead: object, deadline: float) -> str:
    if signature(path) is None or os.fstat(database).st_ino != path.stat().st_ino:
        raise SourceChanged(f"{path} was replaced while it was copied")
    stamps = stamps_of(path, beside(path)).value
    if ahead is None or ahead != (signature_of(os.fstat(database)), _changes(database)):
        copy_bytes(database, copy, deadline)
    take_sidecars(path, database, copy)
    return stamps


def _changes(database: int) -> bytes:
    """The counter that every commit raises: a writer through a memory map leaves no stamp at once."""
    return os.pread(database, 4, 24)
