"""What does Chroma's log say, entry by entry, before Chroma purges it?

Chroma purges what its segments have taken in, at times within the very call that wrote it. So whoever follows has a *slot*: a row
in a table of ours in the database, with the last entry that is kept elsewhere, and a trigger that leaves later entries, and that
one, where they are. It is a lease: who doesn't come back for its time holds nothing back, and a copy of the database not for long.

The log goes on in one order for all collections, without a number left out. That it is still the same log is seen by the last entry
that was read: its number must hold what it held. Of collections Chroma keeps no log; ours does: see `catalog_log`. So a mark is
the number of an entry, a print of it, and the number of the last change of a collection: '1240:4201c715899f1d47+77'.
"""

from __future__ import annotations

import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from strongroom.engines.changes import ACT, BATCH, MARK, TIME, Act, CatalogChange, Change, RowChanges, change_schema
from strongroom.engines.chroma import catalog, catalog_log, purging
from strongroom.engines.chroma.capture import DATABASE
from strongroom.engines.chroma.catalog import FIELD, Entry, entry_of, event_of
from strongroom.engines.chroma.catalog_log import Event
from strongroom.engines.chroma.documents import split
from strongroom.engines.chroma.replay import ADD, DELETE, UPDATE, UPSERT, metadata_of
from strongroom.engines.chroma.rows import schema_of
from strongroom.errors import Gap, NotFound, Refused, Unreadable
from strongroom.model import Collection

LEASE_SECONDS = 24 * 3600
MOST_HELD = 5_000_000
"""So many entries are held back at most, whatever the lease says: a database must not grow for ever."""
MANY_HELD = 1000
"""While more entries than that are held back, Chroma needn't try to purge."""
_READ_BYTES, _READ_ROWS = 8 << 20, 4096
_BUSY_SECONDS = 60.0
_ACTS = {ADD: Act.INSERT, UPDATE: Act.UPDATE, UPSERT: Act.UPSERT, DELETE: Act.DELETE}
_SLOTS = (
    "CREATE TABLE IF NOT EXISTS strongroom_slots"
    " (holder TEXT PRIMARY KEY, shipped INTEGER NOT NULL, noted INTEGER NOT NULL, until INTEGER NOT NULL)"
)
_HOLDS = """
CREATE TRIGGER IF NOT EXISTS strongroom_holds BEFORE DELETE ON embeddings_queue
WHEN OLD.seq_id >= (SELECT min(shipped) FROM strongroom_slots WHERE until > CAST(strftime('%s', 'now') AS INTEGER))
AND OLD.seq_id > (SELECT max(seq_id) FROM embeddings_queue) - {most}
BEGIN SELECT RAISE(IGNORE); END
"""

_Row = tuple[int, str, int, str, str, bytes | None, str | None, str | None]


@contextmanager
def following(root: Path, holder: str, batch_key: str | None) -> Iterator[ChromaFeed]:
    """The feed of a live database. Raises NotFound, Unreadable, or Refused in a process that has chromadb: POSIX locks belong to
    the process, and closing one connection to the file would drop those of the other."""
    if "chromadb" in sys.modules:
        raise Refused(
            "Chroma's log can't be followed from within a process that uses chromadb",
            hint="run 'strongroom journal follow' as a process of its own",
        )
    database = root / DATABASE
    if not database.is_file():
        raise NotFound(f"{root} is not a Chroma database: it has no {DATABASE}", hint="check the path")
    try:
        with closing(sqlite3.connect(database, timeout=_BUSY_SECONDS, isolation_level=None)) as connection:
            catalog.check_schema(connection)
            yield ChromaFeed(connection, holder, batch_key)
    except sqlite3.OperationalError as error:
        raise Unreadable(f"{database}: {error}", hint="who follows must be able to write there: it holds the log back") from error


def release(root: Path, holder: str) -> bool:
    """Give a slot up: Chroma purges as it likes again. Gives whether there was one."""
    database = root / DATABASE
    if not database.is_file():
        raise NotFound(f"{root} is not a Chroma database: it has no {DATABASE}", hint="check the path")
    with closing(sqlite3.connect(database, timeout=_BUSY_SECONDS, isolation_level=None)) as connection, _writing(connection):
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'strongroom_slots'").fetchone():
            return False
        there = connection.execute("DELETE FROM strongroom_slots WHERE holder = ?", (holder,)).rowcount > 0
        connection.execute("DELETE FROM strongroom_slots WHERE until <= ?", (int(time.time()),))
        if not connection.execute("SELECT 1 FROM strongroom_slots").fetchone():
            connection.execute("DROP TRIGGER strongroom_holds")
            purging.remove(connection)
            connection.execute("DROP TABLE strongroom_slots")
            catalog_log.remove(connection)
        return there


class ChromaFeed:
    """See `protocol.Feed`. The only scope is ''."""

    kind = "sequence"

    def __init__(self, connection: sqlite3.Connection, holder: str, batch_key: str | None) -> None:
        self._connection = connection
        self._holder = holder
        self._batch_key = batch_key
        self._mark = ""
        self._known: dict[str, Entry] = {}
        self._untold = False
        self._purged = True
        self._shipped = 0
        self._latest = 0
        self._there = (0, 0)
        """Entries up to this number were there at this time, though not all of them were read yet."""

    def begin(self) -> Mapping[str, str]:
        with _writing(self._connection):
            self._make_slots()
            self._mark = catalog.last_mark(self._connection)
            self._set_slot(self._mark)
            self._known = self._entries_now()
        self._untold = True
        return {"": self._mark}

    def resume(self, marks: Mapping[str, str]) -> None:
        self._mark, self._untold = marks[""], False
        with _writing(self._connection):
            self._require_same(self._mark)
            self._make_slots()
            self._set_slot(self._mark)
            went = {one.state.identity: one.state for one in catalog_log.events(self._connection, event_of(self._mark), None)}
            self._known = went | self._entries_now()

    def read(self) -> tuple[Sequence[Change], Mapping[str, str], bool]:
        self._connection.execute("BEGIN")
        try:
            self._require_same(self._mark)
            rows = list(self._entries(entry_of(self._mark)))
            more = len(rows) == _READ_ROWS or sum(len(row[5] or b"") + len(row[7] or "") for row in rows) >= _READ_BYTES
            events = list(catalog_log.events(self._connection, event_of(self._mark), rows[-1][0] if more else None))
            entries = self._entries_now()
            last = entry_of(catalog.last_mark(self._connection))
        finally:
            self._connection.execute("ROLLBACK")
        now = time.time_ns() // 1000  # after the read: nothing happened later than it is said to have
        for number, row in enumerate(rows, entry_of(self._mark) + 1):
            if row[0] != number:
                raise Gap(f"Chroma's log lacks entry {number}")
        self._known = entries | self._known
        changes = list(self._changes(rows, events, now))
        if self._purged and last - self._shipped > MANY_HELD:
            with _writing(self._connection):
                purging.pause(self._connection)
            self._purged = False
        if more and entry_of(self._mark) > self._there[0]:
            self._there = (last, now)
        return changes, {"": self._mark}, more

    def behind(self, marks: Mapping[str, str]) -> tuple[int, int]:
        self._require_same(marks[""])
        size = "coalesce(length(vector), 0) + coalesce(length(metadata), 0)"
        query = f"SELECT count(*), sum({size}) FROM embeddings_queue WHERE seq_id > ?"  # noqa: S608 - a constant
        count, total = self._connection.execute(query, (entry_of(marks[""]),)).fetchone()
        return int(count), int(total or 0)

    def shipped(self, marks: Mapping[str, str]) -> None:
        with _writing(self._connection):
            self._set_slot(marks[""])

    def _make_slots(self) -> None:
        self._connection.execute(_SLOTS)
        self._connection.execute(_HOLDS.format(most=MOST_HELD))
        catalog_log.install(self._connection)
        purging.install(self._connection, MOST_HELD)

    def _set_slot(self, mark: str) -> None:
        """Let go of what came before a mark, as far as nobody else needs it."""
        now = int(time.time())
        slot = (self._holder, entry_of(mark), event_of(mark), now + LEASE_SECONDS)
        self._connection.execute("INSERT OR REPLACE INTO strongroom_slots VALUES (?, ?, ?, ?)", slot)
        (noted,) = self._connection.execute("SELECT min(noted) FROM strongroom_slots WHERE until > ?", (now,)).fetchone()
        catalog_log.forget(self._connection, noted)
        purging.resume(self._connection)
        self._shipped, self._purged = entry_of(mark), True

    def _entries_now(self) -> dict[str, Entry]:
        return {entry.identity: entry for entry in catalog.entries(self._connection)}

    def _require_same(self, mark: str) -> None:
        """Raises Gap unless the log still holds the entry of the mark, and it is the same."""
        catalog_log.require(self._connection, event_of(mark))
        number, said = entry_of(mark), mark.partition("+")[0]
        if catalog.mark_of(self._connection, number) == said and said.partition(":")[2]:
            return
        (first,) = self._connection.execute("SELECT min(seq_id) FROM embeddings_queue").fetchone()
        if said.partition(":")[2]:
            what = "was purged" if first is None or number < first else "is another one now, or of an older copy"
            raise Gap(f"entry {number} of Chroma's log {what}")
        last = entry_of(catalog.last_mark(self._connection))  # the log held nothing then: it must have gone on from there
        if last < number or (last > number and first != number + 1):
            raise Gap(f"Chroma's log doesn't go on after entry {number}")

    def _entries(self, after: int) -> Iterator[_Row]:
        """What the log holds after an entry, as many as fit."""
        room = _READ_BYTES
        query = (
            "SELECT seq_id, created_at, operation, topic, id, vector, encoding, metadata FROM embeddings_queue"
            " WHERE seq_id > ? ORDER BY seq_id LIMIT ?"
        )
        for row in self._connection.execute(query, (after, _READ_ROWS)):
            if (row[5] is not None and row[6] != "FLOAT32") or row[2] not in _ACTS:
                raise Unreadable(
                    f"entry {row[0]} of Chroma's log is of an unknown kind ({row[2]}, {row[6]})", hint="upgrade Strongroom"
                )
            yield row
            room -= len(row[5] or b"") + len(row[7] or "")
            if room <= 0:
                return

    def _changes(self, rows: Sequence[_Row], events: Sequence[Event], now: int) -> Iterator[Change]:
        """Rows and changes of collections in the order in which they happened. Moves the mark on."""
        times = self._times(rows, [one.entry for one in events], [one.time for one in events], now)
        if self._untold:
            at = min([now, *times[0], *times[1]])
            yield CatalogChange(self._described(self._known), (), int(max(at, self._latest)), self._mark, whole=True)
            self._untold = False
        start = 0
        for event, at in zip(events, times[1], strict=True):
            end = start + sum(1 for row in rows[start:] if row[0] <= event.entry)
            yield from self._runs(rows[start:end], times[0][start:end])
            start = end
            identity, one = event.state.identity, {event.state.identity: event.state}
            self._mark = f"{self._mark.partition('+')[0]}+{event.number}"
            yield CatalogChange({} if event.gone else self._described(one), (identity,) if event.gone else (), int(at), self._mark)
            if event.gone:
                self._known.pop(identity, None)
            else:
                self._known |= one
        yield from self._runs(rows[start:], times[0][start:])
        self._latest = int(max([self._latest, *times[0][-1:], *times[1][-1:]]))

    def _runs(self, rows: Sequence[_Row], times: Sequence[int]) -> Iterator[RowChanges]:
        """The rows of each collection that follow on each other."""
        for identity, run in groupby(range(len(rows)), lambda i: rows[i][3].rpartition("/")[2]):
            found = list(run)
            if identity in self._known:  # what is written to a collection that went already is of no account
                yield self._row_changes(self._known[identity], [rows[i] for i in found], times[found[0] : found[-1] + 1])
            self._mark = f"{_mark_of(rows[found[-1]])}+{event_of(self._mark)}"

    def _described(self, entries: Mapping[str, Entry]) -> dict[str, Collection]:
        return {
            identity: Collection(entry.address.public, 0, (entry.field(),), entry.catalog(), entry.lineage())
            for identity, entry in entries.items()
        }

    def _times(
        self, rows: Sequence[_Row], entries: Sequence[int], moments: Sequence[int], now: int
    ) -> tuple[Sequence[int], Sequence[int]]:
        """When each row was written and each collection changed, in microseconds, never going back. A row: not before its own time
        stamp, which has whole seconds, and not after it was read, or after a collection was changed later."""
        stamps = (np.array([row[1] for row in rows], "datetime64[us]").astype(np.int64) + 999_999).tolist()
        known, then = self._there
        stamps = [min(stamp, then) if row[0] <= known else stamp for row, stamp in zip(rows, stamps, strict=True)]
        found = [(row[0], 0, stamp) for row, stamp in zip(rows, stamps, strict=True)]
        found += [(entry, 1, moment) for entry, moment in zip(entries, moments, strict=True)]
        order = sorted(range(len(found)), key=lambda i: (found[i][0], found[i][1]))
        ordered = np.array([found[i][2] for i in order], np.int64)
        latest = np.minimum.accumulate(np.minimum(ordered, now)[::-1])[::-1]  # not after what came next
        held = np.maximum.accumulate(np.maximum(latest, self._latest)) if len(ordered) else latest
        placed = dict(zip(order, held.tolist(), strict=True))
        return [placed[i] for i in range(len(rows))], [placed[i] for i in range(len(rows), len(found))]

    def _row_changes(self, entry: Entry, rows: Sequence[_Row], times: Any) -> RowChanges:
        dimension = next((len(row[5]) // 4 for row in rows if row[5] is not None), entry.dimension or 1)
        if any(row[5] is not None and len(row[5]) != 4 * dimension for row in rows):
            raise Unreadable(f"the log of collection {entry.address.public!r} holds vectors of several lengths")
        metadata = [metadata_of(row[7]) for row in rows]
        documents, uris, payloads = zip(*map(split, metadata), strict=True)
        vectors = np.frombuffer(b"".join(row[5] for row in rows if row[5] is not None), np.float32)
        there = np.array([row[5] is not None for row in rows], np.bool_)
        schema = change_schema(schema_of(dimension))
        dense = pa.FixedSizeListArray.from_arrays(pa.array(vectors), type=schema.field(FIELD).type)
        columns = {
            ACT: pa.array([_ACTS[row[2]] for row in rows], pa.int8()),
            TIME: pa.array(times, pa.int64()),
            MARK: pa.array([f"{_mark_of(row)}+{event_of(self._mark)}" for row in rows], pa.utf8()),
            BATCH: pa.array([_tag(one, self._batch_key) for one in metadata], pa.utf8()),
            "id": pa.array([row[4] for row in rows], pa.utf8()),
            FIELD: dense if there.all() else dense.take(pa.array(np.cumsum(there) - 1, mask=~there)),
            "document": pa.array(documents, pa.utf8()),
            "uri": pa.array(uris, pa.utf8()),
            "payload": pa.array(payloads, pa.utf8()),
        }
        batch = pa.record_batch([columns[field.name] for field in schema], schema=schema)
        return RowChanges(entry.address.public, entry.identity, batch)


@contextmanager
def _writing(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _mark_of(row: _Row) -> str:
    number, created, operation, topic, identity, vector, _, metadata = row
    return f"{number}:{catalog.entry_print(topic, identity, operation, vector, metadata, created)}"


def _tag(metadata: Mapping[str, Any], key: str | None) -> str | None:
    value = metadata.get(key) if key else None
    return str(value) if isinstance(value, str | int) else None
