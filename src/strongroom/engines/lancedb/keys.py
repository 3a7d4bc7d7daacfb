"""By which column are the rows of a version known? By the one by which a snapshot of it knows them (`columns.id_column`): a column
is a key as long as its values are unique, which Lance doesn't see to and a follower has to find out for every version.

Nothing is read for most: the keys that there are, as numbers, tell that one that came wasn't there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from strongroom.engines.lancedb.columns import id_candidates
from strongroom.engines.lancedb.library import Dataset

Key: TypeAlias = int | str | None
_MERGED_FROM = 200_000


class Keys:
    """The keys of a table's rows: 8 bytes a row, and what came and went of late."""

    def __init__(self, table: Dataset, column: str) -> None:
        """Reads the column."""
        self._known = np.zeros(0, np.int64)
        self._fresh, self._dead = set[int](), set[int]()
        parts = [_numbers(batch.column(0)) for batch in table.scanner(columns=[column]).to_batches()]
        if parts:
            self._known = np.unique(np.concatenate(parts))

    def exchange(self, gone: Sequence[Key], come: Sequence[Key]) -> bool:
        """Rows of these keys went, then others came. False if they may not all be unique now: then this holds no longer."""
        leaving, arriving = {_number(one) for one in gone}, {_number(one) for one in come}
        if len(arriving) != len(come) or None in come or any(self._has(one) for one in arriving - leaving):
            return False
        self._dead |= leaving - arriving
        self._fresh -= leaving
        self._fresh |= arriving
        if len(self._fresh) + len(self._dead) > _MERGED_FROM:
            kept = self._known[~np.isin(self._known, np.fromiter(self._dead, np.int64, len(self._dead)))]
            self._known = np.union1d(kept, np.fromiter(self._fresh, np.int64, len(self._fresh)))
            self._fresh, self._dead = set(), set()
        return True

    def _has(self, one: int) -> bool:
        if one in self._fresh or one in self._dead:
            return one in self._fresh
        place = int(np.searchsorted(self._known, one))
        return place < len(self._known) and int(self._known[place]) == one


def is_first_choice(schema: pa.Schema, column: str) -> bool:
    """Would no other column be taken before this one, whatever it holds?"""
    return column == next(id_candidates(schema), None)


def _numbers(column: pa.Array) -> npt.NDArray[np.int64]:
    if column.type == pa.int64():
        found: npt.NDArray[np.int64] = column.to_numpy(zero_copy_only=False)
        return found
    return np.fromiter(map(hash, column.to_pylist()), np.int64, len(column))


def _number(key: Key) -> int:
    return key if isinstance(key, int) else hash(key)
