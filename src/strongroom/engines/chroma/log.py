"""Which entries of Chroma's log are of which collection? sqlite has no index for that, so the log is gone through once for all of
them: for each of 10,000 collections anew it would take as long as all else."""

from __future__ import annotations

import json
import sqlite3
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any

_AT_ONCE = 10_000


class Log:
    """The numbers of the entries. Memory: 8 bytes an entry."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._numbers: dict[str, array[int]] = {}
        for topic, number in connection.execute("SELECT topic, seq_id FROM embeddings_queue ORDER BY seq_id"):
            self._numbers.setdefault(topic.rpartition("/")[2], array("q")).append(number)

    def numbers(self, identity: str, after: int = 0) -> Sequence[int]:
        """Those of the collection of that id that are higher than `after`, in order."""
        found = self._numbers.get(identity, array("q"))
        return found[bisect_right(found, after) :]


def entries_of(connection: sqlite3.Connection, columns: str, numbers: Sequence[int]) -> Iterator[tuple[Any, ...]]:
    """These columns of the entries with these numbers, in order."""
    for start in range(0, len(numbers), _AT_ONCE):
        some = numbers[start : start + _AT_ONCE]
        close = some[-1] - some[0] < len(some)
        where = "BETWEEN ? AND ?" if close else "IN (SELECT value FROM json_each(?))"
        given = (some[0], some[-1]) if close else (json.dumps(list(some)),)
        yield from connection.execute(f"SELECT {columns} FROM embeddings_queue WHERE seq_id {where} ORDER BY seq_id", given)  # noqa: S608 - constants
