"""How is a source that is one database file, with files of the engine's beside it, read at one moment? From a private copy.

What an engine adds is how a moment is copied (`capture`, in a process of its own), which files lie beside, and what they hold.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from strongroom.engines import isolation
from strongroom.engines.indexfile.held import position_of
from strongroom.engines.private_copy import private_directory, read_all_of
from strongroom.errors import NotFound, SourceChanged, Unreadable
from strongroom.model import Cut, Position, Region
from strongroom.progress import Progress


def require(path: Path) -> None:
    """Raises NotFound."""
    if not path.exists():
        raise NotFound(f"there is no file {path}", hint="check the path; after three slashes it is absolute")


def stamps_of(path: Path, beside: Iterable[Path]) -> Position:
    """By the stamps of the file and of what lies beside it."""
    return position_of([path.stat(), *(one.stat() for one in beside)])


@contextmanager
def copied(path: Path, capture: str, progress: Progress) -> Iterator[tuple[Path, Position]]:
    """A copy of one moment, which goes at the end, and the position that it is of. `capture` ('module:function') makes it: it is
    given both paths and a descriptor to hold until its process ends, and gives the position's value. Raises what it raises."""
    with private_directory(path.parent) as (place, lock):
        copy = place / path.name
        progress.begin("copying the database", None, "bytes")
        stamps = isolation.call(capture, str(path), str(copy), isolation.Descriptor(lock))
        progress.advance(copy.stat().st_size)
        yield copy, Position("file", stamps)


@contextmanager
def copying(path: Path) -> Iterator[None]:
    """What goes wrong while the file and what lies beside it are copied. Raises SourceChanged or Unreadable."""
    try:
        yield
    except FileNotFoundError as error:
        raise SourceChanged(f"{error.filename} vanished while it was copied") from error
    except PermissionError as error:
        raise Unreadable(f"{error.filename} can't be read", hint="run as a user who may read it") from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        hint = "free as much space as it takes, or keep it on a file system with reflinks (XFS, Btrfs)"
        raise Unreadable(f"no room for a private copy of {path}", hint=hint) from error


class CopiedFile:
    """A file of the copy as an artifact, held open once it was read; `cut_up` says which regions it has."""

    collection: str | None = None
    immutable = False

    def __init__(self, place: Path, path: str, cut: Cut, cut_up: Callable[[CopiedFile], Iterable[Region]]) -> None:
        self._place = place
        self._cut_up = cut_up
        self._lock = threading.Lock()
        self._descriptor = -1
        self.path = path
        self.cut = cut
        self.size = place.stat().st_size

    def regions(self) -> Iterable[Region]:
        return self._cut_up(self)

    def read(self, offset: int, length: int) -> bytes:
        """Exactly these bytes, from any thread. Raises SourceChanged if the copy was meddled with."""
        with self._lock:
            if self._descriptor < 0:
                self._descriptor = os.open(self._place, os.O_RDONLY | os.O_CLOEXEC)
        return read_all_of(self._descriptor, self.path, offset, length)

    def close(self) -> None:
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1


class _Asked(Protocol):
    def unchanged_since(self, position: Position, moment: float) -> bool: ...


class CopyFrozen:
    """The part of a `Frozen` that engines of one file share: one moment, in files that nobody changes."""

    rows_in_artifacts = False
    search_disturbs = False

    def __init__(self, copy: Path, source: _Asked, position: Position, files: Sequence[CopiedFile]) -> None:
        self._copy = copy
        self._source = source
        self._files = tuple(files)
        self.position = position

    def artifacts(self) -> Sequence[CopiedFile]:
        """The file, and what lies beside it."""
        return self._files

    def unchanged_since(self, position: Position, moment: float) -> bool:
        return self._source.unchanged_since(position, moment)

    def repeatable(self, collection: str) -> bool:
        return True

    def check(self) -> None:
        """The copy can't change under us, unless someone removed it. Raises SourceChanged then."""
        if not self._copy.exists():
            raise SourceChanged(f"the private copy {self._copy} was removed", hint="run the backup again")

    def close(self) -> None:
        """Let go of the files."""
        for one in self._files:
            one.close()
