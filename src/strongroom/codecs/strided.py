"""How are records that hold a vector each taken apart into vectors and the rest, and put together again?

hnswlib's level 0, for one, is records of links, vector and label; apart, vectors are stored once and links shrink.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from strongroom.codecs.entropy import Octets
from strongroom.codecs.errors import CodecError
from strongroom.model import Bytes


def split(buffer: Bytes, stride: int, vector_offset: int, vector_length: int) -> tuple[bytes, bytes]:
    """The vectors of all records of `stride` bytes one after the other, and likewise what else the records hold.

    A record's vector is `vector_length` bytes from its byte `vector_offset`. Raises ValueError if the buffer isn't whole records
    or a record has no room for the vector. Its inverse is `join`.
    """
    _require_geometry(stride, vector_offset, vector_length)
    if len(buffer) % stride:
        raise ValueError(f"{len(buffer)} bytes are not whole records of {stride}")
    records = np.frombuffer(buffer, np.uint8).reshape(-1, stride)
    end = vector_offset + vector_length
    rest = np.empty((len(records), stride - vector_length), np.uint8)
    rest[:, :vector_offset] = records[:, :vector_offset]
    rest[:, vector_offset:] = records[:, end:]
    return records[:, vector_offset:end].tobytes(), rest.tobytes()


def split_proven(pieces: Iterable[Bytes], count: int, stride: int, vector_offset: int, vector_length: int) -> tuple[Octets, Octets]:
    """As `split`, of `count` records that come in pieces of whole ones: vectors (count, vector_length) and rest. That they make the
    same bytes again is checked piece by piece, so best of pieces that a core's cache holds. Raises CodecError if they don't, or
    the pieces aren't `count` records, ValueError as `split`."""
    _require_geometry(stride, vector_offset, vector_length)
    vectors = np.empty((count, vector_length), np.uint8)
    rest = np.empty((count, stride - vector_length), np.uint8)
    done = 0
    for piece in pieces:
        records = np.frombuffer(piece, np.uint8).reshape(-1, stride)
        if done + len(records) > count:
            raise CodecError(f"more than {count} records of {stride} bytes")
        here = slice(done, done + len(records))
        vectors[here] = records[:, vector_offset : vector_offset + vector_length]
        rest[here, :vector_offset] = records[:, :vector_offset]
        rest[here, vector_offset:] = records[:, vector_offset + vector_length :]
        if not _rejoins(piece, vectors[here].reshape(-1).data, rest[here].reshape(-1).data, stride, vector_offset, vector_length):
            raise CodecError(f"records of {stride} bytes don't come together again")
        done += len(records)
    if done != count:
        raise CodecError(f"{done} records of {stride} bytes, and not {count}")
    return vectors, rest


def join(vectors: Bytes, rest: Bytes, stride: int, vector_offset: int, vector_length: int) -> memoryview:
    """The records that `split` took apart. Raises CodecError if vectors and rest don't make the same number of whole records."""
    _require_geometry(stride, vector_offset, vector_length)
    count, over = divmod(len(vectors) + len(rest), stride)
    if over or len(vectors) != count * vector_length:
        raise CodecError(f"{len(vectors)} bytes of vectors and {len(rest)} of rest don't make records of {stride}")
    records = np.empty((count, stride), np.uint8)
    end = vector_offset + vector_length
    remainder = _rows(rest, count, stride - vector_length)
    records[:, :vector_offset] = remainder[:, :vector_offset]
    records[:, vector_offset:end] = _rows(vectors, count, vector_length)
    records[:, end:] = remainder[:, vector_offset:]
    return records.reshape(-1).data


def _rejoins(buffer: Bytes, vectors: Bytes, rest: Bytes, stride: int, vector_offset: int, vector_length: int) -> bool:
    """Does `join` give the bytes of `buffer` again?"""
    made = np.frombuffer(join(vectors, rest, stride, vector_offset, vector_length), np.uint8)
    word = np.uint64 if len(made) % 8 == 0 else np.uint32 if len(made) % 4 == 0 else np.uint8
    return len(made) == len(buffer) and bool(np.array_equal(made.view(word), np.frombuffer(buffer, np.uint8).view(word)))


def _rows(data: Bytes, count: int, width: int) -> Octets:
    return np.frombuffer(data, np.uint8).reshape(count, width)


def _require_geometry(stride: int, vector_offset: int, vector_length: int) -> None:
    if stride <= 0 or vector_offset < 0 or vector_length < 0 or vector_offset + vector_length > stride:
        raise ValueError(f"no vector of {vector_length} bytes fits at {vector_offset} of a record of {stride}")
