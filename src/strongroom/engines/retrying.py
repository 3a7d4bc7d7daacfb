"""When is a request to a server made again, and after how long? Only one that may be made twice."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from strongroom.errors import Unreachable
from strongroom.repository.patience import retry_seconds

T = TypeVar("T")
_FIRST, _LONGEST = 0.1, 5.0


class Retrying:
    """Of one connection. A server that never answered isn't waited for: its address may be wrong."""

    def __init__(self) -> None:
        self._met = False

    def call(self, request: Callable[[], T]) -> T:
        """What `request` gives, which is made again while it raises Unreachable, until `retry_seconds` after the first time. Raises
        the last of these."""
        until, pause = 0.0, _FIRST
        while True:
            try:
                answer = request()
            except Unreachable as error:
                now = time.monotonic()
                until = until or now + retry_seconds()
                wait = pause * random.uniform(0.5, 1.5) if error.after is None else error.after  # noqa: S311 - no secret
                if not (self._met or error.busy) or now + wait > until:
                    raise
                time.sleep(wait)
                pause = min(2 * pause, _LONGEST)
            else:
                self._met = True
                return answer
