"""How is a shard read at one moment? From a private copy, which Qdrant itself brings in order, read at leisure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from strongroom.engines import isolation
from strongroom.engines.oplog import feed
from strongroom.engines.oplog.calls import end_of
from strongroom.engines.oplog.feed import OplogFeed
from strongroom.engines.oplog.rows import changes_of
from strongroom.engines.private_copy import private_directory, read_exactly
from strongroom.engines.qdrant.edge import layout, moment
from strongroom.engines.qdrant.edge.library import config_at, version_at
from strongroom.engines.qdrant.edge.logfolder import EdgeLogFolder
from strongroom.engines.qdrant.shape import Shape, collection_of, ledger, shape_of
from strongroom.errors import EngineFailed, NotFound, SourceChanged, Unreadable
from strongroom.model import Answers, Cut, Description, Position, Region, RowBlock
from strongroom.progress import Progress

_LIBRARY = "strongroom.engines.qdrant.edge.library"


class EdgeSource:
    """The shard in a folder. The private copy is made in `beside`, the folder's parent if that isn't given."""

    def __init__(self, shard: Path, name: str | None = None, beside: Path | None = None) -> None:
        self._shard = shard
        self._name = name or shard.name
        self._beside = beside or shard.parent

    def unchanged_since(self, position: Position, moment: float) -> bool:
        """Only a frozen moment can tell."""
        return False

    @contextmanager
    def freeze(self, progress: Progress) -> Iterator[EdgeFrozen]:
        """A consistent view. Takes the room of what the shard holds. Raises NotFound, Unreadable, Locked or SourceChanged."""
        moment.require_shard(self._shard)
        with private_directory(self._beside) as (place, _):
            copy, rows = place / self._name, place / "rows.arrow"
            copy.mkdir()
            progress.begin("copying the shard", None, "bytes")
            taken = moment.copy_moment(self._shard, copy)
            progress.advance(sum(file.stat().st_blocks * 512 for file in moment.files_of(copy)))
            try:
                count, indexes = isolation.call(f"{_LIBRARY}:settle", str(copy), str(rows))
            except EngineFailed as error:
                hint = "check that its release is the one that wrote it; if it is damaged restore it from an earlier snapshot"
                raise Unreadable(f"Qdrant Edge can't open {self._shard}: {error}", hint=hint) from error
            config = config_at(str(copy))
            description = Description(
                "qdrant-edge", _installed(), (collection_of(self._name, count, config, indexes),), {}, ledger(config, indexes)
            )
            yield EdgeFrozen(copy, rows, description, taken.position(version_at(copy)), shape_of(config))

    def feed(self, holder: str, batch_key: str | None) -> AbstractContextManager[OplogFeed]:
        """What the capture of the shard recorded; a batch has the name that the capture was told."""
        folder = EdgeLogFolder(self._shard)
        return feed.following(folder, holder, changes_of, lambda log: end_of(folder, log).place)

    def release(self, holder: str) -> bool:
        return feed.release(EdgeLogFolder(self._shard), holder)


def _installed() -> str:
    try:
        return version("qdrant-edge-py")
    except PackageNotFoundError:
        return "unknown"


class EdgeFrozen:
    """One moment of a shard, in a private copy."""

    rows_in_artifacts = False
    search_disturbs = True

    def __init__(self, copy: Path, rows: Path, description: Description, position: Position, shape: Shape) -> None:
        self._copy = copy
        self._rows = rows
        self.description = description
        self.position = position
        self._shape = shape
        name = description.collections[0].name
        self._artifacts = tuple(_File(copy, path.relative_to(copy).as_posix(), name, shape) for path in moment.files_of(copy))

    def rows(self, collection: str) -> Iterator[RowBlock]:
        """Points by ascending id."""
        self._require(collection)
        with pa.memory_map(str(self._rows)) as file, pa.ipc.open_file(file) as reader:
            for number in range(reader.num_record_batches):
                yield RowBlock(reader.get_batch(number))

    def artifacts(self) -> Sequence[_File]:
        """All files; the configuration comes last."""
        return self._artifacts

    def search(self, collection: str, field: str, queries: npt.NDArray[np.float32], k: int) -> Answers:
        """What Qdrant answers from the copy, opened in a child process."""
        self._require(collection)
        vector = next(one.name for one in self._shape.vectors if one.column == field)
        ids, scores = isolation.ask(f"{_LIBRARY}:search", str(self._copy), vector, queries, k)
        return Answers(tuple(map(tuple, ids)), tuple(scores))

    def unchanged_since(self, position: Position, moment: float) -> bool:
        return False

    def repeatable(self, collection: str) -> bool:
        return True

    def check(self) -> None:
        """The copy can't change under us, unless someone removed it. Raises SourceChanged then."""
        if not self._copy.exists():
            raise SourceChanged(f"the private copy {self._copy} was removed", hint="run the backup again")

    def _require(self, collection: str) -> None:
        name = self.description.collections[0].name
        if collection != name:
            raise NotFound(f"there is no collection {collection!r}", hint=f"a shard is one collection: {name}")


class _File:
    """One file of the private copy as an artifact."""

    immutable = False

    def __init__(self, copy: Path, path: str, collection: str, shape: Shape) -> None:
        self._copy = copy
        self._shape = shape
        self.path = path
        self.collection: str | None = collection
        self.size = (copy / path).stat().st_size
        self.cut: Cut = layout.cut_of(shape, path)

    def regions(self) -> Iterable[Region]:
        return layout.regions_of(self._shape, self._copy, self.path, self.size)

    def read(self, offset: int, length: int) -> bytes:
        """Exactly these bytes, from any thread. Raises SourceChanged if the copy was meddled with."""
        return read_exactly(self._copy / self.path, self.path, offset, length)
