"""How is a server told to send its files or its log? The replication protocol of PostgreSQL 15 and later, over libpq."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.pq import ExecStatus

from strongroom.engines.pgvector.encryption import refused_for_want_of_it, with_encryption
from strongroom.engines.pgvector.moment import lsn_number, lsn_text
from strongroom.engines.pgvector.pgoutput import EPOCH
from strongroom.engines.pgvector.physical.place import Server
from strongroom.engines.waiting import readable
from strongroom.errors import Refused, Unreachable, Unreadable

OLDEST = 15
_DATA, _ALIVE, _STATUS = struct.Struct(">QQq"), struct.Struct(">QqB"), struct.Struct(">cQQQqB")
_TELL_SECONDS = 5.0
_GRANT = "connect as a role with REPLICATION, and allow it in pg_hba.conf for the database 'replication'"


@dataclass(frozen=True, slots=True)
class Identity:
    """Which cluster a server is: the number that initdb gave it, its timeline, and how far its log is flushed."""

    system: str
    timeline: int
    flushed: int


@dataclass(frozen=True, slots=True)
class Wal:
    """A stretch of the log that begins at byte `place`, sent at `time` (microseconds since 1970)."""

    place: int
    content: bytes
    time: int


@dataclass(frozen=True, slots=True)
class Alive:
    """All up to `place` was sent."""

    place: int


@dataclass(frozen=True, slots=True)
class Switch:
    """The timeline ended at `place`, where `timeline` goes on."""

    timeline: int
    place: int


class Replication:
    """A connection that speaks the replication protocol. Raises Unreadable, or Unreachable if the server is away; a
    psycopg.OperationalError of a running stream is left to its reader."""

    def __init__(self, server: Server) -> None:
        options: dict[str, Any] = {"replication": "true", "application_name": "strongroom"}
        options |= {name: value for name, value in (("host", server.host), ("port", server.port), ("user", server.user)) if value}
        self._server = server
        try:
            self._connection = psycopg.connect(**with_encryption(options), autocommit=True)
        except psycopg.OperationalError as error:
            raise refused_for_want_of_it(server.shown, error) or _no_connection(server, error) from error
        self._pg = self._connection.pgconn
        self._told = time.monotonic()
        self._kept = 0
        self.version = self._pg.server_version
        if self.version < OLDEST * 10_000:
            self.close()
            raise Refused(f"{server.shown} is PostgreSQL {self.version // 10_000}: files are copied from {OLDEST} on")

    def close(self) -> None:
        self._connection.close()

    # -- answers ---------------------------------------------------------------------------------------------------------------

    def ask(self, command: str) -> list[tuple[str | None, ...]]:
        """The rows that a command gives. Raises Unreadable or Unreachable."""
        result = self._pg.exec_(command.encode())
        if result.status not in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
            raise self.complaint(result)
        return [tuple(_text(result.get_value(row, column)) for column in range(result.nfields)) for row in range(result.ntuples)]

    def identity(self) -> Identity:
        system, timeline, place, _ = self.ask("IDENTIFY_SYSTEM")[0]
        return Identity(str(system), int(timeline or 0), lsn_number(str(place)))

    def shown(self, setting: str) -> str:
        """A setting of the server, '' if this role may not see it."""
        with suppress(Unreadable):
            return str(self.ask(f"SHOW {setting}")[0][0])
        return ""

    def segment_bytes(self) -> int:
        """The length of a file of the log."""
        number = self.shown("wal_segment_size")
        return int(number.rstrip("MGBk")) << (30 if number.endswith("GB") else 20)

    def complaint(self, result: Any) -> Unreadable | Unreachable:
        """What the server said, in one line."""
        lines = (result.error_message.decode(errors="replace") if result else "").strip().splitlines() or ["it gave no answer"]
        text = lines[0].removeprefix("ERROR:").removeprefix("FATAL:").strip()
        if self._pg.status != 0:
            return Unreachable(f"{self._server.shown}: {text}", hint="check that it runs, then run the same command again")
        return Unreadable(f"{self._server.shown}: {text}", hint=_GRANT if "permission" in text else None)

    # -- files -----------------------------------------------------------------------------------------------------------------

    def results(self, command: str) -> Iterator[Any]:
        """The results of a command that has several; a COPY is to be read to its end before the next one."""
        self._pg.send_query(command.encode())
        while (result := self._next_result()) is not None:
            if result.status not in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK, ExecStatus.COPY_OUT):
                raise self.complaint(result)
            yield result

    def copied(self) -> Iterator[bytes]:
        """The messages of a COPY that comes. The one before is no longer there when the next one is asked for."""
        while True:
            length, message = self._pg.get_copy_data(1)
            if length == 0:
                self._wait(60.0)
            elif length == -1:
                return
            elif length < 0:
                raise self.complaint(self._pg.get_result())
            else:
                yield bytes(message)

    def send(self, command: str, pieces: Iterator[bytes]) -> None:
        """Send the content of a COPY to the server."""
        result = self._pg.exec_(command.encode())
        if result.status != ExecStatus.COPY_IN:
            raise self.complaint(result)
        for piece in pieces:
            self._pg.put_copy_data(piece)
            self._pg.flush()
        self._pg.put_copy_end()
        while (result := self._next_result()) is not None:
            if result.status not in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK):
                raise self.complaint(result)

    # -- the log ---------------------------------------------------------------------------------------------------------------

    def start(self, slot: str, place: int, timeline: int, kept: int) -> None:
        """Have the log sent from `place` on, of which all up to `kept` is kept elsewhere. Raises Unreadable."""
        self._pg.send_query(f'START_REPLICATION SLOT "{slot}" PHYSICAL {lsn_text(place)} TIMELINE {timeline}'.encode())
        result = self._next_result()
        if result is None or result.status != ExecStatus.COPY_BOTH:
            raise self.complaint(result)
        self._kept = kept

    def next(self, seconds: float) -> Wal | Alive | Switch | None:
        """What comes next, None if nothing does for so long. Raises psycopg.OperationalError if the server is gone or refuses."""
        until = time.monotonic() + seconds
        while True:
            if time.monotonic() - self._told > _TELL_SECONDS:
                self.tell()
            length, message = self._pg.get_copy_data(1)
            if length < 0:
                return self._ended()
            if length > 0:
                content = bytes(message)
                if content[:1] == b"w":
                    place, _, sent = _DATA.unpack_from(content, 1)
                    return Wal(place, content[1 + _DATA.size :], sent + EPOCH)
                place, _, reply = _ALIVE.unpack_from(content, 1)
                if reply:
                    self.tell()
                return Alive(place)
            rest = until - time.monotonic()
            if rest <= 0:
                return None
            self._wait(rest)

    def keep(self, place: int) -> None:
        """All up to this place is kept elsewhere: the server may forget it."""
        self._kept = max(self._kept, place)
        self.tell()

    def tell(self, *, ask: bool = False) -> None:
        """Say what is kept, and perhaps ask how far the log was sent."""
        now = time.time_ns() // 1000 - EPOCH
        self._pg.put_copy_data(_STATUS.pack(b"r", self._kept, self._kept, self._kept, now, ask))
        self._pg.flush()
        self._told = time.monotonic()

    def _ended(self) -> Switch:
        """The server has no more of this timeline: it says which one goes on, and where."""
        result = self._pg.get_result()
        if result is not None and result.status == ExecStatus.COPY_IN:
            self._pg.put_copy_end()
            self._pg.flush()
            result = self._next_result()
        if result is None or result.status != ExecStatus.TUPLES_OK:
            said = result.error_message.decode(errors="replace").strip() if result else ""
            raise psycopg.OperationalError(said or "the server ended the stream")
        timeline, place = int(result.get_value(0, 0) or 0), lsn_number(str(_text(result.get_value(0, 1))))
        while self._next_result() is not None:
            pass
        return Switch(timeline, place)

    def _next_result(self) -> Any:
        while self._pg.is_busy():
            self._wait(60.0)
        return self._pg.get_result()

    def _wait(self, seconds: float) -> None:
        readable(self._pg.socket, seconds)
        self._pg.consume_input()


def reading(messages: Iterator[bytes], advance: Callable[[int], None]) -> Iterator[tuple[str, bytes]]:
    """The archives of a base backup and its manifest: ('tar' or 'manifest', piece)."""
    what = "tar"
    for message in messages:
        kind = message[:1]
        if kind == b"m":
            what = "manifest"
        elif kind == b"d":
            advance(len(message) - 1)
            yield what, message[1:]


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()


def _no_connection(server: Server, error: psycopg.OperationalError) -> Unreachable | Unreadable:
    text = (str(error).strip().splitlines() or ["no answer"])[-1]
    if "password" in text or "authentication" in text:
        return Unreadable(f"{server.shown}: {text}", hint="give the password in PGPASSWORD, PGPASSFILE or by PGSERVICE")
    if "pg_hba" in text or "must be" in text or "permission" in text or "REPLICATION" in text:
        return Unreadable(f"{server.shown}: {text}", hint=_GRANT)
    return Unreachable(f"{server.shown}: {text}", hint="check host and port, and that the server runs")
