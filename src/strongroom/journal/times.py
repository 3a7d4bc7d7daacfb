"""Which moment does a text mean, as people write it? Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from strongroom.errors import WrongRequest

_AGO = re.compile(r"(\d+(?:\.\d+)?)\s*(s|sec|second|m|min|minute|h|hour|d|day|w|week)s?\s+ago")
_DURATION = re.compile(r"(\d{1,6})([smhdw])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def parse_duration(text: str) -> timedelta:
    """Of a text such as '90s', '30m', '8h', '7d' or '2w'. Raises WrongRequest."""
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise WrongRequest(f"{text!r} is not a duration", hint="write 30m, 8h or 7d")
    return timedelta(seconds=int(found[1]) * _UNITS[found[2]])


def parse_time(text: str, now: datetime) -> datetime | None:
    """A moment as people write it, with a time zone or in UTC: ISO 8601, or '10 minutes ago'. None if it is neither."""
    ago = _AGO.fullmatch(text.strip())
    if ago:
        return now - timedelta(seconds=float(ago[1]) * _UNITS[ago[2][0]])
    if text.isdigit():
        return None
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
