"""Which numbers occur? A set of numbers, a byte each."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from strongroom.codecs.runs import NONE, Numbers


class Marks:
    """Numbers that were seen."""

    def __init__(self) -> None:
        self._marks = np.zeros(1 << 12, np.bool_)

    def mark(self, numbers: Numbers) -> None:
        """Add these; NONE is left out."""
        chosen = numbers[numbers != NONE]
        if len(chosen):
            self._reach(int(chosen.max()) + 1)
            self._marks[chosen] = True

    def of(self, numbers: Numbers) -> npt.NDArray[np.bool_]:
        """Which of these were seen."""
        found = np.zeros(len(numbers), np.bool_)
        inside = numbers < len(self._marks)
        found[inside] = self._marks[numbers[inside]]
        return found

    def part(self, start: int, count: int) -> npt.NDArray[np.bool_]:
        """Which of `count` consecutive numbers were seen."""
        self._reach(start + count)
        return self._marks[start : start + count]

    def _reach(self, size: int) -> None:
        if size > len(self._marks):
            grown = np.zeros(max(size, 2 * len(self._marks)), np.bool_)
            grown[: len(self._marks)] = self._marks
            self._marks = grown


def in_pieces(numbers: Numbers, pieces: list[tuple[int, int]]) -> npt.NDArray[np.bool_]:
    """Which numbers lie in one of these pieces, [start, end), that don't overlap."""
    if not pieces:
        return np.zeros(len(numbers), np.bool_)
    starts, ends = np.array(sorted(pieces), np.int64).T
    at = np.searchsorted(starts, numbers, side="right") - 1
    inside: npt.NDArray[np.bool_] = (at >= 0) & (numbers < ends[at])
    return inside
