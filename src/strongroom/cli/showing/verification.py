"""How do a verification and a repair look?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from strongroom.cli.render import BAD, OK, Part, counted, err, line, paragraph

if TYPE_CHECKING:
    from strongroom.operations.repair import RepairReport
    from strongroom.operations.verify import VerifyReport


def show_verify(report: VerifyReport) -> None:
    for finding in report.findings:
        broken = f"  breaks {', '.join(name[:12] for name in finding.snapshots)}" if finding.snapshots else ""
        line(BAD, f" {finding.subject}: {finding.problem}{broken}")
    for name, recall in report.recall.items():
        line(f"  recall {recall:.4f}  {name}")
    verdict: Part = ("✓ passed", "green") if report.passed else (f"✗ {counted(len(report.findings), 'findings')}", "red")
    looked = ", ".join(counted(value, name) for name, value in report.looked_at.items())
    paragraph(verdict, f"  level {report.level.name.lower()}: looked at {looked}", indent=2)
    for one in report.shredded:
        line(f"  tenant {one}, as was meant")
    if report.unkept:
        line(("!", "yellow"), f" what was proven could not be kept for the coverage: {report.unkept}", to=err)


def show_repair(report: RepairReport) -> None:
    for outcome in report.outcomes:
        did = "would be repaired" if report.dry_run else "repaired"
        found = f"  {outcome.finding.subject}: {outcome.finding.problem} → {outcome.how}"
        line(*((OK, f" {did}") if outcome.repaired else (BAD, " not repaired")), found)
    if report.dry_run:
        could = sum(one.repaired for one in report.outcomes)
        line(f"dry run: {could} of {counted(len(report.outcomes), 'findings')} would be repaired")
    else:
        show_verify(report.verified)
