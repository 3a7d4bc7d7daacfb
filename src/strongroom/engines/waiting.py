"""When is there something to read from a server? Whatever the number of its descriptor is: `select.select` ends at 1,023."""

from __future__ import annotations

import select
import socket


def readable(source: socket.socket | int, seconds: float | None) -> bool:
    """Whether there is, after so many seconds at most; None waits until there is."""
    poll = select.poll()
    poll.register(source, select.POLLIN)
    return bool(poll.poll(None if seconds is None else max(0, 1000 * seconds)))
