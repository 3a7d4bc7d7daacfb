"""How is a folder of Milvus Lite read at one moment? While nobody has it open, two private copies are made of it: one gives its
files as they are, the other is opened by Milvus Lite itself, which may write into it."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from strongroom.engines import isolation, regions
from strongroom.engines.milvus.frozen import described
from strongroom.engines.milvus.lite.library import folder_of
from strongroom.engines.milvus.moment import Moment
from strongroom.engines.milvus.reading import Rows
from strongroom.engines.private_copy import copy_file, private_directory, read_exactly
from strongroom.engines.staged_directory import RECEIPT
from strongroom.errors import EngineFailed, Locked, NotFound, SourceChanged, Unreadable
from strongroom.model import Answers, Cut, Position, Region, RowBlock
from strongroom.progress import Progress

KIND = "milvus-lite-files"
_LIBRARY = "strongroom.engines.milvus.lite.library"
_LOCK = "LOCK"
_EXACT, _OPEN = "exact", "open"


class LiteSource:
    """A folder, to be read. The private copies are made in `beside`, the folder's parent if that isn't given."""

    def __init__(self, folder: Path, beside: Path | None = None) -> None:
        self._folder = folder
        self._beside = beside or folder.parent

    def unchanged_since(self, position: Position, moment: float) -> bool:
        """Only a frozen moment can tell."""
        return False

    @contextmanager
    def freeze(self, progress: Progress) -> Iterator[LiteFrozen]:
        """A consistent view. Takes twice the room of the folder. Raises NotFound, Unreadable, Locked or SourceChanged."""
        _require(self._folder)
        with private_directory(self._beside) as (place, _):
            progress.begin("copying the folder", None, "bytes")
            print_ = _copies(self._folder, place)
            try:
                moment = isolation.call(f"{_LIBRARY}:read", str(place / _OPEN), str(place / "rows"))
            except EngineFailed as error:
                hint = "check that its release is the one that wrote it; if it is damaged restore it from an earlier snapshot"
                raise Unreadable(f"Milvus Lite can't read {self._folder}: {error}", hint=hint) from error
            yield LiteFrozen(place, moment, Position(KIND, print_))


class LiteFrozen:
    """One moment of a folder, in private copies."""

    rows_in_artifacts = False
    search_disturbs = False

    def __init__(self, place: Path, moment: Moment, position: Position) -> None:
        self._place = place
        self.position = position
        self._rows: dict[str, Rows] = {one.listed.name: one for one in moment.rows}
        said = described("milvus-lite", moment, "nobody had it open while it was copied", files=True)
        self.description = type(said)(said.engine, _installed(), said.collections, said.catalog, said.ledger)
        folders = {folder_of(place / _EXACT, name): name for name in self._rows}
        self._artifacts = tuple(_File(place / _EXACT, path, folders) for path in files_of(place / _EXACT))

    def rows(self, collection: str) -> Iterator[RowBlock]:
        """By partition, then by key."""
        for batch in self._of(collection).batches():
            yield RowBlock(batch)

    def artifacts(self) -> Sequence[_File]:
        """All files."""
        return self._artifacts

    def search(self, collection: str, field: str, queries: npt.NDArray[np.float32], k: int) -> Answers:
        """What Milvus Lite answers from the copy that it may write into."""
        listed = self._of(collection).listed
        answers: Answers = isolation.call(f"{_LIBRARY}:search", str(self._place / _OPEN), listed, field, queries, k)
        return answers

    def unchanged_since(self, position: Position, moment: float) -> bool:
        return False

    def repeatable(self, collection: str) -> bool:
        """What Milvus Lite made when it opened the copy (an index, a file of what was in its log) it would make anew each time."""
        self._of(collection)
        exact, opened = (folder_of(self._place / one, collection) for one in (_EXACT, _OPEN))
        return {one.relative_to(exact) for one in files_of(exact)} >= {
            one.relative_to(opened) for one in files_of(opened) if one.suffix in (".idx", ".parquet")
        }

    def check(self) -> None:
        """The copy can't change under us, unless someone removed it. Raises SourceChanged then."""
        if not self._place.exists():
            raise SourceChanged(f"the private copy {self._place} was removed", hint="run the backup again")

    def _of(self, collection: str) -> Rows:
        if collection not in self._rows:
            raise NotFound(f"there is no collection {collection!r}", hint=f"there are: {', '.join(self._rows)}")
        return self._rows[collection]


class _File:
    """One file of the private copy as an artifact."""

    immutable = False
    cut = Cut.CONTENT

    def __init__(self, copy: Path, path: Path, folders: dict[Path, str]) -> None:
        self._file = path
        self.path = path.relative_to(copy).as_posix()
        self.collection: str | None = next((folders[one] for one in path.parents if one in folders), None)
        self.size = path.stat().st_size

    def regions(self) -> Iterable[Region]:
        return regions.by_content(self.read, self.size)

    def read(self, offset: int, length: int) -> bytes:
        """Exactly these bytes, from any thread. Raises SourceChanged if the copy was meddled with."""
        return read_exactly(self._file, self.path, offset, length)


def files_of(folder: Path) -> list[Path]:
    """All that is the database's own."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / RECEIPT)


def _copies(folder: Path, place: Path) -> str:
    """Copy the folder twice, while we hold its lock; gives what its files are, by size and time. Raises Locked, Unreadable or
    SourceChanged."""
    try:
        with _held(folder):
            said = []
            for source in files_of(folder):
                stat, path = source.stat(), source.relative_to(folder)
                said.append((path.as_posix(), stat.st_size, stat.st_mtime_ns, stat.st_ino))
                for copy in (_EXACT, _OPEN):
                    (place / copy / path).parent.mkdir(parents=True, exist_ok=True)
                    copy_file(source, place / copy / path)
            return blake3(repr(said).encode()).hexdigest(16)
    except FileNotFoundError as error:
        raise SourceChanged(f"{error.filename} vanished while it was copied", hint="run it again") from error
    except PermissionError as error:
        raise Unreadable(f"{error.filename} can't be read", hint="run as a user who may read all of it") from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise Unreadable(f"no room for private copies of {folder}", hint="free twice as much space as it takes") from error


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Nobody opens it while this is open. Raises Locked if somebody has."""
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise Locked(f"another process has {folder} open", hint="close its client while the backup runs") from error
    finally:
        os.close(lock)


def _require(folder: Path) -> None:
    """Raises NotFound or Unreadable if there is no database."""
    if folder.is_file():
        raise Unreadable(f"{folder} is a file: Milvus Lite before 3.0 wrote those", hint="upgrade it with milvus-lite's own tools")
    if not folder.is_dir():
        raise NotFound(f"there is no folder {folder}", hint="check the path; it is the one that a client is given")
    if not (folder / "collections").is_dir():
        raise Unreadable(f"{folder} is no database of Milvus Lite: it has no folder 'collections'", hint="check the path")


def _installed() -> str:
    try:
        return version("milvus-lite")
    except PackageNotFoundError:
        return "unknown"
