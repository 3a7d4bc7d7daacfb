"""How is an embedded Chroma database read at one moment? From a private copy, taken in one go and read at leisure."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import numpy.typing as npt

from strongroom.engines import isolation
from strongroom.engines.chroma import catalog, changes, rows
from strongroom.engines.chroma.capture import DATABASE, INDEX_FILES
from strongroom.engines.chroma.hnsw import LEVEL0, Header
from strongroom.engines.chroma.log import Log
from strongroom.engines.private_copy import private_directory, read_exactly
from strongroom.engines.protocol import BLOCK_BYTES, Feed
from strongroom.engines.regions import fixed_blocks
from strongroom.errors import NotFound, SourceChanged
from strongroom.model import Answers, Collection, Cut, Description, Json, LedgerItem, Position, Region, RowBlock, Status, Stretch
from strongroom.progress import Progress

_DATABASE_BLOCK = 1 << 20
"""Whole pages of sqlite, whatever their size. After 1 % of inserts and of updates (12,000 summaries, 11.3 MB) 0.67 MB were stored
by blocks of 1 MiB as what sets each apart from itself before, 0.75 by 256 KiB, 0.84 by 64 KiB; as they are 4.9, 4.5, 4.0, and 2.0
by 4 KiB."""
_RANDOM = "each time that it is opened, Chroma takes them into the index in random order, and its answers may differ a little"


class ChromaSource:
    """A Chroma directory to back up. The private copy is made in `beside` (the directory's parent if not given)."""

    def __init__(self, root: Path, beside: Path | None = None) -> None:
        self._root = root
        self._beside = beside or root.parent

    def unchanged_since(self, position: Position, moment: float) -> bool:
        """Only a frozen moment can tell."""
        return False

    def feed(self, holder: str, batch_key: str | None) -> AbstractContextManager[Feed]:
        """The log, entry by entry: see `feed`."""
        from strongroom.engines.chroma.feed import following

        return following(self._root, holder, batch_key)

    def release(self, holder: str) -> bool:
        """Hold the log back no more for `holder`."""
        from strongroom.engines.chroma.feed import release

        return release(self._root, holder)

    @contextmanager
    def freeze(self, progress: Progress) -> Iterator[ChromaFrozen]:
        """A consistent view. The writer waits while what changed last is copied; readers don't. Takes the room of a copy where
        the file system has no reflinks. Raises NotFound, Unreadable, Locked or SourceChanged."""
        if not self._root.is_dir():
            raise NotFound(f"there is no directory {self._root}", hint="check the path; it is the one given to PersistentClient")
        with private_directory(self._beside) as (stage, lock):
            copy = stage / "copy"
            copy.mkdir(mode=0o700)
            progress.begin("copying the database", None, "bytes")
            isolation.call("strongroom.engines.chroma.capture:capture", str(self._root), str(copy), isolation.Descriptor(lock))
            progress.advance(sum(file.stat().st_size for file in copy.rglob("*") if file.is_file()))
            yield ChromaFrozen(copy)


class ChromaFrozen:
    """One moment of a Chroma database, in a private copy at `root`."""

    rows_in_artifacts = False
    search_disturbs = True

    def __init__(self, root: Path) -> None:
        self._root = root
        self._artifacts: tuple[_File, ...] = ()
        self._feeds: dict[str, Json] = {}
        self._counts: dict[str, int] = {}
        self._indices: dict[str, tuple[str, Header | None]] = {}
        self._lost: dict[str, int] = {}
        self._unsettled: dict[str, int] = {}
        with catalog.reading(root / DATABASE) as connection:
            migrations = catalog.check_schema(connection)
            self._entries = {entry.address.public: entry for entry in catalog.entries(connection)}
            self._log = Log(connection)
            for name, entry in self._entries.items():
                self._note(name, entry, connection)
            self._position = catalog.last_mark(connection)
            self._catalog = catalog.source_catalog(connection, migrations)
        self._artifacts = tuple(self._files())

    def _note(self, name: str, entry: catalog.Entry, connection: sqlite3.Connection) -> None:
        """What is asked of a collection again and again; where each of its rows is takes more memory than that."""
        places = rows.locate(connection, self._log, entry, self._root)
        self._feeds[name] = changes.described(connection, self._log, entry, places, self._root)
        self._counts[name] = places.count
        self._indices[entry.vector_segment] = name, places.header
        if places.lost:
            self._lost[name] = places.lost
        if places.pending:
            self._unsettled[name] = places.pending

    @cached_property
    def description(self) -> Description:
        """Every tenant's and database's collections. `engine_version` is that of the installed library: files don't tell."""
        try:
            installed = version("chromadb")
        except PackageNotFoundError:
            installed = "unknown"
        collections = tuple(
            Collection(name, self._counts[name], (entry.field(),), entry.catalog(), entry.lineage(), self._feeds[name])
            for name, entry in self._entries.items()
        )
        cosine = any(entry.field().metric == "cosine" for entry in self._entries.values())
        lost = (
            LedgerItem(f"rows of collection {name}", Status.NOT_CAPTURED, f"{count} have metadata and no vector in the database")
            for name, count in self._lost.items()
        )
        unsettled = (
            LedgerItem(f"identical answers of collection {name}", Status.NOT_OFFERED, f"{count} ids are only in the log; {_RANDOM}")
            for name, count in self._unsettled.items()
        )
        return Description("chroma", installed, collections, self._catalog, (*catalog.ledger(cosine), *lost, *unsettled))

    @cached_property
    def _described(self) -> dict[str, Collection]:
        return {one.name: one for one in self.description.collections}

    @property
    def position(self) -> Position:
        """The last entry of Chroma's log, which all collections share."""
        return Position("sequence", self._position)

    def rows(self, collection: str) -> Iterator[RowBlock]:
        """Rows in the order of the index's slots, then those that only the log holds (with their vectors as they were given, also
        for cosine, where the index holds unit vectors). Raises NotFound or Damaged."""
        entry = self._entry(collection)
        with catalog.reading(self._root / DATABASE) as connection:
            yield from rows.read(connection, self._log, entry, self._root)

    def unchanged(self, collection: str, then: Collection, since: Position) -> Sequence[Stretch]:
        """What the log says that nobody has touched: see `changes`."""
        entry, now = self._entry(collection), self._described[collection]
        with catalog.reading(self._root / DATABASE) as connection:
            places = rows.locate(connection, self._log, entry, self._root)
            return tuple(changes.unchanged(connection, self._log, entry, places, self._root, now, then))

    def other_rows(self, collection: str, stretches: Sequence[Stretch]) -> Iterator[RowBlock]:
        """The rows that the stretches leave out. Raises NotFound or Damaged."""
        entry = self._entry(collection)
        with catalog.reading(self._root / DATABASE) as connection:
            yield from rows.read(connection, self._log, entry, self._root, stretches)

    def _entry(self, collection: str) -> catalog.Entry:
        try:
            return self._entries[collection]
        except KeyError:
            raise NotFound(f"there is no collection {collection!r}", hint=f"there are: {', '.join(self._entries)}") from None

    def artifacts(self) -> Sequence[_File]:
        """The index folders of the known collections, then chroma.sqlite3, which makes them visible."""
        return self._artifacts

    def _files(self) -> Iterator[_File]:
        for segment, (collection, header) in sorted(self._indices.items(), key=lambda index: index[0]):
            for name in INDEX_FILES:
                if (self._root / segment / name).exists():
                    yield _File(self._root, f"{segment}/{name}", *_cut(name, collection, header))
        yield _File(self._root, DATABASE, Cut.BLOCKS, _blocks(_DATABASE_BLOCK))

    def search(self, collection: str, field: str, queries: npt.NDArray[np.float32], k: int) -> Answers:
        """What Chroma answers from the copy, opened in a child process: distances are its float32. Chroma may take the log's
        tail into the copy's index on the way, which changes the copy's files."""
        entry = self._entry(collection)
        address = entry.address
        ids, distances = isolation.ask(
            "strongroom.engines.chroma.client:search", str(self._root), address.tenant, address.database, address.name, queries, k
        )
        return Answers(tuple(map(tuple, ids)), tuple(distances))

    def index_files(self, collection: str) -> Sequence[str]:
        """Those of its folder, if it has one: rows that the index lacks are taken from the log."""
        return self._folders.get(self._entry(collection).vector_segment, ())

    @cached_property
    def _folders(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for one in self._artifacts:
            found.setdefault(one.path.partition("/")[0], []).append(one.path)
        return found

    def unchanged_since(self, position: Position, moment: float) -> bool:
        """A collection's configuration changes without a number in the log."""
        return False

    def repeatable(self, collection: str) -> bool:
        """False while some of the collection's vectors are only in the log."""
        return collection not in self._unsettled

    def check(self) -> None:
        """The copy can't change under us, unless someone removed it. Raises SourceChanged then."""
        if not (self._root / DATABASE).exists():
            raise SourceChanged(f"the private copy {self._root} was removed", hint="run the backup again")


Pieces = Callable[[int], Iterable[Region]]
"""From a file's size to its regions."""


def _blocks(length: int = BLOCK_BYTES, kind: str = "bytes") -> Pieces:
    return lambda size: fixed_blocks("block", 0, size, length, kind)


def _elements(collection: str, header: Header | None) -> Pieces:
    """Cut at the same slots as the row blocks; what lies beyond the last element (Chroma writes its whole capacity) as bytes."""
    if header is None:
        return _blocks()

    def cut(size: int) -> Iterator[Region]:
        yield from (header.region(number, collection) for number in range(-(-header.count // header.block)))
        yield from fixed_blocks("unused", header.count * header.stride, size)

    return cut


def _cut(name: str, collection: str, header: Header | None) -> tuple[Cut, Pieces]:
    """The links of upper levels, lengths and ids lie in order of slots: what is added comes at the end."""
    if name == LEVEL0:
        return Cut.FORMAT, _elements(collection, header)
    if name == "link_lists.bin":
        return Cut.FORMAT, _blocks(kind="int32")
    return Cut.BLOCKS, _blocks()


class _File:
    """One file of the private copy as an artifact. `collection` is None: all of them share the sqlite file."""

    immutable = False
    collection: str | None = None

    def __init__(self, root: Path, path: str, cut: Cut, pieces: Pieces) -> None:
        self._place = root / path
        self._pieces = pieces
        self.cut = cut
        self.path = path
        self.size = self._place.stat().st_size

    def regions(self) -> Iterable[Region]:
        return self._pieces(self.size)

    def read(self, offset: int, length: int) -> bytes:
        """Exactly these bytes, from any thread. Raises SourceChanged if the copy was meddled with."""
        return read_exactly(self._place, self.path, offset, length)
