"""The same embeddings in three engines, each in an order of its own. Run in a process apart: no engine's library stays loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np

ROWS, DIMENSION = 3000, 96


def vectors() -> np.ndarray:
    return np.random.default_rng(11).standard_normal((ROWS, DIMENSION), np.float32)


def in_chroma(folder: str) -> str:
    import chromadb

    settings = {"hnsw": {"space": "l2", "ef_construction": 40, "max_neighbors": 8, "sync_threshold": 100}}
    collection = chromadb.PersistentClient(f"{folder}/chroma").create_collection(
        "things", configuration=settings, embedding_function=None
    )
    for start in range(0, ROWS, 500):
        part = slice(start, start + 500)
        collection.add(ids=[f"thing-{one}" for one in range(ROWS)[part]], embeddings=vectors()[part])
    collection.query(query_embeddings=vectors()[:1], n_results=1)
    return f"chroma://{folder}/chroma"


def in_faiss(folder: str) -> str:
    import faiss

    index = faiss.IndexHNSWFlat(DIMENSION, 8)
    index.add(vectors()[np.random.default_rng(1).permutation(ROWS)])
    faiss.write_index(index, f"{folder}/things.faiss")
    return f"faiss://{folder}/things.faiss"


def in_lancedb(folder: str) -> str:
    import lance
    import pyarrow as pa

    order = np.random.default_rng(2).permutation(ROWS)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors()[order].ravel()), DIMENSION)
    lance.write_dataset(pa.table({"id": pa.array(order), "vector": column}), f"{folder}/lance/things.lance")
    return f"lancedb://{folder}/lance"


def optimized(folder: str) -> None:
    """Every file of the table written anew, with some rows more."""
    import lance
    import pyarrow as pa

    table = lance.dataset(f"{folder}/lance/things.lance")
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors()[:30].ravel() + 1), DIMENSION)
    lance.write_dataset(pa.table({"id": pa.array(np.arange(30) + ROWS), "vector": column}), table.uri, mode="append")
    lance.dataset(table.uri).optimize.compact_files(target_rows_per_fragment=1 << 20)


def files_of(folder: str) -> dict[str, bytes]:
    root = Path(folder)
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
