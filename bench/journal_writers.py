"""Who writes in the benchmark of the journal: python bench/journal_writers.py ENGINE ADDRESS FIRST ROWS SECONDS RATE.

Writes rows numbered from FIRST on, 100 a call: ROWS of them, or for SECONDS, at most RATE a second if that isn't 0. Prints how many
rows it wrote, and in how many seconds.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sources import DIMENSION, Matrix, more_vectors, real_vectors

STEP, POOL = 100, 20_000
Insert = Callable[[int, Matrix], None]
Places = Callable[[Path, str], "Place"]


@dataclass(frozen=True)
class Place:
    """A database: what its own client calls it, and its URL."""

    engine: str
    address: str
    url: str


@dataclass(frozen=True)
class Engine:
    """How an engine is started, and how rows get in. A name is the same place each time."""

    server: Callable[[], AbstractContextManager[Places]]
    inserting: Callable[[str], Insert]


def test_server(module: str) -> Any:
    """Servers are those of the tests."""
    sys.path.append(str(Path(__file__).parent.parent / "tests" / "servers"))
    return importlib.import_module(module)


@contextmanager
def postgres() -> Iterator[Places]:
    """Tables without an index of vectors: inserts into HNSW are slower than what is to be measured."""
    server = test_server("postgres").Postgres()
    server.start()
    known: dict[str, str] = {}

    def place(folder: Path, name: str) -> Place:
        known[name] = known.get(name) or server.database()
        user = f"postgres@127.0.0.1:{server.port}/{known[name]}"
        return Place("pgvector", f"postgresql://{user}", f"pgvector://{user}")

    try:
        yield place
    finally:
        server.stop()


@contextmanager
def redis_servers() -> Iterator[Places]:
    """A server a place, with a backlog of minutes."""
    with tempfile.TemporaryDirectory() as home:
        known: dict[str, Any] = {}

        def place(folder: Path, name: str) -> Place:
            if name not in known:
                known[name] = test_server("redis_server").Server(Path(home) / name, "--repl-backlog-size", "256mb")
            return Place("redis", str(known[name].port), known[name].url)

        try:
            yield place
        finally:
            for server in known.values():
                server.stop()


def embedded(engine: str) -> Callable[[], AbstractContextManager[Places]]:
    @contextmanager
    def none() -> Iterator[Places]:
        yield lambda folder, name: Place(engine, str(folder / name), f"{engine}://{folder / name}")

    return none


def chroma(address: str) -> Insert:
    import chromadb
    from chromadb.config import Settings

    client = chromadb.PersistentClient(address, Settings(anonymized_telemetry=False))
    collection = client.get_or_create_collection("rows", embedding_function=None)

    def insert(first: int, vectors: Matrix) -> None:
        numbers = range(first, first + len(vectors))
        texts, notes = [f"document number {number}" for number in numbers], [{"number": number} for number in numbers]
        collection.add([str(number) for number in numbers], vectors, notes, texts)

    return insert


def lancedb(address: str) -> Insert:
    import lance
    import pyarrow as pa

    table = f"{address}/rows.lance"

    def insert(first: int, vectors: Matrix) -> None:
        numbers = np.arange(first, first + len(vectors))
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIMENSION)
        texts = pa.array([f"document number {number}" for number in numbers])
        lance.write_dataset(pa.table({"id": pa.array(numbers), "text": texts, "vector": column}), table, mode="append")

    return insert


def pgvector(address: str) -> Insert:
    import psycopg

    connection = psycopg.connect(address, autocommit=True)
    connection.execute(f"CREATE TABLE IF NOT EXISTS rows (id bigint PRIMARY KEY, body text, v vector({DIMENSION}))")

    def insert(first: int, vectors: Matrix) -> None:
        rows = [(first + place, f"document number {first + place}", str(row.tolist())) for place, row in enumerate(vectors)]
        with connection.transaction(), connection.cursor() as cursor:
            cursor.executemany("INSERT INTO rows VALUES (%s, %s, %s)", rows)

    return insert


def redis(address: str) -> Insert:
    import redis

    client: Any = redis.Redis(port=int(address), protocol=2)
    words = f"FT.CREATE docs ON HASH PREFIX 1 doc: SCHEMA v VECTOR HNSW 6 TYPE FLOAT32 DIM {DIMENSION} DISTANCE_METRIC L2 body TEXT"
    if not client.execute_command("FT._LIST"):
        client.execute_command(*words.split())

    def insert(first: int, vectors: Matrix) -> None:
        with client.pipeline(transaction=False) as pipe:
            for place, row in enumerate(vectors):
                pipe.hset(f"doc:{first + place}", mapping={"v": row.tobytes(), "body": f"document number {first + place}"})
            pipe.execute()

    return insert


ENGINES = {
    "chroma": Engine(embedded("chroma"), chroma),
    "lancedb": Engine(embedded("lancedb"), lancedb),
    "pgvector": Engine(postgres, pgvector),
    "redis": Engine(redis_servers, redis),
}


def write(insert: Insert, first: int, rows: int, seconds: float, rate: float) -> tuple[int, float]:
    vectors: Any = more_vectors(real_vectors()[0], POOL, seed=first)
    started, count = time.perf_counter(), 0
    while (count < rows) if rows else (time.perf_counter() - started < seconds):
        at = count % (POOL - STEP)
        insert(first + count, vectors[at : at + STEP])
        count += STEP
        if rate:
            time.sleep(max(0.0, started + count / rate - time.perf_counter()))
    return count, time.perf_counter() - started


if __name__ == "__main__":
    engine, address, first, rows, seconds, rate = sys.argv[1:]
    print(*write(ENGINES[engine].inserting(address), int(first), int(rows), float(seconds), float(rate)))
