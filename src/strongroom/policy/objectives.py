"""Are the objectives met? The age of the newest recovery point and what drills measured, against what was promised. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from strongroom.policy.quantities import said


@dataclass(frozen=True, slots=True)
class Standing:
    """One objective of one source: seconds wanted, seconds achieved (None if there is nothing that could show it: broken). Of a
    replica (`source` is empty) its lag, or whether it can be kept at all; `problem` says why it can't."""

    policy: str
    source: str
    objective: str
    wanted: float
    achieved: float | None
    replica: str = ""
    problem: str = ""

    @property
    def met(self) -> bool:
        return self.achieved is not None and self.achieved <= self.wanted

    @property
    def name(self) -> str:
        return f"{self.policy}/{self.source or self.replica}/{self.objective}"

    def __str__(self) -> str:
        if not isfinite(self.wanted):
            return f"replica {self.replica}: {self.problem or 'it is kept in step'}"
        achieved = "nothing shows it" if self.achieved is None else said(self.achieved)
        return f"{self.objective} of {self.source or self.replica}: {achieved}, wanted at most {said(self.wanted)}"


def turned(standings: list[Standing], broken: set[str]) -> tuple[list[Standing], list[Standing]]:
    """Which are broken now and weren't, and which are met again; `broken` are the names of those that were broken before."""
    return [one for one in standings if not one.met and one.name not in broken], [
        one for one in standings if one.met and one.name in broken
    ]
