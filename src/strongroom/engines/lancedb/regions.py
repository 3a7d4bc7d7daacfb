"""Where in a Lance file do the float vectors lie? From format 2.0 on as they are, one after the other, a page at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from strongroom.engines.lancedb.columns import vector_bytes, vector_dtype
from strongroom.engines.protocol import BLOCK_BYTES, rows_per_block
from strongroom.model import Region

_FLOATS = ("float32", "float16")


def regions(path: Path, size: int, *, lance_file: bool) -> Iterator[Region]:
    """The `size` bytes of `path` cut into regions: pages of float vectors at whole vectors, what lies between as bytes.

    What can't be told (an old format, compressed or nullable vectors) is bytes. The same file is always cut the same way.
    """
    end = 0
    for page in _vector_pages(path) if lance_file else ():
        if page.offset >= end and page.offset + page.length <= size:
            yield from _pieces(end, page.offset - end, "bytes", BLOCK_BYTES)
            yield from _vectors(page)
            end = page.offset + page.length
    yield from _pieces(end, size - end, "bytes", BLOCK_BYTES)


def _pieces(offset: int, length: int, kind: str, step: int) -> Iterator[Region]:
    for start in range(0, length, step):
        yield Region(offset + start, min(step, length - start), kind)


def _vectors(page: Region) -> Iterator[Region]:
    """Records of a vector and nothing else: each may be stored already, in a file that `optimize` has made this one of."""
    for piece in _pieces(page.offset, page.length, page.kind, rows_per_block(page.stride) * page.stride):
        yield replace(piece, stride=page.stride, vector_length=page.stride, column=page.column)


def _vector_pages(path: Path) -> list[Region]:
    """Pages of plain float vectors, by offset; `stride` is the bytes of one vector."""
    try:
        from lance.file import LanceFileReader

        metadata = LanceFileReader(str(path)).metadata()
        return sorted(_pages_of(metadata), key=lambda page: page.offset)
    except (ImportError, OSError, ValueError, RuntimeError):  # another format: how it is cut decides no more than its size
        return []


def _pages_of(metadata: Any) -> Iterator[Region]:
    # of two fields of one width either will do: vectors are known again by their bytes
    kinds = {vector_bytes(field.type): (field.name, str(vector_dtype(field.type))) for field in _float_vectors(metadata.schema)}
    for column in metadata.columns:
        buffers = [buffer for page in column.pages for buffer in page.buffers]
        for stride, (name, kind) in kinds.items():
            # A column whose buffers together are exactly its rows times a vector's bytes holds nothing but the values.
            if sum(buffer.size for buffer in buffers) == metadata.num_rows * stride:
                for buffer in buffers:
                    if buffer.size and buffer.size % stride == 0:
                        yield Region(buffer.position, buffer.size, kind, stride, column=name)
                break


def _float_vectors(schema: pa.Schema) -> Iterator[pa.Field]:
    for field in schema:
        if vector_dtype(field.type) in _FLOATS:
            yield field
