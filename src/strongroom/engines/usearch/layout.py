"""Where in a USearch index file its vectors, links and keys lie. Pure: reads by position.

The format is what `save` of unum-cloud/usearch, `include/usearch/index_dense.hpp` and `index.hpp`, writes. All little-endian:

    vectors   u32 rows, u32 bytes of a vector (or both u64, if the matrix is that large), then the rows
    head 64   'usearch' | u16 version x 3 | u8 metric, scalar, key and slot kind | u64 present, deleted, dimensions | u8 multi
    graph     u64 size, connectivity, connectivity of level 0, top level, entry slot
    levels    i16 a node
    nodes     u64 key, i16 level | u32 links, u32 slots[of level 0] | level x {u32 links, u32 slots[connectivity]}

A node's slot is the number of its vector. A removed one has the key 2^64 - 1. No number is believed before it was compared with
the file's size.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from strongroom.engines.indexfile.order import Flags, Order, empty, unique
from strongroom.engines.protocol import BLOCK_BYTES, rows_per_block
from strongroom.model import Region

Read = Callable[[int, int], bytes]
"""Exactly `length` bytes from `offset`."""

METRICS = {"e": "l2", "i": "ip", "c": "cosine", "h": "haversine", "d": "divergence", "p": "pearson"}
SCALARS = {11: ("float32", 4), 12: ("float16", 2), 4: ("bfloat16", 2), 23: ("int8", 1), 17: ("uint8", 1)}
"""By USearch's number of a scalar kind: the dtype as `model.Field` names it, and its bytes."""

_HEAD = struct.Struct("<7sHHHBBBBQQQB22x")
_GRAPH = struct.Struct("<QQQQQ")
_U64_KEYS, _U32_SLOTS = 14, 15
_FREE = -1  # the key of a removed row, as int64
_NODE_HEAD = 10
_MOST_LINKS = 100_000
_PIECE = 1 << 20  # nodes whose places are computed at once


class NotAnIndex(Exception):
    """The file isn't one, or not a whole one. The text ends a sentence that begins with its name."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The geometry of an index file of `size` bytes: `count` vectors of `record` bytes from byte `vectors` on, then the head, the
    levels at `levels` and the nodes at `nodes`."""

    size: int
    count: int
    record: int
    vectors: int
    levels: int
    nodes: int
    dimension: int
    dtype: str
    metric: str
    multi: bool
    present: int
    connectivity: int
    connectivity_base: int

    def pieces(self) -> Iterator[tuple[int, int]]:
        """First vector and number of vectors of every block."""
        step = rows_per_block(self.record)
        return ((start, min(step, self.count - start)) for start in range(0, self.count, step))

    def regions(self) -> Iterator[Region]:
        """The whole file. Levels and nodes are cut into pieces of a fixed length from their own beginnings."""
        yield Region(0, self.vectors, key="size")
        for block, (start, rows) in enumerate(self.pieces()):
            place, length = self.vectors + start * self.record, rows * self.record
            yield Region(place, length, self.dtype, column="vector", block=block, key=f"vectors {block}")
        head = self.vectors + self.count * self.record
        yield Region(head, self.levels - head, key="head")
        for name, first, end, kind in (
            ("levels", self.levels, self.nodes, "bytes"),
            ("nodes", self.nodes, self.size, "int32"),
        ):
            for number, offset in enumerate(range(first, end, BLOCK_BYTES)):
                yield Region(offset, min(BLOCK_BYTES, end - offset), kind, key=f"{name} {number}")


def parse(read: Read, size: int) -> Layout:
    """The layout of an index file of `size` bytes; reads its heads. Raises NotAnIndex."""
    for form in ("<II", "<QQ"):
        start = struct.calcsize(form)
        if size < start:
            break
        rows, record = struct.unpack(form, read(0, start))
        head = start + rows * record
        if head + _HEAD.size + _GRAPH.size <= size and read(head, 7) == b"usearch":
            return _layout(read, size, start, (rows, record), head)
    raise NotAnIndex("is no USearch index, or one that was saved without its vectors")


def _layout(read: Read, size: int, start: int, shape: tuple[int, int], head: int) -> Layout:
    fields = _HEAD.unpack(read(head, _HEAD.size))
    metric, scalar, key, slot, present, deleted, dimensions, multi = fields[4:]
    count, links, base, _, entry = _GRAPH.unpack(read(head + _HEAD.size, _GRAPH.size))
    if (key, slot) != (_U64_KEYS, _U32_SLOTS):
        raise NotAnIndex(f"has keys of kind {key} and slots of kind {slot}: only 64-bit keys and 32-bit slots are supported")
    if scalar not in SCALARS:
        raise NotAnIndex(f"holds numbers of USearch's kind {scalar}: only f32, f16, bf16, i8 and u8 are supported")
    dtype, width = SCALARS[scalar]
    rows, record = shape
    levels = head + _HEAD.size + _GRAPH.size
    nodes = levels + 2 * count
    if count != rows or present + deleted != rows or (rows and record != dimensions * width) or not 0 < dimensions < 1 << 24:
        raise NotAnIndex(f"contradicts itself: {rows:,} vectors of {record} bytes, {count:,} nodes of dimension {dimensions}")
    if not 0 < links <= _MOST_LINKS or not 0 < base <= _MOST_LINKS or (count and entry >= count):
        raise NotAnIndex("contradicts itself: it has no possible number of links or entry point")
    if nodes + count * (_NODE_HEAD + 4 + 4 * base) > size:
        raise NotAnIndex(f"is not whole: it announces {count:,} nodes and has {size:,} bytes")
    known = METRICS.get(chr(metric), f"metric_{metric}")
    return Layout(
        size, count, record or dimensions * width, start, levels, nodes, dimensions, dtype, known, bool(multi), present, links, base
    )


def order_of(layout: Layout, read: Read) -> Order:
    """The keys of all vectors, and which were removed. Reads the nodes. Raises NotAnIndex unless they end where the file does."""
    keys = empty(layout.count)
    offset = layout.nodes
    for start in range(0, layout.count, _PIECE):
        levels = np.frombuffer(read(layout.levels + 2 * start, 2 * min(_PIECE, layout.count - start)), "<i2").astype(np.int64)
        if len(levels) and int(levels.min()) < 0:
            raise NotAnIndex("is damaged: a node has a negative level")
        places = _places(layout, levels)
        if offset + int(places[-1]) > layout.size:
            raise NotAnIndex("is not whole: its nodes end beyond its end")
        for first, last, content in _read_nodes(read, offset, places):
            here = places[first:last] - places[first]
            heads = np.frombuffer(content, np.uint8)[here[:, None] + np.arange(_NODE_HEAD)]
            keys[start + first : start + last] = heads[:, :8].copy().view("<i8")[:, 0]
            if (heads[:, 8:].copy().view("<i2")[:, 0] != levels[first:last]).any():
                raise NotAnIndex("is damaged: a node is of another level than the list of levels says")
        offset += int(places[-1])
    if offset != layout.size:
        raise NotAnIndex(f"is damaged: {layout.size - offset:,} bytes follow its last node")
    dead: Flags = keys == _FREE
    if int(np.count_nonzero(~dead)) != layout.present:
        raise NotAnIndex(f"contradicts itself: {layout.present:,} rows are announced, {np.count_nonzero(~dead):,} have keys")
    any_dead = bool(dead.any())
    live = keys[~dead] if any_dead else keys
    if not layout.multi and not unique(live):
        raise NotAnIndex("is damaged: it has a key twice")
    natural = not any_dead and bool((keys == np.arange(layout.count)).all())
    unsigned = bool(len(live) and live.min() < 0)
    return Order(layout.count, None if natural else keys, None, dead if any_dead else None, unsigned, reuses=True)


def _places(layout: Layout, levels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Where each node begins, counted from the first, and where the last ends."""
    places = np.zeros(len(levels) + 1, np.int64)
    np.cumsum(_NODE_HEAD + 4 + 4 * layout.connectivity_base + levels * (4 + 4 * layout.connectivity), out=places[1:])
    return places


def _read_nodes(read: Read, offset: int, places: npt.NDArray[np.int64]) -> Iterator[tuple[int, int, bytes]]:
    """The bytes of the nodes, about a block at a time, with the first and the one after the last of them."""
    first = 0
    while first < len(places) - 1:
        last = max(first + 1, int(np.searchsorted(places, places[first] + BLOCK_BYTES, "right")) - 1)
        yield first, last, read(offset + int(places[first]), int(places[last] - places[first]))
        first = last
