"""A hold is placed while forget and prune run. Each is stopped before every operation of its own, and the other goes on meanwhile:
what the hold covers is whole for good, or the hold says that it came too late."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from faulty_store import FaultyStore, Operation
from towns import GRACE, Town, before_marking, files_in, town_of
from worlds import Sources, World, build_source, build_world

from strongroom.errors import NotFound, Overtaken, Refused, StrongroomError
from strongroom.operations.forget import ForgetOptions, forget
from strongroom.operations.hold import HoldOptions, HoldReport, place_hold
from strongroom.operations.prune.run import PruneOptions, prune
from strongroom.repository import Store
from strongroom.repository.holds import Scope
from strongroom.snapshots import history

AT_ONCE = timedelta(0)
PATIENCE_SECONDS = 60


class Actor:
    """Somebody who works in a thread of his own, and stops before his operation `stop_at` until he is told to go on."""

    def __init__(self, store: Store, work: Callable[[Store], object], stop_at: int = -1) -> None:
        self.store = FaultyStore(store, self._stop)
        self.result: object = None
        self.error: StrongroomError | None = None
        self._stop_at, self._work = stop_at, work
        self._stopped, self._go = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def was_stopped(self) -> bool:
        return len(self.store.operations) > self._stop_at

    def begin(self) -> None:
        """Up to where he stops, or to his end."""
        self._thread.start()
        assert self._stopped.wait(PATIENCE_SECONDS)

    def end(self) -> None:
        self._go.set()
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive()

    def _stop(self, operation: Operation) -> None:
        if operation.number == self._stop_at:
            self._stopped.set()
            assert self._go.wait(PATIENCE_SECONDS)

    def _run(self) -> None:
        try:
            self.result = self._work(self.store)
        except StrongroomError as error:
            self.error = error
        finally:
            self._stopped.set()


def retention(town: Town, snapshot: str, grace: timedelta) -> Callable[[Store], object]:
    """Forget one and prune, as a schedule does: one process after another."""

    def work(store: Store) -> None:
        forgetting(town, snapshot)(store)
        prune(town.open(store), PruneOptions(grace, 0.0))

    return work


def forgetting(town: Town, snapshot: str) -> Callable[[Store], object]:
    return lambda store: forget(town.open(store), ForgetOptions((snapshot,)))


def holding(town: Town, scope: Scope) -> Callable[[Store], HoldReport]:
    return lambda store: place_hold(town.open(store), HoldOptions(scope, "discovery", "CASE-114"))


def judge(town: Town, placed: Actor, snapshot: str, *, may_be_late: bool, prunes: int = 2) -> bool:
    """Was it in time? All that the hold says it covers is whole and stays, through prunes past any grace."""
    content = town.kept[snapshot]
    town.kept = {name: files for name, files in town.kept.items() if name in town.open().manifest_ids()}
    for _ in range(prunes):
        town.wait()
        town.prune()
    if prunes:
        town.is_whole()
    if placed.error is not None:
        assert may_be_late, placed.error
        assert isinstance(placed.error, NotFound | Overtaken)
        assert placed.error.hint
        return False
    assert isinstance(placed.result, HoldReport)
    repository = town.open()
    covered = {one: files_in(repository, one) for one in placed.result.covered}
    for one in covered:
        with pytest.raises(Refused, match="CASE-114"):
            forget(repository, ForgetOptions((one,)))
    there = content in covered.values()
    assert there or may_be_late, placed.result
    return there


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A small one: it is lived through hundreds of times."""
    folder = tmp_path_factory.mktemp("small")
    made = [build_source(folder / name, name, seed, rows=20) for seed, name in enumerate(("first", "second", "changed"))]
    return build_world(folder, Sources(*made))


def scopes(town: Town, snapshot: str) -> Iterator[Scope]:
    record = history.read(town.open(), snapshot).manifest
    yield Scope((snapshot,))
    yield Scope(source=record.source)


@pytest.mark.parametrize("by", [0, 1], ids=["by name", "by source"])
@pytest.mark.parametrize("grace", [GRACE, AT_ONCE], ids=["with grace", "at once"])
def test_a_hold_before_every_operation_of_forget_and_prune(by: int, grace: timedelta, pristine: World, tmp_path: Path) -> None:
    """As long as the manifest is there the hold is in time; afterwards it says so, or says what else it covers."""
    target, in_time = pristine.order[1], []
    for number in range(1_000):
        town = town_of(pristine, tmp_path)
        scope = list(scopes(town, target))[by]
        running = Actor(town.store, retention(town, target, grace), number)
        running.begin()
        gone = target not in town.open().manifest_ids()
        placed = Actor(town.store, holding(town, scope))
        placed.begin()
        placed.end()
        running.end()
        assert running.error is None or isinstance(running.error, Refused), running.error
        in_time.append(judge(town, placed, target, may_be_late=gone))
        if not running.was_stopped:
            break
    assert in_time == sorted(in_time, reverse=True)  # once it is too late it stays so
    assert in_time.count(True) > 3
    assert in_time.count(False) > 3


@pytest.mark.parametrize("by", [0, 1], ids=["by name", "by source"])
@pytest.mark.parametrize("grace", [GRACE, AT_ONCE], ids=["with grace", "at once"])
def test_forget_and_prune_before_every_operation_of_a_hold(by: int, grace: timedelta, pristine: World, tmp_path: Path) -> None:
    """The hold is overtaken in the middle: with a time of grace nothing is lost once it has begun to read the manifests."""
    target, in_time = pristine.order[1], []
    for number in range(1_000):
        town = town_of(pristine, tmp_path)
        scope = list(scopes(town, target))[by]
        placed = Actor(town.store, holding(town, scope), number)
        placed.begin()
        running = Actor(town.store, retention(town, target, grace))
        running.begin()
        running.end()
        assert running.error is None or isinstance(running.error, Refused), running.error
        placed.end()
        read = any(one.verb == "read" and one.name == f"snapshots/{target}" for one in placed.store.operations[:number])
        in_time.append(judge(town, placed, target, may_be_late=grace == AT_ONCE or not read))
        if not placed.was_stopped:
            break
    assert in_time[-1]
    assert not in_time[0]


def test_both_are_stopped_at_every_two_operations(pristine: World, tmp_path: Path) -> None:
    """Forget up to here, the hold up to there, forget to its end, the hold to its end. Up to its tombstone forget only reads."""
    target, tried = pristine.order[1], 0
    alone = Actor(town_of(pristine, tmp_path).store, forgetting(town_of(pristine, tmp_path), target))
    alone.begin()
    first = next(one.number for one in alone.store.operations if one.verb == "create")
    for number in range(first, len(alone.store.operations)):
        for second in range(1_000):
            town = town_of(pristine, tmp_path)
            running = Actor(town.store, forgetting(town, target), number)
            running.begin()
            gone = target not in town.open().manifest_ids()
            placed = Actor(town.store, holding(town, Scope((target,))), second)
            placed.begin()
            running.end()
            assert running.error is None or isinstance(running.error, Refused), running.error
            placed.end()
            read = any(one.verb == "read" and one.name == f"snapshots/{target}" for one in placed.store.operations[:second])
            judge(town, placed, target, may_be_late=gone or not read, prunes=0)
            tried += 1
            if not placed.was_stopped:
                break
    assert tried > 50


def test_a_hold_on_what_is_marked_already(pristine: World, tmp_path: Path) -> None:
    """It holds what is left; the sweep that follows takes the rest, and what is held is whole."""
    town = before_marking(pristine, tmp_path)
    town.prune()
    kept = next(iter(town.kept))
    placed = Actor(town.store, holding(town, Scope(source=history.read(town.open(), kept).manifest.source)))
    placed.begin()
    placed.end()
    assert judge(town, placed, kept, may_be_late=False)
