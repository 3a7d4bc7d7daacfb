"""What is left of rows of which operations say all or nothing? Where none names a part of a row, the last one of each says all of
it: no row need be kept, and operations are gone through by whole batches. 33 bytes of memory a row.
"""

from __future__ import annotations

from enum import Enum

import numpy as np
import numpy.typing as npt

from strongroom.snapshots.fingerprints import Words

Keys = npt.NDArray[np.bytes_]
"""Fingerprints of ids, 16 bytes each."""

_KEY = np.dtype("S16")
_AT_ONCE = 1 << 20
_DEAD, _ALIVE, _SEEN = 0, 1, 2


class Wrong(Enum):
    """What can be wrong with a row that an engine gives."""

    GHOST = "is there and should not be"
    OTHER = "is not what the operations made of it"
    TWICE = "is there twice"


def keys_of(prints: Words) -> Keys:
    """Fingerprints, shape (rows, 2), as keys: shape (rows,)."""
    return np.ascontiguousarray(prints).view(_KEY).reshape(-1)


class WholeRows:
    """The rows of one collection. First `note` all of them, then `settle` all operations, then `tick` off what is there."""

    def __init__(self) -> None:
        self._noted: list[Keys] = []
        self._waiting = 0
        self._keys = np.empty(0, _KEY)
        self._state = np.empty(0, np.int8)
        self._prints = np.empty((0, 2), np.uint64)

    def note(self, keys: Keys) -> None:
        """An operation is about these rows."""
        self._noted.append(keys)
        self._waiting += len(keys)
        if self._waiting >= _AT_ONCE:
            self._sort()

    def __len__(self) -> int:
        self._sort()
        return len(self._keys)

    def find(self, keys: Keys) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
        """Where these rows are, and which of them are at all: an operation is about them."""
        self._sort()
        places = np.searchsorted(self._keys, keys)
        places[places == len(self._keys)] = 0
        return places, self._keys[places] == keys if len(self._keys) else np.zeros(len(keys), np.bool_)

    def settle(self, keys: Keys, living: npt.NDArray[np.bool_], prints: Words) -> None:
        """Operations in order: each leaves a row with this print, or none."""
        places, _ = self.find(keys)
        if not len(self._prints):
            self._state, self._prints = np.zeros(len(self._keys), np.int8), np.zeros((len(self._keys), 2), np.uint64)
        self._state[places] = living  # of several operations on a row the last one stays
        self._prints[places] = prints

    def empty(self) -> None:
        """All rows are gone."""
        self._state[:] = _DEAD

    def tick(self, keys: Keys, prints: Words) -> tuple[int, Wrong] | None:
        """Rows that the engine gives, all of them noted: which one is wrong first, and how? Those that are right are ticked off."""
        places, _ = self.find(keys)
        ghosts = np.flatnonzero(self._state[places] != _ALIVE)
        others = np.flatnonzero((self._prints[places] != prints).any(axis=1))
        for which, wrong in ((ghosts, Wrong.GHOST), (others, Wrong.OTHER)):
            if len(which):
                return int(which[0]), wrong
        self._state[places] = _SEEN
        firsts = np.unique(places, return_index=True)[1]
        again = np.setdiff1d(np.arange(len(places)), firsts)
        return (int(again[0]), Wrong.TWICE) if len(again) else None

    def lost(self) -> Keys:
        """Those that should be there and were never ticked off."""
        return self._keys[self._state == _ALIVE] if len(self._state) else self._keys[:0]

    def _sort(self) -> None:
        if self._noted:
            self._keys = np.unique(np.concatenate([self._keys, *self._noted]))
            self._noted, self._waiting = [], 0
