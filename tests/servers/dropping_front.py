"""A way to a server on which answers get lost: the request arrives, and nobody hears what came of it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time


class Front:
    """Listens on `port` and passes on to a server of this machine; what it answers once `drop_after` was asked for isn't."""

    def __init__(self, to: int) -> None:
        self._to = to
        self.dropping = threading.Event()
        self.dropped = 0
        self._asked = b""
        self.late = 0.0
        """Seconds for which the request whose answer is lost is held back, its caller gone."""
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def drop_after(self, asked: bytes) -> None:
        """From the next request on that has these bytes in it, no answer comes back until `dropping` is cleared."""
        self._asked = asked

    def close(self) -> None:
        self._listening.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(("127.0.0.1", self._to))
                threading.Thread(target=self._pass, args=(client, server, False), daemon=True).start()
                threading.Thread(target=self._pass, args=(server, client, True), daemon=True).start()

    def _pass(self, here: socket.socket, there: socket.socket, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while piece := here.recv(1 << 16):
                if answers and self.dropping.is_set():
                    self.dropped += 1
                    break
                if not answers and self._asked and self._asked in piece:
                    self._asked = b""
                    self.dropping.set()
                    if self.late:
                        piece += _rest(here)
                        here.shutdown(socket.SHUT_WR)
                        time.sleep(self.late)
                        there.sendall(piece)
                        time.sleep(2 * self.late)  # a server gives up what it hasn't begun once its caller is gone
                        break
                there.sendall(piece)
        for one in (here, there):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


def _rest(here: socket.socket) -> bytes:
    """What still comes of a request."""
    here.settimeout(0.3)
    found = b""
    with contextlib.suppress(TimeoutError):
        while piece := here.recv(1 << 16):
            found += piece
    return found
