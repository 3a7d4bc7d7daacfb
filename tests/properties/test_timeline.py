"""Does the timeline find the operations that a plain list of them would? Streams are sealed for real, in memory, cut anywhere, with
holes, clocks that are set back, and segments that are lost."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from any_changes import BATCHES, SOURCE, all_changes, chain_of, new_room, new_sealer, operations, row_changes, told
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from strongroom.engines.changes import BATCH, MARK, TIME, CatalogChange
from strongroom.errors import Refused
from strongroom.journal.marks import number_up_to, numbers_of
from strongroom.journal.retention import first_needed
from strongroom.journal.sealing import Sealer, Writer
from strongroom.journal.segments import Front
from strongroom.journal.spans import spans
from strongroom.journal.stream import read_changes, stream_of
from strongroom.journal.timeline import at_mark, at_time, before_batch, between, blind, count_between, unseen
from strongroom.library import Strongroom
from strongroom.model import Position

steps = st.lists(
    st.tuples(st.integers(-30, 60), st.sampled_from(BATCHES), st.lists(operations, min_size=1, max_size=3)), max_size=4
)
segments = st.lists(st.tuples(steps, st.booleans()), min_size=1, max_size=5)


@dataclass
class Told:
    """What was sealed: the operations of each span, as plain values, and the marks after them."""

    room: Strongroom
    spans: list[list[Any]] = field(default_factory=list)

    def read(self, front: Any) -> list[Any]:
        return list(read_changes(self.room.repository, front))


def seal(given_: list) -> Told:
    room = new_room()
    found = Told(room)
    time, mark = 1_000, 0
    tail = None
    sealer = new_sealer(room)
    for number, (inside, hole) in enumerate(given_):
        if hole and number:
            mark += 100  # the engine's log went on without us
            sealer = new_sealer(room, tail, str(mark), "nobody followed")
        if number == 0 or hole:
            found.spans.append([])
        for by, batch, rows in inside:
            time += by  # clocks go back too
            marks = [str(mark + step) for step in range(1, len(rows) + 1)]
            mark += len(rows)
            sealer.add([row_changes("first", rows, [time] * len(rows), marks, batch)], {"": str(mark)}, time)
        tail = sealer.seal()
        found.spans[-1] += told(read_changes(room.repository, tail))
    return found


def value(operation: Any, name: str) -> str:
    return dict(operation[1])[name]


@given(segments, st.data())
@settings(max_examples=120, deadline=None)
def test_a_moment_is_what_a_list_says(given_: list, data: st.DataObject) -> None:
    made = seal(given_)
    found = spans(chain_of(made.room))
    assert len(found) == len(made.spans)
    assert told(all_changes(made.room)) == list(itertools.chain.from_iterable(made.spans))
    numbers = itertools.count(1)
    for span, expected in zip(found, made.spans, strict=True):
        times = [int(value(one, TIME)) for one in expected]
        assert times == sorted(times)
        first = span.first
        assert [next(numbers) for _ in expected] == list(range(first, first + len(expected)))
        if expected:
            moment = data.draw(st.integers(span.since, span.until))
            at = at_time([span], moment, made.read)
            assert at is not None
            assert at.number - first + 1 == sum(1 for one in times if one <= moment)
    for place, span in enumerate(found):
        expected = made.spans[place]
        if not expected:
            continue
        # a snapshot may lie at any mark: what comes after it, up to any later moment
        low = data.draw(st.integers(0, len(expected)))
        high = data.draw(st.integers(low, len(expected)))
        mark = span.begins[""] if low == 0 else value(expected[low - 1], MARK)
        numbers_there = numbers_of(span, Position("sequence", mark), made.read)
        assert numbers_there == {"": span.first - 1 + low}
        assert told(between(span, numbers_there, span.first - 1 + high, made.read)) == expected[low:high]
        assert count_between(span, numbers_there, span.first - 1 + high, made.read) == max(0, high - low)


@given(segments)
@settings(max_examples=60, deadline=None)
def test_marks_and_batches_are_found(given_: list) -> None:
    made = seal(given_)
    found = spans(chain_of(made.room))
    everything = [(span, place, one) for span, rows in zip(found, made.spans, strict=True) for place, one in enumerate(rows)]
    for span, place, one in everything:
        moment = at_mark(found, value(one, MARK), made.read)
        assert moment is not None
        assert (moment.span.first, moment.number) == (span.first, span.first + place)
    for span, rows in zip(found, made.spans, strict=True):
        if span.begins[""] not in {value(one, MARK) for one in itertools.chain.from_iterable(made.spans)}:
            moment = at_mark(found, span.begins[""], made.read)
            assert moment is not None, rows
            assert moment.number == moment.span.first - 1
            assert moment.span.begins == span.begins
    for batch in BATCHES[1:]:
        of = [(span, place) for span, place, one in everything if value(one, BATCH) == batch]
        moment = before_batch(found, batch, made.read)
        if not of:
            assert moment is None
        else:
            assert moment is not None
            assert moment.number == of[0][0].first + of[0][1] - 1


@given(segments, st.data())
@settings(max_examples=60, deadline=None)
def test_a_lost_segment_is_a_hole_and_nothing_else_is_lost(given_: list, data: st.DataObject) -> None:
    made = seal(given_)
    chain = chain_of(made.room)
    lost = data.draw(st.sampled_from(chain.fronts))
    made.room.repository.store.delete(lost.head.name)
    after = chain_of(made.room)
    assert [one.head.sequence for one in after.fronts] == [one.head.sequence for one in chain.fronts if one != lost]
    inside = chain.fronts[0].head.sequence < lost.head.sequence < chain.fronts[-1].head.sequence
    assert [one.subject for one in after.problems] == ([lost.head.name] if inside else [])
    found = spans(after)
    for before, span in itertools.pairwise(found):
        assert span.why
        assert span.first > before.last
        numbers = [one.head.sequence for one in span.fronts]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    if inside or lost == chain.fronts[0] != chain.fronts[-1]:
        assert (
            lost.head.name in found[-1].why
            or any("can't be read" in one.why or "not there" in one.why for one in found)
            or (any(one.head.hole for one in chain.fronts))
        )


@given(segments, st.data())
@settings(max_examples=60, deadline=None)
def test_what_a_moment_was_said_to_be_it_stays(given_: list, data: st.DataObject) -> None:
    """Operations come to light late, with times of before that: they don't get into moments that could be asked for already."""
    made = seal(given_)
    chain = chain_of(made.room)
    count = data.draw(st.integers(1, len(chain.fronts)))
    early, late = spans(replace(chain, fronts=chain.fronts[:count])), spans(chain)
    assume(early[-1].since <= early[-1].until)
    moment = data.draw(st.integers(early[-1].since, early[-1].until))
    before, after = at_time(early, moment, made.read), at_time(late, moment, made.read)
    assert before is not None
    assert after is not None
    assert (before.span.first, before.number) == (after.span.first, after.number)


def test_what_is_known_in_part_is_no_moment_yet() -> None:
    """There is more of the same time: until that is read too, none of it can be asked for."""
    room = new_room()
    sealer = new_sealer(room)
    row = (2, "row 0", [0.0] * 3, True, None, None, None)
    sealer.add([row_changes("first", [row], [100], ["1"])], {"": "1"}, 100)
    sealer.add([row_changes("first", [row], [200], ["2"])], {"": "2"}, 0)
    sealer.seal()
    made = Told(room)
    assert at_time(spans(chain_of(room)), 200, made.read) is None
    sealer.add([row_changes("first", [row], [200], ["3"])], {"": "3"}, 200)
    sealer.seal()
    moment = at_time(spans(chain_of(room)), 200, made.read)
    assert moment is not None
    assert moment.number == 3


def test_what_begins_after_a_hole_and_tells_nothing_yet_is_shown() -> None:
    """The journal ends where it ended before; later moments are refused."""
    room = new_room()
    sealer = new_sealer(room)
    sealer.add([row_changes("first", [ROW], [5_000_000], ["1"])], {"": "1"}, 5_000_001)
    after = new_sealer(room, sealer.seal(), "5", "nobody followed")
    after.add([], {"": "5"}, 0)
    after.seal()
    (status,) = room.journal_status()
    (hole,) = status.holes
    assert (status.until, hole.since) == ("1970-01-01T00:00:05.000001Z", "1970-01-01T00:00:05.000001Z")
    with pytest.raises(Refused, match="the journal ends at 1970-01-01T00:00:05"):
        room.restore("latest", "chroma:///nowhere", at="1971-01-01")


def test_a_span_does_not_cover_the_hole_before_it() -> None:
    """What was read first after a hole was not all that there was."""
    room = new_room()
    row = (2, "row 0", [0.0] * 3, True, None, None, None)
    sealer = new_sealer(room)
    sealer.add([row_changes("first", [row], [100], ["1"])], {"": "1"}, 150)
    tail = sealer.seal()
    after = new_sealer(room, tail, "9", "nobody followed")
    after.add([], {"": "9"}, 0)
    after.seal()
    after.add([row_changes("first", [row], [900], ["10"])], {"": "10"}, 0)
    after.seal()
    after.add([], {"": "10"}, 1000)
    after.seal()
    made, found = Told(room), spans(chain_of(room))
    assert [at_time(found, time, made.read) is None for time in (120, 150, 151, 500, 899, 900, 1000)] == [
        *(False, False, True, True, True, False, False)
    ]


@given(st.integers(0, 400), st.booleans(), st.booleans())
@settings(deadline=None)
def test_what_a_part_held_before_it_went_unseen_is_refused(looked: int, sealed: bool, at_once: bool) -> None:
    """From when it was looked at, or from when all was seen, until it was noticed, and nothing else is."""
    room = new_room()
    sealer = new_sealer(room)
    row = (2, "row 0", [0.0] * 3, True, None, None, None)
    sealer.add([row_changes("first", [row], [100], ["1"])], {"": "1"}, 200)
    if sealed:
        sealer.seal()
    later = [row_changes("second", [row], [300], ["2"]), row_changes("second", [row], [500], ["3"])]
    gone = CatalogChange({}, ("first",), 500, "4", scope="first", unseen_since=looked)
    if not at_once:
        sealer.add(later, {"": "3"}, 0)
        later = []
    sealer.add([*later, gone], {"": "4"}, 600)
    sealer.add([row_changes("second", [row], [700], ["5"])], {"": "5"}, 800)
    sealer.seal()
    made, found = Told(room), spans(chain_of(room))
    since = max(looked, 200)
    for time in (100, since - 1, since, since + 1, 499, 500, 501, 700, 800):
        moment = at_time(found, time, made.read)
        assert moment is not None
        assert (unseen(moment, time) is not None) == (since < time < 500), time
        assert unseen(moment, time, ["second"]) is None
        assert unseen(moment, time, ["first", "second"]) == unseen(moment, time)
    numbered = [at_mark(found, mark, made.read) for mark in ("1", "2", "3", "5")]
    assert [unseen(one, one.time) is not None for one in numbered if one] == [False, since < 300, True, False]


ROW = (2, "row 0", [0.0] * 3, True, None, None, None)


def offsets(room: Strongroom, epoch: int, tail: Front | None = None) -> Sealer:
    """One of a log without times, whose marks are places in it."""
    stream = stream_of(room.repository, SOURCE)
    return Sealer(room.repository, Writer(stream, SOURCE, "redis", "here", epoch, "redis-offset"), tail, {"": "0:log:0"})


def times_of(room: Strongroom) -> list[int]:
    return [int(value(one, TIME)) for one in told(all_changes(room))]


@given(st.lists(st.lists(st.integers(100, 900), min_size=1, max_size=4), min_size=1, max_size=4), st.booleans())
@settings(max_examples=30, deadline=None)
def test_times_do_not_go_back_while_there_is_more(segments_: list[list[int]], together: bool) -> None:
    """Nor from one follower to the next, before either knows that all was read; nor within what a feed gave `together`."""
    room, tail = new_room(), None
    for sequence, times in enumerate(segments_):
        sealer = new_sealer(room, tail)
        marks = [f"{10 * sequence + number + 1}" for number in range(len(times))]
        steps = [(times, marks)] if together else [([time], [mark]) for time, mark in zip(times, marks, strict=True)]
        for its, marked in steps:
            sealer.add([row_changes("first", [ROW] * len(its), its, marked)], {"": marked[-1]}, 0)
        tail = sealer.seal()
    given_ = list(itertools.chain.from_iterable(segments_))
    assert times_of(room) == list(itertools.accumulate(given_, max))


def test_no_snapshot_lies_inside_of_a_transaction() -> None:
    """Its operations are told with the mark of its end and where it began."""
    room = new_room()
    sealer = offsets(room, 1)
    marks = ["20:log:0", "90:log:0@40", "90:log:0@40", "100:log:0"]
    sealer.add([row_changes("first", [ROW] * 4, [1, 2, 3, 4], marks)], {"": "100:log:0"}, 5)
    sealer.seal()
    made, (span,) = Told(room), spans(chain_of(room))
    found = {place: number_up_to(span, "", f"{place}:log:0", made.read) for place in (0, 19, 20, 39, 40, 41, 89, 90, 99, 100, 101)}
    assert found == {0: 0, 19: 0, 20: 1, 39: 1, 40: 1, 41: None, 89: None, 90: 3, 99: 3, 100: 4, 101: None}
    assert number_up_to(span, "", "20:other:0", made.read) is None


@pytest.mark.parametrize("pieces", [1, 3])
def test_what_a_log_without_times_held_when_nobody_followed_is_not_guessed(pieces: int) -> None:
    """What the next follower catches up on is dated when it was read, in however many segments."""
    room = new_room()
    first = offsets(room, 1)
    first.add([row_changes("first", [ROW], [100], ["10:log:0"])], {"": "10:log:0"}, 200)
    second = offsets(room, 2, first.seal())
    for number in range(pieces):
        last = number == pieces - 1
        mark = f"{20 + number}:log:0"
        second.add([row_changes("first", [ROW], [900 + number], [mark])], {"": mark}, 1000 if last else 0)
        second.seal()
    second.add([row_changes("first", [ROW], [1500], ["50:log:0"])], {"": "50:log:0"}, 1600)
    second.seal()
    (span,) = spans(chain_of(room))
    until = 900 if pieces == 1 else 1000
    for time in (100, 150, 200, until, 1001, 1500, 1600):
        assert blind(span, time) is None, time
    for time in (201, 500, until - 1):
        assert blind(span, time) == (200, until), time


def test_who_follows_without_a_break_is_never_blind() -> None:
    room = new_room()
    sealer = offsets(room, 1)
    for time in (100, 200, 300):
        sealer.add([row_changes("first", [ROW], [time], [f"{time}:log:0"])], {"": f"{time}:log:0"}, time + 50)
        sealer.seal()
    (span,) = spans(chain_of(room))
    assert all(blind(span, time) is None for time in range(100, 350, 10))


long_spans = st.lists(
    st.tuples(st.lists(steps.filter(bool).map(lambda one: one[0]), min_size=1, max_size=2), st.sampled_from([False, False, True])),
    min_size=3,
    max_size=5,
)


@given(long_spans, st.data())
@settings(max_examples=60, deadline=None)
def test_what_is_trimmed_no_moment_after_a_kept_snapshot_needs(given_: list, data: st.DataObject) -> None:
    made = seal(given_)
    chain = chain_of(made.room)
    found = spans(chain)
    bases = []
    for place in data.draw(st.lists(st.integers(0, len(found) - 1), min_size=2, max_size=3)):
        span, expected = found[place], made.spans[place]
        low = data.draw(st.integers(0, len(expected)))
        mark = span.begins[""] if low == 0 else value(expected[low - 1], MARK)
        bases.append((place, low, Position("sequence", mark)))
    first = first_needed(found, [position for _, _, position in bases], made.read)
    kept = spans(replace(chain, fronts=tuple(one for one in chain.fronts if one.head.sequence >= first)))
    for place, low, position in bases:
        span = kept[place - len(found)]
        numbers = numbers_of(span, position, made.read)
        assert numbers is not None
        assert told(between(span, numbers, span.last, made.read)) == made.spans[place][low:]
    place, low = min((place, low) for place, low, _ in bases)
    lowest = found[place].first - 1 + low
    assert [one.head.sequence for one in found[place].fronts if one.head.last < lowest and one.head.sequence >= first] == []
    assert not any(one.head.sequence >= first for span in found[:place] for one in span.fronts)
