"""How does an index's log tell of rows? The body of a put or delete is `count` i64 ids, and of a put as many vectors; that of new
parameters is empty, its tag is JSON. The log is about the dimension (u32) and dtype (12 bytes) of the vectors."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from strongroom.engines.oplog.layout import MOST_BYTES, Kind, Record
from strongroom.engines.oplog.writer import OplogWriter

_ABOUT = struct.Struct("<I12s")
_WIDTHS = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1}

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Numbers:
    """What the vectors of an index are made of."""

    dimension: int
    dtype: str

    @property
    def width(self) -> int:
        """Bytes of a vector."""
        return self.dimension * _WIDTHS[self.dtype]

    @property
    def about(self) -> bytes:
        """As a log says it."""
        return _ABOUT.pack(self.dimension, self.dtype.encode()).rstrip(b"\0")


def numbers_of(about: bytes) -> Numbers:
    """The inverse of `Numbers.about`."""
    dimension, dtype = _ABOUT.unpack(about.ljust(_ABOUT.size, b"\0"))
    return Numbers(dimension, dtype.rstrip(b"\0").decode())


def append_rows(writer: OplogWriter, kind: Kind, ids: Ids, vectors: npt.NDArray[Any] | None, tag: bytes) -> None:
    """`ids` are contiguous int64, `vectors` contiguous too. Raises OSError if the disk is full."""
    if len(ids) == 1:  # many write so: after an insert nothing is left in the caches, and each step costs
        writer.append(kind, 1, (ids.data,) if vectors is None else (ids.data, vectors.data), tag)
        return
    width = 8 if vectors is None else 8 + vectors.nbytes // max(1, len(vectors))
    step = max(1, MOST_BYTES // width)
    for start in range(0, len(ids), step):
        part = ids[start : start + step]
        body = [part.data.cast("B")]
        if vectors is not None:
            body.append(vectors[start : start + step].data.cast("B"))
        writer.append(kind, len(part), body, tag)


def ids_of(record: Record) -> Ids:
    """Those that are still to be read."""
    return np.frombuffer(record.body, "<i8", record.count)[record.passed :]


def vectors_of(record: Record, width: int) -> memoryview:
    """Of a put, the bytes of as many vectors, `width` bytes each; of anything else none."""
    if record.kind is not Kind.PUT:
        return record.body[:0]
    return record.body[8 * record.count + record.passed * width : (8 + width) * record.count]
