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
import math
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from strongroom.engines.private_copy import TooLong, copy_bytes
from strongroom.engines.sqlite_file import (
    HOLD_SECONDS,
    PATIENCE_SECONDS,
    Signature,
    Unsettled,
    age,
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
from strongroom.errors import NotFound, SourceChanged, Unreadable

DATABASE = "chroma.sqlite3"
PICKLE = "index_metadata.pickle"
INDEX_FILES = ("header.bin", "data_level0.bin", "length.bin", "link_lists.bin", PICKLE)
QUIET_SECONDS = 2.0
"""A folder whose times are out of order (it was copied there by a tool) counts as whole once it is this old."""

_FOLDER = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


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
    settle(Path(destination) / DATABASE)


def _open_database(root: Path) -> int:
    path = root / DATABASE
    if not root.is_dir():
        raise NotFound(f"there is no directory {root}", hint="check the path; it is the one given to PersistentClient")
    if not path.exists():
        raise Unreadable(f"{root} is not a Chroma database: it has no {DATABASE}", hint="check the path")
    return opened(path)


def _until_one_moment(copy: _Copy, hold: float) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    overruns = 0
    while True:
        copy.ahead()
        try:
            with _locked(copy.root / DATABASE, copy.database, deadline):
                copy.under_lock(time.monotonic() + hold)
            return
        except Unsettled as unsettled:
            if time.monotonic() > deadline:
                raise SourceChanged(f"{copy.root}: {unsettled}") from unsettled
            time.sleep(0.05)
        except TooLong as error:
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
            with suppress(FileNotFoundError, Unsettled):
                self._take(name)

    def under_lock(self, deadline: float) -> None:
        """Bring the copy to this moment. Raises TooLong or Unsettled: let go of the lock and try again."""
        take_sidecars(self.root / DATABASE, self.database, self._destination / DATABASE)
        names = self._index_files()
        for name in [DATABASE, *names]:
            try:
                self._take(name, deadline)
            except FileNotFoundError as error:
                if name == DATABASE:
                    raise
                raise Unsettled(f"{name} vanished: a collection is being deleted") from error
        if self._index_files() != names or not all(map(self._current, names)):
            raise Unsettled("an index is written all the time")
        if signature(self.root / DATABASE) != signature_of(os.fstat(self.database)):
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
        return self._taken.get(name) == signature(self.root / name)

    def _take(self, name: str, deadline: float = math.inf) -> None:
        if self._current(name):
            return
        if time.monotonic() > deadline:
            raise TooLong
        before = settled_signature(self.root / name)
        target = self._destination / name
        target.parent.mkdir(mode=0o700, exist_ok=True)
        if name == DATABASE:
            copy_bytes(self.database, target, deadline)
        else:
            descriptor = os.open(self.root / name, os.O_RDONLY | os.O_CLOEXEC)
            try:
                copy_bytes(descriptor, target, deadline)
            finally:
                os.close(descriptor)
        if signature(self.root / name) != before:
            raise Unsettled(f"{name} is written all the time")
        self._taken[name] = before

    def _check_whole(self, folder: str) -> None:
        taken = {file: self._taken[f"{folder}/{file}"] for file in INDEX_FILES if f"{folder}/{file}" in self._taken}
        youngest = max(one[2] for one in taken.values())
        if PICKLE in taken:
            whole = taken[PICKLE][1] > 0 and taken[PICKLE][2] == youngest
        else:
            header = self._destination / folder / INDEX_FILES[0]
            whole = not header.exists() or not any(header.read_bytes()[20:28])  # nothing was written into the index yet
        if not whole and age(youngest) < QUIET_SECONDS:
            raise Unsettled(f"{folder} is written all the time")


@contextmanager
def _locked(path: Path, descriptor: int, deadline: float) -> Iterator[None]:
    """Keep every writer of the database out, and every reader in. With a read-only descriptor, a reader's lock: commits wait."""
    with locked_wal(path) if in_wal_mode(descriptor) else locked(descriptor, deadline, path):
        yield
