"""What needs chromadb itself: searching, creating, inserting. Every function here runs in a child process of its own, so that
Chroma's crash, its memory (it loads whole indexes) and its import stay out of ours."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from strongroom.engines import stopwatch
from strongroom.engines.changes import ACT, Act, RowChanges, unspool
from strongroom.engines.chroma.conversion import Records, floats, records
from strongroom.errors import EngineFailed
from strongroom.model import Json

_QUERIES_AT_ONCE = 256
_INDICES, _FILES_EACH = 64, 5


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


@contextmanager
def _few_indices() -> Iterator[None]:
    """A client made meanwhile keeps `_INDICES` indices in memory: Chroma reckons from this limit, and each takes 2 MB and more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = _INDICES * _FILES_EACH
    resource.setrlimit(resource.RLIMIT_NOFILE, (few if soft == resource.RLIM_INFINITY else min(soft, few), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def search(
    path: str, tenant: str, database: str, name: str, queries: npt.NDArray[np.float32], k: int
) -> tuple[list[list[str]], list[npt.NDArray[np.floating[Any]]]]:
    """The k nearest of each query (q x dimension): ids and distances, exactly as the API returns them. Raises EngineFailed."""
    with _few_indices():
        client = _client(path, tenant, database)
    collection = client.get_collection(name, embedding_function=None)
    ids: list[list[str]] = []
    distances: list[npt.NDArray[np.floating[Any]]] = []
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        answer = collection.query(query_embeddings=queries[start : start + _QUERIES_AT_ONCE], n_results=k, include=["distances"])
        ids += answer["ids"]
        distances += map(exact, answer["distances"])
    stopwatch.again(lambda one: collection.query(query_embeddings=one, n_results=k, include=["distances"]), queries)
    return ids, distances


def exact(distances: Sequence[float]) -> npt.NDArray[np.floating[Any]]:
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


def apply(path: str, known: dict[str, tuple[str, str, str]], spool: str) -> None:
    """Do what the changes in the file `spool` say, in order. `known` says where the collection of each identity is. Raises
    EngineFailed."""
    clients: dict[tuple[str, str], Any] = {}
    with open(spool, "rb") as file:  # noqa: PTH123 - a path from our parent
        for change in unspool(file):
            if not isinstance(change, RowChanges):
                raise EngineFailed("only changes of rows can be applied here")
            tenant, database, name = known[change.identity]
            client = clients.get((tenant, database)) or clients.setdefault((tenant, database), _client(path, tenant, database))
            collection, most = client.get_collection(name, embedding_function=None), client.get_max_batch_size()
            for act, batch in _runs(change.batch, most):
                _do(collection, act, batch)


def _runs(batch: pa.RecordBatch, most: int) -> Iterator[tuple[Act, pa.RecordBatch]]:
    """Operations of one kind, on rows that say as much as each other, each id once: what one call does."""
    acts, ids = batch.column(ACT).to_pylist(), batch.column("id").to_pylist()
    given = list(zip(acts, *(batch.column(name).is_valid().to_pylist() for name in ("embedding", "document", "uri")), strict=True))
    start, seen = 0, set[str]()
    for row in range(batch.num_rows + 1):
        if row == batch.num_rows or given[row] != given[start] or ids[row] in seen or row - start == most:
            yield Act(acts[start]), batch.slice(start, row - start)
            start, seen = row, set()
        if row < batch.num_rows:
            seen.add(ids[row])


def _do(collection: Any, act: Act, batch: pa.RecordBatch) -> None:
    ids = batch.column("id").to_pylist()
    try:
        if act is Act.DELETE:
            collection.delete(ids=ids)
            return
        given: dict[str, Any] = {}
        if not batch.column("embedding").null_count:
            given["embeddings"] = floats(batch.column("embedding"))
        for name, argument in (("document", "documents"), ("uri", "uris")):
            if not batch.column(name).null_count:
                given[argument] = batch.column(name).to_pylist()
        metadatas = [json.loads(one) if one else None for one in batch.column("payload").to_pylist()]
        if act is Act.INSERT:  # what was NaN or infinite lies in Chroma's log as null, and no new row can be given that
            metadatas = [{key: value for key, value in (one or {}).items() if value is not None} or None for one in metadatas]
        if any(metadatas):
            given["metadatas"] = metadatas
        doing = {Act.INSERT: collection.add, Act.UPDATE: collection.update, Act.UPSERT: collection.upsert}
        doing[act](ids=ids, **given)
    except Exception as error:  # chromadb raises its own, Rust's and Python's; all mean the same here
        raise EngineFailed(
            f"Chroma refuses to {act.name.lower()} {ids[0]!r} to {ids[-1]!r}: {json.dumps(str(error)[:300])}"
        ) from error
