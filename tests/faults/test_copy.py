"""Is a replica whole, and does a copy that is cut off anywhere leave it so? What is damaged here must not come there."""

from __future__ import annotations

import threading
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from faulty_store import FaultyStore, Operation, SimulatedCrash, at
from worlds import CHEAP, PASSWORD, Sources, build_source, files_of, names_in, restored

from strongroom.errors import Refused, StrongroomError
from strongroom.library import Strongroom, init_repository, open_repository
from strongroom.operations.copy import CopyOptions, Selection, copy, open_replica
from strongroom.operations.forget import ForgetOptions
from strongroom.operations.hold import HoldOptions
from strongroom.operations.prune.run import PruneOptions, prune
from strongroom.operations.verify import verify
from strongroom.repository import Repository, Secret, open_store
from strongroom.repository.holds import Scope
from strongroom.repository.local_store import LocalStore
from strongroom.repository.policies import publish
from strongroom.repository.region import name_region, region_of
from strongroom.repository.tombstones import What

ROWS = 300


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    folder = tmp_path_factory.mktemp("sources")
    return Sources(
        build_source(folder, "first", 1, rows=ROWS),
        build_source(folder, "second", 2, rows=ROWS),
        build_source(folder / "changed", "first", 1, changed=3, rows=ROWS),
    )


@pytest.fixture
def room(tmp_path: Path, sources: Sources) -> Strongroom:
    made = init_repository(str(tmp_path / "primary"), password=PASSWORD, cost=CHEAP)
    for source in (sources.first, sources.second):
        made.backup(f"faiss://{source}")
    return made


def opened(folder: Path) -> Repository:
    return Repository.open(LocalStore(folder), Secret.passphrase(PASSWORD))


def require_consistent(room: Strongroom, folder: Path) -> int:
    """Every snapshot that is at the replica is whole there. Gives how many there are."""
    replica = open_replica(room.repository, LocalStore(folder))
    ids = replica.manifest_ids()
    with pytest.MonkeyPatch.context() as elsewhere, TemporaryDirectory() as state:
        elsewhere.setenv("STRONGROOM_STATE_DIR", state)  # a machine that doesn't know what the replica lacks
        assert not ids or verify(replica, None).passed
    return len(ids)


def test_a_replica_restores_by_itself(room: Strongroom, sources: Sources, tmp_path: Path) -> None:
    report = copy(room.repository, LocalStore(tmp_path / "replica"))
    assert (report.snapshots, report.whole) == (2, True)
    packs = names_in(room.repository.store, "packs/")
    assert names_in(LocalStore(tmp_path / "replica"), "packs/") == packs  # the ciphertext as it is
    replica = opened(tmp_path / "replica")
    assert verify(replica, None).passed
    assert restored(replica, "latest", tmp_path / "out") == files_of(sources.second)
    room.backup(f"faiss://{sources.changed}")
    again = copy(room.repository, LocalStore(tmp_path / "replica"))
    assert again.snapshots == 1
    assert again.bytes < report.bytes
    assert copy(room.repository, LocalStore(tmp_path / "replica")).objects == 0


def test_nothing_new_costs_few_requests(room: Strongroom, tmp_path: Path) -> None:
    copy(room.repository, LocalStore(tmp_path / "replica"))
    target = FaultyStore(LocalStore(tmp_path / "replica"))
    copy(room.repository, target)
    assert {one.verb for one in target.operations} <= {"list", "read", "create"}
    assert len(target.operations) < 25
    assert [one.name for one in target.operations if one.verb == "create"] == ["config"]  # which is refused, and proves the store


def test_a_crash_at_each_operation_leaves_a_replica_that_is_whole(room: Strongroom, tmp_path: Path) -> None:
    counting = FaultyStore(LocalStore(tmp_path / "whole"))
    copy(room.repository, counting)
    writes = [one.number for one in counting.operations if one.verb == "create"]
    assert len(writes) > 8
    for fault in ("crash before", "crash after", "unreachable after"):
        for number in writes:
            folder = tmp_path / f"{fault}-{number}"
            with suppress(SimulatedCrash, StrongroomError):
                copy(room.repository, FaultyStore(LocalStore(folder), at(number, fault)))
            if (folder / "config").exists():
                require_consistent(room, folder)
            copy(room.repository, LocalStore(folder))
            assert require_consistent(room, folder) == 2


def test_what_is_cut_on_its_way_is_not_stored(room: Strongroom, tmp_path: Path) -> None:
    primary = room.repository
    honest = primary.store
    primary.store = FaultyStore(honest, lambda one: "cut" if one.verb == "read" and one.name.startswith("packs/") else None)
    report = copy(primary, LocalStore(tmp_path / "replica"))
    assert not report.whole
    assert report.damaged
    assert names_in(LocalStore(tmp_path / "replica"), "packs/", "snapshots/") == []
    primary.store = honest
    assert copy(primary, LocalStore(tmp_path / "replica")).whole
    assert require_consistent(room, tmp_path / "replica") == 2


def test_a_damaged_pack_takes_no_good_ones_place(room: Strongroom, sources: Sources, tmp_path: Path) -> None:
    copy(room.repository, LocalStore(tmp_path / "replica"))
    before = {name: LocalStore(tmp_path / "replica").read(name) for name in names_in(LocalStore(tmp_path / "replica"), "packs/")}
    for name in names_in(room.repository.store, "packs/"):
        path = tmp_path / "primary" / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.chmod(0o600)
        path.write_bytes(content)
    copy(room.repository, LocalStore(tmp_path / "replica"))
    assert {name: LocalStore(tmp_path / "replica").read(name) for name in before} == before
    report = copy(room.repository, LocalStore(tmp_path / "other"))
    assert report.damaged
    assert report.incomplete
    assert require_consistent(room, tmp_path / "other") < 2


def test_another_repository_is_not_written_into(room: Strongroom, tmp_path: Path) -> None:
    init_repository(str(tmp_path / "other"), password=PASSWORD, cost=CHEAP)
    before = names_in(LocalStore(tmp_path / "other"), "")
    with pytest.raises(Refused, match="another repository"):
        copy(room.repository, LocalStore(tmp_path / "other"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    with pytest.raises(Refused, match="not empty"):
        copy(room.repository, LocalStore(tmp_path / "full"))
    assert names_in(LocalStore(tmp_path / "other"), "") == before


def test_what_a_prune_of_the_replica_takes_before_it_sees_the_snapshots_is_sent_again(room: Strongroom, tmp_path: Path) -> None:
    inner = LocalStore(tmp_path / "replica")
    pruned: list[int] = []

    def before_manifests(operation: Operation) -> None:
        if operation.verb == "create" and operation.name.startswith("snapshots/") and not pruned:
            replica = open_replica(room.repository, inner)
            pruned.append(prune(replica, PruneOptions(timedelta(0), 0.0)).deleted.packs)

    report = copy(room.repository, FaultyStore(inner, before_manifests))
    assert pruned[0] > 0
    assert (report.snapshots, report.whole) == (2, True)
    assert require_consistent(room, tmp_path / "replica") == 2


def test_two_copiers_at_once(room: Strongroom, tmp_path: Path) -> None:
    problems: list[Exception] = []

    def one() -> None:
        try:
            copy(opened(tmp_path / "primary"), LocalStore(tmp_path / "replica"))
        except StrongroomError as error:
            problems.append(error)

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert require_consistent(room, tmp_path / "replica") == 2


def test_forgotten_here_stays_there_unless_asked(room: Strongroom, sources: Sources, tmp_path: Path) -> None:
    copy(room.repository, LocalStore(tmp_path / "replica"))
    first = room.snapshots()[0].id
    room.forget(ForgetOptions((first,)))
    prune(room.repository, PruneOptions(grace=timedelta(0)))
    prune(room.repository, PruneOptions(grace=timedelta(0)))
    copy(room.repository, LocalStore(tmp_path / "replica"))
    assert require_consistent(room, tmp_path / "replica") == 2
    assert prune(opened(tmp_path / "replica"), PruneOptions(grace=timedelta(0))).snapshots == 2
    report = copy(room.repository, LocalStore(tmp_path / "replica"), CopyOptions(follow_forget=True))
    assert report.forgotten == (first,)
    assert require_consistent(room, tmp_path / "replica") == 1
    back = copy(opened(tmp_path / "replica"), LocalStore(tmp_path / "primary"))
    assert back.snapshots == 0


def test_a_tombstone_alone_keeps_no_snapshot_from_a_replica(room: Strongroom, tmp_path: Path) -> None:
    """Who may only add objects buries what he can't delete."""
    room.repository.bury(What.FORGOTTEN, room.repository.manifest_ids())
    assert copy(room.repository, LocalStore(tmp_path / "replica")).snapshots == 2
    assert copy(room.repository, LocalStore(tmp_path / "replica")).left_out == ()
    assert require_consistent(room, tmp_path / "replica") == 2


def test_what_a_replica_forgot_does_not_come_back(room: Strongroom, tmp_path: Path) -> None:
    copy(room.repository, LocalStore(tmp_path / "replica"))
    first = room.snapshots()[0].id
    Strongroom(opened(tmp_path / "replica")).forget(ForgetOptions((first,)))
    report = copy(room.repository, LocalStore(tmp_path / "replica"))
    assert (report.snapshots, report.left_out[0]) == (0, f"snapshot {first[:12]}: it was forgotten at the replica")
    assert "entries of the replica's own" in report.left_out[1]  # that somebody forgot it stands in its audit log


def test_a_hold_reaches_the_replica_and_keeps_it_there(room: Strongroom, tmp_path: Path) -> None:
    copy(room.repository, LocalStore(tmp_path / "replica"))
    first = room.snapshots()[0].id
    replica = Strongroom(opened(tmp_path / "replica"))
    replica.hold(HoldOptions(Scope(snapshots=(first,)), "case 7", "the court"))
    room.forget(ForgetOptions((first,)))
    report = copy(room.repository, LocalStore(tmp_path / "replica"), CopyOptions(follow_forget=True))
    assert report.forgotten == ()
    assert "case 7, at the replica too" in report.left_out[0]
    assert require_consistent(room, tmp_path / "replica") == 2
    last = room.snapshots()[-1].id
    for number in range(3):
        room.hold(HoldOptions(Scope(snapshots=(last,)), f"case {number}", "the court"))
    target = FaultyStore(LocalStore(tmp_path / "other"))
    copy(room.repository, target)
    sent = [one.name for one in target.operations if one.verb == "create" and one.name.startswith("holds/")]
    assert [name.removeprefix("holds/") for name in sent] == [one.hold.id for one in room.holds()]
    with pytest.raises(Refused, match="the court"):
        Strongroom(opened(tmp_path / "other")).forget(ForgetOptions((last,)))


def test_a_key_that_was_taken_away_never_comes_back(room: Strongroom, tmp_path: Path) -> None:
    leaver = Secret.passphrase("leaver")
    slot = room.add_key(leaver, "leaver", cost=CHEAP)
    copy(room.repository, LocalStore(tmp_path / "replica"))
    Repository.open(LocalStore(tmp_path / "replica"), leaver)
    room.remove_key(slot.id)
    back = opened(tmp_path / "replica")
    copy(back, LocalStore(tmp_path / "primary"))
    assert slot.name not in names_in(room.repository.store, "keys/")
    copy(room.repository, LocalStore(tmp_path / "replica"))
    assert slot.name not in names_in(LocalStore(tmp_path / "replica"), "keys/")


def test_a_prune_beside_a_copy(room: Strongroom, sources: Sources, tmp_path: Path) -> None:
    """Packs vanish at the source after it was listed: what is needed is found where it lies now."""
    room.backup(f"faiss://{sources.changed}")
    primary = room.repository
    honest, pruned = primary.store, []

    def prune_once(operation) -> None:
        if operation.verb == "read" and operation.name.startswith("packs/") and not pruned:
            pruned.append(True)
            other = open_repository(str(tmp_path / "primary"), password=PASSWORD)
            other.forget(ForgetOptions((other.snapshots()[0].id,)))
            for _ in range(2):
                prune(other.repository, PruneOptions(grace=timedelta(0), max_unused=0))

    primary.store = FaultyStore(honest, prune_once)
    copy(primary, LocalStore(tmp_path / "replica"))
    assert pruned
    primary.store = honest
    copy(primary, LocalStore(tmp_path / "replica"))
    assert require_consistent(room, tmp_path / "replica") >= 2


def test_a_copy_that_residency_forbids_sends_nothing(room: Strongroom, sources: Sources, tmp_path: Path) -> None:
    rule = {"name": "second stays in Europe", "source": f"faiss://{sources.second}", "regions": ["eu-*"]}
    publish(room.repository, {"residency": [rule]})
    for options in (CopyOptions(), CopyOptions(region="us-east-1")):
        target = FaultyStore(LocalStore(tmp_path / "replica"))
        with pytest.raises(Refused, match=r"second stays in Europe.*nothing was sent") as refused:
            copy(room.repository, target, options)
        assert refused.value.exit_code == 5
        assert {one.verb for one in target.operations} <= {"list", "read"}
        assert not (tmp_path / "replica").exists() or names_in(target.inner, "") == []
    report = copy(room.repository, LocalStore(tmp_path / "us"), CopyOptions(region="us-east-1", leave_out=True))
    assert (report.snapshots, len(report.left_out)) == (1, 1)
    replica = opened(tmp_path / "us")
    assert region_of(replica) == "us-east-1"
    assert require_consistent(room, tmp_path / "us") == 1
    needed = {bytes.fromhex(blob) for blob in room.snapshots()[0].manifest.blobs()}
    there = {blob.id for pack in replica.index.packs.values() for blob in pack.blobs}
    assert there == needed  # not a blob of what may not be there
    assert copy(room.repository, LocalStore(tmp_path / "eu"), CopyOptions(region="eu-central-1")).snapshots == 2


def test_a_pack_of_both_is_taken_apart(room: Strongroom, sources: Sources, tmp_path: Path) -> None:
    """A prune wrote what it kept of two sources' packs into one."""
    held = {path: path.read_bytes() for path in (sources.second, sources.first)}
    other = build_source(tmp_path / "other", "second", 2, changed=3, rows=ROWS)
    sources.second.write_bytes(other.read_bytes())
    sources.first.write_bytes(sources.changed.read_bytes())
    gone = [one.id for one in room.snapshots()]
    try:
        for source in (sources.first, sources.second):
            room.backup(f"faiss://{source}", reread=True)
    finally:
        for path, content in held.items():
            path.write_bytes(content)
    room.forget(ForgetOptions(tuple(gone)))
    prune(room.repository, PruneOptions(grace=timedelta(0), max_unused=0))
    kept = {one.manifest.source: {bytes.fromhex(blob) for blob in one.manifest.blobs()} for one in room.snapshots()}
    first, second = kept[f"faiss://{sources.first}"], kept[f"faiss://{sources.second}"]
    packs = [{blob.id for blob in pack.blobs} for pack in opened(tmp_path / "primary").index.packs.values()]
    assert any(pack & first - second and pack & second - first for pack in packs)
    rule = {"name": "second", "source": f"faiss://{sources.second}", "regions": ["eu-*"]}
    publish(room.repository, {"residency": [rule]})
    copy(room.repository, LocalStore(tmp_path / "us"), CopyOptions(region="us-east-1", leave_out=True))
    there = {blob.id for pack in opened(tmp_path / "us").index.packs.values() for blob in pack.blobs}
    assert there == first
    assert require_consistent(room, tmp_path / "us") == 1


def test_no_snapshot_comes_before_its_predecessor(room: Strongroom, sources: Sources, tmp_path: Path) -> None:
    room.backup(f"faiss://{sources.changed}")
    target = FaultyStore(LocalStore(tmp_path / "replica"))
    copy(room.repository, target)
    order = [one.name.rpartition("/")[2] for one in target.operations if one.verb == "create" and one.name.startswith("snapshots/")]
    assert order == [one.id for one in room.snapshots()]
    last = [one.verb == "create" and one.name.startswith(("packs/", "index/")) for one in target.operations]
    assert not any(last[[one.name for one in target.operations].index(f"snapshots/{order[0]}") :])


def test_a_region_that_was_copied_is_none(room: Strongroom, tmp_path: Path) -> None:
    name_region(room.repository, "eu-central-1")
    copy(room.repository, LocalStore(tmp_path / "replica"))
    assert region_of(opened(tmp_path / "replica")) is None
    for name in names_in(room.repository.store, "region/"):
        LocalStore(tmp_path / "replica").create(name, room.repository.store.read(name))
    with pytest.raises(Refused, match="is a copy of the primary's"):
        copy(room.repository, LocalStore(tmp_path / "replica"))


def test_a_selection_and_a_memory_store(room: Strongroom) -> None:
    store = open_store("memory://copy-of-one")
    report = copy(room.repository, store, CopyOptions(Selection(snapshots=("latest",)), bandwidth=50 << 20, read_back=True))
    assert report.snapshots == 1
    replica = open_replica(room.repository, store)
    assert replica.manifest_ids() == [room.snapshot("latest").id]
    assert verify(replica, "latest").passed
