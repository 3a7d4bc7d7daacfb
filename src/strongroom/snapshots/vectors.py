"""How are stored vectors read: a few here, a few there, each blob decoded once as long as it is needed?"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from strongroom.codecs.runs import Numbers
from strongroom.errors import Damaged
from strongroom.model import Bytes
from strongroom.snapshots.manifest import Block
from strongroom.snapshots.marks import in_pieces

KEPT_BYTES = 96 << 20
"""How much of decoded vectors is kept for what comes next."""

ReadBlob = Callable[[bytes], Bytes]


class VectorReader:
    """The vectors of one field, by their numbers. Any thread."""

    def __init__(self, name: str, blocks: Sequence[Block], read_blob: ReadBlob, kept_bytes: int = KEPT_BYTES) -> None:
        self._name = name
        self._blocks = sorted(blocks, key=lambda block: block.start)
        self._starts = np.array([block.start for block in self._blocks], np.int64)
        self._read_blob = read_blob
        self._kept: OrderedDict[str, npt.NDArray[np.uint8]] = OrderedDict()
        self._kept_bytes = kept_bytes
        self._lock = threading.Lock()

    def whole(self, places: Numbers) -> Block | None:
        """The block whose vectors these are, all of them and in order; None if they are no block's."""
        if not len(places):
            return None
        block = self._block_of(int(places[0]))
        if len(places) != block.count or int(places[0]) != block.start or int(places[-1]) != block.start + block.count - 1:
            return None
        return block if len(places) == 1 or bool((np.diff(places) == 1).all()) else None

    def has(self, places: Numbers) -> npt.NDArray[np.bool_]:
        """Which of these vectors are there."""
        return in_pieces(places, [(block.start, block.start + block.count) for block in self._blocks])

    def take(self, places: Numbers) -> Bytes:
        """The bytes of these vectors, one after another. Raises Damaged if there is no vector of such a number."""
        if not len(places):
            return b""
        block = self.whole(places)
        if block is not None:
            return self._rows(block).data.cast("B")
        which = np.searchsorted(self._starts, places, side="right") - 1
        result: npt.NDArray[np.uint8] | None = None
        for number in np.unique(which):
            block = self._block_of(int(places[which == number][0]))
            rows = self._rows(block)
            here = np.flatnonzero(which == number)
            inside = places[here].astype(np.int64) - block.start
            if int(inside.max()) >= block.count:
                raise Damaged(f"vectors {self._name}", f"there is none with the number {block.start + int(inside.max())}")
            if result is None:
                result = np.empty((len(places), rows.shape[1]), np.uint8)
            if rows.shape[1] != result.shape[1]:
                raise Damaged(f"vectors {self._name}", "they are not all of one length")
            _records(result)[here] = _records(rows)[inside]
        assert result is not None  # noqa: S101 - there are places
        return result.data.cast("B")

    def _block_of(self, number: int) -> Block:
        at = int(np.searchsorted(self._starts, number, side="right")) - 1
        if at < 0 or number >= self._blocks[at].start + self._blocks[at].count:
            raise Damaged(f"vectors {self._name}", f"there is none with the number {number}")
        return self._blocks[at]

    def _rows(self, block: Block) -> npt.NDArray[np.uint8]:
        """The vectors of a block: (count, bytes of one)."""
        with self._lock:
            if block.blob in self._kept:
                self._kept.move_to_end(block.blob)
                return self._kept[block.blob]
        content = np.frombuffer(self._read_blob(bytes.fromhex(block.blob)), np.uint8)
        if block.count <= 0 or len(content) % block.count or not len(content):
            raise Damaged(f"blob {block.blob[:16]}", f"{len(content)} bytes are not {block.count} vectors: wrong dimension")
        rows = content.reshape(block.count, -1)
        with self._lock:
            self._kept[block.blob] = rows
            while len(self._kept) > 1 and sum(one.nbytes for one in self._kept.values()) > self._kept_bytes:
                self._kept.popitem(last=False)
        return rows


def _records(rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.void]:
    """Rows as items, so that they are moved as wholes."""
    return rows.view(np.dtype((np.void, rows.shape[1]))).reshape(-1)
