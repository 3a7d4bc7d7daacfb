"""How does a server tell all that it holds, and all that it is told from then on? As it tells a replica.

PSYNC gives an RDB, which is the state at one offset of the replication stream exactly (the server forks to write it), and the
stream from there on. A replica writes nothing to the server; as any other it costs a fork, and shows in INFO replication.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, BinaryIO

from strongroom.engines.redis.server import Address, client_of, library, speaking
from strongroom.engines.waiting import readable
from strongroom.errors import Gap, Refused, SourceChanged, Unreachable

Command = tuple[bytes, ...]

_READ = 1 << 18
_SILENCE = 120.0
"""A server sends something every ten seconds, and a line feed every second while it prepares."""
_ACKNOWLEDGE, _OFTEN = 1.0, 0.1
"""A server sends nothing of the stream before the first acknowledgement that comes when it is done with the RDB."""


class Replica:
    """A connection that the server takes for a replica's."""

    def __init__(self, address: Address) -> None:
        """Raises Unreachable, Refused."""
        self._address = address
        self._client = client_of(address)
        self._connection: Any = None
        self._buffer = bytearray()
        self._at = 0
        self.log = ""
        self.offset = 0
        self._acknowledged, self._said = 0, 0.0
        self._begun = self._streaming = False
        with speaking(address, Refused):
            self._connection = self._client.connection_pool.make_connection()
            self._connection.connect()
            self._ask("REPLCONF", "listening-port", "0")
            self._ask("REPLCONF", "capa", "eof", "capa", "psync2")
            self._socket = self._connection._sock

    def close(self) -> None:
        if self._connection is not None:
            self._connection.disconnect()
        self._client.close()

    def _ask(self, *words: str) -> Any:
        self._connection.send_command(*words)
        return self._connection.read_response()

    # -- beginning -------------------------------------------------------------------------------------------------------------

    def begin(self, state: BinaryIO | None) -> None:
        """From now on, with the state of now written to a file, if there is one. Sets `log` and `offset`. Raises Refused if the
        server has no replicas of this kind, Unreachable."""
        if state is None:
            self._want_no_keys()
        words = self._handshake(b"PSYNC", b"?", b"-1")
        if words[0] != b"+FULLRESYNC":
            raise self._refusal(words)
        self.log, self.offset = words[1].decode(), int(words[2])
        self._receive(state)
        self._acknowledged, self._begun = self.offset, True
        self._acknowledge()

    def resume(self, log: str, offset: int) -> None:
        """After this place of the stream. Raises Gap if the server doesn't have it any more."""
        self._want_no_keys()
        words = self._handshake(b"PSYNC", log.encode(), str(offset + 1).encode())
        if words[0] == b"+FULLRESYNC":
            raise Gap(f"Redis' backlog doesn't go back to offset {offset}, or the server is another one: enlarge repl-backlog-size")
        if words[0] != b"+CONTINUE":
            raise self._refusal(words)
        self.log = words[1].decode() if len(words) > 1 else log
        self.offset = self._acknowledged = offset
        self._begun = True
        self._acknowledge()

    def _want_no_keys(self) -> None:
        """The RDB, if there is to be one, without any key; servers before Redis 7 send all."""
        with suppress(library().ResponseError):
            self._ask("REPLCONF", "rdb-filter-only", "")

    def _handshake(self, *words: bytes) -> list[bytes]:
        self._socket.sendall(_encoded(words))
        while not (line := self._line()):
            pass  # line feeds keep the connection alive
        return line.split()

    def _refusal(self, words: Sequence[bytes]) -> Exception:
        said = b" ".join(words).decode(errors="replace").lstrip("-")
        if said.startswith(("NOMASTERLINK", "LOADING", "BUSY")):
            return Unreachable(f"{self._address.url}: {said}")
        return Refused(f"{self._address.url} takes no replica: {said}", hint="allow its user PSYNC and REPLCONF")

    def _receive(self, state: BinaryIO | None) -> None:
        """The RDB, of a length that is told, or up to a mark."""
        while not (line := self._line()):
            pass
        kept = state.write if state is not None else lambda _: None
        if not line.startswith(b"$EOF:"):
            left = int(line[1:])
            while left:
                part = self._some(left)
                kept(part)
                left -= len(part)
            return
        mark, tail = line[5:], b""
        while True:
            tail += self._some(_READ)
            if tail.endswith(mark):
                kept(tail[: -len(mark)])
                return
            kept(tail[: -len(mark)])
            tail = tail[-len(mark) :]

    # -- the stream ------------------------------------------------------------------------------------------------------------

    def commands(self, until: int | None = None, most: int = 8 << 20) -> list[tuple[int, Command]]:
        """What came, with the offset after each command: all that is there now (at most about `most` bytes), or all up to offset
        `until`, for which it waits. Raises Unreachable, SourceChanged."""
        found: list[tuple[int, Command]] = []
        size = 0
        while True:
            while size < most and (until is None or self.offset < until):
                one = self._command()
                if one is None:
                    break
                command, length = one
                self.offset += length
                self._streaming = True
                size += length
                if command and command[0].upper() == b"REPLCONF":
                    self._acknowledge()
                elif command and command[0].upper() != b"PING":
                    found.append((self.offset, command))
            if size >= most or (until is not None and self.offset >= until):
                break
            if not self._fill(wait=until is not None):
                break
        if time.monotonic() - self._said > (_ACKNOWLEDGE if self._streaming else _OFTEN):
            self._acknowledge()
        return found

    def through(self, offset: int) -> Iterator[tuple[int, Command]]:
        """All up to this offset, however much it is."""
        while self.offset < offset:
            yield from self.commands(until=offset)

    def keep(self, offset: int) -> None:
        """All up to this offset is kept elsewhere."""
        self._acknowledged = offset
        self._acknowledge()

    def _acknowledge(self) -> None:
        with speaking(self._address):
            self._socket.sendall(_encoded((b"REPLCONF", b"ACK", str(self._acknowledged).encode())))
        self._said = time.monotonic()

    def _command(self) -> tuple[Command, int] | None:
        """The next command and its length, None if it isn't all there yet."""
        buffer, start = self._buffer, self._at
        if start >= len(buffer):
            return None
        end = buffer.find(b"\r\n", start)
        if buffer[start] == 10:
            self._at += 1
            return (), 1
        if end < 0:
            return None
        if buffer[start] != 42:
            raise SourceChanged(f"{self._address.url}: the replication stream can't be understood")
        at, words = end + 2, []
        for _ in range(int(buffer[start + 1 : end])):
            end = buffer.find(b"\r\n", at)
            if end < 0:
                return None
            size = int(buffer[at + 1 : end])
            if len(buffer) < end + size + 4:
                return None
            words.append(bytes(buffer[end + 2 : end + 2 + size]))
            at = end + size + 4
        self._at = at
        return tuple(words), at - start

    def _fill(self, *, wait: bool) -> bool:
        """Read what is there, or wait for it. False if there is nothing."""
        if self._at:
            del self._buffer[: self._at]
            self._at = 0
        with speaking(self._address):
            until = time.monotonic() + _SILENCE
            while not self._is_readable(_OFTEN if wait else 0):
                if not wait:
                    return False
                if time.monotonic() > until:
                    raise Unreachable(f"{self._address.url}: the server fell silent")
                if self._begun:
                    self._acknowledge()
            part = self._socket.recv(_READ)
        if not part:
            raise Unreachable(f"{self._address.url}: the server ended the replication", hint="it may have been too slow: try again")
        self._buffer += part
        return True

    def _is_readable(self, seconds: float) -> bool:
        pending = getattr(self._socket, "pending", lambda: 0)()  # of TLS
        return bool(pending) or readable(self._socket, seconds)

    def _line(self) -> bytes:
        while (end := self._buffer.find(b"\n", self._at)) < 0:
            self._fill(wait=True)
        line = bytes(self._buffer[self._at : end]).strip()
        self._at = end + 1
        return line

    def _some(self, most: int) -> bytes:
        if self._at >= len(self._buffer):
            self._fill(wait=True)
        part = bytes(self._buffer[self._at : self._at + most])
        self._at += len(part)
        return part


def _encoded(words: Sequence[bytes]) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
