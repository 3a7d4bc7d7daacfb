"""Can forget or prune, crashed anywhere or beside anybody, take away what a kept snapshot needs?"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from faulty_store import FaultyStore, Operation, SimulatedCrash, at
from sampling import part_of
from towns import (
    GRACE,
    OLD,
    PAST,
    STAGES,
    Town,
    before_marking,
    empty_store,
    every_operation,
    everything,
    files_in,
    town_of,
    verified,
)
from worlds import CHEAP, Sources, World, build_source, restored

from strongroom.clock import Clock
from strongroom.errors import Damaged, Overtaken, StrongroomError
from strongroom.operations.forget import ForgetOptions, forget
from strongroom.operations.prune.run import PruneOptions, prune
from strongroom.repository import Repository, Secret, open_store
from strongroom.repository.store import require_deletes, try_conditional_create
from strongroom.repository.tombstones import What


@pytest.fixture
def town(pristine: World, tmp_path: Path) -> Town:
    return town_of(pristine, tmp_path)


# -- alone -----------------------------------------------------------------------------------------------------------------


def test_what_nobody_needs_goes_after_the_time_of_grace_and_the_rest_stays(town: Town, pristine: World) -> None:
    packs = {one.name for one in town.store.list("packs/")}
    town.forget(*pristine.order[:2])
    marked = town.prune()
    assert (marked.deleted.packs, marked.condemned.packs, marked.rewritten.packs) == (0, 2, 1)
    assert packs < {one.name for one in town.store.list("packs/")}
    town.is_whole()
    town.seconds += 23 * 3600
    early = town.prune()
    assert (early.deleted.packs, early.condemned.packs, early.waiting.packs) == (0, 0, 2)
    town.seconds += 2 * 3600
    swept = town.prune()
    assert (swept.deleted, swept.waiting.packs) == (marked.condemned, 0)
    left = {one.name for one in town.store.list("packs/")}
    assert len(packs & left) == 1
    assert {pack.name for pack in town.open().index.packs.values()} == left
    town.is_whole(really=True)
    town.ends_clean()


def test_a_dry_run_says_the_same_and_touches_nothing(town: Town, pristine: World) -> None:
    town.forget(*pristine.order[:2])
    for _ in range(2):
        before = everything(town.store)
        said = prune(town.open(), PruneOptions(GRACE, 0.0, dry_run=True))
        assert everything(town.store) == before
        done = town.prune()
        for name in ("deleted", "condemned", "waiting", "rewritten", "copied_bytes", "due"):
            assert getattr(said, name) == getattr(done, name), name
        town.wait()


def test_little_that_is_unused_stays_where_it_is(town: Town, pristine: World) -> None:
    town.forget(pristine.order[0])
    report = town.prune(max_unused=1.0)
    assert (report.condemned.packs, report.kept.packs) == (0, 3)
    assert report.unused_bytes > 50_000


def test_a_backup_does_not_rely_on_what_is_condemned(town: Town, pristine: World, sources: Sources) -> None:
    town.forget(pristine.order[1])
    town.prune()
    store = FaultyStore(town.store)
    town.back_up(sources.second, store)
    (mark,) = town.open().tombstones(What.CONDEMNED)
    assert not [one for one in store.operations if one.name.rpartition("/")[2] in mark.since]
    town.wait()
    assert town.prune().deleted.packs == 1
    town.is_whole(really=True)


def test_a_snapshot_of_before_the_mark_is_seen(town: Town, pristine: World, sources: Sources) -> None:
    """The mark was made by somebody who didn't see the snapshot: all of it is copied before its packs go."""
    (lagging := FaultyStore(town.store)).hidden = {f"snapshots/{pristine.order[1]}"}
    assert town.prune(lagging).condemned.packs == 1
    town.wait()
    town.prune()
    town.is_whole(really=True)


def test_a_copy_that_rotted_is_copied_again_before_its_source_goes(town: Town, pristine: World) -> None:
    town.forget(*pristine.order[:2])
    before = {one.name for one in town.store.list("packs/")}
    town.prune()
    (copied,) = {one.name for one in town.store.list("packs/")} - before
    content = bytearray(town.store.read(copied))
    content[60] ^= 1
    town.store.delete(copied)
    town.store.create(copied, bytes(content))
    town.wait()
    town.prune()
    assert verified(town.store, town.folder).healthy == (pristine.order[2],)


def test_a_pack_with_the_last_copy_of_a_needed_blob_stays_condemned_though_it_is_damaged(town: Town, pristine: World) -> None:
    """Somebody may find the right bytes one day; and nobody may come to rely on it meanwhile."""
    town.forget(*pristine.order[:2])
    before = {one.name for one in town.store.list("packs/")}
    town.prune()
    (copied,) = {one.name for one in town.store.list("packs/")} - before
    repository = town.open()
    (blob_id,) = [blob.id for pack in repository.index.packs.values() if pack.name == copied for blob in pack.blobs][:1]
    places = repository.index.places(blob_id)
    assert len(places) == 2
    for place in places:
        content = bytearray(town.store.read(place.pack.name))
        content[place.blob.offset + 1] ^= 1
        town.store.delete(place.pack.name)
        town.store.create(place.pack.name, bytes(content))
    (held,) = {place.pack.id for place in places if place.pack.name != copied}
    town.wait()
    report = town.prune()
    assert report.deleted.packs == 1
    assert {place.pack.name for place in places} <= {one.name for one in town.store.list("packs/")}
    assert held in {pack for mark in town.open().tombstones(What.CONDEMNED) for pack in mark.since}


def test_an_unreadable_manifest_stops_prune_until_it_is_forgotten(town: Town, pristine: World) -> None:
    name = f"snapshots/{pristine.order[1]}"
    content = town.store.read(name)
    town.store.delete(name)
    town.store.create(name, content[:-1])
    before = everything(town.store)
    with pytest.raises(Damaged) as refused:
        town.prune()
    assert refused.value.exit_code == 4
    assert everything(town.store) == before
    town.forget(pristine.order[1])
    town.ends_clean()


def test_a_needed_blob_that_is_nowhere_stops_prune(town: Town) -> None:
    town.store.delete(next(one.name for one in town.store.list("packs/")))
    before = everything(town.store)
    with pytest.raises(Damaged):
        town.prune()
    assert everything(town.store) == before


def test_a_lost_blob_index_is_made_again(town: Town) -> None:
    for one in list(town.store.list("index/")):
        town.store.delete(one.name)
    town.prune()
    town.is_whole()


def test_packs_of_a_killed_backup_go_after_twice_the_time_of_grace(town: Town, tmp_path: Path) -> None:
    source = build_source(tmp_path / "fresh", "fresh", seed=9, rows=500)

    def killed(operation: Operation) -> str | None:
        return "crash before" if operation.verb == "create" and operation.name.startswith("index/") else None

    packs = len(list(town.store.list("packs/")))
    with pytest.raises(SimulatedCrash):
        town.back_up(source, FaultyStore(town.store, killed))
    assert town.prune().unlisted.packs == 1
    assert town.prune().unlisted.packs == 0
    assert len(list(town.store.list("tombstones/unlisted/"))) == 1
    town.wait()
    assert town.prune().condemned.packs == 1
    town.wait()
    assert town.prune().deleted.packs == 1
    assert len(list(town.store.list("packs/"))) == packs
    town.ends_clean()


def test_a_clock_that_was_far_ahead_keeps_nothing_for_years(town: Town, pristine: World) -> None:
    town.forget(*pristine.order[:2])
    town.seconds += 10 * 365 * 86_400
    town.prune()
    town.seconds -= 10 * 365 * 86_400
    assert town.prune().deleted.packs == 0
    town.wait()
    assert town.prune().deleted.packs == 2
    town.ends_clean()


def test_many_index_objects_become_one(town: Town, sources: Sources) -> None:
    reading = town.open()
    reading.look_again()
    for number in range(9):
        town.back_up(build_source(town.folder / str(number), "small", seed=number, rows=20))
    assert town.prune().merged_index_objects == 12
    assert len(list(town.store.list("index/"))) == 1
    for snapshot, content in town.kept.items():
        assert files_in(reading, snapshot) == content
    town.is_whole()


def test_a_reader_that_listed_an_index_object_that_is_merged_looks_again(town: Town) -> None:
    for number in range(9):
        town.back_up(build_source(town.folder / str(number), "small", seed=number, rows=20))
    merges = iter([town.prune])

    def merged(operation: Operation) -> None:
        if operation.verb == "read" and operation.name.startswith("index/"):
            next(merges, lambda: None)()

    repository = town.open(FaultyStore(town.store, merged))
    repository.look_again()
    assert repository.problems == []
    for snapshot, content in town.kept.items():
        assert files_in(repository, snapshot) == content


def test_what_killed_writers_left_in_a_directory_goes(world: World) -> None:
    left, young = world.folder / "packs" / ".unfinished-0123", world.folder / ".unfinished-4567"
    for path in (left, young):
        path.write_bytes(b"half of a pack")
    os.utime(left, (time.time() - PAST, time.time() - PAST))
    assert world.open().prune().leftovers == 1
    assert (left.exists(), young.exists()) == (False, True)


@pytest.mark.parametrize("ahead", [0.0, 1e9])
def test_what_killed_processes_tried_a_store_with_goes_by_the_clock_of_the_store(ahead: float, world: World) -> None:
    left = [world.folder / "probe" / "0123", world.folder / "probe" / "4567" / "first"]
    young = world.folder / "probe" / "89ab"
    for path in (*left, young):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"0123456789")
    for path in left:
        os.utime(path, (time.time() - 3700, time.time() - 3700))
    repository = Repository.open(open_store(str(world.folder)), OLD, clock=Clock(wall=lambda: time.time() + ahead))
    assert prune(repository).leftovers == 0
    assert prune(repository, PruneOptions(timedelta(0), dry_run=True)).leftovers == 0
    assert all(path.exists() for path in (*left, young))
    assert prune(repository, PruneOptions(timedelta(0))).leftovers == 2
    assert [path for path in world.folder.joinpath("probe").rglob("*") if path.is_file()] == [young]


def test_a_prune_beside_whoever_tries_the_store_leaves_him_what_he_tries_it_with(world: World) -> None:
    old = world.folder / "probe" / "0123"
    store, pruned = open_store(str(world.folder)), []

    def between(_: Operation) -> None:
        old.parent.mkdir(exist_ok=True)
        old.write_bytes(b"0123456789")
        os.utime(old, (1, 1))
        pruned.append(prune(Repository.open(store, OLD), PruneOptions(timedelta(0))).leftovers)

    try_conditional_create(FaultyStore(store, between))
    require_deletes(FaultyStore(store, between))
    assert pruned == [1] * 5


# -- crashes and faults ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["crash before", "crash after"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_crash_at_every_operation(stage: str, moment: str, pristine: World, tmp_path: Path) -> None:
    for place, (number, town) in enumerate(every_operation(stage, pristine, tmp_path, moment)):
        keep = dict(list(town.kept.items())[2:]) if stage == "forget" else town.kept
        with pytest.raises(SimulatedCrash):
            STAGES[stage][1](town, FaultyStore(town.store, at(number, moment)))
        town.kept = keep
        town.is_whole()
        if place % (4 if moment == "crash before" else 2) == 0:
            town.ends_clean()


@pytest.mark.parametrize(
    "fault", part_of(["unreachable after", "cut"], ["unreachable before", "unreachable after", "denied", "cut"])
)
@pytest.mark.parametrize("stage", STAGES)
def test_a_fault_at_every_operation(stage: str, fault: str, pristine: World, tmp_path: Path) -> None:
    for place, (number, town) in enumerate(every_operation(stage, pristine, tmp_path, fault)):
        keep = dict(list(town.kept.items())[2:]) if stage == "forget" else town.kept
        try:
            STAGES[stage][1](town, FaultyStore(town.store, at(number, fault)))
        except StrongroomError as error:
            assert str(error)
        town.kept = keep
        town.is_whole()
        if place % (3 if fault == "cut" else 6) == 0:
            town.ends_clean()


@pytest.mark.parametrize("hidden", ["packs/", "index/", "snapshots/"])
@pytest.mark.parametrize("stage", ["mark", "sweep"])
def test_a_listing_that_lags_behind(hidden: str, stage: str, pristine: World, tmp_path: Path, sources: Sources) -> None:
    """What was made since isn't listed yet while a prune works."""
    town = STAGES[stage][0](pristine, tmp_path)
    before = set(everything(town.store))
    town.back_up(sources.second)
    lagging = FaultyStore(town.store)
    lagging.hidden = {name for name in set(everything(town.store)) - before if name.startswith(hidden)}
    town.prune(lagging)
    town.is_whole()
    town.wait()
    town.prune()
    town.is_whole()
    town.ends_clean()


def test_a_backup_whose_listing_of_tombstones_lags_behind(pristine: World, tmp_path: Path, sources: Sources) -> None:
    """It relies on condemned packs and doesn't know; the sweep, a time of grace later, sees its snapshot and copies that."""
    town = before_marking(pristine, tmp_path)
    town.prune()
    lagging = FaultyStore(town.store)
    lagging.hidden = {one.name for one in town.store.list("tombstones/")}
    town.back_up(sources.second, lagging)
    assert not [one for one in lagging.operations if one.verb == "create" and one.name.startswith("packs/")]
    town.wait()
    assert town.prune().deleted.packs == 2
    town.is_whole()
    town.ends_clean()


# -- beside others ---------------------------------------------------------------------------------------------------------


def meanwhile(number: int, what: Callable[[], object]) -> Callable[[Operation], None]:
    """Something happens just before an operation of another process."""

    def happen(operation: Operation) -> None:
        if operation.number == number:
            what()

    return happen


def mark(town: Town) -> None:
    town.prune()


def mark_and_sweep(town: Town) -> None:
    """The backup sleeps for a day and more."""
    for _ in range(3):
        town.prune()
        town.wait()


@pytest.mark.parametrize("happens", [mark, mark_and_sweep])
def test_a_prune_at_every_moment_of_a_backup(
    happens: Callable[[Town], None], pristine: World, tmp_path: Path, sources: Sources
) -> None:
    """It relies on packs that are condemned, or gone, before it is done: it is whole, or it says that it was overtaken."""
    overtaken = 0
    for number in itertools.count():
        town = before_marking(pristine, tmp_path)
        store = FaultyStore(town.store, meanwhile(number, lambda town=town: happens(town)))
        try:
            town.back_up(sources.second, store)
        except Overtaken:
            overtaken += 1
        town.is_whole()
        if number >= len(store.operations):
            break
        town.wait()
        town.prune()
        town.is_whole()
        if number % 5 == 0:
            town.back_up(sources.second)
            town.ends_clean()
    assert number > 10
    assert (overtaken > 0) == (happens is mark_and_sweep)


@pytest.mark.parametrize("stage", part_of(["mark", "sweep"], ["mark", "sweep", "at once"]))
def test_a_backup_at_every_moment_of_a_prune(stage: str, pristine: World, tmp_path: Path, sources: Sources) -> None:
    for number, town in every_operation(stage, pristine, tmp_path):
        STAGES[stage][1](town, FaultyStore(town.store, meanwhile(number, lambda town=town: town.back_up(sources.second))))
        town.is_whole()
        town.wait()
        town.prune()
        town.is_whole()


def test_a_server_backs_up_at_every_moment_of_a_sweep(pristine: World, tmp_path: Path, sources: Sources) -> None:
    """It read the blob index long ago, and knows packs that no index object lists any more but that are there still."""
    for number, town in every_operation("sweep", pristine, tmp_path):
        server = town.open()
        server.look_again()
        town.prune(FaultyStore(town.store, meanwhile(number, lambda town=town, by=server: town.back_up(sources.second, by=by))))
        town.is_whole()


@pytest.mark.parametrize("stage", ["mark", "sweep"])
def test_two_prunes_at_once(stage: str, pristine: World, tmp_path: Path) -> None:
    for number, town in every_operation(stage, pristine, tmp_path):
        town.prune(FaultyStore(town.store, meanwhile(number, town.prune)))
        town.is_whole()
        town.wait()
        town.prune()
        town.is_whole()
        if number % 5 == 0:
            town.ends_clean()


def test_a_prune_sleeps_while_others_mark_and_sweep(pristine: World, tmp_path: Path, sources: Sources) -> None:
    """And a backup comes and goes in between."""

    def all_of_it(town: Town) -> None:
        mark_and_sweep(town)
        town.back_up(sources.second)
        town.prune()

    for stage in ("mark", "sweep"):
        for number, town in every_operation(stage, pristine, tmp_path):
            town.prune(FaultyStore(town.store, meanwhile(number, lambda town=town: all_of_it(town))))
            town.is_whole()


def test_a_restore_goes_on_while_packs_are_written_anew_and_deleted(pristine: World, tmp_path: Path) -> None:
    """Of a kept snapshot, at every moment."""
    for number in itertools.count():
        town = before_marking(pristine, tmp_path)
        store = FaultyStore(town.store, meanwhile(number, lambda town=town: mark_and_sweep(town)))
        (snapshot,) = town.kept
        assert restored(town.open(store), snapshot, tmp_path / f"restored-{number}") == town.kept[snapshot]
        if number >= len(store.operations):
            break
    assert number > 5


def test_a_snapshot_that_is_forgotten_while_a_backup_builds_on_it(pristine: World, tmp_path: Path, sources: Sources) -> None:
    for number in itertools.count():
        town = town_of(pristine, tmp_path)

        def forget_and_mark(town: Town = town) -> None:
            town.forget(pristine.order[1])
            town.prune()

        store = FaultyStore(town.store, meanwhile(number, forget_and_mark))
        town.back_up(sources.second, store)
        town.is_whole()
        town.wait()
        town.prune()
        town.is_whole()
        if number >= len(store.operations):
            break


# -- theft and forgery -----------------------------------------------------------------------------------------------------


def test_what_is_forgotten_is_no_theft_and_what_is_stolen_is(town: Town, pristine: World) -> None:
    town.forget(pristine.order[1], pristine.order[2])
    town.is_whole()
    town.store.delete(f"snapshots/{pristine.order[0]}")
    findings = verified(town.store, town.folder).findings
    assert f"snapshots/{pristine.order[0]}" in {one.subject for one in findings}


def test_without_the_tombstone_it_is_theft(town: Town, pristine: World) -> None:
    town.forget(pristine.order[1])
    for one in list(town.store.list("tombstones/forgotten/")):
        town.store.delete(one.name)
    findings = verified(town.store, town.folder).findings
    assert [one.subject for one in findings] == [f"snapshots/{pristine.order[1]}"]


def test_a_tombstone_of_another_repository_or_folder_says_nothing(town: Town, pristine: World, foreign: World) -> None:
    other = town_of(foreign, town.folder).open()
    made = [other.bury(What.FORGOTTEN, [pristine.order[1]]), other.bury(What.CONDEMNED, [pristine.order[1]])]
    mine = town.open().bury(What.UNLISTED, [pristine.order[1]])
    moved = mine.name.replace("unlisted", "forgotten")
    town.store.create(moved, town.store.read(mine.name))
    town.store.delete(mine.name)
    for one in made:
        town.store.create(one.name, other.store.read(one.name))
    town.store.delete(f"snapshots/{pristine.order[1]}")
    subjects = {one.subject for one in verified(town.store, town.folder).findings}
    assert {moved, made[1].name} <= subjects or {made[0].name, made[1].name} <= subjects
    assert f"snapshots/{pristine.order[1]}" in subjects
    with pytest.raises(Damaged):
        town.prune()


def test_a_manifest_that_is_put_back_stays_until_somebody_forgets_it(town: Town, pristine: World) -> None:
    name = f"snapshots/{pristine.order[1]}"
    content = town.store.read(name)
    town.forget(pristine.order[1])
    town.store.create(name, content)
    assert town.prune().finished_forgets == 0
    assert pristine.order[1] in town.open().manifest_ids()
    forget(town.open(), ForgetOptions((pristine.order[1],)))
    town.ends_clean()


def test_many_tombstones_become_one(town: Town, pristine: World) -> None:
    for number in range(10):
        town.forget(town.back_up(build_source(town.folder / str(number), "small", seed=number, rows=20)))
    town.prune()
    assert len(list(town.store.list("tombstones/forgotten/"))) == 1
    town.is_whole()
    town.forget(pristine.order[1])
    town.is_whole()


def test_the_machine_that_saw_the_newest_one_knows_that_it_was_forgotten(world: World) -> None:
    room = world.open()
    assert room.verify().passed
    room.forget(ForgetOptions((world.order[2],)))
    assert room.verify().passed
    assert world.open().verify().passed


def test_an_empty_store_has_nothing_to_prune(tmp_path: Path) -> None:
    repository = Repository.create(empty_store(), Secret.passphrase("x"), cost=CHEAP)
    assert prune(repository).kept.packs == 0
