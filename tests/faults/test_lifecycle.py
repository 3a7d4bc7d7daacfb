"""Does every kept snapshot stay whole, whatever a repository lives through?

Backups, forgets, prunes, compaction, repairs, crashes, other machines and a store that fails come in random order.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from lives import DAY, FAULTS, HOOKS, HOUR, SEEN, WELL, Life, Mood, draw_of, make_small
from living_sources import CHANGES

KINDS = {"faiss": ("hnsw", "flat"), "hnswlib": ("hnswlib", "hnsw")}
SEEDS = st.integers(0, 2**32 - 1)
WHICH = st.integers(0, 1)
MOODS = st.one_of(
    st.just(WELL),
    st.builds(Mood, st.sampled_from(["crash before", "crash after", *FAULTS, *HOOKS, "stale"]), st.integers(0, 30)),
)
GRACES = st.sampled_from([timedelta(0), timedelta(hours=1), DAY])


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(monkeypatch)


class Lifecycle(RuleBasedStateMachine):
    """The rules. Nothing that is drawn depends on what happened: threads order the store's operations as they like."""

    def __init__(self, place: Callable[[], Path], kinds: tuple[str, str], *, whole_each_time: bool) -> None:
        super().__init__()
        self.life = Life(place(), kinds)
        self.whole_each_time = whole_each_time
        self.steps = 0
        self.well = False
        self.life.back_up(0)
        self.life.back_up(1)

    @rule(which=WHICH, what=st.sampled_from(sorted(CHANGES)), seed=SEEDS, mood=MOODS)
    def change_and_back_up(self, which: int, what: str, seed: int, mood: Mood) -> None:
        self.well = False
        self.life.sources[which].change(what, draw_of(seed))
        self.life.back_up(which, mood)

    @rule(which=WHICH, mood=MOODS, reread=st.booleans(), probes=st.integers(0, 3))
    def back_up(self, which: int, mood: Mood, reread: bool, probes: int) -> None:
        self.well = False
        self.life.back_up(which, mood, reread=reread, probes=probes == 0)

    @rule(whats=st.lists(st.sampled_from(sorted(CHANGES)), min_size=3, max_size=3), seed=SEEDS)
    def change_and_back_up_often(self, whats: list[str], seed: int) -> None:
        """Small ones, so that there is something to merge."""
        self.well = False
        draw = draw_of(seed)
        for what in whats:
            living = self.life.sources[seed % 2]
            living.change(what, draw)
            living.change("insert_between", draw)
            self.life.back_up(seed % 2)

    @rule(pick=SEEDS, mood=MOODS)
    def forget(self, pick: int, mood: Mood) -> None:
        self.well = False
        self.life.forget(pick, mood)

    @rule(last=st.integers(1, 4), mood=MOODS)
    def forget_by_rules(self, last: int, mood: Mood) -> None:
        self.well = False
        self.life.forget_by_rules(last, mood)

    @rule(mood=MOODS, grace=GRACES, max_unused=st.sampled_from([0.0, 0.1, 0.5]))
    def prune(self, mood: Mood, grace: timedelta, max_unused: float) -> None:
        self.well = False
        self.life.prune(mood, grace=grace, max_unused=max_unused)

    @rule(hours=st.sampled_from([1, 3, 25, 100]))
    def wait(self, hours: int) -> None:
        self.life.seconds += hours * HOUR

    @rule(machine=st.integers(0, 2), forgetful=st.booleans())
    def move(self, machine: int, forgetful: bool) -> None:
        """Another machine goes on, or the same after its cache was lost."""
        self.life.use(machine)
        if forgetful:
            self.life.lose_state()
        self.life.restart()

    @rule(
        kind=st.sampled_from(["flip", "pack", "index"]),
        pick=SEEDS,
        mood=MOODS,
        meanwhile=st.sampled_from(["", "backup", "prune", "verify"]),
    )
    def damage_and_repair(self, kind: str, pick: int, mood: Mood, meanwhile: str) -> None:
        self.well = False
        self.life.damage_and_repair(kind, pick, mood, meanwhile=meanwhile)

    @invariant()
    def is_whole(self) -> None:
        self.steps += 1
        if self.whole_each_time:
            self.life.is_whole()
        else:
            self.life.one_is_whole(self.steps)
        self.well = True

    def teardown(self) -> None:
        """After a failure the end would only hide it."""
        if self.well:
            self.life.ends_well()
        shutil.rmtree(self.life.folder)


def live(kind: str, folder: Path, lives: int, steps: int, *, whole_each_time: bool) -> None:
    numbers = iter(range(1 << 30))

    def place() -> Path:
        (found := folder / f"life-{next(numbers)}").mkdir()
        return found

    run_state_machine_as_test(
        lambda: Lifecycle(place, KINDS[kind], whole_each_time=whole_each_time),
        settings=settings(
            max_examples=lives,
            stateful_step_count=steps,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_kept_snapshot_stays_whole(kind: str, tmp_path: Path) -> None:
    live(kind, tmp_path, 8, 25, whole_each_time=False)
    assert {one for one in ("backups", "pieces given up", "crashed", "packs deleted", "forgotten") if not SEEN[one]} == set()


@pytest.mark.parametrize("moment", ["crash before", "crash after"])
def test_a_forget_that_dies_leaves_what_the_model_knows(moment: str, tmp_path: Path) -> None:
    life = Life(tmp_path, KINDS["faiss"])
    life.back_up(0)
    life.back_up(1)
    crashed = SEEN["crashed"]
    for number in range(12):
        one = life.copy()
        one.forget(0, Mood(moment, number))
        one.is_whole()
    assert SEEN["crashed"] == crashed + 12


def test_a_forget_by_rules_whose_reads_are_cut_off_lets_none_go_that_stays(tmp_path: Path) -> None:
    life = Life(tmp_path, KINDS["faiss"])
    for _ in range(3):
        for which in (0, 1):
            life.back_up(which)
            life.sources[which].change("rotate", draw_of(which))
    before = SEEN["forgotten"]
    for number in range(14):
        one = life.copy()
        one.forget_by_rules(1, Mood("cut", number))
        one.is_whole()
    assert SEEN["forgotten"] > before


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_every_kept_snapshot_stays_whole_for_long(kind: str, tmp_path: Path) -> None:
    live(kind, tmp_path, 100, 60, whole_each_time=True)
    happened = {"crashed", "packs deleted", "packs rewritten", "pieces given up", "repaired", "forgotten", "made, and not told"}
    assert {one for one in (*FAULTS, *(f"meanwhile: {hook}" for hook in HOOKS), *happened) if not SEEN[one]} == set()
