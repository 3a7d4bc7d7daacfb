"""How is a source spared? Whoever reads it waits here: for the rates of bytes, and while it answers its users too slowly."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from strongroom.errors import Stopped, StrongroomError
from strongroom.policy.pressure import Allowance, Share

_LOOK_SECONDS = 0.05
_LONGEST_REST = 30.0


class TooSlow(StrongroomError):
    """The source answered too slowly for so long that the backup was given up; nothing was recorded."""

    default_hint = "find out what burdens the source, raise the latency ceiling, or choose a quieter time"


@dataclass(frozen=True, slots=True)
class Ceiling:
    """`ask` makes a query of the source (it raises if that fails), every `every` seconds; slower than `seconds` is too slow."""

    ask: Callable[[], None]
    seconds: float
    every: float
    patience: float


@dataclass(frozen=True, slots=True)
class Held:
    """How much a backup was held back: seconds waited for rates, seconds rested or paused for latency, queries, slow ones, and the
    slowest answer in seconds (0 if there was none)."""

    by_rate: float
    by_latency: float
    queries: int
    slow: int
    slowest: float


class Throttle:
    """A `model.Pace`. While its context is open, a thread of its own queries the source, if there is a ceiling."""

    def __init__(
        self,
        read: float | None,
        written: float | None,
        ceiling: Ceiling | None,
        stop: threading.Event,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Rates in bytes a second. `tell` hears when the backup is slowed down, pauses and goes on."""
        self._read = Allowance(read) if read else None
        self._written = Allowance(written) if written else None
        self._ceiling, self._stop, self._tell = ceiling, stop, tell
        self._share = Share(ceiling.seconds) if ceiling else None
        self._lock, self._changed, self._over = threading.Lock(), threading.Condition(), threading.Event()
        self._resumed = time.monotonic()
        self._by_rate = self._by_latency = 0.0
        self._thread = threading.Thread(target=self._watch, name="strongroom-latency", daemon=True)

    def __enter__(self) -> Throttle:
        self._resumed = time.monotonic()
        if self._ceiling:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._ceiling:
            self._thread.join(self._ceiling.every + 1)

    @property
    def held(self) -> Held:
        share = self._share or Share(math.inf)
        slowest = share.slowest if math.isfinite(share.slowest) else -1.0
        return Held(round(self._by_rate, 3), round(self._by_latency, 3), share.asked, share.slow, round(slowest, 4))

    def read(self, amount: int) -> None:
        """So many bytes were read of the source. Raises TooSlow, or Stopped while it waits."""
        self._by_rate += self._wait_for(self._read, amount)
        if self._share is not None:
            self._by_latency += self._spare(self._share)

    def written(self, amount: int) -> None:
        """So many bytes are about to be written to the repository. Any thread. Raises Stopped while it waits."""
        self._by_rate += self._wait_for(self._written, amount)

    def _wait_for(self, allowance: Allowance | None, amount: int) -> float:
        if allowance is None:
            return 0.0
        with self._lock:
            wait = allowance.take(amount, time.monotonic())
        if wait > 0 and self._stop.wait(wait):
            raise Stopped("stopped while it waited for its bandwidth")
        return wait

    def _spare(self, share: Share) -> float:
        """Rest as the latency asks for; give the seconds."""
        began = time.monotonic()
        rest = min(share.rest(began - self._resumed), _LONGEST_REST)
        if rest > 0 and self._stop.wait(rest):
            raise Stopped("stopped while it spared the source")
        while share.paused:
            assert self._ceiling is not None  # noqa: S101 - else there is no share
            if time.monotonic() - began > self._ceiling.patience:
                raise TooSlow(f"the source answered slower than {self._ceiling.seconds:g} s for {self._ceiling.patience:g} s")
            if self._stop.wait(_LOOK_SECONDS):
                raise Stopped("stopped while it spared the source")
        self._resumed = time.monotonic()
        return self._resumed - began

    def _watch(self) -> None:
        assert self._ceiling is not None and self._share is not None  # noqa: S101 - started only then
        while not self._over.is_set():
            before = self._share.share
            self._share.saw(_timed(self._ceiling.ask))
            if self._share.share < before == 1.0:
                self._tell(f"the source answers slower than {self._ceiling.seconds:g} s: the backup slows down")
            elif self._share.paused and before:
                self._tell(f"the source answers slower than {self._ceiling.seconds:g} s: the backup pauses")
            self._over.wait(self._ceiling.every)


def _timed(ask: Callable[[], None]) -> float:
    """Seconds that a query took; infinity if it failed."""
    began = time.monotonic()
    try:
        ask()
    except (OSError, StrongroomError):
        return math.inf
    return time.monotonic() - began
