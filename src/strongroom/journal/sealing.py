"""How operations become segments: gathered, sealed every few seconds or bytes, and stored so that only one follower can."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from strongroom.engines.changes import BATCH, TIME, CatalogChange, Change
from strongroom.errors import AlreadyExists, Damaged, NotFound, Overtaken, Unreachable
from strongroom.journal.marks import LOGS, SCAN
from strongroom.journal.segments import Front, Head, Unseen, decode_front, encode
from strongroom.journal.spans import Span
from strongroom.repository import Repository


class Fenced(Overtaken):
    """Another follower of the stream came later: this one must stop."""

    default_hint = "one follower a source is enough; look for the other one, or stop this one"


class Behind(Overtaken):
    """A follower that came before stored one more segment: go on after it."""


@dataclass(frozen=True, slots=True)
class Writer:
    """Who writes: the stream, the source and the epoch of this follower."""

    stream: str
    source: str
    engine: str
    host: str
    epoch: int
    kind: str


@dataclass(frozen=True, slots=True)
class Before:
    """What the head of a segment says of the stream up to it: see `Head.turn` and `Head.worst`."""

    turn: int
    worst: int


class Sealer:
    """Gathers what a feed gives and seals it. What isn't sealed is lost if the process dies, and read again from the engine."""

    def __init__(
        self,
        repository: Repository,
        writer: Writer,
        tail: Front | None,
        begins: Mapping[str, str],
        hole: str = "",
        before: Before | None = None,
    ) -> None:
        """Goes on after `tail`, or, with a `hole`, begins anew after it: what was seen until then doesn't count. `before` is what
        the `tail` of an older Strongroom doesn't say of itself."""
        self._repository = repository
        self._writer = writer
        self._tail = tail
        self._begins = dict(begins)
        self._ends = dict(begins)
        self._hole = hole
        self._before = before or (Before(tail.head.turn, tail.head.worst) if tail else Before(0, -1))
        self._changes: list[Change] = []
        self._unseen: list[Unseen] = []
        self._ready: tuple[Front, bytes] | None = None
        self._seen = tail.head.seen if tail and not hole else 0
        self._floor = max(tail.head.seen, 0 if tail.head.count else tail.head.latest) + 1 if tail else 0
        self._least = self._floor if hole else 0
        self._begun = tail.head.begun if tail else 0
        if hole or (tail is None and writer.kind not in LOGS):  # a cluster that was just copied isn't copied again
            self._begun = int(repository.clock.now().timestamp() * 1e6)
        self._latest = tail.head.latest if tail and tail.head.count else 0
        self.bytes = 0
        self.stored = 0

    @property
    def tail(self) -> Front | None:
        return self._tail

    @property
    def takes_over(self) -> bool:
        """Whether the stream's last segment is an earlier follower's: that one isn't fenced until one of ours is stored."""
        return self._tail is not None and self._tail.head.epoch < self._writer.epoch

    @property
    def _last(self) -> int:
        """The number of the last operation that is sealed."""
        return self._tail.head.last if self._tail else 0

    @property
    def pending(self) -> int:
        """Operations that are gathered and not sealed."""
        return sum(map(len, self._changes))

    @property
    def seen(self) -> int:
        """Until when (microseconds) all that happened is sealed or gathered."""
        return self._seen

    @property
    def ends(self) -> Mapping[str, str]:
        return self._ends

    def add(self, changes: list[Change], ends: Mapping[str, str], seen: int) -> None:
        """Take what a feed gave: its marks after it, and until when (microseconds) nothing else happened, 0 if there is more of the
        same time. Times never go back: a clock that was set back makes operations seem to happen at once until it has caught up.
        Nor does anything come later that happened before: what a moment was said to be it stays."""
        for change in changes:
            held = _not_before(change, max(self._latest, self._floor))
            self._latest = held.time if isinstance(held, CatalogChange) else int(held.times()[-1]) if len(held) else self._latest
            self._changes.append(held)
            if isinstance(held, CatalogChange) and held.unseen_since is not None:
                self._unseen.append(Unseen(held.scope, max(held.unseen_since, self._seen), held.time, self._last + self.pending))
        self._ends = dict(ends)
        if seen:
            self._seen = max(self._seen, seen, self._latest, self._least)
            self._floor = self._seen + 1
        self.bytes += sum(one.batch.nbytes if not isinstance(one, CatalogChange) else 512 for one in changes)

    def seal(self) -> Front:
        """Store what is gathered as the next segment, durably. May be called again after Unreachable: the same bytes are stored,
        once. Raises Fenced or Behind if another follower took the place."""
        if self._ready is None:
            self._repository.keys.look_again()  # a follower runs for months: it takes part in rotations
            self._ready = encode(self._repository.keys, self._head(), self._changes)
        front, content = self._ready
        try:
            self._repository.store.create(front.head.name, content)
        except (AlreadyExists, Unreachable) as error:
            self._settle(front, content, error)
        self._tail, self._ready, self._hole = front, None, ""
        self._before = Before(front.head.turn, front.head.worst)
        self._begins, self._changes, self._unseen, self.bytes = dict(self._ends), [], [], 0
        self.stored += len(content)
        return front

    def _settle(self, front: Front, content: bytes, error: Exception) -> None:
        """A lost answer: is it ours that is there?"""
        name = front.head.name
        try:
            there = self._repository.store.read(name)
        except NotFound:
            raise Unreachable(f"{name} could not be stored: {error}") from error
        if there == content:
            return
        try:
            other = decode_front(self._repository.keys, name, there)
        except Damaged as damaged:
            raise damaged from error
        if other.head.epoch > self._writer.epoch:
            raise Fenced(f"another follower, on {other.head.host}, has taken over {self._writer.source}") from error
        raise Behind(f"an earlier follower, on {other.head.host}, stored {name} meanwhile") from error

    def _head(self) -> Head:
        tail, writer = self._tail, self._writer
        times = [
            (int(t.min()), int(t.max())) for t in (c.times() for c in self._changes if not isinstance(c, CatalogChange)) if len(t)
        ]
        times += [(one.time, one.time) for one in self._changes if isinstance(one, CatalogChange)]
        batches = {
            tag
            for one in self._changes
            if not isinstance(one, CatalogChange)
            for tag in one.batch.column(BATCH).unique().to_pylist()
        }
        sealed = int(self._repository.clock.now().timestamp() * 1e6)
        earliest = min((first for first, _ in times), default=self._seen)
        before = self._standing(earliest, sealed)
        return Head(
            stream=writer.stream,
            sequence=tail.head.sequence + 1 if tail else 0,
            epoch=writer.epoch,
            source=writer.source,
            engine=writer.engine,
            host=writer.host,
            first=self._last + 1,
            count=self.pending,
            begins=self._begins,
            ends=self._ends,
            earliest=earliest,
            latest=max((last for _, last in times), default=max(self._seen, self._floor - 1)),
            seen=self._seen,
            sealed=sealed,
            previous=tail.hash if tail else "",
            hole=self._hole,
            batches=tuple(sorted(tag for tag in batches if tag is not None)),
            kind=writer.kind,
            unseen=tuple(self._unseen),
            turn=before.turn,
            worst=before.worst,
            begun=self._begun,
        )

    def _standing(self, earliest: int, sealed: int) -> Before:
        """What the next segment says of the stream up to it; nothing if that isn't known of the one before."""
        before, tail = self._before, self._tail
        if before.turn < 0:
            return before
        follows = tail is not None and not self._hole
        turn = before.turn if follows and not self._unseen else tail.head.sequence + 1 if tail else 0
        if not self.pending:
            return replace(before, turn=turn)
        if self._writer.kind == SCAN:  # what it found may have come just after the scan before
            return Before(turn, max(before.worst, sealed - tail.head.seen) if tail is not None and follows else before.worst)
        return Before(turn, max(before.worst, sealed - earliest))


def standing(found: Sequence[Span]) -> Before:
    """What the last segment of these spans would say of the stream, if it doesn't."""
    before = Before(-1, -1)
    for span in found:
        for number, front in enumerate(span.fronts):
            head = front.head
            since = span.fronts[number - 1].head.seen if head.kind == SCAN and number else head.earliest
            waited = head.sealed - since if head.count and (number or head.kind != SCAN) else -1
            before = Before(head.sequence if not number or head.unseen else before.turn, max(before.worst, waited))
    return before


def _not_before(change: Change, time: int) -> Change:
    if isinstance(change, CatalogChange):
        return replace(change, time=max(change.time, time))
    times = change.times()
    held = np.maximum.accumulate(np.maximum(times, time))  # commits of a database may be dated in another order than they came
    if np.array_equal(held, times):
        return change
    column = change.batch.schema.get_field_index(TIME)
    batch = change.batch.set_column(column, change.batch.schema.field(column), pa.array(held, pa.int64()))
    return replace(change, batch=batch)
