"""Which ports can the servers of the tests listen on?"""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator

_PORTS = range(20_000, 32_000)
"""Below those that systems give to clients: nobody's outgoing connection takes one while its server starts, or starts anew."""
_draw = random.SystemRandom()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listened on a moment ago."""
    found = _free()
    return [next(found) for _ in range(count)]


def _free() -> Iterator[int]:
    for port in _draw.sample(_PORTS, len(_PORTS)):
        with socket.socket() as tried:
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
        yield port
