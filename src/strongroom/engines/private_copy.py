"""Where does a private copy of a live source lie while it is read, and how are its files copied? Beside the source, for its owner
only; one that a killed process left is removed by the next."""

from __future__ import annotations

import errno
import fcntl
import math
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from strongroom.errors import SourceChanged, Unreadable

_PREFIX = ".strongroom-moment-"
_FICLONE = 0x40049409
_PIECE = 64 << 20


class TooLong(Exception):
    """It takes longer than is decent while others wait."""


def read_exactly(place: Path, path: str, offset: int, length: int) -> bytes:
    """These bytes of a file of the copy. It isn't held open: an engine may have tens of thousands. Raises SourceChanged if the copy
    was meddled with."""
    descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return read_all_of(descriptor, path, offset, length)
    finally:
        os.close(descriptor)


def read_all_of(descriptor: int, path: str, offset: int, length: int) -> bytes:
    """As `read_exactly`, of a file that is open."""
    content = os.pread(descriptor, length, offset)
    while len(content) < length and (more := os.pread(descriptor, length - len(content), offset + len(content))):
        content += more
    if len(content) != length:
        raise SourceChanged(f"{path} in the private copy ends early")
    return content


@contextmanager
def private_directory(beside: Path) -> Iterator[tuple[Path, int]]:
    """A new directory (0700) with a lock that says that its owner lives; those whose owner was killed are removed."""
    places = [place for place in (beside, Path(tempfile.gettempdir())) if os.access(place, os.W_OK | os.X_OK)]
    if not places:
        raise Unreadable(f"no room for a private copy: {beside} can't be written", hint="set TMPDIR to a directory that can")
    for place in places:
        _remove_abandoned(place)
    stage = places[0] / f"{_PREFIX}{uuid.uuid4().hex}"
    stage.mkdir(mode=0o700)
    lock = os.open(stage / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield stage, lock
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        os.close(lock)


def _remove_abandoned(place: Path) -> None:
    for stage in place.glob(_PREFIX + "*"):
        with suppress(OSError):
            if time.time() - stage.stat().st_mtime < 1 and not (stage / "lock").exists():
                continue  # just being made
            lock = os.open(stage / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(stage)
            finally:
                os.close(lock)


def copy_file(source: Path, target: Path) -> None:
    """By reference where the file system can, else what isn't a hole, inside of the kernel. Raises OSError."""
    with source.open("rb") as original, target.open("wb") as copy:
        try:
            fcntl.ioctl(copy.fileno(), _FICLONE, original.fileno())
        except OSError:
            _copy_data(original.fileno(), copy.fileno())


def _copy_data(source: int, target: int) -> None:
    size = os.fstat(source).st_size
    os.ftruncate(target, size)
    at = 0
    while at < size:
        try:
            at = os.lseek(source, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a hole to the end
                return
            raise
        end = os.lseek(source, at, os.SEEK_HOLE)
        while at < end:
            done = os.copy_file_range(source, target, min(_PIECE, end - at), at, at)
            if not done:
                return
            at += done


def copy_bytes(source: int, target: Path, deadline: float = math.inf) -> None:
    """A file that is open: as `copy_file`, but whole, and through memory if nothing else can. Raises TooLong."""
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
                    raise TooLong
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            while block := os.pread(source, 8 << 20, offset):
                offset += os.pwrite(file.fileno(), block, offset)
