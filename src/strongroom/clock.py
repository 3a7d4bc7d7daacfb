"""What time is it? One clock, that tests can set."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime


class Clock:
    """Wall time in UTC and a monotonic timer."""

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.perf_counter) -> None:
        self._wall = wall
        self._monotonic = monotonic

    def now(self) -> datetime:
        """The present moment, UTC, to the microsecond."""
        return datetime.fromtimestamp(self._wall(), UTC)

    def timer(self) -> float:
        """Seconds from an arbitrary start, never going back."""
        return self._monotonic()


SYSTEM_CLOCK = Clock()
