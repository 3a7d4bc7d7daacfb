"""Which operations does a snapshot hold? Its marks, by scope, are looked for among those of a span. Pure: what must be read is read
by the caller.

A snapshot lies in a span if each of its marks is one of the span's, or, where marks are places in a log, lies between two.
"""

from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from strongroom.engines.changes import MARK, CatalogChange, Change, RowChanges
from strongroom.journal.segments import Front
from strongroom.journal.spans import Read, Span
from strongroom.model import Position

SCAN = "scan"
"""The kind of a stream of which each segment ends with a comparison of all rows: what happened between two of them isn't told."""
PLACES = frozenset({"lsn", "redis-offset", "wal"})
"""Kinds of marks that are places in a log: `PLACE` or `PLACE:LOG...`, decimal, whether or not an operation ends just there."""
LOGS = frozenset({"wal"})
"""Kinds whose operations are stretches of the engine's own log, which only it can read. A snapshot holds an operation if it holds
any of it, since nothing of what a moment before it holds may be in the snapshot."""
NUMBERED = frozenset({"oplog"})
"""Kinds whose marks begin with a number that each operation has of its own, changes of collections too."""
TIMELESS = frozenset({"redis-offset"})
"""Kinds of logs without times: what came while nobody followed is dated when it was read."""
TRANSACTIONS = frozenset({"lsn"})
"""Kinds of which all operations of one mark are a transaction, which no moment cuts in two. It may lie in several segments, of
which each but the last ends with the mark before it; and it may be told again from its first operation."""


def marks_of(position: Position) -> dict[str, str]:
    """A snapshot's marks, by scope."""
    if position.value.startswith("{"):
        return {str(scope): str(mark) for scope, mark in json.loads(position.value).items()}
    return {"": position.value}


def scan_mark(position: Position) -> str:
    """The mark of a scan that found the source at a position."""
    return f"{SCAN}:{position.kind}:{position.value}"


def numbers_of(span: Span, position: Position, read: Read) -> dict[str, int] | None:
    """For each scope the number of the last operation that a snapshot at `position` holds; None if the span can't tell."""
    if span.head.kind == SCAN:
        number = _number_of(span, "", scan_mark(position), read)
        return None if number is None else {"": number}
    if not span.head.kind or span.head.kind != position.kind:
        return None
    found: dict[str, int] = {}
    for scope, mark in marks_of(position).items():
        number = _number_of(span, scope, mark, read)
        if number is None:
            return None
        found[scope] = number
    most = max(found.values(), default=span.first - 1)
    for scope in {*span.begins, *(scope for front in span.fronts for scope in front.head.ends)} - found.keys():
        number = _number_without(span, scope, most)
        if number is None:
            return None
        found[scope] = number
    return {scope: _idle_until(span, scope, number, most) for scope, number in found.items()}


def may_be_of(span: Span, made: int) -> bool:
    """May a snapshot that was made at a time (microseconds) lie in a span? A place in a log doesn't tell which log it is of: a
    server that was made anew, or was set back, comes to the same ones again."""
    return span.head.kind not in PLACES or made >= span.begun


def _idle_until(span: Span, scope: str, number: int, most: int) -> int:
    """The last operation of a segment, up to number `most`, until which nothing happened in a scope after `number`: what came in
    between is of others, and need not be read for this one. Each operation of a scope changes its mark."""
    mark = span.begins.get(scope) if number < span.first else None
    for front in span.fronts if number < most else ():
        head = front.head
        if head.last > most or (head.last > number and (head.first <= number or head.ends.get(scope) != mark)):
            return number
        number, mark = max(number, head.last), head.ends.get(scope)
    return number


def _number_without(span: Span, scope: str, most: int) -> int | None:
    """For a scope that a snapshot lacks, which holds other operations up to number `most`: the number of one after which all of the
    scope's operations are to be applied. Those before the span aren't known: if it was there then, it must have ended in the span.
    One that began in the span can be applied from its beginning, whether the snapshot was made before that or after its end."""
    lives: list[tuple[int | None, int | None]] = [(None, None)] if scope in span.begins else []
    there = scope in span.begins
    for front in span.fronts:
        if (scope in front.head.ends) != there:
            there = not there
            if there:
                lives.append((front.head.first - 1, None))
            else:
                lives[-1] = (lives[-1][0], front.head.last)
    ends = [end for begin, end in lives if end is not None and (end <= most or begin is None)]
    first = lives[0][0]
    if ends:
        return max(ends)
    return None if first is None else min(first, most)


def _number_of(span: Span, scope: str, mark: str, read: Read) -> int | None:
    if span.head.kind in LOGS:
        return _number_through(span, mark, read)
    if span.head.kind in PLACES:
        return number_up_to(span, scope, mark, read)
    if span.begins.get(scope) == mark:
        return span.first - 1
    before = span.begins.get(scope)
    for front in span.fronts:
        after = front.head.ends.get(scope)
        if after == mark:
            return front.head.last
        if after != before and may_hold(before, mark, after):
            number = _number_in(front, scope, mark, read)
            if number is not None:
                return number
        before = after
    if scope not in span.begins and not any(scope in front.head.ends for front in span.fronts):
        return None if span.begins else span.last  # a part of the source that isn't known yet, or that never changed since
    return None


def number_up_to(span: Span, scope: str, mark: str, read: Read) -> int | None:
    """Where marks are places in a log, `PLACE` or `PLACE:LOG...`: the last operation that isn't after the place. None
    outside of the span, where the log after the mark is another one, if the mark says which, and inside of a transaction
    (`PLACE:LOG...@BEGIN`)."""
    if span.head.kind in TRANSACTIONS:
        return _committed_up_to(span, int(mark), read)
    offset, log = _place(mark)
    if offset < _place(span.begins.get(scope, ""))[0]:
        return None
    for front in span.fronts:
        end, its_log = _place(front.head.ends.get(scope, ""))
        if end < offset:
            continue
        if log and its_log != log:
            return None
        number, last = front.head.first, front.head.first - 1
        for change in read(front):
            marks = [change.mark] if isinstance(change, CatalogChange) else change.batch.column(MARK).to_pylist()
            for its in marks if change.scope == scope else ():
                if _place(its)[0] <= offset:
                    last = number
                elif int(its.partition("@")[2] or offset) < offset:
                    return None
                number += 1
            number += 0 if change.scope == scope else len(change)
        return last
    return None


def _number_through(span: Span, mark: str, read: Read) -> int | None:
    """The first operation that isn't before the place; None if the log isn't known to there, or is another one."""
    place, log = _place(mark)
    begin, its_log = _place(span.begins.get("", ""))
    if its_log != log or place < begin:
        return None
    if place == begin:
        return span.first - 1
    for front in span.fronts:
        if _place(front.head.ends[""])[0] >= place:
            ends = [_place(its)[0] for change in read(front) if isinstance(change, RowChanges) for its in _marks(change)]
            return next((number for number, end in enumerate(ends, front.head.first) if end >= place), None)
    return None


def _marks(change: RowChanges) -> list[str]:
    found: list[str] = change.batch.column(MARK).to_pylist()
    return found


def _committed_up_to(span: Span, place: int, read: Read) -> int | None:
    """The last operation of the transactions that are not after the place. From the end: a segment may end with the first pieces of
    one whose mark is after its own."""
    if not int(span.begins[""]) <= place <= int(span.fronts[-1].head.ends[""]):
        return None
    for front in reversed(span.fronts):
        if int(front.head.begins[""]) <= place and front.head.count:  # else all of it is after
            count = sum(int(np.count_nonzero(_places(change) <= place)) for change in read(front))
            if count:
                return front.head.first - 1 + count
    return span.first - 1


def _places(change: Change) -> npt.NDArray[np.int64]:
    if isinstance(change, CatalogChange):
        return np.array([int(change.mark)], np.int64)
    places: npt.NDArray[np.int64] = change.batch.column(MARK).cast(pa.int64()).to_numpy()
    return places


def _place(mark: str) -> tuple[int, str]:
    offset, _, rest = mark.partition(":")
    return (int(offset) if offset.isdigit() else -1), rest.partition(":")[0]


def may_hold(before: str | None, mark: str, after: str | None) -> bool:
    """Marks that begin with a number grow: most segments need not be read."""
    try:
        low, here, high = (int((one or "0").partition(":")[0]) for one in (before, mark, after))
    except ValueError:
        return True
    return low <= here <= high or high < low


def _number_in(front: Front, scope: str, mark: str, read: Read) -> int | None:
    last: int | None = None
    number = front.head.first
    for change in read(front):
        if change.scope == scope:
            if isinstance(change, CatalogChange):
                last = number if change.mark == mark else last
            else:
                found = np.flatnonzero(change.batch.column(MARK).to_numpy(zero_copy_only=False) == mark)
                last = number + int(found[-1]) if len(found) else last
        number += len(change)
    return last
