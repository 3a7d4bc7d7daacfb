"""In which order a FAISS index gives its rows, and under which labels and ids: positions, or what its lists and id map hold."""

from __future__ import annotations

import numpy as np

from strongroom.engines.faiss.headers import Read
from strongroom.engines.faiss.layout import Layout
from strongroom.engines.indexfile.order import Ids, Order, empty


def order_of(layout: Layout, read: Read) -> Order:
    """The order of the rows of an index whose layout is known. Reads all ids."""
    if layout.lists is None:
        ids = None if layout.id_map is None else _read_ids(read, layout.id_map.offset, layout.count)
        return Order(layout.count, None, ids)
    labels = empty(layout.count)
    filled = 0
    for number in np.flatnonzero(layout.lists.sizes):
        size = int(layout.lists.sizes[number])
        labels[filled : filled + size] = np.frombuffer(read(layout.lists.ids_offset(int(number)), 8 * size), "<i8")
        filled += size
    if layout.id_map is None:
        return Order(layout.count, labels, None)
    mapped = _read_ids(read, layout.id_map.offset, layout.count)
    if layout.count and not 0 <= labels.min() <= labels.max() < layout.count:
        raise IndexError("an inverted list names a vector that the id map doesn't have")
    return Order(layout.count, labels, mapped[labels])


def _read_ids(read: Read, offset: int, count: int) -> Ids:
    ids = empty(count)
    step = 1 << 20
    for start in range(0, count, step):
        rows = min(step, count - start)
        ids[start : start + rows] = np.frombuffer(read(offset + 8 * start, 8 * rows), "<i8")
    return ids
