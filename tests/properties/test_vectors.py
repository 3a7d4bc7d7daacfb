"""Are scattered vectors read right whatever there is memory for, and no block decoded again and again?"""

from __future__ import annotations

import errno
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.errors import Damaged, StoreFull
from strongroom.snapshots.manifest import Block
from strongroom.snapshots.vectors import VectorReader

WIDTH = 16


class Blobs:
    """Blocks of vectors, and how often each was read."""

    def __init__(self, counts: list[int], seed: int) -> None:
        draw = np.random.default_rng(seed)
        self.rows = [draw.integers(0, 256, (count, WIDTH), np.uint8) for count in counts]
        starts = np.cumsum([0, *(count + 3 for count in counts)])
        self.blocks = [Block(int(starts[at]), count, f"{at:064x}") for at, count in enumerate(counts)]
        self.reads: Counter[int] = Counter()

    def read(self, blob: bytes) -> bytes:
        self.reads[int(blob.hex(), 16)] += 1
        return self.rows[int(blob.hex(), 16)].tobytes()

    def numbers(self) -> np.ndarray:
        return np.concatenate([np.arange(one.start, one.start + one.count, dtype=np.uint32) for one in self.blocks])

    def bytes_of(self, numbers: np.ndarray) -> bytes:
        known = {int(number): row.tobytes() for number, row in zip(self.numbers(), np.concatenate(self.rows), strict=True)}
        return b"".join(known[int(number)] for number in numbers)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(0, 9), st.integers(1, 2000), st.data())
def test_any_vectors_in_any_order_are_read_and_no_block_more_than_twice(counts, seed, kept, data):
    blobs = Blobs(counts, seed)
    reader = VectorReader("of a test", blobs.blocks, blobs.read, kept_bytes=kept)
    everything = blobs.numbers()
    for _ in range(data.draw(st.integers(1, 8))):
        wanted = everything[data.draw(st.lists(st.integers(0, len(everything) - 1), max_size=30))]
        assert bytes(reader.take(wanted)) == blobs.bytes_of(wanted)
    assert max(blobs.reads.values(), default=0) <= 2


def test_a_number_that_nobody_has_is_damage():
    blobs = Blobs([4, 4], 1)
    reader = VectorReader("of a test", blobs.blocks, blobs.read)
    for wrong in ([5], [0, 5], [1_000_000], [0, 1, 2, 3, 4]):
        with pytest.raises(Damaged):
            reader.take(np.array(wrong, np.uint32))


def test_no_room_for_what_memory_cannot_hold_is_one_line(monkeypatch):
    blobs = Blobs([4, 4, 4], 1)
    reader = VectorReader("of a test", blobs.blocks, blobs.read, kept_bytes=1)

    def full(**_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("strongroom.snapshots.vectors.tempfile.TemporaryFile", full)
    mixed = np.array([0, 8, 15, 1, 9], np.uint32)[[0, 2, 1]]
    with pytest.raises(StoreFull):
        for _ in range(3):
            reader.take(mixed)
