"""When is something due? Cron and intervals, what was missed, jitter. Pure: the moment is given. Needs cronsim (extra `policy`).

Cron is Debian's: where the clocks go forward, what is left out runs right after; where they go back, what has a fixed hour runs
once. An interval counts from when it was due last, so that it doesn't drift.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from strongroom.policy.quantities import seconds, span

if TYPE_CHECKING:
    from strongroom.policy.document import Timing

_LOOK_BACK = timedelta(days=400)
_MOST_MISSED = 1000


@dataclass(frozen=True, slots=True)
class Due:
    """What is to be run: for which moments (UTC, oldest first), how many more were passed over, and whether it is too late."""

    moments: tuple[datetime, ...]
    passed_over: int
    missed: bool

    @property
    def newest(self) -> datetime:
        return self.moments[-1]


def require_cron(expression: str, timezone: str) -> None:
    """Raises ValueError, with what is wrong with it."""
    try:
        zone = ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError("no such time zone; write one such as Europe/Paris") from error
    if len(expression.split()) != 5:
        raise ValueError("cron has five fields: minute, hour, day of month, month, day of week")
    try:
        next(CronSim(expression, datetime.now(zone)))
    except (CronSimError, StopIteration) as error:
        raise ValueError("not a cron expression that ever comes true: minute, hour, day of month, month, day of week") from error


def moments(timing: Timing, after: datetime) -> Iterator[datetime]:
    """When it is due after a moment, without jitter, in UTC, without end."""
    if timing.interval is not None:
        step = span(timing.interval)
        while True:
            after += step
            yield after
    assert timing.cron is not None  # noqa: S101 - the document's model says so
    for one in CronSim(timing.cron, after.astimezone(ZoneInfo(timing.timezone))):
        yield one.astimezone(UTC)


def a_day(timing: Timing, now: datetime) -> int:
    """How many times it is due in the fullest 24 hours of the month to come."""
    if timing.interval is not None:
        return -(-timedelta(days=1) // span(timing.interval))
    within: deque[datetime] = deque()
    most = 0
    for one in takewhile(lambda at: at <= now + timedelta(days=31), moments(timing, now)):
        within.append(one)
        while within[0] <= one - timedelta(days=1):
            within.popleft()
        most = max(most, len(within))
    return max(most, 1)


def shifted(name: str, timing: Timing, moment: datetime) -> datetime:
    """The moment and its jitter: for the same task and moment always the same, so that a restart changes nothing."""
    most = seconds(timing.jitter)
    number = int.from_bytes(hashlib.blake2b(f"{name} {moment.timestamp():.3f}".encode(), digest_size=8).digest())
    return moment + timedelta(seconds=most * number / 2**64)


def due(name: str, timing: Timing, last: datetime, now: datetime) -> Due | None:
    """What is due now of a task that was last due, and done with, at `last`. None if nothing is."""
    begin, skipped = last, 0
    if timing.interval is not None and now - last > _MOST_MISSED * span(timing.interval):
        skipped = (now - last) // span(timing.interval) - 1
        begin = last + skipped * span(timing.interval)
    elif timing.cron is not None:
        begin = max(last, now - _LOOK_BACK)
    coming = takewhile(lambda one: shifted(name, timing, one) <= now, moments(timing, begin))
    found: list[datetime] = []
    for one in coming:
        found.append(one)
        if len(found) > _MOST_MISSED:
            skipped += 1
            del found[0]
    if not found:
        return None
    limit = None if timing.grace is None else span(timing.grace)
    timely = [one for one in found if limit is None or now <= shifted(name, timing, one) + limit]
    missed = len(found) - len(timely)
    if not timely:
        return Due((found[-1],), skipped + missed - 1, True)
    run = timely[-1:] if timing.coalesce else timely
    return Due(tuple(run), skipped + len(found) - len(run), False)


def coming(name: str, timing: Timing, last: datetime, until: datetime) -> Iterator[tuple[datetime, datetime]]:
    """The moments after `last` and up to `until`: when it is due, and when it starts (with jitter)."""
    for one in moments(timing, last):
        if one > until:
            return
        yield one, shifted(name, timing, one)
