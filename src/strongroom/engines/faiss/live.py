"""A FAISS index in memory: what is recorded of its calls, and how the record is applied again.

Rows are known by the ids of an id map or of inverted lists, else by their positions. Removing a row by its position would give all
later ones other numbers: that is refused. So is an id that is there already, which FAISS would take a second time.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap64

from strongroom.engines.faiss import library
from strongroom.engines.faiss.headers import METRICS
from strongroom.engines.indexfile.applying import apply_spooled
from strongroom.engines.indexfile.beginning import begin
from strongroom.engines.indexfile.captured import Captured, require
from strongroom.engines.indexfile.live import Vectors, same_bytes
from strongroom.engines.indexfile.rowlog import Ids
from strongroom.errors import EngineFailed, Refused
from strongroom.model import Json

_PARAMETERS = {"nprobe": int, "efSearch": int, "k_factor": float}


class FaissLive:
    """See `indexfile.live.Live`. `known` are the ids of the rows, None where these are their positions."""

    dtype = "float32"

    def __init__(self, index: Any) -> None:
        """Raises WrongRequest if the index has an id twice, or below zero."""
        self._index = index
        self.dimension = int(index.d)
        self.metric = METRICS.get(index.metric_type, f"metric_{index.metric_type}")
        ids = library.own_ids(index)
        self.known: BitMap64 | None = None
        if ids is not None:
            require(not len(ids) or int(ids.min()) >= 0, "the index has ids below zero", "give its rows others")
            self.known = BitMap64(ids.tolist())
            require(
                len(self.known) == len(ids), "the index has ids more than once", "remove the rows, and add them under other ids"
            )

    def count(self) -> int:
        return int(self._index.ntotal)

    def put(self, ids: Ids, vectors: Vectors) -> None:
        if self.known is None:
            if not np.array_equal(ids, np.arange(self.count(), self.count() + len(ids))):
                raise EngineFailed("rows without ids of their own follow on each other, and these don't")
            self._index.add(vectors)
            return
        again = ids[[one in self.known for one in ids.tolist()]]
        if len(again):
            self.delete(again)
        self._index.add_with_ids(vectors, ids)
        self.known.update(ids.tolist())

    def delete(self, ids: Ids) -> None:
        if self.known is None:
            if self.count() and len(ids) == self.count():
                self._index.reset()
                return
            raise EngineFailed("a row without an id of its own can't be removed")
        self._index.remove_ids(np.ascontiguousarray(ids))
        self.known.difference_update(BitMap64(ids.tolist()))

    def set_parameters(self, parameters: Mapping[str, Json]) -> None:
        library.set_search_parameters(self._index, parameters)

    def save(self, path: str) -> None:
        library.write(self._index, path)

    def accompany(self, index: Path) -> None:
        """Nothing is needed."""

    def present(self, ids: Ids) -> tuple[Ids, Vectors]:
        """FAISS can't tell the vectors of every kind of index."""
        raise EngineFailed("what is left of the rows can't be told")

    def same(self, one: Path, other: Path) -> bool:
        return same_bytes(one, other)


class CapturedFaiss(Captured):
    """A `faiss.Index`."""

    _live: FaissLive
    refused = {  # noqa: RUF012 - a constant of the class
        "train": "train the index first, then capture it",
        "merge_from": "add the other index's vectors by add or add_with_ids",
        "add_sa_codes": "add vectors instead of codes",
        "add_c": "call add",
        "add_with_ids_c": "call add_with_ids",
        "remove_ids_c": "call remove_ids",
        "add_core": "call add_with_ids",
        "replace_invlists": "change the index first, then capture it",
        "permute_entries": "change the index first, then capture it",
        "update_vectors": "remove the rows, and add them again",
    }

    def add(self, x: npt.ArrayLike) -> None:
        recorder, live = self._recorder, self._live
        vectors = np.ascontiguousarray(x, np.float32)
        with recorder:
            recorder.require_sound()
            start = recorder.count
            if live.known is not None and len(live.known) and live.known.max() >= start:
                raise Refused(
                    f"id {start} is taken, or an id above it", hint="call add_with_ids: the numbers that would follow aren't free"
                )
            ids = np.arange(start, start + len(vectors), dtype=np.int64)
            self._insert(self._index.add, (vectors,), ids, vectors)
        recorder.settle()

    def add_with_ids(self, x: npt.ArrayLike, ids: npt.ArrayLike) -> None:
        recorder, known = self._recorder, self._live.known
        vectors, asked = np.ascontiguousarray(x, np.float32), np.ascontiguousarray(ids, np.int64)
        if asked.shape != (len(vectors),):
            raise ValueError(f"{len(asked)} ids for {len(vectors)} vectors")
        with recorder:
            recorder.require_sound()
            if known is not None:
                _require_free(known, asked)
            self._insert(self._index.add_with_ids, (vectors, asked), asked, vectors)
        recorder.settle()

    def remove_ids(self, x: Any) -> int:
        """`x` are ids, or a selector of FAISS's."""
        recorder, known = self._recorder, self._live.known
        if known is None:
            raise Refused(
                "rows of this index are known by their positions, and a removal would change those of all rows after them",
                hint="wrap the index in faiss.IndexIDMap2, whose ids stay, before it is captured",
            )
        if library.shifts(self._index):
            raise Refused(
                "FAISS loses track of the rows when some are removed from inverted lists under an id map",
                hint="give the ids to the inverted lists themselves: add_with_ids without IndexIDMap",
            )
        with recorder:
            recorder.require_sound()
            before = self._live.count()
            chosen = _chosen(x, known)
            try:
                removed = int(self._index.remove_ids(x))
            finally:
                if self._live.count() == before - len(chosen):
                    recorder.delete(chosen)
                    known.difference_update(BitMap64(chosen.tolist()))
                elif self._live.count() != before:
                    recorder.unknown("FAISS removed other rows than it was asked to")
        recorder.settle()
        return removed

    def reset(self) -> None:
        with self._recorder:
            self._recorder.require_sound()
            known, count = self._live.known, self._live.count()
            ids = np.arange(count) if known is None else np.array(known, np.int64)
            self._index.reset()
            self._recorder.delete(np.ascontiguousarray(ids, np.int64))
            if known is not None:
                known.clear()
        self._recorder.settle()

    def write_index(self, path: str) -> None:
        """To the captured file, or a copy to another one."""
        if not self._elsewhere(path):
            self.save()
            return
        with self._recorder:
            self._live.save(str(path))

    def set_search_parameters(self, **parameters: float) -> None:
        """nprobe, efSearch or k_factor, of the index or of the one that it wraps."""
        with self._recorder:
            self._recorder.require_sound()
            said = {name: _PARAMETERS[name](value) for name, value in parameters.items()}
            self._live.set_parameters(said)
            self._recorder.parameters(said)
        self._recorder.settle()

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _PARAMETERS:
            self.set_search_parameters(**{name: value})
        else:
            super().__setattr__(name, value)

    def _insert(self, call: Any, arguments: tuple[Any, ...], ids: Ids, vectors: Vectors) -> None:
        """Called with the lock, after `require_sound`."""
        recorder = self._recorder
        try:
            call(*arguments)
        except BaseException:
            recorder.unknown_unless_unchanged("FAISS failed in the midst of an insert")
            raise
        recorder.put(ids, vectors, recorder.count + len(ids))
        if self._live.known is not None:
            self._live.known.update(ids.tolist())


def _require_free(known: BitMap64, ids: Ids) -> None:
    """Raises Refused if an id is there already, twice among the new ones, or below zero."""
    if len(ids) and int(ids.min()) < 0:
        raise Refused("ids must not be below zero where an index is captured", hint="give others")
    if len(ids) == 1:
        taken = [int(ids[0])] if int(ids[0]) in known else []
    else:
        fresh = BitMap64(ids.tolist())
        taken = list(fresh & known) if len(fresh) == len(ids) else [int(ids[0])]
    if taken:
        raise Refused(f"id {taken[0]} is there already, or given twice", hint="remove_ids it first: FAISS would keep both rows")


def _chosen(x: Any, known: BitMap64) -> Ids:
    """The ids of rows that are there and that `x` means."""
    if hasattr(x, "is_member"):
        return np.array([one for one in known if x.is_member(one)], np.int64)
    asked = np.unique(np.ascontiguousarray(x, np.int64))
    return asked[[one in known for one in asked.tolist()]] if len(asked) else asked


def capture(index: Any, path: Path, every: float, anew: bool) -> CapturedFaiss:
    """See `protocol.Capturing`."""
    library.require_capturable(index)
    live = FaissLive(index)
    return CapturedFaiss(index, live, begin(path, live, every=every, anew=anew), path)


def replay(path: str, spooled: str) -> None:
    """Apply changes to an index file. Runs in a child process."""
    apply_spooled(FaissLive(library.read(path)), path, spooled)
