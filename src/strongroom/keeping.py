"""What of a repository stays, what goes, and where else it is kept: retention, holds, erasure, replicas, residency."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from strongroom.access.gate import gated
from strongroom.governance import Governed
from strongroom.progress import SILENT, Progress
from strongroom.repository import holds, open_store
from strongroom.snapshots.holding import hold_records

if TYPE_CHECKING:
    from strongroom.operations.copy import CopyOptions, CopyReport
    from strongroom.operations.erase.run import EraseOptions, EraseReport
    from strongroom.operations.forget import ForgetOptions, ForgetReport
    from strongroom.operations.hold import HoldOptions, HoldReport
    from strongroom.operations.prune.run import PruneOptions, PruneReport
    from strongroom.operations.replicate import Lag, ReplicateOptions
    from strongroom.repository.holds import HoldRecord, Release
    from strongroom.repository.policies import Published
    from strongroom.repository.region import Region


@gated
class Keeping(Governed):
    """What `Strongroom` is asked about how long things are kept, and in which places."""

    def forget(self, options: ForgetOptions) -> ForgetReport:
        """Forget snapshots by name or by rules; with `dry_run` only say which, and why."""
        from strongroom.operations.forget import forget

        return forget(self.repository, options)

    def prune(self, options: PruneOptions | None = None, progress: Progress = SILENT) -> PruneReport:
        """Free the room of what no snapshot needs; takes no lock."""
        from strongroom.access.tokens import remove_ended
        from strongroom.operations.prune.run import prune

        if options is None or not options.dry_run:
            remove_ended(self.repository)
        return prune(self.repository, options, progress)

    def hold(self, options: HoldOptions) -> HoldReport:
        """Put snapshots, collections, a tenant or a source under a legal hold: nothing of them may go by any road."""
        from strongroom.operations.hold import place_hold

        return place_hold(self.repository, options)

    def holds(self) -> list[HoldRecord]:
        """All holds that were ever placed, oldest first, with their releases."""
        return hold_records(self.repository)

    def release_hold(self, hold: str, *, reason: str, authority: str) -> Release:
        """End the hold whose id begins so; the hold and its release stay in the repository."""
        return holds.release(self.repository, hold, reason, authority)

    def erase(self, options: EraseOptions, progress: Progress = SILENT) -> EraseReport:
        """See to it that rows never come back by any restore, say in which snapshots they still lie, destroy a tenant's keys."""
        from strongroom.operations.erase.run import erase

        return erase(self.repository, options, progress)

    def certificate(self, erasure: str) -> dict[str, Any]:
        """What was erased, by whom, where it still lies: signed, to be checked by `certificate.check` without the repository."""
        from strongroom.operations.erase.certificate import certify

        return certify(self.repository, erasure)

    def copy(self, to: str, options: CopyOptions | None = None, *, progress: Progress = SILENT) -> CopyReport:
        """Make or complete a replica in another store: the same repository, in a second place."""
        from strongroom.operations.copy import copy

        return copy(self.repository, open_store(to), options, progress)

    def replicate(self, to: Iterable[str], options: ReplicateOptions | None = None, **wish: Any) -> list[Lag]:
        """Keep replicas in step, each at its own pace, until `stop` (an Event) is set; `tell` hears of each one's `Lag`."""
        from strongroom.operations.replicate import replicate

        return replicate(self.repository, [open_store(one) for one in to], options, **wish)

    def name_region(self, region: str) -> Region:
        """Say, signed, in which region the store lies: what residency rules look at."""
        from strongroom.repository.region import name_region

        return name_region(self.repository, region)

    def publish_policy(self, document: Mapping[str, Any]) -> Published:
        """Store a policy document, signed, as the newest that holds for this repository."""
        from strongroom.repository.policies import publish

        return publish(self.repository, document)

    def published_policy(self) -> Published | None:
        """The newest policy document that was published here."""
        from strongroom.repository.policies import newest

        return newest(self.repository)
