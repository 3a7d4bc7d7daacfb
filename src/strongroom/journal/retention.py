"""Which segments does nobody need any more, and how is it known that they were taken away and not stolen?

A moment needs a snapshot of before it and every operation since. So what lies before the oldest snapshot that is kept is of no use.
A tombstone says from which segment on a stream is kept; then the objects go, oldest first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from strongroom.journal.marks import numbers_of
from strongroom.journal.segments import segment_name
from strongroom.journal.spans import Read, Span
from strongroom.model import Position
from strongroom.repository import Repository
from strongroom.repository.tombstones import What, earliest

_NUMBER_DIGITS = 32


def trimmed(repository: Repository) -> dict[str, int]:
    """Of each stream that was trimmed, the number of the first segment that is kept. Raises Damaged if a tombstone is."""
    found: dict[str, int] = {}
    for one in earliest(repository.tombstones(What.TRIMMED)):
        stream, number = one[:-_NUMBER_DIGITS], int(one[-_NUMBER_DIGITS:], 16)
        found[stream] = max(number, found.get(stream, 0))
    return found


def first_needed(found: Sequence[Span], bases: Iterable[Position], read: Read) -> int | None:
    """The number of the first segment that a moment after the oldest of these snapshots needs: those before it may go. None if none
    of the snapshots lies in these spans: all is needed, for its follower is about to make one."""
    positions = list(bases)
    for span in found:
        numbers = [one for one in (numbers_of(span, position, read) for position in positions) if one is not None]
        if numbers:
            lowest = min(min(one.values()) for one in numbers)
            return next(one.head.sequence for one in span.fronts if one.head.last >= lowest)
    return None


def trim(repository: Repository, stream: str, first: int, present: Mapping[int, int], held: Callable[[], bool]) -> dict[str, int]:
    """Take away the segments before `first`, unless the stream is `held`, which is asked once the tombstone is there; gives their
    names and bytes. Repeatable: the next one finishes what a killed one began."""
    going = {segment_name(stream, number): size for number, size in sorted(present.items()) if number < first}
    if going and trimmed(repository).get(stream, 0) < first:
        repository.bury(What.TRIMMED, [f"{stream}{first:0{_NUMBER_DIGITS}x}"])
    if going and held():
        return {}
    for name in going:
        repository.store.delete(name)
    return going
