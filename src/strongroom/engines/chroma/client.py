"""What needs chromadb itself: searching, creating, inserting. Every function here runs in a child process of its own, so that
Chroma's crash, its memory (it loads whole indexes) and its import stay out of ours."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from strongroom.engines.chroma.conversion import Records, records
from strongroom.errors import EngineFailed
from strongroom.model import Json

_QUERIES_AT_ONCE = 256


def _settings() -> Any:
    os.environ["ANONYMIZED_TELEMETRY"] = "False"
    from chromadb.config import Settings

    return Settings(anonymized_telemetry=False)


def load() -> None:
    """Import chromadb, which takes longer than to ask it."""
    _settings()
    import chromadb  # noqa: F401


def _client(path: str, tenant: str, database: str) -> Any:
    settings = _settings()
    import chromadb

    return chromadb.PersistentClient(path, settings=settings, tenant=tenant, database=database)


def search(
    path: str, tenant: str, database: str, name: str, queries: npt.NDArray[np.float32], k: int
) -> tuple[list[list[str]], list[npt.NDArray[np.floating[Any]]]]:
    """The k nearest of each query (q x dimension): ids and distances, exactly as the API returns them. Raises EngineFailed."""
    collection = _client(path, tenant, database).get_collection(name, embedding_function=None)
    ids: list[list[str]] = []
    distances: list[npt.NDArray[np.floating[Any]]] = []
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        answer = collection.query(query_embeddings=queries[start : start + _QUERIES_AT_ONCE], n_results=k, include=["distances"])
        ids += answer["ids"]
        distances += map(_exact, answer["distances"])
    return ids, distances


def _exact(distances: Sequence[float]) -> npt.NDArray[np.floating[Any]]:
    """Chroma's float32, which reach Python as float64; left as they are should they be more than that."""
    wide = np.array(distances, np.float64)
    narrow = wide.astype(np.float32)
    return narrow if np.array_equal(narrow, wide, equal_nan=True) else wide


def prepare(path: str) -> None:
    """Make an empty database at `path`, or migrate the one that is there."""
    _client(path, "default_tenant", "default_database")


def create(path: str, tenant: str, database: str, name: str, metadata: dict[str, Json] | None, hnsw: dict[str, Json]) -> None:
    """Create the collection, and its tenant and database where they are missing. Raises EngineFailed."""
    settings = _settings()
    import chromadb
    from chromadb.errors import ChromaError, NotFoundError, UniqueConstraintError

    settings.is_persistent, settings.persist_directory = True, path
    admin = chromadb.AdminClient(settings)
    for make, look, arguments in (
        (admin.create_tenant, admin.get_tenant, (tenant,)),
        (admin.create_database, admin.get_database, (database, tenant)),
    ):
        try:
            look(*arguments)
        except NotFoundError:
            make(*arguments)
    try:
        _client(path, tenant, database).create_collection(
            name, metadata=metadata or None, configuration={"hnsw": hnsw}, embedding_function=None
        )
    except (ChromaError, UniqueConstraintError, ValueError) as error:
        raise EngineFailed(f"Chroma refuses to create collection {name!r}: {error}") from error


def insert(path: str, tenant: str, database: str, name: str, spool: str) -> int:
    """Add the rows of the Arrow file `spool` to a new collection; returns how many it then has. Raises EngineFailed."""
    client = _client(path, tenant, database)
    collection = client.get_collection(name, embedding_function=None)
    most = client.get_max_batch_size()
    with pa.memory_map(spool) as file:
        for batch in _slices(pa.ipc.open_stream(file), most):
            _add(collection, records(batch))
    count: int = collection.count()
    return count


def _slices(reader: Any, most: int) -> Iterator[pa.RecordBatch]:
    for batch in reader:
        for start in range(0, batch.num_rows, most):
            yield batch.slice(start, most)


def _add(collection: Any, rows: Records) -> None:
    optional: dict[str, Sequence[Json]] = {"documents": rows.documents, "metadatas": rows.metadatas, "uris": rows.uris}
    given: dict[str, Any] = {key: values for key, values in optional.items() if any(value is not None for value in values)}
    try:
        collection.add(ids=rows.ids, embeddings=rows.vectors, **given)
    except Exception as error:  # chromadb raises its own, Rust's and Python's; all mean the same here
        raise EngineFailed(f"Chroma refuses rows {rows.ids[0]!r} to {rows.ids[-1]!r}: {json.dumps(str(error)[:300])}") from error
