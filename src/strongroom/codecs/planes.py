"""How are numbers stored so that their predictable bytes lie together and shrink?

Words of 2, 4 or 8 bytes are split into byte planes: all lowest bytes, all second bytes, and so on. Of floats the top 16 bits are
rotated left by one bit first, so that the highest plane is the whole exponent (of float16 the exponent and three bits) and
the sign joins the mantissa. The lower bits stay where they are, so that what was float16 or bfloat16 once has empty planes.
Planes that don't shrink are stored raw. All is unsigned integers: every bit pattern comes back.

    payload   width u8, rotated u8, head u8, width x (method u8, stored length u64), head, tail, planes from the lowest
    method    0 raw, 1 one zstd frame
    head      the bytes before the first word, fewer than width        tail    the bytes after the last whole word
    all little-endian

Fresh pages cost more than the arithmetic (2,400 page faults, 3 ms, a blob of 6 MB): words are split into room that the thread
keeps, and joined straight into the result.
"""

from __future__ import annotations

import io
import struct
import threading
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

_SCRATCH_BYTES = 16 << 20
"""How much a thread keeps at most to split the next blob in."""

_HEADER = struct.Struct("<BBB")
_ENTRY = struct.Struct("<BQ")
_RAW, _ZSTD = range(2)
_UNSIGNED: Mapping[int, np.dtype[Any]] = {2: np.dtype("<u2"), 4: np.dtype("<u4"), 8: np.dtype("<u8")}


@dataclass(frozen=True, slots=True)
class Layout:
    """How bytes are cut into words: of `width` bytes, the first at `head` (less than `width`), floats `rotated`."""

    width: int
    rotated: bool
    head: int = 0


def encode(data: Octets, layout: Layout) -> bytes | None:
    """The payload of `data` cut by `layout`, or None if a sample says that no plane shrinks. Any length; where the sample was wrong
    the payload may come out a few bytes longer than `data`."""
    count = max(0, len(data) - layout.head) // layout.width
    words = _words(data, layout, count)
    shrinking = [shrinks(plane) for plane in _planes_of(sample(words), layout)]
    if not any(shrinking):
        return None
    coded = [_encode_plane(*each) for each in zip(_planes_of(words, layout), shrinking, strict=True)]
    header = _HEADER.pack(layout.width, layout.rotated, layout.head)
    directory = [_ENTRY.pack(method, len(stored)) for method, stored in coded]
    edges = data[: layout.head].data, data[layout.head + words.nbytes :].data
    return b"".join([header, *directory, *edges, *(stored for _, stored in coded)])


def decode(payload: Bytes, length: int) -> bytes:
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
    planes = []
    for method, stored in entries:
        planes.append(_decode_plane(method, view[begin : begin + stored], count))
        begin += stored
    file = io.BytesIO(bytes(length))  # its buffer becomes the result without a copy
    file.write(edges[: layout.head])
    join(planes, _words(file.getbuffer(), layout, count), layout.rotated)
    file.seek(length - tail)
    file.write(edges[layout.head :])
    return file.getvalue()


def split(words: Words, planes: Sequence[Octets], rotated: bool) -> None:
    """Fill `planes`, lowest first and each as long as `words`; the top 16 bits `rotated` left by one if asked."""
    for piece in _pieces(len(words), words.itemsize):
        _split_piece(words[piece], [plane[piece] for plane in planes], rotated)


def join(planes: Sequence[Octets], words: Words, rotated: bool) -> None:
    """Fill `words`: the inverse of `split`."""
    for piece in _pieces(len(words), words.itemsize):
        _join_piece([plane[piece] for plane in planes], words[piece], rotated)


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
        np.multiply(half.astype(words.dtype), 1 << 8 * middle, out=words)
        _join_piece(planes[:middle], half, rotated=False)
        words |= half.astype(words.dtype)
        return
    np.multiply(planes[1].astype(words.dtype), 256, out=words)
    words |= planes[0].astype(words.dtype)
    if rotated:
        sign = words * 0x8000
        words >>= 1
        words |= sign


def _words(buffer: Bytes | memoryview | Octets, layout: Layout, count: int) -> Words:
    """The `count` words of a buffer, in place; those of an empty or too short one are no words."""
    dtype = _UNSIGNED[layout.width]
    return np.frombuffer(buffer, dtype, count, layout.head) if count else np.empty(0, dtype)


class _Scratch(threading.local):
    """Room for the planes of one blob for each thread, used again, so that its pages need not be made again."""

    def __init__(self) -> None:
        self.room: Octets = np.empty(0, np.uint8)

    def planes(self, width: int, count: int) -> list[Octets]:
        """`width` planes of `count` bytes, valid until the thread's next call; too large ones are fresh, not kept."""
        size = width * count
        if size > _SCRATCH_BYTES:
            return list(np.empty((width, count), np.uint8))
        if size > len(self.room):
            self.room = np.empty(size, np.uint8)
        return list(self.room[:size].reshape(width, count))


_scratch = _Scratch()


def _planes_of(words: Words, layout: Layout) -> list[Octets]:
    """The planes of `words`, valid until the thread's next call."""
    planes = _scratch.planes(layout.width, len(words))
    split(words, planes, layout.rotated)
    return planes


def _encode_plane(plane: Octets, shrinking: bool) -> tuple[int, Bytes]:
    return (_ZSTD, compress(plane, Setting.PLANE)) if shrinking else (_RAW, plane.data)


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
