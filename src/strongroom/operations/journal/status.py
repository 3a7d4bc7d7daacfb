"""How far is each journal, what does it cover, where are its holes, and how much could be lost this moment?"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise

from strongroom import engines
from strongroom.engines.protocol import Followed
from strongroom.errors import Damaged, StrongroomError
from strongroom.journal.ends import Outline, outline, read_tail, stream_names
from strongroom.journal.marks import SCAN
from strongroom.journal.sealing import Before, standing
from strongroom.journal.segments import Front, Unseen
from strongroom.journal.spans import Span, spans
from strongroom.journal.stream import Chain, read_chain, segments_of
from strongroom.repository import Repository

_FEW = 2_048
"""Segments of which the status reads all heads."""


@dataclass(frozen=True, slots=True)
class Hole:
    """What happened between these times (UTC) is not in the journal."""

    since: str
    until: str
    reason: str


@dataclass(frozen=True, slots=True)
class Behind:
    """What the source has and the journal hasn't."""

    operations: int
    bytes: int


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """One source's journal. `since` and `until` are the first and the last moment that it covers, `lag` the seconds since then.
    `rpo` is the longest time, in seconds, for which an operation was not yet kept; None if there was no operation. `behind` is None
    if the source can't be asked. `kind` is that of its marks; 'scan' if only the moments of scans are known. `unseen` are times at
    which it isn't known what a part of the source held that was dropped."""

    stream: str
    source: str
    engine: str
    segments: int
    operations: int
    bytes: int
    since: str
    until: str
    lag: float
    rpo: float | None
    holes: tuple[Hole, ...]
    problems: tuple[str, ...]
    behind: Behind | None = None
    kind: str = ""
    unseen: tuple[Hole, ...] = ()


def journal_status(repository: Repository, source: str | None = None, *, ask: bool = False) -> list[StreamStatus]:
    """Of every stream, or of one source's, by source. With `ask` the sources themselves are asked how much they have that isn't in
    the journal; one that doesn't answer is none the worse."""
    found = []
    for stream in stream_names(repository):
        if source is None or _source_of(repository, stream) in ("", source):
            sizes = segments_of(repository, stream)
            found += [_status(repository, stream, sizes, source, ask=ask)] if sizes else []
    return sorted((one for one in found if one is not None), key=lambda one: (one.source, one.stream))


def _source_of(repository: Repository, stream: str) -> str:
    """By its last segment; '' if that can't be read."""
    with suppress(Damaged):
        tail = read_tail(repository, stream)
        return tail.head.source if tail else ""
    return ""


def holes_of(found: Sequence[Span]) -> tuple[Hole, ...]:
    """What lies between the spans of a stream."""
    return tuple(Hole(iso(before.until), iso(after.since), after.why) for before, after in pairwise(found))


def unseen_of(one: Unseen) -> Hole:
    """What is missing of one part of a source."""
    return Hole(iso(one.since), iso(one.until), f"{one.scope} was dropped: what it held then isn't known")


def iso(micros: int) -> str:
    """Microseconds since 1970 as people read them, UTC."""
    return datetime.fromtimestamp(micros / 1e6, UTC).isoformat().replace("+00:00", "Z")


def _status(repository: Repository, stream: str, sizes: Mapping[int, int], source: str | None, *, ask: bool) -> StreamStatus | None:
    """By a few heads if they tell it all, else by every one; None if it is of another source."""
    said = _outline(repository, stream, sizes)
    if said is None:
        chain = read_chain(repository, stream, sizes)
        if not chain.fronts:
            return _unreadable(chain, sizes)
        found, last = spans(chain), chain.fronts[-1]
        before, unseen, problems = standing(found), [one for front in chain.fronts for one in front.head.unseen], chain.problems
        operations = sum(one.head.count for one in chain.fronts)
    else:
        found, last = said.spans, said.tail
        before, unseen, problems = Before(last.head.turn, last.head.worst), list(said.unseen), ()
        operations = last.head.last - found[0].first + 1
    if source not in (None, last.head.source):
        return None
    until = max(one.until for one in found)  # who catches up after a hole knows no end yet
    return StreamStatus(
        stream=stream,
        source=last.head.source,
        engine=last.head.engine,
        segments=len(sizes),
        operations=operations,
        bytes=sum(sizes.values()),
        since=iso(found[0].since),
        until=iso(until),
        lag=max(0.0, repository.clock.now().timestamp() - until / 1e6),
        rpo=before.worst / 1e6 if before.worst >= 0 else None,
        holes=holes_of(found),
        problems=tuple(str(one) for one in problems),
        behind=_behind(stream, last) if ask and last.head.kind != SCAN else None,
        kind=last.head.kind,
        unseen=tuple(map(unseen_of, unseen)),
    )


def _outline(repository: Repository, stream: str, numbers: Collection[int]) -> Outline | None:
    """None if all heads are to be read: of a short stream they are, so that damage is noticed."""
    with suppress(Damaged):
        return outline(repository, stream, numbers) if len(numbers) > _FEW else None
    return None


def _unreadable(chain: Chain, sizes: Mapping[int, int]) -> StreamStatus:
    problems = tuple(str(one) for one in chain.problems)
    return StreamStatus(chain.stream, "unknown", "unknown", len(sizes), 0, sum(sizes.values()), "", "", 0.0, None, (), problems)


def _behind(stream: str, last: Front) -> Behind | None:
    """By the source's own log, which is only looked at."""
    with suppress(StrongroomError):
        opened = engines.source_of(last.head.source)
        if isinstance(opened, Followed):
            with opened.feed(stream, None) as feed:
                return Behind(*feed.behind(last.head.ends))
    return None
