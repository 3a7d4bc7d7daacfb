"""What happened to Chroma's collections, and after which entry of its log? Chroma keeps no log of that; while a database is
followed, triggers of ours do: a row for each change of a collection, in the transaction that makes it, with all that it then is.

Numbers count up from a random one, so that those of another database, or of another time in which this one was followed, aren't
taken for these. What stands in between two statements of one transaction is there too, and hurts nobody: it has the same time.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from strongroom.engines.chroma.catalog import METADATA_SCOPE, VECTOR_SCOPE, Address, Entry, scalar
from strongroom.errors import Gap

TABLE = "strongroom_catalog"
_LARGEST_START = 1 << 52
_TABLE = f"""
CREATE TABLE IF NOT EXISTS {TABLE} (number INTEGER PRIMARY KEY AUTOINCREMENT, entry INTEGER NOT NULL, time INTEGER NOT NULL,
                                    collection TEXT NOT NULL, gone INTEGER NOT NULL, state TEXT)
"""
_LAST_ENTRY = """
max(coalesce((SELECT max(seq_id) FROM embeddings_queue), 0), coalesce((SELECT max(seq_id) FROM max_seq_id), 0))
"""
_MICROSECONDS = "CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER) * 1000"
_STATE = """
json_object('name', {c}.name, 'dimension', {c}.dimension, 'config', {c}.config_json_str, 'schema', {c}.schema_str,
  'database', (SELECT name FROM databases WHERE id = {c}.database_id),
  'tenant', (SELECT tenant_id FROM databases WHERE id = {c}.database_id),
  'metadata', (SELECT json_group_array(json_array(key, str_value, int_value, float_value, bool_value))
               FROM collection_metadata WHERE collection_id = {c}.id),
  'segments', (SELECT json_group_object(scope, id) FROM segments WHERE collection = {c}.id))
"""
_WATCHED = {
    "made": ("INSERT ON collections", "NEW.id", ""),
    "changed": (
        "UPDATE ON collections",
        "NEW.id",
        "WHEN OLD.name IS NOT NEW.name OR OLD.config_json_str IS NOT NEW.config_json_str OR OLD.schema_str IS NOT NEW.schema_str"
        " OR OLD.database_id IS NOT NEW.database_id",
    ),
    "segmented": ("INSERT ON segments", "NEW.collection", ""),
    "described": ("INSERT ON collection_metadata", "NEW.collection_id", ""),
    "redescribed": ("UPDATE ON collection_metadata", "NEW.collection_id", ""),
    "undescribed": ("DELETE ON collection_metadata", "OLD.collection_id", ""),
}
"""By the end of the trigger's name: after what, of which collection, and when not always."""


@dataclass(frozen=True, slots=True)
class Event:
    """A collection as it is from here on, or as it was when it went. It happened after entry `entry` of the log, and before the
    next; `time` in microseconds, exact to a millisecond."""

    number: int
    entry: int
    time: int
    gone: bool
    state: Entry


def install(connection: sqlite3.Connection) -> None:
    """Begin to note, if nobody has. In a transaction of the caller's."""
    connection.execute(_TABLE)
    for name, statement in _triggers().items():
        connection.execute(f"CREATE TRIGGER IF NOT EXISTS {name} {statement}")
    if last(connection) is None:
        start = secrets.randbelow(_LARGEST_START) + 1
        connection.execute("INSERT INTO strongroom_catalog VALUES (?, 0, 0, '', 0, NULL)", (start,))


def remove(connection: sqlite3.Connection) -> None:
    """Note nothing any more. In a transaction of the caller's."""
    for name in _triggers():
        connection.execute(f"DROP TRIGGER IF EXISTS {name}")
    connection.execute(f"DROP TABLE IF EXISTS {TABLE}")


def last(connection: sqlite3.Connection) -> int | None:
    """The number of the last change; None if nobody notes them."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (TABLE,)).fetchone():
        return None
    (found,) = connection.execute("SELECT max(number) FROM strongroom_catalog").fetchone()
    return None if found is None else int(found)


def require(connection: sqlite3.Connection, number: int) -> None:
    """Raises Gap unless all changes after this one are noted."""
    end = last(connection)
    first = 0 if end is None else int(connection.execute("SELECT min(number) FROM strongroom_catalog").fetchone()[0])
    if end is None or end < number or first > number + 1:
        raise Gap("changes of Chroma's collections were not noted, or in another database")


def events(connection: sqlite3.Connection, after: int, until: int | None) -> Iterator[Event]:
    """What came after number `after`, up to what was before entry `until` of the log, or all. Collections that are half made are
    left out: more of them follows in the same transaction."""
    query = "SELECT number, entry, time, collection, gone, state FROM strongroom_catalog WHERE number > ? ORDER BY number"
    for number, entry, time, collection, gone, state in connection.execute(query, (after,)):
        if until is not None and entry >= until:
            return
        said = json.loads(state) if state else {}
        if said.get("name") and (gone or {VECTOR_SCOPE, METADATA_SCOPE} <= said["segments"].keys()):
            yield Event(number, entry, time, bool(gone), _entry(collection, said))


def forget(connection: sqlite3.Connection, number: int) -> None:
    """Changes before this one need not be kept any longer."""
    connection.execute("DELETE FROM strongroom_catalog WHERE number < ?", (number,))


def _entry(collection: str, said: Mapping[str, Any]) -> Entry:
    metadata = {key: scalar(*values) for key, *values in said["metadata"]}
    address = Address(said["tenant"], said["database"], said["name"])
    return Entry(address, collection, said["dimension"] or 0, metadata, said["config"], said["schema"], dict(said["segments"]), {})


def _triggers() -> dict[str, str]:
    """Each trigger by its name."""
    insert = f"INSERT INTO {TABLE} (entry, time, collection, gone, state) SELECT {_LAST_ENTRY}, {_MICROSECONDS}"
    now = _STATE.format(c="c")
    found = {
        f"{TABLE}_{name}": f"AFTER {what} {when} BEGIN {insert}, c.id, 0, {now} FROM collections c WHERE c.id = {which}; END"
        for name, (what, which, when) in _WATCHED.items()
    }
    was = _STATE.format(c="OLD")
    found[f"{TABLE}_gone"] = f"BEFORE DELETE ON collections BEGIN {insert}, OLD.id, 1, {was}; END"
    return found
