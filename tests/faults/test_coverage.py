"""Does the coverage ever claim more than was read? Budgets, several machines, damage, prune, forged notes, wrong clocks."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from faulty_store import FaultyStore, Operation, SimulatedCrash
from towns import OLD, PAST, Town, town_of
from worlds import World

from strongroom.clock import Clock
from strongroom.errors import StoreDenied, StrongroomError
from strongroom.operations.coverage import CoverageReport, as_lines, as_metrics, coverage
from strongroom.operations.proving import read_notes
from strongroom.operations.verify import Level, VerifyOptions, VerifyReport, verify
from strongroom.repository import Repository, Store, proofs
from strongroom.repository.proofs import Look, Notes

DAY = 86_400.0


@pytest.fixture
def town(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Town:
    elsewhere(monkeypatch, tmp_path, "first")
    return town_of(world, tmp_path)


def elsewhere(monkeypatch: pytest.MonkeyPatch, folder: Path, machine: str) -> None:
    """From here on we are another machine, with notes of its own."""
    monkeypatch.setenv("STRONGROOM_STATE_DIR", str(folder / f"machine-{machine}"))


def looked(town: Town, budget: int | None = None, level: Level = Level.DATA, store: Store | None = None) -> VerifyReport:
    return verify(town.open(store), None, VerifyOptions(level, budget))


def covered(town: Town) -> CoverageReport:
    return coverage(town.open())


def packs_of(town: Town) -> dict[str, int]:
    return {one.name: one.size for one in town.store.list("packs/")}


def proven(report: CoverageReport, days: int = 1) -> float:
    return report.covered.share(days)


def test_before_anything_was_read_nothing_is_claimed(town: Town) -> None:
    report = covered(town)
    assert report.covered.total.blobs > 10
    assert (report.covered.never, proven(report, 90), report.covered.oldest) == (report.covered.total, 0.0, "")
    assert report.oldest_unproven == min(one.created for one in report.collections)


def test_a_whole_verify_covers_all_and_it_ages(town: Town) -> None:
    looked(town)
    report = covered(town)
    assert proven(report) == 1.0
    assert (report.covered.never.blobs, report.oldest_unproven, report.problems) == (0, "", ())
    assert all(one.covered.share(1) == 1.0 for one in report.collections)
    assert {one.snapshot for one in report.collections} == set(town.kept) == set(report.snapshots)
    town.seconds += 2 * DAY
    report = covered(town)
    assert [proven(report, days) for days in (1, 7, 30, 90)] == [0.0, 1.0, 1.0, 1.0]
    town.seconds += 100 * DAY
    report = covered(town)
    assert [proven(report, days) for days in (1, 90)] == [0.0, 0.0]
    assert report.covered.never.blobs == 0


def test_looking_at_objects_alone_proves_nothing(town: Town) -> None:
    looked(town, level=Level.OBJECTS)
    assert covered(town).covered.never == covered(town).covered.total
    assert list(town.store.list(proofs.FOLDER)) == []


def test_budgeted_verifies_of_several_machines_cover_all_in_turn(
    town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two machines take turns, a day apart: none reads what the other has just read."""
    sizes = packs_of(town)
    budget = max(sizes.values())
    fewest = math.ceil(sum(sizes.values()) / budget)
    runs, claimed = 0, 0.0
    while claimed < 1.0:
        elsewhere(monkeypatch, tmp_path, "ab"[runs % 2])
        read = looked(town, budget).looked_at["bytes"]
        assert read <= budget
        now = proven(covered(town), 90)
        assert now > claimed
        claimed, runs = now, runs + 1
        town.seconds += DAY
    assert fewest <= runs <= len(sizes)
    assert len(sizes) >= 3
    oldest = covered(town).covered.oldest
    elsewhere(monkeypatch, tmp_path, "c")  # it never saw the repository, and knows what is least recently proven
    for _ in range(runs):
        looked(town, budget)
    assert covered(town).covered.oldest > oldest
    assert proven(covered(town)) == 1.0


def test_one_pack_after_another_is_read_by_its_age(town: Town, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = list(packs_of(town))
    read: list[str] = []

    class Listening(FaultyStore):
        def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
            if name.startswith("packs/") and length is None:
                read.append(name)
            return super().read(name, offset, length)

    for turn in range(2 * len(names)):
        elsewhere(monkeypatch, tmp_path, f"machine {turn}")
        looked(town, 1, store=Listening(town.store))
        town.seconds += 60
    assert sorted(read[: len(names)]) == sorted(names)
    assert read[len(names) :] == read[: len(names)]


def damage(town: Town, name: str, place: int = 60) -> bytes:
    whole = town.store.read(name)
    put(town, name, whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    return whole


def put(town: Town, name: str, content: bytes) -> None:
    town.store.delete(name)
    town.store.create(name, content)


def test_a_blob_that_is_damaged_after_its_proof_is_not_proven(town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked(town)
    name = max(packs_of(town), key=lambda one: packs_of(town)[one])
    whole = damage(town, name)
    town.seconds += DAY / 2
    assert not looked(town).passed
    elsewhere(monkeypatch, tmp_path, "another")
    report = covered(town)
    assert report.covered.damaged.blobs == report.covered.never.blobs == 1
    assert proven(report, 90) < 1.0
    put(town, name, whole)
    assert covered(town).covered.never.blobs == 1  # it came back, and nobody has read it yet
    assert looked(town).passed
    assert proven(covered(town)) == 1.0


def test_damage_is_known_however_old_the_notes_are_that_come_back(town: Town) -> None:
    """Whoever has the store puts back an object that was merged away, and its copy under another name."""
    looked(town)
    (old,) = town.store.list(proofs.FOLDER)
    content = town.store.read(old.name)
    damage(town, max(packs_of(town), key=lambda one: packs_of(town)[one]))
    looked(town)
    before = covered(town)
    put(town, old.name, content)
    assert covered(town).covered == before.covered
    assert before.covered.damaged.blobs == 1
    town.store.create(proofs.FOLDER + "0" * 64, content)
    report = covered(town)
    assert report.covered == before.covered
    assert len(report.problems) == 1
    assert any(finding.subject == proofs.FOLDER + "0" * 64 for finding in looked(town).findings)


@pytest.mark.parametrize("harm", ["lost", "truncated"])
def test_a_pack_that_is_not_there_as_it_was_is_not_proven(town: Town, harm: str) -> None:
    looked(town)
    name = next(iter(packs_of(town)))
    content = town.store.read(name)
    town.store.delete(name)
    if harm == "truncated":
        town.store.create(name, content[:-1])
    report = covered(town)
    assert 0 < report.covered.never.blobs < report.covered.total.blobs
    assert proven(report) < 1.0


def test_what_prune_moved_into_new_packs_is_not_proven(town: Town) -> None:
    looked(town)
    first = next(iter(town.kept))
    before = packs_of(town)
    town.forget(first)
    for _ in range(3):
        town.prune()
        town.seconds += PAST
    moved = packs_of(town).keys() - before.keys()
    report = covered(town)
    assert moved
    assert report.covered.never.blobs > 0
    assert proven(report, 90) < 1.0
    looked(town)
    assert proven(covered(town)) == 1.0


def without_notes(town: Town) -> None:
    for one in list(town.store.list(proofs.FOLDER)):
        town.store.delete(one.name)


@pytest.mark.parametrize("fault", ["unreachable before", "crash before", "cut"])
def test_a_verify_that_ends_in_the_middle_claims_what_it_read(town: Town, fault: str) -> None:
    """Trouble at the first, middle and last read of a pack: what was read before may be known, and no more."""
    counted = FaultyStore(town.store)
    looked(town, store=counted)
    reads = [one.number for one in counted.operations if one.verb == "read" and one.name.startswith("packs/")]
    names = [counted.operations[number].name for number in reads]
    assert len(set(names)) >= 3
    for place in (0, len(reads) // 2, len(reads) - 1):
        without_notes(town)
        hurt = names[place]
        trouble = lambda one, hurt=hurt: fault if one.verb == "read" and one.name == hurt else None  # noqa: E731
        with suppress(StrongroomError, SimulatedCrash):
            looked(town, store=FaultyStore(town.store, trouble))
        notes, _ = read_notes(town.open())
        assert notes.proven(hurt.rpartition("/")[2], 0, town.seconds) is None
        assert covered(town).covered.never.blobs > 0
        assert fault != "crash before" or notes.packs == {}


def test_a_clock_that_was_ahead_dates_nothing(town: Town) -> None:
    """Its proofs count as made, nobody knows when: never as recent, not even when that time has come."""
    town.seconds += 400 * DAY
    looked(town)
    town.seconds -= 400 * DAY
    report = covered(town)
    assert report.covered.never.blobs == 0
    assert [proven(report, days) for days in (1, 90)] == [0.0, 0.0]
    assert report.covered.oldest.startswith("1970")
    looked(town, 1)
    assert 0 < proven(covered(town)) < 1.0


def test_a_clock_that_is_set_back_while_packs_are_read_dates_them_early(town: Town) -> None:
    begun = town.seconds
    times = iter([begun])
    repository = Repository.open(town.store, OLD, clock=Clock(wall=lambda: next(times, begun - 10 * DAY)))
    verify(repository, None, VerifyOptions(Level.DATA))
    report = covered(town)
    assert report.covered.never.blobs == 0
    assert proven(report, 7) == 0.0
    assert proven(report, 30) == 1.0


def test_notes_are_merged_and_say_the_same(town: Town) -> None:
    for _ in range(40):
        looked(town, 1)
        town.seconds += 3600
    assert len(list(town.store.list(proofs.FOLDER))) < 17
    assert covered(town).covered.never.blobs == 0
    notes, problems = read_notes(town.open())
    assert problems == []
    assert notes.packs.keys() == {name.rpartition("/")[2] for name in packs_of(town)}


@pytest.mark.parametrize("fault", ["crash before", "crash after", "unreachable before", "unreachable after", "exists after"])
def test_trouble_while_notes_are_merged_changes_nothing_that_is_said(town: Town, fault: str) -> None:
    """At each operation on proofs/: more is never claimed, and what was kept before stays."""
    for _ in range(15):
        looked(town, 1)
        town.seconds += 60
    begun, before = {one.name: town.store.read(one.name) for one in town.store.list(proofs.FOLDER)}, covered(town)
    counted = FaultyStore(town.store)
    looked(town, 1, store=counted)
    steps = [one.number for one in counted.operations if one.name.startswith(proofs.FOLDER) and one.verb in ("create", "delete")]
    assert len(steps) > 16  # two creates, and a delete of each old one
    for step in (steps[0], steps[1], steps[2], steps[len(steps) // 2], steps[-1]):
        without_notes(town)
        for name, content in begun.items():
            town.store.create(name, content)
        last = counted.operations[step]
        place = [one for one in steps if counted.operations[one].verb == last.verb].index(step)
        seen: list[int] = []

        def trouble(one: Operation, last: Operation = last, place: int = place, seen: list[int] = seen) -> str | None:
            if one.verb != last.verb or not one.name.startswith(proofs.FOLDER):
                return None
            seen.append(one.number)
            return fault if len(seen) == place + 1 else None

        with suppress(StrongroomError, SimulatedCrash):
            looked(town, 1, store=FaultyStore(town.store, trouble))
        after = covered(town)
        assert len(seen) > place
        assert after.covered.within[90].blobs >= before.covered.within[90].blobs
        assert after.problems == ()


class Denying:
    """A store in which nothing may be created below proofs/, or deleted there."""

    def __init__(self, inner: Store, verb: str) -> None:
        self._inner, self._verb = inner, verb

    def __getattr__(self, name: str) -> Callable[..., object]:
        return getattr(self._inner, name)

    def create(self, name: str, data: bytes | memoryview) -> None:
        if self._verb == "create" and name.startswith(proofs.FOLDER):
            raise StoreDenied("you may only read")
        self._inner.create(name, data)

    def delete(self, name: str) -> None:
        if self._verb == "delete":
            raise StoreDenied("nothing may be deleted")
        self._inner.delete(name)


def test_where_nothing_may_be_written_verify_works_and_takes_turns_all_the_same(town: Town) -> None:
    store = Denying(town.store, "create")
    read = []
    for _ in range(3):
        report = looked(town, 1, store=store)  # type: ignore[arg-type]
        assert report.passed
        assert "you may only read" in report.unkept
        read.append(report.looked_at["bytes"])
        town.seconds += 60
    assert sorted(read) == sorted(packs_of(town).values())[: len(read)] or len(set(read)) > 1
    assert covered(town).covered.never == covered(town).covered.total


def test_where_nothing_may_be_deleted_notes_grow_by_one_a_look(town: Town) -> None:
    for _ in range(20):
        looked(town, 1, store=Denying(town.store, "delete"))  # type: ignore[arg-type]
        town.seconds += 60
    assert len(list(town.store.list(proofs.FOLDER))) <= 22
    assert covered(town).covered.never.blobs == 0


def test_a_forgotten_snapshot_is_not_counted_and_a_table_tells_the_same(town: Town) -> None:
    looked(town)
    before = covered(town).covered.total
    town.forget(next(iter(town.kept)))
    report = covered(town)
    assert report.covered.total.blobs < before.blobs
    lines = as_lines(report)
    assert [line["scope"] for line in lines] == ["all", "snapshot", "snapshot", "collection", "collection"]
    assert lines[0]["bytes_7d"] == lines[0]["bytes"] == report.covered.total.bytes
    metrics = dict(line.rsplit(" ", 1) for line in as_metrics(report).splitlines() if not line.startswith("#"))
    assert int(metrics['strongroom_coverage_bytes{days="1"}']) == report.covered.total.bytes
    assert metrics["strongroom_coverage_never_blobs"] == "0"


def test_a_note_of_a_pack_nobody_knows_claims_nothing(town: Town) -> None:
    notes = Notes()
    notes.add("f" * 64, Look(9, False, town.seconds))
    repository = town.open()
    proofs.write(repository.store, repository.keys, notes)
    assert covered(town).covered.never == covered(town).covered.total
