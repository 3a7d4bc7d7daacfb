"""What does the independent reader read back? One small database of each engine, made and read with the engine's own client.

Each function runs in a process of its own, so that an engine's threads and caches end with it.
"""

from __future__ import annotations

import datetime
import decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 240


def vectors(seed, count, dimension):
    return np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)


def faiss_make(folder):
    """An HNSW index of vectors that end in half a block, beside columns of every kind of type, nulls among them."""
    import faiss

    index = faiss.IndexHNSWFlat(22, 8)
    index.add(vectors(1, ROWS, 22))
    faiss.write_index(index, str(Path(folder) / "things.faiss"))
    every = range(ROWS)

    def some(value):
        return [None if row % 7 == 0 else value(row) for row in every]

    moment = datetime.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=datetime.UTC)
    columns = {
        "id": [f"thing-{row}" for row in every],
        "document": some(lambda row: f"text {row} – ünïcode" * (row % 4)),
        "small": pa.array(some(lambda row: row % 100 - 50), pa.int8()),
        "big": pa.array(some(lambda row: 2**63 + row), pa.uint64()),
        "yes": some(lambda row: row % 2 == 0),
        "half": pa.array(some(lambda row: np.float16(row)), pa.float16()),
        "single": pa.array(some(lambda row: row / 3), pa.float32()),
        "double": some(lambda row: row / 3),
        "when": pa.array(some(lambda row: moment + datetime.timedelta(row)), pa.timestamp("us", "UTC")),
        "day": some(lambda row: datetime.date(2026, 1, 1) + datetime.timedelta(row)),
        "price": pa.array(some(lambda row: decimal.Decimal(row) / 4), pa.decimal128(20, 2)),
        "raw": some(lambda row: bytes(range(row % 40))),
        "pair": pa.array([[row, row + 1] for row in every], pa.list_(pa.int16(), 2)),
        "word": pa.array(some(lambda row: f"word {row % 5}")).dictionary_encode(),
        "nested": some(lambda row: {"b": [row, None], "a": f"ü{row}"}),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors(1, ROWS, 22).ravel()), 22),  # the index's own
    }
    pq.write_table(pa.table(columns), Path(folder) / "things.parquet", data_page_size=5_000, use_dictionary=["word"])


def faiss_change(folder, step):
    """A hundredth of the vectors overwritten where they lie, as many inserted."""
    import faiss

    path, sidecar = Path(folder) / "things.faiss", Path(folder) / "things.parquet"
    index, table = faiss.read_index(str(path)), pq.read_table(sidecar)
    count, some = index.ntotal, max(1, ROWS // 100)
    held = faiss.rev_swig_ptr(faiss.downcast_index(index.storage).get_xb(), count * 22).reshape(count, 22)
    held[step * 7 : step * 7 + some] = vectors(100 + step, some, 22)
    index.add(vectors(200 + step, some, 22))
    faiss.write_index(index, str(path))
    more = table.slice(0, some).set_column(0, "id", pa.array([f"step-{step}-{row}" for row in range(some)]))
    table = pa.concat_tables([table, more])
    every = pa.FixedSizeListArray.from_arrays(pa.array(index.reconstruct_n(0, index.ntotal).ravel()), 22)
    table = table.set_column(table.column_names.index("embedding"), "embedding", every)
    pq.write_table(table, sidecar, data_page_size=5_000, use_dictionary=["word"])


def faiss_read(folder):
    import faiss

    index = faiss.read_index(str(Path(folder) / "things.faiss"))
    return index.reconstruct_n(0, index.ntotal).tobytes(), pq.read_table(Path(folder) / "things.parquet")


def faiss_ask(folder, queries, k):
    import faiss

    distances, places = faiss.read_index(str(Path(folder) / "things.faiss")).search(queries, k)
    names = pq.read_table(Path(folder) / "things.parquet")["id"].to_pylist()
    return [[names[place] for place in row] for row in places], distances.tolist()


def chroma_make(folder):
    """A collection whose index was written, with deleted, changed and late rows."""
    import chromadb

    configuration = {"hnsw": {"space": "l2", "sync_threshold": 50, "batch_size": 50}}
    collection = chromadb.PersistentClient(str(Path(folder) / "db")).create_collection(
        "things", configuration=configuration, embedding_function=None
    )
    ids = [f"thing-{row}" for row in range(ROWS)]
    metadatas = [{"number": row, "text": "ü" * (row % 5), "ratio": row / 3} for row in range(ROWS)]
    documents = [f"text {row}" for row in range(ROWS)]
    collection.add(ids=ids, embeddings=vectors(2, ROWS, 16), documents=documents, metadatas=metadatas)
    collection.delete(ids=ids[10:40])
    collection.add(ids=[f"late-{row}" for row in range(60)], embeddings=vectors(3, 60, 16))
    collection.update(ids=ids[50:53], embeddings=vectors(4, 3, 16))


def chroma_change(folder, step):
    """A few rows updated, inserted and deleted."""
    import chromadb

    collection = chromadb.PersistentClient(str(Path(folder) / "db")).get_collection("things", embedding_function=None)
    collection.update(ids=[f"thing-{60 + 9 * step}", f"thing-{61 + 9 * step}"], embeddings=vectors(100 + step, 2, 16))
    collection.add(ids=[f"step-{step}-{row}" for row in range(60)], embeddings=vectors(200 + step, 60, 16), documents=["x"] * 60)
    collection.update(ids=[f"thing-{100 + step}", f"thing-{120 + step}"], metadatas=[{"number": -1}, {"number": -2}])
    collection.delete(ids=[f"thing-{150 + step}", f"late-{step}"])


def chroma_read(folder):
    """{id: (bytes of the vector, document, metadata)}"""
    import chromadb

    collection = chromadb.PersistentClient(str(Path(folder) / "db")).get_collection("things", embedding_function=None)
    got = collection.get(include=["embeddings", "documents", "metadatas"])
    rows = zip(got["ids"], got["embeddings"], got["documents"], got["metadatas"], strict=True)
    return {name: (np.asarray(vector, np.float32).tobytes(), document, metadata) for name, vector, document, metadata in rows}


def lancedb_make(folder):
    """A table of two appends, with rows deleted and an index."""
    import lancedb

    database = lancedb.connect(str(Path(folder) / "db"))

    def part(first, last):
        values = pa.FixedSizeListArray.from_arrays(pa.array(vectors(first, last - first, 16).ravel()), 16)
        return pa.table({"id": [f"thing-{row}" for row in range(first, last)], "vector": values})

    table = database.create_table("things", part(0, 200))
    table.add(part(200, ROWS))
    table.delete("id = 'thing-7'")
    table.create_index("l2", vector_column_name="vector", index_type="IVF_FLAT", num_partitions=2)


def lancedb_change(folder, step):
    """A few rows updated, inserted and deleted, and all files written anew by optimize()."""
    import lancedb

    table = lancedb.connect(str(Path(folder) / "db")).open_table("things")
    table.update(where=f"id = 'thing-{50 + step}'", values={"vector": vectors(100 + step, 1, 16)[0].tolist()})
    values = pa.FixedSizeListArray.from_arrays(pa.array(vectors(200 + step, 3, 16).ravel()), 16)
    table.add(pa.table({"id": [f"step-{step}-{row}" for row in range(3)], "vector": values}))
    table.delete(f"id = 'thing-{100 + step}'")
    table.optimize()


def lancedb_read(folder):
    """{id: bytes of the vector}"""
    import lancedb

    table = lancedb.connect(str(Path(folder) / "db")).open_table("things").to_arrow()
    return {row["id"]: np.asarray(row["vector"], np.float32).tobytes() for row in table.to_pylist()}
