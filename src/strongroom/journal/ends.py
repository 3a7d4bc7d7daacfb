"""How does a stream end? Found out without listing or reading all that came before: a follower seals 17,280 segments a day."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from strongroom.errors import Damaged, NotFound
from strongroom.journal.segments import FOLDER, Front, Unseen, number_in, segment_name
from strongroom.journal.spans import Span, why_it_begins
from strongroom.journal.stream import CHUNK, Chain, chain_of, read_front, read_heads, segments_of
from strongroom.repository import Repository

_PAGE = 1_000
"""Names that a store lists at once: to ask for fewer saves nothing."""
_GROWTH = 4
_STREAM = re.compile("[0-9a-f]{32}")


def stream_names(repository: Repository) -> list[str]:
    """The streams of a repository, by name. One may have no segment yet, or none any more."""
    return [one for one in repository.store.folders(FOLDER) if _STREAM.fullmatch(one)]


def has_segments(repository: Repository, stream: str) -> bool:
    return any(number_in(one.name) for one in repository.store.list(f"{FOLDER}{stream}/"))


def read_tail(repository: Repository, stream: str) -> Front | None:
    """The last segment's head, None if the stream has none. Raises Damaged."""
    _, present = _end(repository, stream)
    return read_front(repository, segment_name(stream, max(present))) if present else None


def ends(repository: Repository, stream: str) -> Iterator[Chain]:
    """Longer and longer ends of a stream, the last of them the whole: whose question concerns the end takes the first by which it
    can be answered. None of a stream without segments."""
    first, present = _end(repository, stream)
    heads = read_heads(repository, stream, present)
    width = CHUNK
    while first:
        if present:
            yield chain_of(stream, heads, present, whole=False)
        width *= _GROWTH
        first, before = max(0, first - width), first
        fresh = {number: size for number, size in _listed(repository, stream, first).items() if number < before}
        present |= fresh
        heads |= read_heads(repository, stream, fresh)
    if present:
        yield chain_of(stream, heads, present)


@dataclass(frozen=True, slots=True)
class Outline:
    """A stream by a few of its segments: `spans` hold those only that tell when they begin and end. `unseen` is that of all."""

    tail: Front
    spans: tuple[Span, ...]
    unseen: tuple[Unseen, ...]


def outline(repository: Repository, stream: str, numbers: Collection[int]) -> Outline | None:
    """By heads that say where the last span began, and so on back. None if they don't, or if segments are missing between the
    others: all heads must be read then. Raises Damaged if one of these can't be."""
    first, last = min(numbers), max(numbers)
    if len(numbers) != last - first + 1:
        return None
    tail = end = at = read_front(repository, segment_name(stream, last))
    turns: list[Front] = []
    spans: list[Span] = []
    while at.head.turn >= first:
        turn = at if at.head.turn == at.head.sequence else read_front(repository, segment_name(stream, at.head.turn))
        turns.append(turn)
        if turn.head.sequence == first:
            break
        before = read_front(repository, segment_name(stream, turn.head.sequence - 1))
        if turn.head.hole:
            spans.append(_span(repository, turn, end, turn.head.hole))
            end = before
        at = before
    if at.head.turn < 0:
        return None
    begins = turns[-1] if turns and turns[-1].head.sequence == first else read_front(repository, segment_name(stream, first))
    spans.append(_span(repository, begins, end, why_it_begins(begins.head)))
    return Outline(tail, tuple(reversed(spans)), tuple(one for turn in reversed(turns) for one in turn.head.unseen))


def _span(repository: Repository, begins: Front, ends: Front, why: str) -> Span:
    """Of its first segments until one that tells a time, and the last."""
    fronts = [begins]
    while not fronts[-1].head.count and not fronts[-1].head.seen and fronts[-1].head.sequence < ends.head.sequence:
        fronts.append(read_front(repository, segment_name(begins.head.stream, fronts[-1].head.sequence + 1)))
    return Span((*fronts, ends), why)


def beginnings(repository: Repository, stream: str, sizes: Mapping[int, int]) -> Iterator[Chain]:
    """Longer and longer beginnings of a stream, the last of them the whole. `sizes` are its segments' numbers and lengths."""
    heads: dict[int, Front | Damaged] = {}
    numbers = sorted(sizes)
    at, width = 0, CHUNK
    while at < len(numbers):
        beyond = numbers[at] - numbers[at] % CHUNK + width
        end = bisect_left(numbers, beyond)
        fresh = {number: sizes[number] for number in numbers[at:end]}
        heads |= read_heads(repository, stream, fresh)
        yield chain_of(stream, heads, sizes, whole=end == len(numbers))
        at, width = end, width * _GROWTH


def _end(repository: Repository, stream: str) -> tuple[int, dict[int, int]]:
    """The last segments of a stream, numbers and lengths, and from which number on these are all; 0 if the stream is short.

    Numbers count up, so a few questions whether one is there lead to the end. Where some are lost they lead less far, never beyond
    one: what is listed is all that there is after a segment."""
    page = list(islice(repository.store.list(f"{FOLDER}{stream}/"), _PAGE))
    present = {found[1]: one.size for one in page if (found := number_in(one.name))}
    if len(page) < _PAGE:
        return 0, present
    low, step = max(present, default=0), _PAGE
    while _is_there(repository, stream, low + step):
        low, step = low + step, 2 * step
    while step > _PAGE:
        step //= 2
        low += step if _is_there(repository, stream, low + step) else 0
    first = low - low % CHUNK
    present = _listed(repository, stream, first)
    if low not in present:  # a store whose listings can't begin after a name
        return 0, segments_of(repository, stream)
    return first, present


def _is_there(repository: Repository, stream: str, number: int) -> bool:
    try:
        return repository.store.size(segment_name(stream, number)) >= 0
    except NotFound:
        return False


def _listed(repository: Repository, stream: str, first: int) -> dict[int, int]:
    """The segments from a number on: numbers and lengths."""
    after = segment_name(stream, first - 1) if first else ""
    found = ((number_in(one.name), one.size) for one in repository.store.list(f"{FOLDER}{stream}/", after))
    return {named[1]: size for named, size in found if named is not None and named[1] >= first}
