"""Which moments are there, and which operations make one? Pure: what must be read is read by the caller.

Every moment is a number in a span: all operations up to it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from strongroom.engines.changes import BATCH, MARK, CatalogChange, Change
from strongroom.journal.marks import NUMBERED, PLACES, TIMELESS, TRANSACTIONS, may_hold, number_up_to
from strongroom.journal.segments import Front, Unseen
from strongroom.journal.spans import Read, Span


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment in a span: all operations up to `number`; `time` is when the last of them happened (microseconds)."""

    span: Span
    number: int
    time: int


def at_time(found: Sequence[Span], time: int, read: Read) -> Moment | None:
    """The state at a time; None if no span covers it."""
    for span in reversed(found):
        if span.since <= time <= span.until:
            return _whole(_until(span, time, read), read)
    return None


def _whole(moment: Moment, read: Read) -> Moment:
    """Without a transaction of which the last segment holds only the first pieces."""
    span = moment.span
    if span.head.kind not in TRANSACTIONS:
        return moment
    complete = number_up_to(span, "", span.fronts[-1].head.ends[""], read)
    if complete is None or moment.number <= complete:
        return moment
    return Moment(span, complete, _time_of(span, complete, read))


def blind(span: Span, time: int) -> tuple[int, int] | None:
    """If a time lies where nobody followed a log without times: since and until when (microseconds) it isn't known what happened
    first. A new follower has another epoch, and says that it has seen all only when it has caught up."""
    if span.head.kind not in TIMELESS:
        return None
    for number, (before, front) in enumerate(pairwise(span.fronts), 1):
        if before.head.epoch == front.head.epoch:
            continue
        since, late = before.head.seen, span.fronts[number:]
        caught = next((one.head for one in late if one.head.seen > since), None)
        if caught is None:
            return (since, span.until) if time > since else None
        until = caught.earliest if caught is front.head else caught.seen
        if since < time < until and any(one.head.count for one in late if one.head.sequence <= caught.sequence):
            return since, until
    return None


def unseen(moment: Moment, time: int, only: Collection[str] = ()) -> Unseen | None:
    """If it isn't known what a part of the source held at a moment, which is that of this time (microseconds): a table that goes
    takes with it what came since it was looked at last. With `only`, other parts don't count."""
    found = (one for front in moment.span.fronts for one in front.head.unseen if not only or one.scope in only)
    return next((one for one in found if moment.number < one.number and time > one.since), None)


def _until(span: Span, time: int, read: Read) -> Moment:
    """All operations of a span up to a time: times never go back."""
    number, at = span.first - 1, span.since
    for front in span.fronts:
        if not front.head.count:
            continue
        if front.head.latest <= time:
            number, at = front.head.last, front.head.latest
            continue
        for change in read(front):
            times = np.array([change.time]) if isinstance(change, CatalogChange) else change.times()
            here = int(np.searchsorted(times, time, "right"))
            if here:
                number, at = number + here, int(times[here - 1])
            if here < len(change):
                return Moment(span, number, at)
    return Moment(span, number, at)


def at_mark(found: Sequence[Span], mark: str, read: Read) -> Moment | None:
    """The state just after the operation of this mark, or of the number that it begins with; of SCOPE=NUMBER, where parts of the
    source have an order of their own."""
    scope, _, number_ = mark.rpartition("=")
    if scope and number_.isdigit():
        return _at_number(found, scope, int(number_), read)
    for span in reversed(found):
        if span.head.kind in PLACES:
            moment = _at_place(span, mark, read)
            if moment is not None:
                return moment
            continue
        low = span.begins.get("")
        for front in span.fronts:
            high = front.head.ends.get("")
            if may_hold(low, mark, high):
                last: Moment | None = None  # of a transaction's operations, which share their mark
                for number, change, row in _operations(front, read):
                    if isinstance(change, CatalogChange):
                        its, time, alone = change.mark, change.time, span.head.kind in NUMBERED
                    else:
                        its, time, alone = change.batch.column(MARK)[row].as_py(), int(change.times()[row]), True
                    if mark == its or (alone and mark == its.partition(":")[0]):
                        last = Moment(span, number, time)
                if last is not None:
                    return last
            low = high
    begun = (span for span in reversed(found) if span.begins.get("") == mark)  # the mark of its first snapshot
    return next((Moment(span, span.first - 1, span.since) for span in begun), None)


def _at_number(found: Sequence[Span], scope: str, wanted: int, read: Read) -> Moment | None:
    """The newest state in which a scope's operations are applied up to a mark's number, and none after it."""
    best: Moment | None = None
    for span in found:
        last = _leading(span.begins.get(scope))
        here = Moment(span, span.first - 1, span.since) if 0 <= last <= wanted else None
        before = span.begins.get(scope)
        for front in span.fronts:
            after = front.head.ends.get(scope)
            for number, change, row in _operations(front, read) if after != before else ():
                if change.scope != scope:
                    continue
                if isinstance(change, CatalogChange) and not change.present:  # its end
                    here, last = None, -1
                    continue
                now = _leading(change.mark if isinstance(change, CatalogChange) else change.batch.column(MARK)[row].as_py())
                best = here if here and now > wanted >= last else best
                if now <= wanted:
                    time = change.time if isinstance(change, CatalogChange) else int(change.times()[row])
                    here = Moment(span, number, time)
                last = now
            best = here if here and _leading(after) >= wanted >= last else best
            before = after
    return best


def _leading(mark: str | None) -> int:
    """The number that a mark begins with, -1 if it has none."""
    number = (mark or "").partition(":")[0]
    return int(number) if number.isdigit() else -1


def _at_place(span: Span, mark: str, read: Read) -> Moment | None:
    """All that was committed up to a place in the log, be it written as PostgreSQL does ('0/16B3748') or as a decimal number."""
    high, slash, low = mark.partition("/")
    try:
        place = (int(high, 16) << 32) + int(low, 16) if slash else int(mark)
    except ValueError:
        return None
    number = number_up_to(span, "", str(place), read)
    return None if number is None else Moment(span, number, _time_of(span, number, read))


def _time_of(span: Span, number: int, read: Read) -> int:
    """When an operation happened."""
    for front in span.fronts:
        if front.head.first <= number <= front.head.last:
            for here, change, row in _operations(front, read):
                if here == number:
                    return change.time if isinstance(change, CatalogChange) else int(change.times()[row])
    return span.since


def before_batch(found: Sequence[Span], batch: str, read: Read) -> Moment | None:
    """The state just before the first operation of an ingest batch, and of all that has its mark: a transaction isn't cut."""
    for span in found:
        for front in span.fronts:
            if batch in front.head.batches:
                begun, mark = front.head.first, None
                for number, change, row in _operations(front, read):
                    its = change.mark if isinstance(change, CatalogChange) else change.batch.column(MARK)[row].as_py()
                    if (change.scope, its) != mark:
                        begun, mark = number, (change.scope, its)
                    if not isinstance(change, CatalogChange) and change.batch.column(BATCH)[row].as_py() == batch:
                        time = int(change.times()[row])
                        if span.head.kind not in TRANSACTIONS:
                            return Moment(span, begun - 1, time)
                        before = number_up_to(span, "", str(int(its) - 1), read)
                        return None if before is None else Moment(span, before, time)
    return None


def _operations(front: Front, read: Read) -> Iterator[tuple[int, Change, int]]:
    number = front.head.first
    for change in read(front):
        for row in range(len(change)):
            yield number + row, change, row
        number += len(change)


def between(span: Span, after: Mapping[str, int], until: int, read: Read) -> Iterator[Change]:
    """The operations after those that a snapshot holds (see `numbers_of`), up to number `until`, in order."""
    for front in fronts_between(span, after, until):
        number = front.head.first
        for change in read(front):
            low = after.get(change.scope, span.first - 1)
            start = min(max(0, low + 1 - number), len(change))
            end = min(len(change), until + 1 - number)
            if isinstance(change, CatalogChange):
                if start < end:
                    yield change
            elif start < end:
                yield change.slice(start, end - start)
            number += len(change)


def fronts_between(span: Span, after: Mapping[str, int], until: int) -> list[Front]:
    """The segments in which they are."""
    lowest = min(after.values())
    return [one for one in span.fronts if one.head.count and one.head.last > lowest and one.head.first <= until]


def count_between(span: Span, after: Mapping[str, int], until: int, read: Read) -> int:
    """How many they are: only segments at the edges are read."""
    most, fronts = max(after.values()), fronts_between(span, after, until)
    edges = tuple(one for one in fronts if one.head.first <= most or one.head.last > until)
    inside = sum(one.head.count for one in fronts) - sum(one.head.count for one in edges)
    return inside + sum(map(len, between(Span(edges), after, until, read) if edges else ()))
