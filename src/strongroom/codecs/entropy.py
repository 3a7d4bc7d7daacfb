"""How are bytes squeezed by zstd, and unpacked again without believing what their header says?

Two settings. `TEXT` is zstd level 3. `PLANE` is zstd as an entropy coder: the match finder is kept so small (6 bits of hash,
matches of 7 bytes and more) that it costs next to nothing and finds runs only. `target_length=0` keeps literals Huffman-coded
(from 1 on, which is what negative levels are, they are stored as they are), and a window of 128 KiB keeps blocks at their full size
(with the smallest window the exponents of real vectors came to 0.370 of their size at 1.0 GB/s of vectors, so to 0.334 at 4.1).
"""

from __future__ import annotations

import threading
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt
import zstandard

from strongroom.codecs.errors import CodecError
from strongroom.model import Bytes

Octets = npt.NDArray[np.uint8]

Numbers = npt.NDArray[Any]

_WORTHWHILE = 0.97
"""What a sample must shrink to before the whole is compressed: less is not worth the time that reading it takes."""

_MOST_GROWTH = (128 << 10) // 4
"""A block of at most 128 KiB takes at least 4 bytes, so no honest frame gets longer than by this factor."""


class Setting(Enum):
    TEXT = "text"
    PLANE = "plane"

    def parameters(self) -> Any:
        """The zstd parameters. Frames carry their length and no checksum: blobs are authenticated and hashed as a whole."""
        marks = {"write_content_size": True, "write_checksum": False, "write_dict_id": False}
        if self is Setting.TEXT:
            return zstandard.ZstdCompressionParameters.from_level(3, **marks)
        return zstandard.ZstdCompressionParameters(
            strategy=zstandard.STRATEGY_FAST, min_match=7, hash_log=6, target_length=0, window_log=17, **marks
        )


class _Contexts(threading.local):
    """One compressor a setting and one decompressor for each thread: they are not safe to share, and cost 16 µs to make."""

    def __init__(self) -> None:
        self.compressors = {s: zstandard.ZstdCompressor(compression_params=s.parameters()) for s in Setting}
        self.decompressor = zstandard.ZstdDecompressor()


_contexts = _Contexts()


def compress(data: Octets, setting: Setting) -> bytes:
    """One zstd frame. Its inverse is `decompress` with the length of `data`."""
    compressed: bytes = _contexts.compressors[setting].compress(data.data)
    return compressed


def decompress(frame: Bytes, length: int) -> bytes:
    """The `length` bytes of one zstd frame. Raises CodecError if it holds fewer or more; never allocates for more."""
    try:
        claimed: int = zstandard.frame_content_size(frame)
        if claimed != length or length > len(frame) * _MOST_GROWTH:
            raise CodecError(f"a zstd frame of {len(frame)} bytes promises {claimed} where {length} belong")
        plain: bytes = _contexts.decompressor.decompress(frame, max_output_size=length, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CodecError(f"a zstd frame is broken ({error})") from error
    if len(plain) != length:
        raise CodecError(f"a zstd frame holds {len(plain)} bytes where {length} belong")
    return plain


def sample(data: Numbers, slices: int = 8, slice_length: int = 2048) -> Numbers:
    """Evenly spread slices of `data`, each from a multiple of 64 on, joined; all of it if that is hardly more."""
    if len(data) <= 2 * slices * slice_length:
        return data
    step = len(data) // slices & ~63
    return np.ascontiguousarray(data[: slices * step].reshape(slices, step)[:, :slice_length]).reshape(-1)


def shrinks(part: Octets) -> bool:
    """Whether `PLANE` makes a sample worthwhile smaller."""
    return len(compress(part, Setting.PLANE)) <= _WORTHWHILE * len(part)
