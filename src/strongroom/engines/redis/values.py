"""What does the value of a key hold? Hashes, JSON documents and vector sets from the bytes of a DUMP payload. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from strongroom.engines.redis.rdb import (
    HASH,
    HASH_EXPIRES,
    HASH_LISTPACK,
    HASH_LISTPACK_EXPIRES,
    MODULE,
    Buffer,
    Cursor,
)
from strongroom.errors import Unreadable

JSON, VECTOR_SET = "ReJSON-RL", "vectorset"
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def is_hash(kind: int) -> bool:
    return kind in (HASH, HASH_LISTPACK, HASH_EXPIRES, HASH_LISTPACK_EXPIRES)


def module_of(payload: Buffer) -> str:
    """The module type of a value, '' if it is none of a module's."""
    if payload[0] != MODULE:
        return ""
    number = Cursor(payload, 1).length()
    return "".join(_LETTERS[number >> (64 - 6 * place) & 63] for place in range(1, 10))


def hash_of(payload: Buffer) -> dict[bytes, bytes]:
    """The fields of a hash. Raises Unreadable for other kinds."""
    cursor = Cursor(payload, 1)
    kind = payload[0]
    if kind == HASH:
        return {cursor.string(): cursor.string() for _ in range(cursor.length())}
    if kind == HASH_EXPIRES:
        cursor.at += 8
        fields = {}
        for _ in range(cursor.length()):
            cursor.length()
            name = cursor.string()
            fields[name] = cursor.string()
        return fields
    if kind in (HASH_LISTPACK, HASH_LISTPACK_EXPIRES):
        cursor.at += 8 if kind == HASH_LISTPACK_EXPIRES else 0
        found = list(_listpack(cursor.string()))
        step = 3 if kind == HASH_LISTPACK_EXPIRES else 2
        return dict(zip(found[::step], found[1::step], strict=True))
    raise Unreadable(f"a hash of an unknown kind ({kind})", hint="upgrade Strongroom")


def json_of(payload: Buffer) -> str:
    """The text of a JSON document."""
    cursor = Cursor(payload, 1)
    cursor.length()
    found = next(cursor.module())
    if not isinstance(found, bytes):
        raise Unreadable("a JSON document of an unknown kind", hint="upgrade Strongroom")
    return found.decode()


@dataclass(frozen=True, slots=True)
class Element:
    """One element of a vector set: its vector as VEMB gives it, float32."""

    name: bytes
    vector: npt.NDArray[np.float32]
    attributes: bytes


@dataclass(frozen=True, slots=True)
class VectorSet:
    """A vector set: `quantization` is 'f32', 'int8' or 'bin'; `reduced_from` the dimension before a projection, 0 without one."""

    dimension: int
    count: int
    quantization: str
    connections: int
    reduced_from: int
    payload: Buffer

    def elements(self) -> Iterator[Element]:
        """All elements, in the order of the value."""
        cursor = Cursor(self.payload, 1)
        cursor.length()
        items = cursor.module()
        _, _, _, flags = (_number(next(items)) for _ in range(4))
        if flags & 1:
            _number(next(items))
            next(items)
        for _ in range(self.count):
            name = _bytes(next(items))
            attributes = _bytes(next(items)) if flags & 2 else b""
            code = _bytes(next(items))
            numbers = [_number(next(items)) for _ in range(_number(next(items)))]
            yield Element(name, self._vector(code, numbers[-1]), attributes)

    def _vector(self, code: bytes, lengths: int) -> npt.NDArray[np.float32]:
        """As vectorset's own code puts it together, in float32; `lengths` are the bits of the range (high) and length (low)."""
        length, bound = np.frombuffer(lengths.to_bytes(8, "little"), np.float32)
        if self.quantization == "f32":
            unit = np.frombuffer(code, np.float32)
        elif self.quantization == "int8":
            unit = np.frombuffer(code, np.int8).astype(np.float32) * bound / np.float32(127)
        else:
            bits = np.unpackbits(np.frombuffer(code, np.uint8), bitorder="little")[: self.dimension]
            return bits.astype(np.float32) * np.float32(2) - np.float32(1)
        found: npt.NDArray[np.float32] = (unit * length).astype(np.float32)
        return found


def vector_set_of(payload: Buffer) -> VectorSet:
    """The head of a vector set."""
    cursor = Cursor(payload, 1)
    cursor.length()
    items = cursor.module()
    dimension, count, config, flags = (_number(next(items)) for _ in range(4))
    quantization = {0: "f32", 1: "int8", 2: "bin"}[config & 255]
    reduced = _number(next(items)) if flags & 1 else 0
    return VectorSet(dimension, count, quantization, config >> 8 & 0xFFFF, reduced, payload)


def _number(item: Any) -> int:
    if not isinstance(item, int):
        raise Unreadable("a vector set of an unknown kind", hint="upgrade Strongroom")
    return item


def _bytes(item: Any) -> bytes:
    if not isinstance(item, bytes):
        raise Unreadable("a vector set of an unknown kind", hint="upgrade Strongroom")
    return item


def _listpack(content: bytes) -> Iterator[bytes]:
    """The entries of a listpack, numbers as their digits."""
    at = 6
    while content[at] != 0xFF:
        first = content[at]
        value: bytes | int
        if first < 0x80:
            value, size = first, 1
        elif first < 0xC0:
            size = 1 + (first & 63)
            value = content[at + 1 : at + size]
        elif first < 0xE0:
            value, size = _signed((first & 31) << 8 | content[at + 1], 13), 2
        elif first < 0xF0:
            size = 2 + ((first & 15) << 8 | content[at + 1])
            value = content[at + 2 : at + size]
        elif first == 0xF0:
            size = 5 + int.from_bytes(content[at + 1 : at + 5], "little")
            value = content[at + 5 : at + size]
        else:
            width = {0xF1: 2, 0xF2: 3, 0xF3: 4, 0xF4: 8}[first]
            value, size = int.from_bytes(content[at + 1 : at + 1 + width], "little", signed=True), 1 + width
        yield value if isinstance(value, bytes) else str(value).encode()
        at += size + next(count for count, most in enumerate((127, 16383, 2097151, 268435455, 1 << 62), 1) if size <= most)


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value
