"""Is what is kept really there, readable, restorable, and does it answer as it did? Four levels, each with all before it.

A check that looked at nothing is a failure, never a pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from strongroom.errors import NotFound
from strongroom.operations.verify.data import check_data
from strongroom.operations.verify.examination import Examination
from strongroom.operations.verify.journals import check_journals
from strongroom.operations.verify.objects import check_history, check_key_slots, check_objects, check_repairs
from strongroom.operations.verify.report import Finding, Level, VerifyOptions, VerifyReport
from strongroom.operations.verify.restored import check_restore
from strongroom.operations.verify.tenants import check_tenants
from strongroom.progress import SILENT, Progress
from strongroom.repository import PACKS, SNAPSHOTS, Repository
from strongroom.snapshots import history
from strongroom.snapshots.history import Snapshot

__all__ = ["Finding", "Level", "VerifyOptions", "VerifyReport", "examine", "verify"]


def verify(
    repository: Repository, snapshot: str | None = None, options: VerifyOptions | None = None, progress: Progress = SILENT
) -> VerifyReport:
    """Verify one snapshot ('latest' or the beginning of an id), or all of them and everything around them.

    Damage is returned as findings, not raised; raises Unreachable and the like if the store can't be asked.
    """
    return examine(Examination(repository, options or VerifyOptions(), progress), snapshot)


def examine(look: Examination, name: str | None) -> VerifyReport:
    """As `verify`, with everything noted in `look`."""
    with look.keeping_proofs():
        report = _examined(look, name)
    return replace(report, unkept=look.unkept)


def _examined(look: Examination, name: str | None) -> VerifyReport:
    level = look.options.level
    if look.options.scratch is not None and level >= Level.RESTORE and not look.options.scratch.is_dir():
        raise NotFound(f"{look.options.scratch} is not there", hint="give --scratch a directory with room for a restored database")
    look.repository.distrust_cache()
    snapshots, damaged = history.read_all(look.repository)
    check_history(look, snapshots, damaged)
    chosen = _chosen(look, name, snapshots)
    look.count("snapshots", len(chosen))
    sizes = {listed.name: listed.size for listed in look.repository.store.list(PACKS)}
    check_key_slots(look)
    check_repairs(look)
    check_objects(look, chosen, sizes)
    check_tenants(look, chosen)
    if level >= Level.DATA:
        check_data(look, chosen, sizes, later=name is None)
    if name is None:
        check_journals(look, data=level >= Level.DATA)
    if level >= Level.RESTORE:
        for snapshot in chosen:
            check_restore(look, snapshot)
    if level >= Level.ANSWERS and not look.looked_at.get("probes"):
        look.find("probes", "not one probe could be replayed", chosen)
    broken = {snapshot_id for finding in look.findings for snapshot_id in finding.snapshots}
    healthy = tuple(snapshot.id for snapshot in chosen if snapshot.id not in broken)
    return VerifyReport(level, look.findings, look.looked_at, healthy, look.recall, shredded=tuple(look.shredded))


def _chosen(look: Examination, name: str | None, snapshots: Sequence[Snapshot]) -> list[Snapshot]:
    if name is None:
        return list(snapshots)
    if name == "latest":
        return list(snapshots[-1:])
    found = [snapshot for snapshot in snapshots if snapshot.id.startswith(name.lower())]
    if len(found) != 1 and not any(finding.subject.startswith(SNAPSHOTS + name) for finding in look.findings):
        raise NotFound(f"{len(found)} snapshots' ids begin with {name!r}", hint="see 'strongroom snapshots'")
    return found
