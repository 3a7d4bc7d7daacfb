"""How do rows look in binary COPY? A header, then of each row the number of its fields, and each field's length and bytes."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
TRAILER = b"\xff\xff"
_COUNT, _LENGTH = struct.Struct(">h"), struct.Struct(">i")
_NULL = _LENGTH.pack(-1)
_PIECE = 1 << 20

Row = list[bytes | None]


def fields(stream: Iterable[bytes | bytearray | memoryview]) -> Iterator[Row]:
    """The fields of each row of what a server sends. Raises ValueError if it isn't that."""
    pieces = iter(stream)
    buffer = b"".join(islice(pieces, 1))
    while len(buffer) < len(HEADER) and (more := b"".join(islice(pieces, 1))):
        buffer += more
    if not buffer.startswith(HEADER[:11]):
        raise ValueError("no binary COPY")
    (extra,) = _LENGTH.unpack_from(buffer, 15)
    at = 19 + extra
    ended = False
    while not ended:
        row, after = _row(buffer, at)
        if row is None and after < 0:
            return
        if row is not None:
            yield row
            at = after
            continue
        fresh = next(pieces, None)
        if fresh is None:
            ended = True
        else:
            buffer, at = buffer[at:] + bytes(fresh), 0
    raise ValueError("it ended in the middle of a row")


def _row(buffer: bytes, at: int) -> tuple[Row | None, int]:
    """A row and where the next one begins; (None, -1) at the end, (None, 0) if more must be read first."""
    if at + 2 > len(buffer):
        return None, 0
    (count,) = _COUNT.unpack_from(buffer, at)
    if count < 0:
        return None, -1
    at += 2
    row: Row = []
    for _ in range(count):
        if at + 4 > len(buffer):
            return None, 0
        (length,) = _LENGTH.unpack_from(buffer, at)
        at += 4
        if length < 0:
            row.append(None)
            continue
        if at + length > len(buffer):
            return None, 0
        row.append(buffer[at : at + length])
        at += length
    return row, at


def pieces(columns: Sequence[Iterable[bytes | None]]) -> Iterator[bytes]:
    """The rows of these columns as a server takes them, in pieces of about a MiB."""
    count = _COUNT.pack(len(columns))
    parts, size = [HEADER], 0
    for row in zip(*columns, strict=True):
        parts.append(count)
        for cell in row:
            if cell is None:
                parts.append(_NULL)
            else:
                parts += (_LENGTH.pack(len(cell)), cell)
                size += len(cell)
        if size >= _PIECE:
            yield b"".join(parts)
            parts, size = [], 0
    yield b"".join([*parts, TRAILER])
