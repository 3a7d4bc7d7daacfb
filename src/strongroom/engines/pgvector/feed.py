"""What does the server's log say, transaction by transaction, in the order in which they were committed?

Whoever follows has a logical slot: the server keeps its log from where that is. Marks are places in the log: all that was committed
at or before one is before it. A large transaction comes in pieces, and the mark after each but the last lies before all of it: no
moment cuts it then, and who reads on from there gets all of it once more.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress

import psycopg

from strongroom.engines.changes import Change
from strongroom.engines.pgvector import catalog
from strongroom.engines.pgvector.address import Address
from strongroom.engines.pgvector.moment import KIND, lsn_number, see
from strongroom.engines.pgvector.pgoutput import Begin, Commit, Relation, Row, Said, Truncate, parse
from strongroom.engines.pgvector.pgoutput import Message as Told
from strongroom.engines.pgvector.server import Connection, connect, extension, failing_as, said
from strongroom.engines.pgvector.slot import Slot
from strongroom.engines.pgvector.stream import Alive, Stream
from strongroom.engines.pgvector.transactions import (
    Committed,
    State,
    TableOp,
    Transaction,
    Untold,
    changes,
    table_change,
    unfollowed,
)
from strongroom.errors import Gap, Refused, Unreachable, Unreadable
from strongroom.model import Json

_READ_BYTES = 8 << 20
_ASK_SECONDS = 0.05
_READ_SECONDS = 2.0
_PATIENCE_SECONDS = 60.0
_MOST_COUNTED = 100_000


@contextmanager
def following(address: Address, holder: str, batch_key: str | None) -> Iterator[PgFeed]:
    """The feed of a database. Raises NotFound, Unreadable, Unreachable, or Refused if it can't be followed."""
    if address.plain:
        raise Refused(
            "tables without vectors can't be followed", hint="follow it without ?tables=all, or the cluster: pgvector+physical://"
        )
    with closing(connect(address)) as connection, failing_as(Unreadable, address.shown):
        feed = PgFeed(address, connection, holder, batch_key)
        try:
            yield feed
        finally:
            feed.close()


class PgFeed:
    """See `protocol.Feed`. The only scope is ''."""

    kind = KIND

    def __init__(self, address: Address, connection: Connection, holder: str, batch_key: str | None) -> None:
        self._address = address
        self._layout = address.layout
        self._connection = connection
        self._slot = Slot(address, connection, holder)
        self._batch_key = batch_key
        self._stream: Stream | None = None
        self._state = State()
        self._noted: Mapping[str, Json] | None = None
        self._transaction: Transaction | None = None
        self._complete = False
        self._told_broken: tuple[int, str] | None = None
        self._relations: dict[int, Relation] = {}
        self._mark = self._from = self._kept = 0
        self._first: list[Change] = []
        self._ahead: tuple[list[Change], bool] | None = None
        self._broken = ""
        self._floor = 0

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
        self._stream = self._transaction = None
        self._relations.clear()

    def begin(self) -> Mapping[str, str]:
        """Raises Refused if a table can't be followed, Unreachable if the server doesn't come to rest."""
        self.close()
        _, schema = extension(self._connection)
        with self._connection.transaction():
            found = catalog.read(self._connection, self._layout, schema)
        self._slot.prepare(found.tables)
        with closing(connect(self._address, replication=True)) as replication, closing(connect(self._address)) as reading:
            place, snapshot = self._slot.make(replication)
            see(reading, snapshot)
            tables = catalog.read(reading, self._layout, schema).tables
            bodies = {str(one.oid): catalog.described(reading, one.oid, one.schema, schema) for one in tables}
        if {one.oid for one in tables} != {one.oid for one in found.tables}:
            return self.begin()  # one was made while the triggers were not there yet
        for reason in filter(None, map(unfollowed, tables)):
            self._slot.forget()
            raise Refused(
                f"{self._address.shown} can't be followed: {reason}", hint="alter it, or follow another schema with ?schema="
            )
        self._state = State.of(bodies, self._layout)
        self._mark = self._from = self._kept = place
        self._broken, self._ahead, self._noted, self._floor = "", None, None, 0
        self._told_broken = None
        self.shipped({"": str(place)})
        now = time.time_ns() // 1000
        self._first = [table_change(TableOp(tuple(self._state.tables.values()), ()), now, place, whole=True)]
        return {"": str(place)}

    def resume(self, marks: Mapping[str, str]) -> None:
        """Also raises Gap if the first that comes is a change of a table that the log doesn't tell."""
        self.close()
        self._from = int(marks[""])
        self._mark = self._kept = self._slot.check(self._from)
        known = self._slot.known()
        assert known is not None  # noqa: S101 - checked
        self._noted = known[1]
        self._state = State.of(known[1], self._layout)
        self._broken, self._first, self._floor = "", [], 0
        self._told_broken, self._complete = self._slot.broken(), False
        self._slot.free()
        self._ahead = self._gather()
        if self._broken and not self._complete:
            raise Gap(self._broken)

    def read(self) -> tuple[Sequence[Change], Mapping[str, str], bool]:
        if self._broken and self._ahead is None:
            raise Gap(self._broken)
        asked = time.time_ns() // 1000
        if self._ahead is not None:  # read a while ago: more has come since
            found, more = self._ahead[0], True
        else:
            found, more = self._gather()
        self._ahead = None
        first, self._first = self._first, []
        if not more:
            self._floor = asked + 1  # all that happened until then was read
        return [*first, *found], {"": str(max(self._mark, self._from))}, more

    def behind(self, marks: Mapping[str, str]) -> tuple[int, int]:
        """Operations are counted while nobody follows: a slot has one reader."""
        place = int(marks[""])
        self._slot.check(place)
        (now,) = self._connection.execute("SELECT pg_catalog.pg_current_wal_lsn()::text").fetchall()[0]
        query = (
            "SELECT count(*) FROM pg_catalog.pg_logical_slot_peek_binary_changes(%s, NULL, %s, 'proto_version', '1',"
            " 'publication_names', %s) WHERE pg_catalog.chr(pg_catalog.get_byte(data, 0)) IN ('I', 'U', 'D') AND lsn > %s::pg_lsn"
        )
        count = 0
        with suppress(psycopg.errors.ObjectInUse):
            text = f"{place >> 32:X}/{place & 0xFFFFFFFF:X}"
            row = self._connection.execute(query, (self._slot.name, _MOST_COUNTED, self._slot.name, text)).fetchall()[0]
            count = int(row[0])
        return count, max(0, lsn_number(now) - place)

    def shipped(self, marks: Mapping[str, str]) -> None:
        """What the tables look like is noted first: from there on the log is read again after a crash."""
        place = int(marks[""])
        with suppress(psycopg.Error):  # then the server keeps more than it need
            self._slot.note(place, None if self._noted == self._state.bodies else dict(self._state.bodies))
            self._noted, self._kept = self._state.bodies, place
            if self._stream is not None:
                self._stream.keep(place)

    # -- the stream ------------------------------------------------------------------------------------------------------------

    def _gather(self) -> tuple[list[Change], bool]:
        """Transactions up to where the log is now, or as many as fit; and whether there is more."""
        committed: list[Committed] = []
        began = time.monotonic()
        while True:
            try:
                more = self._fill(committed)
                break
            except psycopg.OperationalError as error:
                self.close()
                if time.monotonic() - began > _PATIENCE_SECONDS:
                    raise Unreachable(f"{self._address.shown}: {said(error)}", hint="see whether another follower runs") from error
                if not self._reconnected():
                    more = True
                    break
        return list(changes(committed, self._batch_key)), more

    def _reconnected(self) -> bool:
        """After a pause. False if the slot was lost meanwhile: what was read before it is given first."""
        time.sleep(0.5)
        try:
            if self._connection.closed or self._connection.broken:
                self._connection = connect(self._address)
                self._slot = self._slot.over(self._connection)
            self._slot.check(max(self._mark, self._from))
        except (Unreachable, psycopg.OperationalError):
            pass  # it is tried again
        except Gap as gap:
            self._broken = str(gap)
            return False
        return True

    def _fill(self, committed: list[Committed]) -> bool:
        """Add what was committed, a large transaction in pieces. Gives whether there is more."""
        (now,) = self._connection.execute("SELECT pg_catalog.pg_current_wal_flush_lsn()::text").fetchall()[0]
        goal, size, until = lsn_number(now), 0, time.monotonic() + _READ_SECONDS
        stream = self._stream = self._stream or Stream(self._address, self._slot.name, self._mark, self._kept)
        asked = -math.inf
        while size < _READ_BYTES:
            if self._transaction is None and time.monotonic() - asked >= _ASK_SECONDS:
                stream.tell(ask=True)
                asked = time.monotonic()  # each question has an answer: asked oftener than answers are read, they would pile up
            heard = stream.next(_ASK_SECONDS)
            if isinstance(heard, bytes):
                before = len(committed)
                if not self._take(parse(heard), committed):
                    return True
                size += sum(one.bytes for one in committed[before:])
            elif self._transaction is None:
                if isinstance(heard, Alive):
                    self._mark = max(self._mark, heard.place)
                    if self._mark >= goal:
                        return False
                if time.monotonic() > until:
                    return True
        return True

    def _take(self, message: Said, committed: list[Committed]) -> bool:
        """False if the log doesn't tell what comes: reading ends before this transaction."""
        if isinstance(message, Relation):
            self._relations[message.oid] = message
        elif isinstance(message, Begin):
            if self._told_broken is not None and message.place == self._told_broken[0]:
                return self._break(message.place, self._told_broken[1])
            floor = max(message.time, self._floor)
            self._transaction = Transaction(self._state, self._relations, self._layout, message, floor)
        elif self._transaction is not None:
            try:
                return self._go_on(self._transaction, message, committed)
            except Untold as reason:
                if self._transaction.given:  # pieces of it were given: they must not be given again and again
                    self._slot.note_broken(self._transaction.place, str(reason))
                return self._break(self._transaction.place, str(reason))
        return True

    def _go_on(self, transaction: Transaction, message: Said, committed: list[Committed]) -> bool:
        """What follows in a transaction. One that is before where reading began only tells what the tables are."""
        skipped = transaction.place < self._from
        if isinstance(message, Row | Truncate | Told):
            transaction.take(message)
            if transaction.bytes >= _READ_BYTES:
                committed += [] if skipped else transaction.give()
                transaction.bytes = 0
        elif isinstance(message, Commit):
            self._state, self._transaction = transaction.state, None
            self._mark = max(self._mark, message.end)
            if not skipped:
                self._complete = True
                committed += transaction.give()
        return True

    def _break(self, place: int, reason: str) -> bool:
        """All that was committed before it is known."""
        self.close()
        self._broken, self._mark = reason, max(self._mark, place)
        return False
