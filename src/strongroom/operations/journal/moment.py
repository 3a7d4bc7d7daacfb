"""Which snapshot and which operations make a moment? `--at` a time, a position of the engine's, just before an ingest batch, or all
that is sealed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime

from strongroom.engines.changes import Change
from strongroom.errors import Damaged, NotFound, Refused, WrongRequest
from strongroom.journal.ends import ends, read_tail, stream_names
from strongroom.journal.marks import LOGS, SCAN, may_be_of, numbers_of
from strongroom.journal.segments import Front, segment_name
from strongroom.journal.spans import Read, Span, spans
from strongroom.journal.stream import read_chain, read_changes, read_front, segments_of
from strongroom.journal.timeline import (
    Moment,
    at_mark,
    at_time,
    before_batch,
    between,
    blind,
    count_between,
    fronts_between,
    unseen,
)
from strongroom.journal.times import parse_time
from strongroom.journal.undoing import Undone, UndoPreview
from strongroom.model import Until
from strongroom.operations.journal.status import iso
from strongroom.operations.machine.pace import seconds_for
from strongroom.operations.prefetch import ahead
from strongroom.repository import Repository
from strongroom.snapshots import history
from strongroom.snapshots.history import Snapshot

_BEFORE, _LATEST = "before:", "latest"
_NEVER = 1 << 62
Base = tuple[Snapshot, Mapping[str, int]]
"""A snapshot, and for each scope the number of the last operation that it holds."""
_ADVICE = "'strongroom journal status' shows which moments there are, 'strongroom snapshots' what else can be restored"


@dataclass(frozen=True, slots=True)
class PlannedMoment:
    """What is said of a moment: the source, the time (UTC) and number of its last operation, how many operations are applied to the
    snapshot, from how many segments and bytes, and about how many seconds that takes (None if this machine never did it). `undo` is
    what is taken back. If `scanned`, the moment is that of the last scan that found something before it."""

    source: str
    time: str
    number: int
    operations: int
    segments: int
    bytes: int
    seconds: float | None
    undo: UndoPreview | None = None
    scanned: bool = False


@dataclass(frozen=True, slots=True)
class MomentPlan:
    """A moment and how to come to it: restore `snapshot`, then apply `operations` operations. `segments` are the names of the
    journal segments that hold them, `number` is that of the last operation, `time` when it happened (UTC). Of a log that only its
    engine can read, `until` says how far that shall go."""

    stream: str
    source: str
    snapshot: str
    number: int
    time: str
    operations: int
    segments: tuple[str, ...]
    bytes: int
    span: Span = field(repr=False)
    after: Mapping[str, int] = field(default_factory=dict)
    undone: Undone | None = None
    until: Until | None = None

    @property
    def planned(self) -> PlannedMoment:
        seconds = seconds_for(self.span.head.engine, self.operations)
        undo = self.undone.preview if self.undone else None
        segments, scanned = len(self.segments), self.span.head.kind == SCAN
        return PlannedMoment(self.source, self.time, self.number, self.operations, segments, self.bytes, seconds, undo, scanned)


def plan_moment(repository: Repository, at: str, source: str | None = None, only: Collection[str] = ()) -> MomentPlan:
    """`only` names the collections that are wanted, all if none. Raises WrongRequest (not a moment, or of which source?), NotFound
    (no journal, no such batch or position), or Refused if the moment lies in a hole, before the first snapshot, after what is
    sealed, or where it isn't known what one of the collections held."""
    stream, read = stream_named(repository, source), reader(repository)
    at = _last_time(repository, stream) if at == _LATEST else at
    time = parse_time(at, repository.clock.now())
    micros = _NEVER if time is None else int(time.timestamp() * 1e6)
    snapshots: list[Snapshot] | None = None
    for chain in ends(repository, stream) if time is not None else [read_chain(repository, stream)]:
        found = spans(chain)
        if not chain.whole and not _reaches(found, micros):
            continue
        if snapshots is None and found:
            snapshots = history.of_source(repository, found[-1].head.source)
        try:
            plan = _planned(repository, found, at, snapshots or (), read, only, whole=chain.whole)
        except Refused:
            if chain.whole or micros > found[-1].until:
                raise
            continue  # all of the stream may know better what to advise
        if plan is not None:
            return plan
    raise NotFound("there is no journal to restore a moment from", hint="'strongroom journal follow SOURCE' keeps one")


def _last_time(repository: Repository, stream: str) -> str:
    """Until when it is sealed what happened."""
    found = next((known for chain in ends(repository, stream) if (known := spans(chain))), None)
    if found is None:
        raise NotFound("there is nothing in the journal yet", hint="'strongroom journal status' shows what is kept")
    return iso(found[-1].until)


def _reaches(found: Sequence[Span], micros: int) -> bool:
    """Is the end of a stream long enough to say of a time what all of it would? It must tell an operation of before it, and that a
    follower had caught up since that end begins: where a log has no times it isn't known what happened until then."""
    if len(found) > 1 and found[1].since <= micros:
        return True
    heads = [front.head for front in found[0].fronts] if found else []
    return any(head.count and head.latest <= micros for head in heads) and any(
        heads[0].seen < head.seen <= micros for head in heads
    )


def _planned(
    repository: Repository,
    found: Sequence[Span],
    at: str,
    snapshots: Sequence[Snapshot],
    read: Read,
    only: Collection[str],
    *,
    whole: bool,
) -> MomentPlan | None:
    """None if more than this end of the stream is needed. Raises what `plan_moment` does."""
    if not found:
        return None
    moment = moment_of(repository, found, at, read, only)
    base = best_base(snapshots, moment, read)
    if base is None and not whole:
        return None
    if base is None:
        raise Refused(
            f"no snapshot lies before {iso(moment.time)} in this part of the journal{_because(moment.span)}", hint=_ADVICE
        )
    plan = plan_from(repository, moment, base, read)
    if moment.span.head.kind not in LOGS:
        return plan
    until = _until(repository, at)
    return replace(plan, until=until, time=plan.time if until.time is None else until.text)


def _until(repository: Repository, at: str) -> Until:
    time = parse_time(at, repository.clock.now())
    if time is not None:
        return Until(round(time.timestamp() * 1e6), None, iso(round(time.timestamp() * 1e6)))
    high, slash, low = at.partition("/")
    return Until(None, (int(high, 16) << 32) + int(low, 16) if slash else int(at), at)


def plan_from(repository: Repository, moment: Moment, base: Base, read: Read) -> MomentPlan:
    """How to come to a moment from a snapshot."""
    snapshot, after = base
    fronts = fronts_between(moment.span, after, moment.number)
    total = count_between(moment.span, after, moment.number, read)
    return MomentPlan(
        stream=moment.span.head.stream,
        source=moment.span.head.source,
        snapshot=snapshot.id,
        number=moment.number,
        time=iso(moment.time),
        operations=total,
        segments=tuple(one.head.name for one in fronts),
        bytes=sum(one.size or repository.store.size(one.head.name) for one in fronts),
        span=moment.span,
        after=after,
    )


def reader(repository: Repository, most: int = 4) -> Read:
    """Gives the operations of segments; those of the last few are kept."""
    kept: dict[str, Sequence[Change]] = {}

    def read(front: Front) -> Sequence[Change]:
        name = front.head.name
        if name not in kept:
            while len(kept) >= most:
                del kept[next(iter(kept))]
            kept[name] = tuple(read_changes(repository, front))
        return kept[name]

    return read


def _reading_ahead(repository: Repository, fronts: Sequence[Front]) -> Read:
    """Gives the operations of these segments, each once and in this order: the next ones are on their way by then."""
    coming = zip(fronts, ahead(fronts, lambda front: tuple(read_changes(repository, front))), strict=True)

    def read(front: Front) -> Sequence[Change]:
        return next(changes for one, changes in coming if one is front)

    return read


def changes_of(repository: Repository, plan: MomentPlan) -> Iterator[Change]:
    """The operations of a plan, in order."""
    needed = fronts_between(plan.span, plan.after, plan.number)
    changes = between(plan.span, plan.after, plan.number, _reading_ahead(repository, needed))
    return plan.undone.without(changes) if plan.undone else changes


def log_of(repository: Repository, plan: MomentPlan) -> Iterator[Change]:
    """The engine's log after the snapshot of a plan: what leads to the moment, and all that came later."""
    return between(plan.span, {"": min(plan.after.values())}, plan.span.last, reader(repository, 1))


def changes_before(repository: Repository, plan: MomentPlan) -> Iterator[Change]:
    """The operations that the snapshot of a plan holds already, as far as the journal has them."""
    span = plan.span
    if span.head.sequence and not span.head.hole:  # the plan may have needed the end of the stream only
        place, whole = span.head.sequence, spans(read_chain(repository, plan.stream))
        span = next((one for one in whole if one.head.sequence <= place <= one.fronts[-1].head.sequence), span)
    return between(span, {"": span.first - 1}, min(plan.after.values()), reader(repository, 1))


def stream_named(repository: Repository, source: str | None) -> str:
    """The stream of the source that is meant: of the only one, unless one is named. Raises NotFound, WrongRequest or Damaged."""
    named = {one: said for one in stream_names(repository) if (said := _source_of(repository, one)) is not None}
    damaged = [one for one in named.values() if isinstance(one, Damaged)]
    named = {one: name for one, name in named.items() if name == source or (source is None and isinstance(name, str))}
    if not named and damaged:
        raise damaged[0]
    if not named:
        of = f" of {source}" if source else ""
        raise NotFound(f"there is no journal{of}", hint="'strongroom journal status' shows what is followed")
    if len(named) > 1:
        raise WrongRequest(
            "there are journals of several sources", hint=f"give --source: {', '.join(sorted(map(str, named.values())))}"
        )
    return next(iter(named))


def _source_of(repository: Repository, stream: str) -> str | Damaged | None:
    """By the newest segment that can be read; None if there is no segment."""
    problem: Damaged | None = None
    with suppress(Damaged):
        tail = read_tail(repository, stream)
        return tail.head.source if tail else None
    for number in sorted(segments_of(repository, stream), reverse=True):
        try:
            return read_front(repository, segment_name(stream, number)).head.source
        except Damaged as error:
            problem = problem or error
    return problem


def moment_of(repository: Repository, found: Sequence[Span], at: str, read: Read, only: Collection[str] = ()) -> Moment:
    """The moment that is meant. Raises what `plan_moment` does."""
    if at.startswith(_BEFORE):
        moment = before_batch(found, at.removeprefix(_BEFORE), read)
        if moment is None:
            raise NotFound(f"no operation in the journal belongs to batch {at.removeprefix(_BEFORE)!r}")
        return _known(moment, moment.time, only)
    time = parse_time(at, repository.clock.now())
    if time is None:
        moment = at_mark(found, at, read)
        if moment is None:
            raise NotFound(
                f"{at!r} is no time and no position in the journal",
                hint="write 2026-11-24T10:15:00Z, '10 minutes ago', 'latest', a position, or before:BATCH",
            )
        return _known(moment, moment.time, only)
    micros = int(time.timestamp() * 1e6)
    moment = at_time(found, micros, read)
    if moment is None:
        raise _outside(found, micros)
    unknown = blind(moment.span, micros)
    if unknown is None:
        return _known(moment, micros, only)
    since, until = map(iso, unknown)
    raise Refused(
        f"nobody followed from {since} to {until}, and this engine's log has no times: what was when isn't known",
        hint=f"restore --at {since}, --at {until}, or a position of the log",
    )


def _known(moment: Moment, time: int, only: Collection[str]) -> Moment:
    """Raises Refused if it isn't known what one of the collections held then."""
    lost = unseen(moment, time, only)
    if lost is None:
        return moment
    since, until = iso(max(lost.since, moment.span.since)), iso(lost.until)
    raise Refused(
        f"{lost.scope} was dropped between {since} and {until}: what it held then isn't known",
        hint=f"restore --at {since}, --at {until}, or name other collections by --collection",
    )


def _outside(found: Sequence[Span], micros: int) -> Refused:
    """Why no span covers a time."""
    first, last = found[0].since, max(one.until for one in found)  # who catches up after a hole knows no end yet
    if micros > last:
        return Refused(f"the journal ends at {iso(last)}: what came later isn't known", hint=f"--at {iso(last)}")
    if micros < first:
        return Refused(f"the journal begins at {iso(first)}", hint="restore a snapshot of before: see 'strongroom snapshots'")
    after = next(one for one in found if one.since > micros)
    before = [one for one in found if one.until < micros][-1]
    return Refused(
        f"the journal has a hole from {iso(before.until)} to {iso(after.since)}: {after.why}",
        hint=f"restore --at {iso(before.until)}, or a snapshot of after: see 'strongroom snapshots'",
    )


def base_of(repository: Repository, moment: Moment, read: Read, before: Mapping[str, int] | None = None) -> Base | None:
    """The newest snapshot that holds nothing of what came after the moment, nor an operation of these numbers, by scope."""
    return best_base(history.of_source(repository, moment.span.head.source), moment, read, before)


def best_base(snapshots: Sequence[Snapshot], moment: Moment, read: Read, before: Mapping[str, int] | None = None) -> Base | None:
    """The same, of these snapshots of the source."""
    best: Base | None = None
    for snapshot in snapshots:
        numbers = numbers_in(moment.span, snapshot, read)
        if numbers and any(numbers.get(scope, 0) >= number for scope, number in (before or {}).items()):
            continue
        if numbers and max(numbers.values()) <= moment.number and (best is None or min(numbers.values()) >= min(best[1].values())):
            best = snapshot, numbers
    return best


def numbers_in(span: Span, snapshot: Snapshot, read: Read) -> dict[str, int] | None:
    """As `numbers_of`; None of a snapshot that was made before the span began, too."""
    made = int(datetime.fromisoformat(snapshot.manifest.created).timestamp() * 1e6)
    return numbers_of(span, snapshot.manifest.position, read) if may_be_of(span, made) else None


def _because(span: Span) -> str:
    return f", which begins anew at {iso(span.since)}: {span.why}" if span.why else ""
