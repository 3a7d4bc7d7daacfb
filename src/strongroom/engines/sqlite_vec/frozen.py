"""How is a database with vec0 tables read at one moment? From a private copy, by sqlite alone; sqlite-vec itself answers only the
probes."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import numpy.typing as npt

from strongroom.engines import isolation
from strongroom.engines.indexfile.held import unchanged_since
from strongroom.engines.private_copy import private_directory
from strongroom.engines.sqlite_file import settle
from strongroom.engines.sqlite_vec import catalog, moment, shadow
from strongroom.engines.sqlite_vec.catalog import Catalog
from strongroom.engines.sqlite_vec.pages import Pages
from strongroom.engines.staged_file import FILE
from strongroom.errors import SourceChanged, Unreadable
from strongroom.model import Answers, Cut, Description, Position, Region, RowBlock
from strongroom.progress import Progress


class SqliteVecSource:
    """A database file. Of one that is `still`, which nobody else writes, no copy is made."""

    def __init__(self, path: Path, *, still: bool = False) -> None:
        self._path = path
        self._still = still

    def unchanged_since(self, position: Position, moment_: float) -> bool:
        """By the stamps of the file and of what lies beside it."""
        return unchanged_since(self._path, moment.beside(self._path), position, moment_)

    @contextmanager
    def freeze(self, progress: Progress) -> Iterator[SqliteVecFrozen]:
        """A consistent view. In WAL mode writers go on; otherwise their commits wait while what changed last is copied. Takes the
        room of a copy where the file system has no reflinks. Raises NotFound, Unreadable, Locked or SourceChanged."""
        moment.require(self._path)
        if self._still:
            settle(self._path)
            with closing(SqliteVecFrozen(self._path, self, moment.stamps_of(self._path))) as frozen:
                yield frozen
            return
        with private_directory(self._path.parent) as (place, lock):
            copy = place / self._path.name
            progress.begin("copying the database", None, "bytes")
            arguments = str(self._path), str(copy), isolation.Descriptor(lock)
            stamps = isolation.call("strongroom.engines.sqlite_vec.moment:capture", *arguments)
            progress.advance(copy.stat().st_size)
            with closing(SqliteVecFrozen(copy, self, Position("file", stamps))) as frozen:
                yield frozen


class SqliteVecFrozen:
    """One moment of a database, in a file that nobody changes."""

    rows_in_artifacts = False
    search_disturbs = False

    def __init__(self, copy: Path, source: SqliteVecSource, position: Position) -> None:
        self._copy = copy
        self._source = source
        self.position = position
        with self._reading() as connection:
            self._catalog: Catalog = catalog.read(connection)
        self.description = Description(
            "sqlite-vec", _installed(), self._catalog.collections(), dict(self._catalog.settings), self._catalog.ledger()
        )
        self._artifact = _File(copy, self._catalog)

    def rows(self, collection: str) -> Iterator[RowBlock]:
        """The slots of all chunks."""
        table = self._catalog.table(collection)
        with self._reading() as connection:
            yield from shadow.blocks(connection, table)

    def artifacts(self) -> Sequence[_File]:
        return (self._artifact,)

    def search(self, collection: str, field: str, queries: npt.NDArray[np.float32], k: int) -> Answers:
        """What vec0 answers, in a child process: it looks at every vector."""
        table = self._catalog.table(collection)
        column = next(one for one in table.columns if one.name == field)
        arguments = str(self._copy), collection, table.key.name, field, column.type, queries, k
        ids, distances = isolation.ask("strongroom.engines.sqlite_vec.library:search", *arguments)
        return Answers(tuple(map(tuple, ids)), tuple(distances))

    def unchanged_since(self, position: Position, moment: float) -> bool:
        return self._source.unchanged_since(position, moment)

    def repeatable(self, collection: str) -> bool:
        return True

    def check(self) -> None:
        """The copy can't change under us, unless someone removed it. Raises SourceChanged then."""
        if not self._copy.exists():
            raise SourceChanged(f"the private copy {self._copy} was removed", hint="run the backup again")

    def close(self) -> None:
        """Let go of the file."""
        self._artifact.close()

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """Of this thread; text is given as bytes. Raises Unreadable."""
        try:
            address = f"{self._copy.as_uri()}?mode=ro&immutable=1"
            with closing(sqlite3.connect(address, uri=True, isolation_level=None)) as connection:
                connection.text_factory = bytes
                yield connection
        except sqlite3.DatabaseError as error:
            hint = "check it with 'PRAGMA integrity_check'; if it is damaged restore it from an earlier snapshot"
            raise Unreadable(f"the database can't be read: {error}", hint=hint) from error


class _File:
    """The database as an artifact."""

    path = FILE
    collection: str | None = None
    immutable = False
    cut = Cut.FORMAT

    def __init__(self, copy: Path, tables: Catalog) -> None:
        self._copy = copy
        self._tables = tables
        self._lock = threading.Lock()
        self._descriptor = -1
        self.size = copy.stat().st_size

    def regions(self) -> Iterable[Region]:
        return Pages(self.read, self.size).regions(self._tables.placed)

    def read(self, offset: int, length: int) -> bytes:
        """Exactly these bytes, from any thread. Raises SourceChanged if the copy was meddled with."""
        with self._lock:
            if self._descriptor < 0:
                self._descriptor = os.open(self._copy, os.O_RDONLY | os.O_CLOEXEC)
        content = os.pread(self._descriptor, length, offset)
        while len(content) < length and (more := os.pread(self._descriptor, length - len(content), offset + len(content))):
            content += more
        if len(content) != length:
            raise SourceChanged("the private copy of the database ends early")
        return content

    def close(self) -> None:
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1


def _installed() -> str:
    try:
        return version("sqlite-vec")
    except PackageNotFoundError:
        return "unknown"
