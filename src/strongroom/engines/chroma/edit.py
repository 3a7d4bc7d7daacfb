"""How are collections dropped and renamed in a staged database, so that the kept ones stay bit for bit what they were?

By sqlite alone, in one transaction: Chroma's own client would open (and perhaps replay) indexes, leaves folders behind and
can't move a collection to another tenant.
"""

from __future__ import annotations

import shutil
import sqlite3
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from strongroom.engines.chroma.capture import DATABASE, INDEX_FILES
from strongroom.engines.chroma.catalog import DEFAULT_DATABASE, DEFAULT_TENANT, Address, Entry, entries
from strongroom.engines.chroma.log import Log
from strongroom.errors import WrongRequest
from strongroom.model import Json

_NAMESPACE = uuid.UUID("6f1a3c52-6d2e-5a7e-9a50-5c0d6a1f7b11")


@contextmanager
def _editing(root: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(root / DATABASE, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")


def keep(root: Path, wanted: Mapping[str, Address]) -> None:
    """Keep the collections whose ids are in `wanted`, under the addresses given there; drop the rest without a trace in the
    file. Idempotent. Raises WrongRequest if two collections would have the same address."""
    if len(set(wanted.values())) != len(wanted):
        raise WrongRequest("two collections would get the same name", hint="give each --rename a name of its own")
    with _editing(root) as connection:
        present = entries(connection)
        dropped = [entry for entry in present if entry.identity not in wanted]
        log = Log(connection)
        for entry in dropped:
            _drop(connection, log, entry)
        kept = [entry.identity for entry in present if entry.identity in wanted]
        for identity in kept:  # names are unique: step aside first, so that two can be exchanged
            connection.execute("UPDATE collections SET name = ? WHERE id = ?", (f"moving-{identity}", identity))
        for identity in kept:
            address = wanted[identity]
            connection.execute(
                "UPDATE collections SET name = ?, database_id = ? WHERE id = ?",
                (address.name, _database(connection, address), identity),
            )
        if dropped:
            _drop_empty_databases(connection)
            connection.execute("INSERT INTO embedding_fulltext_search(embedding_fulltext_search) VALUES ('optimize')")
    _erase(root, dropped)


def drop(root: Path, address: Address) -> None:
    """Remove one collection, if it is there."""
    with _editing(root) as connection:
        identity = _identity(connection, address)
        dropped = [entry for entry in entries(connection) if entry.identity == identity] if identity else []
        for entry in dropped:
            _drop(connection, Log(connection), entry)
    if dropped:
        _erase(root, dropped)


def addresses(root: Path) -> dict[str, Address]:
    """Every collection's id, and where it is."""
    with closing(sqlite3.connect(root / DATABASE, isolation_level=None)) as connection:
        return {entry.identity: entry.address for entry in entries(connection)}


def move(root: Path, identity: str, address: Address) -> None:
    """Give a collection another name. Raises WrongRequest if another one has it."""
    with _editing(root) as connection:
        if _identity(connection, address) not in (None, identity):
            raise WrongRequest(f"two collections would be called {address.public!r}", hint="rename one with --rename")
        where = (address.name, _database(connection, address), identity)
        connection.execute("UPDATE collections SET name = ?, database_id = ? WHERE id = ?", where)


def give_identity(root: Path, address: Address, identity: str) -> None:
    """Let a collection that was just created have this id, by which the journal knows it."""
    with _editing(root) as connection:
        present = _identity(connection, address)
        assert present is not None  # noqa: S101 - it was just created
        connection.execute("PRAGMA defer_foreign_keys = ON")
        connection.execute("UPDATE collections SET id = ? WHERE id = ?", (identity, present))
        for table, column in (("collection_metadata", "collection_id"), ("segments", "collection")):
            connection.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", (identity, present))  # noqa: S608 - constants


def _erase(root: Path, dropped: list[Entry]) -> None:
    """Remove the folders of no collection, and the pages that were freed: they still hold what was dropped."""
    with closing(sqlite3.connect(root / DATABASE, isolation_level=None)) as connection:
        if dropped:
            connection.execute("VACUUM")
        segments = {row[0] for row in connection.execute("SELECT id FROM segments")}
    for folder in root.iterdir():
        if folder.is_dir() and folder.name not in segments and (folder / INDEX_FILES[0]).exists():
            shutil.rmtree(folder)


def _identity(connection: sqlite3.Connection, address: Address) -> str | None:
    """The id of the collection that is there. Looked up: there may be very many."""
    joined = "SELECT c.id FROM collections c JOIN databases d ON d.id = c.database_id"
    where = (address.tenant, address.database, address.name)
    found = connection.execute(f"{joined} WHERE d.tenant_id = ? AND d.name = ? AND c.name = ?", where).fetchone()
    return None if found is None else str(found[0])


def _drop(connection: sqlite3.Connection, log: Log, entry: Entry) -> None:
    own = "SELECT id FROM embeddings WHERE segment_id = ?"
    segment = (entry.metadata_segment,)
    connection.execute(f"DELETE FROM embedding_fulltext_search WHERE rowid IN ({own})", segment)  # noqa: S608 - a constant
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    for table in ("embedding_metadata", "embedding_metadata_array"):
        if table in tables:
            connection.execute(f"DELETE FROM {table} WHERE id IN ({own})", segment)  # noqa: S608 - constants
    connection.execute("DELETE FROM embeddings WHERE segment_id = ?", segment)
    for identity in entry.segments.values():
        connection.execute("DELETE FROM max_seq_id WHERE segment_id = ?", (identity,))
        connection.execute("DELETE FROM segment_metadata WHERE segment_id = ?", (identity,))
        connection.execute("DELETE FROM segments WHERE id = ?", (identity,))
    numbers = ((number,) for number in log.numbers(entry.identity))
    connection.executemany("DELETE FROM embeddings_queue WHERE seq_id = ?", numbers)
    connection.execute("DELETE FROM collection_metadata WHERE collection_id = ?", (entry.identity,))
    connection.execute("DELETE FROM collections WHERE id = ?", (entry.identity,))


def _database(connection: sqlite3.Connection, address: Address) -> str:
    """The id of the address's database, made if it isn't there."""
    connection.execute("INSERT OR IGNORE INTO tenants (id) VALUES (?)", (address.tenant,))
    where = (address.tenant, address.database)
    found = connection.execute("SELECT id FROM databases WHERE tenant_id = ? AND name = ?", where).fetchone()
    if found is None:
        found = (str(uuid.uuid5(_NAMESPACE, f"{address.tenant}/{address.database}")),)
        connection.execute("INSERT INTO databases (id, tenant_id, name) VALUES (?, ?, ?)", (*found, *where))
    return str(found[0])


def _drop_empty_databases(connection: sqlite3.Connection) -> None:
    """A selection takes its own tenants along and no others; Chroma's defaults stay."""
    connection.execute(
        "DELETE FROM databases WHERE id NOT IN (SELECT database_id FROM collections) AND NOT (tenant_id = ? AND name = ?)",
        (DEFAULT_TENANT, DEFAULT_DATABASE),
    )
    connection.execute("DELETE FROM tenants WHERE id <> ? AND id NOT IN (SELECT tenant_id FROM databases)", (DEFAULT_TENANT,))


def give_configuration(root: Path, address: Address, catalog: Mapping[str, Json]) -> None:
    """Put back the configuration, schema (with the embedding function's) and metadata that a collection of Chroma had."""
    with _editing(root) as connection:
        identity = _identity(connection, address)
        assert identity is not None  # noqa: S101 - it was just created
        if catalog.get("config_json_str") is not None:
            connection.execute("UPDATE collections SET config_json_str = ? WHERE id = ?", (catalog["config_json_str"], identity))
        if catalog.get("schema_str") is not None:
            connection.execute("UPDATE collections SET schema_str = ? WHERE id = ?", (catalog["schema_str"], identity))
        connection.execute("DELETE FROM collection_metadata WHERE collection_id = ?", (identity,))
        columns = {str: "str_value", int: "int_value", float: "float_value", bool: "bool_value"}
        for key, value in (catalog.get("metadata") or {}).items():
            connection.execute(
                f"INSERT INTO collection_metadata (collection_id, key, {columns[type(value)]}) VALUES (?, ?, ?)",  # noqa: S608
                (identity, key, value),
            )
