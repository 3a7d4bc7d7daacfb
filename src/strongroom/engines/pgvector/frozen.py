"""How is a database read at one moment, while others write?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from strongroom.engines.pgvector import catalog, describe, rights
from strongroom.engines.pgvector.address import Address, Layout
from strongroom.engines.pgvector.catalog import Table
from strongroom.engines.pgvector.columns import ROW, Shape, arrow_type, from_binary, is_dense, selected, shape_of
from strongroom.engines.pgvector.copying import fields
from strongroom.engines.pgvector.moment import Moment, frozen_moment
from strongroom.engines.pgvector.search import nearest
from strongroom.engines.pgvector.server import connect, extension, failing_as, quoted, server_version
from strongroom.engines.protocol import Artifact, rows_per_block
from strongroom.errors import EngineFailed, NotFound, SourceChanged, Unreadable
from strongroom.model import Answers, Description, Position, RowBlock
from strongroom.progress import Progress

if TYPE_CHECKING:
    from strongroom.engines.pgvector.feed import PgFeed


_MOST_BYTES = 32 << 20
"""Of a block of rows, documents and all: several blocks are in memory at once."""


class FrozenPg:
    """The tables with vectors as one transaction sees them."""

    rows_in_artifacts = False
    search_disturbs = False

    def __init__(self, moment: Moment, layout: Layout) -> None:
        self._moment = moment
        connection = moment.connection
        version, self._extension = extension(connection)
        found = catalog.read(connection, layout, self._extension)
        _hold(moment, found.tables)
        self.shapes = {one.collection: shape_of(one, _dimensions(moment, one, self._extension)) for one in found.tables}
        counts = {name: _count(moment, shape.table) for name, shape in self.shapes.items()}
        self.description = Description(
            engine="pgvector",
            engine_version=f"{version} on PostgreSQL {server_version(connection)}",
            collections=tuple(describe.collection(shape, counts[name]) for name, shape in self.shapes.items()),
            catalog={"extension": version, "extension_schema": self._extension, **rights.described(connection, found.tables)},
            ledger=tuple(describe.ledger(found, tuple(self.shapes.values()), moment.unplaced)),
        )

    @property
    def position(self) -> Position:
        """The place in the server's log: see `moment`."""
        return self._moment.position

    def rows(self, collection: str) -> Iterator[RowBlock]:
        """In the order of the table. Raises Unreadable, SourceChanged or Unreachable."""
        shape = self._shape(collection)
        step = rows_per_block(shape.row_bytes)
        place = quoted(shape.table.schema, shape.table.name)
        query = f"COPY (SELECT {selected(shape)} FROM ONLY {place} AS {ROW}) TO STDOUT (FORMAT binary)"
        with self._moment.reader() as connection, failing_as(Unreadable, f"table {collection}"), connection.cursor() as cursor:
            gathered: list[list[bytes | None]] = []
            size = 0
            with cursor.copy(query.encode()) as copy:
                for row in fields(copy):
                    gathered.append(row)
                    size += sum(len(cell) for cell in row if cell is not None)
                    if len(gathered) == step or size >= _MOST_BYTES:
                        yield RowBlock(from_binary(shape, gathered))
                        gathered, size = [], 0
            if gathered:
                yield RowBlock(from_binary(shape, gathered))

    def artifacts(self) -> Sequence[Artifact]:
        """A server gives its files to nobody."""
        return ()

    def search(self, collection: str, field: str, queries: npt.NDArray[np.float32], k: int) -> Answers:
        """What the server answers with its defaults, by the index if it takes it."""
        shape = self._shape(collection)
        if field not in shape.schema.names:
            raise NotFound(f"table {collection} has no column {field!r}")
        with self._moment.reader() as connection, failing_as(EngineFailed, f"search in {collection}"):
            return nearest(connection, shape, field, queries, k, self._extension)

    def unchanged_since(self, position: Position, moment: float) -> bool:
        """Only reading it can tell."""
        return False

    def repeatable(self, collection: str) -> bool:
        """An index that is built again has other links, and another server's processor rounds otherwise."""
        return False

    def check(self) -> None:
        """Raises SourceChanged if the transaction did not last."""
        with failing_as(SourceChanged, "the moment was lost"):
            self._moment.connection.execute("SELECT 1")

    def _shape(self, collection: str) -> Shape:
        if collection not in self.shapes:
            raise NotFound(f"there is no table {collection!r} with vectors")
        return self.shapes[collection]


class PgSource:
    """A database, or a schema of it, to be read."""

    def __init__(self, address: Address, layout: Layout) -> None:
        self._address = address
        self._layout = layout

    def unchanged_since(self, position: Position, moment: float) -> bool:
        """Only reading it can tell."""
        return False

    @contextmanager
    def freeze(self, progress: Progress) -> Iterator[FrozenPg]:
        """Writers are not held up; only who alters, truncates or drops a table waits. Raises NotFound, Unreadable, Unreachable, or
        SourceChanged if somebody did so just then."""
        with frozen_moment(self._address) as moment:
            with failing_as(Unreadable, self._address.shown):
                frozen = FrozenPg(moment, self._layout)
            yield frozen

    def feed(self, holder: str, batch_key: str | None) -> AbstractContextManager[PgFeed]:
        """See `feed`."""
        from strongroom.engines.pgvector.feed import following

        return following(self._address, holder, batch_key)

    def release(self, holder: str) -> bool:
        """See `slot`."""
        from strongroom.engines.pgvector.slot import release

        return release(self._address, holder)


def _hold(moment: Moment, tables: Sequence[Table]) -> None:
    """Nobody alters the tables from here on. Raises SourceChanged if somebody has since the moment: what was truncated or written
    anew can't be seen as it was."""
    for one in tables:
        place = quoted(one.schema, one.name)
        with failing_as(SourceChanged, f"table {one.collection} was renamed or dropped"):
            moment.connection.execute(f"LOCK TABLE ONLY {place} IN ACCESS SHARE MODE".encode())
    query = "SELECT oid::int8, relfilenode::int8 FROM pg_catalog.pg_class WHERE oid = ANY(%s)"
    oids = [one.oid for one in tables]
    then: dict[int, int] = dict(moment.connection.execute(query, (oids,)).fetchall())
    with connect(moment.address) as other:
        now: dict[int, int] = dict(other.execute(query, (oids,)).fetchall())
    odd = [one.collection for one in tables if then[one.oid] != now.get(one.oid)]
    if odd:
        raise SourceChanged(f"table {odd[0]} was truncated, altered or dropped just now", hint="run the same command again")


def _dimensions(moment: Moment, table: Table, schema: str) -> dict[str, int]:
    """Of columns that state no dimension the one that all their vectors have, if they have one."""
    found = {}
    place = quoted(table.schema, table.name)
    for one in table.stored:
        if one.vector and one.base in ("vector", "halfvec") and not is_dense(arrow_type(one, {})):
            length = f"{quoted(schema)}.vector_dims({quoted(one.name)})"
            query = f"SELECT min({length}), max({length}) FROM ONLY {place}"
            least, most = moment.connection.execute(query.encode()).fetchall()[0]
            if least is not None and least == most:
                found[one.name] = int(least)
    return found


def _count(moment: Moment, table: Table) -> int:
    query = f"SELECT count(*) FROM ONLY {quoted(table.schema, table.name)}"
    return int(moment.connection.execute(query.encode()).fetchall()[0][0])
