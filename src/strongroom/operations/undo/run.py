"""What a faulty ingest did is taken back, while later good writes stay: which operations are left out, and what that changes.

The snapshot is one of before the mistake. What comes of it, and of the journal without the mistake, is reckoned row by row before
anything is restored, and told.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from strongroom.engines.changes import CatalogChange, Change
from strongroom.errors import Refused, WrongRequest
from strongroom.journal import filters
from strongroom.journal.identities import identities_of
from strongroom.journal.marks import LOGS
from strongroom.journal.reckoning import Reckoning
from strongroom.journal.spans import Read, Span, spans
from strongroom.journal.stream import read_chain
from strongroom.journal.timeline import Moment
from strongroom.journal.times import parse_time
from strongroom.journal.undoing import Fate, RowFate, Undo, Undone, UndoPreview
from strongroom.operations.journal.batches import batches_of, named
from strongroom.operations.journal.moment import (
    MomentPlan,
    base_of,
    changes_before,
    changes_of,
    moment_of,
    plan_from,
    reader,
    stream_named,
)
from strongroom.operations.journal.status import iso
from strongroom.operations.restore.snapshot_rows import snapshot_rows
from strongroom.operations.undo.neighbours import Changed, Neighbours
from strongroom.progress import SILENT, Progress
from strongroom.repository import Repository
from strongroom.snapshots import history

_SAMPLE = 3
"""Rows of each fate that are told by name."""


@dataclass(frozen=True, slots=True)
class UndoRequest:
    """An ingest batch, or a filter (see `journal.filters`) and two times between which the mistake was made."""

    batch: str | None = None
    where: str | None = None
    between: tuple[str, str] | None = None

    @classmethod
    def of(cls, batch: str | None, where: str | None, between: tuple[str, str] | None) -> UndoRequest | None:
        """None if nothing is to be undone."""
        return None if (batch, where, between) == (None, None, None) else cls(batch, where, between)


def undo_of(repository: Repository, request: UndoRequest) -> Undo:
    """What is meant. Raises WrongRequest."""
    if request.batch is not None:
        if request.where is not None or request.between is not None:
            raise WrongRequest("--undo names a batch by itself", hint="leave --where and --between out, or --undo")
        return Undo(request.batch)
    if request.where is None or request.between is None:
        raise WrongRequest("--where and --between belong together", hint="--where FILTER --between T1 T2")
    now = repository.clock.now()
    times = [parse_time(one, now) for one in request.between]
    for text, time in zip(request.between, times, strict=True):
        if time is None:
            raise WrongRequest(f"{text!r} is no time", hint="write 2026-11-24T10:15:00Z or '10 minutes ago'")
    since, until = (int(time.timestamp() * 1e6) for time in times if time is not None)
    if since > until:
        raise WrongRequest(f"{request.between[0]} is after {request.between[1]}", hint="--between EARLIER LATER")
    return Undo(None, filters.parse(request.where), since, until)


def plan_undo(
    repository: Repository, request: UndoRequest, at: str | None = None, source: str | None = None, progress: Progress = SILENT
) -> MomentPlan:
    """How to come to the state at a moment, the last one that is kept unless `at` says otherwise, without what is to be undone.

    Raises WrongRequest, NotFound (no journal) or Refused (no operation is meant, a hole or a lost snapshot is in the way, and all
    that `plan_moment` refuses)."""
    undo = undo_of(repository, request)
    found = spans(read_chain(repository, stream_named(repository, source)))
    if found and found[0].head.kind in LOGS:
        raise WrongRequest(
            "what such a log did to which rows only its engine knows: nothing of it can be left out",
            hint="follow the database itself (pgvector://), or restore --at a moment before the mistake",
        )
    read = reader(repository)
    moment = _last(found) if at is None else moment_of(repository, found, at, read)
    first = _first_suspects(found, moment, undo, read)
    if not first:
        raise _nothing(repository, found, undo, moment)
    base = base_of(repository, moment, read, before=first)
    if base is None:
        raise Refused(
            f"no snapshot is left of before {_what(undo)}: it can't be told from what was there",
            hint="'strongroom snapshots' shows which there are; restore one of them, or --at a moment, instead",
        )
    plan = plan_from(repository, moment, base, read)
    with tempfile.TemporaryDirectory(prefix="strongroom-undo-") as scratch:
        undone = _reckon(repository, plan, undo, Path(scratch), progress)
    if not len(undone.taken):
        raise _nothing(repository, found, undo, moment)
    return replace(plan, operations=plan.operations + undone.more, undone=undone)


def _last(found: Sequence[Span]) -> Moment:
    if not found:
        raise Refused("there is nothing in the journal yet", hint="'strongroom journal status' shows what is kept")
    return Moment(found[-1], found[-1].last, found[-1].until)


def _first_suspects(found: Sequence[Span], moment: Moment, undo: Undo, read: Read) -> dict[str, int]:
    """For each scope the number of the first operation up to the moment that may be meant. Raises Refused if some are beyond a
    hole."""
    first: dict[str, int] = {}
    for span in found:
        numbers = dict[str, int]()
        for front in span.fronts:
            head = front.head
            if undo.batch in head.batches if undo.batch is not None else head.earliest <= undo.until and head.latest >= undo.since:
                for number, change in _numbered(head.first, read(front)):
                    if not isinstance(change, CatalogChange) and change.scope not in numbers:
                        places = np.flatnonzero(undo.suspects(change))
                        if len(places):
                            numbers[change.scope] = number + int(places[0])
        if span is moment.span:
            return {scope: number for scope, number in numbers.items() if number <= moment.number}
        if numbers and span.last >= min(numbers.values()):
            first = numbers
            raise Refused(
                f"{_what(undo)} was written before a hole in the journal, and what happened in the hole isn't known",
                hint=f"undo it in the state of before: --at {iso(span.until)}; or narrow --between",
            )
    return first


def _numbered(first: int, changes: Sequence[Change]) -> list[tuple[int, Change]]:
    found = []
    for change in changes:
        found.append((first, change))
        first += len(change)
    return found


def _reckon(repository: Repository, plan: MomentPlan, undo: Undo, scratch: Path, progress: Progress) -> Undone:
    reckoning = Reckoning(scratch, undo)
    try:
        for change in changes_of(repository, plan):
            reckoning.touch(change)
        neighbours = _take(repository, plan, reckoning, scratch, progress)
        for change in changes_of(repository, plan):
            reckoning.settle(change)
        changed = Changed()
        for identity, searches in neighbours.items():
            if identity in reckoning.real.present and identity not in reckoning.real.emptied:
                for search in searches:
                    search.compare(reckoning, identity, changed)
        preview = _preview(reckoning, undo, changed)
        return Undone(undo, reckoning.taken, reckoning.replacing, preview)
    finally:
        reckoning.close()


def _take(
    repository: Repository, plan: MomentPlan, reckoning: Reckoning, scratch: Path, progress: Progress
) -> dict[str, list[Neighbours]]:
    """Show the reckoning the snapshot's rows. Gives the searches among those that no operation touches."""
    snapshot = history.find(repository, plan.snapshot)
    collections = snapshot.manifest.collections
    identities = identities_of(
        [one.catalog for one in collections], changes_of(repository, plan), lambda: changes_before(repository, plan)
    )
    searches = dict[str, list[Neighbours]]()
    for number, collection in enumerate(collections):
        identity = identities[collection.name]
        searches[identity] = [Neighbours(repository, collection, probe) for probe in collection.probes]
        reckoning.real.present[identity] = None
        reckoning.names[identity] = collection.name
        place = scratch / f"rows-{number}"
        place.mkdir(mode=0o700)
        progress.begin(f"rows of {collection.name}", collection.count, "rows")
        for batch in snapshot_rows(repository, snapshot, collection, place):
            touched = reckoning.take(identity, collection.name, batch)
            rest = batch if not touched.any() else batch.filter(~touched)
            for search in searches[identity]:
                search.add(rest)
            progress.advance(batch.num_rows)
    return searches


def _preview(reckoning: Reckoning, undo: Undo, changed: Changed) -> UndoPreview:
    rows, sample = Counter[str](), list[RowFate]()
    collections = dict[str, dict[str, int]]()
    for identity, name in reckoning.names.items():
        here, told = Counter[str](), Counter[str]()
        for one in reckoning.reckoned(identity):
            here[one.fate.value] += 1
            if told[one.fate.value] < _SAMPLE:
                told[one.fate.value] += 1
                sample.append(RowFate(name, one.id, one.fate, one.changed))
        if here:
            collections[name] = dict(here)
            rows += here
    first, last = reckoning.times or (0, 0)
    return UndoPreview(
        what=_what(undo),
        operations=len(reckoning.taken),
        first=iso(first),
        last=iso(last),
        rows=dict(rows),
        collections=collections,
        sample=tuple(sorted(sample, key=lambda one: list(Fate).index(one.fate))),
        lost_updates=reckoning.lost_updates,
        replacements=len(reckoning.replacing),
        k=changed.k,
        probes=changed.probes,
        probes_changed=changed.changed,
        neighbours=changed.neighbours,
        again=reckoning.again,
    )


def _what(undo: Undo) -> str:
    if undo.batch is not None:
        return f"batch {undo.batch!r}"
    assert undo.where is not None  # noqa: S101 - there is no batch
    return f"{undo.where.text} from {iso(undo.since)} to {iso(undo.until)}"


def _nothing(repository: Repository, found: Sequence[Span], undo: Undo, moment: Moment) -> Refused:
    """Never a silent no-op: which batches are there?"""
    there = batches_of(found, reader(repository))
    until = f" up to {iso(moment.time)}"
    if undo.batch is None:
        return Refused(
            f"no operation in the journal{until} is meant by {_what(undo)}",
            hint="'strongroom journal batches' shows what was written when; times without a zone are UTC",
        )
    none = "no row came with a batch: follow with --batch-key, or use --where and --between"
    hint = f"there are {told}" if (told := named(there)) else none
    return Refused(f"no operation in the journal{until} belongs to {_what(undo)}", hint=hint)
