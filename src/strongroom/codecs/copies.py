"""How is a piece of a file stored whose bytes are, for the most part, kept elsewhere already, and how is it made again?

A sidecar that repeats its index's vectors, say, in pages with headers between them. What is elsewhere is copied from there, in
the order of the piece; what isn't stands in the recipe.

    recipe   count u32 | count x (literal u32, source u32, offset u32, length u32) | literals, one after another
             a step: `literal` bytes from the recipe, then `length` bytes from `offset` of a source; last, what literals are left
    all little-endian
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from strongroom.codecs.errors import CodecError
from strongroom.model import Bytes

_STEP = np.dtype([("literal", "<u4"), ("source", "<u4"), ("offset", "<u4"), ("length", "<u4")])
_COUNT_BYTES = 4

_NEEDLE = 32
"""Bytes that are looked for: equal by chance next to never, and a wrong find costs only space."""

_WORTHWHILE = 256
"""Shorter runs aren't worth a step."""

_NEAR = ((0, 64), (64, 512), (512, 2048))
"""After a run: how many bytes of the reference to skip, and how far ahead to look. Pages and literals have short headers."""

_FAR = (0, 64, 1 << 10, 1 << 13, 1 << 16, 1 << 20)
"""How many bytes of the reference to skip when its next ones are nowhere near: some may have been left out. None at its beginning:
what doesn't begin as it does has another order, or no such bytes."""

_WINDOW = 1 << 20
_COMPARED = 1 << 16


@dataclass(frozen=True, slots=True)
class Run:
    """`length` bytes at `place` of a piece that are the reference's from `offset` on."""

    place: int
    length: int
    offset: int


@dataclass(frozen=True, slots=True)
class Step:
    """`length` bytes at `place` of a piece that are those from `offset` of source number `source`."""

    place: int
    length: int
    source: int
    offset: int


def split(piece: Bytes, steps: Sequence[Step]) -> bytes:
    """The recipe of a piece, given what of it is where: in order, without overlap. Its inverse is `join`."""
    view = memoryview(piece).cast("B")
    table, literals, end = np.zeros(len(steps), _STEP), [], 0
    for row, step in enumerate(steps):
        if step.place < end:
            raise ValueError(f"a step at {step.place} begins before the last one ends")
        literals.append(view[end : step.place])
        table[row] = (step.place - end, step.source, step.offset, step.length)
        end = step.place + step.length
    if end > len(view):
        raise ValueError(f"the steps end at {end} of {len(view)} bytes")
    return b"".join([len(steps).to_bytes(_COUNT_BYTES, "little"), table.tobytes(), *literals, view[end:]])


def join(recipe: Bytes, sources: Sequence[Bytes], length: int) -> Bytes:
    """The `length` bytes of the piece. Raises CodecError if the recipe doesn't fit its sources or makes another number of bytes."""
    view = memoryview(recipe).cast("B")
    table, begin = _table(view)
    kept = [memoryview(source).cast("B") for source in sources]
    result = np.empty(length, np.uint8).data
    if int(table["length"].sum(dtype=np.uint64)) + len(view) - begin != length:
        raise CodecError(f"a recipe doesn't make {length} bytes")
    end = 0
    for literal, source, offset, count in table.tolist():
        if source >= len(kept) or offset + count > len(kept[source]) or begin + literal > len(view):
            raise CodecError("a recipe takes bytes that are not there")
        result[end : end + literal] = view[begin : begin + literal]
        begin, end = begin + literal, end + literal
        result[end : end + count] = kept[source][offset : offset + count]
        end += count
    result[end:] = view[begin:]
    return result


def _table(view: memoryview) -> tuple[np.ndarray, int]:
    """The steps of a recipe, and where its literals begin."""
    count = int.from_bytes(view[:_COUNT_BYTES], "little")
    begin = _COUNT_BYTES + count * _STEP.itemsize
    if len(view) < _COUNT_BYTES or begin > len(view):
        raise CodecError("a recipe ends within its steps")
    return np.frombuffer(view[_COUNT_BYTES:begin], _STEP), begin


class Trail:
    """Follows a reference through the pieces of a file that repeats it in its order, with other bytes between.

    `read(offset, length)` gives the reference's bytes; `size` is its length.
    """

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        self._read = read
        self._size = size
        self._next = 0
        self._window = memoryview(b"")
        self._window_at = 0

    def runs(self, piece: bytes) -> Iterator[Run]:
        """What of the next piece is the reference's, in order. What is missed costs space only."""
        place = 0
        while (found := self._find(piece, place)) is not None:
            at, offset = found
            length = self._equal(memoryview(piece)[at:], offset)
            if length >= _WORTHWHILE:
                yield Run(at, length, offset)
            place, self._next = at + length, offset + length

    def _find(self, piece: bytes, place: int) -> tuple[int, int] | None:
        """Where in the piece the reference goes on, and where in the reference that is."""
        for skip, ahead in _NEAR:
            at = _where(piece, self._needle(skip), place, place + skip + ahead)
            if at >= 0:
                return at, self._next + skip
        needles = [(skip, self._needle(skip)) for skip in (_FAR if self._next else _FAR[:1])]
        for start in range(place, len(piece), _WINDOW):
            for skip, needle in needles:
                at = _where(piece, needle, start, start + _WINDOW + _NEEDLE)
                if at >= 0:
                    return at, self._next + skip
        return None

    def _needle(self, skip: int) -> bytes:
        """The reference's bytes after a skip; empty at its end."""
        offset = self._next + skip
        return self._read(offset, _NEEDLE) if offset + _NEEDLE <= self._size else b""

    def _equal(self, piece: memoryview, offset: int) -> int:
        """How many bytes at the beginning of `piece` are the reference's from `offset` on."""
        length = 0
        while length < len(piece):
            expected = self._at(offset + length, min(len(piece) - length, _WINDOW))
            if not len(expected):
                break
            same = _common(piece[length : length + len(expected)], expected)
            length += same
            if same < len(expected):
                break
        return length

    def _at(self, offset: int, length: int) -> memoryview:
        """At most `length` bytes of the reference, by way of a window that goes ahead: most are read once."""
        length = max(0, min(length, self._size - offset))
        inside = offset - self._window_at
        if inside < 0 or inside + length > len(self._window):
            self._window_at, inside = offset, 0
            self._window = memoryview(self._read(offset, min(max(length, 4 * _WINDOW), self._size - offset)))
        return self._window[inside : inside + length]


def _where(piece: bytes, needle: bytes, start: int, stop: int) -> int:
    return piece.find(needle, start, stop) if needle else -1


def _common(one: memoryview, other: memoryview) -> int:
    """The length of the common beginning of two buffers of one length."""
    mine, theirs = np.frombuffer(one, np.uint8), np.frombuffer(other, np.uint8)
    for start in range(0, len(mine), _COMPARED):
        different = mine[start : start + _COMPARED] != theirs[start : start + _COMPARED]
        if different.any():
            return start + int(np.argmax(different))
    return len(mine)
