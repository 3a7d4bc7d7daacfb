"""How are tables restored into a database: built in schemas of their own, then moved into place in one transaction.

    strongroom_<token>_<schema>.<table>     being built; nobody's search path leads there
    <schema>.<table>                        after publishing
    strongroom.receipts                     what the last restore was, by target

What this machine notes of a restore lies in its state directory; a stage of which it has no notes is begun anew.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import psycopg
import pyarrow as pa
from blake3 import blake3

from strongroom.engines import conversions
from strongroom.engines.changes import Change
from strongroom.engines.pgvector import definitions
from strongroom.engines.pgvector.address import LONGEST_NAME, Address
from strongroom.engines.pgvector.columns import is_dense
from strongroom.engines.pgvector.frozen import PgSource
from strongroom.engines.pgvector.loading import Loading, given
from strongroom.engines.pgvector.server import Connection, connect, extension, failing_as, quoted, said
from strongroom.engines.staging import remove, write_durably
from strongroom.errors import Damaged, EngineFailed, Locked, Refused, Unreadable, WrongRequest, from_os_error
from strongroom.model import Collection, Conversion, Description, Fidelity, Field, Selection
from strongroom.repository.state import state_directory

_RECEIPTS = """
CREATE SCHEMA IF NOT EXISTS strongroom;
CREATE TABLE IF NOT EXISTS strongroom.receipts
  (place text PRIMARY KEY, receipt bytea NOT NULL, made timestamptz NOT NULL DEFAULT now())
"""
_LONGEST_VECTOR = 16_000
SECONDS_FOR_THE_LOCK = 10


class PgTarget:
    """A database to restore to. Tables that a restore doesn't name are never touched."""

    holds_one = False
    columnar = True

    def __init__(self, address: Address) -> None:
        self._address = address

    def occupied(self, collections: Sequence[str]) -> Sequence[str]:
        """Those tables that are there already."""
        if not collections:
            return ()
        with connect(self._address) as connection, failing_as(Unreadable, self._address.shown):
            places = [(name, self._address.layout.place(name)) for name in collections]
            return [f"table {name}" for name, place in places if _exists(connection, place)]

    def receipt(self) -> bytes | None:
        with connect(self._address) as connection, failing_as(Unreadable, self._address.shown):
            if connection.execute("SELECT to_regclass('strongroom.receipts')").fetchall()[0][0] is None:
                return None
            query = "SELECT receipt FROM strongroom.receipts WHERE place = %s"
            row = connection.execute(query, (self._address.schema,)).fetchone()
            return bytes(row[0]) if row else None

    def objections(self, collection: Collection, schema: pa.Schema) -> Sequence[str]:
        """Names that no table can have, vectors too long for pgvector."""
        return list(_objections(self._address, collection, schema))

    def losses(self, collection: Collection, schema: pa.Schema) -> Sequence[str]:
        """What a table that is made again doesn't have."""
        return list(_losses(collection))

    def conversions(self, collection: Collection, schema: pa.Schema) -> Sequence[Conversion]:
        return conversions.table(collection, schema, _ways(collection, schema))

    def fidelity(self, collection: Collection) -> Fidelity:
        """The table holds the vectors as they are given."""
        return Fidelity.KEPT

    def stage(self, token: str, selection: Selection) -> PgStage:
        """Open or re-open the stage of `token`. Raises Locked, NotFound, Unreadable or Unreachable."""
        return PgStage(self._address, token)


class PgStage:
    """Tables being built. A collection is loaded in one transaction, and all are put in place in one: a crash leaves either nothing
    or all of each."""

    def __init__(self, address: Address, token: str) -> None:
        self._address = address
        self._layout = address.staging(token)
        where = blake3(repr((address.host, address.port, address.database, address.schema)).encode()).hexdigest()[:16]
        self.directory = state_directory() / "pgvector" / f"{where}-{token}"
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise from_os_error(error, str(self.directory)) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise Locked(f"another restore is building {self.directory}") from error
        try:
            self._connection = self._alone(token)
        except BaseException:
            os.close(self._lock)
            raise
        self._names = self.directory / "identities.json"

    def artifact_path(self, path: str) -> Path:
        """There are none. Raises Damaged."""
        raise Damaged(f"artifact {path!r}", "a database takes no files")

    def adopt(self, description: Description, selection: Selection) -> None:
        """Nothing was installed."""

    def load(self, collection: Collection, batches: Iterable[pa.RecordBatch]) -> None:
        """Make the table, copy the rows into it, then build keys and indexes, all or nothing. Raises EngineFailed."""
        self._note(collection)
        place = self._layout.place(collection.name)
        stream = iter(batches)
        first = next(stream, None)
        schema = first.schema if first is not None else None
        ours = definitions.is_ours(collection)
        catalog = dict(collection.catalog) if ours else definitions.catalog_for(replace(collection, name=place[1]), schema)
        with failing_as(EngineFailed, f"table {collection.name}"), self._connection.transaction():
            self._begin(place)
            for statement in definitions.table(place, catalog):
                self._connection.execute(statement.encode())
            if first is not None and schema is not None:
                loading = Loading(self._connection, place, schema, definitions.loaded_columns(schema, catalog))
                for batch in chain([first], stream):
                    loading.insert(batch)
            for statement in (*definitions.keys_and_indexes(place, catalog), *definitions.sequence_values(place, catalog)):
                self._connection.execute(statement.encode())
            self._connection.execute(f"ANALYZE {quoted(*place)}".encode())

    def identity(self, collection: Collection) -> str:
        """The table's number where it was backed up: here it has another."""
        return self._noted().get(collection.name, str(collection.catalog["identity"]))

    def apply(self, changes: Iterable[Change], selection: Selection) -> int:
        """Apply changes of the journal in order: see `replay`. Raises EngineFailed."""
        from strongroom.engines.pgvector.replay import Replay

        replay = Replay(self._connection, self._layout, self._noted(), selection, self._extension)
        with failing_as(EngineFailed, "the replay"):
            count = replay.run(changes)
        self._write(replay.names())
        return count

    def seal(self) -> None:
        """What is committed is durable."""

    def source(self) -> PgSource:
        """The staged tables, called as they will be."""
        return PgSource(self._address, self._layout)

    def publish(self, receipt: bytes, *, overwrite: bool) -> None:
        """Move the tables into place, in one transaction with the receipt. Raises Refused if one is taken and `overwrite` is
        False, or if something else of the database needs the old one."""
        try:
            with self._connection.transaction():
                self._connection.execute(b"SET LOCAL search_path = ''")
                tables = self._staged()
                if not tables:
                    raise Refused("nothing is staged, so nothing is published", hint="run the restore again from the start")
                for schema, table in tables:
                    self._move(schema, table, overwrite=overwrite)
                for schema in {schema for schema, _ in tables}:
                    self._connection.execute(f"DROP SCHEMA {quoted(schema)}".encode())
                self._connection.execute(_RECEIPTS.encode())
                self._connection.execute(
                    "INSERT INTO strongroom.receipts (place, receipt) VALUES (%s, %s)"
                    " ON CONFLICT (place) DO UPDATE SET receipt = EXCLUDED.receipt, made = now()",
                    (self._address.schema, receipt),
                )
        except (psycopg.errors.DependentObjectsStillExist, psycopg.errors.DuplicateTable, psycopg.errors.DuplicateObject) as error:
            hint = "drop what stands in the way, or restore under another name with --rename"
            raise Refused(f"the restored tables can't take their places: {said(error)}", hint=hint) from error
        except psycopg.Error as error:
            with failing_as(EngineFailed, "publishing"):
                raise error
        self._forget()

    def discard(self) -> None:
        """Drop what is staged."""
        with failing_as(EngineFailed, "the stage"):
            self._drop()
        self._forget()

    def close(self) -> None:
        """Let go of the stage; it stays for a later run."""
        self._connection.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # -- notes of this machine -------------------------------------------------------------------------------------------------

    def _note(self, collection: Collection) -> None:
        """Which table of the source this collection is, for the journal."""
        identity = collection.catalog.get("identity")
        if definitions.is_ours(collection) and identity is not None:
            self._write({**self._noted(), collection.name: str(identity)})

    def _noted(self) -> dict[str, str]:
        try:
            found: dict[str, str] = json.loads(self._names.read_bytes())
        except FileNotFoundError:
            return {}
        return found

    def _write(self, names: dict[str, str]) -> None:
        write_durably(self._names, json.dumps(names).encode())

    def _forget(self) -> None:
        self.close()
        remove(self.directory)

    # -- the database ----------------------------------------------------------------------------------------------------------

    def _alone(self, token: str) -> Connection:
        """A connection that has the stage for itself; tables of which this machine has no notes are dropped. Raises Locked."""
        connection = connect(self._address)
        try:
            with failing_as(Unreadable, self._address.shown):
                self._claim(connection, int(token, 16) - (1 << 63))
                _, self._extension = extension(connection)
                connection.execute(f"SET search_path = {quoted(self._extension)}".encode())
                if not (self.directory / "begun").exists():
                    self._connection = connection
                    self._drop()
                    write_durably(self.directory / "begun", b"")
        except BaseException:
            connection.close()
            raise
        return connection

    def _claim(self, connection: Connection, number: int) -> None:
        """Wait a little: a server may still be at the last statement of a restore that was killed. Raises Locked."""
        if connection.info.server_version >= 140_000:
            connection.execute("SET client_connection_check_interval = '1s'")  # so that ours ends soon after we do
        connection.execute(f"SET lock_timeout = '{SECONDS_FOR_THE_LOCK}s'".encode())
        try:
            connection.execute("SELECT pg_advisory_lock(%s)", (number,))
        except psycopg.errors.LockNotAvailable as error:
            raise Locked(f"another restore is building {self._layout.staged}* in {self._address.shown}") from error
        connection.execute("RESET lock_timeout")

    def _drop(self) -> None:
        query = "SELECT nspname FROM pg_catalog.pg_namespace WHERE starts_with(nspname, %s)"
        for (schema,) in self._connection.execute(query, (self._layout.staged,)).fetchall():
            self._connection.execute(f"DROP SCHEMA {quoted(schema)} CASCADE".encode())

    def _begin(self, place: tuple[str, str]) -> None:
        self._connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(place[0])}".encode())
        path = definitions.search_path(self._layout, place[0], self._extension)
        self._connection.execute(f"SET LOCAL search_path = {path}".encode())
        self._connection.execute(f"DROP TABLE IF EXISTS {quoted(*place)} CASCADE".encode())

    def _staged(self) -> list[tuple[str, str]]:
        query = (
            "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
            " WHERE c.relkind = 'r' AND starts_with(n.nspname, %s) ORDER BY 1, 2"
        )
        return [(schema, table) for schema, table in self._connection.execute(query, (self._layout.staged,)).fetchall()]

    def _move(self, schema: str, table: str, *, overwrite: bool) -> None:
        final = schema.removeprefix(self._layout.staged)
        if _exists(self._connection, (final, table)):
            if not overwrite:
                hint = "restore to another place, or give --overwrite to replace it once the new state is verified"
                raise Refused(f"table {final}.{table} is already there", hint=hint)
            self._connection.execute(f"DROP TABLE {quoted(final, table)}".encode())
        self._connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(final)}".encode())
        self._connection.execute(f"ALTER TABLE {quoted(schema, table)} SET SCHEMA {quoted(final)}".encode())


def _exists(connection: Connection, place: tuple[str, str]) -> bool:
    query = (
        "SELECT 1 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND c.relname = %s"
    )
    return connection.execute(query, place).fetchone() is not None


def _objections(address: Address, collection: Collection, schema: pa.Schema) -> Iterator[str]:
    try:
        final, table = address.layout.final(collection.name)
        place = address.staging("0" * 16).place(collection.name)
    except WrongRequest as error:
        yield str(error)
        return
    if any(len(one.encode()) > LONGEST_NAME for one in (final, table, place[0])):
        yield f"PostgreSQL has no names as long as that of {collection.name!r}"
    if any(len(one.encode()) > LONGEST_NAME for one in schema.names):
        yield f"PostgreSQL has no names as long as those of the columns of {collection.name!r}"
    for one in schema:
        if is_dense(one.type) and one.type.list_size > _LONGEST_VECTOR:
            yield f"field {one.name!r} is longer than a vector of pgvector can be ({_LONGEST_VECTOR:,})"


def _ways(collection: Collection, schema: pa.Schema) -> conversions.Ways:
    def vector(field: Field) -> conversions.Becoming:
        kind = definitions.column_type(schema.field(field.name)).partition("(")[0]
        indexed = bool(definitions.indexed_as(field, kind)) and (bool(field.index) or not own)
        dtype = "float16" if kind == "halfvec" else "float32"
        return conversions.Becoming(dtype, field.metric if indexed else "l2", "hnsw" if indexed else "")

    def load(batch: pa.RecordBatch) -> conversions.Loaded:
        columns = [given(field, column) for field, column in zip(batch.schema, batch.columns, strict=True)]
        loaded = pa.record_batch(columns, names=batch.schema.names)
        return conversions.of_batch(batch, {name: name for name in batch.schema.names}, loaded)

    own = definitions.is_ours(collection)
    return conversions.Ways(load, vector, Fidelity.KEPT, gaps=True, own=own, objects=True)


def _losses(collection: Collection) -> Iterator[str]:
    if definitions.is_ours(collection):
        for one in collection.catalog["constraints"]:
            if one["kind"] == "f":
                yield f"the foreign key {one['name']} of {collection.name} is not made again: {one['definition']}"
        yield "owners, grants, policies, triggers and comments are not part of it"
