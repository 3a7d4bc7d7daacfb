"""How long, and how much? '90s', '15m', '7d'; '64KiB', '50MiB'. Pure."""

from __future__ import annotations

import re
from datetime import timedelta

from strongroom.errors import WrongRequest

TIME = r"^[0-9]{1,9}(\.[0-9]{1,3})?(ms|s|m|h|d|w)$"
SIZE = r"^[0-9]{1,12}(\.[0-9]{1,3})?(B|kB|MB|GB|TB|KiB|MiB|GiB|TiB)$"
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_BYTES = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "TiB": 1 << 40,
}


def seconds(text: str) -> float:
    """Of '250ms', '90s', '15m', '6h', '7d', '2w'. Raises WrongRequest."""
    if not re.match(TIME, text):
        raise WrongRequest(f"{text!r} is no time", hint="write a number and ms, s, m, h, d or w: 90s, 15m, 7d")
    number, unit = re.split(r"(?<=[0-9])(?=[a-z])", text)
    return float(number) * _SECONDS[unit]


def span(text: str) -> timedelta:
    """As `seconds`. Raises WrongRequest."""
    return timedelta(seconds=seconds(text))


def size(text: str) -> int:
    """Bytes of '64KiB', '50MB'. Raises WrongRequest."""
    if not re.match(SIZE, text):
        raise WrongRequest(f"{text!r} is no size", hint="write a number and B, kB, MB, GB, KiB, MiB or GiB: 50MiB")
    number, unit = re.split(r"(?<=[0-9])(?=[A-Za-z])", text)
    return max(1, int(float(number) * _BYTES[unit]))


def said(seconds: float) -> str:
    """For people: '3.2 s', '15 min', '7.0 h', '2.0 d'."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} d"
