"""Is a stream's end found whatever is missing, and does it say what all of the stream would?

Streams of as many segments as a page and a chunk have in the real ones would take minutes: both are made small here.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from unittest import mock

import pytest
from faulty_store import FaultyStore
from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom.engines.changes import Act, CatalogChange
from strongroom.errors import Refused
from strongroom.journal import ends as ends_module
from strongroom.journal import stream as stream_module
from strongroom.journal.ends import ends, outline, read_tail
from strongroom.journal.marks import numbers_of
from strongroom.journal.retention import first_needed
from strongroom.journal.sealing import Before, Sealer, Writer, standing
from strongroom.journal.segments import segment_name
from strongroom.journal.spans import spans
from strongroom.journal.stream import read_chain, segments_of, stream_of
from strongroom.journal.timeline import between
from strongroom.library import Strongroom
from strongroom.model import Position
from strongroom.operations.journal import status as status_module
from strongroom.operations.journal.moment import changes_before, plan_moment, reader
from strongroom.operations.journal.status import StreamStatus, iso, journal_status
from strongroom.operations.prune.trim import trim_journals
from strongroom.snapshots import manifest
from strongroom.snapshots.manifest import Manifest

sys.path.append(str(Path(__file__).parents[1] / "properties"))
from any_changes import SOURCE, Naive, Ticking, chain_of, new_room, new_sealer, row_changes, told

PAGE, CHUNK = 4, 8


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ends_module, "_PAGE", PAGE)
    monkeypatch.setattr(ends_module, "CHUNK", CHUNK)
    monkeypatch.setattr(stream_module, "CHUNK", CHUNK)
    monkeypatch.setattr(status_module, "_FEW", 0)


def stored(kinds: str, told_from: int = 0) -> Strongroom:
    """A stream of a segment a letter: an operation (x), three (y), nothing (.), an operation after a hole (|), the end of a table
    that had not been looked at (u). Those before `told_from` are an older Strongroom's, which says nothing of what came before."""
    room = new_room(Ticking())
    sealer = new_sealer(room) if not told_from else untold(room)
    for number, kind in enumerate(kinds, 1):
        tick(room, number)
        if number - 1 == told_from and told_from:
            sealer = sealer_after(room, sealer, before=standing(spans(chain_of(room))))
        if kind == "|" and number > 1:
            sealer = sealer_after(room, sealer, hole="lost", before=Before(-1, -1) if number - 1 < told_from else None)
        add(sealer, room, number, kind)
        sealer.seal()
    return room


def tick(room: Strongroom, number: int) -> None:
    """Now and then a follower is late."""
    room.repository.clock.seconds += 9 if number % 7 == 3 else 1  # type: ignore[attr-defined]


def untold(room: Strongroom) -> Sealer:
    writer = Writer(stream_of(room.repository, SOURCE), SOURCE, "chroma", "here", 1, "sequence")
    return Sealer(room.repository, writer, None, {"": "0"}, before=Before(-1, -1))


def sealer_after(room: Strongroom, sealer: Sealer, hole: str = "", before: Before | None = None) -> Sealer:
    writer = Writer(stream_of(room.repository, SOURCE), SOURCE, "chroma", "here", 1, "sequence")
    return Sealer(room.repository, writer, sealer.tail, sealer.ends, hole, before)


def add(sealer: Sealer, room: Strongroom, number: int, kind: str) -> None:
    micros = now(room)
    if kind == "u":
        sealer.add(
            [CatalogChange({}, ("t",), micros - 5, str(number), scope="t", unseen_since=micros - 900_000)],
            {"": str(number)},
            micros,
        )
    elif kind == ".":
        sealer.add([], sealer.ends, micros)
    else:
        count = 3 if kind == "y" else 1
        rows = [(Act.UPSERT, f"row {number}", [number, 0.0, 0.0], True, None, None, None)] * count
        marks = [*(f"{number}.{place}" for place in range(1, count)), str(number)]
        first = micros - 1_000 * (1 + number * 37 % 800)
        sealer.add([row_changes("first", rows, [first + 100 * place for place in range(count)], marks)], {"": str(number)}, micros)


def now(room: Strongroom) -> int:
    return int(room.repository.clock.now().timestamp() * 1e6)


def snapshot_at(room: Strongroom, mark: str, kind: str = "sequence") -> str:
    """A snapshot of which nothing but its place counts."""
    record = Manifest(
        created=room.repository.clock.now().isoformat(),
        source=SOURCE,
        host="here",
        engine="chroma",
        engine_version="1",
        strongroom_version="0",
        position=Position(kind, mark),
        rows_plane="segments",
        root="",
        parents=(),
        tags={"mark": mark},
        catalog={},
        collections=(),
        artifacts=(),
        ledger=(),
        source_bytes=0,
        stored_bytes=0,
    )
    return room.repository.add_manifest(manifest.encode(record))


def counted(room: Strongroom) -> FaultyStore:
    """From here on operations are counted."""
    room.repository.store = FaultyStore(room.repository.store)
    return room.repository.store


lengths = st.integers(0, 70)


@given(lengths, st.sets(st.integers(0, 69)))
@settings(max_examples=40, deadline=None)
def test_the_last_segment_is_found_whatever_is_missing(length: int, missing: set[int]) -> None:
    room = stored("x" * length)
    stream = stream_of(room.repository, SOURCE)
    for number in missing:
        room.repository.store.delete(segment_name(stream, number))
    left = set(range(length)) - missing
    tail = read_tail(room.repository, stream)
    assert (tail.head.sequence if tail else None) == max(left, default=None)
    found = [{front.head.sequence for front in chain.fronts} for chain in ends(room.repository, stream)]
    assert all(one == {number for number in left if number >= min(one)} for one in found)  # each is an end
    assert (found[-1] if found else set()) == left
    assert all(len(one) <= len(other) for one, other in pairwise(found))
    whole = [chain.whole for chain in ends(room.repository, stream)]
    assert whole == [False] * (len(whole) - 1) + [True] * bool(whole)


def test_the_end_is_found_by_as_many_requests_however_long_the_stream_is() -> None:
    def requests(length: int) -> int:
        room = stored("x" * length)
        store = counted(room)
        tail = read_tail(room.repository, stream_of(room.repository, SOURCE))
        assert tail is not None and tail.head.sequence == length - 1
        read_tail_of = len(store.operations)
        next(ends(room.repository, stream_of(room.repository, SOURCE)))
        return read_tail_of

    assert requests(150) <= requests(40) + 2 * 2  # twice as long: one question more to either side


kinds = st.text(alphabet="xxxx..|u", min_size=1, max_size=60)


@given(kinds, st.integers(0, 30), st.integers(0, 20))
@settings(max_examples=60, deadline=None)
def test_a_few_heads_say_of_a_stream_what_all_say(kinds: str, told_from: int, gone: int) -> None:
    """Also of one that was trimmed, and of which an older Strongroom wrote the beginning."""
    room = stored(kinds, told_from)
    stream = stream_of(room.repository, SOURCE)
    for number in range(min(gone, len(kinds) - 1)):
        room.repository.store.delete(segment_name(stream, number))
    sizes = segments_of(room.repository, stream)
    short = outline(room.repository, stream, sizes)
    assert short is not None or told_from  # where what it says leads back to one that says nothing, all are read
    chain = read_chain(room.repository, stream, sizes)
    (said,) = journal_status(room.repository)
    expected = by_all(room, stream)
    if gone:  # what a trimmed segment waited stays in mind
        said, expected = replace(said, rpo=None), replace(expected, rpo=None)
    assert replace(said, lag=0.0) == replace(expected, lag=0.0)
    if short is not None:
        assert [(one.since, one.until, one.why, one.first) for one in short.spans] == [
            (one.since, one.until, one.why, one.first) for one in spans(chain)
        ]


def by_all(room: Strongroom, stream: str) -> StreamStatus:
    """As it is said if every head is read."""
    with mock.patch.object(status_module, "outline", lambda *_: None):
        (said,) = journal_status(room.repository)
    return said


def test_a_missing_or_damaged_segment_is_told_by_the_status() -> None:
    room = stored("xxx|xxxx")
    stream, store = stream_of(room.repository, SOURCE), room.repository.store
    content = store.read(segment_name(stream, 7))
    store.delete(segment_name(stream, 7))
    store.create(segment_name(stream, 7), content[:-40] + bytes(40))
    assert journal_status(room.repository)[0].problems == ()  # its head is whole: 'verify' reads operations
    second = store.read(segment_name(stream, 1))
    store.delete(segment_name(stream, 1))
    store.create(segment_name(stream, 1), second[:60] + bytes(60))
    assert journal_status(room.repository)[0].problems == ()  # 'verify' reads each head, and so does this if there are few
    with mock.patch.object(status_module, "_FEW", 8):
        assert len(journal_status(room.repository)[0].problems) == 1
    store.delete(segment_name(stream, 1))
    store.create(segment_name(stream, 1), second)
    store.delete(segment_name(stream, 7))
    store.create(segment_name(stream, 7), content[:60] + bytes(60))
    assert len(journal_status(room.repository)[0].problems) == 1
    store.delete(segment_name(stream, 7))
    store.create(segment_name(stream, 7), content)
    assert journal_status(room.repository)[0].problems == ()
    store.delete(segment_name(stream, 5))
    assert len(journal_status(room.repository)[0].problems) == 1


@given(st.text(alphabet="xxyy..|", min_size=20, max_size=60), st.data())
@settings(max_examples=60, deadline=None)
def test_a_moment_is_planned_from_the_end_as_from_the_whole(kinds: str, data: st.DataObject) -> None:
    room = stored(kinds)
    for mark in sorted(data.draw(st.sets(st.integers(0, len(kinds)), max_size=4))):
        snapshot_at(room, str(mark))
    heads = [front.head for front in chain_of(room).fronts]
    times = sorted({time for head in heads for time in (head.earliest, head.latest, head.seen)})
    time = data.draw(st.sampled_from(times)) + data.draw(st.integers(-1, 1))
    assert planned(room, time) == planned(room, time, whole=True)


def planned(room: Strongroom, time: int, *, whole: bool = False) -> object:
    with mock.patch.object(ends_module, "_PAGE", 1_000 if whole else PAGE):
        try:
            plan = plan_moment(room.repository, iso(time))
        except Refused as refused:
            return str(refused), refused.hint
    after = told(between(plan.span, plan.after, plan.number, reader(room.repository)))
    assert plan.operations == len(after)
    before = told(changes_before(room.repository, plan))
    return plan.snapshot, plan.number, plan.time, plan.operations, plan.segments, plan.bytes, dict(plan.after), before, after


def test_a_moment_just_where_an_end_begins_is_the_same() -> None:
    room = stored("x" * 32 + ".xxx")
    snapshot_at(room, "32")
    seen = [front.head.seen for front in chain_of(room).fronts]
    assert planned(room, seen[32]) == planned(room, seen[32], whole=True)


def test_an_end_that_begins_while_a_follower_caught_up_does_not_say_what_was_when() -> None:
    """Where a log has no times: what came while nobody followed is dated when it was read."""
    room = new_room(Ticking())
    sealer: Sealer | None = None
    for number in range(1, 41):
        tick(room, number)
        if sealer is None or number == 21:
            epoch, before = (1, None) if sealer is None else (2, sealer.tail)
            writer = Writer(stream_of(room.repository, SOURCE), SOURCE, "redis", "here", epoch, "redis-offset")
            sealer = Sealer(room.repository, writer, before, {"": str(number - 1)})
        rows = [(Act.UPSERT, f"row {number}", [number, 0.0, 0.0], True, None, None, None)]
        sealer.add(
            [row_changes("first", rows, [now(room) - 9], [str(number)])], {"": str(number)}, 0 if 21 <= number < 39 else now(room)
        )
        sealer.seal()
    snapshot_at(room, "35", "redis-offset")
    latest = [front.head.latest for front in chain_of(room).fronts]
    unknown = planned(room, latest[36])
    assert "what was when isn't known" in str(unknown)
    assert unknown == planned(room, latest[36], whole=True)
    assert planned(room, latest[39]) == planned(room, latest[39], whole=True) != unknown


@given(kinds, st.data())
@settings(max_examples=40, deadline=None)
def test_a_stream_is_trimmed_by_its_beginning_as_by_the_whole(kinds: str, data: st.DataObject) -> None:
    room = stored(kinds.replace("u", "x"))
    marks = data.draw(st.sets(st.integers(0, len(kinds) + 1), max_size=3))
    for mark in marks:
        snapshot_at(room, str(mark))
    found = spans(chain_of(room))
    needed = first_needed(found, [Position("sequence", str(mark)) for mark in marks], reader(room.repository))
    stream = stream_of(room.repository, SOURCE)
    expected = {segment_name(stream, number) for number in range(needed or 0)}
    assert trim_journals(room.repository, dry_run=True).keys() == expected
    assert trim_journals(room.repository, dry_run=False).keys() == expected
    assert min(segments_of(room.repository, stream)) == (needed or 0)


def test_the_first_moments_are_asked_for_by_the_beginning_alone() -> None:
    room = stored("x" * 100)
    snapshot_at(room, "5")
    store = counted(room)
    trim_journals(room.repository, dry_run=True)
    read = {one.name for one in store.operations if one.verb == "read" and one.name.startswith("journal/")}
    assert len(read) <= CHUNK + 1  # and the last one, whose source it is


def test_what_this_machine_knows_of_a_stream_it_goes_on_knowing() -> None:
    """Who asks for the end only must not make it forget the rest."""
    room = stored("x" * 60)
    snapshot_at(room, "50")
    stream = stream_of(room.repository, SOURCE)
    read_chain(room.repository, stream)
    plan_moment(room.repository, iso(now(room)))
    store = counted(room)
    assert len(read_chain(room.repository, stream).fronts) == 60
    assert [one for one in store.operations if one.verb == "read"] == []


def test_of_what_was_trimmed_nothing_is_kept_in_mind(own_state: Path) -> None:
    room = stored("x" * 60)
    stream = stream_of(room.repository, SOURCE)
    read_chain(room.repository, stream)
    assert len(list(own_state.glob("*journal*.cache"))) == 8
    for number in range(3 * CHUNK + 1):
        room.repository.store.delete(segment_name(stream, number))
    read_chain(room.repository, stream)
    assert len(list(own_state.glob("*journal*.cache"))) == 5


scopes = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("rrrrd")), min_size=1, max_size=40)


@given(scopes, st.lists(st.booleans(), min_size=40, max_size=40), st.data())
@settings(max_examples=80, deadline=None)
def test_of_parts_with_an_order_of_their_own_a_snapshot_needs_what_came_after_it_and_no_more(
    given_: list[tuple[str, str]], sealed: list[bool], data: st.DataObject
) -> None:
    """A part that hasn't changed for long, or is long gone, doesn't make all of the stream needed."""
    room = new_room(Ticking())
    writer = Writer(stream_of(room.repository, SOURCE), SOURCE, "lancedb", "here", 1, "lance")
    sealer = Sealer(room.repository, writer, None, {"a": "a0"})
    ends_: dict[str, str] = {"a": "a0"}
    marks, changes = [dict(ends_)], []
    for number, ((scope, what), now_) in enumerate(zip(given_, sealed, strict=False), 1):
        if what == "d" and scope in ends_:
            del ends_[scope]
            change = CatalogChange({}, (scope,), number, f"{scope}{number}", scope=scope)
        else:
            ends_[scope] = f"{scope}{number}"
            rows = [(Act.UPSERT, f"row {number}", [number, 0.0, 0.0], True, None, None, None)]
            change = replace(row_changes(scope, rows, [number], [ends_[scope]]), scope=scope)
        changes.append(change)
        marks.append(dict(ends_))
        sealer.add([change], ends_, number)
        if now_:
            sealer.seal()
    sealer.seal()
    (span,) = spans(chain_of(room))
    place = data.draw(st.integers(0, len(changes)))
    position = Position("lance", json.dumps(marks[place]))
    numbers = numbers_of(span, position, reader(room.repository))
    if numbers is None:
        return
    expected, restored = Naive(), Naive()
    for change in changes:
        expected.do(change)
    for change in (*changes[:place], *between(span, numbers, span.last, reader(room.repository))):
        restored.do(change)
    assert restored.rows == expected.rows
    most = max((numbers[scope] for scope in marks[place]), default=0)
    segment = next(front.head for front in span.fronts if front.head.last >= most)
    resting = numbers.keys() - {change.scope for change in changes[segment.first - 1 :]}
    assert all(numbers[scope] >= segment.first - 1 for scope in resting)
