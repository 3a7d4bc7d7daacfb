"""What the benchmarks back up: made from the real embeddings where they lie beside the project, else from generated clusters.

Where more rows are needed than there are, they are mixtures of two real vectors, turned by a small random rotation of pairs of
coordinates and normalized: float32 of full entropy with the real distribution of exponents.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

REAL = Path(__file__).parent.parent.parent / "shared" / "data" / "summaries-minilm.parquet"
DIMENSION = 384
Matrix = npt.NDArray[np.float32]


def real_vectors() -> tuple[Matrix, str]:
    """The vectors to mix, and what they are."""
    if REAL.exists():
        column = pq.read_table(REAL, columns=["vector"])["vector"].combine_chunks()
        return np.asarray(column.values, np.float32).reshape(-1, DIMENSION), "mixtures of real MiniLM embeddings"
    draw = np.random.default_rng(1)
    made = draw.standard_normal((500, DIMENSION), np.float32)[draw.integers(0, 500, 15_000)]
    return made + np.float32(0.4) * draw.standard_normal(made.shape, np.float32), "generated clusters"


def more_vectors(base: Matrix, rows: int, seed: int) -> Matrix:
    """`rows` new vectors (rows x DIMENSION, unit length)."""
    draw = np.random.default_rng(seed)
    one, other = draw.integers(0, len(base), (2, rows))
    share = draw.random((rows, 1), np.float32) * np.float32(0.5)
    mixed = base[one] * (1 - share) + base[other] * share
    angle = draw.standard_normal((rows, 1), np.float32) * np.float32(0.1)
    turned = np.empty_like(mixed)
    turned[:, 0::2] = mixed[:, 0::2] * np.cos(angle) - mixed[:, 1::2] * np.sin(angle)
    turned[:, 1::2] = mixed[:, 0::2] * np.sin(angle) + mixed[:, 1::2] * np.cos(angle)
    result: Matrix = turned / np.linalg.norm(turned, axis=1, keepdims=True)
    return result


def hnsw_index(path: Path, rows: int, links: int = 16) -> float:
    """A FAISS HNSWFlat index of `rows` vectors. Gives the seconds that building it took."""
    import faiss

    base, _ = real_vectors()
    vectors = more_vectors(base, rows, seed=2)
    index = faiss.IndexHNSWFlat(DIMENSION, links)
    index.hnsw.efConstruction = 40
    started = time.perf_counter()
    index.add(vectors)
    seconds = time.perf_counter() - started
    path.parent.mkdir(parents=True, exist_ok=True)
    faiss.write_index(index, str(path))
    return seconds


def vectors_sidecar(path: Path, rows: int) -> None:
    """The vectors of `hnsw_index` with ids and texts, as Arrow writes Parquet by default."""
    base, _ = real_vectors()
    column = pa.FixedSizeListArray.from_arrays(pa.array(more_vectors(base, rows, seed=2).ravel()), DIMENSION)
    ids, texts = [f"doc-{row}" for row in range(rows)], [f"the text of document {row}" for row in range(rows)]
    pq.write_table(pa.table({"id": ids, "document": texts, "vector": column}), path)


def flat_index(path: Path, size: int) -> None:
    """A FAISS Flat index file of about `size` bytes, written piece by piece."""
    import faiss

    base, _ = real_vectors()
    rows = size // (4 * DIMENSION)
    path.parent.mkdir(parents=True, exist_ok=True)
    empty = faiss.serialize_index(faiss.IndexFlatL2(DIMENSION)).tobytes()
    header = bytearray(empty)
    header[8:16] = rows.to_bytes(8, "little")
    header[-8:] = (rows * DIMENSION).to_bytes(8, "little")
    with path.open("wb") as file:
        file.write(header)
        for start in range(0, rows, 50_000):
            file.write(more_vectors(base, min(50_000, rows - start), seed=start).tobytes())


def changed_vectors(path: Path) -> None:
    """One in a hundred vectors of a `flat_index` file is another one, here and there."""
    base, _ = real_vectors()
    rows = path.stat().st_size // (4 * DIMENSION)
    draw = np.random.default_rng(6)
    start = path.stat().st_size - rows * 4 * DIMENSION
    fresh = more_vectors(base, rows // 100, seed=7)
    with path.open("r+b") as file:
        for row, vector in zip(np.sort(draw.choice(rows, rows // 100, replace=False)).tolist(), fresh, strict=True):
            file.seek(start + row * 4 * DIMENSION)
            file.write(vector.tobytes())


def lance_table(path: Path, size: int) -> None:
    """A LanceDB directory with one table `rows` of about `size` bytes."""
    import lance

    base, _ = real_vectors()
    rows = size // (4 * DIMENSION + 40)
    schema = pa.schema([("id", pa.int64()), ("text", pa.string()), ("vector", pa.list_(pa.float32(), DIMENSION))])

    def batches() -> object:
        for start in range(0, rows, 20_000):
            count = min(20_000, rows - start)
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(more_vectors(base, count, start).ravel()), DIMENSION)
            numbers = np.arange(start, start + count)
            yield pa.record_batch([pa.array(numbers), pa.array([f"document number {n}" for n in numbers]), vectors], schema=schema)

    lance.write_dataset(batches(), str(path / "rows.lance"), schema=schema)


def chroma_database(path: Path, size: int) -> None:
    """A Chroma database with one collection of about `size` bytes: wide vectors, eight real ones in a row, since Chroma takes its
    time for each row."""
    import chromadb

    base, _ = real_vectors()
    settings = {"hnsw": {"ef_construction": 20, "max_neighbors": 8}}
    client = chromadb.PersistentClient(str(path))
    collection = client.create_collection("rows", configuration=settings, embedding_function=None)
    rows = size // (4 * 8 * DIMENSION)
    for start in range(0, rows, 1000):
        count = min(1000, rows - start)
        ids = [f"row-{start + number}" for number in range(count)]
        wide = more_vectors(base, 8 * count, start).reshape(count, -1)
        collection.add(ids=ids, embeddings=wide, documents=[f"the text of {name}" for name in ids])


def hnswlib_states(directory: Path, rows: int, links: int = 16) -> tuple[list[Path], list[Path]]:
    """Two states of an hnswlib index and its vectors (`index.bin`, `index.npy`) of `rows` vectors: the second after 1 % of random
    updates and 1 % of inserts. Made if they aren't there; one thread fills the index, so that both files have one order."""
    import hnswlib

    states = [[directory / name / file for file in ("index.bin", "index.npy")] for name in ("before", "after")]
    if all(path.exists() for state in states for path in state):
        return states[0], states[1]
    base, _ = real_vectors()
    draw, few = np.random.default_rng(3), rows // 100
    vectors = more_vectors(base, rows, seed=2)
    index = hnswlib.Index("l2", DIMENSION)
    index.init_index(rows + few, M=links, ef_construction=100)
    index.add_items(vectors, num_threads=1)
    _save(index, vectors, states[0])
    changed = draw.choice(rows, few, replace=False)
    vectors[changed] = more_vectors(base, few, seed=4)
    index.add_items(vectors[changed], changed, num_threads=1)
    vectors = np.concatenate([vectors, more_vectors(base, few, seed=5)])
    index.add_items(vectors[rows:], np.arange(rows, rows + few), num_threads=1)
    _save(index, vectors, states[1])
    return states[0], states[1]


def _save(index: Any, vectors: Matrix, files: list[Path]) -> None:
    files[0].parent.mkdir(parents=True, exist_ok=True)
    np.save(files[1], vectors)
    index.save_index(str(files[0]))
