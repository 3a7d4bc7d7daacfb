"""A way to a server on which things go wrong when a test says so: cut, stalled, refused, or answered by somebody else.

A fault is set for the next connections or requests, not for a time, so that a test waits for events and for no clock.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from http import HTTPStatus

_PIECE = 1 << 16
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class TcpProxy:
    """Listens on `port` of 127.0.0.1 and passes on to `to`, a port of the same machine."""

    def __init__(self, to: int) -> None:
        self.to = to
        self.accepted = 0
        """Connections so far."""
        self.harmed = 0
        """Connections cut, stalled, refused or answered here so far."""
        self._lock = threading.Condition()
        self._cuts: list[tuple[int | None, int | None]] = []
        self._canned: list[bytes] = []
        self._stalling = self._refusing = 0
        self._open: set[socket.socket] = set()
        self._flowing = threading.Event()
        self._flowing.set()
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    # -- what goes wrong -------------------------------------------------------------------------------------------------------

    def cut(self, *, sent: int | None = None, answered: int | None = None, connections: int = 1) -> None:
        """The next connections break (by reset) once so many bytes went to the server, or came from it."""
        with self._lock:
            self._cuts += [(sent, answered)] * connections

    def stall(self, connections: int = 1) -> None:
        """The next connections are taken, and nothing ever comes back on them until they are closed."""
        with self._lock:
            self._stalling += connections

    def refuse(self, connections: int = 1) -> None:
        """The next connections are reset at once."""
        with self._lock:
            self._refusing += connections

    def answer(self, status: int, requests: int = 1, *, retry_after: int | None = None, body: bytes = b"") -> None:
        """The next HTTP requests are answered here, on new connections and on those that are open, and reach no server."""
        head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
        head += f"Retry-After: {retry_after}\r\n" if retry_after is not None else ""
        with self._lock:
            self._canned += [head.encode() + b"\r\n" + body] * requests

    def pause(self) -> None:
        """Nothing passes any more, either way."""
        self._flowing.clear()

    def resume(self) -> None:
        self._flowing.set()

    def cut_all(self) -> None:
        """Every connection that is open breaks now, as when the server dies."""
        with self._lock:
            found = list(self._open)
        for one in found:
            _reset(one)

    def heal(self) -> None:
        """What was set and hasn't happened yet doesn't."""
        with self._lock:
            self._cuts, self._canned, self._stalling, self._refusing = [], [], 0, 0
        self.resume()

    def wait_for_harm(self, count: int, seconds: float = 60.0) -> None:
        """Until so many connections were harmed in all. Raises TimeoutError."""
        with self._lock:
            if not self._lock.wait_for(lambda: self.harmed >= count, seconds):
                raise TimeoutError(f"{self.harmed} of {count} connections were harmed")

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # wakes who accepts
        self._listening.close()
        self.heal()
        self.cut_all()

    # -- what passes -----------------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                with self._lock:
                    self.accepted += 1
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with self._lock:
            refused, stalled = self._refusing > 0, self._refusing == 0 and self._stalling > 0
            self._refusing -= refused
            self._stalling -= stalled
            sent, answered = self._cuts.pop(0) if self._cuts and not refused and not stalled else (None, None)
        with self._kept(client):
            if refused or stalled:
                self._harm()
                while stalled and client.recv(_PIECE):
                    pass
                _reset(client)
                return
            with contextlib.suppress(OSError), self._kept(socket.create_connection(("127.0.0.1", self.to))) as server:
                back = threading.Thread(target=self._pass, args=(server, client, answered, False), daemon=True)
                back.start()
                self._pass(client, server, sent, True)
                back.join()

    @contextlib.contextmanager
    def _kept(self, one: socket.socket) -> Iterator[socket.socket]:
        with self._lock:
            self._open.add(one)
        try:
            with contextlib.suppress(OSError):
                yield one
        finally:
            with self._lock:
                self._open.discard(one)
            one.close()

    def _pass(self, here: socket.socket, there: socket.socket, limit: int | None, asking: bool) -> None:
        """Until one side ends, or `limit` bytes have passed."""
        left = limit
        with contextlib.suppress(OSError):
            while piece := here.recv(_PIECE):
                self._flowing.wait()
                if asking and (canned := self._canned_for(piece)) is not None:
                    _answer(here, piece, canned)
                    break
                there.sendall(piece if left is None else piece[:left])
                if left is not None and (left := left - len(piece)) <= 0:
                    self._harm()
                    _reset(here)
                    _reset(there)
                    break
        for one in (here, there):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _canned_for(self, piece: bytes) -> bytes | None:
        """What is answered here, if a request begins and that is wished."""
        first = piece.partition(b"\r\n")[0]
        if not first.endswith((b" HTTP/1.1", b" HTTP/1.0")):
            return None
        with self._lock:
            canned = self._canned.pop(0) if self._canned else None
        if canned is not None:
            self._harm()
        return canned

    def _harm(self) -> None:
        with self._lock:
            self.harmed += 1
            self._lock.notify_all()


def _answer(client: socket.socket, request: bytes, canned: bytes) -> None:
    """Once the whole request has come: a client that still writes may miss what is said."""
    while b"\r\n\r\n" not in request:
        request += client.recv(_PIECE)
    head, _, body = request.partition(b"\r\n\r\n")
    fields = dict(line.lower().partition(b":")[::2] for line in head.split(b"\r\n")[1:])
    left = int(fields.get(b"content-length", b"0")) - len(body)
    if left > 0 and fields.get(b"expect", b"").strip() == b"100-continue":
        client.sendall(_CONTINUE)
    while left > 0 and (piece := client.recv(_PIECE)):
        left -= len(piece)
    client.sendall(canned)


def _reset(one: socket.socket) -> None:
    """An end without a farewell, at once, also for those that wait on the socket."""
    with contextlib.suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        one.shutdown(socket.SHUT_RDWR)
