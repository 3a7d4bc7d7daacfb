"""Which numbers occur? A set of numbers, a bit each, in pages: what lies between those that are in use takes no room, nor does what
lies behind the last of a page. There are several sets for each collection, and perhaps 10,000 of these."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from strongroom.codecs.runs import NONE, Numbers

Flags = npt.NDArray[np.bool_]

_BITS = 16
_PAGE = 1 << _BITS


class Marks:
    """Numbers that were seen."""

    def __init__(self) -> None:
        self._pages: dict[int, npt.NDArray[np.uint8]] = {}

    def mark(self, numbers: Numbers) -> None:
        """Add these; NONE is left out."""
        for page, _, inside in _by_page(numbers[numbers != NONE]):
            fresh = np.zeros(int(inside.max()) + 1, np.bool_)
            fresh[inside] = True
            bits = np.packbits(fresh, bitorder="little")
            self._pages[page] = _either(self._pages[page], bits) if page in self._pages else bits

    def of(self, numbers: Numbers) -> Flags:
        """Which of these were seen."""
        found = np.zeros(len(numbers), np.bool_)
        for page, places, inside in _by_page(numbers):
            if page in self._pages:
                bits, at = self._pages[page], inside >> 3
                found[places] = (bits[np.minimum(at, len(bits) - 1)] >> (inside & 7) & 1) & (at < len(bits))
        return found

    def part(self, start: int, count: int) -> Flags:
        """Which of `count` consecutive numbers were seen."""
        found = np.zeros(count, np.bool_)
        for page in range(start >> _BITS, (start + count - 1 >> _BITS) + 1 if count else 0):
            if page in self._pages:
                first, last = max(start, page * _PAGE), min(start + count, (page + 1) * _PAGE)
                flags = np.unpackbits(self._pages[page], count=_PAGE, bitorder="little")
                found[first - start : last - start] = flags[first - page * _PAGE : last - page * _PAGE]
        return found


def _either(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The bits of both."""
    longer, shorter = (one.copy(), other) if len(one) >= len(other) else (other.copy(), one)
    longer[: len(shorter)] |= shorter
    return longer


def _by_page(numbers: Numbers) -> Iterator[tuple[int, npt.NDArray[np.intp] | slice, Numbers]]:
    """For each page that occurs: its number, where its numbers stand, and which ones of it they are."""
    pages = numbers >> np.uint32(_BITS)
    if not len(pages):
        return
    if pages[0] == pages[-1] and (pages == pages[0]).all():
        yield int(pages[0]), slice(None), numbers & np.uint32(_PAGE - 1)
        return
    for page in np.unique(pages).tolist():
        places = np.flatnonzero(pages == page)
        yield page, places, numbers[places] & np.uint32(_PAGE - 1)


def in_pieces(numbers: Numbers, pieces: list[tuple[int, int]]) -> Flags:
    """Which numbers lie in one of these pieces, [start, end), that don't overlap."""
    if not pieces:
        return np.zeros(len(numbers), np.bool_)
    starts, ends = np.array(sorted(pieces), np.int64).T
    at = np.searchsorted(starts, numbers, side="right") - 1
    inside: Flags = (at >= 0) & (numbers < ends[at])
    return inside
