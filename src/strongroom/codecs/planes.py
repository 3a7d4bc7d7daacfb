"""How are numbers stored so that their predictable bytes lie together and shrink?

Words of 2, 4 or 8 bytes are split into byte planes: all lowest bytes, all second bytes, and so on. Of floats the top 16 bits are
rotated left by one bit first, so that the highest plane is the whole exponent (of float16 the exponent and three bits) and
the sign joins the mantissa. The lower bits stay where they are, so that what was float16 or bfloat16 once has empty planes.
Planes that don't shrink are stored raw, the two lowest of longer words side by side. All is unsigned integers: every bit
pattern comes back.

    payload   width u8, rotated u8, head u8, width x (method u8, stored length u64), head, tail, planes from the lowest
    method    0 raw, 1 one zstd frame, 2 raw, the two lowest planes side by side: the second has this method too, and length 0
    head      the bytes before the first word, fewer than width        tail    the bytes after the last whole word
    all little-endian

Copies cost as much as arithmetic, and fresh pages more: words are split straight into the payload and joined straight into the
result.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from strongroom.codecs.entropy import Octets, Setting, compress, decompress, sample, shrinks
from strongroom.codecs.errors import CodecError
from strongroom.model import Bytes

Words = npt.NDArray[Any]

_CHUNK_BYTES = 1 << 18
"""Words are split and joined in pieces that, with their planes, stay in a core's L2 cache."""

_ALIGNMENT = 16
"""Of the planes within a payload: numpy is slow with words that aren't."""

_HEADER = struct.Struct("<BBB")
_ENTRY = struct.Struct("<BQ")
_RAW, _ZSTD, _PAIR = range(3)
_UNSIGNED: Mapping[int, np.dtype[Any]] = {2: np.dtype("<u2"), 4: np.dtype("<u4"), 8: np.dtype("<u8")}


@dataclass(frozen=True, slots=True)
class Layout:
    """How bytes are cut into words: of `width` bytes, the first at `head` (less than `width`), floats `rotated`."""

    width: int
    rotated: bool
    head: int = 0


def encode(data: Octets, layout: Layout) -> Bytes | None:
    """The payload of `data` cut by `layout`, or None if a sample says that no plane shrinks. Any length; where the sample was wrong
    the payload may come out a few bytes longer than `data`."""
    count = max(0, len(data) - layout.head) // layout.width
    words = _words(data, layout, count)
    shrinking = _shrinking(sample(words), layout)
    if not any(shrinking):
        return None
    paired = layout.width > 2 and not any(shrinking[:2])
    edges = bytes(data[: layout.head]) + bytes(data[layout.head + words.nbytes :])
    front = _HEADER.size + layout.width * _ENTRY.size + len(edges)
    shift = -front % _ALIGNMENT
    room = np.empty(shift + front + words.nbytes, np.uint8)[shift:]
    parts = _parts(room[front:], layout.width, count, paired)
    split(words, parts, layout.rotated)
    entries = _compact(room[front:], parts, shrinking[paired:])
    header = _HEADER.pack(layout.width, layout.rotated, layout.head) + b"".join(_ENTRY.pack(*entry) for entry in entries)
    room[:front] = np.frombuffer(header + edges, np.uint8)
    return room[: front + sum(stored for _, stored in entries)].data


def decode(payload: Bytes, length: int) -> Bytes:
    """The `length` bytes that were encoded. Raises CodecError if the payload is malformed or holds another number of bytes."""
    view = memoryview(payload).cast("B")
    layout, entries = _read_header(view)
    if layout.head > length:
        raise CodecError("the head of a plane payload is longer than the whole")
    count, tail = divmod(length - layout.head, layout.width)
    begin = _HEADER.size + layout.width * _ENTRY.size
    edges, begin = view[begin : begin + layout.head + tail], begin + layout.head + tail
    if begin + sum(stored for _, stored in entries) != len(view):
        raise CodecError("the planes of a payload don't add up to its length")
    parts = _read_parts(view[begin:], entries, count)
    result = np.empty(length, np.uint8)
    result.data[: layout.head] = edges[: layout.head]
    join(parts, _words(result, layout, count), layout.rotated)
    result.data[length - tail :] = edges[layout.head :]
    return result.data


def split(words: Words, parts: Sequence[Words], rotated: bool) -> None:
    """Fill `parts`, lowest first and each as long as `words`: a plane each, but a first one of 16 bits takes two. The top 16 bits
    are `rotated` left by one if asked."""
    for piece in _pieces(len(words), words.itemsize):
        _split_piece(words[piece], [part[piece] for part in parts], rotated)


def join(parts: Sequence[Words], words: Words, rotated: bool) -> None:
    """Fill `words`: the inverse of `split`."""
    for piece in _pieces(len(words), words.itemsize):
        _join_piece([np.require(part[piece], requirements="A") for part in parts], words[piece], rotated)


def _pieces(count: int, width: int) -> Iterator[slice]:
    step = _CHUNK_BYTES // width
    return (slice(start, start + step) for start in range(0, count, step))


def _halves(parts: Sequence[Words], middle: int) -> tuple[Sequence[Words], Sequence[Words]]:
    """The parts of the lowest `middle` bytes of a word, and those above."""
    cut = middle if parts[0].itemsize == 1 else middle - 1
    return parts[:cut], parts[cut:]


def _split_piece(words: Words, parts: Sequence[Words], rotated: bool) -> None:
    if len(parts) == 1:
        np.copyto(parts[0], words, casting="unsafe")
        return
    if words.itemsize > 2:
        middle = words.itemsize // 2
        half = _UNSIGNED[middle]
        low, high = _halves(parts, middle)
        _split_piece(words if len(low) == 1 else words.astype(half), low, rotated=False)
        _split_piece((words >> 8 * middle).astype(half), high, rotated)
        return
    if rotated:
        words = words + words | words >> 15  # a sum, as numpy shifts left at half the speed
    np.copyto(parts[1], words >> 8, casting="unsafe")
    np.copyto(parts[0], words, casting="unsafe")


def _join_piece(parts: Sequence[Words], words: Words, rotated: bool) -> None:
    if len(parts) == 1:
        np.copyto(words, parts[0])
        return
    if words.itemsize > 2:
        middle = words.itemsize // 2
        half: Words = np.empty(len(words), _UNSIGNED[middle])
        low, high = _halves(parts, middle)
        _join_piece(high, half, rotated)
        np.multiply(half, words.dtype.type(1 << 8 * middle), out=words)
        _join_piece(low, half, rotated=False)
        words |= half
        return
    np.multiply(parts[1], words.dtype.type(256), out=words)
    words |= parts[0]
    if rotated:
        sign = words * words.dtype.type(0x8000)
        words >>= 1
        words |= sign


def _words(buffer: Bytes | memoryview | Octets, layout: Layout, count: int) -> Words:
    """The `count` words of a buffer, in place; those of an empty or too short one are no words."""
    dtype = _UNSIGNED[layout.width]
    return np.frombuffer(buffer, dtype, count, layout.head) if count else np.empty(0, dtype)


def _shrinking(words: Words, layout: Layout) -> list[bool]:
    """Which planes of these words shrink."""
    planes = _parts(np.empty(words.nbytes, np.uint8), layout.width, len(words), paired=False)
    split(words, planes, layout.rotated)
    return [shrinks(plane) for plane in planes]


def _parts(room: Octets, width: int, count: int, paired: bool) -> list[Words]:
    """Room for the planes of `count` words, one after another; the two lowest share one part if `paired`."""
    pair: list[Words] = [room[: 2 * count].view(_UNSIGNED[2])] if paired else []
    return [*pair, *(room[plane * count : (plane + 1) * count] for plane in range(2 * paired, width))]


def _compact(room: Octets, parts: Sequence[Words], shrinking: Sequence[bool]) -> list[tuple[int, int]]:
    """Compress the parts, which lie in `room`, that are `shrinking`, and close the gaps. Gives the entry of each plane."""
    entries: list[tuple[int, int]] = []
    begin = end = 0
    for part, is_shrinking in zip(parts, shrinking, strict=True):
        content: Bytes = compress(part, Setting.PLANE) if is_shrinking else b""
        if content and len(content) < part.nbytes:
            entries.append((_ZSTD, len(content)))
            room[end : end + len(content)] = np.frombuffer(content, np.uint8)
        else:
            entries += [(_RAW, part.nbytes)] if part.itemsize == 1 else [(_PAIR, part.nbytes), (_PAIR, 0)]
            if begin > end:
                room[end : end + part.nbytes] = room[begin : begin + part.nbytes]
        begin, end = begin + part.nbytes, end + entries[-1][1] + (entries[-1] == (_PAIR, 0)) * part.nbytes
    return entries


def _read_parts(view: memoryview, entries: Sequence[tuple[int, int]], count: int) -> list[Words]:
    """What `split` made, by the entries of the planes."""
    parts: list[Words] = []
    begin = 0
    paired = entries[0][0] == _PAIR and len(entries) > 2
    if paired:
        if entries[:2] != [(_PAIR, 2 * count), (_PAIR, 0)]:
            raise CodecError(f"two planes of {count} words side by side have entries {entries[:2]}")
        parts.append(np.frombuffer(view[: 2 * count], _UNSIGNED[2]))
        begin = 2 * count
    for method, stored in entries[2 * paired :]:
        parts.append(_decode_plane(method, view[begin : begin + stored], count))
        begin += stored
    return parts


def _decode_plane(method: int, stored: memoryview, count: int) -> Octets:
    if method == _RAW and len(stored) == count:
        return np.frombuffer(stored, np.uint8)
    if method == _ZSTD:
        return np.frombuffer(decompress(stored, count), np.uint8)
    raise CodecError(f"a plane has method {method} and {len(stored)} bytes for {count} words")


def _read_header(view: memoryview) -> tuple[Layout, list[tuple[int, int]]]:
    """The layout, and of each plane its method and stored length."""
    if len(view) < _HEADER.size:
        raise CodecError("a plane payload is shorter than its header")
    width, rotated, head = _HEADER.unpack_from(view)
    if width not in _UNSIGNED or rotated > 1 or head >= width:
        raise CodecError(f"no such plane layout: width {width}, rotated {rotated}, head {head}")
    end = _HEADER.size + width * _ENTRY.size
    if len(view) < end:
        raise CodecError("a plane payload ends within its header")
    return Layout(width, bool(rotated), head), list(_ENTRY.iter_unpack(view[_HEADER.size : end]))
