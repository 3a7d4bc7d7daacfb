"""How is a database with vec0 tables read at one moment? From a private copy, by sqlite alone; sqlite-vec itself answers only the
probes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import numpy.typing as npt

from strongroom.engines import isolation
from strongroom.engines.copied_file import CopiedFile, CopyFrozen, copied, require, stamps_of
from strongroom.engines.indexfile.held import unchanged_since
from strongroom.engines.sqlite_file import settle
from strongroom.engines.sqlite_vec import catalog, moment, shadow
from strongroom.engines.sqlite_vec.catalog import Catalog
from strongroom.engines.sqlite_vec.pages import Pages
from strongroom.engines.staged_file import FILE
from strongroom.errors import Unreadable
from strongroom.model import Answers, Cut, Description, Position, Region, RowBlock
from strongroom.progress import Progress

_CAPTURE = "strongroom.engines.sqlite_vec.moment:capture"


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
        require(self._path)
        if self._still:
            settle(self._path)
            with closing(SqliteVecFrozen(self._path, self, stamps_of(self._path, moment.beside(self._path)))) as frozen:
                yield frozen
            return
        with copied(self._path, _CAPTURE, progress) as (copy, position), closing(SqliteVecFrozen(copy, self, position)) as frozen:
            yield frozen


class SqliteVecFrozen(CopyFrozen):
    """One moment of a database, in a file that nobody changes."""

    def __init__(self, copy: Path, source: SqliteVecSource, position: Position) -> None:
        super().__init__(copy, source, position, [CopiedFile(copy, FILE, Cut.FORMAT, self._regions)])
        with self._reading() as connection:
            self._catalog: Catalog = catalog.read(connection)
        self.description = Description(
            "sqlite-vec", _installed(), self._catalog.collections(), dict(self._catalog.settings), self._catalog.ledger()
        )

    def rows(self, collection: str) -> Iterator[RowBlock]:
        """The slots of all chunks."""
        table = self._catalog.table(collection)
        with self._reading() as connection:
            yield from shadow.blocks(connection, table)

    def search(self, collection: str, field: str, queries: npt.NDArray[np.float32], k: int) -> Answers:
        """What vec0 answers, in a child process: it looks at every vector."""
        table = self._catalog.table(collection)
        column = next(one for one in table.columns if one.name == field)
        arguments = str(self._copy), collection, table.key.name, field, column.type, queries, k
        ids, distances = isolation.ask("strongroom.engines.sqlite_vec.library:search", *arguments)
        return Answers(tuple(map(tuple, ids)), tuple(distances))

    def _regions(self, file: CopiedFile) -> Iterable[Region]:
        return Pages(file.read, file.size).regions(self._catalog.placed)

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


def _installed() -> str:
    try:
        return version("sqlite-vec")
    except PackageNotFoundError:
        return "unknown"
