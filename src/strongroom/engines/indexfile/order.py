"""In which order an index gives its rows, under which ids, and which record of the sidecar belongs to each.

An index knows a row by its *label*: its position, or in inverted lists the id that it was added with. An id map above it
makes ids of positions. 8 bytes a row, in a temporary file where that is much.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

_IN_MEMORY = 8 << 20  # rows; the ids of more are kept in a temporary file


@dataclass(frozen=True, slots=True)
class Order:
    """The rows of an index in storage order. `labels` is None if they are 0..count-1; `ids`, what an id map makes of them,
    is None if there is no map. `dead` marks slots whose row was deleted and whose vector is still there; None if there are none.

    A label is the engine's number as int64; `unsigned` if one is 2^63 or more, so that all are to be read as uint64. `reuses` says
    that the engine gives the slots of deleted rows to new ones."""

    count: int
    labels: Ids | None
    ids: Ids | None
    dead: Flags | None = None
    unsigned: bool = False
    reuses: bool = False

    @property
    def live(self) -> int:
        """Rows that the index shows."""
        return self.count if self.dead is None else self.count - int(np.count_nonzero(self.dead))

    @property
    def own_ids(self) -> Ids | None:
        """The ids that somebody gave to the rows that the index shows; None if they are mere positions."""
        own = self.ids if self.ids is not None else self.labels
        return own if own is None or self.dead is None else own[~self.dead]

    def labels_of(self, start: int, count: int) -> Ids:
        if self.labels is None:
            return np.arange(start, start + count, dtype=np.int64)
        return self.labels[start : start + count]

    def ids_of(self, start: int, count: int) -> Ids:
        return self.labels_of(start, count) if self.ids is None else self.ids[start : start + count]


def unique(ids: Ids) -> bool:
    """Does every value occur once?"""
    return len(ids) < 2 or _ascending(ids) or _ascending(_sorted(ids))


def _ascending(ids: Ids) -> bool:
    """Is every value greater than the one before it? Compared, as a difference of two int64 may be too large for one."""
    return all(bool((part[1:] > part[:-1]).all()) for part in _overlapping(ids))


def are_positions(ids: Ids) -> bool:
    """Are these the numbers 0..n-1, each once, in any order?"""
    return not len(ids) or (int(ids.min()) == 0 and int(ids.max()) == len(ids) - 1 and unique(ids))


def matched(own: Ids, other: Ids) -> Ids | None:
    """For each value of `own` its place in `other`; None if one is missing there, or if values occur twice."""
    if not len(other) or not len(own):
        return None if len(own) else np.empty(0, np.int64)
    places = np.argsort(other, kind="stable").astype(np.int64)
    ordered = other[places]
    found = np.searchsorted(ordered, own)
    found[found == len(ordered)] = 0
    if (ordered[found] != own).any() or not unique(own) or not _ascending(ordered):
        return None
    return places[found]


def collected(parts: Iterator[Ids], count: int) -> Ids | None:
    """The parts as one array; None if they are not `count` values."""
    whole = empty(count)
    filled = 0
    for part in parts:
        if filled + len(part) > count:
            return None
        whole[filled : filled + len(part)] = part
        filled += len(part)
    return whole if filled == count else None


def _overlapping(ids: Ids) -> Iterator[Ids]:
    step = 1 << 20
    return (ids[start : start + step + 1] for start in range(0, len(ids), step))


def _sorted(ids: Ids) -> Ids:
    copy = empty(len(ids))
    copy[:] = ids
    copy.sort()
    return copy


def empty(count: int) -> Ids:
    """Room for `count` ids."""
    if count <= _IN_MEMORY:
        return np.empty(count, np.int64)
    with tempfile.TemporaryFile() as file:
        file.truncate(8 * count)
        return np.memmap(file, np.int64, "r+", shape=(count,))
