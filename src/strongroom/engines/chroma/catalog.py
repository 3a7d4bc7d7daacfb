"""What does a Chroma database say about itself: tenants, databases, collections, configuration? Reads sqlite, changes nothing."""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from blake3 import blake3

from strongroom.engines.chroma import purging
from strongroom.errors import Gap, Unreadable, WrongRequest
from strongroom.model import Field, Json, LedgerItem, Lineage, Status

DEFAULT_TENANT = "default_tenant"
DEFAULT_DATABASE = "default_database"
FIELD = "embedding"
VECTOR_SCOPE, METADATA_SCOPE = "VECTOR", "METADATA"
_SCHEMA = {"sysdb": (9, 10), "metadb": (5, 6), "embeddings_queue": (2, 2)}
"""Oldest and newest migration of each kind that this module understands; the newest are those of chromadb 1.5."""
_MODEL_KEYS = ("model_name", "model", "model_id", "deployment_id")
_METADATA_MODEL_KEYS = ("embedding_model", "embedding_model_name", "model_name", "model")


@contextmanager
def reading(database: Path) -> Iterator[sqlite3.Connection]:
    """A connection to a private copy, for reading alone. Raises Unreadable if sqlite finds it damaged."""
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, isolation_level=None)) as connection:
            yield connection
    except sqlite3.DatabaseError as error:
        hint = "check the disk; restore the database from a snapshot"
        raise Unreadable(f"{database.name} can't be read: {error}", hint=hint) from error


@dataclass(frozen=True, slots=True)
class Address:
    """Where a collection is: names in the API's sense."""

    tenant: str
    database: str
    name: str

    @property
    def public(self) -> str:
        """Its name in a snapshot: `docs` in the default tenant and database, else `tenant/database/docs`."""
        if (self.tenant, self.database) == (DEFAULT_TENANT, DEFAULT_DATABASE):
            return self.name
        return f"{self.tenant}/{self.database}/{self.name}"

    @staticmethod
    def parse(public: str) -> Address:
        """The reverse. Raises WrongRequest if `public` is of neither form."""
        parts = public.split("/")
        if len(parts) == 1:
            return Address(DEFAULT_TENANT, DEFAULT_DATABASE, public)
        if len(parts) == 3 and all(parts):
            return Address(*parts)
        raise WrongRequest(f"{public!r} names no Chroma collection", hint="use NAME or TENANT/DATABASE/NAME; see --rename")


@dataclass(frozen=True)
class Entry:
    """One collection as sqlite has it."""

    address: Address
    identity: str
    dimension: int
    metadata: Mapping[str, Json]
    config_json: str | None
    schema_json: str | None
    segments: Mapping[str, str]
    positions: Mapping[str, int]

    @property
    def vector_segment(self) -> str:
        return self.segments[VECTOR_SCOPE]

    @property
    def metadata_segment(self) -> str:
        return self.segments[METADATA_SCOPE]

    def position(self, scope: str) -> int:
        """The last entry of the log that this segment has taken in; 0 if none."""
        return self.positions.get(self.segments[scope], 0)

    @cached_property
    def vector_index(self) -> Mapping[str, Json]:
        """The vector index's configuration: from the schema, else from older forms of it."""
        schema = _object(self.schema_json)
        for place in (("keys", "#embedding"), ("defaults",)):
            found: Json = schema
            for step in (*place, "float_list", "vector_index", "config"):
                found = found.get(step) if isinstance(found, dict) else None
            if isinstance(found, dict) and found:
                return found
        config = _object(self.config_json)
        legacy = {key.removeprefix("hnsw:"): value for key, value in self.metadata.items() if key.startswith("hnsw:")}
        hnsw = config.get("hnsw") or config.get("hnsw_configuration") or legacy
        return {"space": hnsw.get("space", "l2"), "hnsw": hnsw, "embedding_function": config.get("embedding_function")}

    def field(self) -> Field:
        """Its only vector field; dimension 0 if nothing was ever written."""
        parameters = self.vector_index.get("hnsw") or {}
        index = {"kind": "hnsw", **{key: value for key, value in sorted(parameters.items()) if not key.startswith("_")}}
        return Field(FIELD, "float32", self.dimension, str(self.vector_index.get("space") or "l2"), index)

    def lineage(self) -> Lineage:
        """The encoder, where the embedding function's configuration or the collection's metadata name it."""
        function = self.vector_index.get("embedding_function") or {}
        if isinstance(function, dict) and function.get("type") == "known":
            config = function.get("config") or {}
            model = next((str(config[key]) for key in _MODEL_KEYS if config.get(key)), function.get("name"))
            return Lineage(model=model, origin="engine")
        named = next((self.metadata[key] for key in _METADATA_MODEL_KEYS if isinstance(self.metadata.get(key), str)), None)
        if named is None:
            return Lineage()
        version = self.metadata.get("embedding_model_version")
        return Lineage(model=named, version=str(version) if version is not None else None, origin="engine")

    def catalog(self) -> dict[str, Json]:
        """All of it, as `Collection.catalog`."""
        return {
            "id": self.identity,
            "name": self.address.name,
            "tenant": self.address.tenant,
            "database": self.address.database,
            "dimension": self.dimension or None,
            "metadata": dict(self.metadata),
            "config_json_str": self.config_json,
            "schema_str": self.schema_json,
            "embedding_function": self.vector_index.get("embedding_function"),
            "segments": dict(self.segments),
            "positions": {scope: self.position(scope) for scope in self.segments},
        }


def check_schema(connection: sqlite3.Connection) -> dict[str, int]:
    """The newest migration of each kind. Raises Unreadable if it isn't a Chroma database or of a form unknown here."""
    try:
        found = dict(connection.execute("SELECT dir, max(version) FROM migrations GROUP BY dir").fetchall())
        connection.execute("SELECT 1 FROM collections, embeddings_queue, embeddings LIMIT 0")
    except sqlite3.OperationalError as error:
        raise Unreadable(f"chroma.sqlite3 has no Chroma tables: {error}", hint="check the path") from error
    for kind, (oldest, newest) in _SCHEMA.items():
        if found.get(kind, 0) < oldest:
            raise Unreadable(
                f"the database is of an older Chroma (migration {kind} {found.get(kind, 0)}, the oldest known is {oldest})",
                hint="open it once with chromadb 1.x, which migrates it, then run the backup again",
            )
        if found[kind] > newest:
            raise Unreadable(
                f"the database is of a newer Chroma (migration {kind} {found[kind]}, the newest known is {newest})",
                hint="upgrade Strongroom",
            )
    return found


def entries(connection: sqlite3.Connection) -> list[Entry]:
    """Every collection, ordered by its public name. Raises Unreadable if one lacks a segment."""
    columns = {row[1] for row in connection.execute("PRAGMA table_info(collections)")}
    schema = "c.schema_str" if "schema_str" in columns else "NULL"
    rows = connection.execute(
        f"SELECT d.tenant_id, d.name, c.name, c.id, c.dimension, c.config_json_str, {schema}"  # noqa: S608 - one of two constants
        " FROM collections c JOIN databases d ON d.id = c.database_id"
    ).fetchall()
    positions = dict(connection.execute("SELECT segment_id, seq_id FROM max_seq_id").fetchall())
    scopes = defaultdict[str, dict[str, str]](dict)  # by collection: there is no index for that
    for identity, scope, segment in connection.execute("SELECT collection, scope, id FROM segments"):
        scopes[identity][scope] = segment
    found = []
    for tenant, database, name, identity, dimension, config, schema_json in rows:
        segments = scopes[identity]
        if not {VECTOR_SCOPE, METADATA_SCOPE} <= segments.keys():
            raise Unreadable(f"collection {name!r} lacks a segment", hint="delete the collection or restore the database")
        own = {segment: positions[segment] for segment in segments.values() if segment in positions}
        metadata = _metadata(connection, identity)
        found.append(Entry(Address(tenant, database, name), identity, dimension or 0, metadata, config, schema_json, segments, own))
    return sorted(found, key=lambda entry: entry.address.public)


def _metadata(connection: sqlite3.Connection, identity: str) -> dict[str, Json]:
    rows = connection.execute(
        "SELECT key, str_value, int_value, float_value, bool_value FROM collection_metadata WHERE collection_id = ? ORDER BY key",
        (identity,),
    )
    return {key: scalar(*values) for key, *values in rows}


def scalar(text: str | None, integer: int | None, real: float | None, truth: int | None) -> str | int | float | bool | None:
    """The value of a metadata row; Chroma keeps each type in a column of its own."""
    if text is not None:
        return text
    if integer is not None:
        return integer
    if real is not None:
        return real
    return None if truth is None else bool(truth)


def _object(text: str | None) -> dict[str, Json]:
    value = json.loads(text) if text else {}
    return value if isinstance(value, dict) else {}


def source_catalog(connection: sqlite3.Connection, migrations: Mapping[str, int]) -> dict[str, Json]:
    """What belongs to no collection, as `Description.catalog`."""
    databases = connection.execute("SELECT id, name, tenant_id FROM databases ORDER BY tenant_id, name").fetchall()
    return {
        "tenants": [row[0] for row in connection.execute("SELECT id FROM tenants ORDER BY id")],
        "databases": [{"id": identity, "name": name, "tenant": tenant} for identity, name, tenant in databases],
        "migrations": dict(sorted(migrations.items())),
        "queue_config": list[Json](purging.settings(connection)),
    }


def last_mark(connection: sqlite3.Connection) -> str:
    """The last entry of the log, as a snapshot's position and the journal name it: see `mark_of`. If changes of collections are
    noted, with the number of the last one after a plus."""
    (last,) = connection.execute(
        "SELECT max(coalesce((SELECT max(seq_id) FROM embeddings_queue), 0), coalesce((SELECT max(seq_id) FROM max_seq_id), 0))"
    ).fetchone()
    noted = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'strongroom_catalog'").fetchone()
    (event,) = connection.execute("SELECT max(number) FROM strongroom_catalog").fetchone() if noted else (None,)
    return mark_of(connection, int(last)) + ("" if event is None else f"+{event}")


def entry_of(mark: str) -> int:
    """The number of the entry in a mark."""
    return int(mark.partition(":")[0])


def event_of(mark: str) -> int:
    """The number of the last change of a collection in a mark. Raises Gap if they weren't noted."""
    if "+" not in mark:
        raise Gap("changes of Chroma's collections were not noted then")
    return int(mark.partition("+")[2])


def mark_of(connection: sqlite3.Connection, number: int) -> str:
    """A log entry's number, and a print of what it says: another database has another one under that number. Without the print if
    the log doesn't hold it any more."""
    entry = connection.execute(
        "SELECT topic, id, operation, vector, metadata, created_at FROM embeddings_queue WHERE seq_id = ?", (number,)
    ).fetchone()
    return f"{number}:{entry_print(*entry) if entry else ''}"


def entry_print(topic: str, identity: str, operation: int, vector: bytes | None, metadata: str | None, created: str) -> str:
    """16 hex digits of a log entry's content."""
    said = json.dumps([topic, identity, operation, metadata, created]).encode()
    return blake3(said + (vector or b"")).hexdigest(8)


def ledger(cosine: bool) -> tuple[LedgerItem, ...]:
    """The completeness ledger of an embedded Chroma database, but for what is missing in it already."""
    captured = {
        "ids, vectors, documents, uris, metadata": "",
        "vector index (HNSW)": "its files, byte for byte",
        "full-text index": "inside of chroma.sqlite3",
        "log (embeddings_queue)": "entries that Chroma hasn't purged",
        "tenants, databases, collections": "with those that are empty",
        "configuration, schema, embedding function": "secrets are not part of it: Chroma keeps the names of environment variables",
    }
    items = [LedgerItem(item, Status.CAPTURED, note) for item, note in captured.items()]
    items += [
        LedgerItem("users, roles, authentication", Status.NOT_OFFERED, "an embedded database has none"),
        LedgerItem("media behind uris", Status.NOT_CAPTURED, "Chroma keeps the uri only"),
    ]
    if cosine:
        note = "with cosine, Chroma keeps unit vectors in the index; the length is lost once an entry leaves the log"
        items.append(LedgerItem("original lengths of vectors in cosine collections", Status.NOT_OFFERED, note))
    return tuple(items)
