"""What is one moment of a cluster? Its files, as a base backup has them, and the rows that PostgreSQL finds in them.

The rows plane is inside of the files: rows are read (to be fingerprinted, and for the probes) from a server that runs on a copy.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from strongroom.engines.pgvector.address import Layout
from strongroom.engines.pgvector.frozen import FrozenPg, PgSource
from strongroom.engines.pgvector.physical.feed import KIND, Mark
from strongroom.engines.pgvector.physical.kept import whole
from strongroom.engines.pgvector.physical.place import Directory, Server
from strongroom.engines.pgvector.physical.programs import programs_of
from strongroom.engines.pgvector.physical.received import Received
from strongroom.engines.pgvector.physical.replication import Replication
from strongroom.engines.pgvector.physical.scratch import Scratch, running
from strongroom.errors import EngineFailed, NotFound, SourceChanged, Unreadable
from strongroom.model import INDEX_FILES, Answers, Collection, Cut, Description, LedgerItem, Position, Region, RowBlock, Status
from strongroom.progress import Progress

if TYPE_CHECKING:
    from strongroom.engines.pgvector.physical.feed import WalFeed

Tables = dict[str, tuple[FrozenPg, str]]
"""By the name of a collection: the database as it was frozen, and what the table is called in it."""

REGION_BYTES = 1 << 20
"""A file is cut into pieces of so many bytes, a multiple of a page: of one in which pages changed, these are stored."""


class File:
    """One file of a base backup as an artifact."""

    collection: str | None = None
    immutable = False
    cut = Cut.BLOCKS

    def __init__(self, root: Path, path: str) -> None:
        self.path = path
        self._place = root / path
        self.size = self._place.stat().st_size

    def regions(self) -> Iterable[Region]:
        for offset in range(0, self.size, REGION_BYTES):
            yield Region(offset, min(REGION_BYTES, self.size - offset), key=str(offset))

    def read(self, offset: int, length: int) -> bytes:
        """Exactly these bytes. Raises SourceChanged if the copy was meddled with."""
        with self._place.open("rb", buffering=0) as file:
            file.seek(offset)
            content = file.read(length) or b""
        if len(content) != length:
            raise SourceChanged(f"{self.path} of the base backup ends early")
        return content


class FrozenCluster:
    """The tables with vectors of all databases, called DATABASE/TABLE, as the files have them."""

    rows_in_artifacts = True
    search_disturbs = False

    def __init__(self, position: Position, description: Description, tables: Tables, files: list[File]) -> None:
        self.position = position
        self.description = description
        self._tables = tables
        self._files = files

    def rows(self, collection: str) -> Iterator[RowBlock]:
        frozen, name = self._table(collection)
        yield from frozen.rows(name)

    def artifacts(self) -> Sequence[File]:
        return self._files

    def search(self, collection: str, field: str, queries: npt.NDArray[np.float32], k: int) -> Answers:
        """What the server answers from the copy of the files."""
        frozen, name = self._table(collection)
        return frozen.search(name, field, queries, k)

    def unchanged_since(self, position: Position, moment: float) -> bool:
        """A server's log moves on by itself."""
        return False

    def repeatable(self, collection: str) -> bool:
        """The pages of the indexes are the same, byte for byte."""
        return True

    def check(self) -> None:
        """The base backup can't change under us, unless someone removed it. Raises SourceChanged then."""
        if not all(Path(one._place).exists() for one in self._files):
            raise SourceChanged("the private copy of the base backup was removed", hint="run the backup again")

    def _table(self, collection: str) -> tuple[FrozenPg, str]:
        if collection not in self._tables:
            raise NotFound(f"there is no table {collection!r} with vectors")
        return self._tables[collection]


class ServerSource:
    """A running server, to be copied."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def unchanged_since(self, position: Position, moment: float) -> bool:
        return False

    @contextmanager
    def freeze(self, progress: Progress) -> Iterator[FrozenCluster]:
        """Writers are not held up. Raises Unreadable, Unreachable, Refused, WrongRequest (no programs of its version here),
        SourceChanged (the server's manifest says otherwise), or EngineFailed (PostgreSQL doesn't open what came)."""
        probe = Replication(self._server)
        probe.close()
        programs = programs_of(probe.version // 10_000)
        with tempfile.TemporaryDirectory(prefix="strongroom-base-") as place, ExitStack() as stack:
            received = stack.enter_context(whole(self._server, Path(place), programs, progress))
            scratch = stack.enter_context(running(received.path, programs))
            tables = _tables(scratch, stack, progress)
            position = Position(KIND, str(Mark(received.stop, received.system, received.timeline)))
            files = [File(received.path, one) for one in received.files]
            yield FrozenCluster(position, _described(scratch, received, tables), tables, files)

    def feed(self, holder: str, batch_key: str | None) -> AbstractContextManager[WalFeed]:
        """See `feed`."""
        from strongroom.engines.pgvector.physical.feed import following

        return following(self._server, holder)

    def release(self, holder: str) -> bool:
        """See `feed`."""
        from strongroom.engines.pgvector.physical.feed import release

        return release(self._server, holder)


class DirectorySource:
    """A data directory that no server uses, to be read."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    def unchanged_since(self, position: Position, moment: float) -> bool:
        return False

    @contextmanager
    def freeze(self, progress: Progress) -> Iterator[FrozenCluster]:
        """The rows that PostgreSQL finds in a copy of it, once pg_amcheck has looked at it. Raises NotFound, Unreadable (it is no
        data directory, or a server runs on it), WrongRequest, or EngineFailed."""
        path = self._directory.path
        major = major_of(path)
        if (path / "postmaster.pid").exists():
            raise Unreadable(f"a server runs on {path}", hint="back it up by its address: pgvector+physical://user@host:port")
        with ExitStack() as stack:
            scratch = stack.enter_context(running(path, programs_of(major)))
            scratch.examine()
            tables = _tables(scratch, stack, progress)
            shown = {name: one for name, one in tables.items() if not self._directory.only or name in self._directory.only}
            description = Description("pgvector+physical", scratch.programs.version, _collections(shown))
            yield FrozenCluster(Position("directory", str(path)), description, shown, [])


def major_of(path: Path) -> int:
    """The version of a data directory. Raises NotFound or Unreadable."""
    if not path.exists():
        raise NotFound(f"there is nothing at {path}")
    try:
        return int((path / "PG_VERSION").read_text())
    except (OSError, ValueError) as error:
        raise Unreadable(f"{path} is no data directory of PostgreSQL") from error


def _tables(scratch: Scratch, stack: ExitStack, progress: Progress) -> Tables:
    found: Tables = {}
    for database, vectors in scratch.databases():
        if vectors:
            frozen = stack.enter_context(PgSource(scratch.address(database), Layout()).freeze(progress))
            found |= {f"{database}/{one.name}": (frozen, one.name) for one in frozen.description.collections}
    return found


def _collections(tables: Tables) -> tuple[Collection, ...]:
    return tuple(replace(frozen.description.collection(inner), name=name) for name, (frozen, inner) in tables.items())


def _described(scratch: Scratch, received: Received, tables: Tables) -> Description:
    versions = {str(frozen.description.catalog["extension"]) for frozen, _ in tables.values()}
    catalog = {
        "system": received.system,
        "timeline": received.timeline,
        "start": received.start,
        "stop": received.stop,
        "segment_bytes": received.segment_bytes,
        "folders": list(received.folders),
        "extension": sorted(versions),
        "databases": [name for name, _ in scratch.databases()],
    }
    version = f"PostgreSQL {received.version // 10_000}.{received.version % 10_000}"
    return Description("pgvector+physical", version, _collections(tables), catalog, tuple(_ledger(scratch, received)))


def _ledger(scratch: Scratch, received: Received) -> Iterator[LedgerItem]:
    held, missing = Status.CAPTURED, Status.NOT_CAPTURED
    yield LedgerItem(INDEX_FILES, held, "every page as it was, of HNSW and IVFFlat too")
    yield LedgerItem("rows", held, "inside of the files; read from a server that was started on a copy of them")
    names = ", ".join(name for name, _ in scratch.databases())
    yield LedgerItem("all databases with all that is in them, roles and grants", held, names)
    yield LedgerItem("files against the server's manifest", held, "length and SHA-256 of each are as it says")
    if received.incremental:
        yield LedgerItem("incremental base backup", held, received.incremental)
    try:
        why = scratch.examine()
        yield LedgerItem("tables and B-trees, looked at by pg_amcheck", missing if why else held, why)
    except EngineFailed as error:
        yield LedgerItem("tables and B-trees, looked at by pg_amcheck", missing, f"the source itself is damaged: {error}")
    if not (received.path / "postgresql.conf").exists():
        yield LedgerItem("configuration files", missing, "they lie outside of the data directory")
    yield LedgerItem("unlogged tables, replication slots, statistics", Status.NOT_OFFERED, "a base backup leaves them out")
