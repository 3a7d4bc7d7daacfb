"""What the FAISS library itself is asked. Every function here runs in a child process (see `strongroom.engines.isolation`).

Indexes are opened through /dev/fd, so that the very file that the parent holds open is read, whatever stands under its name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from strongroom.engines import stopwatch
from strongroom.engines.protocol import rows_per_block
from strongroom.errors import EngineFailed, Unreadable, WrongRequest
from strongroom.model import Json

_TRAINING_POINTS = 256  # a centroid; FAISS itself samples down to as many
_CODED = ("IndexIVFFlat", "IndexIVFPQ", "IndexIVFScalarQuantizer")  # their standalone codes decode as the lists' codes do

Ids = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Found:
    """What the library says about an index file. `labels` are the keys of its rows in the order in which `decode` gives
    them, None if they are 0..count-1; `ids` what an id map makes of them, None if there is none."""

    kind: str
    dimension: int
    count: int
    metric: int
    exact: bool
    labels: Ids | None
    ids: Ids | None


def load() -> None:
    """Import the library, which takes longer than to ask it."""
    import faiss  # noqa: F401


def inspect(descriptor: int) -> Found:
    """What kind of index this is, and whether its vectors can be had. Raises Unreadable."""
    index = _opened(descriptor, mapped=False)
    inner, ids = _without_id_map(index)
    try:
        parts = [labels for labels, _ in _decoded(inner, vectors=False)]
        next(_decoded(inner), None)
    except (RuntimeError, NotImplementedError) as error:
        raise Unreadable(
            f"FAISS can't give the vectors of an {type(index).__name__} back ({_first_line(error)})",
            hint="back up the vectors that it was built from, or keep the file itself with other means",
        ) from error
    labels = np.concatenate(parts) if parts else np.empty(0, np.int64)
    if len(labels) != index.ntotal:
        raise Unreadable(f"the index announces {index.ntotal} vectors and gives {len(labels)}")
    natural = bool(np.array_equal(labels, np.arange(len(labels))))
    return Found(
        type(inner).__name__.removeprefix("Index"),
        index.d,
        index.ntotal,
        index.metric_type,
        _exact(inner),
        None if natural else labels,
        None if ids is None else (ids if natural else ids[labels]),
    )


def decode(descriptor: int, out: int) -> None:
    """Write all rows as an Arrow stream to the descriptor `out`: `label` int64, `vector` fixed-size list of float32."""
    import pyarrow as pa

    index = _opened(descriptor)
    inner, _ = _without_id_map(index)
    kind = pa.list_(pa.float32(), inner.d)
    schema = pa.schema([("label", pa.int64()), ("vector", kind)])
    with os.fdopen(os.dup(out), "wb") as pipe, pa.ipc.new_stream(pipe, schema) as writer:
        for labels, vectors in _decoded(inner):
            column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), type=kind)
            writer.write_batch(pa.record_batch([pa.array(labels), column], schema))


def search(descriptor: int, queries: Vectors, k: int) -> tuple[Ids, Ids, Vectors]:
    """The index's answers: labels under its id map, ids above it (-1 where there is no answer), distances; each q x k."""
    index = _opened(descriptor)
    inner, ids = _without_id_map(index)
    asked = np.ascontiguousarray(queries, np.float32)
    distances, labels = inner.search(asked, k)
    stopwatch.again(lambda one: inner.search(one, k), asked)
    mapped = labels if ids is None else np.where(labels < 0, -1, ids[np.maximum(labels, 0)] if len(ids) else -1)
    return labels, mapped, distances


@dataclass(frozen=True, slots=True)
class Plan:
    """How to build an index from a file of count x dimension float32 vectors and, if given, one of int64 ids."""

    vectors: str
    ids: str | None
    count: int
    dimension: int
    metric: int
    factory: str
    id_map: str | None  # 'IDMap' or 'IDMap2'
    parameters: Mapping[str, Json]


def build(plan: Plan, path: str) -> None:
    """Build the index that `plan` describes, trained on a sample where it needs training, and write it to `path`."""
    import faiss

    index = faiss.index_factory(plan.dimension, plan.factory, plan.metric)
    graph = _part(index, "hnsw")
    if graph is not None and "efConstruction" in plan.parameters:
        graph.hnsw.efConstruction = int(plan.parameters["efConstruction"])
    vectors = _file(plan.vectors, np.float32, plan.count * plan.dimension).reshape(-1, plan.dimension)
    if plan.count:
        _train(index, vectors)
    target = index if plan.id_map is None else getattr(faiss, f"Index{plan.id_map}")(index)
    ids = None if plan.ids is None else _file(plan.ids, np.int64, plan.count)
    step = rows_per_block(4 * plan.dimension)
    for start in range(0, plan.count, step):
        block = np.ascontiguousarray(vectors[start : start + step])
        if ids is None:
            target.add(block)
        else:
            target.add_with_ids(block, np.ascontiguousarray(ids[start : start + step]))
    set_search_parameters(index, plan.parameters)
    faiss.write_index(target, path)


def read(path: str) -> Any:
    """The index of a file, to be changed."""
    import faiss

    return faiss.read_index(path)


def write(index: Any, path: str) -> None:
    import faiss

    faiss.write_index(index, path)


def own_ids(index: Any) -> Ids | None:
    """The ids that somebody gave to the rows; None if they are their positions."""
    import faiss

    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexIDMap):
        return faiss.vector_to_array(index.id_map)
    if isinstance(index, faiss.IndexPreTransform):
        return own_ids(index.index)
    if isinstance(index, faiss.IndexIVF):
        parts = [labels for labels, _ in _decoded(index, vectors=False)]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)
    return None


def shifts(index: Any) -> bool:
    """Is there an id map over inverted lists? A removal confuses FAISS there: the lists keep their numbers, the map doesn't."""
    import faiss

    index = faiss.downcast_index(index)
    return isinstance(index, faiss.IndexIDMap) and own_ids(index.index) is not None


def require_capturable(index: Any) -> None:
    """Raises WrongRequest if what is done to the index couldn't be recorded."""
    import faiss

    if not isinstance(index, faiss.Index):
        raise WrongRequest(f"{type(index)} is no faiss.Index", hint="give one, not a binary one")
    if not index.is_trained:
        raise WrongRequest("the index is not trained", hint="train it, then capture it")
    if "Dedup" in type(index).__name__ or isinstance(index, faiss.IndexShards | faiss.IndexReplicas):
        raise WrongRequest(f"an {type(index).__name__} can't be captured", hint="make snapshots more often instead")


def _file(path: str, kind: Any, count: int) -> npt.NDArray[Any]:
    return np.memmap(path, kind, "r", shape=(count,)) if count else np.empty(0, kind)


def _train(index: Any, vectors: Vectors) -> None:
    if index.is_trained:
        return
    lists = _part(index, "nlist")
    clusters = max(256, lists.nlist if lists is not None else 0)
    wanted = min(len(vectors), _TRAINING_POINTS * clusters)
    chosen = np.sort(np.random.default_rng(0).choice(len(vectors), wanted, replace=False))
    try:
        index.train(np.ascontiguousarray(vectors[chosen]))
    except RuntimeError as error:
        raise EngineFailed(f"FAISS can't train such an index on {wanted} vectors: {_first_line(error)}") from error


def set_search_parameters(index: Any, parameters: Mapping[str, Json]) -> None:
    """Those that the index, or one that it wraps, has."""
    graph, lists = _part(index, "hnsw"), _part(index, "nlist")
    if graph is not None and "efSearch" in parameters:
        graph.hnsw.efSearch = int(parameters["efSearch"])
    if lists is not None and "nprobe" in parameters:
        lists.nprobe = int(parameters["nprobe"])
    if "k_factor" in parameters and hasattr(index, "k_factor"):
        index.k_factor = float(parameters["k_factor"])


def _part(index: Any, attribute: str) -> Any:
    """The index itself, or the one that it wraps, that has `attribute`; None if there is none."""
    import faiss

    index = faiss.downcast_index(index)
    if hasattr(index, attribute):
        return index
    for wrapped in ("index", "base_index"):
        if hasattr(index, wrapped):
            return _part(getattr(index, wrapped), attribute)
    return None


def _opened(descriptor: int, *, mapped: bool = True) -> Any:
    """The index of an open file; `mapped` into memory where the library can, so that it takes next to no memory of its own.

    FAISS 1.15 doesn't notice that a mapped file lacks a part of its last element. Only a file whose lengths were checked may
    be mapped: by our own parser, or by having been read whole once.
    """
    import faiss

    path = f"/dev/fd/{descriptor}"
    flag = getattr(faiss, "IO_FLAG_MMAP_IFC", None)
    if mapped and flag is not None:
        try:
            return faiss.read_index(path, flag)
        except RuntimeError:
            pass  # not every class can be mapped; what can't be read at all fails again below
    try:
        return faiss.read_index(path)
    except RuntimeError as error:
        raise Unreadable(f"FAISS can't read the file: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text.partition("Error: ")[2] or text.rpartition(": ")[2] or text


def _without_id_map(index: Any) -> tuple[Any, Ids | None]:
    """What is under an id map, and the map. The caller keeps `index`: it owns what is under it."""
    import faiss

    if not isinstance(index, faiss.IndexIDMap):
        return index, None
    return faiss.downcast_index(index.index), faiss.vector_to_array(index.id_map)


def _exact(index: Any) -> bool:
    import faiss

    index = faiss.downcast_index(index)
    for wrapped in ("storage", "refine_index"):
        if getattr(index, wrapped, None) is not None:
            return _exact(getattr(index, wrapped))
    return isinstance(index, faiss.IndexFlat | faiss.IndexIVFFlat)


def _decoded(index: Any, *, vectors: bool = True) -> Iterator[tuple[Ids, Vectors]]:
    """The rows of an index as (labels, vectors), in storage order; without `vectors` those are empty."""
    import faiss

    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexIVF):
        yield from _decoded_lists(index, vectors)
    elif isinstance(index, faiss.IndexPreTransform):
        for labels, found in _decoded(index.index, vectors=vectors):
            chain: Any = index.chain
            for number in reversed(range(chain.size())) if vectors else ():
                found = faiss.downcast_VectorTransform(chain.at(number)).reverse_transform(found)
            yield labels, found
    elif isinstance(index, faiss.IndexIDMap):
        mapped = faiss.vector_to_array(index.id_map)
        for labels, found in _decoded(index.index, vectors=vectors):
            yield mapped[labels], found
    else:
        yield from _decoded_positions(index, vectors)


def _decoded_positions(index: Any, vectors: bool) -> Iterator[tuple[Ids, Vectors]]:
    if index.ntotal and vectors:
        index.reconstruct(0)  # many at once end the process where this raises an error
    step = rows_per_block(4 * index.d)
    for start in range(0, index.ntotal, step):
        count = min(step, index.ntotal - start)
        found = index.reconstruct_n(start, count) if vectors else np.empty((0, index.d), np.float32)
        yield np.arange(start, start + count, dtype=np.int64), found


def _decoded_lists(index: Any, vectors: bool) -> Iterator[tuple[Ids, Vectors]]:
    import faiss

    lists = index.invlists
    step = rows_per_block(4 * index.d)
    for number in range(lists.nlist):
        size = lists.list_size(number)
        if not size:
            continue
        labels = faiss.rev_swig_ptr(lists.get_ids(number), size)
        for start in range(0, size, step):
            count = min(step, size - start)
            found = _list_vectors(index, number, start, count) if vectors else np.empty((0, index.d), np.float32)
            yield labels[start : start + count].copy(), found


def _list_vectors(index: Any, number: int, start: int, count: int) -> Vectors:
    import faiss

    if type(index).__name__ in _CODED:
        width = index.code_size
        codes = faiss.rev_swig_ptr(index.invlists.get_codes(number), (start + count) * width).reshape(-1, width)[start:]
        prefix = np.frombuffer(number.to_bytes(index.coarse_code_size(), "little"), np.uint8)
        whole = np.hstack([np.broadcast_to(prefix, (count, len(prefix))), codes])
        decoded: Vectors = index.sa_decode(np.ascontiguousarray(whole))
        return decoded
    found = np.empty((count, index.d), np.float32)
    for row in range(count):
        index.reconstruct_from_offset(number, start + row, faiss.swig_ptr(found[row]))
    return found
