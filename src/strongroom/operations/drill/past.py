"""How did drills come out before? The reports in the repository, oldest first."""

from __future__ import annotations

from dataclasses import dataclass, replace

from strongroom.errors import Damaged, StrongroomError
from strongroom.operations.drill import signing
from strongroom.operations.drill.report import DrillReport
from strongroom.repository import Repository, drills


@dataclass(frozen=True, slots=True)
class DrillHistory:
    """All reports, oldest first, those that can't be believed, and the key by which anybody can check a new report (64 hex digits);
    `public_keys` are those of all epochs, the oldest first."""

    public_key: str
    reports: tuple[DrillReport, ...]
    problems: tuple[str, ...]
    public_keys: tuple[str, ...] = ()


def drill_history(repository: Repository, source: str | None = None) -> DrillHistory:
    """Of all sources, or of one."""
    known = tuple(one.hex() for one in repository.keys.public_keys)
    found, damaged = drills.read_all(repository.store, repository.keys)
    problems, reports = [str(one) for one in damaged], []
    for drill_id, document in found.items():
        name = drills.FOLDER + drill_id
        try:
            report = replace(signing.check(name, document, signing.claimed(document, known)), id=drill_id)
        except StrongroomError as error:
            problems.append(str(error if isinstance(error, Damaged) else Damaged(name, str(error))))
            continue
        if source is None or (report.point is not None and report.point.source == source):
            reports.append(report)
    return DrillHistory(known[-1], tuple(sorted(reports, key=lambda one: (one.started, one.id))), tuple(problems), known)
