"""What is left of rows of which operations say all or nothing? Where none names a part of a row, the last one of each says all of
it: no row need be kept, and operations are gone through by whole batches. 33 bytes of memory a row.
"""

from __future__ import annotations

from enum import Enum

import numpy as np
import numpy.typing as npt

from strongroom.snapshots.fingerprints import Words

Keys = Words
"""Fingerprints of ids, shape (rows, 2)."""

_AT_ONCE = 1 << 20
_DEAD, _ALIVE, _SEEN = 0, 1, 2


class Wrong(Enum):
    """What can be wrong with a row that an engine gives."""

    GHOST = "is there and should not be"
    OTHER = "is not what the operations made of it"
    TWICE = "is there twice"


class WholeRows:
    """The rows of one collection. First `note` all of them, then `settle` all operations, then `tick` off what is there."""

    def __init__(self) -> None:
        self._noted: list[Keys] = []
        self._waiting = 0
        self._high, self._low = np.empty(0, np.uint64), np.empty(0, np.uint64)  # both halves of the keys, in their order
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
        return len(self._high)

    def find(self, keys: Keys) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
        """Where these rows are, and which of them are at all: an operation is about them."""
        self._sort()
        if not len(self._high):
            return np.zeros(len(keys), np.intp), np.zeros(len(keys), np.bool_)
        high, low = np.ascontiguousarray(keys[:, 0]), keys[:, 1]
        places = np.minimum(np.searchsorted(self._high, high), len(self._high) - 1)
        while True:  # keys whose first halves are the same lie one after another
            on = (self._high[places] == high) & (self._low[places] < low) & (places < len(self._high) - 1)
            if not on.any():
                return places, (self._high[places] == high) & (self._low[places] == low)
            places[on] += 1

    def settle(self, keys: Keys, living: npt.NDArray[np.bool_], prints: Words) -> None:
        """Operations in order: each leaves a row with this print, or none."""
        places, _ = self.find(keys)
        if not len(self._prints):
            self._state, self._prints = np.zeros(len(self._high), np.int8), np.zeros((len(self._high), 2), np.uint64)
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
        which = np.flatnonzero(self._state == _ALIVE)
        return np.stack([self._high[which], self._low[which]], axis=1)

    def _sort(self) -> None:
        if self._noted:
            noted = np.concatenate([np.stack([self._high, self._low], axis=1), *self._noted])
            noted = noted[np.lexsort((noted[:, 1], noted[:, 0]))]
            first = np.append(True, (noted[1:] != noted[:-1]).any(axis=1)) if len(noted) else np.zeros(0, np.bool_)
            self._high, self._low = np.ascontiguousarray(noted[first, 0]), np.ascontiguousarray(noted[first, 1])
            self._noted, self._waiting = [], 0
