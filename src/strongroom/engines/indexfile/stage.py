"""How an index file and what lies beside it are put in place: the files as they were, or an index built anew from rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

import pyarrow as pa

from strongroom.engines.changes import Change
from strongroom.engines.indexfile.applying import apply
from strongroom.engines.indexfile.feed import IDENTITY
from strongroom.engines.indexfile.place import ARRAY, SUFFIXES, beside
from strongroom.engines.protocol import Source
from strongroom.engines.staging import StagedEntries, remove, sync_tree, write_durably
from strongroom.errors import Damaged
from strongroom.model import Collection, Description, Selection


def occupied(path: Path, more: Sequence[Path] = ()) -> Sequence[str]:
    """The names that stand in the way of an index at `path`. An array of vectors doesn't: it is replaced only by another one."""
    names = [path, *(path.with_suffix(suffix) for suffix in SUFFIXES), *more]
    return [one.name for one in names if one.exists()]


def receipt_of(path: Path) -> bytes | None:
    """What the last restore left beside the index at `path`."""
    try:
        return (path.parent / _receipt_name(path)).read_bytes()
    except FileNotFoundError:
        return None


class IndexStage(ABC):
    """A new index and what belongs beside it, built beside the target."""

    replaying: ClassVar[str]
    """The function ('module:name') that applies changes to an index file in a child process."""

    def __init__(self, path: Path, token: str, selection: Selection, more: Sequence[Path] = ()) -> None:
        """`more` are files beside the index, other than sidecars, that belong to it. Raises Locked if another process has the
        stage of this token."""
        receipt = _receipt_name(path)
        places = (path, *beside(path), *more)
        self._path = path
        self._more = tuple(one.name for one in more)
        self._name = selection.target_name(selection.collections[0]) if len(selection.collections) == 1 else path.stem
        entries = [*(one.name for one in places), receipt]
        spared = [path.with_suffix(ARRAY).name]
        self._staged = StagedEntries(path.parent, token, entries, records=[receipt], spared=spared)
        self._rows = self._staged.directory / "rows"

    @property
    def directory(self) -> Path:
        return self._staged.directory

    @property
    def index(self) -> Path:
        """Where the index stands in the stage."""
        return self._staged.new / self._path.name

    @abstractmethod
    def _build(self, collection: Collection, batches: Iterable[pa.RecordBatch], scratch: Path) -> None:
        """Write the index and its sidecar from rows; `scratch` is an empty directory."""

    @abstractmethod
    def _source(self, path: Path, name: str) -> Source:
        """The index at `path` as a source whose collection is called `name`."""

    def artifact_path(self, path: str) -> Path:
        """The staged file that takes the place of a source's file, under this target's own name."""
        place = self._staged.contained(path)
        if place.parent != self._staged.new:
            raise Damaged(f"artifact {path!r}", "an index and what belongs to it lie in one directory")
        if place.suffix in (*SUFFIXES, ARRAY):
            return self.index.with_suffix(place.suffix)
        more = next((name for name in self._more if Path(name).suffix == place.suffix), self.index.name)
        return self._staged.new / more

    def adopt(self, description: Description, selection: Selection) -> None:
        """An index file is one collection: there is nothing to drop. Once published it is called as its file is."""
        for collection in selection.chosen(description.collections):
            self._name = selection.target_name(collection.name)

    def load(self, collection: Collection, batches: Iterable[pa.RecordBatch]) -> None:
        """Build an index from rows, which pass through files in the stage."""
        self._name = collection.name
        for leftover in (self.index, self.index.with_suffix(".parquet"), self._rows):
            remove(leftover)
        self._rows.mkdir(mode=0o700)
        self._build(collection, batches, self._rows)
        remove(self._rows)

    def identity(self, collection: Collection) -> str:
        """The same for every index file: it is one collection."""
        return IDENTITY

    def apply(self, changes: Iterable[Change], selection: Selection) -> int:
        """By the library's own calls, in a child process."""
        return apply(self.replaying, self.index, self.directory, changes)

    def seal(self) -> None:
        sync_tree(self._staged.new)

    def source(self) -> Source:
        """The staged index; its collection is called as the restore calls it."""
        return self._source(self.index, self._name)

    def publish(self, receipt: bytes, *, overwrite: bool) -> None:
        if not (self.directory / "publishing").exists():
            write_durably(self._staged.new / _receipt_name(self._path), receipt)
        self._staged.publish(overwrite=overwrite)

    def discard(self) -> None:
        self._staged.discard()

    def close(self) -> None:
        self._staged.close()


def _receipt_name(path: Path) -> str:
    return f"{path.name}.strongroom.json"
