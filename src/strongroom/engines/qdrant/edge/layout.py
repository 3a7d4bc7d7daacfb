"""Where do vectors lie in the files of a segment, so that they are stored with the rows and not once more?

vector_storage[-NAME]/vectors/chunk_N.mmap   rows of one width, for all chunks as many as status.dat (u64) says; then room
vector_storage[-NAME]/matrix.dat             4 bytes 'data' | rows of one width
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from strongroom.engines.protocol import rows_per_block
from strongroom.engines.qdrant.shape import Shape, Vector
from strongroom.engines.regions import fixed_blocks
from strongroom.model import Cut, Region

_FILE = re.compile(
    r"segments/[^/]+/vector_storage(?:-(?P<name>.*))?/(?:vectors/chunk_(?P<chunk>\d+)\.mmap|(?P<matrix>matrix\.dat))"
)
_WIDTHS = {"float32": 4, "float16": 2, "uint8": 1}
_BLOCK = 1 << 20


def cut_of(shape: Shape, path: str) -> Cut:
    return Cut.FORMAT if _vector_of(shape, path) else Cut.BLOCKS


def regions_of(shape: Shape, shard: Path, path: str, size: int) -> Iterator[Region]:
    """The file at `path` of the shard, cut where its vectors are."""
    vector = _vector_of(shape, path)
    start, stop = _span(vector, shard / path, size) if vector else (0, 0)
    if vector is None or stop <= start:
        yield from fixed_blocks("block", 0, size, _BLOCK)
        return
    width = vector.dimension * _WIDTHS[vector.dtype]
    step = rows_per_block(width) * width
    if start:
        yield Region(0, start, key="head")
    for number, offset in enumerate(range(start, stop, step)):
        length = min(step, stop - offset)
        yield Region(offset, length, vector.dtype, width, 0, width, vector.column, key=f"vectors {number}")
    yield from fixed_blocks("room", stop, size, _BLOCK)


def _vector_of(shape: Shape, path: str) -> Vector | None:
    """The dense vector whose numbers, as they are, make up a file."""
    found = _FILE.fullmatch(path)
    if found is None:
        return None
    name = found["name"] or ""
    return next((one for one in shape.vectors if one.name == name and one.kind == "dense" and not one.coded), None)


def _span(vector: Vector, file: Path, size: int) -> tuple[int, int]:
    """From where to where vectors lie; an empty span if the file isn't as expected."""
    width = vector.dimension * _WIDTHS[vector.dtype]
    if file.name == "matrix.dat":
        return (4, size) if (size - 4) % width == 0 and size > 4 else (0, 0)
    try:
        each = int(json.loads((file.parent / "config.json").read_bytes())["chunk_size_vectors"])
        count = int.from_bytes((file.parent / "status.dat").read_bytes()[:8], "little")
    except (OSError, ValueError, KeyError, TypeError):
        return 0, 0
    number = int(file.stem.removeprefix("chunk_"))
    return 0, min(max(0, count - number * each), each, size // width) * width
