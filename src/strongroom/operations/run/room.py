"""What does the daemon ask of an opened repository? What the library offers, named by protocols: it comes from above."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from strongroom.progress import Pace
from strongroom.repository import Repository

if TYPE_CHECKING:
    from collections.abc import Mapping

    from strongroom.operations.backup.run import BackupReport
    from strongroom.operations.drill import DrillHistory, DrillReport
    from strongroom.operations.forget import ForgetOptions, ForgetReport
    from strongroom.operations.hold import HoldOptions, HoldReport
    from strongroom.operations.journal.status import StreamStatus
    from strongroom.operations.lock.extend import ExtendReport
    from strongroom.operations.prune.run import PruneReport
    from strongroom.operations.replicate import Lag, ReplicateOptions
    from strongroom.operations.verify import Level, VerifyReport
    from strongroom.repository.holds import HoldRecord


class Room(Protocol):
    """An opened repository."""

    repository: Repository

    def backup(
        self,
        source: str,
        *,
        model: str | None = None,
        tags: Mapping[str, str] | None = None,
        probes: int | None = None,
        reread: bool = False,
        tenant_column: str | None = None,
        pace: Pace = ...,
    ) -> BackupReport: ...

    def verify(
        self, snapshot: str | None = None, *, level: Level | None = None, budget: int | None = None, scratch: Path | None = None
    ) -> VerifyReport: ...

    def forget(self, options: ForgetOptions) -> ForgetReport: ...

    def prune(self) -> PruneReport: ...

    def extend_locks(self) -> ExtendReport: ...

    def hold(self, options: HoldOptions) -> HoldReport: ...

    def holds(self) -> list[HoldRecord]: ...

    def replicate(
        self, to: Iterable[str], options: ReplicateOptions | None = None, *, stop: threading.Event | None = None
    ) -> list[Lag]: ...

    def journal_status(self, source: str | None = None, *, ask: bool = False) -> list[StreamStatus]: ...


@runtime_checkable
class Drills(Protocol):
    """A room in which restores are practised."""

    def drill(self, target: str | None = None, **wish: Any) -> DrillReport:
        """Gives a `DrillReport`."""

    def drill_history(self, source: str | None = None) -> DrillHistory:
        """Those of one source, oldest first."""
