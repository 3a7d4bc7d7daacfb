"""The vectors of an index once more, in a .npy file beside it.

Such a file has them in the order of their labels, which is the index's own unless several threads filled it: then each is found
by itself.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator

import numpy as np

from strongroom.engines.indexfile.content import Matrix
from strongroom.engines.indexfile.held import OpenFile
from strongroom.engines.protocol import BLOCK_BYTES, rows_per_block
from strongroom.model import Region

_LONGEST_HEADER = 1 << 16
_KINDS = {"<f4": "float32", "<f2": "float16", "|i1": "int8", "|u1": "uint8"}


def regions(array: OpenFile, vectors: Matrix | None) -> Iterable[Region] | None:
    """The whole file as regions; None if it isn't known to be a matrix of vectors."""
    form = _form(array)
    return None if form is None else _regions(array, vectors, *form)


def _regions(array: OpenFile, vectors: Matrix | None, start: int, kind: str, record: int) -> Iterator[Region]:
    yield Region(0, start, key="header")
    step = rows_per_block(record) * record
    for block, offset in enumerate(range(start, array.size, step)):
        length = min(step, array.size - offset)
        if vectors is not None and (vectors.kind, vectors.record) == (kind, record):  # in the rows' order, as it seems
            yield Region(offset, length, kind, record, 0, record, column="vector", block=block, key=f"vectors {block}")
        else:
            yield Region(offset, length, kind, record, 0, record, key=f"vectors {block}")


def _form(array: OpenFile) -> tuple[int, str, int] | None:
    """Where the numbers begin, their kind and the bytes of a row; None if this isn't a matrix of numbers, row after row."""
    head = io.BytesIO(array.read(0, min(array.size, _LONGEST_HEADER)))
    try:
        version = np.lib.format.read_magic(head)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, by_columns, dtype = read(head)
    except (ValueError, KeyError, TypeError, SyntaxError, EOFError, RecursionError):
        return None
    if len(shape) != 2 or by_columns or dtype.str not in _KINDS or min(shape) < 1:
        return None
    record = shape[1] * dtype.itemsize
    whole = head.tell() + shape[0] * record == array.size
    return (head.tell(), _KINDS[dtype.str], record) if whole and record <= BLOCK_BYTES else None
