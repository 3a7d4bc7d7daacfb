"""What must a restore come to, and did it? 'rpo=5m,rto=30m,recall=0.95,p95=50ms'. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from strongroom.errors import WrongRequest

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m|h|d)")
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
TIMES = ("rpo", "rto", "p50", "p95")
SHARES = ("recall",)
FACTORS = ("envelope",)
NAMES = (*TIMES, *SHARES, *FACTORS)
_FORM = "write it as rpo=5m,rto=30m,recall=0.95,p50=20ms,p95=50ms,envelope=3; any of them"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One objective: what was wanted, what was measured (None if nothing was: that fails), and by how much it was missed (0 if it
    was met, None if nothing was measured). Seconds, or a share from 0 to 1, or a factor."""

    name: str
    wanted: float
    measured: float | None
    passed: bool
    missed_by: float | None

    @property
    def limit(self) -> str:
        """'at most 5 min'."""
        return f"at {'least' if self.name in SHARES else 'most'} {_shown(self.name, self.wanted)}"

    @property
    def verdict(self) -> str:
        """'met', 'missed by 3 min', or 'was not measured'."""
        if self.missed_by is None:
            return "was not measured"
        return "met" if self.passed else f"missed by {_shown(self.name, self.missed_by)}"

    def __str__(self) -> str:
        measured = f" {_shown(self.name, self.measured)}" if self.measured is not None else ""
        return f"{self.name}{measured}: {self.verdict} (wanted {self.limit})"


def parse(text: str) -> dict[str, float]:
    """Objective to limit. Raises WrongRequest."""
    wanted: dict[str, float] = {}
    for part in filter(None, (one.strip() for one in text.split(","))):
        name, equals, value = (one.strip() for one in part.partition("="))
        if name not in NAMES or not equals:
            raise WrongRequest(f"{part!r} is no objective", hint=_FORM)
        if name in wanted:
            raise WrongRequest(f"{name} is wanted twice", hint=_FORM)
        wanted[name] = _limit(name, value)
    return wanted


def objectives_of(wanted: Mapping[str, float] | str) -> dict[str, float]:
    """As text, or as limits by name. Raises WrongRequest."""
    if isinstance(wanted, str):
        return parse(wanted)
    if unknown := wanted.keys() - set(NAMES):
        raise WrongRequest(f"{min(unknown)!r} is no objective", hint=f"they are {', '.join(NAMES)}")
    return {name: float(limit) for name, limit in wanted.items()}


def _limit(name: str, value: str) -> float:
    if name in TIMES:
        found = _DURATION.fullmatch(value)
        if not found:
            raise WrongRequest(f"{name}={value} is no time", hint="write a number with us, ms, s, m, h or d, such as 30m")
        return float(found[1]) * _SECONDS[found[2]]
    try:
        limit = float(value)
    except ValueError:
        limit = math.nan
    if not math.isfinite(limit) or limit <= 0 or (name in SHARES and limit > 1):
        form = "a share above 0 and up to 1, such as 0.95" if name in SHARES else "a factor above 0, such as 3"
        raise WrongRequest(f"{name}={value} is no such limit", hint=f"write {form}")
    return limit


def judge(wanted: Mapping[str, float], measured: Mapping[str, float | None]) -> tuple[Outcome, ...]:
    """Each objective, in the order of `NAMES`. What wasn't measured isn't met."""
    return tuple(_outcome(name, wanted[name], measured.get(name)) for name in NAMES if name in wanted)


def _outcome(name: str, limit: float, value: float | None) -> Outcome:
    if value is None or not math.isfinite(value):
        return Outcome(name, limit, None, False, None)
    missed = max(0.0, limit - value if name in SHARES else value - limit)
    return Outcome(name, limit, value, missed == 0.0, missed)


def _shown(name: str, value: float) -> str:
    if name in TIMES:
        return duration(value)
    return f"{value:.4g}" if name in SHARES else f"{value:.2f}x"


def duration(seconds: float) -> str:
    """'0.04 ms', '85 ms', '4.2 s', '3 min 20 s', '5 h 3 min', '2 d 4 h'."""
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms" if seconds < 0.1 else f"{seconds * 1e3:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, name, below, smaller in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // below
            return f"{whole // size} {name}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"
