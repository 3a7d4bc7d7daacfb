"""Does the next backup heal what was found damaged, for old snapshots too, and does anything else heal by mistake?"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lancedb
import numpy as np
import pytest
from faulty_store import FaultyStore, SimulatedCrash, at, first_create
from worlds import PASSWORD, Sources, World, restored

from strongroom import cli
from strongroom.errors import Damaged, Refused, Unreachable
from strongroom.library import Strongroom, init_repository
from strongroom.operations.backup.run import BackupOptions, backup
from strongroom.operations.machine.witness import Witness
from strongroom.operations.verify import Level
from strongroom.repository import Argon2Cost, Repository, Secret, open_store

SECRET = Secret.passphrase(PASSWORD)


def pack_of(world: World, place: int) -> Path:
    """The pack that holds the first blob of a snapshot's index file."""
    room = world.open()
    artifact = room.snapshot(world.order[place]).manifest.artifacts[0]
    [pack] = [one.pack for one in room.repository.index.places(bytes.fromhex(artifact.parts[0].blob))]
    return world.folder / pack.name


def damage(pack: Path) -> bytes:
    """Alter bytes of every blob in it, and not its length. Gives the whole bytes."""
    whole = pack.read_bytes()
    altered = bytearray(whole)
    for place in range(40, len(whole) - 4 - int.from_bytes(whole[-4:], "little"), 16):  # a blob has 16 bytes at least
        altered[place] ^= 1
    pack.write_bytes(altered)
    return whole


def packs_in(folder: Path) -> set[Path]:
    return {path for path in (folder / "packs").rglob("*") if path.is_file()}


def back_up(world: World, source: Path) -> str:
    return world.open().backup(f"faiss://{source}", probes=0).snapshot.id


def all_restore(world: World, place: Path, *made: str) -> None:
    """Bit for bit: the snapshots of the world, and these, of its first source."""
    for snapshot, content in (*world.expected.items(), *((one, world.expected[world.order[0]]) for one in made)):
        assert restored(world.open().repository, snapshot, place / snapshot[:12]) == content


def verify_ends_with(code: int, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRONGROOM_REPOSITORY", str(world.folder))
    monkeypatch.setenv("STRONGROOM_PASSWORD", PASSWORD)
    monkeypatch.setattr(sys, "argv", ["strongroom", "verify", "--quiet"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert (ended.value.code or 0) == code


def test_the_backup_after_a_verify_heals(world: World, sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack = pack_of(world, 0)
    damage(pack)
    verify_ends_with(4, world, monkeypatch)
    with pytest.raises(Damaged):
        restored(world.open().repository, world.order[0], tmp_path / "refused")
    before = packs_in(world.folder)

    made = back_up(world, sources.first)

    assert len(packs_in(world.folder) - before) == 1
    all_restore(world, tmp_path, made)
    subjects = {finding.subject.partition(",")[0] for finding in world.open().verify().findings}
    assert subjects == {pack.relative_to(world.folder).as_posix()}
    verify_ends_with(4, world, monkeypatch)


def test_what_is_healed_is_not_stored_once_more(world: World, sources: Sources, tmp_path: Path) -> None:
    damage(pack_of(world, 0))
    assert not world.open().verify().passed
    back_up(world, sources.first)
    assert not world.open().verify().passed
    before = packs_in(world.folder)
    made = back_up(world, sources.first)
    assert packs_in(world.folder) == before
    all_restore(world, tmp_path, made)


def test_a_damaged_pack_is_named_until_it_is_deleted(world: World, sources: Sources, tmp_path: Path) -> None:
    """It breaks no snapshot any more once a backup has stored anew what it held; then it is no loss."""
    pack = pack_of(world, 0)
    damage(pack)
    broken = {snapshot for finding in world.open().verify().findings for snapshot in finding.snapshots}
    assert broken == set(world.order), "the others share a few blobs with it"
    made = world.open().backup(f"faiss://{sources.first}").snapshot.id
    report = world.open().verify()
    assert {one.problem for one in report.findings} == {"altered or swapped: it doesn't decrypt"}
    assert set(report.healthy) == {*world.order, made}
    pack.unlink()
    assert world.open().verify(level=Level.ANSWERS).passed
    all_restore(world, tmp_path, made)


def test_a_deleted_pack_is_a_loss_if_a_blob_of_it_lies_nowhere_else(world: World, sources: Sources, tmp_path: Path) -> None:
    """Without probes the backup doesn't store anew the probes of the older snapshot."""
    pack = pack_of(world, 0)
    damage(pack)
    world.open().verify()
    made = back_up(world, sources.first)
    pack.unlink()
    report = world.open().verify()
    name = pack.relative_to(world.folder).as_posix()
    assert [(one.subject, one.problem, one.snapshots) for one in report.findings] == [(name, "missing", (world.order[0],))]
    assert set(report.healthy) == {*world.order[1:], made}
    all_restore(world, tmp_path, made)


def test_the_backup_after_a_refused_restore_heals(world: World, sources: Sources, tmp_path: Path) -> None:
    damage(pack_of(world, 0))
    with pytest.raises(Damaged):
        restored(world.open().repository, world.order[0], tmp_path / "refused")
    made = back_up(world, sources.first)
    all_restore(world, tmp_path, made)


def test_a_pack_that_is_put_back_whole_is_relied_on_again(world: World, sources: Sources) -> None:
    pack = pack_of(world, 0)
    whole = damage(pack)
    assert not world.open().verify().passed
    assert pack.name in Witness(world.open().repository).damaged
    pack.write_bytes(whole)
    assert world.open().verify().passed
    assert not Witness(world.open().repository).damaged
    before = packs_in(world.folder)
    back_up(world, sources.first)
    assert packs_in(world.folder) == before


@pytest.mark.parametrize("kept", [None, b"", b"[]", b"{", b'{"damaged": [1], "proven": 5, "newest": null}'])
def test_lost_notes_cost_only_what_they_said(kept: bytes | None, world: World, sources: Sources, own_state: Path) -> None:
    damage(pack_of(world, 0))
    assert not world.open().verify().passed
    [notes] = (one for one in own_state.glob("*.json") if "-" not in one.stem)
    notes.unlink() if kept is None else notes.write_bytes(kept)
    before = packs_in(world.folder)
    back_up(world, sources.first)
    assert packs_in(world.folder) == before, "nothing says that the pack is damaged"
    assert not world.open().verify().passed
    back_up(world, sources.first)
    assert len(packs_in(world.folder) - before) == 1


def test_a_verify_that_is_cut_off_remembers_what_it_found(world: World, sources: Sources, tmp_path: Path) -> None:
    pack = pack_of(world, 0)
    damage(pack)
    reads: list[str] = []

    def trouble(operation):
        if operation.verb != "read" or not operation.name.startswith("packs/"):
            return None
        reads.append(operation.name)
        return "unreachable before" if not operation.name.endswith(pack.name) else None

    room = Strongroom(Repository.open(FaultyStore(open_store(str(world.folder)), trouble), SECRET))
    later = [one for one in room.repository.index.packs if one != pack.name]
    Witness(room.repository).judged(5.0, whole=later)  # so that the damaged one is read first
    with pytest.raises(Unreachable):
        room.verify()
    made = back_up(world, sources.first)
    all_restore(world, tmp_path, made)


def test_a_repository_that_stays_open_finds_the_healed_copies(world: World, sources: Sources, tmp_path: Path) -> None:
    room = world.open()
    room.repository.look_again()
    damage(pack_of(world, 0))
    world.open().verify()
    back_up(world, sources.first)
    assert restored(room.repository, world.order[0], tmp_path / "restored") == world.expected[world.order[0]]


def test_copies_of_a_backup_that_crashed_before_its_index_serve(world: World, sources: Sources, tmp_path: Path) -> None:
    """The packs' own directories say what is in them."""
    damage(pack_of(world, 0))
    world.open().verify()
    store = FaultyStore(open_store(str(world.folder)), first_create("index/", "crash before"))
    with pytest.raises(SimulatedCrash):
        backup(Repository.open(store, SECRET), f"faiss://{sources.first}", BackupOptions(probes=0))
    all_restore(world, tmp_path)


def test_an_index_object_that_could_not_be_read_is_tried_again(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STRONGROOM_STATE_DIR", str(tmp_path / "another machine"))
    store = FaultyStore(open_store(str(world.folder)))
    repository = Repository.open(store, SECRET)
    first = len(store.operations) + 1
    store.trouble = at(first, "cut")
    repository.look_again()
    assert store.operations[first].name.startswith("index/")
    assert len(repository.problems) == 1
    assert len(repository.index.packs) == 2
    repository.look_again()
    assert repository.problems == []
    assert len(repository.index.packs) == 3


def test_files_that_the_engine_never_changes_are_healed_too(tmp_path: Path) -> None:
    """LanceDB's are taken over from the snapshot before without being read, unless a pack of theirs is damaged."""
    source = tmp_path / "source"
    rows = [{"id": one, "vector": vector} for one, vector in enumerate(np.random.default_rng(3).random((500, 16), np.float32))]
    table = lancedb.connect(source).create_table("things", rows).to_arrow()
    room = init_repository(str(tmp_path / "repository"), password=PASSWORD, cost=Argon2Cost(1, 1, 64))
    first = room.backup(f"lancedb://{source}", probes=0).snapshot.id
    [pack] = packs_in(tmp_path / "repository")
    damage(pack)
    assert not room.verify().passed
    second = room.backup(f"lancedb://{source}", probes=0).snapshot.id
    assert len(packs_in(tmp_path / "repository")) == 2
    for snapshot in (first, second):
        target = tmp_path / snapshot[:12]
        room.restore(snapshot, f"lancedb://{target}")
        assert lancedb.connect(target).open_table("things").to_arrow().equals(table)


# -- what several actors at once may not lose ------------------------------------------------------------------------------


def at_once(count: int, work: Callable[[int], object]) -> None:
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(work, range(count)))


def test_notes_that_are_taken_at_once_are_all_kept(world: World) -> None:
    repository = world.open().repository
    witnesses = [Witness(repository) for _ in range(8)]

    def take(number: int) -> None:
        for turn in range(10):
            witnesses[number].judged(1.0, whole=[f"whole {number} {turn}"], damaged=[f"damaged {number} {turn}"])

    at_once(8, take)
    names = {f"{number} {turn}" for number in range(8) for turn in range(10)}
    kept = Witness(repository)
    assert {f"whole {name}" for name in names} <= set(kept.proven)
    assert {f"damaged {name}" for name in names} == set(kept.damaged)
    assert kept.newest


def test_two_that_remove_each_others_key_slot_leave_one(world: World) -> None:
    """Each looks and sees the other's slot; then both delete."""
    first, second = (slot.id for slot in world.open().key_slots())

    class Overtaken(FaultyStore):
        def delete(self, name: str) -> None:
            if name.endswith(first):
                world.open().remove_key(second)
            super().delete(name)

    room = Strongroom(Repository.open(Overtaken(open_store(str(world.folder))), SECRET))
    with pytest.raises(Refused):
        room.remove_key(first)
    assert [slot.id for slot in world.open().key_slots()] == [first]


def test_a_new_name_is_durable_also_in_a_directory_that_another_process_left(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That one may have been killed between making it and syncing it."""
    from strongroom.repository import local_store

    folder = tmp_path / "store"
    (folder / "packs" / "ab").mkdir(parents=True)
    synced: list[Path] = []
    real = local_store._sync
    monkeypatch.setattr(local_store, "_sync", lambda directory: (synced.append(directory), real(directory)))
    open_store(str(folder)).create("packs/ab/x", b"1")
    assert {folder.parent, folder, folder / "packs", folder / "packs" / "ab"} == set(synced)
    assert synced[-1] == folder / "packs" / "ab"
