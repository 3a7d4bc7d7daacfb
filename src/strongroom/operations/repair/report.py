"""What a repair is asked and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from strongroom.operations.verify import Finding, VerifyReport


@dataclass(frozen=True, slots=True)
class RepairOptions:
    """`sources` are URLs of engines to read again; with `own_sources` also those that the broken snapshots were made of."""

    sources: tuple[str, ...] = ()
    own_sources: bool = True
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a finding: repaired (in a dry run: could be), and how; or not, and why."""

    finding: Finding
    repaired: bool
    how: str


@dataclass(frozen=True, slots=True)
class RepairReport:
    """`verified` is what was found afterwards, read back from the store; in a dry run what was found before."""

    outcomes: tuple[Outcome, ...]
    verified: VerifyReport
    dry_run: bool

    @property
    def passed(self) -> bool:
        """Is nothing broken now?"""
        return self.verified.passed and not (self.dry_run and self.outcomes)


@dataclass
class Notes:
    """What was done about each object (its name, or 'blob ...'), and why something could not be."""

    done: dict[str, dict[str, None]] = field(default_factory=dict)
    failed: dict[str, dict[str, None]] = field(default_factory=dict)

    def did(self, subject: str, how: str) -> None:
        self.done.setdefault(subject, {})[how] = None

    def could_not(self, subject: str, why: str) -> None:
        self.failed.setdefault(subject, {})[why] = None

    def outcome(self, finding: Finding, left: Sequence[Finding] | None) -> Outcome:
        """`left` are the findings afterwards; None in a dry run: then it is what was noted that tells."""
        subject = finding.subject.partition(",")[0]
        done, failed = self.done.get(subject, {}), self.failed.get(subject, {})
        if left is None:
            repaired = bool(done) and not failed
        else:
            repaired = (finding.subject, finding.problem) not in {(one.subject, one.problem) for one in left}
        said = [*done, *failed] if not repaired else list(done)
        nothing = "it is whole now" if repaired else "no repair is known for that"
        return Outcome(finding, repaired, "; ".join(said) or nothing)
