"""What happens when several processes or threads use one repository or one target at once?"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import command_forks
import pytest
from forks import Running
from worlds import CHEAP, PASSWORD, World, build_source, files_of, restored

from strongroom import engines
from strongroom.engines.staging import StagedEntries
from strongroom.errors import Locked, WrongKey
from strongroom.library import init_repository, open_repository
from strongroom.model import Selection
from strongroom.operations.verify import Level
from strongroom.repository import Pack, Repository, Secret, open_store

DONE, FAILED, LOCKED = 0, 1, 11


@pytest.fixture(scope="module")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A running S3 server, the scenarios' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[1] / "scenarios")
        from seaweed import SeaweedFS
    server = SeaweedFS(tmp_path_factory.mktemp("seaweed"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


def start(world: World | None, *arguments: str, **variables: str) -> Running:
    """A command in a process of its own, under way."""
    repository = {} if world is None else {"STRONGROOM_REPOSITORY": str(world.folder)}
    environment = {**os.environ, **repository, "STRONGROOM_PASSWORD": PASSWORD, **variables}
    return command_forks.start(arguments, environment)


def ends(processes: list[Running]) -> list[tuple[int, str, str]]:
    """Exit code, output and error output of each; none of them a traceback."""
    printed = [process.communicate() for process in processes]
    found = [(process.returncode, out, err) for process, (out, err) in zip(processes, printed, strict=True)]
    assert not [err for _, _, err in found if "Traceback" in err or "unexpected" in err], found
    return found


@pytest.mark.parametrize("count", [2, 4])
def test_backups_at_once_all_succeed_and_restore(count: int, world: World, tmp_path: Path) -> None:
    """Half of them of sources that share most of their blobs."""
    sources = [build_source(tmp_path / str(n), "first", 11 + n // 2, changed=n, rows=4_000) for n in range(count)]
    ended = ends([start(world, "backup", f"faiss://{source}", "--json", "--quiet") for source in sources])
    assert [code for code, _, _ in ended] == [DONE] * count, ended
    made = [json.loads(out)["id"] for _, out, _ in ended]
    room = world.open()
    assert {snapshot.id for snapshot in room.snapshots()} == {*world.order, *made}
    for number, (snapshot, source) in enumerate(zip(made, sources, strict=True)):
        assert restored(room.repository, snapshot, tmp_path / f"restored-{number}") == files_of(source)
    report = world.open().verify(level=Level.DATA)
    assert (report.findings, set(report.healthy)) == ((), {*world.order, *made})
    assert not list(world.folder.rglob(".unfinished-*"))


def test_backups_of_the_same_source_at_once(world: World, sources, tmp_path: Path) -> None:
    """Two that write the very same blobs, which neither finds there."""
    new = build_source(tmp_path / "new", "new", 77)
    ended = ends([start(world, "backup", f"faiss://{new}", "--json", "--quiet") for _ in range(2)])
    assert [code for code, _, _ in ended] == [DONE, DONE], ended
    made = [json.loads(out)["id"] for _, out, _ in ended]
    assert len(set(made)) == 2
    room = world.open()
    for snapshot in made:
        assert restored(room.repository, snapshot, tmp_path / snapshot) == files_of(new)
    assert room.verify(level=Level.DATA).passed


@pytest.mark.parametrize("shared", [True, False], ids=["one object", "an object each"])
def test_backups_by_threads_at_once(shared: bool, world: World, tmp_path: Path) -> None:
    """As a server makes them: two of each source."""
    sources = [build_source(tmp_path / str(n // 2), "first", 21 + n // 2) for n in range(4)]
    room = world.open()

    def back_up(source: Path) -> str:
        return (room if shared else world.open()).backup(f"faiss://{source}", probes=0).snapshot.id

    with ThreadPoolExecutor(len(sources)) as pool:
        made = list(pool.map(back_up, sources))
    assert {snapshot.id for snapshot in world.open().snapshots()} == {*world.order, *made}
    for holder in (room, world.open()):
        for number, (snapshot, source) in enumerate(zip(made, sources, strict=True)):
            assert restored(holder.repository, snapshot, tmp_path / f"{id(holder)}-{number}") == files_of(source)
    report = world.open().verify(level=Level.DATA)
    assert (report.findings, set(report.healthy)) == ((), {*world.order, *made})


def test_a_writer_begins_while_others_list_their_packs(world: World) -> None:
    """In one object, as often as it takes for the two to meet."""
    store = open_store("memory://writers-begin")
    for path in world.folder.rglob("*"):
        if path.is_file():
            store.create(path.relative_to(world.folder).as_posix(), path.read_bytes())
    repository = Repository.open(store, Secret.passphrase(PASSWORD))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(2) as pool:
            listing = [pool.submit(repository.add_index, [Pack(f"{n:064x}", bytes(32), 100, b"")]) for n in range(2_500)]
            while not all(one.done() for one in listing):
                with repository.writer():
                    pass
    finally:
        sys.setswitchinterval(interval)
    assert {f"{n:064x}" for n in range(2_500)} <= set(repository.index.packs)


def test_backups_at_once_over_s3(seaweed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads of one source, and two processes of another: both of a pair find nothing there and write the same blobs."""
    seaweed.make_bucket("concurrency")
    for name, value in seaweed.environment().items():
        monkeypatch.setenv(name, value)
    room = init_repository("s3://concurrency/main", password=PASSWORD, cost=CHEAP)
    sources = [build_source(tmp_path / str(n), "first", 31 + n) for n in (0, 0, 1, 1)]
    backing_up = ("backup", "--json", "--quiet", "-r", room.repository.store.url)
    processes = [start(None, *backing_up, f"faiss://{one}") for one in sources[2:]]
    with ThreadPoolExecutor(2) as pool:
        made = [report.snapshot.id for report in pool.map(lambda one: room.backup(f"faiss://{one}"), sources[:2])]
    ended = ends(processes)
    assert [code for code, _, _ in ended] == [DONE, DONE], ended
    made += [json.loads(out)["id"] for _, out, _ in ended]

    anew = open_repository("s3://concurrency/main", password=PASSWORD)
    assert {snapshot.id for snapshot in anew.snapshots()} == set(made)
    assert len(set(made)) == 4
    for number, (snapshot, source) in enumerate(zip(made, sources, strict=True)):
        assert restored(anew.repository, snapshot, tmp_path / f"restored-{number}") == files_of(source)
    report = anew.verify(level=Level.DATA)
    assert (report.findings, set(report.healthy)) == ((), set(made))


@pytest.mark.parametrize("count", [2, 4])
def test_one_init_of_several_wins(count: int, tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    passwords = [f"password of process {number}" for number in range(count)]
    ended = ends([start(None, "init", "--repo", str(folder), STRONGROOM_PASSWORD=password) for password in passwords])
    assert sorted(code for code, _, _ in ended) == [DONE, *[FAILED] * (count - 1)], ended
    for password, (code, _, _) in zip(passwords, ended, strict=True):
        if code == DONE:
            room = open_repository(str(folder), password=password)
            assert len(room.key_slots()) == 1
            assert room.snapshots() == []
        else:
            with pytest.raises(WrongKey):
                open_repository(str(folder), password=password)


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("turn", range(3))
def test_restores_to_one_target_at_once(count: int, turn: int, world: World, tmp_path: Path) -> None:
    """One does it; the others are told that it is locked, or find that it is done."""
    target = tmp_path / "restored" / "index.faiss"
    if turn:
        target.parent.mkdir()
    ended = ends([start(world, "restore", world.order[turn], f"faiss://{target}", "--quiet") for _ in range(count)])
    codes = [code for code, _, _ in ended]
    assert set(codes) <= {DONE, LOCKED}, ended
    assert DONE in codes, ended
    assert files_of(target) == world.expected[world.order[turn]]
    assert sorted(path.name for path in target.parent.iterdir()) == ["index.faiss", "index.faiss.strongroom.json", "index.parquet"]


def test_a_stage_has_one_owner_while_others_take_theirs_away(tmp_path: Path) -> None:
    """It is opened, made and removed by all at once: each has it alone, or is told that it is locked, and nothing else."""
    inside, most = [0], [0]

    def use(_: int) -> int:
        owned = 0
        for _ in range(200):
            try:
                stage = StagedEntries(tmp_path, "token", ["x"])
            except Locked:
                continue
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            assert stage.new.is_dir()
            owned += 1
            inside[0] -= 1
            stage.discard()
        return owned

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(use, range(4))) > 4
    assert most == [1]
    assert list(tmp_path.iterdir()) == []


def test_a_restore_waits_for_nobody(world: World, tmp_path: Path) -> None:
    """While another process holds the stage the answer is Locked, at once; afterwards the same command does it."""
    room = world.open()
    target = tmp_path / "index.faiss"
    plan = room.plan_restore(world.order[0], f"faiss://{target}")
    held = engines.target_of(plan.target).stage(plan.token, Selection())
    try:
        (ended,) = ends([start(world, "restore", world.order[0], plan.target, "--quiet")])
        assert ended[0] == LOCKED, ended
        assert not target.exists()
        with pytest.raises(Locked):
            room.restore(world.order[0], plan.target)
    finally:
        held.close()
    (ended,) = ends([start(world, "restore", world.order[0], plan.target, "--quiet")])
    assert ended[0] == DONE, ended
    assert files_of(target) == world.expected[world.order[0]]


def test_a_backup_and_a_restore_and_a_verify_at_once(world: World, sources, tmp_path: Path) -> None:
    new, target = build_source(tmp_path / "new", "new", 78), tmp_path / "out" / "index.faiss"
    ended = ends(
        [
            start(world, "backup", f"faiss://{new}", "--quiet"),
            start(world, "restore", world.order[1], f"faiss://{target}", "--quiet"),
            start(world, "verify", "--quiet"),
        ]
    )
    assert [code for code, _, _ in ended] == [DONE] * 3, ended
    assert files_of(target) == world.expected[world.order[1]]
