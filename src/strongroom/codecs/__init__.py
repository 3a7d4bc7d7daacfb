"""How do bytes become fewer bytes, and the same bytes again? Pure functions, safe in any thread.

Compression is chosen per blob by what the bytes are, and what doesn't shrink is stored raw.

    >>> codec, payload = encode(vectors, "float32")
    >>> decode(codec, payload, len(vectors)) == vectors
    True
"""

from __future__ import annotations

import numpy as np

from strongroom.codecs import planes
from strongroom.codecs.entropy import Octets, Setting, compress, decompress, sample, shrinks
from strongroom.codecs.errors import CodecError
from strongroom.codecs.planes import Layout
from strongroom.model import Bytes

__all__ = ["KINDS", "PLANES", "RAW", "ZSTD", "CodecError", "decode", "encode", "has_numbers"]

RAW, ZSTD, PLANES = range(3)
"""Codec ids. They are part of the repository format: never change one, only add."""

_LAYOUTS = {
    "float32": Layout(4, rotated=True),
    "float16": Layout(2, rotated=True),
    "bfloat16": Layout(2, rotated=True),
    "int32": Layout(4, rotated=False),
    "int64": Layout(8, rotated=False),
}
_OCTET_KINDS = ("int8", "uint8")
KINDS = ("bytes", "text", *_LAYOUTS, *_OCTET_KINDS)
"""What bytes can be said to be: a vector dtype, 'int32' or 'int64' for links and ids, 'text' for what zstd does best, or 'bytes'
for anything: then samples tell."""

_GUESSES = (
    *(Layout(4, rotated=True, head=head) for head in range(4)),
    *(Layout(2, rotated=True, head=head) for head in range(2)),
    Layout(4, rotated=False),
    Layout(8, rotated=False),
)
"""What unnamed bytes may be. Without rotation another head would only give the planes another order."""

_GUESS_SLICES, _GUESS_SLICE_BYTES = 16, 4096
_GUESS_FROM_BYTES = 1 << 14
_CLEARLY_SMALLER = 0.95


def encode(data: Bytes, kind: str) -> tuple[int, Bytes]:
    """The codec id and the payload of `data`, never longer than `data`. `kind` is one of `KINDS` and a hint only: any bytes of any
    length come back from `decode` bit for bit. Deterministic. Raises ValueError if there is no such kind."""
    octets = np.frombuffer(data, np.uint8)
    if kind not in KINDS:
        raise ValueError(f"no such kind of bytes: {kind!r}")
    if not len(octets):
        return RAW, b""
    codec, payload = _squeeze(octets, kind)
    return (codec, payload) if payload is not None and len(payload) < len(octets) else (RAW, octets.data)


def has_numbers(data: Bytes) -> bool:
    """Whether a sample says that `data` shrinks best as numbers. If not, 'text' does as well as 'bytes' for any part of it, and
    spares the time of trying, which for pieces of 64 KiB is more than that of all else."""
    return _guess(np.frombuffer(data, np.uint8)) is not None


def decode(codec: int, payload: Bytes, length: int) -> Bytes:
    """The `length` bytes that `encode` was given. Raises CodecError if the codec is unknown or the payload malformed, truncated or
    of another length; never allocates for more than `length`. Whether they are the right bytes is for the blob's id to tell."""
    if codec == RAW:
        if len(payload) != length:
            raise CodecError(f"{len(payload)} raw bytes where {length} belong")
        return bytes(payload)
    if codec == ZSTD:
        return decompress(payload, length)
    if codec == PLANES:
        return planes.decode(payload, length)
    raise CodecError(f"unknown codec {codec}: written by a newer Strongroom?")


def _squeeze(octets: Octets, kind: str) -> tuple[int, Bytes | None]:
    """The codec for bytes of this kind, and their payload; None if a sample says that they don't shrink."""
    if kind in _OCTET_KINDS:
        return ZSTD, compress(octets, Setting.PLANE) if shrinks(sample(octets)) else None
    layout = _LAYOUTS[kind] if kind in _LAYOUTS else _guess(octets) if kind == "bytes" else None
    return (PLANES, planes.encode(octets, layout)) if layout else (ZSTD, compress(octets, Setting.TEXT))


def _guess(octets: Octets) -> Layout | None:
    """The layout by which a sample gets clearly smaller than by zstd level 3, if there is one."""
    if len(octets) < _GUESS_FROM_BYTES:
        return None
    part = sample(octets, _GUESS_SLICES, _GUESS_SLICE_BYTES)
    sizes = {layout: len(planes.encode(part, layout) or part) for layout in _GUESSES}
    best = min(sizes, key=sizes.__getitem__)
    limit = min(len(part), len(compress(part, Setting.TEXT)))
    return best if sizes[best] < _CLEARLY_SMALLER * limit else None
