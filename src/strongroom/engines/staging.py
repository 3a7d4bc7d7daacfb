"""How a new state of a file-based engine is built beside the old one and put in its place, whatever crashes in between.

<base>/.strongroom-<token>/     mode 0700, on the target's own file system
    lock                        flock: one restore at a time
    new/<entry>                 the state being built; an entry is a file or directory that will stand in <base>
    publishing                  written (fsync) before the first rename: which entries replace, which are removed, which were there
    old/<entry>                 what stood there before, kept until every entry is in place
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import secrets
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

from strongroom.errors import Damaged, Locked, Refused

_DONE = ".done"
_ATTEMPTS = 100
_WRITE_WITHOUT_WAITING = 2  # SYNC_FILE_RANGE_WRITE of Linux's sync_file_range(2)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def start_writing(descriptor: int, offset: int, length: int) -> None:
    """Let the system begin to write this part of a file to the disk, without waiting: a later fsync then finds little left."""
    if sys.platform == "linux":
        ctypes.CDLL(None).sync_file_range(descriptor, ctypes.c_int64(offset), ctypes.c_int64(length), _WRITE_WITHOUT_WAITING)


def sync_tree(root: Path) -> None:
    """Make a file, or a directory with all that is in it, durable."""
    if root.is_dir():
        for child in root.iterdir():
            sync_tree(child)
        sync_directory(root)
    else:
        descriptor = os.open(root, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_durably(path: Path, content: bytes) -> None:
    """Replace a small file's content, all or nothing, durable on return."""
    fresh = path.with_name(path.name + ".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)
    sync_directory(path.parent)


def remove(path: Path) -> None:
    """Remove a file or a directory, if it is there; also while another process does."""
    while os.path.lexists(path):
        with suppress(FileNotFoundError):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def _locked(directory: Path) -> int:
    """The lock of a stage's directory, which is made if it isn't there. Raises Locked if another process has it. One that ends
    meanwhile takes the directory away, and its lock with it: then there is another one to be had."""
    for _ in range(_ATTEMPTS):
        with suppress(FileNotFoundError, FileExistsError):
            directory.mkdir(mode=0o700, exist_ok=True)
            lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            if not _take(lock):
                os.close(lock)
                break
            if _is_at(lock, directory / "lock"):
                return lock
            os.close(lock)
    raise Locked(f"another restore is building {directory}")


def _take(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


class StagedEntries:
    """The part of a `Stage` that all file-based engines share. `entries` are all names in `base` that make up the target;
    `records` those among them that are no user's data (a receipt): they are replaced without being asked. `spared` are those that
    stay as they are unless the new state has one of that name."""

    def __init__(
        self, base: Path, token: str, entries: Sequence[str], records: Sequence[str] = (), spared: Sequence[str] = ()
    ) -> None:
        """Open the stage of `token` under `base`, or re-open it. Raises Locked if another process has it."""
        self._base = base
        self._entries = tuple(entries)
        self._records = frozenset(records)
        self._spared = frozenset(spared)
        self.directory = base / f".strongroom-{token}"
        base.mkdir(parents=True, exist_ok=True)
        for leftover in base.glob(f".strongroom-{token}{_DONE}*"):
            remove(leftover)
        self._lock = _locked(self.directory)
        self.new = self.directory / "new"
        self._old = self.directory / "old"
        self.new.mkdir(exist_ok=True)

    def contained(self, path: str) -> Path:
        """Where `path` (relative, forward slashes) lies inside `new`. Raises Damaged if it would lie outside."""
        parts = PurePosixPath(path)
        if parts.is_absolute() or ".." in parts.parts or not parts.parts or "\0" in path:
            raise Damaged(f"artifact {path!r}", "its path points outside of the target")
        return self.new.joinpath(*parts.parts)

    def publish(self, *, overwrite: bool) -> None:
        """Move what stands in `base` to `old`, the last entry first, and then every entry of `new` to `base`, so that nothing old
        is ever found beside what is new; then remove the stage. May be repeated: what somebody wrote to `base` since it was begun
        is replaced only if `overwrite` is True, too."""
        intent = self.directory / "publishing"
        if not intent.exists():
            staged = [name for name in self._entries if os.path.lexists(self.new / name)]
            taken = [name for name in self._entries if os.path.lexists(self._base / name)]
            taken = [name for name in taken if name in staged or name not in self._spared]
            self._require_free(taken, overwrite=overwrite)
            sync_tree(self.new)
            gone = [name for name in taken if name not in staged]
            retired = [name for name in reversed(self._entries) if name in (*staged, *gone)]
            write_durably(intent, json.dumps({"replace": staged, "remove": gone, "retire": retired, "taken": taken}).encode())
        plan = json.loads(intent.read_bytes())
        self._old.mkdir(exist_ok=True)
        waiting = [name for name in plan["replace"] if os.path.lexists(self.new / name)]
        newcomers = self._newcomers(plan, waiting)
        self._require_free(newcomers, overwrite=overwrite)
        for name in reversed(newcomers):
            self._retire(name)
        for name in plan.get("retire", [*plan["replace"], *plan["remove"]]):
            if name in waiting or (name in plan["remove"] and not os.path.lexists(self._old / name)):
                self._retire(name)
        for name in waiting:
            os.rename(self.new / name, self._base / name)
            sync_directory(self._base)
        self.discard()

    def _newcomers(self, plan: Mapping[str, list[str]], waiting: Sequence[str]) -> list[str]:
        """What stands in the way and didn't when the cut-over began: somebody wrote it where the new state wasn't yet."""
        if self._records.issuperset(waiting):
            return []
        placed, known = set(plan["replace"]).difference(waiting), plan.get("taken", plan["replace"] + plan["remove"])
        names = [name for name in dict.fromkeys((*self._entries, *plan["replace"])) if name not in placed]
        there = [name for name in names if os.path.lexists(self._base / name) and (name in waiting or name not in self._spared)]
        return [name for name in there if name not in known or os.path.lexists(self._old / name)]

    def _require_free(self, taken: Sequence[str], *, overwrite: bool) -> None:
        precious = [name for name in taken if name not in self._records]
        if precious and not overwrite:
            raise Refused(
                f"{self._base / precious[0]} is already there",
                hint="restore to another place, or give --overwrite to replace it once the new state is verified",
            )

    def _retire(self, name: str) -> None:
        if os.path.lexists(self._base / name):
            remove(self._old / name)
            os.rename(self._base / name, self._old / name)
            sync_directory(self._old)
            sync_directory(self._base)

    def discard(self) -> None:
        """Remove the stage and let go of its lock. It is renamed first, so that a crash can't leave half a stage to resume."""
        doomed = self._base / f"{self.directory.name}{_DONE}-{secrets.token_hex(4)}"
        os.rename(self.directory, doomed)
        sync_directory(self._base)
        remove(doomed)
        self.close()

    def close(self) -> None:
        """Let go of the lock; the stage stays for a later run."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
