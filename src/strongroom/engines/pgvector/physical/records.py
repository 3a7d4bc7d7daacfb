"""What stands in PostgreSQL's log, record by record? Only where each begins and ends, and when a transaction ended.

The log is pages of 8 KiB with a header each; a record may go on over several. Pure.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from strongroom.engines.pgvector.pgoutput import EPOCH
from strongroom.errors import Damaged

_PAGE = 8192
_PAGE_HEADER, _SHORT, _LONG = struct.Struct("<HHIQI"), 24, 40
_CONTINUED, _IS_LONG, _OVERWRITTEN = 1, 2, 8
_LENGTH, _RECORD, _HEADER = struct.Struct("<I"), struct.Struct("<IIQBB"), 24
_LOG, _TRANSACTIONS = 0, 1
_SWITCH, _ENDS = 0x40, {0x00, 0x20, 0x30, 0x40}
_DATA, _LONG_DATA, _ORIGIN, _TOP = 255, 254, 253, 252
_ALIGNED = 8


@dataclass(frozen=True, slots=True)
class Record:
    """A whole record; `time` (microseconds since 1970) if it ends a transaction."""

    start: int
    end: int
    time: int | None


class Records:
    """Takes the log from `place` on, where a record or a page begins, in pieces of any length."""

    def __init__(self, place: int, segment_bytes: int) -> None:
        self._segment_bytes = segment_bytes
        self._place = place  # of the first byte of what isn't looked at yet
        self._rest = b""
        self._dropped = place  # all before it is passed over
        self._start = place
        self._record = b""
        self._length = 0

    def take(self, place: int, piece: bytes) -> Iterator[Record]:
        """The records that end in this piece, which follows on the one before. Raises Damaged."""
        if place != self._place + len(self._rest):
            raise Damaged("the log", f"a piece of it begins at {place}, not at {self._place + len(self._rest)}")
        self._rest += piece
        while self._rest:
            if self._place < self._dropped:
                self._pass(self._dropped - self._place)
            elif self._place % _PAGE == 0:
                if not self._page():
                    return
            else:
                if len(self._rest) < _LENGTH.size and not self._length:
                    return
                yield from self._gather()

    def _pass(self, length: int) -> bytes:
        passed, self._rest = self._rest[:length], self._rest[length:]
        self._place += len(passed)
        return passed

    def _page(self) -> bool:
        """The header of a page. False if more of it must come first."""
        if len(self._rest) < _SHORT:
            return False
        _, flags, _, address, left = _PAGE_HEADER.unpack_from(self._rest)
        length = _LONG if flags & _IS_LONG else _SHORT
        if len(self._rest) < length:
            return False
        if address != self._place:
            raise Damaged("the log", f"the page at {self._place} says that it is the one at {address}")
        self._pass(length)
        if flags & _OVERWRITTEN or not flags & _CONTINUED:
            self._length, self._record = 0, b""
        elif not self._length:  # of a record that began before the first place
            self._dropped = _after(self._place, left)
        return True

    def _gather(self) -> Iterator[Record]:
        if not self._length:
            (self._length,) = _LENGTH.unpack_from(self._rest)
            self._start = self._place
            if self._length < _HEADER:
                raise Damaged("the log", f"there is no record at {self._place}")
        here = min(self._length - len(self._record), _PAGE - self._place % _PAGE)
        self._record += self._pass(here)
        if len(self._record) == self._length:
            self._dropped = -(-self._place // _ALIGNED) * _ALIGNED
            content = self._record
            self._length, self._record = 0, b""
            _, _, _, kind, manager = _RECORD.unpack_from(content)
            if manager == _LOG and kind & 0xF0 == _SWITCH:
                self._dropped = -(-self._place // self._segment_bytes) * self._segment_bytes
            yield Record(self._start, self._place, _time(kind, content) if manager == _TRANSACTIONS else None)


def _after(place: int, length: int) -> int:
    """Where a stretch of so many bytes of records ends, with the headers of the pages between."""
    at = place
    while length:
        here = min(length, _PAGE - at % _PAGE)
        at, length = at + here, length - here
        if length:
            at += _SHORT
    return -(-at // _ALIGNED) * _ALIGNED


def _time(kind: int, content: bytes) -> int | None:
    """When a transaction was committed or rolled back."""
    at = _HEADER
    while kind & 0x70 in _ENDS and at < len(content):
        what = content[at]
        if what in (_DATA, _LONG_DATA):
            main = at + (2 if what == _DATA else 5)
            return int.from_bytes(content[main : main + 8], "little", signed=True) + EPOCH
        if what not in (_ORIGIN, _TOP):
            return None
        at += 3 if what == _ORIGIN else 5
    return None
