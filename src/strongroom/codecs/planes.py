"""How are numbers stored so that their predictable bytes lie together and shrink?

Words of 2, 4 or 8 bytes are split into byte planes: all lowest bytes, all second bytes, and so on. Of floats the top 16 bits are
rotated left by one bit first, so that the highest plane is the whole exponent (of float16 the exponent and three bits) and
the sign joins the mantissa. The lower bits stay where they are, so that what was float16 or bfloat16 once has empty planes.
Planes that don't shrink are stored raw, planes of one value as that value. All is unsigned integers: every bit pattern comes back.

    payload   width u8, rotated u8, head u8, width x (method u8, stored length u64), head, tail, planes from lowest to highest
    head      the bytes before the first word, fewer than width; tail: the bytes after the last whole word
    method    0 raw, 1 one zstd frame, 2 constant (one byte)                                        all little-endian
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from strongroom.codecs.entropy import Octets, Setting, compress, decompress, shrinks
from strongroom.codecs.errors import CodecError
from strongroom.model import Bytes

Words = npt.NDArray[Any]

_CHUNK_BYTES = 1 << 18
"""Words are split and joined in pieces that, with their planes, stay in a core's L2 cache."""

_HEADER = struct.Struct("<BBB")
_PLANE = struct.Struct("<BQ")
_RAW, _ZSTD, _CONSTANT = range(3)
_UNSIGNED: Mapping[int, np.dtype[Any]] = {2: np.dtype("<u2"), 4: np.dtype("<u4"), 8: np.dtype("<u8")}


@dataclass(frozen=True, slots=True)
class Layout:
    """How bytes are cut into words: of `width` bytes, the first at `head` (less than `width`), floats `rotated`."""

    width: int
    rotated: bool
    head: int = 0


def encode(data: Bytes | Octets, layout: Layout) -> bytes:
    """The payload of `data` cut by `layout`. Any length; may come out a few bytes longer than `data`."""
    octets = np.frombuffer(data, np.uint8)
    head = min(layout.head, len(octets))
    count = (len(octets) - head) // layout.width
    end = head + count * layout.width
    planes = split(octets[head:end].view(_UNSIGNED[layout.width]), layout.rotated)
    coded = [_encode_plane(plane) for plane in planes]
    directory = [_PLANE.pack(method, len(stored)) for method, stored in coded]
    opening = _HEADER.pack(layout.width, layout.rotated, head)
    return b"".join([opening, *directory, octets[:head].data, octets[end:].data, *(stored for _, stored in coded)])


def decode(payload: Bytes, length: int) -> bytes:
    """The `length` bytes that were encoded. Raises CodecError if the payload is malformed or holds another number of bytes."""
    view = memoryview(payload)
    layout, entries = _read_header(view)
    if layout.head > length:
        raise CodecError("the head of a plane payload is longer than the whole")
    count, tail = divmod(length - layout.head, layout.width)
    begin = _HEADER.size + layout.width * _PLANE.size
    edges, begin = view[begin : begin + layout.head + tail], begin + layout.head + tail
    if begin + sum(stored for _, stored in entries) != len(view):
        raise CodecError("the planes of a payload don't add up to its length")
    planes = []
    for method, stored in entries:
        planes.append(_decode_plane(method, view[begin : begin + stored], count))
        begin += stored
    return b"".join([edges[: layout.head], join(planes, layout.rotated).data, edges[layout.head :]])


def split(words: Words, rotated: bool) -> list[Octets]:
    """The byte planes of `words`, lowest first, each as long as `words`; the top 16 bits `rotated` left by one if asked."""
    planes = [np.empty(len(words), np.uint8) for _ in range(words.itemsize)]
    for piece in _pieces(len(words), words.itemsize):
        _split_piece(words[piece], [plane[piece] for plane in planes], rotated)
    return planes


def join(planes: Sequence[Octets], rotated: bool) -> Words:
    """The inverse of `split`."""
    words: Words = np.empty(len(planes[0]), _UNSIGNED[len(planes)])
    for piece in _pieces(len(words), len(planes)):
        _join_piece([plane[piece] for plane in planes], words[piece], rotated)
    return words


def _pieces(count: int, width: int) -> Iterator[slice]:
    step = _CHUNK_BYTES // width
    return (slice(start, start + step) for start in range(0, count, step))


def _split_piece(words: Words, planes: Sequence[Octets], rotated: bool) -> None:
    if words.itemsize > 2:
        middle = words.itemsize // 2
        half = _UNSIGNED[middle]
        _split_piece(words.astype(half), planes[:middle], rotated=False)
        _split_piece((words >> 8 * middle).astype(half), planes[middle:], rotated)
        return
    if rotated:
        words = words + words | words >> 15  # a sum, as numpy shifts left at half the speed
    np.right_shift(words, 8, out=planes[1], casting="unsafe")
    np.copyto(planes[0], words, casting="unsafe")


def _join_piece(planes: Sequence[Octets], words: Words, rotated: bool) -> None:
    if words.itemsize > 2:
        middle = words.itemsize // 2
        half: Words = np.empty(len(words), _UNSIGNED[middle])
        _join_piece(planes[middle:], half, rotated)
        np.copyto(words, half)
        _join_piece(planes[:middle], half, rotated=False)
        words *= 1 << 8 * middle
        words |= half
        return
    np.copyto(words, planes[1])
    words *= 256
    words |= planes[0]
    if rotated:
        sign = words * 0x8000
        words >>= 1
        words |= sign


def _encode_plane(plane: Octets) -> tuple[int, Bytes]:
    if not len(plane) or not shrinks(plane):
        return _RAW, plane.data
    if (plane == plane[0]).all():
        return _CONSTANT, plane[:1].data
    frame = compress(plane, Setting.PLANE)
    return (_ZSTD, frame) if len(frame) < len(plane) else (_RAW, plane.data)


def _decode_plane(method: int, stored: memoryview, count: int) -> Octets:
    if method == _RAW and len(stored) == count:
        return np.frombuffer(stored, np.uint8)
    if method == _CONSTANT and len(stored) == 1:
        return np.broadcast_to(np.frombuffer(stored, np.uint8), count)
    if method == _ZSTD:
        return np.frombuffer(decompress(stored, count), np.uint8)
    raise CodecError(f"a plane has method {method} and {len(stored)} bytes for {count} words")


def _read_header(view: memoryview) -> tuple[Layout, list[tuple[int, int]]]:
    """The layout, and of each plane the method and stored length."""
    if len(view) < _HEADER.size:
        raise CodecError("a plane payload is shorter than its header")
    width, rotated, head = _HEADER.unpack_from(view)
    if width not in _UNSIGNED or rotated > 1 or head >= width:
        raise CodecError(f"no such plane layout: width {width}, rotated {rotated}, head {head}")
    end = _HEADER.size + width * _PLANE.size
    if len(view) < end:
        raise CodecError("a plane payload ends within its header")
    return Layout(width, bool(rotated), head), list(_PLANE.iter_unpack(view[_HEADER.size : end]))
