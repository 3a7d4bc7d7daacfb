"""How fast may a source be read? A rate of bytes, and a share of the time that shrinks while the source answers slowly. Pure."""

from __future__ import annotations

from dataclasses import dataclass

_SMALLEST_SHARE = 1 / 16
_GROWTH = 1 / 8
_EASY = 0.8
"""Only well below the ceiling a backup speeds up again, so that it doesn't swing around it."""


@dataclass
class Allowance:
    """Bytes that may pass at a rate (bytes a second), saved up for at most a quarter of a second."""

    rate: float
    saved: float = 0.0
    at: float | None = None

    def take(self, amount: int, now: float) -> float:
        """Seconds to wait before `amount` bytes pass, at monotonic time `now`."""
        if self.at is None:
            self.at = now
        self.saved = min(self.saved + (now - self.at) * self.rate, self.rate / 4) - amount
        self.at = now
        return max(0.0, -self.saved / self.rate)


@dataclass
class Share:
    """Which share of the time a backup works: 1 at first, halved with each slow answer, then none until the source answers well."""

    ceiling: float
    share: float = 1.0
    slowest: float = 0.0
    slow: int = 0
    asked: int = 0

    @property
    def paused(self) -> bool:
        return self.share == 0

    def saw(self, latency: float) -> None:
        """A query of the source took `latency` seconds (infinity: it wasn't answered)."""
        self.asked += 1
        self.slowest = max(self.slowest, latency)
        if latency > self.ceiling:
            self.slow += 1
            self.share = self.share / 2 if self.share > _SMALLEST_SHARE else 0.0
        elif self.paused:
            self.share = _SMALLEST_SHARE
        elif latency <= self.ceiling * _EASY:
            self.share = min(1.0, self.share + _GROWTH)

    def rest(self, worked: float) -> float:
        """Seconds to rest after `worked` seconds of work. Not while paused."""
        return 0.0 if self.paused else worked * (1 / self.share - 1)
