"""Would a restore work, how long would it take, and would it answer right? It is done, and measured against the objectives."""

from __future__ import annotations

from strongroom.operations.drill.objectives import objectives_of
from strongroom.operations.drill.past import DrillHistory, drill_history
from strongroom.operations.drill.report import DrillReport
from strongroom.operations.drill.run import Drill, DrillOptions
from strongroom.progress import SILENT, Progress
from strongroom.repository import Repository

__all__ = ["DrillHistory", "DrillOptions", "DrillReport", "drill", "drill_history", "objectives_of"]


def drill(repository: Repository, options: DrillOptions | None = None, progress: Progress = SILENT) -> DrillReport:
    """Restore a recovery point to a scratch target, restart it, verify it on all levels, and measure. What fails is in the report;
    raises only what stands in the way of having one: a wrong request, no snapshot, a store or engine that can't be reached."""
    return Drill(repository, options or DrillOptions(), progress).run()
