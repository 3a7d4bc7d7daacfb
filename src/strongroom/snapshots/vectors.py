"""How are stored vectors read: a few here, a few there, and yet no blob decoded again and again?

Vectors that changed at random lie in many blocks, and each part of a file wants some of each. The blocks used last are kept in
memory; one that is wanted again after it had to go is put into a file without a name, from which its vectors are taken singly.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from strongroom.codecs.runs import Numbers
from strongroom.errors import Damaged, from_os_error
from strongroom.model import Bytes
from strongroom.snapshots.manifest import Block
from strongroom.snapshots.marks import in_pieces

KEPT_BYTES = 96 << 20
"""How much of decoded vectors is kept for what comes next."""

ReadBlob = Callable[[bytes], Bytes]


class VectorReader:
    """The vectors of one field, by their numbers. Any thread."""

    def __init__(
        self, name: str, blocks: Sequence[Block], read_blob: ReadBlob, kept_bytes: int = KEPT_BYTES, spill: Path | None = None
    ) -> None:
        """`kept_bytes` of decoded blocks are kept in memory; `spill` is where the file of others lies, if one is needed."""
        self._name = name
        self._blocks = sorted(blocks, key=lambda block: block.start)
        self._starts = np.array([block.start for block in self._blocks], np.int64)
        self._read_blob = read_blob
        self._kept: OrderedDict[str, npt.NDArray[np.uint8]] = OrderedDict()
        self._kept_bytes = kept_bytes
        self._met: set[str] = set()
        self._spilled = _Spill(spill)
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
        if int(which.min()) < 0:
            raise Damaged(f"vectors {self._name}", f"there is none with the number {int(places.min())}")
        for number in np.flatnonzero(np.bincount(which)):
            block = self._blocks[number]
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
            spilled = self._spilled.get(block.blob)
        if spilled is not None:
            return spilled
        content = np.frombuffer(self._read_blob(bytes.fromhex(block.blob)), np.uint8)
        if block.count <= 0 or len(content) % block.count or not len(content):
            raise Damaged(f"blob {block.blob[:16]}", f"{len(content)} bytes are not {block.count} vectors: wrong dimension")
        rows = content.reshape(block.count, -1)
        with self._lock:
            if block.blob in self._met and block.blob not in self._kept:
                return self._spilled.put(block.blob, rows)
            self._met.add(block.blob)
            self._kept[block.blob] = rows
            while len(self._kept) > 1 and sum(one.nbytes for one in self._kept.values()) > self._kept_bytes:
                self._kept.popitem(last=False)
        return rows


class _Spill:
    """Decoded blocks in a file without a name, which goes when it is let go of."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._file: BinaryIO | None = None
        self._places: dict[str, tuple[int, tuple[int, int]]] = {}

    def get(self, blob: str) -> npt.NDArray[np.uint8] | None:
        """The vectors of a block, (count, bytes of one), as pages that the system may take back; None if it isn't there."""
        if self._file is None or blob not in self._places:
            return None
        offset, (count, width) = self._places[blob]
        return np.memmap(self._file, np.uint8, "r", offset, (count, width))

    def put(self, blob: str, rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Write a block to the file, and give it from there. Raises StoreFull and the like."""
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="strongroom-vectors-", dir=self._directory)  # noqa: SIM115 - it stays
            if blob not in self._places:
                offset = self._file.seek(0, os.SEEK_END)
                self._file.write(rows.data.cast("B"))
                self._file.flush()
                self._places[blob] = (offset, rows.shape)
        except OSError as error:
            raise from_os_error(error, "the file for decoded vectors") from error
        found = self.get(blob)
        return rows if found is None else found


def _records(rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.void]:
    """Rows as items, so that they are moved as wholes."""
    return rows.view(np.dtype((np.void, rows.shape[1]))).reshape(-1)
