"""How the files of a moment are kept while a writer goes on: by a second name each, in a directory of our own.

    <database>/.strongroom-frozen-<random>/     gone when the backup ends
        lock                                    flock, held as long as the backup lives
        <table>.lance/...                       hard links

Lance never changes a file once it is written, and cleaning up only unlinks names: a hard link keeps the bytes. A Lance tag would
keep them too, but `optimize(cleanup_older_than=...)` and `cleanup_old_versions()` fail by default as soon as they meet a
tagged version: a backup must not break its source. Where hard links can't be had (a read-only source, another file
system) symbolic links in a temporary directory stand in: they keep nothing, so `Pin.check` looks whether all is still there.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import tempfile
from pathlib import Path

from strongroom.engines.staging import remove
from strongroom.errors import SourceChanged

PREFIX = ".strongroom-frozen-"


class Pin:
    """A directory that holds the frozen files under the names that they have in the source."""

    def __init__(self, source: Path) -> None:
        self.directory, self._lock = _make(source)
        self._unheld: dict[Path, tuple[Path, tuple[int, int, int]]] = {}

    @property
    def holds(self) -> bool:
        """True if every file is kept, whatever a writer does."""
        return not self._unheld

    def take(self, original: Path, path: str) -> None:
        """Give `original` the name `path` in the pin. Raises FileNotFoundError if it is gone."""
        name = self.directory / path
        if os.path.lexists(name):
            return
        name.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(original, name)
        except FileNotFoundError:
            raise
        except OSError:
            self._unheld[name] = (original, _identity(original))
            name.symlink_to(original.absolute())

    def drop(self, path: str) -> None:
        """Let go of `path` and all below it."""
        dropped = self.directory / path
        remove(dropped)
        self._unheld = {name: seen for name, seen in self._unheld.items() if not name.is_relative_to(dropped)}

    def check(self) -> None:
        """Raises SourceChanged if a file that could not be kept has vanished or changed."""
        for original, seen in self._unheld.values():
            try:
                now = _identity(original)
            except OSError as error:
                raise SourceChanged(f"{original} vanished during the backup") from error
            if now != seen:
                raise SourceChanged(f"{original} was replaced during the backup")

    def release(self) -> None:
        """Remove the pin. The source's own names stay."""
        remove(self.directory)
        os.close(self._lock)


def sweep(source: Path) -> None:
    """Remove the pins of backups that were killed: those whose lock nobody holds, since the kernel frees a dead one's."""
    for pin in (*source.glob(f"{PREFIX}*"), *Path(tempfile.gettempdir()).glob(f"{PREFIX}*")):
        try:
            lock = os.open(pin / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError:  # gone already, or not ours to remove
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove(pin)
        except BlockingIOError:
            pass
        finally:
            os.close(lock)


def _make(source: Path) -> tuple[Path, int]:
    while True:
        directory = source / f"{PREFIX}{secrets.token_hex(6)}"
        try:
            directory.mkdir(mode=0o700)
        except OSError:  # read-only: symbolic links elsewhere must do
            directory = Path(tempfile.mkdtemp(prefix=PREFIX))
        lock = _held(directory / "lock")
        if lock is not None:
            return directory, lock


def _held(path: Path) -> int | None:
    """The locked file `path`; None if a sweep got between its creation and its lock and has removed it."""
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(lock), path.stat()):
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(lock)
    return None


def _identity(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns
