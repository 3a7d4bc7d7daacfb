"""How do the operations on an index lie in its local log? Pure. All numbers are little-endian, all records multiples of 8 bytes.

    segment  magic 8 | log id 16 | u64 number of its first operation | u32 chain before it | u32 dimension | dtype 12 | u32 CRC | 0
    record   u32 length of it all | u32 chain | u64 number of its first operation | i64 time | u32 count | u8 kind | 0
             u16 length of the tag | tag, padded to 8 | count x i64 ids | of a put: count x vector, padded to 8

Every row of a put or delete is one operation with a number of its own. Times are microseconds since 1970. The chain is the CRC-32
of the record from byte 8 on, begun with the chain of the record before: a record is proven by all that came before it. What isn't
proven is the torn end of a log whose writer died, or has not been written yet.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from strongroom.errors import Unreadable
from strongroom.model import Bytes

MAGIC = b"SROPLOG1"
HEADER_BYTES, RECORD_BYTES = 64, 32
MOST_BYTES = 4 << 20
"""A call whose rows need more becomes several records."""
LONGEST_TAG = 60_000

_HEADER = struct.Struct("<8s16sQII12s")
_CRC = struct.Struct("<I")
PROOF = struct.Struct("<II")
RECORD = struct.Struct("<QqIBBH")
_WIDTHS = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1}

Ids = npt.NDArray[np.int64]


class Kind(IntEnum):
    """What a record says. `PARAMETERS` is one operation: its tag is JSON, the index's parameters from there on."""

    PUT = 1
    DELETE = 2
    PARAMETERS = 3


@dataclass(frozen=True, slots=True)
class Log:
    """Which log, and of what: 16 random bytes, and the numbers that a vector is made of."""

    id: bytes
    dimension: int
    dtype: str

    @property
    def width(self) -> int:
        """Bytes of a vector."""
        return self.dimension * _WIDTHS[self.dtype]


@dataclass(frozen=True, slots=True)
class End:
    """A place in a log: after operation `number`, where the chain is `chain`."""

    log: bytes
    number: int = 0
    chain: int = 0

    @property
    def mark(self) -> str:
        """As positions and journals name it."""
        return f"{self.number}:{suffix(self.log, self.chain)}"


@dataclass(frozen=True, slots=True)
class Record:
    """Operations `first` to `last`. `vectors` are the bytes of a put; `offset` is where in its segment the record ends."""

    kind: Kind
    first: int
    time: int
    tag: str
    ids: Ids
    vectors: memoryview
    chain: int
    offset: int

    @property
    def last(self) -> int:
        return self.first + len(self.ids) - 1


def suffix(log: bytes, chain: int) -> str:
    """What follows the number in a mark: the beginning of the log's id, and the chain of the operation's record."""
    return f"{log[:4].hex()}{chain:08x}"


def number_of(mark: str) -> int:
    return int(mark.partition(":")[0])


def of_log(mark: str, log: bytes) -> bool:
    """Is it a mark of this log?"""
    return mark.partition(":")[2].startswith(log[:4].hex())


def padded(length: int) -> int:
    return length + 7 & -8


def record_length(count: int, tag: int, width: int) -> int:
    """Bytes of a record of `count` operations, a tag of so many bytes and, if not 0, vectors of `width` bytes."""
    return RECORD_BYTES + (tag + 7 & -8) + 8 * count + (count * width + 7 & -8)


def encode_header(log: Log, first: int, chain: int) -> bytes:
    """The beginning of a segment."""
    said = _HEADER.pack(MAGIC, log.id, first, chain, log.dimension, log.dtype.encode())
    return (said + _CRC.pack(zlib.crc32(said))).ljust(HEADER_BYTES, b"\0")


def decode_header(name: str, content: bytes) -> tuple[Log, int, int]:
    """The log, the first operation's number and the chain before it. Raises Unreadable."""
    said = content[: _HEADER.size]
    if len(content) < HEADER_BYTES or _CRC.unpack_from(content, _HEADER.size) != (zlib.crc32(said),):
        raise Unreadable(f"{name} is no segment of an index's log", hint="capture the index with anew=True to begin another log")
    magic, log, first, chain, dimension, dtype = _HEADER.unpack(said)
    if magic != MAGIC:
        raise Unreadable(f"{name} is of a log of another version", hint="use the Strongroom that wrote it")
    return Log(log, dimension, dtype.rstrip(b"\0").decode()), first, chain


def records(log: Log, content: Bytes, offset: int, end: End) -> Iterator[Record]:
    """The proven records of `content`, which lies at `offset` of its segment and goes on after `end`."""
    view, at, chain, number, width = memoryview(content), 0, end.chain, end.number, log.width
    while at + RECORD_BYTES <= len(view):
        length, proof = PROOF.unpack_from(view, at)
        if not RECORD_BYTES <= length <= len(view) - at or zlib.crc32(view[at + 8 : at + length], chain) != proof:
            return
        first, time, count, kind, _, tag = RECORD.unpack_from(view, at + PROOF.size)
        if first != number + 1 or kind not in iter(Kind) or length != record_length(count, tag, width if kind == Kind.PUT else 0):
            return
        body = at + RECORD_BYTES + padded(tag)
        text = bytes(view[at + RECORD_BYTES : at + RECORD_BYTES + tag]).decode(errors="replace")
        ids = np.frombuffer(view, "<i8", count, body)
        vectors = view[body + 8 * count : body + 8 * count + count * width] if kind == Kind.PUT else view[:0]
        at, chain, number = at + length, proof, number + count
        yield Record(Kind(kind), first, time, text, ids, vectors, chain, offset + at)
