"""How a source's changes get into the journal: followed as they come, sealed every few seconds, each gap closed by a snapshot."""

from __future__ import annotations

import math
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from strongroom import engines
from strongroom.engines.changes import Change
from strongroom.engines.protocol import Ending, Feed, Followed, Seeing
from strongroom.errors import Gap, NotFound, Unreachable, WrongRequest
from strongroom.journal.ends import ends, read_tail
from strongroom.journal.sealing import Behind, Fenced, Sealer, Writer, standing
from strongroom.journal.segments import Front
from strongroom.journal.spans import spans
from strongroom.journal.stream import claim_epoch, last_epoch, read_chain, read_changes, stream_of
from strongroom.operations.backup.run import BackupOptions, backup, without_password
from strongroom.operations.backup.tenant_reading import require_followable
from strongroom.operations.follow.scan import ScanFeed, Scanned
from strongroom.operations.follow.scan import release as forget_scans
from strongroom.operations.journal.moment import numbers_in
from strongroom.operations.journal.status import unseen_of
from strongroom.operations.policy.residence import Residence
from strongroom.progress import SILENT, Progress
from strongroom.repository import Repository
from strongroom.snapshots import history
from strongroom.snapshots.history import Snapshot

_IDLE_SEAL = 12
"""While nothing happens, a segment that says so is stored after so many intervals."""
_IDLE_SCAN_SECONDS = 60.0
_MARGIN_SECONDS = 0.5
"""So much earlier than asked for a segment is sealed: storing it takes a while."""
_PATIENCE_SECONDS = 600.0
_LOOK_SECONDS = 600.0
"""So often it is made sure that there still is a snapshot to replay upon."""
_LONGEST_WAIT = 30.0


@dataclass(frozen=True, slots=True)
class FollowOptions:
    """A segment is sealed after `every` seconds or `most` bytes; the engine is asked every `poll` seconds. `batch_key` names the
    payload key that tells ingest batches. With `once` it stops when all that there is was sealed. With `scan` the source is
    compared with what it was every `every` seconds, whether its engine has a log or not."""

    every: float = 5.0
    most: int = 8 << 20
    poll: float = 0.1
    batch_key: str | None = None
    once: bool = False
    probes: int | None = None
    scan: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened while following: 'following', 'gap', 'snapshot', 'sealed', 'unseen', 'waiting'."""

    what: str
    text: str
    operations: int = 0
    bytes: int = 0
    lag: float = 0.0


@dataclass
class FollowReport:
    """What a follower did."""

    stream: str
    segments: int = 0
    operations: int = 0
    bytes: int = 0
    snapshots: list[str] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    worst_lag: float = 0.0
    """Seconds from the oldest operation of a segment to when it was stored: the achieved RPO."""


def follow(
    repository: Repository,
    source: str,
    options: FollowOptions | None = None,
    *,
    stop: threading.Event | None = None,
    tell: Callable[[Event], None] = lambda _: None,
    progress: Progress = SILENT,
) -> FollowReport:
    """Follow a source until `stop` is set. Raises WrongRequest if its engine has no log that can be followed, Fenced if another
    follower takes over, and what the engine's feed and the store raise; what was sealed stays, and it may be run again."""
    Residence.of(repository).require(without_password(source), ())
    newest = history.newest_of(repository, history.headlines(repository)[0], without_password(source))
    require_followable(without_password(source), newest.manifest if newest else None)
    return _Follower(repository, source, options or FollowOptions(), stop or threading.Event(), tell, progress).run()


def release(repository: Repository, source: str) -> bool:
    """Follow a source no more: its engine need not hold its log back, and what scans found is forgotten. Gives whether there was
    any of it. Raises WrongRequest or NotFound."""
    stream = stream_of(repository, source)
    scanned = forget_scans(repository, stream)
    try:
        return _followed(source).release(stream) or scanned
    except (WrongRequest, NotFound):
        if not scanned:
            raise
        return True


def _followed(source: str) -> Followed:
    opened = engines.source_of(source)
    if not isinstance(opened, Followed):
        raise WrongRequest(
            f"{source.partition(':')[0]} has no log that can be followed",
            hint="follow it with --scan, write through strongroom.capture(...), or make snapshots more often",
        )
    return opened


class _Follower:
    def __init__(
        self,
        repository: Repository,
        source: str,
        options: FollowOptions,
        stop: threading.Event,
        tell: Callable[[Event], None],
        progress: Progress,
    ) -> None:
        self._repository, self._source, self._options = repository, source, options
        self._stop, self._tell, self._progress = stop, tell, progress
        self._opened = Scanned(repository, source, options.every, self._snapshot) if options.scan else _followed(source)
        self._stream = stream_of(repository, source)
        self._epoch = claim_epoch(repository, self._stream)
        self._report = FollowReport(self._stream)
        self._base = ""

    def run(self) -> FollowReport:
        while True:
            with self._opened.feed(self._stream, self._options.batch_key) as feed:
                try:
                    self._session(feed)
                    return self._report
                except Behind as error:
                    self._tell(Event("waiting", str(error)))
                except Unreachable as error:
                    self._require_last(error)
                    raise
                except Gap as gap:
                    self._tell(Event("gap", str(gap)))

    def _require_last(self, error: Unreachable) -> None:
        """Raises Fenced if it isn't the engine that is away: its log is read by a later follower."""
        if last_epoch(self._repository, self._stream) > self._epoch:
            raise Fenced(f"another follower has taken over {self._source}") from error

    def _session(self, feed: Feed) -> None:
        """From the end of the stream on. Raises Behind, or Gap if the engine's log was lost meanwhile: begin again."""
        tail = read_tail(self._repository, self._stream)
        sealer = self._resumed(feed, tail)
        self._require_base()
        self._tell(Event("following", f"stream {self._stream[:12]}, from {_said(sealer.ends)}"))
        try:
            self._gather(feed, sealer)
        except Gap:
            if isinstance(feed, Ending) and feed.ended:
                sealer.add([], sealer.ends, feed.ended)
            self._seal(sealer, feed)  # what was read before is not lost with the rest
            raise

    def _gather(self, feed: Feed, sealer: Sealer) -> None:
        """Read and seal until it is time to stop."""
        looked = sealed = time.monotonic()
        oldest, behind = math.inf, False
        while True:
            stopping = self._stop.is_set()  # before the last read, so that what came before the signal is kept
            asked = self._micros()
            changes, marks, more = feed.read()
            if changes and isinstance(feed, ScanFeed) and sealer.seen > (sealer.tail.head.seen if sealer.tail else 0):
                self._seal(sealer, feed)  # the scan before, which found nothing, is a moment too
            sealer.add(list(changes), marks, 0 if more else _seen(feed, asked))
            now = time.monotonic()
            oldest = min(oldest, now) if sealer.pending else math.inf
            due = now - oldest >= self._options.every - _MARGIN_SECONDS or now - sealed >= self._options.every * _IDLE_SEAL
            if isinstance(feed, ScanFeed):  # a scan is one moment, and all that there is of it
                due = bool(changes) or now - sealed >= max(self._options.every, _IDLE_SCAN_SECONDS)
            first = sealer.takes_over
            due |= first  # at once: a follower that came before might else be first each time
            due |= behind and not more  # and once all that came before is read: from then on times are known
            behind = more and (first or behind)
            ending = stopping or (self._options.once and not more)
            if due or sealer.bytes >= self._options.most or ending:
                self._seal(sealer, feed)
                sealed, oldest = time.monotonic(), math.inf
            if ending and not more:
                return
            if not more and now - looked >= _LOOK_SECONDS:
                self._require_base()
                looked = now
            if not more:
                self._stop.wait(self._options.poll)

    def _resumed(self, feed: Feed, tail: Front | None) -> Sealer:
        """Go on where the stream ends; where that can't be, begin anew and say what is lost."""
        hole = ""
        if tail is not None:
            try:
                if tail.head.kind != feed.kind:
                    raise Gap("the source was followed in another way before")
                feed.resume(tail.head.ends)
                return self._sealer(feed, tail, tail.head.ends)
            except Gap as gap:
                hole = str(gap)
                self._report.gaps.append(hole)
                self._tell(Event("gap", hole))
        sealer = self._sealer(feed, tail, feed.begin(), hole)
        if tail is not None and not self._options.scan:
            self._base = self._snapshot().id
        asked = self._micros()
        changes, marks, more = feed.read()
        sealer.add(list(changes), marks, 0 if more else _seen(feed, asked))
        self._seal(sealer, feed)
        return sealer

    def _sealer(self, feed: Feed, tail: Front | None, begins: Mapping[str, str], hole: str = "") -> Sealer:
        engine = engines.engine_of(self._source).name
        writer = Writer(self._stream, self._source, engine, socket.gethostname(), self._epoch, feed.kind)
        untold = tail is not None and tail.head.turn < 0  # an older Strongroom's: all heads are read, once
        before = standing(spans(read_chain(self._repository, self._stream))) if untold else None
        return Sealer(self._repository, writer, tail, begins, hole, before)

    def _require_base(self) -> None:
        """There must be a snapshot from which the newest span can be replayed, also after somebody forgot it."""
        with suppress(NotFound):
            if self._base and self._repository.store.size(f"snapshots/{self._base}"):
                return
        self._base = self._find_base() or self._snapshot().id

    def _find_base(self) -> str | None:
        """A snapshot that lies in the newest span."""
        known: list[Snapshot] | None = None
        for chain in ends(self._repository, self._stream):
            found = spans(chain)
            known = history.of_source(self._repository, self._source) if known is None else known
            for snapshot in reversed(known):
                if found and numbers_in(found[-1], snapshot, self._read):
                    return snapshot.id
            if len(found) > 1:
                return None
        return None

    def _read(self, front: Front) -> list[Change]:
        return list(read_changes(self._repository, front))

    def _snapshot(self) -> Snapshot:
        """What the journal is replayed upon."""
        probes = BackupOptions().probes if self._options.probes is None else self._options.probes
        report = backup(self._repository, self._source, BackupOptions(None, {"journal": "base"}, probes), self._progress)
        self._report.snapshots.append(report.snapshot.id)
        self._tell(Event("snapshot", report.snapshot.id))
        return report.snapshot

    def _seal(self, sealer: Sealer, feed: Feed) -> None:
        """Store what is gathered, however long the store is away; then the engine may forget it."""
        began, wait = time.monotonic(), 0.5
        before, scanned = sealer.stored, sealer.tail.head.seen if sealer.tail and isinstance(feed, ScanFeed) else None
        while True:
            try:
                front = sealer.seal()
                break
            except Unreachable as error:
                if time.monotonic() - began > _PATIENCE_SECONDS:
                    raise
                self._tell(Event("waiting", str(error)))
                time.sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT)
        feed.shipped(front.head.ends)
        report, head = self._report, front.head
        oldest = head.earliest if scanned is None else scanned  # it may have happened just after the scan before
        lag = max(0.0, (self._micros() - oldest) / 1e6) if head.count else 0.0
        report.segments += 1
        report.operations += head.count
        report.bytes += sealer.stored - before
        report.worst_lag = max(report.worst_lag, lag)
        self._tell(Event("sealed", f"segment {head.sequence}", head.count, sealer.stored - before, lag))
        for one in map(unseen_of, head.unseen):
            self._tell(Event("unseen", f"from {one.since} to {one.until} {one.reason}"))

    def _micros(self) -> int:
        return int(self._repository.clock.now().timestamp() * 1e6)


def _seen(feed: Feed, asked: int) -> int:
    """Until when (microseconds) all that happened was read: a feed may know it to be earlier than when it was asked last."""
    return feed.seen if isinstance(feed, Seeing) else asked


def _said(marks: Mapping[str, str]) -> str:
    return ", ".join(f"{scope} {mark}".strip() for scope, mark in sorted(marks.items())) or "the beginning"
