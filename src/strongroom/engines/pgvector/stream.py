"""How does a server send its log, and how is it told what is kept? PostgreSQL's streaming replication protocol, over libpq."""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass

import psycopg
from psycopg.pq import ExecStatus

from strongroom.engines.pgvector.address import Address
from strongroom.engines.pgvector.moment import lsn_text
from strongroom.engines.pgvector.pgoutput import EPOCH
from strongroom.engines.pgvector.server import connect
from strongroom.engines.waiting import readable

_DATA, _ALIVE, _STATUS = struct.Struct(">QQq"), struct.Struct(">QqB"), struct.Struct(">cQQQqB")
_TELL_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Alive:
    """All that was committed at or before `place` was sent."""

    place: int


class Stream:
    """A slot that is being read, from `place` on. Raises psycopg.OperationalError if the server is gone or the slot is in use."""

    def __init__(self, address: Address, slot: str, place: int, kept: int) -> None:
        self._connection = connect(address, replication=True)
        self._pg = self._connection.pgconn
        self._kept = kept
        self._told = time.monotonic()
        options = f"proto_version '1', publication_names '{slot}', messages 'true'"
        self._pg.send_query(f'START_REPLICATION SLOT "{slot}" LOGICAL {lsn_text(place)} ({options})'.encode())
        while self._pg.is_busy():
            self._wait(10.0)
        result = self._pg.get_result()
        if result is None or result.status != ExecStatus.COPY_BOTH:
            complaint = result.error_message.decode(errors="replace").strip() if result else "no answer"
            self.close()
            raise psycopg.OperationalError(complaint)

    def close(self) -> None:
        self._connection.close()

    def next(self, seconds: float) -> bytes | Alive | None:
        """The next message of the log, or how far it was sent; None if nothing came for so long."""
        until = time.monotonic() + seconds
        while True:
            if time.monotonic() - self._told > _TELL_SECONDS:
                self.tell()
            length, message = self._pg.get_copy_data(1)
            if length < 0:
                result = self._pg.get_result()
                said = result.error_message.decode(errors="replace").strip() if result else ""
                raise psycopg.OperationalError(said or "the server ended the stream")
            if length > 0:
                content = bytes(message)
                if content[:1] == b"w":
                    return content[1 + _DATA.size :]
                if content[:1] == b"k":
                    place, _, reply = _ALIVE.unpack_from(content, 1)
                    if reply:
                        self.tell()
                    return Alive(place)
                continue
            rest = until - time.monotonic()
            if rest <= 0:
                return None
            self._wait(rest)

    def keep(self, place: int) -> None:
        """All up to this place is kept elsewhere."""
        self._kept = max(self._kept, place)
        self.tell()

    def tell(self, *, ask: bool = False) -> None:
        """Say what is kept, and perhaps ask how far the log was sent."""
        now = time.time_ns() // 1000 - EPOCH
        self._pg.put_copy_data(_STATUS.pack(b"r", self._kept, self._kept, self._kept, now, ask))
        self._pg.flush()
        self._told = time.monotonic()

    def _wait(self, seconds: float) -> None:
        readable(self._pg.socket, seconds)
        self._pg.consume_input()
