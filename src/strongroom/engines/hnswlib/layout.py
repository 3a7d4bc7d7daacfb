"""Where in an hnswlib index file its elements, links and labels lie. Pure: reads by position.

The format is what `saveIndex` of nmslib/hnswlib, `hnswlib/hnswalg.h`, writes. All little-endian:

    header 96   u64 offset of level 0 = 0, capacity, count, stride, label offset, vector offset | i32 top level | u32 entry
                u64 M of upper levels, M of level 0, M | f64 mult | u64 efConstruction
    level 0     count x stride: u16 links | u8 deleted (bit 0) | u8 | u32 links[M of level 0] | vector, float32 | u64 label
    upper       count x: u32 length | if it isn't 0, length / (4 + 4 M) levels of u32 links | u32 links[M]

Only `count` elements are written, whatever the capacity. No number is believed before it was compared with the file's size.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from strongroom.engines.indexfile.order import Flags, Ids, Order, empty, unique
from strongroom.engines.protocol import BLOCK_BYTES, rows_per_block
from strongroom.model import Region

Read = Callable[[int, int], bytes]
"""Exactly `length` bytes from `offset`."""

_HEADER = struct.Struct("<QQQQQQiIQQQdQ")
_MOST_LINKS = 100_000
_LARGEST_STRIDE = 1 << 24
_MOST_LEVELS = 1 << 16
_WORDS = 1 << 20  # of the upper levels, looked at at once
_CACHED_BYTES = 1 << 20
"""So much is read at once where only a part of each element is kept: it doesn't leave a core's cache."""


class NotAnIndex(Exception):
    """The file isn't one, or not a whole one. The text ends a sentence that begins with its name."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The geometry of an index file of `size` bytes: `count` elements of `stride` bytes from byte 96 on."""

    size: int
    capacity: int
    count: int
    stride: int
    label_offset: int
    vector_offset: int
    top_level: int
    entry: int
    links: int  # M
    ef_construction: int

    @property
    def vector_bytes(self) -> int:
        return self.label_offset - self.vector_offset

    @property
    def dimension(self) -> int:
        return self.vector_bytes // 4

    @property
    def upper(self) -> int:
        """Where the upper levels begin."""
        return _HEADER.size + self.count * self.stride

    def place(self, row: int) -> int:
        """Where an element begins."""
        return _HEADER.size + row * self.stride

    def pieces(self) -> Iterator[tuple[int, int]]:
        """First element and number of elements of every block."""
        step = rows_per_block(self.vector_bytes)
        return ((start, min(step, self.count - start)) for start in range(0, self.count, step))

    def regions(self) -> Iterator[Region]:
        """The whole file: header, elements cut as the rows are, upper levels in pieces of fixed length."""
        yield Region(0, _HEADER.size, key="header")
        for block, (start, rows) in enumerate(self.pieces()):
            yield self.elements(block, start, rows)
        for number, offset in enumerate(range(self.upper, self.size, BLOCK_BYTES)):
            yield Region(offset, min(BLOCK_BYTES, self.size - offset), "int32", key=f"upper {number}")

    def elements(self, block: int, start: int, rows: int) -> Region:
        """The elements of a block of rows."""
        return Region(
            self.place(start),
            rows * self.stride,
            "float32",
            self.stride,
            self.vector_offset,
            self.vector_bytes,
            column="vector",
            block=block,
            key=f"level0 {block}",
        )


def parse(read: Read, size: int) -> Layout:
    """The layout of an index file of `size` bytes; reads its header. Raises NotAnIndex."""
    if size < _HEADER.size:
        raise NotAnIndex("is no hnswlib index: it is shorter than a header")
    fields = _HEADER.unpack(read(0, _HEADER.size))
    start, capacity, count, stride, label, vector, top, entry, upper_links, base_links, links, _, construction = fields
    sound = (
        start == 0
        and 0 < base_links <= 2 * _MOST_LINKS
        and 0 < upper_links <= _MOST_LINKS
        and vector == 4 + 4 * base_links
        and vector < label
        and (label - vector) % 4 == 0
        and stride == label + 8
        and stride <= _LARGEST_STRIDE
        and links == upper_links
    )
    if not sound:
        raise NotAnIndex("is no hnswlib index: its header contradicts itself")
    if count > capacity or _HEADER.size + count * (stride + 4) > size:
        raise NotAnIndex(f"is not whole: it announces {count:,} elements of {stride} bytes and has {size:,} bytes")
    if count and not (0 <= top < _MOST_LEVELS and entry < count):
        raise NotAnIndex("is damaged: its entry point is no element")
    return Layout(size, capacity, count, stride, label, vector, top, entry, links, construction)


def check_upper(layout: Layout, read: Read) -> None:
    """Raises NotAnIndex unless the upper levels are those of `count` elements and end where the file does."""
    level = 4 + 4 * layout.links
    elements, skip = 0, 0  # elements that were passed; words that still belong to the last one
    if (layout.size - layout.upper) % 4:
        raise NotAnIndex("is damaged: it doesn't end with a whole element")
    for offset in range(layout.upper, layout.size, 4 * _WORDS):
        words = np.frombuffer(read(offset, min(4 * _WORDS, layout.size - offset)), "<u4")
        filled = np.flatnonzero(words).tolist()
        near, at = 0, min(skip, len(words))
        skip -= at
        while at < len(words):
            near = bisect_left(filled, at, near)
            found = filled[near] if near < len(filled) else len(words)
            elements += found - at
            at = found
            if at == len(words):
                break
            length = int(words[at])
            if length % level or length // level > max(0, layout.top_level):
                raise NotAnIndex("is damaged: the levels of an element have no possible length")
            elements += 1
            at += 1 + length // 4
        if at > len(words):
            skip = at - len(words)
    if skip or elements != layout.count:
        raise NotAnIndex(f"is not whole: it has the levels of {elements:,} elements and should of {layout.count:,}")


def elements(layout: Layout, read: Read, start: int, rows: int) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """`rows` elements from `start` on, some at a time: the number of the first of them, and their bytes (elements, stride)."""
    step = max(1, _CACHED_BYTES // layout.stride)
    for first in range(start, start + rows, step):
        count = min(step, start + rows - first)
        yield first, np.frombuffer(read(layout.place(first), count * layout.stride), np.uint8).reshape(count, layout.stride)


def order_of(layout: Layout, read: Read) -> Order:
    """The labels of all elements, and which of them are deleted. Reads level 0. Raises NotAnIndex if a label is there twice."""
    labels = empty(layout.count)
    dead: Flags = np.zeros(layout.count, np.bool_)
    for first, some in elements(layout, read, 0, layout.count):
        labels[first : first + len(some)] = some[:, layout.label_offset :].copy().view("<i8").reshape(len(some))
        dead[first : first + len(some)] = some[:, 2] & 1
    any_dead = bool(dead.any())
    live: Ids = labels[~dead] if any_dead else labels
    if not unique(live):
        raise NotAnIndex("is damaged: it has a label twice")
    natural = not any_dead and all(
        bool((labels[start : start + rows] == np.arange(start, start + rows)).all()) for start, rows in layout.pieces()
    )
    unsigned = bool(len(live) and live.min() < 0)
    return Order(layout.count, None if natural else labels, None, dead if any_dead else None, unsigned, reuses=True)
