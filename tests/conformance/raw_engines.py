"""How does each engine's own client fill, read and search a database? No adapter is used, so that none can vouch for itself.

Each function runs in a process of its own (`apart`), so that a reopened database is really reopened.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROWS, DIMENSION = (int(os.environ.get(name, usual)) for name, usual in (("RAW_ROWS", 600), ("RAW_DIMENSION", 24)))


def vectors_of(start, count):
    draw = np.random.default_rng(start)
    return (
        draw.standard_normal((8, DIMENSION))[draw.integers(0, 8, count)] + 0.5 * draw.standard_normal((count, DIMENSION))
    ).astype(np.float32)


def queries(count=25):
    return vectors_of(987_654, count)


def row(vector, document, number):
    """What of a row is compared: its vector bit for bit, text and number."""
    return np.asarray(vector, np.float32).tobytes(), document, int(number)


def texts(start, count):
    return [f"document {number} – ünïcode" for number in range(start, start + count)]


# -- Chroma ----------------------------------------------------------------------------------------------------------------


def chroma_make(path, start, count):
    import chromadb

    metadata = {"hnsw:space": "l2", "hnsw:sync_threshold": 50, "hnsw:batch_size": 50, "model": "test-encoder"}
    collection = chromadb.PersistentClient(path).get_or_create_collection("things", metadata=metadata, embedding_function=None)
    collection.upsert(
        ids=[f"thing-{number}" for number in range(start, start + count)],
        embeddings=vectors_of(start, count),
        documents=texts(start, count),
        metadatas=[{"number": number, "even": number % 2 == 0} for number in range(start, start + count)],
    )
    collection.query(query_embeddings=queries(1), n_results=1)


def chroma_read(path, name="things"):
    import chromadb

    got = (
        chromadb.PersistentClient(path)
        .get_collection(name, embedding_function=None)
        .get(include=["embeddings", "documents", "metadatas"])
    )
    rows = zip(got["ids"], got["embeddings"], got["documents"], got["metadatas"], strict=True)
    return {str(key): row(vector, document, metadata["number"]) for key, vector, document, metadata in rows}


def chroma_ask(path, name="things"):
    import chromadb

    collection = chromadb.PersistentClient(path).get_collection(name, embedding_function=None)
    got = collection.query(query_embeddings=queries(), n_results=10, include=["distances"])
    return got["ids"], got["distances"]


# -- FAISS -----------------------------------------------------------------------------------------------------------------


def faiss_make(path, start, count):
    import faiss

    place, sidecar = Path(path), Path(path).with_suffix(".parquet")
    if place.exists():
        index, table = faiss.read_index(path), pq.read_table(sidecar)
    else:
        index, table = faiss.IndexHNSWFlat(DIMENSION, 16), None
    index.add(vectors_of(start, count))
    names = [f"thing-{number}" for number in range(start, start + count)]
    more = pa.table({"id": names, "document": texts(start, count), "number": list(range(start, start + count))})
    faiss.write_index(index, path)
    pq.write_table(more if table is None else pa.concat_tables([table, more]), sidecar)


def faiss_read(path, name="things"):
    import faiss

    index, table = faiss.read_index(path), pq.read_table(Path(path).with_suffix(".parquet"))
    vectors = index.reconstruct_n(0, index.ntotal)
    return _with_sidecar(table, vectors)


def _with_sidecar(table, vectors):
    rows = zip(table["id"].to_pylist(), vectors, table["document"].to_pylist(), table["number"].to_pylist(), strict=True)
    return {str(key): row(*rest) for key, *rest in rows}


def faiss_ask(path, name="things"):
    import faiss

    distances, ids = faiss.read_index(path).search(queries(), 10)
    return ids.tolist(), distances.tolist()


# -- hnswlib ---------------------------------------------------------------------------------------------------------------


def _sidecar_too(path, start, count):
    sidecar = Path(path).with_suffix(".parquet")
    names = [f"thing-{number}" for number in range(start, start + count)]
    more = pa.table({"id": names, "document": texts(start, count), "number": list(range(start, start + count))})
    pq.write_table(pa.concat_tables([pq.read_table(sidecar), more]) if sidecar.exists() else more, sidecar)


def hnswlib_make(path, start, count):
    import hnswlib

    index = hnswlib.Index("l2", DIMENSION)
    if Path(path).exists():
        index.load_index(path, max_elements=5 * ROWS)
    else:
        index.init_index(5 * ROWS, M=8, ef_construction=60)
    done = index.get_current_count()
    index.add_items(vectors_of(start, count), np.arange(done, done + count), num_threads=1)
    index.save_index(path)
    _sidecar_too(path, start, count)


def hnswlib_read(path, name="things"):
    import hnswlib

    index, table = hnswlib.Index("l2", DIMENSION), pq.read_table(Path(path).with_suffix(".parquet"))
    index.load_index(path)
    vectors = index.get_items(np.arange(index.get_current_count()))
    return _with_sidecar(table, vectors)


def hnswlib_ask(path, name="things"):
    import hnswlib

    index = hnswlib.Index("l2", DIMENSION)
    index.load_index(path)
    index.set_ef(50)
    ids, distances = index.knn_query(queries(), 10, num_threads=1)
    return ids.tolist(), distances.tolist()


# -- LanceDB ---------------------------------------------------------------------------------------------------------------


def lancedb_make(path, start, count):
    import lancedb

    rows = pa.table(
        {
            "id": [f"thing-{number}" for number in range(start, start + count)],
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors_of(start, count).ravel()), DIMENSION),
            "document": texts(start, count),
            "number": list(range(start, start + count)),
        }
    )
    database = lancedb.connect(path)
    if "things" in database.table_names():
        database.open_table("things").add(rows)
    else:
        table = database.create_table("things", rows)
        table.create_index("l2", vector_column_name="vector", index_type="IVF_HNSW_SQ", num_partitions=2)


def lancedb_read(path, name="things"):
    import lancedb

    table = lancedb.connect(path).open_table(name).to_arrow()
    vector = next(field.name for field in table.schema if pa.types.is_fixed_size_list(field.type))
    return {str(one["id"]): row(one[vector], one["document"], one["number"]) for one in table.to_pylist()}


def lancedb_ask(path, name="things"):
    import lancedb

    table = lancedb.connect(path).open_table(name)
    found = [table.search(query).limit(10).to_list() for query in queries()]
    return [[row["id"] for row in rows] for rows in found], [[row["_distance"] for row in rows] for rows in found]


# -- Qdrant Edge ------------------------------------------------------------------------------------------------------------


def edge_make(path, start, count):
    import qdrant_edge as qdrant

    if Path(path).exists():
        shard = qdrant.EdgeShard.load(path)
    else:
        Path(path).mkdir()
        vectors = {"image": qdrant.EdgeVectorParams(size=DIMENSION, distance=qdrant.Distance.Euclid)}
        shard = qdrant.EdgeShard.create(
            path, qdrant.EdgeConfig(vectors=vectors, optimizers=qdrant.EdgeOptimizersConfig(indexing_threshold=10))
        )
        shard.update(qdrant.UpdateOperation.create_field_index("number", qdrant.PayloadSchemaType.Integer))
    numbers = range(start, start + count)
    points = [
        qdrant.Point(number, {"image": vector.tolist()}, {"document": text, "number": number})
        for number, vector, text in zip(numbers, vectors_of(start, count), texts(start, count), strict=True)
    ]
    shard.update(qdrant.UpdateOperation.upsert_points(points))
    shard.optimize()
    shard.flush()
    shard.close()


def edge_read(path, name="things"):
    import qdrant_edge as qdrant

    shard = qdrant.EdgeShard.load(path)
    found, _ = shard.scroll(qdrant.ScrollRequest(limit=9 * ROWS, with_payload=True, with_vector=True))
    rows = {}
    for point in found:
        vector = next(iter(point.vector.values())) if isinstance(point.vector, dict) else point.vector
        payload = point.payload or {}
        rows[payload.get("strongroom_id", str(point.id))] = row(vector, payload.get("document"), payload["number"])
    shard.close()
    return rows


def edge_ask(path, name="things"):
    import qdrant_edge as qdrant

    shard = qdrant.EdgeShard.load(path)
    wanted = [qdrant.QueryRequest(limit=10, query=qdrant.Query.Nearest(query.tolist(), using="image")) for query in queries()]
    found = [shard.query(one) for one in wanted]
    shard.close()
    return [[point.id for point in points] for points in found], [[point.score for point in points] for points in found]


# -- the local mode of Qdrant's client -------------------------------------------------------------------------------------


def _qdrant(path):
    from qdrant_client import QdrantClient

    return closing(QdrantClient(path=path))


def qdrant_make(path, start, count):
    from qdrant_client import models

    with _qdrant(path) as client:
        if not client.collection_exists("things"):
            client.create_collection("things", models.VectorParams(size=DIMENSION, distance=models.Distance.EUCLID))
        numbers = zip(range(start, start + count), vectors_of(start, count), texts(start, count), strict=True)
        points = [
            models.PointStruct(id=i, vector=one.tolist(), payload={"document": text, "number": i}) for i, one, text in numbers
        ]
        client.upsert("things", points)


def qdrant_read(path, name="things"):
    with _qdrant(path) as client:
        found, _ = client.scroll(name, limit=9 * ROWS, with_vectors=True)
    rows = {}
    for point in found:
        vector = next(iter(point.vector.values())) if isinstance(point.vector, dict) else point.vector
        key = point.payload.get("strongroom_id", str(point.id))
        rows[key] = row(vector, point.payload["document"], point.payload["number"])
    return rows


def qdrant_ask(path, name="things"):
    with _qdrant(path) as client:
        found = [client.query_points(name, query.tolist(), limit=10).points for query in queries()]
    return [[point.id for point in points] for points in found], [[point.score for point in points] for points in found]


# -- USearch ---------------------------------------------------------------------------------------------------------------


def usearch_make(path, start, count):
    from usearch.index import Index

    index = Index.restore(path) if Path(path).exists() else Index(ndim=DIMENSION, metric="l2sq", dtype="f32")
    done = len(index)
    index.add(np.arange(done, done + count), vectors_of(start, count))
    index.save(path)
    _sidecar_too(path, start, count)


def usearch_read(path, name="things"):
    from usearch.index import Index

    index, table = Index.restore(path), pq.read_table(Path(path).with_suffix(".parquet"))
    vectors = index.get(np.arange(len(index)))
    return _with_sidecar(table, vectors)


def usearch_ask(path, name="things"):
    from usearch.index import Index

    found = Index.restore(path).search(queries(), 10)
    return found.keys.tolist(), found.distances.tolist()


@dataclass(frozen=True)
class Raw:
    """An engine as its own users know it. `leaf` is the name of its file or directory; `exact`: its index comes back as it was;
    `repeats`: it then gives the same answers."""

    name: str
    leaf: str
    make: Callable[..., Any]
    read: Callable[..., Any]
    ask: Callable[..., Any]
    exact: bool = True
    repeats: bool = True
    one_collection: bool = False
    """Called as its file or folder is."""

    def url(self, directory):
        return f"{self.name}://{directory / self.leaf}"

    def path(self, directory):
        return str(directory / self.leaf)

    def renamed(self, directory):
        """Where a copy with another name belongs, if the name is that of its file."""
        return directory / f"other{Path(self.leaf).suffix}"

    def nowhere(self, directory):
        """The URL of a database that doesn't exist."""
        return f"{self.name}://{directory / 'nowhere' / self.leaf}"

    def remove(self, directory):
        """The database is lost."""
        shutil.rmtree(directory)


RAW = {
    raw.name: raw
    for raw in (
        Raw("chroma", "db", chroma_make, chroma_read, chroma_ask),
        Raw("faiss", "things.faiss", faiss_make, faiss_read, faiss_ask, one_collection=True),
        Raw("hnswlib", "things.bin", hnswlib_make, hnswlib_read, hnswlib_ask, one_collection=True),
        Raw("lancedb", "db", lancedb_make, lancedb_read, lancedb_ask),
        Raw("qdrant-edge", "things", edge_make, edge_read, edge_ask, one_collection=True),
        Raw("qdrant-local", "db", qdrant_make, qdrant_read, qdrant_ask, exact=False, repeats=False),
        Raw("usearch", "things.usearch", usearch_make, usearch_read, usearch_ask, one_collection=True),
    )
}
