"""What is to be copied, and what may not be: chosen and looked at before a byte of it moves."""

from __future__ import annotations

from dataclasses import dataclass, field

from strongroom.errors import Refused
from strongroom.journal.ends import read_tail, stream_names
from strongroom.operations.policy.residence import Residence
from strongroom.repository import Repository
from strongroom.snapshots import history
from strongroom.snapshots.history import Snapshot

MEMORY = 128 << 20


@dataclass(frozen=True, slots=True)
class Selection:
    """Which snapshots: by the beginnings of their ids, by source, by collection (those that hold no other); all without any."""

    snapshots: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    collections: tuple[str, ...] = ()

    @property
    def is_all(self) -> bool:
        return not (self.snapshots or self.sources or self.collections)

    def takes(self, snapshot: Snapshot) -> bool:
        record = snapshot.manifest
        return (not self.sources or record.source in self.sources) and (
            not self.collections or {one.name for one in record.collections} <= set(self.collections)
        )


@dataclass(frozen=True, slots=True)
class CopyOptions:
    """`region` names that of a replica which has none. `leave_out`: what residency forbids is left out instead of refused.
    `follow_forget`: what was forgotten is forgotten at the replica, too. `memory` bytes of objects at once, `bandwidth` bytes a
    second (0: no limit). `read_back`: read from the replica what was stored there, and check it."""

    selection: Selection = field(default_factory=Selection)
    region: str | None = None
    leave_out: bool = False
    follow_forget: bool = False
    memory: int = MEMORY
    bandwidth: int = 0
    read_back: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """`snapshots` to be at the replica, oldest first; `streams` of the journal; what was left out, and why; `damaged` manifests.
    `whole`: everything is, so packs go as they are. `withheld` are the ids that this replica isn't given."""

    snapshots: tuple[Snapshot, ...]
    streams: tuple[str, ...]
    left_out: tuple[str, ...]
    damaged: tuple[str, ...]
    whole: bool
    withheld: frozenset[str] = frozenset()


def plan_copy(primary: Repository, residence: Residence, options: CopyOptions, fresh: frozenset[str]) -> Plan:
    """`fresh` are the snapshots that the replica lacks: the others are neither read nor asked about. Raises Refused (nothing was
    sent), NotFound if a name means no snapshot, Damaged."""
    chosen = options.selection
    named = {history.find(primary, name).id for name in chosen.snapshots}
    found, damaged = history.read_some(primary, sorted(fresh & named if named else fresh))
    taken, left = [], []
    for snapshot in found:
        if not chosen.takes(snapshot):
            continue
        problem = residence.problem_of_snapshot(snapshot)
        if problem is None:
            taken.append(snapshot)
        elif options.leave_out:
            left.append(f"snapshot {snapshot.id[:12]}: {_why(problem)}")
        else:
            raise problem
    kept, refused = ([], []) if chosen.snapshots or chosen.collections else _streams(primary, residence, options)
    whole = not residence.rules and chosen.is_all
    unreadable = {problem.subject.rpartition("/")[2] for problem in damaged}
    withheld = fresh - {one.id for one in taken} - unreadable
    problems = tuple(str(problem) for problem in damaged)
    return Plan(tuple(taken), tuple(kept), (*left, *refused), problems, whole, withheld)


def _streams(primary: Repository, residence: Residence, options: CopyOptions) -> tuple[list[str], list[str]]:
    """The journals' streams that may be there. A segment holds changes of any collection of its source."""
    kept, left = [], []
    for stream in stream_names(primary):
        tail = read_tail(primary, stream)
        if tail is None:
            continue
        source = tail.head.source
        if options.selection.sources and source not in options.selection.sources:
            continue
        problem = residence.problem(source, ())
        if problem is None:
            kept.append(stream)
        elif options.leave_out:
            left.append(f"journal of {source}: {_why(problem)}")
        else:
            raise problem
    return kept, left


def _why(problem: Refused) -> str:
    return str(problem).removesuffix(": nothing was sent")
