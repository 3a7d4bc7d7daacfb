"""How is the next state of some bytes stored as what sets it apart from the last one, and made again from both?

    difference   length u32 | method u8 | payload                             all little-endian
    method 0     XOR: the codec u8 of `codecs`, and the payload of that codec: content XOR base, the base cut or padded with zeros
    method 1     patch: one zstd frame that was made with the base as its dictionary, as raw content

Links change in place: XOR leaves mostly zeros, and costs next to nothing. Pages and lists in which something was inserted are
shifted: zstd finds what is left of them wherever it lies. After 1 % of updates and 1 % of inserts,
as a share of what the changed regions take alone: links of hnswlib (50,000 x 384, M=16) 0.14 by either, Chroma's sqlite 0.32 by XOR
and 0.14 by patch, lists of IVFPQ 0.54 and more by XOR and 0.014 by patch.
"""

from __future__ import annotations

import struct

import numpy as np
import zstandard

from strongroom import codecs
from strongroom.codecs.errors import CodecError
from strongroom.model import Bytes

XOR, PATCH = range(2)
"""Methods. They are part of the repository format: never change one, only add."""

_HEADER = struct.Struct("<IB")
_LEAST = 1 << 10
"""Naming the base takes some 50 bytes in the manifest, and reading it takes a blob: shorter content isn't worth that."""

_WORTHWHILE = 0.8
"""What a difference must come to, as a share of the content stored alone: less is not worth that reading takes the base too."""

_SELDOM_BEATEN = 0.2
"""An XOR that comes to this share of the content stored alone was no larger than a patch, or hardly, in a tenth of the time."""

_LEVEL = 3
_HASHED = (17, 22)
"""Logarithm of how many places of the base zstd remembers: a sixteenth of the bytes, within these bounds. By level 3's own tables a
shift of 8 MiB of random bytes by 100 came to 0.88 of them, so to 0.0013."""

_LONGEST = 64 << 20
"""Of content and base together, if they are to be patched: zstd must hold both in its window (2^27 where none asks for more)."""


def xor(content: Bytes, base: Bytes) -> bytes:
    """As long as `content`; `base` counts as cut, or padded with zeros. Its own inverse."""
    result = np.frombuffer(content, np.uint8).copy()
    common = min(len(result), memoryview(base).nbytes)
    result[:common] ^= np.frombuffer(base, np.uint8, common)
    return result.tobytes()


def smaller(content: Bytes, base: Bytes, kind: str) -> bytes | None:
    """The smallest difference that turns `base` into `content`, or None if `content` had better be stored alone. `kind` is as for
    `codecs.encode`. Its inverse is `undo`. Deterministic."""
    length = memoryview(content).nbytes
    if length < _LEAST:
        return None
    alone = len(codecs.encode(content, kind)[1])
    best = _by_xor(content, base, kind)
    if len(best) > alone * _SELDOM_BEATEN and length + memoryview(base).nbytes <= _LONGEST:
        best = min(best, _by_patch(content, base), key=len)
    return best if len(best) <= alone * _WORTHWHILE else None


def undo(difference: Bytes, base: Bytes) -> Bytes:
    """The content that `smaller` was given. Raises CodecError if the difference is malformed. Another base than the right one gives
    other bytes, or CodecError: whether they are the right ones is for their keyed hash to tell."""
    view = memoryview(difference).cast("B")
    if len(view) < _HEADER.size + 1:
        raise CodecError("a difference is shorter than its header")
    length, method = _HEADER.unpack_from(view)
    payload = view[_HEADER.size :]
    if method == XOR:
        return xor(codecs.decode(payload[0], payload[1:], length), base)
    if method == PATCH:
        return _patched(payload, base, length)
    raise CodecError(f"unknown method {method} of a difference: written by a newer Strongroom?")


def length_of(difference: Bytes) -> int:
    """How many bytes `undo` gives. Raises CodecError."""
    if len(difference) < _HEADER.size:
        raise CodecError("a difference is shorter than its header")
    length: int = _HEADER.unpack_from(difference)[0]
    return length


def _by_xor(content: Bytes, base: Bytes, kind: str) -> bytes:
    codec, payload = codecs.encode(xor(content, base), kind)
    return b"".join((_HEADER.pack(memoryview(content).nbytes, XOR), bytes((codec,)), payload))


def _by_patch(content: Bytes, base: Bytes) -> bytes:
    length = memoryview(content).nbytes
    both = length + memoryview(base).nbytes
    hashed = min(max(both.bit_length() - 4, _HASHED[0]), _HASHED[1])
    parameters = zstandard.ZstdCompressionParameters.from_level(
        _LEVEL,
        window_log=max(zstandard.WINDOWLOG_MIN, both.bit_length()),
        hash_log=hashed,
        chain_log=hashed,
        write_content_size=True,
        write_dict_id=False,
    )
    compressor = zstandard.ZstdCompressor(dict_data=_dictionary(base), compression_params=parameters)
    return _HEADER.pack(length, PATCH) + bytes(compressor.compress(content))


def _patched(frame: memoryview, base: Bytes, length: int) -> bytes:
    try:
        if zstandard.frame_content_size(frame) != length or length > _LONGEST:
            raise CodecError(f"a patch doesn't make the {length} bytes that it promises")
        decompressor = zstandard.ZstdDecompressor(dict_data=_dictionary(base))
        plain: bytes = decompressor.decompress(frame, max_output_size=length, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CodecError(f"a patch doesn't fit its base ({error})") from error
    if len(plain) != length:
        raise CodecError(f"a patch makes {len(plain)} bytes where {length} belong")
    return plain


def _dictionary(base: Bytes) -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(bytes(base), dict_type=zstandard.DICT_TYPE_RAWCONTENT)
