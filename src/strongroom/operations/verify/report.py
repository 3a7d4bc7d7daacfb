"""What a verification is asked and what it answers: levels, options, findings, the report."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path


class Level(IntEnum):
    """How deep to look."""

    OBJECTS = 1
    DATA = 2
    RESTORE = 3
    ANSWERS = 4


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong: the object or collection, what is wrong with it, and the snapshots that it breaks."""

    subject: str
    problem: str
    snapshots: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was looked at (objects, bytes, rows, probes), what was found, and the ids of the snapshots that passed everything.
    `unkept` says why what was proven could not be kept for the coverage, '' if it was."""

    level: Level
    findings: tuple[Finding, ...]
    looked_at: dict[str, int]
    healthy: tuple[str, ...]
    recall: dict[str, float]
    unkept: str = ""
    shredded: tuple[str, ...] = ()
    """Whose rows are unreadable because their tenant was erased: a line each, and no finding."""

    @property
    def passed(self) -> bool:
        return not self.findings


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """`budget` bounds the bytes that level DATA reads (the least recently proven packs first); `scratch` is where restores go."""

    level: Level = Level.DATA
    budget: int | None = None
    scratch: Path | None = None
