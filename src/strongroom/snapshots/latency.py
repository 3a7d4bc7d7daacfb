"""What do the seconds of many queries come to? Their median and 95th percentile. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

MEDIAN, HIGH, COUNT = "p50", "p95", "queries"


def summary(seconds: Sequence[float]) -> Mapping[str, float]:
    """'p50', 'p95' and 'queries' of some laps, at least one."""
    return {MEDIAN: percentile(seconds, 50), HIGH: percentile(seconds, 95), COUNT: len(seconds)}


def percentile(seconds: Sequence[float], share: float) -> float:
    """The smallest of the values that at least `share` percent of them don't exceed: one that was measured, none in between."""
    ordered = sorted(seconds)
    return ordered[max(0, math.ceil(share / 100 * len(ordered)) - 1)]
