"""What a scan found: of each row its id and a fingerprint, in a file on this machine, as of a mark of the journal.

It follows from the journal and its snapshot: who loses it has it made again, which costs one read of the snapshot's rows. It is
written in step with the journal: what a scan changed in it counts only once the segment that says so is stored.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from strongroom.engines.staging import remove
from strongroom.model import Json
from strongroom.snapshots.fingerprints import Words

_TABLES = """
CREATE TABLE IF NOT EXISTS known (number INTEGER PRIMARY KEY, collection TEXT NOT NULL, id TEXT NOT NULL, print BLOB NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS known_ids ON known (collection, id);
CREATE TABLE IF NOT EXISTS said (key TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
_STEP = 4096
_BUSY_SECONDS = 1.0
Flags = npt.NDArray[np.bool_]


class ScanState:
    """Rows by collection and id. What is changed counts from `keep` on; until then `undo` takes the last round back."""

    def __init__(self, path: Path) -> None:
        """Another process's file is left to it, and a damaged one made anew: then nothing is known, in a file of its own."""
        self._path, self._own = path, False
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            self._connection = _opened(path)
        except sqlite3.DatabaseError as error:
            if not isinstance(error, sqlite3.OperationalError):
                remove(path)
            self._path, self._own = path.with_suffix(f".{id(self):x}"), True
            self._connection = _opened(self._path)

    @property
    def mark(self) -> str:
        """As of which mark of the journal this is; '' if nothing is known."""
        return str(self._said("mark") or "")

    @property
    def collections(self) -> dict[str, Json]:
        """What is said of each collection, by name."""
        found: dict[str, Json] = self._said("collections") or {}
        return found

    def say_collections(self, said: Mapping[str, Json]) -> None:
        self._say("collections", dict(said))

    def keep(self, mark: str) -> None:
        """All of this is as of this mark of the journal, which is stored."""
        self._say("mark", mark)
        self._connection.execute("COMMIT")
        self._connection.execute("BEGIN IMMEDIATE")

    def begin(self) -> None:
        """A round begins."""
        self._connection.execute("SAVEPOINT round")

    def undo(self) -> None:
        """Take the round back."""
        self._connection.execute("ROLLBACK TO round")
        self._connection.execute("RELEASE round")

    def end(self) -> None:
        """The round is over."""
        self._connection.execute("RELEASE round")

    def clear(self) -> None:
        """Nothing is known."""
        self._connection.execute("DELETE FROM known")
        self._connection.execute("DELETE FROM said")

    def find(self, collection: str, ids: list[str], prints: Words) -> tuple[npt.NDArray[np.int64], Flags]:
        """The number of each row (0: it isn't known), and whether its print is another one, (rows,)."""
        query = "SELECT number, print FROM known WHERE collection = ? AND id = ?"
        numbers, differs = np.zeros(len(ids), np.int64), np.ones(len(ids), np.bool_)
        for place, one in enumerate(ids):
            found = self._connection.execute(query, (collection, one)).fetchone()
            if found is not None:
                numbers[place], differs[place] = found[0], found[1] != prints[place].tobytes()
        return numbers, differs

    def put(self, collection: str, ids: list[str], prints: Words) -> None:
        """These rows are so from now on."""
        rows = ((collection, one, print_.tobytes()) for one, print_ in zip(ids, prints, strict=True))
        statement = "INSERT INTO known (collection, id, print) VALUES (?, ?, ?)"
        renewed = " ON CONFLICT (collection, id) DO UPDATE SET print = excluded.print"
        self._connection.executemany(statement + renewed, rows)

    def forget(self, collection: str, ids: list[str]) -> None:
        self._connection.executemany("DELETE FROM known WHERE collection = ? AND id = ?", ((collection, one) for one in ids))

    def drop(self, collection: str) -> None:
        self._connection.execute("DELETE FROM known WHERE collection = ?", (collection,))

    def count(self, collection: str) -> int:
        (found,) = self._connection.execute("SELECT count(*) FROM known WHERE collection = ?", (collection,)).fetchone()
        return int(found)

    @property
    def highest(self) -> int:
        """No row has a higher number."""
        return int(self._connection.execute("SELECT coalesce(max(number), 0) FROM known").fetchone()[0])

    def others(self, collection: str, seen: Flags) -> Iterator[list[str]]:
        """The ids of the rows of which the number isn't among those `seen`."""
        cursor = self._connection.execute("SELECT number, id FROM known WHERE collection = ? ORDER BY number", (collection,))
        while some := cursor.fetchmany(_STEP):
            gone = [one for number, one in some if number < len(seen) and not seen[number]]
            if gone:
                yield gone

    def close(self) -> None:
        """What was not kept is lost."""
        with suppress(sqlite3.OperationalError):
            self._connection.execute("ROLLBACK")
        self._connection.close()
        if self._own:
            remove(self._path)

    def _said(self, key: str) -> Json:
        found = self._connection.execute("SELECT value FROM said WHERE key = ?", (key,)).fetchone()
        return None if found is None else json.loads(found[0])

    def _say(self, key: str, value: Json) -> None:
        self._connection.execute("INSERT OR REPLACE INTO said VALUES (?, ?)", (key, json.dumps(value, sort_keys=True, default=str)))


def _opened(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
    try:
        path.chmod(0o600)
        connection.executescript(_TABLES)
        connection.execute("BEGIN IMMEDIATE")
    except BaseException:
        connection.close()
        raise
    return connection
