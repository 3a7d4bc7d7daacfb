"""How are changes of the journal applied to staged tables? By SQL, in one transaction: rows by their keys, many at a time, and what
became of a table by the statements that lead from what it is to what it was then."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from strongroom.engines.changes import ACT, OWN_COLUMNS, Act, CatalogChange, Change, RowChanges, column_of
from strongroom.engines.pgvector import catalog, definitions
from strongroom.engines.pgvector.address import Layout
from strongroom.engines.pgvector.catalog import Table
from strongroom.engines.pgvector.loading import Loading
from strongroom.engines.pgvector.server import Connection, quoted
from strongroom.errors import EngineFailed
from strongroom.model import Collection, Role, Selection

_GATHERED_BYTES = 16 << 20
_GATHERED_ROWS = 20_000
_FEW_ROWS = 500


class Replay:
    """Applies changes; `names` are the collections that are staged, each with the number of its table where it was backed up."""

    def __init__(
        self, connection: Connection, layout: Layout, names: Mapping[str, str], selection: Selection, extension: str
    ) -> None:
        self._connection = connection
        self._layout = layout
        self._selection = selection
        self._extension = extension
        self._identities = dict(names)
        self._tables: dict[str, Table] = {}
        self._rows: dict[str, int] = {}
        self._loadings: dict[tuple[str, pa.Schema], tuple[Loading, Loading]] = {}
        self._changed: Counter[str] = Counter()
        self._later: dict[str, dict[str, dict[str, Any]]] = {}

    def names(self) -> dict[str, str]:
        """The collections after it."""
        return {one.collection: identity for identity, one in self._tables.items()}

    def run(self, changes: Iterable[Change]) -> int:
        """Gives the number of operations on tables that are, or shall be, there."""
        count = 0
        with self._connection.transaction():
            for one in catalog.read(self._connection, self._layout, self._extension).tables:
                identity, place = self._identities[one.collection], quoted(one.schema, one.name)
                self._tables[identity] = one
                (self._rows[identity],) = self._connection.execute(f"SELECT count(*) FROM {place}".encode()).fetchall()[0]
            for step in _steps(changes):
                if isinstance(step, CatalogChange):
                    self._change(step)
                    count += 1
                else:
                    count += sum(self._put(identity, some) for identity, some in step.items())
            for identity, one in self._tables.items():
                self._advance(one)
                self._build_later(identity, one)
        return count

    # -- rows ------------------------------------------------------------------------------------------------------------------

    def _put(self, identity: str, changes: Sequence[RowChanges]) -> int:
        """What the last operation on each row left of it takes the place of what was there."""
        table = self._tables.get(identity)
        if table is None:
            return 0
        batch = pa.Table.from_batches([one.batch for one in changes]).combine_chunks().to_batches()[0]
        last = _last(batch)
        rows = last.drop_columns([one.name for one in OWN_COLUMNS])
        self._changed[identity] += last.num_rows
        self._spare(identity, table)
        keys, whole = self._loading(identity, table, rows.schema)
        with keys.arrived(rows):
            keys.delete_arrived(table.key)
        put = rows.filter(pc.equal(last.column(ACT), pa.scalar(int(Act.PUT), pa.int8())))
        if put.num_rows:
            whole.insert(put)
        return int(batch.num_rows)

    def _loading(self, identity: str, table: Table, schema: pa.Schema) -> tuple[Loading, Loading]:
        found = self._loadings.get((identity, schema))
        if found is None:
            place, number = self._layout.place(table.collection), len(self._loadings)
            self._search(place[0])
            columns = definitions.loaded_columns(schema, table.described())
            keys = [(name, kind) for name, kind in columns if name in table.key]
            if len(keys) != len(table.key) or not keys:
                raise EngineFailed(f"table {table.collection} has no primary key to find its rows by")
            found = (
                Loading(self._connection, place, schema, keys, f"strongroom_keys_{number}"),
                Loading(self._connection, place, schema, columns, f"strongroom_rows_{number}"),
            )
            self._loadings[identity, schema] = found
        return found

    def _spare(self, identity: str, table: Table) -> None:
        """A graph takes far longer to take in rows one by one than to be built at the end."""
        if identity in self._later or self._changed[identity] < max(_FEW_ROWS, self._rows.get(identity, 0) // 8):
            return
        spared = [one for one in table.indexes if one.of_vectors and one.valid and not one.constraint]
        self._later[identity] = {
            one.name: {key: value for key, value in one.described().items() if key != "name"} for one in spared
        }
        self._run(f"DROP INDEX {quoted(table.schema, one.name)}" for one in spared)

    def _build_later(self, identity: str, table: Table) -> None:
        later = self._later.get(identity, {})
        self._search(table.schema)
        body = {"table": table.name}
        self._run(definitions.index(self._place(table), {**one, "name": name}, body) for name, one in later.items())

    def _search(self, schema: str) -> None:
        path = definitions.search_path(self._layout, schema, self._extension)
        self._connection.execute(f"SET LOCAL search_path = {path}".encode())

    # -- tables ----------------------------------------------------------------------------------------------------------------

    def _change(self, change: CatalogChange) -> None:
        self._loadings.clear()
        doomed = self._tables.keys() - change.present.keys() if change.whole else self._tables.keys() & set(change.gone)
        for identity in sorted(doomed):
            place = quoted(*self._place(self._tables[identity]))
            if identity in change.present:
                self._connection.execute(f"TRUNCATE ONLY {place}".encode())
            else:
                self._connection.execute(f"DROP TABLE {place} CASCADE".encode())
                del self._tables[identity]
                self._later.pop(identity, None)
        for identity, collection in change.present.items():
            if identity in self._tables:
                self._alter(identity, collection)
            elif self._selection.wants(collection.name):
                self._make(identity, collection)

    def _make(self, identity: str, collection: Collection) -> None:
        name = self._selection.target_name(collection.name)
        place = self._layout.place(name)
        self._connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(place[0])}".encode())
        self._search(place[0])
        body = collection.catalog
        self._run((*definitions.table(place, body), *definitions.keys_and_indexes(place, body)))
        self._tables[identity] = self._read(place)

    def _alter(self, identity: str, collection: Collection) -> None:
        table = self._tables[identity]
        name = self._selection.target_name(collection.name)
        place = self._layout.place(name)
        before = self._place(table)
        if before != place:
            self._connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(place[0])}".encode())
            if before[0] != place[0]:
                self._connection.execute(f"ALTER TABLE {quoted(*before)} SET SCHEMA {quoted(place[0])}".encode())
            if before[1] != place[1]:
                self._connection.execute(f"ALTER TABLE {quoted(place[0], before[1])} RENAME TO {quoted(place[1])}".encode())
        self._search(place[0])
        later, wanted = self._later.get(identity, {}), _named(collection.catalog, "indexes", place[1])
        there = table.described()
        self._run(_altered(place, {**there, "indexes": there["indexes"] + _listed(later)}, collection.catalog))
        self._tables[identity] = self._read(place)
        if later:
            self._later[identity] = {name: one for name, one in later.items() if wanted.get(name) == one}

    def _read(self, place: tuple[str, str]) -> Table:
        oid = self._connection.execute("SELECT %s::regclass::oid::int8", (quoted(*place),)).fetchall()[0][0]
        found = catalog.table_of(catalog.described(self._connection, oid, place[0], self._extension), self._layout)
        if found is None:
            raise EngineFailed(f"table {place[1]} has no vectors")
        return found

    def _place(self, table: Table) -> tuple[str, str]:
        return table.schema, table.name

    def _run(self, statements: Iterable[str]) -> None:
        for one in statements:
            self._connection.execute(one.encode())

    def _advance(self, table: Table) -> None:
        """The sequences of columns go on after the highest number that a row has."""
        place = (table.schema, table.name)
        self._run(definitions.beyond_rows(place, one, quoted(table.schema, one["name"])) for one in table.sequences)


def _steps(changes: Iterable[Change]) -> Iterator[CatalogChange | dict[str, list[RowChanges]]]:
    """Row changes gathered by table, up to the next change of a table: tables don't depend on each other."""
    gathered: dict[str, list[RowChanges]] = {}
    size = rows = 0
    for change in changes:
        if isinstance(change, RowChanges):
            some = gathered.setdefault(change.identity, [])
            if some and some[-1].batch.schema != change.batch.schema:
                yield gathered
                gathered, size, rows = {change.identity: []}, 0, 0
                some = gathered[change.identity]
            some.append(change)
            size, rows = size + change.batch.nbytes, rows + len(change)
        if isinstance(change, CatalogChange) or size >= _GATHERED_BYTES or rows >= _GATHERED_ROWS:
            yield gathered
            gathered, size, rows = {}, 0, 0
        if isinstance(change, CatalogChange):
            yield change
    yield gathered


def _last(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The last operation on each row."""
    name = column_of(batch, Role.ID)
    last = {one: place for place, one in enumerate(batch.column(name).to_pylist())}
    return batch.take(pa.array(sorted(last.values()), pa.int64()))


def _altered(place: tuple[str, str], before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """The statements that make of a table what it became. The names of what belongs to it are those that it has there."""
    table = quoted(*place)
    own = {one["column"]: one for one in after.get("sequences", ())}
    for kind, drop in (("constraints", "ALTER TABLE {table} DROP CONSTRAINT {name}"), ("indexes", "DROP INDEX IF EXISTS {name}")):
        wanted = _named(after, kind, place[1])
        for name, one in _named(before, kind, before["table"]).items():
            if wanted.get(name) != one:
                full = quoted(name) if kind == "constraints" else quoted(place[0], name)
                yield drop.format(table=table, name=full)
    columns = {one["name"]: one for one in before["columns"]}
    present = {one["name"] for one in after["columns"]}
    for name in columns.keys() - present:
        yield f"ALTER TABLE {table} DROP COLUMN {quoted(name)}"
    for one in after["columns"]:
        name, old = quoted(one["name"]), columns.get(one["name"])
        if old is None:
            definition = definitions.column_definition(one, own.get(one["name"]), after, place)
            yield f"ALTER TABLE {table} ADD COLUMN {definition}"
            continue
        if old.get("default") != one.get("default") and one["name"] not in own and not one.get("generated"):
            default = one.get("default")
            yield f"ALTER TABLE {table} ALTER COLUMN {name} {'DROP DEFAULT' if default is None else f'SET DEFAULT {default}'}"
        if old.get("not_null") != one.get("not_null") and not one.get("identity"):
            yield f"ALTER TABLE {table} ALTER COLUMN {name} {'SET' if one.get('not_null') else 'DROP'} NOT NULL"
    for kind in ("constraints", "indexes"):
        there = _named(before, kind, before["table"])
        for name, one in _named(after, kind, place[1]).items():
            if there.get(name) != one:
                if kind == "constraints":
                    yield f"ALTER TABLE {table} ADD CONSTRAINT {quoted(name)} {one['definition']}"
                else:
                    yield definitions.index(place, {**one, "name": name}, {**after, "table": place[1]})


def _listed(named: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**one, "name": name} for name, one in named.items()]


def _named(body: Mapping[str, Any], kind: str, table: str) -> dict[str, dict[str, Any]]:
    """Constraints or indexes by the names that they have in the staged table, without those that are not made again."""
    found = {definitions.renamed(one["name"], body, table): one for one in body[kind] if one.get("kind") != "f"}
    return {name: {key: value for key, value in one.items() if key != "name"} for name, one in found.items()}
