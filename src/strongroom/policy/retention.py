"""Which snapshots stay, and why. Pure: no clock, no storage. The rules are restic's; periods are of UTC.

A rule such as daily=7 keeps the newest snapshot of each of the 7 newest days that have one. A snapshot stays if any rule keeps it.
As long as a rule hasn't found as many periods as it may keep, the oldest snapshot stays too: what a week may cost isn't lost
because the first week isn't over.

A snapshot is made when its writer says, if the store's own stamp of it agrees. Whoever can only add snapshots makes no other one
go by adding many: a day with more of them than any day before had counts for no rule, and all of that day stay.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

from strongroom.errors import WrongRequest

_DURATION = re.compile(r"(?:([0-9]{1,4})y)?(?:([0-9]{1,5})m)?(?:([0-9]{1,6})d)?(?:([0-9]{1,7})h)?")

LATE = timedelta(hours=48)
"""By which a manifest may be stored after the moment that it holds: no backup takes longer."""
AHEAD = timedelta(hours=24)
"""By which a writer's clock may be ahead of the store's."""

PERIODS: Mapping[str, Callable[[datetime], tuple[int, ...]]] = {
    "hourly": lambda at: (at.year, at.month, at.day, at.hour),
    "daily": lambda at: (at.year, at.month, at.day),
    "weekly": lambda at: at.isocalendar()[:2],
    "monthly": lambda at: (at.year, at.month),
    "yearly": lambda at: (at.year,),
}


@dataclass(frozen=True, slots=True)
class Duration:
    """Calendar years and months, then days and hours."""

    years: int = 0
    months: int = 0
    days: int = 0
    hours: int = 0

    @classmethod
    def parse(cls, text: str) -> Duration:
        """Of a text such as '14d' or '2y5m7d3h'; '0' is none. Raises WrongRequest."""
        found = _DURATION.fullmatch("0h" if text == "0" else text)
        if not text or found is None:
            raise WrongRequest(f"{text!r} is not a duration", hint="write years, months, days, hours: 14d, 36h or 2y5m7d3h")
        return cls(*(int(number or 0) for number in found.groups()))

    def before(self, moment: datetime) -> datetime:
        """The moment that lies this long before; the last of a month's days if it has too few. Never before the year 1."""
        months = moment.year * 12 + moment.month - 1 - (self.years * 12 + self.months)
        year, month = divmod(months, 12)
        try:
            day = min(moment.day, calendar.monthrange(year, month + 1)[1])
            return moment.replace(year=year, month=month + 1, day=day) - timedelta(days=self.days, hours=self.hours)
        except (ValueError, OverflowError):
            return datetime.min.replace(tzinfo=UTC)

    def __str__(self) -> str:
        parts = ((self.years, "y"), (self.months, "m"), (self.days, "d"), (self.hours, "h"))
        return "".join(f"{number}{unit}" for number, unit in parts if number) or "0h"


@dataclass(frozen=True, slots=True)
class Rules:
    """How many to keep by each rule (0: the rule isn't there), for how long before the newest, and which tags (value None: any)."""

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    within: Duration | None = None
    tags: tuple[tuple[str, str | None], ...] = ()
    pitr: Duration | None = None
    """Any moment of so long before now can be restored by a journal: all snapshots of that time stay, and the one before."""

    def __bool__(self) -> bool:
        return self != Rules()


@dataclass(frozen=True, slots=True)
class Dated:
    """What the rules look at: a snapshot's id, when it says that it was made (UTC), its tags, and when the store says that it was
    stored (None: the store says nothing)."""

    id: str
    at: datetime
    tags: Mapping[str, str] = field(default_factory=dict)
    stored: datetime | None = None


@dataclass(frozen=True, slots=True)
class Trust:
    """What somebody vouches for: up to how many snapshots a day are genuine (0: as many as the fullest day before had), and that
    they were made when they say, whenever they were stored (true of a copy). `usual` is the fullest day that is remembered: rules
    thin out what lies behind; `scheduled` is how many a schedule asks for."""

    a_day: int = 0
    created: bool = False
    usual: int = 0
    scheduled: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a snapshot stays, and every rule that keeps it; `doubted` if it counts for no rule."""

    id: str
    keep: bool
    reasons: tuple[str, ...]
    doubted: bool = field(default=False, compare=False)


def decide(snapshots: Iterable[Dated], rules: Rules, now: datetime, trust: Trust | None = None) -> list[Decision]:
    """What the rules say of the snapshots of one source, newest first; of those made in the same moment the greater id is newer.

    Some stay and count for no rule, since they must not push out what is real: one from after `now` (some clock was wrong), one
    that wasn't stored when it says that it was made, and those of a day that has more of them than any before.
    """
    ordered = sorted(snapshots, key=lambda one: (one.at, one.id), reverse=True)
    doubts = _doubts(ordered, now, trust or Trust())
    past = [one for one in ordered if one.id not in doubts]
    reasons: dict[str, list[str]] = {one.id: [doubts[one.id]] if one.id in doubts else [] for one in ordered}
    for number, one in enumerate(past[: rules.last], 1):
        reasons[one.id].append(f"last {number} of {rules.last}")
    for name, period in PERIODS.items():
        _newest_of_each(past, getattr(rules, name), name, period, reasons)
    for one in past:
        if rules.within is not None and one.at >= rules.within.before(past[0].at):
            reasons[one.id].append(f"within {rules.within}")
        for key, value in rules.tags:
            if key in one.tags and value in (None, one.tags[key]):
                reasons[one.id].append(f"tag {key}={one.tags[key]}")
    if rules.pitr is not None:
        window = [one for one in past if one.at > rules.pitr.before(now)]
        for one in past[: len(window) + 1]:  # a moment is restored from the snapshot before it
            reasons[one.id].append(f"PITR window of {rules.pitr}")
    told = ((one.id, tuple(reasons[one.id])) for one in ordered)
    return [Decision(name, bool(why), why or ("no rule keeps it",), name in doubts) for name, why in told]


def together(first: Rules, other: Rules) -> Rules:
    """Rules that keep all that either keeps."""
    return Rules(
        **{name: max(getattr(first, name), getattr(other, name)) for name in ("last", *PERIODS)},
        within=_longer(first.within, other.within),
        tags=tuple(dict.fromkeys((*first.tags, *other.tags))),
        pitr=_longer(first.pitr, other.pitr),
    )


def _longer(first: Duration | None, other: Duration | None) -> Duration | None:
    both = [one for one in (first, other) if one is not None]
    long_ago = datetime(4000, 3, 1, tzinfo=UTC)
    return min(both, key=lambda one: one.before(long_ago), default=None)


def _doubts(ordered: Sequence[Dated], now: datetime, trust: Trust) -> dict[str, str]:
    """Why snapshots count for no rule, by their ids."""
    doubts: dict[str, str] = {}
    for one in ordered:
        if one.at > now:
            doubts[one.id] = "made in the future"
        elif not trust.created and one.stored is not None and not -AHEAD <= one.stored - one.at <= LATE:
            doubts[one.id] = f"stored on {one.stored:%Y-%m-%d}, which isn't when it says it was made: a copy, or a forgery"
    days = _by_day(one for one in ordered if one.id not in doubts)
    most = trust.a_day or max(trust.usual, trust.scheduled)
    for day, made in sorted(days.items()):
        if most and len(made) > most:
            crowd = f"{len(made)} were made on {day}, and never more than {most} a day before: they count for no rule"
            doubts |= {one.id: crowd for one in made}
        elif not trust.a_day:
            most = max(most, len(made))
    return doubts


def fullest_day(snapshots: Iterable[Dated], decisions: Iterable[Decision]) -> int:
    """How many snapshots the fullest day has among those that count: what is to be remembered as usual."""
    doubtful = {one.id for one in decisions if one.doubted}
    return max((len(made) for made in _by_day(one for one in snapshots if one.id not in doubtful).values()), default=0)


def _by_day(snapshots: Iterable[Dated]) -> dict[date, list[Dated]]:
    days: dict[date, list[Dated]] = {}
    for one in snapshots:
        days.setdefault(one.at.date(), []).append(one)
    return days


def _newest_of_each(
    past: Sequence[Dated], count: int, name: str, period: Callable[[datetime], tuple[int, ...]], reasons: dict[str, list[str]]
) -> None:
    kept = 0
    seen: tuple[int, ...] | None = None
    for one in past:
        if kept == count:
            return
        if period(one.at) != seen:
            kept, seen = kept + 1, period(one.at)
            reasons[one.id].append(f"{name} {kept} of {count}")
        elif one is past[-1]:
            reasons[one.id].append(f"{name}, the oldest")
