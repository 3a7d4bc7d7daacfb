"""The checksum at the end of a DUMP payload and of an RDB file (CRC-64 of Jones, reflected, from 0), many at a time. Pure.

From 0, zero bytes before a message change nothing: so messages of several lengths are padded in front and go in lockstep, and a
long one is cut into pieces whose checksums are then joined.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_POLYNOMIAL = 0x95AC9329AC4BC9B5
_PIECE = 2048
_TOGETHER = 4 << 20
Words = npt.NDArray[np.uint64]


def _table() -> Words:
    table = np.arange(256, dtype=np.uint64)
    for _ in range(8):
        table = (table >> np.uint64(1)) ^ np.where(table & np.uint64(1), np.uint64(_POLYNOMIAL), np.uint64(0))
    return table


_TABLE = _table()


def _lockstep(rows: npt.NDArray[np.uint8]) -> Words:
    """The checksum of each row of a matrix."""
    sums = np.zeros(len(rows), np.uint64)
    for column in np.ascontiguousarray(rows.T):
        sums = _TABLE[(sums.astype(np.uint8)) ^ column] ^ (sums >> np.uint64(8))
    return sums


def _after_piece() -> list[list[int]]:
    """What each byte of a checksum becomes after a piece of zeros: eight tables of 256."""
    sums = np.concatenate([np.arange(256, dtype=np.uint64) << np.uint64(8 * place) for place in range(8)])
    for _ in range(_PIECE):
        sums = _TABLE[sums.astype(np.uint8)] ^ (sums >> np.uint64(8))
    return [[int(one) for one in sums[256 * place : 256 * (place + 1)]] for place in range(8)]


_AFTER = _after_piece()


def crc64(content: bytes | memoryview) -> int:
    """The checksum of one message of any length."""
    total = 0
    view = memoryview(content)
    first = len(view) % _TOGETHER or min(len(view), _TOGETHER)
    for start, end in zip((0, *range(first, len(view), _TOGETHER)), (*range(first, len(view), _TOGETHER), len(view)), strict=True):
        part = np.frombuffer(view[start:end], np.uint8)
        padded = np.concatenate([np.zeros(-len(part) % _PIECE, np.uint8), part])
        for one in _lockstep(padded.reshape(-1, _PIECE)).tolist():
            moved = 0
            for place in range(8):
                moved ^= _AFTER[place][(total >> (8 * place)) & 255]
            total = moved ^ one
    return total


def crc64_each(messages: Sequence[bytes]) -> list[int]:
    """The checksums of many messages; those of about one length go together."""
    found = [0] * len(messages)
    order = sorted((place for place in range(len(messages)) if len(messages[place]) <= _PIECE), key=lambda i: len(messages[i]))
    for start in range(0, len(order), 512):
        places = order[start : start + 512]
        width = len(messages[places[-1]])
        joined = b"".join(messages[place].rjust(width, b"\0") for place in places)
        for place, one in zip(places, _lockstep(np.frombuffer(joined, np.uint8).reshape(-1, width)).tolist(), strict=True):
            found[place] = one
    for place, message in enumerate(messages):
        if len(message) > _PIECE:
            found[place] = crc64(message)
    return found
