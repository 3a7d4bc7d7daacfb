"""How does each server's own client fill, read and search a database? Servers are started when a test first names a place on them.

An address is text that a process of its own can use: what libpq is told, a port, or a port and a database.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import chroma_server
import numpy as np
import postgres
import redis_server
from raw_engines import DIMENSION, Raw, queries, row, texts, vectors_of

# -- pgvector ---------------------------------------------------------------------------------------------------------------


def pgvector_make(address, start, count):
    import psycopg

    with psycopg.connect(address) as connection:
        connection.execute(
            f"CREATE TABLE IF NOT EXISTS things (id text PRIMARY KEY, v vector({DIMENSION}), document text, number bigint);"
            "CREATE INDEX IF NOT EXISTS near ON things USING hnsw (v vector_l2_ops)"
        )
        for number, vector, text in zip(range(start, start + count), vectors_of(start, count), texts(start, count), strict=True):
            values = (f"thing-{number}", str(vector.tolist()), text, number)
            connection.execute("INSERT INTO things VALUES (%s, %s, %s, %s)", values)


def pgvector_read(address, name="things"):
    import psycopg

    with psycopg.connect(address) as connection:
        types = "SELECT attname, atttypid::regtype::text FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0"
        vector = next(one for one, kind in connection.execute(types, [name]) if kind == "vector")
        rows = connection.execute(f'SELECT id::text, "{vector}"::real[], document, number FROM {name}').fetchall()
    return {key: row(*rest) for key, *rest in rows}


def pgvector_ask(address, name="things"):
    import psycopg

    with psycopg.connect(address) as connection:
        asked = f"SELECT id, v <-> %s::vector FROM {name} ORDER BY 2 LIMIT 10"
        found = [connection.execute(asked, [str(one.tolist())]).fetchall() for one in queries()]
    return [[key for key, _ in rows] for rows in found], [[distance for _, distance in rows] for rows in found]


def pgvector_lose(address):
    import psycopg

    home, _, database = address.rpartition("dbname=")
    with psycopg.connect(f"{home}dbname=postgres", autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {database} WITH (FORCE)")


# -- Redis ------------------------------------------------------------------------------------------------------------------


def _redis(address):
    import redis

    return redis.Redis(port=int(address), protocol=2)


def redis_make(address, start, count):
    client = _redis(address)
    if not client.execute_command("FT._LIST"):
        vector = f"v VECTOR HNSW 6 TYPE FLOAT32 DIM {DIMENSION} DISTANCE_METRIC L2"
        client.execute_command(*f"FT.CREATE things PREFIX 1 thing- SCHEMA {vector} document TEXT number NUMERIC".split())
    for number, vector, text in zip(range(start, start + count), vectors_of(start, count), texts(start, count), strict=True):
        client.hset(f"thing-{number}", mapping={"v": vector.tobytes(), "document": text, "number": number})


def redis_read(address, name="things"):
    client = _redis(address)
    told = client.execute_command("FT.INFO", name)
    told = dict(zip(told[::2], told[1::2], strict=True))
    vector = next(one[1] for one in told[b"attributes"] if b"VECTOR" in one)
    (prefix,) = dict(zip(told[b"index_definition"][::2], told[b"index_definition"][1::2], strict=True))[b"prefixes"]
    rows = {}
    for key in client.scan_iter(prefix + b"*"):
        found = client.hgetall(key)
        values = np.frombuffer(found[vector], np.float32), found[b"document"].decode(), found[b"number"]
        rows[key.removeprefix(b"%s:" % name.encode()).decode()] = row(*values)
    return rows


def redis_ask(address, name="things"):
    client, found = _redis(address), []
    for query in queries():
        words = ("PARAMS", 2, "q", query.tobytes(), "SORTBY", "d", "RETURN", 1, "d", "LIMIT", 0, 10, "DIALECT", 2)
        found.append(client.execute_command("FT.SEARCH", name, "*=>[KNN 10 @v $q AS d]", *words)[1:])
    return [rows[::2] for rows in found], [[one[1] for one in rows[1::2]] for rows in found]


def redis_lose(address):
    _redis(address).shutdown(nosave=True)


# -- Chroma server ----------------------------------------------------------------------------------------------------------


def _chroma(address):
    port, _, database = address.partition("/")
    return chroma_server.Raw(int(port)), ("default_tenant", database)


def chroma_make(address, start, count):
    raw, where = _chroma(address)
    if "things" not in raw.names(where):
        raw.make("things", where, configuration={"hnsw": {"space": "l2"}})
    raw.do(
        "upsert",
        "things",
        where,
        ids=[f"thing-{number}" for number in range(start, start + count)],
        embeddings=vectors_of(start, count).tolist(),
        documents=texts(start, count),
        metadatas=[{"number": number, "even": number % 2 == 0} for number in range(start, start + count)],
    )


def chroma_read(address, name="things"):
    raw, where = _chroma(address)
    rows = raw.rows(name, where).items()
    return {key: row(vector, document, metadata["number"]) for key, (vector, document, metadata, _) in rows}


def chroma_ask(address, name="things"):
    raw, where = _chroma(address)
    found = raw.do("query", name, where, query_embeddings=queries().tolist(), n_results=10, include=["distances"])
    return found["ids"], found["distances"]


def chroma_lose(address):
    raw, where = _chroma(address)
    for name in raw.names(where):
        raw.drop(name, where)
    raw.ask("DELETE", f"tenants/default_tenant/databases/{where[1]}")


# -- places on servers ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RawServer(Raw):
    """A folder of a test stands for an empty database on a server, whose address is `place(folder)`, `locate(address)` its URL."""

    place: Callable[[Path], str] = str
    locate: Callable[[str], str] = str
    lose: Callable[[str], None] = str
    absent: str = ""
    """An address at which there is nothing."""

    def url(self, directory):
        return self.locate(self.place(directory))

    def path(self, directory):
        return self.place(directory)

    def nowhere(self, directory):
        return self.locate(self.absent or f"{self.place(directory)}nothing")

    def remove(self, directory):
        self.lose(self.place(directory))


@dataclass
class Running:
    """The servers that were started, and what was made on them."""

    servers: dict[str, Any] = dataclasses.field(default_factory=dict)
    places: dict[tuple[str, Path], str] = dataclasses.field(default_factory=dict)

    def place(self, kind: str, directory: Path, make: Callable[[], str]) -> str:
        key = kind, directory
        if key not in self.places:
            self.places[key] = make()
        return self.places[key]

    def server(self, name: str, start: Callable[[Path], Any]) -> Any:
        if name not in self.servers:
            self.servers[name] = start(Path(tempfile.mkdtemp(prefix="raw-")))
        return self.servers[name]

    def stop(self) -> None:
        for server in self.servers.values():
            server.stop()
            if directory := getattr(server, "directory", None):
                shutil.rmtree(directory, ignore_errors=True)
        self.servers.clear()
        self.places.clear()


RUNNING = Running()


def _postgres(_: Path) -> postgres.Postgres:
    server = postgres.Postgres()
    server.start()
    return server


def scratches(directory: Path) -> dict[str, str]:
    """Where `verify` restores what doesn't live in files: the environment that says so."""
    return {
        "STRONGROOM_PGVECTOR_SCRATCH": SERVERS["pgvector"].url(directory),
        "STRONGROOM_REDIS_SERVER": " ".join(redis_server.command()),
    }


def _pgvector_place(directory):
    server = RUNNING.server("pgvector", _postgres)
    return RUNNING.place("pgvector", directory, lambda: server.conninfo(server.database()))


def _redis_place(directory):
    """A server each: search indexes are those of the first database."""
    return RUNNING.place("redis", directory, lambda: str(RUNNING.server(f"redis {directory}", redis_server.Server).port))


def _chroma_place(directory):
    server = RUNNING.server("chroma", chroma_server.Server)

    def make() -> str:
        database = f"place{len(RUNNING.places)}"
        server.raw.ask("POST", "tenants/default_tenant/databases", name=database)
        return f"{server.port}/{database}"

    return RUNNING.place("chroma", directory, make)


def _pgvector_url(address):
    told = dict(word.split("=") for word in address.split())
    return f"pgvector://{told['user']}@{told['host']}:{told['port']}/{told['dbname']}"


def _chroma_url(address):
    port, _, database = address.partition("/")
    return f"chroma+http://127.0.0.1:{port}/default_tenant/{database}"


SERVERS = {
    raw.name: raw
    for raw in (
        RawServer(
            "chroma+http", "", chroma_make, chroma_read, chroma_ask, False, False,
            place=_chroma_place, locate=_chroma_url, lose=chroma_lose,
        ),
        RawServer(
            "pgvector", "", pgvector_make, pgvector_read, pgvector_ask, False, False,
            place=_pgvector_place, locate=_pgvector_url, lose=pgvector_lose,
        ),
        RawServer(
            "redis", "", redis_make, redis_read, redis_ask, True, False,
            place=_redis_place, locate="redis://127.0.0.1:{}".format, lose=redis_lose, absent="1",
        ),
    )
}  # fmt: skip
