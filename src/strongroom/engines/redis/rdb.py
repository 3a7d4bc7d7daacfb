"""Where does each key's value lie in an RDB file? Values are not decoded: their bytes are those of a DUMP payload. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from strongroom.engines.redis.crc64 import crc64
from strongroom.errors import Unreadable

Buffer = bytes | memoryview

STRING, HASH, MODULE, HASH_ZIPLIST, HASH_LISTPACK, HASH_EXPIRES, HASH_LISTPACK_EXPIRES = 0, 4, 7, 13, 16, 24, 25
_ONE_STRING = frozenset({0, 9, 10, 11, 12, 13, 16, 17, 20})
_STREAMS = (15, 19, 21)
_AUX, _RESIZE, _MILLISECONDS, _SECONDS, _DATABASE, _END = 0xFA, 0xFB, 0xFC, 0xFD, 0xFE, 0xFF
_FREQUENCY, _IDLE, _MODULE_AUX, _FUNCTION, _SLOT = 0xF9, 0xF8, 0xF7, 0xF5, 0xF4


@dataclass(frozen=True, slots=True)
class Entry:
    """A key: `expires` in milliseconds since 1970 (-1: never); its value of this kind lies at [start, end)."""

    database: int
    key: bytes
    expires: int
    kind: int
    start: int
    end: int


class Cursor:
    """Reads the encodings that RDB files are made of. Raises Unreadable where there is none that it knows."""

    def __init__(self, buffer: Buffer, at: int = 0) -> None:
        self.buffer = memoryview(buffer)
        self.at = at

    def byte(self) -> int:
        self.at += 1
        return self.buffer[self.at - 1]

    def take(self, count: int) -> bytes:
        if self.at + count > len(self.buffer):
            raise Unreadable("Redis sent an RDB that ends too early")
        self.at += count
        return bytes(self.buffer[self.at - count : self.at])

    def length(self) -> int:
        value, encoded = self._length()
        if encoded:
            raise Unreadable("Redis sent an RDB of an unknown form", hint="upgrade Strongroom")
        return value

    def _length(self) -> tuple[int, bool]:
        first = self.buffer[self.at]
        self.at += 1
        kind = first >> 6
        if kind == 0:
            return first & 63, False
        if kind == 1:
            return (first & 63) << 8 | self.byte(), False
        if kind == 3:
            return first & 63, True
        return int.from_bytes(self.take(4 if first == 0x80 else 8), "big"), False

    def string(self) -> bytes:
        value, encoded = self._length()
        if not encoded:
            return self.take(value)
        if value < 3:
            return str(int.from_bytes(self.take(1 << value), "little", signed=True)).encode()
        compressed, size = self.length(), self.length()
        return lzf(self.take(compressed), size)

    def skip_string(self) -> None:
        value, encoded = self._length()
        if not encoded:
            self.at += value
        elif value < 3:
            self.at += 1 << value
        else:
            compressed = self.length()
            self.length()
            self.at += compressed

    def module(self) -> Iterator[int | bytes]:
        """What a module saved, up to its end; floating point as bytes."""
        while opcode := self.length():
            if opcode in (1, 2):
                yield self.length()
            elif opcode in (3, 4):
                yield self.take(4 if opcode == 3 else 8)
            elif opcode == 5:
                yield self.string()
            else:
                raise Unreadable("Redis sent a module's value of an unknown form", hint="upgrade Strongroom")

    def skip_module(self) -> None:
        while opcode := self.length():
            if opcode in (1, 2):
                self.length()
            elif opcode == 5:
                self.skip_string()
            else:
                self.at += 4 if opcode == 3 else 8

    def skip_value(self, kind: int) -> None:
        """Go past a value of this type."""
        if kind in _ONE_STRING:
            self.skip_string()
        elif kind in (1, 2, 4, 14):
            self._strings(self.length() * (2 if kind == 4 else 1))
        elif kind in (3, 5):
            for _ in range(self.length()):
                self.skip_string()
                width = 8 if kind == 5 else self._old_double()
                self.at += width
        elif kind == MODULE:
            self.length()
            self.skip_module()
        elif kind == 18:
            for _ in range(self.length()):
                self.length()
                self.skip_string()
        elif kind in _STREAMS:
            self._skip_stream(kind)
        elif kind in (HASH_EXPIRES, HASH_LISTPACK_EXPIRES):
            self._skip_expiring(kind)
        else:
            raise Unreadable(f"Redis sent a value of an unknown kind ({kind})", hint="upgrade Strongroom")

    def _strings(self, count: int) -> None:
        for _ in range(count):
            self.skip_string()

    def _old_double(self) -> int:
        size = self.byte()
        return 0 if size > 252 else size

    def _skip_expiring(self, kind: int) -> None:
        self.at += 8
        if kind == HASH_LISTPACK_EXPIRES:
            self.skip_string()
            return
        for _ in range(self.length()):
            self.length()
            self._strings(2)

    def _skip_stream(self, kind: int) -> None:
        self._strings(2 * self.length())
        for _ in range(3 if kind == 15 else 8):
            self.length()
        for _ in range(self.length()):
            self.skip_string()
            for _ in range(2 if kind == 15 else 3):
                self.length()
            for _ in range(self.length()):
                self.at += 24
                self.length()
            for _ in range(self.length()):
                self.skip_string()
                self.at += 16 if kind == 21 else 8
                pending = self.length()
                self.at += 16 * pending


def version_of(buffer: Buffer) -> int:
    """The version of an RDB file. Raises Unreadable if it is none."""
    head = bytes(buffer[:9])
    if head[:5] != b"REDIS" or not head[5:].isdigit():
        raise Unreadable("Redis sent something that is no RDB")
    return int(head[5:])


def entries(buffer: Buffer) -> Iterator[Entry]:
    """All keys of an RDB file, in its order. Raises Unreadable if it is torn, altered, or holds what isn't known."""
    version_of(buffer)
    cursor, database, expires = Cursor(buffer, 9), 0, -1
    try:
        while (opcode := cursor.byte()) != _END:
            if opcode == _DATABASE:
                database = cursor.length()
            elif opcode == _MILLISECONDS:
                expires = int.from_bytes(cursor.take(8), "little", signed=True)
            elif opcode == _SECONDS:
                expires = int.from_bytes(cursor.take(4), "little", signed=True) * 1000
            elif opcode >= _SLOT:
                _skip_note(cursor, opcode)
            else:
                key = cursor.string()
                start = cursor.at
                cursor.skip_value(opcode)
                yield Entry(database, key, expires, opcode, start, cursor.at)
                expires = -1
    except IndexError as error:
        raise Unreadable("Redis sent an RDB that ends too early") from error
    said = int.from_bytes(cursor.take(8), "little")
    if said and said != crc64(memoryview(buffer)[: cursor.at - 8]):
        raise Unreadable("the RDB that Redis sent doesn't fit its own checksum", hint="try again; if it stays, check its memory")


def _skip_note(cursor: Cursor, opcode: int) -> None:
    if opcode == _AUX:
        cursor.skip_string()
        cursor.skip_string()
    elif opcode == _RESIZE:
        cursor.length()
        cursor.length()
    elif opcode == _FREQUENCY:
        cursor.byte()
    elif opcode == _IDLE:
        cursor.length()
    elif opcode == _MODULE_AUX:
        for _ in range(3):
            cursor.length()
        cursor.skip_module()
    elif opcode == _FUNCTION:
        cursor.skip_string()
    elif opcode == _SLOT:
        for _ in range(3):
            cursor.length()
    else:
        raise Unreadable(f"Redis sent an RDB with an unknown part ({opcode})", hint="upgrade Strongroom")


def lzf(content: bytes, size: int) -> bytes:
    """Decompress LZF."""
    out = bytearray()
    at = 0
    while at < len(content):
        control = content[at]
        at += 1
        if control < 32:
            out += content[at : at + control + 1]
            at += control + 1
            continue
        length = control >> 5
        if length == 7:
            length += content[at]
            at += 1
        start = len(out) - ((control & 31) << 8) - content[at] - 1
        at += 1
        length += 2
        if start < 0:
            raise Unreadable("Redis sent a compressed value that can't be read")
        if start + length <= len(out):
            out += out[start : start + length]
        else:
            for place in range(start, start + length):
                out.append(out[place])
    if len(out) != size:
        raise Unreadable("Redis sent a compressed value that can't be read")
    return bytes(out)
