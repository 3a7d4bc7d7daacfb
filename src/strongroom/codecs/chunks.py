"""Where are bytes cut so that an insertion moves only the cuts around it? Content-defined chunking, by FastCDC (Xia et al., 2020).

A cut depends on the bytes since the last one alone: from any cut on, the same bytes are cut alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from strongroom.model import Bytes

if TYPE_CHECKING:
    from pyfastcdc import NormalizedChunking

SMALLEST_AVERAGE = 128 << 10
"""Bytes. 20 inserts of 100 bytes in 80 MB of vectors and links stored 0.8 MB at 32 KiB, 1.4 at 64, 2.6 at 128, 4.8 at 256; each
chunk costs 57 bytes in its pack, and some 50 in every manifest."""

LARGEST_AVERAGE = 2 << 20

_MOST = 1024
"""About how many chunks a file is cut into once they may grow: every snapshot lists them."""

_RANGE = 4
"""No chunk is longer than the average by this factor, nor, but for the last, shorter."""

_NORMALIZED: NormalizedChunking = 2
"""How sharply lengths gather around the average (level 0 to 3 of the paper): by 2 a quarter less was stored than by 1."""


def average_of(size: int) -> int:
    """The average chunk for `size` bytes: a power of two, so that a file that grows is seldom cut anew."""
    wanted = max(SMALLEST_AVERAGE, min(size // _MOST, LARGEST_AVERAGE))
    return 1 << (wanted.bit_length() - 1)


def longest_of(average: int) -> int:
    return average * _RANGE


def lengths(content: Bytes, average: int, *, last: bool) -> Iterator[int]:
    """The lengths of the chunks that `content` begins with, cut as if it went on; if it is the `last` of the whole, all of it."""
    from pyfastcdc import FastCDC  # most backups do without, and it takes 60 ms to load

    chunker = FastCDC(average, min_size=average // _RANGE, max_size=longest_of(average), normalized_chunking=_NORMALIZED)
    end, size = 0, memoryview(content).nbytes
    for chunk in chunker.cut_buf(content):
        end += chunk.length
        if end == size and not last and chunk.length < longest_of(average):
            return
        yield chunk.length
