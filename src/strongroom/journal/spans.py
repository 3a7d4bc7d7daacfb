"""Which segments follow on each other? A *span* is a run of them; within a span every operation has a number."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from strongroom.engines.changes import Change
from strongroom.journal.segments import Front, Head
from strongroom.journal.stream import Chain

Read = Callable[[Front], Sequence[Change]]
"""Gives the operations of a segment."""


@dataclass(frozen=True, slots=True)
class Span:
    """Segments that follow on each other. `why` says why it doesn't follow on what was before: '' if nothing was."""

    fronts: tuple[Front, ...]
    why: str = ""

    @property
    def head(self) -> Head:
        return self.fronts[0].head

    @property
    def begins(self) -> Mapping[str, str]:
        return self.head.begins

    @property
    def first(self) -> int:
        return self.head.first

    @property
    def last(self) -> int:
        return self.fronts[-1].head.last

    @property
    def until(self) -> int:
        """Until when, in microseconds, all that happened is in it."""
        return self.fronts[-1].head.seen

    @property
    def begun(self) -> int:
        """When its follower was there, in microseconds; 0 if that isn't known."""
        return self.fronts[-1].head.begun

    @property
    def since(self) -> int:
        """From when on it tells what happened: from its first operation, or from when it was seen that there was none. While it
        tells nothing yet, when it was sealed."""
        heads = (front.head for front in self.fronts)
        told = (head.earliest if head.count else head.seen for head in heads if head.count or head.seen)
        return next(told, self.fronts[-1].head.sealed)


def spans(chain: Chain) -> tuple[Span, ...]:
    """The spans of a stream, oldest first."""
    found: list[Span] = []
    run: list[Front] = []
    why = ""
    for before, front in pairwise([None, *chain.fronts]):
        assert front is not None  # noqa: S101 - only the first of the pairs has none
        reason = _break(before, front)
        if reason is not None:
            if run:
                found.append(Span(tuple(run), why))
            run, why = [], reason
        run.append(front)
    return (*found, Span(tuple(run), why)) if run else ()


def why_it_begins(head: Head) -> str:
    """Why the first segment that is there doesn't go on from another: '' if none was before it."""
    return head.hole or ("" if head.sequence == 0 else f"segments 0 to {head.sequence - 1} are not there")


def _break(before: Front | None, front: Front) -> str | None:
    """Why a segment doesn't go on where the one before ended; None if it does."""
    head = front.head
    if before is None:
        return why_it_begins(head)
    if head.hole:
        return head.hole
    missing = head.sequence - before.head.sequence - 1
    if missing:
        return f"{missing} segment{'s' if missing > 1 else ''} after {before.head.name} can't be read"
    return None if head.previous == before.hash else f"{head.name} doesn't follow on the segment before"
