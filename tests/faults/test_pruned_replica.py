"""Is a replica whole that is pruned while it is copied into? A pack that was deleted there may come back under its name."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from faulty_store import FaultyStore, Operation
from sampling import part_of
from towns import Town, empty_store, town_of
from worlds import Sources, World, build_source, build_world

from strongroom.errors import Overtaken
from strongroom.operations.copy import CopyReport, copy
from strongroom.repository import Store


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    folder = tmp_path_factory.mktemp("small")
    return Sources(*(build_source(folder / name, name, seed, rows=20) for seed, name in enumerate(("first", "second", "changed"))))


@pytest.fixture(scope="module")
def pristine(small: Sources, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A small one: it is lived through hundreds of times."""
    return build_world(tmp_path_factory.mktemp("world"), small)


@dataclass(frozen=True)
class Pair:
    """A repository and a replica that condemned, a time of grace ago, what a snapshot `made` at the primary since needs again."""

    primary: Town
    there: Town
    made: str
    condemned_bytes: int

    def copy(self, store: Store | None = None) -> CopyReport:
        report = copy(self.primary.open(), store or self.there.store)
        self.there.kept[self.made] = self.primary.kept[self.made]
        return report

    def again(self) -> Pair:
        """The replica as it is now, to go on apart."""
        store = empty_store()
        for one in list(self.there.store.list("")):
            store.create(one.name, self.there.store.read(one.name))
        return replace(self, there=replace(self.there, store=store, kept=dict(self.there.kept)))


@pytest.fixture
def pair(pristine: World, small: Sources, tmp_path: Path) -> Pair:
    primary, there = town_of(pristine, tmp_path), Town(empty_store(), tmp_path)
    copy(primary.open(), there.store)
    there.kept = dict(primary.kept)
    there.forget(pristine.order[1])
    condemned = there.prune().condemned
    assert condemned.packs == 1
    there.wait()
    primary.seconds = there.seconds
    return Pair(primary, there, primary.back_up(small.second), condemned.bytes)


def before(number: int, what: Callable[[], object]) -> Callable[[Operation], None]:
    """Something happens just before an operation of another process."""

    def happen(operation: Operation) -> None:
        if operation.number == number:
            what()

    return happen


def prune(pair: Pair) -> None:
    pair.there.prune()


def prunes(pair: Pair) -> None:
    """The copy sleeps for days."""
    for _ in range(3):
        pair.there.wait()
        pair.there.prune()


def a_copy(pair: Pair) -> None:
    assert pair.copy().whole


def a_prune_and_a_copy(pair: Pair) -> None:
    pair.there.prune()
    assert pair.copy().whole


def test_no_pack_is_sent_that_is_condemned_there(pair: Pair) -> None:
    """It would have to be copied out of it there: what is needed of it goes by itself, once."""
    report = pair.copy()
    assert report.snapshots == 1
    assert report.bytes < 3 * pair.condemned_bytes
    pair.there.is_whole()
    pair.there.ends_clean()


@pytest.mark.parametrize("happens", part_of([prunes], [prune, prunes]))
def test_a_prune_at_every_moment_of_a_copy(happens: Callable[[Pair], None], pair: Pair) -> None:
    """It takes packs that were sent before the snapshots are there that need them: they are sent again."""
    for number in itertools.count():
        now = pair.again()
        store = FaultyStore(now.there.store, before(number, lambda now=now: happens(now)))
        try:
            assert now.copy(store).whole
        except Overtaken:
            now.there.is_whole()
            assert now.copy().whole
        now.there.is_whole()
        if number >= len(store.operations):
            break
        if number % 5 == 0:
            now.there.ends_clean()
    assert number > 20


@pytest.mark.parametrize("happens", part_of([a_prune_and_a_copy], [a_copy, a_prune_and_a_copy]))
def test_a_copy_at_every_moment_of_a_prune(happens: Callable[[Pair], None], pair: Pair) -> None:
    """Also of one that is so slow that another one is done with what it is about to delete, and a copy brings that back."""
    for number in itertools.count():
        now = pair.again()
        store = FaultyStore(now.there.store, before(number, lambda now=now: happens(now)))
        now.there.prune(store)
        now.there.is_whole()
        if number >= len(store.operations):
            break
        if number % 5 == 0:
            now.there.ends_clean()
    assert number > 20
