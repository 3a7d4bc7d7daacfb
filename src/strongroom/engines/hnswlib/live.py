"""An hnswlib index in memory: what is recorded of its calls, and how the record is applied again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from strongroom.engines.hnswlib import space
from strongroom.engines.indexfile.applying import apply_spooled
from strongroom.engines.indexfile.beginning import begin
from strongroom.engines.indexfile.captured import Captured, checked_ids, require
from strongroom.engines.indexfile.live import Vectors, same_bytes
from strongroom.engines.indexfile.rowlog import Ids
from strongroom.engines.staging import write_durably
from strongroom.errors import Refused
from strongroom.model import Json

_USUAL_EF = 10
"""What a new or loaded index has until somebody sets another: hnswlib doesn't save it."""
_CAPACITY = slice(8, 16)
"""Where a file says for how many elements there was room, which is the business of who loads it."""


class HnswlibLive:
    """See `indexfile.live.Live`."""

    dtype = "float32"

    def __init__(self, index: Any) -> None:
        self._index = index
        self.dimension = int(index.dim)
        self.metric = str(index.space)
        self.highest = max(index.get_ids_list(), default=-1)
        """The highest label, deleted ones too; -1 if there is none."""
        self._ef = 0 if index.ef == _USUAL_EF else int(index.ef)

    def count(self) -> int:
        return int(self._index.element_count)

    def put(self, ids: Ids, vectors: Vectors) -> None:
        """Inserts, updates, and brings back what was deleted; makes room for it."""
        self.saw(ids)
        needed = self.count() + len(ids)
        if needed > self._index.max_elements:
            self._index.resize_index(max(needed, 2 * int(self._index.max_elements)))
        try:
            self._index.add_items(vectors, ids)
        except RuntimeError:  # where slots are given to others, what was deleted doesn't come back by itself
            for one in ids.tolist():
                with suppress(RuntimeError):
                    self._index.unmark_deleted(one)
            self._index.add_items(vectors, ids)

    def delete(self, ids: Ids) -> None:
        for one in ids.tolist():
            with suppress(RuntimeError):  # it isn't there
                self._index.mark_deleted(one)

    def set_parameters(self, parameters: Mapping[str, Json]) -> None:
        if "ef" in parameters:
            self._ef = int(parameters["ef"])
            self._index.set_ef(self._ef)

    def save(self, path: str) -> None:
        self._index.save_index(path)

    def accompany(self, index: Path) -> None:
        """The file that says of which space the index is, and how it is asked, unless it says so already."""
        place = space.beside(index)
        before = json.loads(place.read_bytes()) if place.exists() else {}
        said = space.Said(self.metric, self._ef or int(before.get("ef", 0)), self.dimension)
        if json.loads(space.written(said)) != before:
            write_durably(place, space.written(said))

    def same(self, one: Path, other: Path) -> bool:
        return same_bytes(one, other, _CAPACITY)

    def present(self, ids: Ids) -> tuple[Ids, Vectors]:
        """Those of these ids that are there, and their vectors."""
        found, vectors = [], []
        for one in ids.tolist():
            try:
                vectors.append(np.asarray(self._index.get_items([one]), np.float32)[0])
            except RuntimeError:  # there is no such label, or it is deleted
                continue
            found.append(one)
        return np.array(found, np.int64), np.array(vectors, np.float32).reshape(-1, self.dimension)

    def saw(self, labels: Ids) -> None:
        """These labels are taken from now on."""
        if len(labels):
            self.highest = max(self.highest, labels.item() if len(labels) == 1 else int(labels.max()))


class CapturedHnswlib(Captured):
    """An `hnswlib.Index`."""

    _live: HnswlibLive
    refused = {  # noqa: RUF012 - a constant of the class
        "load_index": "load the index first, then capture it",
        "init_index": "make the index first, then capture it",
    }

    def add_items(
        self, data: npt.ArrayLike, ids: npt.ArrayLike | None = None, num_threads: int = -1, replace_deleted: bool = False
    ) -> None:
        recorder, index = self._recorder, self._index
        vectors = np.ascontiguousarray(data, np.float32)
        if vectors.ndim == 1:
            vectors = vectors[None]
        with recorder:
            recorder.require_sound()
            labels = self._labels(ids, len(vectors))
            try:
                index.add_items(vectors, labels, num_threads, replace_deleted)
            except BaseException:
                self._salvage(labels)
                raise
            if len(labels) > 1 and len(np.unique(labels)) != len(labels):  # several threads: nobody knows which came last
                recorder.put(*self._live.present(np.unique(labels)))
            else:
                recorder.put(labels, vectors)
            self._live.saw(labels)
        recorder.settle()

    def mark_deleted(self, label: int) -> None:
        with self._recorder:
            self._recorder.require_sound()
            gone = np.array([label], np.int64)
            self._index.mark_deleted(label)
            self._recorder.delete(gone)
        self._recorder.settle()

    def unmark_deleted(self, label: int) -> None:
        with self._recorder:
            self._recorder.require_sound()
            back = np.array([label], np.int64)
            self._index.unmark_deleted(label)
            self._recorder.put(*self._live.present(back))
        self._recorder.settle()

    def set_ef(self, ef: int) -> None:
        with self._recorder:
            self._recorder.require_sound()
            self._live.set_parameters({"ef": ef})
            self._recorder.parameters({"ef": int(ef)})
        self._recorder.settle()

    def resize_index(self, new_size: int) -> None:
        with self._recorder:
            self._index.resize_index(new_size)

    def save_index(self, path: str) -> None:
        """To the captured file, or a copy to another one."""
        if not self._elsewhere(path):
            self.save()
            return
        with self._recorder:
            self._index.save_index(str(path))

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "ef":
            self.set_ef(value)
        else:
            super().__setattr__(name, value)

    def _labels(self, ids: npt.ArrayLike | None, count: int) -> Ids:
        """Those that were given, or as many that follow on those that there are."""
        if ids is None:
            start = self._live.count()
            if self._live.highest >= start:
                raise Refused(f"label {start} is taken, or was", hint="give ids: the numbers that would follow are not free")
            return np.arange(start, start + count, dtype=np.int64)
        labels = checked_ids(ids)
        if labels.shape != (count,):
            raise ValueError("Wrong dimensionality of the labels")
        return labels


def capture(index: Any, path: Path, every: float, anew: bool) -> CapturedHnswlib:
    """See `protocol.Capturing`."""
    require(type(index).__name__ == "Index" and hasattr(index, "knn_query"), f"{type(index)} is no hnswlib.Index", "give one")
    require(
        index.space in space.SPACES and index.max_elements > 0, "the index has no room yet", "call init_index or load_index first"
    )
    live = HnswlibLive(index)
    return CapturedHnswlib(index, live, begin(path, live, every=every, anew=anew), path)


def replay(path: str, spooled: str) -> None:
    """Apply changes to an index file. Runs in a child process."""
    import hnswlib

    said = json.loads(space.beside(Path(path)).read_bytes())
    index = hnswlib.Index(said["space"], said["dim"])
    index.load_index(path)
    apply_spooled(HnswlibLive(index), path, spooled)
