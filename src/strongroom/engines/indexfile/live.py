"""What must an index be able to do so that its operations can be recorded, and applied again?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from strongroom.engines.indexfile.rowlog import Ids
from strongroom.model import Json

Vectors = npt.NDArray[Any]
"""Rows x dimension, in the numbers that the index keeps; bfloat16 as uint16."""

_PIECE = 4 << 20


class Live(Protocol):
    """An index in memory, through its library's own calls."""

    @property
    def dimension(self) -> int: ...

    @property
    def dtype(self) -> str:
        """Of the vectors, as `model.Field` names it."""

    @property
    def metric(self) -> str: ...

    def count(self) -> int:
        """How many rows the library says that there are: whoever changes the index past us is found out by it."""

    def put(self, ids: Ids, vectors: Vectors) -> None:
        """Insert rows, or replace those of these ids; no id occurs twice."""

    def delete(self, ids: Ids) -> None:
        """Delete rows; those that aren't there don't matter."""

    def set_parameters(self, parameters: Mapping[str, Json]) -> None:
        """Those of a search."""

    def save(self, path: str) -> None:
        """Write the index file."""

    def accompany(self, index: Path) -> None:
        """Write what must lie beside the index file at `index` so that it can be understood."""

    def present(self, ids: Ids) -> tuple[Ids, Vectors]:
        """Those of these ids that are there, and their vectors as the index keeps them."""

    def same(self, one: Path, other: Path) -> bool:
        """Do two index files hold the same?"""


def same_bytes(one: Path, other: Path, skipped: slice = slice(0, 0)) -> bool:
    """Are two files equal, but for the bytes `skipped`, which lie among the first?"""
    if one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as left, other.open("rb") as right:
        start = True
        while piece := left.read(_PIECE):
            here, there = bytearray(piece), bytearray(right.read(_PIECE))
            if start:
                here[skipped] = there[skipped] = b""
            if here != there:
                return False
            start = False
    return True


def numbers(dtype: str, vectors: memoryview, dimension: int) -> Vectors:
    """The bytes of vectors as rows x dimension."""
    kind = np.dtype(np.uint16 if dtype == "bfloat16" else dtype)
    return np.frombuffer(vectors, kind).reshape(-1, dimension)


def apply_run(live: Live, ids: Ids, vectors: Vectors | None) -> None:
    """Put rows (or delete them, without vectors) in their order, also where an id occurs twice."""
    act: Callable[[int, int], None] = (
        (lambda start, end: live.delete(ids[start:end]))
        if vectors is None
        else (lambda start, end: live.put(ids[start:end], vectors[start:end]))
    )
    if len(np.unique(ids)) == len(ids):
        act(0, len(ids))
        return
    for row in range(len(ids)):
        act(row, row + 1)
