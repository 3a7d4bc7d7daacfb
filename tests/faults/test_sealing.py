"""Does the journal hold each operation once and in order, whatever the store does and whoever else follows?

A plain log stands for the engine's: it gives what came after a mark. The store loses requests and answers, repeats them, and dies
at every operation in turn.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from faulty_store import FaultyStore, SimulatedCrash, at, first_create

from strongroom.engines.changes import MARK, Act
from strongroom.errors import Damaged, Unreachable
from strongroom.journal.ends import read_tail
from strongroom.journal.sealing import Behind, Fenced, Sealer, Writer
from strongroom.journal.stream import claim_epoch, stream_of
from strongroom.library import Strongroom

sys.path.append(str(Path(__file__).parents[1] / "properties"))
from any_changes import SOURCE, all_changes, chain_of, new_room, row_changes

LENGTH, STEP, EVERY = 40, 4, 2
OPERATIONS = 9
"""Of the store: two listings, an epoch, five segments."""


@dataclass
class Follower:
    """Reads STEP operations at a time from a log of LENGTH, and seals every EVERY reads."""

    room: Strongroom
    epoch: int = 0
    mark: int = 0
    sealer: Sealer | None = field(default=None, repr=False)
    begun: int = 0

    def begin(self) -> None:
        self.begun += 1
        repository = self.room.repository
        stream = stream_of(repository, SOURCE)
        if not self.epoch:
            self.epoch = claim_epoch(repository, stream)
        tail = read_tail(repository, stream)
        self.mark = int(tail.head.ends[""]) if tail else 0
        writer = Writer(stream, SOURCE, "chroma", "here", self.epoch, "sequence")
        self.sealer = Sealer(repository, writer, tail, {"": str(self.mark)})

    def read(self) -> None:
        assert self.sealer is not None
        end = min(self.mark + STEP, LENGTH)
        numbers = range(self.mark + 1, end + 1)
        rows = [(Act.UPSERT, f"row {number}", [number, 0.0, 0.0], True, None, None, None) for number in numbers]
        self.sealer.add([row_changes("first", rows, list(numbers), [str(one) for one in numbers])], {"": str(end)}, end)
        self.mark = end

    def seal(self) -> None:
        """As a follower does: again if there was no answer."""
        assert self.sealer is not None
        for _ in range(3):
            with suppress(Unreachable):
                self.sealer.seal()
                return
        raise Unreachable("three times")

    def run(self) -> Iterator[None]:
        """All of the log, a step at a time."""
        while True:
            try:
                self.begin()
                while self.mark < LENGTH:
                    for _ in range(EVERY):
                        self.read()
                        yield
                    self.seal()
                    yield
                return
            except Behind:
                continue


def marks(room: Strongroom) -> list[int]:
    return [int(mark) for change in all_changes(room) for mark in change.batch.column(MARK).to_pylist()]


def check(room: Strongroom) -> None:
    """All of the log, each operation once, in one unbroken chain."""
    chain = chain_of(room)
    assert chain.problems == ()
    assert marks(room) == list(range(1, LENGTH + 1))
    heads = [front.head for front in chain.fronts]
    assert [head.sequence for head in heads] == list(range(len(heads)))
    assert all(not head.hole for head in heads)


def faulty() -> tuple[Strongroom, FaultyStore]:
    room = new_room()
    store = FaultyStore(room.repository.store)
    room.repository.store = store
    return room, store


def test_how_many_operations_there_are() -> None:
    room, store = faulty()
    assert list(Follower(room).run())
    assert len(store.operations) == OPERATIONS
    check(room)


@pytest.mark.parametrize("fault", ["crash before", "crash after"])
@pytest.mark.parametrize("number", range(OPERATIONS))
def test_a_crash_at_any_operation_loses_nothing(number: int, fault: str) -> None:
    room, store = faulty()
    store.trouble = at(number, fault)
    with pytest.raises(SimulatedCrash):
        list(Follower(room).run())
    room.repository.store = store.inner
    list(Follower(room).run())
    check(room)


@pytest.mark.parametrize("fault", ["unreachable before", "unreachable after", "exists after", "twice", "late"])
@pytest.mark.parametrize("number", range(OPERATIONS))
def test_a_lost_answer_is_no_second_segment(number: int, fault: str) -> None:
    room, store = faulty()
    store.trouble = lambda one: fault if one.number == number and (one.verb == "create" or fault.startswith("un")) else None
    follower = Follower(room)
    try:
        list(follower.run())
        assert follower.begun == 1  # it knew its own segment
    except Unreachable:  # of a read: a follower is started again
        list(Follower(room).run())
    store.settle()
    check(room)


def test_a_store_that_stays_away_gets_the_same_segment() -> None:
    """The segment landed, and neither its answer nor the look at it came through."""
    room, store = faulty()
    store.trouble = lambda one: "unreachable after" if one.number in (4, 5) else None
    follower = Follower(room)
    list(follower.run())
    assert [one.verb for one in store.operations[4:6]] == ["create", "read"]
    assert follower.begun == 1
    check(room)


@pytest.mark.parametrize("seed", range(40))
def test_two_followers_write_each_operation_once(seed: int) -> None:
    """Each goes on at random moments; the later one wins, the earlier one stops, and either may be alone in the end."""
    draw = random.Random(seed)
    room = new_room()
    runs = [Follower(room).run(), Follower(room).run()]
    fenced = 0
    while runs:
        run = draw.choice(runs)
        try:
            next(run)
        except StopIteration:
            runs.remove(run)
        except Fenced:
            fenced += 1
            runs.remove(run)
    assert fenced <= 1
    list(Follower(room).run())
    check(room)


def test_the_later_follower_wins() -> None:
    room = new_room()
    first, second = Follower(room), Follower(room)
    for one in (first, second):
        one.begin()
        one.read()
    second.seal()
    with pytest.raises(Fenced, match="another follower"):
        first.seal()
    third = Follower(room)
    third.begin()
    third.read()
    second.read()
    second.seal()
    with pytest.raises(Behind):
        third.seal()
    list(third.run())
    check(room)


def test_epochs_are_claimed_once_each() -> None:
    room, store = faulty()
    stream = stream_of(room.repository, SOURCE)
    assert claim_epoch(room.repository, stream) == 1
    store.trouble = first_create("journal/", "unreachable after")
    assert claim_epoch(room.repository, stream) == 2  # the lost answer was ours
    store.trouble = first_create("journal/", "exists before")
    assert claim_epoch(room.repository, stream) == 3


def test_a_foreign_object_in_the_way_is_said() -> None:
    room = new_room()
    follower = Follower(room)
    follower.begin()
    follower.read()
    assert follower.sealer is not None
    room.repository.store.create(f"journal/{stream_of(room.repository, SOURCE)}/{0:012d}", b"not a segment")
    with pytest.raises(Damaged):
        follower.seal()


def test_a_swapped_segment_breaks_the_chain() -> None:
    """Whole and signed, but of another past: someone who holds an older object puts it in this one's place."""
    room = new_room()
    follower = Follower(room)
    list(follower.run())
    chain = chain_of(room)
    other = Follower(room, epoch=9)
    other.begin()
    assert other.sealer is not None
    tail = chain.fronts[0]
    other.sealer = Sealer(
        room.repository, Writer(tail.head.stream, SOURCE, "chroma", "here", 9, "sequence"), replace(tail, hash="0" * 64), {"": "8"}
    )
    other.mark = 8
    other.read()
    room.repository.store.delete(chain.fronts[1].head.name)
    other.seal()
    problems = chain_of(room).problems
    assert [one.subject for one in problems][:1] == [chain.fronts[1].head.name]
    assert "doesn't follow" in str(problems[0])
