"""Does a repair respect what was meant to go? It relies on no condemned pack, and brings no forgotten snapshot back."""

from __future__ import annotations

import shutil
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest
from faulty_store import FaultyStore
from sampling import part_of
from test_repair import flip_every_blob, mend, require_whole
from towns import OLD, stored_copy
from towns import files_in as stored_files
from worlds import World

from strongroom.operations.forget import ForgetOptions
from strongroom.operations.prune.run import PruneOptions, prune
from strongroom.operations.repair import RepairOptions, RepairReport, repair
from strongroom.repository import INDEX, REPAIRS, SNAPSHOTS, Pack, Repository, Store
from strongroom.repository.evacuation import Standing, copy
from strongroom.repository.tombstones import What


def condemned_copy(world: World) -> tuple[Pack, Pack, str]:
    """A pack of the first snapshot, a pack with the same blobs, which is condemned, and the index object that lists that one."""
    repository = world.open().repository
    manifest = world.open().snapshot(world.order[0]).manifest
    [pack] = {place.pack for blob in manifest.blobs() for place in repository.index.places(bytes.fromhex(blob))}
    listed = {one.name for one in repository.store.list(INDEX)}
    assert not copy(repository, [blob.id for blob in pack.blobs])
    [index] = {one.name for one in repository.store.list(INDEX)} - listed
    [twin] = [
        one
        for one in world.open().repository.index.packs.values()
        if one.blobs[0].id in {blob.id for blob in pack.blobs} and one.id != pack.id
    ]
    repository.bury(What.CONDEMNED, [twin.id])
    return pack, twin, index


def require_safe(world: World, condemned: Pack) -> None:
    """All that any snapshot needs can be relied on, and stays when the condemned pack is deleted."""
    repository = world.open().repository
    needs = {bytes.fromhex(blob) for one in world.open().snapshots() for blob in one.manifest.blobs()}
    standing = Standing.now(repository)
    assert all(standing.pack_of(blob) for blob in needs)
    assert condemned.id not in {standing.pack_of(blob).id for blob in needs}
    (world.folder / condemned.name).unlink(missing_ok=True)
    require_whole(world)


def test_the_only_whole_copy_in_a_condemned_pack_is_copied_out_of_it(world: World) -> None:
    pack, twin, _ = condemned_copy(world)
    flip_every_blob(world.folder / pack.name)
    report = mend(world)
    assert report.passed, report
    require_safe(world, twin)


def test_a_condemned_pack_that_nothing_lists_is_not_listed_again(world: World) -> None:
    pack, twin, index = condemned_copy(world)
    (world.folder / index).unlink()
    (world.folder / pack.name).unlink()
    report = mend(world)
    assert report.passed, report
    assert twin.id not in world.open().repository.index.packs
    require_safe(world, twin)


def test_a_condemned_pack_is_not_listed_again_for_a_lost_index_object(world: World) -> None:
    pack, twin, index = condemned_copy(world)
    (world.folder / index).write_bytes(bytes(100))
    (world.folder / pack.name).unlink()
    assert mend(world).passed
    assert twin.id not in world.open().repository.index.packs
    require_safe(world, twin)


def test_an_unlisted_pack_is_listed_once_it_is_needed(world: World) -> None:
    """A backup that was killed left it: until it is listed a prune may take it for rubbish."""
    pack, twin, index = condemned_copy(world)
    for tombstone in (world.folder / "tombstones" / "condemned").iterdir():
        tombstone.unlink()
    (world.folder / index).unlink()
    (world.folder / pack.name).unlink()
    assert mend(world).passed
    assert twin.id in world.open().repository.index.packs
    require_whole(world)


def test_an_unlisted_pack_that_is_relied_on_is_repaired_too(world: World) -> None:
    """Nobody had read it, for nobody needed it: of two damaged packs each has what the other lost."""
    pack, twin, index = condemned_copy(world)
    for tombstone in (world.folder / "tombstones" / "condemned").iterdir():
        tombstone.unlink()
    (world.folder / index).unlink()
    first, last = min(pack.blobs, key=lambda one: one.offset), max(twin.blobs, key=lambda one: one.offset)
    assert first.id != last.id
    for name, offset in ((pack.name, first.offset), (twin.name, last.offset)):
        flip(world.folder / name, offset + 1)
    report = mend(world)
    assert report.passed, report
    assert {one.finding.subject.split(",")[0] for one in report.outcomes} == {pack.name, twin.name}
    require_whole(world)


@pytest.mark.parametrize("hurt", ["every blob", "one blob"])
@pytest.mark.parametrize("when", part_of(["before the pack goes"], ["before the pack goes", "ever"]))
def test_a_pack_that_a_repair_counts_on_is_pruned_meanwhile(when: str, hurt: str, world: World) -> None:
    """The prune counts on what it finds whole in the damaged pack, and copies the rest. So the repair condemns that pack first,
    and lets it go too if it had to stay until the prune had copied."""
    pack, twin, _ = condemned_copy(world)
    for tombstone in (world.folder / "tombstones" / "condemned").iterdir():
        tombstone.unlink()
    if hurt == "every blob":
        flip_every_blob(world.folder / pack.name)
    else:
        flip(world.folder / pack.name, pack.blobs[0].offset + 1)

    def mended(number: int) -> tuple[RepairReport, FaultyStore]:
        inner = stored_copy(world)
        store = FaultyStore(inner, lambda operation: swept(inner, twin) if operation.number == number else None)
        return repair(store, OLD, options=RepairOptions(own_sources=False)), store

    untroubled, counted = mended(-1)
    assert untroubled.passed
    goes = next(one.number for one in counted.operations if (one.verb, one.name) == ("delete", pack.name))
    for operation in counted.operations if when == "ever" else counted.operations[goes - 40 : goes + 1]:
        report, store = mended(operation.number)
        assert report.passed, (operation, report)
        assert not {pack.name, twin.name} & {one.name for one in store.inner.list("packs/")}, operation
        repository = Repository.open(store.inner, OLD)
        assert {snapshot: stored_files(repository, snapshot) for snapshot in world.order} == world.expected, operation


def flip(path: Path, place: int) -> None:
    """One bit of a byte."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def swept(store: Store, condemned: Pack) -> None:
    """Another machine, which knows of no damage, condemns a pack, and deletes it a time of grace later."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as state:
        patch.setenv("STRONGROOM_STATE_DIR", state)
        Repository.open(store, OLD).bury(What.CONDEMNED, [condemned.id])
        prune(Repository.open(store, OLD), PruneOptions(timedelta(0)))


def test_a_prune_after_a_repair_keeps_all(world: World) -> None:
    pack, twin, _ = condemned_copy(world)
    flip_every_blob(world.folder / pack.name)
    assert mend(world).passed
    world.open().prune(PruneOptions(grace=timedelta(0)))
    assert not (world.folder / twin.name).exists()
    require_whole(world)


# -- forgotten snapshots ---------------------------------------------------------------------------------------------------


def forget_first(world: World, folder: Path) -> Path:
    """Forget the oldest snapshot; gives a copy of the repository as it was before."""
    shutil.copytree(world.folder, folder)
    world.open().forget(ForgetOptions(names=(world.order[0],)))
    assert not (world.folder / SNAPSHOTS / world.order[0]).exists()
    return folder


def test_a_forgotten_snapshot_stays_forgotten(world: World, tmp_path: Path) -> None:
    """A copy from before has it, and a snapshot that comes back names it as its predecessor."""
    before = forget_first(world, tmp_path / "before")
    (world.folder / SNAPSHOTS / world.order[1]).unlink()
    report = mend(world, before)
    assert report.passed, report
    assert {one.id for one in world.open().snapshots()} == set(world.order[1:])


def test_nothing_missing_comes_back_while_a_tombstone_cant_be_read(world: World, tmp_path: Path) -> None:
    before = forget_first(world, tmp_path / "before")
    [tombstone] = (world.folder / "tombstones" / "forgotten").iterdir()
    whole = tombstone.read_bytes()
    tombstone.write_bytes(whole[:-1])
    (world.folder / SNAPSHOTS / world.order[1]).unlink()
    report = mend(world, before)
    assert not report.passed
    assert any("a tombstone can't be read" in one.how for one in report.outcomes)
    assert {one.id for one in world.open().snapshots()} == {world.order[2]}
    tombstone.write_bytes(whole)
    assert mend(world, before).passed
    assert {one.id for one in world.open().snapshots()} == set(world.order[1:])


def test_a_repair_that_was_cut_off_does_not_bring_back_what_was_forgotten_since(world: World, tmp_path: Path) -> None:
    before = forget_first(world, tmp_path / "before")
    waiting = world.folder / REPAIRS / SNAPSHOTS / world.order[0]
    waiting.parent.mkdir(parents=True)
    shutil.copy(before / SNAPSHOTS / world.order[0], waiting)
    assert mend(world).passed
    assert not waiting.exists()
    assert {one.id for one in world.open().snapshots()} == set(world.order[1:])
