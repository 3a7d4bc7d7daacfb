"""How does the raw chromadb client fill, read and search a database? The adapter isn't used: it can't vouch for itself.

Functions that open a database run in a fresh process each (`apart`): a reopened database is then really reopened.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

SUMMARIES = Path(__file__).parents[3] / "shared" / "data" / "summaries-minilm.parquet"


def client(path, tenant="default_tenant", database="default_database"):
    import chromadb
    from chromadb.config import Settings

    return chromadb.PersistentClient(str(path), Settings(anonymized_telemetry=False), tenant, database)


def summaries(count):
    """Real embeddings where they are at hand, else clustered unit vectors: names, texts, vectors (count x d)."""
    if SUMMARIES.exists():
        table = pq.read_table(SUMMARIES, columns=["id", "summary", "vector"]).slice(0, count)
        vectors = table["vector"].combine_chunks().flatten().to_numpy().reshape(count, -1)
        return table["id"].to_pylist(), table["summary"].to_pylist(), vectors
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(20, 384))[rng.integers(0, 20, count)] + 0.5 * rng.normal(size=(count, 384))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return [f"row-{n}" for n in range(count)], [f"text {n}" for n in range(count)], vectors.astype(np.float32)


def _metadata(n):
    kinds = [
        {"text": 'ä€😀"\\\n\t', "count": n, "ratio": n / 3, "yes": n % 2 == 0},
        {"one": 1.0, "big": 2**62, "negative": -n, "empty": ""},
        None,
        {"tags": ["a", "é"], "numbers": [1, 2, 3], "ratios": [0.5, 1.0], "flags": [True, False], "a!": 1, "a": 2, "Z": 0},
    ]
    return kinds[n % 4]


def _fill(collection, count, dimension, seed):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, dimension)).astype(np.float32)
    ids = [f"id {n} ü" if n % 10 == 0 else f"id-{n}" for n in range(count)]
    for start in range(0, count, 100):
        part = range(start, min(start + 100, count))
        collection.add(
            ids=[ids[n] for n in part],
            embeddings=vectors[part.start : part.stop],
            documents=[None if n % 5 == 0 else f"Dokument {n} – €" for n in part],
            metadatas=[_metadata(n) for n in part],
            uris=[f"file:///media/{n}.jpg" if n % 3 == 0 else None for n in part],
        )
    return ids, rng


def _change(collection, ids, dimension, rng, start):
    def some(low, high):
        return [ids[n] for n in range(start + low, start + high)]

    def vectors(count):
        return rng.normal(size=(count, dimension)).astype(np.float32)

    collection.delete(ids=some(0, 12))
    collection.add(ids=some(0, 4), embeddings=vectors(4), documents=["back again"] * 4)
    collection.update(ids=some(12, 20), embeddings=vectors(8))
    collection.update(ids=some(20, 24), metadatas=[{"count": None, "text": "new", "extra": 7.0, "numbers": [9]}] * 4)
    collection.update(
        ids=some(23, 26), metadatas=[{"numbers": 3, "tags": "now a text"}] * 3, documents=["changed"] * 3, embeddings=vectors(3)
    )
    collection.update(ids=["nobody"], embeddings=vectors(1))
    collection.add(ids=some(26, 28), embeddings=vectors(2), documents=["ignored: already there"] * 2)
    collection.upsert(ids=[*some(28, 31), f"fresh-{start}"], embeddings=vectors(4), uris=["http://new"] * 4)
    collection.delete(ids=[f"fresh-{start}"])
    collection.upsert(ids=[f"fresh-{start}"], embeddings=vectors(1), metadatas=[{"second": True}])


def seed(path):
    """Several tenants and databases, all metrics, every kind of value, deletes, updates, re-adds, an unsynced tail."""
    import chromadb
    from chromadb.config import Settings

    settings = Settings(anonymized_telemetry=False, is_persistent=True, persist_directory=str(path))
    admin = chromadb.AdminClient(settings)
    admin.create_tenant("acme")
    admin.create_database("prod", "acme")
    admin.create_database("vacant", "acme")
    plain = client(path)
    small = {"sync_threshold": 90, "batch_size": 40}
    for number, space in enumerate(["l2", "cosine", "ip"]):
        collection = plain.create_collection(
            f"by-{space}",
            metadata={"embedding_model": "test-encoder", "n": 1, "f": 1.0, "b": True},
            configuration={"hnsw": {"space": space, **small}},
            embedding_function=None,
        )
        ids, rng = _fill(collection, 560, 24, number)
        _change(collection, ids, 24, rng, 50)
        collection.add(ids=[f"sync-{n}" for n in range(80)], embeddings=rng.normal(size=(80, 24)).astype(np.float32))
        _change(collection, ids, 24, rng, 200)
    plain.create_collection("empty", embedding_function=None)
    only_log = plain.create_collection("only-log", embedding_function=None)
    ids, rng = _fill(only_log, 40, 8, 9)
    _change(only_log, ids, 8, rng, 5)
    names, texts, vectors = summaries(700)
    real = client(path, "acme", "prod").create_collection(
        "by-l2", configuration={"hnsw": {"space": "cosine", "sync_threshold": 300}}
    )
    real.add(ids=names, embeddings=vectors, documents=texts)


def contents(path):
    """{tenant/database/name: {id: (vector, document, uri, metadata)}} as `get` returns it."""
    import sqlite3

    with sqlite3.connect(Path(path) / "chroma.sqlite3") as connection:
        databases = connection.execute("SELECT tenant_id, name FROM databases").fetchall()
    found = {}
    for tenant, database in databases:
        for collection in client(path, tenant, database).list_collections():
            got = collection.get(include=["embeddings", "documents", "uris", "metadatas"])
            rows = zip(got["embeddings"], got["documents"], got["uris"], got["metadatas"], strict=True)
            prefix = "" if database == "default_database" else f"{tenant}/{database}/"
            found[prefix + collection.name] = {
                identity: (np.asarray(vector, np.float32), *rest)
                for identity, (vector, *rest) in zip(got["ids"], rows, strict=True)
            }
    return found


def answers(path, name, queries, k=10, tenant="default_tenant", database="default_database"):
    """Ids and distances of each query."""
    collection = client(path, tenant, database).get_collection(name, embedding_function=None)
    got = collection.query(query_embeddings=queries, n_results=k, include=["distances"])
    return got["ids"], got["distances"]


WIDTH = 16


def call(n):
    """The n-th call of the busy writer: which ids it upserts (in generation n) or deletes."""
    rng = np.random.default_rng(n)
    ids = [f"r{number}" for number in rng.choice(400, 9, replace=False)]
    return ("delete", ids[:4]) if n % 4 == 3 else ("upsert", ids)


def vector_of(identity, generation):
    """Recognisable, exact in float32."""
    return np.random.default_rng([generation, int(identity[1:])]).integers(-1000, 1000, WIDTH).astype(np.float32)


def states():
    """(n, {id: generation}) after each whole call, beginning with none."""
    state = {}
    yield 0, dict(state)
    for n in itertools.count():
        kind, ids = call(n)
        for identity in ids:
            if kind == "upsert":
                state[identity] = n
            else:
                state.pop(identity, None)
        yield n + 1, dict(state)


def write(path, journal, stop):
    """The busy writer: calls without pause until the file `stop` appears; `journal` gets a line after each, or the error."""
    collection = client(path).get_or_create_collection(
        "busy", configuration={"hnsw": {"space": "l2", "sync_threshold": 20, "batch_size": 10}}, embedding_function=None
    )
    with Path(journal).open("w", buffering=1) as log:
        for n in itertools.count():
            if Path(stop).exists():
                return
            kind, ids = call(n)
            try:
                if kind == "delete":
                    collection.delete(ids=ids)
                else:
                    collection.upsert(
                        ids=ids,
                        embeddings=np.stack([vector_of(identity, n) for identity in ids]),
                        metadatas=[{"generation": n}] * len(ids),
                        documents=[f"{identity}@{n}" for identity in ids],
                    )
            except Exception as error:
                log.write(f"failed {n}: {error!r}\n")
                raise
            log.write(f"{n + 1}\n")
