"""How do operations lie in a local log? Pure. All numbers are little-endian, all records multiples of 8 bytes.

    segment  magic 8 | log id 16 | u64 number of its first operation | u32 chain before it | about 16 | u32 CRC | 0
    record   u32 length of it all | u32 chain | u64 number of its first operation | i64 time | u32 count | u8 kind | 0
             u16 length of the tag | tag, padded to 8 | body, padded to 8

`about` is what the engine says of the whole log, `body` what it says of the `count` operations of one record; each operation has a
number of its own. Times are microseconds since 1970. The chain is the CRC-32 of the record from byte 8 on, begun with the chain of
the record before: a record is proven by all that came before it. What isn't proven is the torn end of a log whose writer died, or
has not been written yet.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import IntEnum

from strongroom.errors import Unreadable
from strongroom.model import Bytes

KIND = "oplog"
"""That of the positions of snapshots whose source has such a log."""
MAGIC = b"SROPLOG1"
HEADER_BYTES, RECORD_BYTES = 64, 32
MOST_BYTES = 4 << 20
"""A call whose rows need more becomes several records."""
LONGEST_TAG = 60_000

_HEADER = struct.Struct("<8s16sQI16s")
_CRC = struct.Struct("<I")
PROOF = struct.Struct("<II")
RECORD = struct.Struct("<QqIBBH")


class Kind(IntEnum):
    """What a record says. The first three are of an index file, whose operations are in memory only until it is saved; the others
    of a source that keeps its state itself: a call is an intent, any changes, and the word that it is done."""

    PUT = 1
    DELETE = 2
    PARAMETERS = 3
    INTENT = 4
    CHANGES = 5
    DONE = 6


@dataclass(frozen=True, slots=True)
class Log:
    """Which log, and of what: 16 random bytes, and at most 16 that the engine understands."""

    id: bytes
    about: bytes


@dataclass(frozen=True, slots=True)
class End:
    """A place in a log: after operation `number`, where the chain is `chain`."""

    log: bytes
    number: int = 0
    chain: int = 0

    @property
    def mark(self) -> str:
        """As positions and journals name it."""
        return mark_of(self.log, self.number, self.chain)


@dataclass(frozen=True, slots=True)
class Record:
    """Operations `first` to `last`. `body` is what the engine says of them, with up to 7 zeros behind; `passed` of them lie before
    the place from which the log is read; `offset` is where in its segment the record ends."""

    kind: Kind
    first: int
    count: int
    time: int
    tag: str
    body: memoryview
    chain: int
    offset: int
    passed: int = 0

    @property
    def last(self) -> int:
        return self.first + self.count - 1

    @property
    def operations(self) -> int:
        """How many of its numbers are operations on the source, and still to be read."""
        return 0 if self.kind in (Kind.INTENT, Kind.DONE) else self.count - self.passed

    def after(self, number: int) -> Record:
        """The same, of which what comes after that operation is still to be read."""
        return replace(self, passed=number + 1 - self.first)


def suffix(log: bytes, chain: int) -> str:
    """What follows the number in a mark: the beginning of the log's id, and the chain of the operation's record."""
    return f"{log[:4].hex()}{chain:08x}"


def mark_of(log: bytes, number: int, chain: int) -> str:
    return f"{number}:{suffix(log, chain)}"


def number_of(mark: str) -> int:
    return int(mark.partition(":")[0])


def of_log(mark: str, log: bytes) -> bool:
    """Is it a mark of this log?"""
    return mark.partition(":")[2].startswith(log[:4].hex())


def padded(length: int) -> int:
    return length + 7 & -8


def record_length(tag: int, body: int) -> int:
    """Bytes of a record with a tag and a body of so many bytes."""
    return RECORD_BYTES + (tag + 7 & -8) + (body + 7 & -8)


def encode_header(log: Log, first: int, chain: int) -> bytes:
    """The beginning of a segment."""
    said = _HEADER.pack(MAGIC, log.id, first, chain, log.about)
    return (said + _CRC.pack(zlib.crc32(said))).ljust(HEADER_BYTES, b"\0")


def decode_header(name: str, content: bytes) -> tuple[Log, int, int]:
    """The log, the first operation's number and the chain before it. Raises Unreadable."""
    said = content[: _HEADER.size]
    if len(content) < HEADER_BYTES or _CRC.unpack_from(content, _HEADER.size) != (zlib.crc32(said),):
        raise Unreadable(f"{name} is no segment of a log of operations", hint="capture with anew=True to begin another log")
    magic, log, first, chain, about = _HEADER.unpack(said)
    if magic != MAGIC:
        raise Unreadable(f"{name} is of a log of another version", hint="use the Strongroom that wrote it")
    return Log(log, about.rstrip(b"\0")), first, chain


def records(content: Bytes, offset: int, end: End) -> Iterator[Record]:
    """The proven records of `content`, which lies at `offset` of its segment and goes on after `end`."""
    view, at, chain, number = memoryview(content), 0, end.chain, end.number
    while at + RECORD_BYTES <= len(view):
        length, proof = PROOF.unpack_from(view, at)
        if not RECORD_BYTES <= length <= len(view) - at or zlib.crc32(view[at + 8 : at + length], chain) != proof:
            return
        first, time, count, kind, _, tag = RECORD.unpack_from(view, at + PROOF.size)
        if first != number + 1 or not count or kind not in iter(Kind) or RECORD_BYTES + padded(tag) > length:
            return
        text = bytes(view[at + RECORD_BYTES : at + RECORD_BYTES + tag]).decode(errors="replace")
        body = view[at + RECORD_BYTES + padded(tag) : at + length]
        at, chain, number = at + length, proof, number + count
        yield Record(Kind(kind), first, count, time, text, body, chain, offset + at)
