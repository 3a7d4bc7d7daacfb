"""What the user's own program does with its Chroma database in the demo. Each function runs in a process of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

COLLECTION = "packages"
K = 10
_BATCH = 2000


@dataclass(frozen=True, slots=True)
class Rows:
    """What goes into the database: ids, vectors (n x d, float32), documents and metadata."""

    ids: list[str]
    vectors: npt.NDArray[np.float32]
    documents: list[str]
    metadata: list[dict[str, str | int]]

    def part(self, start: int, stop: int) -> Rows:
        return Rows(self.ids[start:stop], self.vectors[start:stop], self.documents[start:stop], self.metadata[start:stop])


@dataclass(frozen=True, slots=True)
class Seen:
    """What a user sees: every row (id to vector bytes, document, metadata), and the answers (ids, distances) to the queries."""

    rows: dict[str, tuple[bytes, str, dict[str, Any]]]
    ids: list[list[str]]
    distances: list[list[float]]


def fill(path: str, rows: Rows) -> None:
    """Make the database. Chroma writes its index every 100 changes (1,000 by default): it takes what is only in its log into the
    index anew at every opening, in an order that isn't always the same, and would not answer as itself then."""
    metadata = {"hnsw:space": "cosine", "hnsw:sync_threshold": 100, "hnsw:batch_size": 100}
    collection = _client(path).create_collection(COLLECTION, metadata=metadata, embedding_function=None)
    _upsert(collection, rows)


def change(path: str, rows: Rows) -> None:
    """Update the rows that are there and add those that aren't."""
    collection = _client(path).get_collection(COLLECTION, embedding_function=None)
    _upsert(collection, rows)
    collection.query(query_embeddings=rows.vectors[:1], n_results=1)  # a read makes Chroma take in its log


def write(path: str, rows: Rows) -> None:
    """Update the rows that are there and add those that aren't, one batch of them."""
    _upsert(_client(path).get_collection(COLLECTION, embedding_function=None), rows)


def note(path: str, ids: list[str], notes: dict[str, str | int]) -> None:
    """Give rows that are there some more metadata."""
    _client(path).get_collection(COLLECTION, embedding_function=None).update(ids=ids, metadatas=[dict(notes) for _ in ids])


def see(path: str, queries: npt.NDArray[np.float32]) -> Seen:
    """Open the database as any program would, and look."""
    return _look(_client(path).get_collection(COLLECTION, embedding_function=None), queries)


def _client(path: str) -> Any:
    import chromadb
    from chromadb.config import Settings

    return chromadb.PersistentClient(path, Settings(anonymized_telemetry=False))


def _upsert(collection: Any, rows: Rows) -> None:
    for start in range(0, len(rows.ids), _BATCH):
        part = rows.part(start, start + _BATCH)
        collection.upsert(ids=part.ids, embeddings=part.vectors, documents=part.documents, metadatas=part.metadata)


def _look(collection: Any, queries: npt.NDArray[np.float32]) -> Seen:
    answers = collection.query(query_embeddings=queries, n_results=K, include=["distances"])
    rows: dict[str, tuple[bytes, str, dict[str, Any]]] = {}
    for start in range(0, collection.count(), _BATCH):
        got = collection.get(limit=_BATCH, offset=start, include=["embeddings", "documents", "metadatas"])
        vectors = np.asarray(got["embeddings"], np.float32)
        for place, name in enumerate(got["ids"]):
            rows[name] = (vectors[place].tobytes(), got["documents"][place], dict(got["metadatas"][place]))
    return Seen(rows, answers["ids"], answers["distances"])
