"""A USearch index in memory: what is recorded of its calls, and how the record is applied again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from strongroom.engines.indexfile.applying import apply_spooled
from strongroom.engines.indexfile.beginning import begin
from strongroom.engines.indexfile.captured import Captured, checked_ids, require
from strongroom.engines.indexfile.live import Vectors, same_bytes
from strongroom.engines.indexfile.rowlog import Ids
from strongroom.errors import EngineFailed
from strongroom.model import Json

_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "I8": "int8", "U8": "uint8"}
_LINKS_OF_NONE = slice(80, 96)
"""Where a file without rows says how many links a node has."""
_METRICS = {"L2sq": "l2", "IP": "ip", "Cos": "cosine"}


class UsearchLive:
    """See `indexfile.live.Live`."""

    def __init__(self, index: Any) -> None:
        self._index = index
        self.dimension = int(index.ndim)
        self.dtype = _DTYPES[index.dtype.name]
        self.metric = _METRICS.get(index.metric_kind.name, index.metric_kind.name)

    def count(self) -> int:
        return len(self._index)

    def put(self, ids: Ids, vectors: Vectors) -> None:
        keys = ids.view(np.uint64)
        known = np.atleast_1d(self._index.contains(keys))
        if known.any():
            self._index.remove(keys[known])
        if self.dtype == "bfloat16":
            vectors = (vectors.astype(np.uint32) << np.uint32(16)).view(np.float32)  # rounding it again changes nothing
        self._index.add(keys, vectors)

    def delete(self, ids: Ids) -> None:
        if len(ids):
            self._index.remove(ids.view(np.uint64))

    def set_parameters(self, parameters: Mapping[str, Json]) -> None:
        """The file keeps none."""

    def save(self, path: str) -> None:
        self._index.save(path)

    def accompany(self, index: Path) -> None:
        """Nothing is needed."""

    def same(self, one: Path, other: Path) -> bool:
        """Of a file without rows USearch doesn't read the number of links."""
        return same_bytes(one, other, slice(0, 0) if self.count() else _LINKS_OF_NONE)

    def present(self, ids: Ids) -> tuple[Ids, Vectors]:
        """Those of these ids that are there, and their vectors as the index keeps them."""
        keys = ids.view(np.uint64)
        if not len(keys):
            return ids, self._kept([])
        found = ids[np.atleast_1d(self._index.contains(keys))]
        return found, self._kept(self._index.get(found.view(np.uint64)) if len(found) else [])

    def _kept(self, vectors: Iterable[Any]) -> Vectors:
        rows = [np.asarray(one).reshape(-1) for one in vectors]
        if self.dtype == "bfloat16":
            wide = np.array(rows, np.float32).reshape(-1, self.dimension)
            return np.ascontiguousarray((wide.view(np.uint32) >> np.uint32(16)).astype(np.uint16))
        return np.ascontiguousarray(np.array(rows, np.dtype(self.dtype)).reshape(-1, self.dimension))


class CapturedUsearch(Captured):
    """A `usearch.index.Index`."""

    _live: UsearchLive
    refused = {  # noqa: RUF012 - a constant of the class
        "load": "load the index first, then capture it",
        "view": "load the index first, then capture it",
        "restore": "load the index first, then capture it",
        "_compiled": "use the index's own methods",
    }

    def add(self, keys: Any, vectors: npt.ArrayLike, **more: Any) -> Any:
        recorder, live = self._recorder, self._live
        given = np.ascontiguousarray(vectors)
        plain = live.dtype == "float32" and more.get("dtype") is None and given.dtype.kind == "f"
        if plain and given.dtype != np.float32:
            given = given.astype(np.float32)
        rows = given if given.ndim == 2 else given.reshape(1, -1)
        with recorder:
            recorder.require_sound()
            ids = self._ids(keys, len(rows))
            try:
                added = self._index.add(ids.view(np.uint64), rows, **more)
            except BaseException:
                self._salvage(ids)
                raise
            if plain:
                recorder.put(ids, rows)
            else:
                recorder.put(*live.present(ids))
        recorder.settle()
        return added

    def remove(self, keys: Any, **more: Any) -> Any:
        with self._recorder:
            self._recorder.require_sound()
            ids = checked_ids(keys)
            try:
                removed = self._index.remove(keys, **more)
            except BaseException:
                self._salvage(ids)
                raise
            self._recorder.delete(ids)
        self._recorder.settle()
        return removed

    def rename(self, from_: Any, to: Any) -> Any:
        with self._recorder:
            self._recorder.require_sound()
            both = np.concatenate([checked_ids(from_), checked_ids(to)])
            try:
                renamed = self._index.rename(from_, to)
            finally:
                self._salvage(both)
        self._recorder.settle()
        return renamed

    def clear(self) -> None:
        self._empty(self._index.clear)

    def reset(self) -> None:
        self._empty(self._index.reset)

    def save(self, path_or_buffer: Any = None, progress: Any = None) -> Any:
        """To the captured file, a copy to another one; without a path to the captured file."""
        if path_or_buffer is None or not self._elsewhere(path_or_buffer):
            super().save()
            return None
        with self._recorder:
            return self._index.save(path_or_buffer, progress)

    def _empty(self, call: Any) -> None:
        with self._recorder:
            self._recorder.require_sound()
            ids = np.array(self._index.keys, np.uint64).view(np.int64)
            call()
            self._recorder.delete(ids)
        self._recorder.settle()

    def _ids(self, keys: Any, count: int) -> Ids:
        if keys is None:
            start = len(self._index)
            return np.arange(start, start + count, dtype=np.int64)
        ids = checked_ids(keys)
        if len(ids) != count:
            raise ValueError(f"{len(ids)} keys for {count} vectors")
        return ids


def capture(index: Any, path: Path, every: float, anew: bool) -> CapturedUsearch:
    """See `protocol.Capturing`."""
    require(type(index).__name__ == "Index" and hasattr(index, "expansion_add"), f"{type(index)} is no usearch Index", "give one")
    require(not index.multi, "an index of several vectors a key can't be captured", "make snapshots more often instead")
    kinds = ", ".join(_DTYPES.values())
    require(index.dtype.name in _DTYPES, f"vectors of {index.dtype.name} can't be captured", f"those of {kinds} can")
    live = UsearchLive(index)
    return CapturedUsearch(index, live, begin(path, live, every=every, anew=anew), path)


def replay(path: str, spooled: str) -> None:
    """Apply changes to an index file. Runs in a child process."""
    from usearch.index import Index

    index = Index.restore(path)
    if index is None:
        raise EngineFailed("usearch can't open the file")
    if not len(index):
        links = int.from_bytes(Path(path).read_bytes()[_LINKS_OF_NONE][:8], "little")
        index = Index(ndim=index.ndim, metric=index.metric_kind, dtype=index.dtype, connectivity=links)
    apply_spooled(UsearchLive(index), path, spooled)
