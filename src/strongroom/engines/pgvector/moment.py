"""How do several connections see one moment, of which it is known where it lies in the server's log?

A temporary logical slot gives both: a position, and a snapshot that holds just the transactions whose commit record ends at or
before it. It is gone as soon as the snapshot is taken over. A server without logical decoding, or a user who may not use it, still
gives one moment, but no position by which a journal could go on from it.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psycopg

from strongroom.engines.pgvector.address import Address
from strongroom.engines.pgvector.server import Connection, Impatient, connect, failing_as, literal, said
from strongroom.errors import SourceChanged, Unreachable, Unreadable
from strongroom.model import Position

KIND = "lsn"
"""Of positions in the log: the decimal number of the byte at which the last commit record before it ends."""

_BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_PATIENCE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Moment:
    """`connection` is in a transaction that holds the snapshot `name`; `unplaced` says why it has no position in the log."""

    address: Address
    connection: Connection
    name: str
    position: Position
    unplaced: str = ""

    @contextmanager
    def reader(self) -> Iterator[Connection]:
        """One more connection that sees the moment."""
        connection = connect(self.address, kind=Impatient)
        try:
            with failing_as(SourceChanged, self.address.shown):
                see(connection, self.name)
            yield connection
        finally:
            connection.close()


@contextmanager
def frozen_moment(address: Address) -> Iterator[Moment]:
    """The moment of now, for as long as this is open. Raises NotFound, Unreadable or Unreachable."""
    connection = connect(address)
    try:
        with failing_as(Unreadable, address.shown):
            position, unplaced = _placed(address, connection)
            (name,) = connection.execute("SELECT pg_catalog.pg_export_snapshot()").fetchall()[0]
        yield Moment(address, connection, name, position, unplaced)
    finally:
        connection.close()


def lsn_number(text: str) -> int:
    """The number of a position that the server writes as '0/16B3748'."""
    high, _, low = text.partition("/")
    return (int(high, 16) << 32) + int(low, 16)


def lsn_text(number: int) -> str:
    return f"{number >> 32:X}/{number & 0xFFFFFFFF:X}"


def _placed(address: Address, connection: Connection) -> tuple[Position, str]:
    """Begins the transaction. Gives where the moment lies, and why that isn't known if it isn't."""
    try:
        with _exported(address) as (point, snapshot):
            see(connection, snapshot)
            return Position(KIND, str(point)), ""
    except psycopg.errors.QueryCanceled:
        why = "a transaction was open for too long"
    except psycopg.Error as error:
        why = said(error)
    except (Unreachable, Unreadable) as error:  # a user who may read, and not decode
        why = str(error)
    with suppress(psycopg.Error):
        connection.execute("ROLLBACK")
    connection.execute(_BEGIN.encode())
    (text,) = connection.execute("SELECT pg_catalog.pg_current_snapshot()::text").fetchall()[0]
    return Position("transactions", text), why


@contextmanager
def _exported(address: Address) -> Iterator[tuple[int, str]]:
    """A consistent point and its snapshot, to be taken over while this is open. The server waits for who writes just then."""
    replication = connect(address, replication=True)
    try:
        slot = f"strongroom_moment_{secrets.token_hex(8)}"
        yield make_slot(replication, f"{slot} TEMPORARY")
    finally:
        replication.close()


def make_slot(replication: Connection, name: str) -> tuple[int, str]:
    """Where the new slot begins, and the snapshot of that place, good until the connection's next statement. Raises
    QueryCanceled if a transaction that writes stays open for too long."""
    impatience = threading.Timer(_PATIENCE_SECONDS, replication.cancel)
    impatience.start()
    try:
        made = f"CREATE_REPLICATION_SLOT {name} LOGICAL pgoutput (SNAPSHOT 'export')"
        row = replication.execute(made.encode()).fetchall()[0]
    finally:
        impatience.cancel()
    return lsn_number(row[1]), row[2]


def see(connection: Connection, snapshot: str) -> None:
    """Begin a transaction that sees what the snapshot holds."""
    connection.execute(_BEGIN.encode())
    connection.execute(f"SET TRANSACTION SNAPSHOT {literal(snapshot)}".encode())
