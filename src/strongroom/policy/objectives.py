"""Are the objectives met? The age of the newest recovery point and what drills measured, against what was promised. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from strongroom.policy.quantities import said


@dataclass(frozen=True, slots=True)
class Standing:
    """One objective of one source: seconds wanted, seconds achieved (None if there is nothing that could show it: broken)."""

    policy: str
    source: str
    objective: str
    wanted: float
    achieved: float | None

    @property
    def met(self) -> bool:
        return self.achieved is not None and self.achieved <= self.wanted

    @property
    def name(self) -> str:
        return f"{self.policy}/{self.source}/{self.objective}"

    def __str__(self) -> str:
        achieved = "nothing shows it" if self.achieved is None else said(self.achieved)
        return f"{self.objective} of {self.source}: {achieved}, wanted at most {said(self.wanted)}"


def turned(standings: list[Standing], broken: set[str]) -> tuple[list[Standing], list[Standing]]:
    """Which are broken now and weren't, and which are met again; `broken` are the names of those that were broken before."""
    return [one for one in standings if not one.met and one.name not in broken], [
        one for one in standings if one.met and one.name in broken
    ]
