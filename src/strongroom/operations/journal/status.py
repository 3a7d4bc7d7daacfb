"""How far is each journal, what does it cover, where are its holes, and how much could be lost this moment?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise

from strongroom import engines
from strongroom.engines.protocol import Followed
from strongroom.errors import StrongroomError
from strongroom.journal.marks import SCAN
from strongroom.journal.segments import Front, Unseen
from strongroom.journal.spans import Span, spans
from strongroom.journal.stream import Chain, read_chain, streams
from strongroom.repository import Repository


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
    for stream, sizes in streams(repository).items():
        chain = read_chain(repository, stream, sizes)
        if not chain.fronts:
            found.append(_unreadable(chain, sizes))
        elif source in (None, chain.fronts[-1].head.source):
            found.append(_status(repository, chain, sizes, ask=ask))
    return sorted(found, key=lambda one: (one.source, one.stream))


def holes_of(found: Sequence[Span]) -> tuple[Hole, ...]:
    """What lies between the spans of a stream."""
    return tuple(Hole(iso(before.until), iso(after.since), after.why) for before, after in pairwise(found))


def unseen_of(one: Unseen) -> Hole:
    """What is missing of one part of a source."""
    return Hole(iso(one.since), iso(one.until), f"{one.scope} was dropped: what it held then isn't known")


def iso(micros: int) -> str:
    """Microseconds since 1970 as people read them, UTC."""
    return datetime.fromtimestamp(micros / 1e6, UTC).isoformat().replace("+00:00", "Z")


def _status(repository: Repository, chain: Chain, sizes: Mapping[int, int], *, ask: bool) -> StreamStatus:
    found, last = spans(chain), chain.fronts[-1].head
    waits = [(one.head.sealed - one.head.earliest) / 1e6 for one in chain.fronts if one.head.count]
    if last.kind == SCAN:  # what a scan found may have happened just after the one before
        waits = [
            (one.head.sealed - before.head.seen) / 1e6 for span in found for before, one in pairwise(span.fronts) if one.head.count
        ]
    return StreamStatus(
        stream=chain.stream,
        source=last.source,
        engine=last.engine,
        segments=len(sizes),
        operations=sum(one.head.count for one in chain.fronts),
        bytes=sum(sizes.values()),
        since=iso(found[0].since),
        until=iso(last.seen),
        lag=max(0.0, repository.clock.now().timestamp() - last.seen / 1e6),
        rpo=max(waits, default=None),
        holes=holes_of(found),
        problems=tuple(str(one) for one in chain.problems),
        behind=_behind(chain.stream, chain.fronts[-1]) if ask and last.kind != SCAN else None,
        kind=last.kind,
        unseen=tuple(unseen_of(one) for front in chain.fronts for one in front.head.unseen),
    )


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
