"""Three regions: one is cut off, one may not have everything, one is lost. Does anybody lose data, and is everybody told?"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import pytest
from seaweed import READER, SeaweedFS
from tcp_proxy import TcpProxy

from strongroom.errors import Refused, StoreDenied, StrongroomError
from strongroom.library import Strongroom, init_repository, open_repository
from strongroom.operations.copy import CopyOptions, copy, open_replica
from strongroom.operations.fall_over import Reading
from strongroom.operations.replicate import Lag, ReplicateOptions, lag_of, lags_of, metrics, replicate
from strongroom.operations.verify import verify
from strongroom.repository import Argon2Cost, Store, open_store
from strongroom.repository.policies import publish
from strongroom.repository.region import name_region, region_of

PASSWORD = "three regions"
CHEAP = Argon2Cost(1, 1, 64)


def build(folder: Path, name: str, seed: int) -> str:
    """The URL of a small index with a file of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    index = faiss.IndexFlatL2(16)
    index.add(np.random.default_rng(seed).standard_normal((200, 16)).astype(np.float32))
    faiss.write_index(index, str(folder / f"{name}.faiss"))
    return f"faiss://{folder}/{name}.faiss"


def change(url: str, seed: int) -> bytes:
    """Another content; gives the bytes of the file."""
    path = Path(url.removeprefix("faiss://"))
    build(path.parent, path.stem, seed)
    return path.read_bytes()


def restored(room: Strongroom, snapshot: str, folder: Path) -> bytes:
    room.restore(snapshot, f"faiss://{folder}/out.faiss")
    return (folder / "out.faiss").read_bytes()


def wait_for(true: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.05)


@dataclass
class World:
    """The primary is a directory in eu-central-1; eu-west-1 is S3 behind a proxy; us-east-1 another directory."""

    room: Strongroom
    docs: str
    people: str
    west: Store
    east: Store
    proxy: TcpProxy


@pytest.fixture
def world(seaweed: SeaweedFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    proxy = TcpProxy(seaweed.port)
    for name, value in seaweed.environment(proxy.port).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("STRONGROOM_RETRY_SECONDS", "0")
    monkeypatch.setenv("STRONGROOM_REQUEST_SECONDS", "3")
    bucket = f"west-{os.getpid()}-{tmp_path.name[-8:].lower().strip('_')}".replace("_", "-")
    seaweed.make_bucket(bucket)
    room = init_repository(str(tmp_path / "central"), password=PASSWORD, cost=CHEAP)
    name_region(room.repository, "eu-central-1")
    docs, people = build(tmp_path / "sources", "docs", 1), build(tmp_path / "sources", "people", 2)
    rule = {"name": "people stay in Europe", "source": people, "regions": ["eu-*"]}
    publish(room.repository, {"residency": [rule]})
    yield World(room, docs, people, open_store(f"s3://{bucket}/main"), open_store(str(tmp_path / "east")), proxy)
    proxy.close()


def test_a_region_is_cut_off_and_another_is_lost(world: World, tmp_path: Path) -> None:
    room = world.room
    room.backup(world.docs)
    room.backup(world.people)
    copy(room.repository, world.west, CopyOptions(region="eu-west-1"))
    copy(room.repository, world.east, CopyOptions(region="us-east-1", leave_out=True))
    told: dict[str, list[Lag]] = {world.west.url: [], world.east.url: []}
    stop = threading.Event()
    options = ReplicateOptions(CopyOptions(leave_out=True), every=0.1)
    running = threading.Thread(
        target=replicate,
        args=(room.repository, [world.west, world.east], options),
        kwargs={"stop": stop, "tell": lambda lag: told[lag.target].append(lag)},
    )
    running.start()
    try:
        wait_for(lambda: all(told.values()))
        world.proxy.refuse(1_000_000)
        world.proxy.cut_all()
        content = change(world.docs, 3)
        newest = room.backup(world.docs).snapshot.id
        secret = room.backup(world.people).snapshot.id
        wait_for(lambda: told[world.west.url][-1].problem != "" and told[world.west.url][-1].snapshots == 2)
        first = told[world.west.url][-1].seconds
        wait_for(lambda: newest in open_replica(room.repository, world.east).manifest_ids())  # the slow one holds up no other
        east = open_repository(world.east.url.removeprefix("file://"), password=PASSWORD)
        assert restored(east, newest, tmp_path / "from-east") == content
        assert secret not in east.repository.manifest_ids()
        wait_for(lambda: told[world.west.url][-1].seconds > first)  # and it says so
        world.proxy.heal()
        wait_for(lambda: told[world.west.url][-1].problem == "" and told[world.west.url][-1].objects == 0)
    finally:
        stop.set()
        running.join()
    assert {newest, secret} <= set(open_replica(room.repository, world.west).manifest_ids())
    for store, region in ((world.west, "eu-west-1"), (world.east, "us-east-1")):
        replica = open_replica(room.repository, store)
        assert region_of(replica) == region
        assert verify(replica, None).passed
    with pytest.raises(Refused, match="people stay in Europe"):
        copy(room.repository, world.east)
    primary = Path(tmp_path / "central")
    shutil.rmtree(primary)
    whole = open_repository(str(primary), password=PASSWORD, reading=Reading(replicas=(world.west.url, world.east.url)))
    assert whole.stand_ins is not None
    assert whole.stand_ins.instead == world.west.url  # the one that lacks nothing
    assert restored(whole, "latest", tmp_path / "from-west") == Path(world.people.removeprefix("faiss://")).read_bytes()
    again = open_store(str(tmp_path / "central-again"))
    west = open_repository(world.west.url, password=PASSWORD).repository
    assert copy(west, again, CopyOptions(region="eu-central-1")).whole
    seeded = open_repository(str(tmp_path / "central-again"), password=PASSWORD)
    assert verify(seeded.repository, None).passed
    assert restored(seeded, newest, tmp_path / "from-seeded") == content


def test_a_damaged_blob_comes_from_a_replica(tmp_path: Path) -> None:
    room = init_repository(str(tmp_path / "primary"), password=PASSWORD, cost=CHEAP)
    docs = build(tmp_path / "sources", "docs", 1)
    content = Path(docs.removeprefix("faiss://")).read_bytes()
    room.backup(docs)
    room.copy(str(tmp_path / "replica"))
    for path in (tmp_path / "primary" / "packs").rglob("*"):
        if path.is_file():
            path.unlink()
    with pytest.raises(StrongroomError):
        restored(open_repository(str(tmp_path / "primary"), password=PASSWORD), "latest", tmp_path / "alone")
    reading = open_repository(str(tmp_path / "primary"), password=PASSWORD, reading=Reading())  # the replica is remembered
    assert restored(reading, "latest", tmp_path / "out") == content
    assert reading.stand_ins is not None
    assert any("came from" in line and "replica" in line for line in reading.stand_ins.said())
    looking = open_repository(str(tmp_path / "primary"), password=PASSWORD, reading=Reading(by_blob=False))
    assert not looking.verify().passed


def test_a_stale_replica_is_not_taken_for_the_newest(tmp_path: Path) -> None:
    room = init_repository(str(tmp_path / "primary"), password=PASSWORD, cost=CHEAP)
    docs = build(tmp_path / "sources", "docs", 1)
    old = Path(docs.removeprefix("faiss://")).read_bytes()
    first = room.backup(docs).snapshot.id
    room.copy(str(tmp_path / "replica"))
    change(docs, 9)
    room.backup(docs)
    assert lags_of(room.repository, [])[0].snapshots == 1
    shutil.rmtree(tmp_path / "primary")
    reading = open_repository(str(tmp_path / "primary"), password=PASSWORD, reading=Reading())
    with pytest.raises(Refused, match="its latest isn't the latest"):
        reading.snapshot("latest")
    assert restored(reading, first, tmp_path / "by-id") == old
    accepted = open_repository(str(tmp_path / "primary"), password=PASSWORD, reading=Reading(stale_ok=True))
    assert restored(accepted, "latest", tmp_path / "out") == old
    with pytest.raises(StrongroomError):
        open_repository(str(tmp_path / "primary"), password=PASSWORD)  # what writes doesn't fall over


def test_lag_and_metrics(tmp_path: Path) -> None:
    room = init_repository(str(tmp_path / "primary"), password=PASSWORD, cost=CHEAP)
    docs = build(tmp_path / "sources", "docs", 1)
    room.backup(docs)
    room.copy(str(tmp_path / "replica"))
    store = open_store(str(tmp_path / "replica"))
    assert lag_of(room.repository, store) == Lag(store.url, 0.0)
    change(docs, 5)
    room.backup(docs)
    lag = lag_of(room.repository, store)
    assert (lag.snapshots, lag.problem) == (1, "")
    assert 0 < lag.seconds < 60
    assert lag.bytes > 3200  # the vectors
    assert f'strongroom_replica_lag_seconds{{replica="{store.url}"}}' in metrics([lag])
    nowhere = lag_of(room.repository, open_store(str(tmp_path / "nowhere")))
    assert nowhere.problem
    assert nowhere.seconds > 0


def test_who_reads_at_a_replica_leaves_an_entry_there_and_both_logs_stay_whole(tmp_path: Path) -> None:
    room = init_repository(str(tmp_path / "primary"), password=PASSWORD, cost=CHEAP)
    docs = build(tmp_path / "sources", "docs", 1)
    content = Path(docs.removeprefix("faiss://")).read_bytes()
    room.backup(docs)
    room.copy(str(tmp_path / "replica"))
    (tmp_path / "primary").rename(tmp_path / "lost")
    reading = open_repository(str(tmp_path / "primary"), password=PASSWORD, reading=Reading())
    assert restored(reading, "latest", tmp_path / "out") == content
    told = open_repository(str(tmp_path / "replica"), password=PASSWORD).audit()[-1]
    assert (told.verb, told.result, told.proven, told.who["role"]) == ("restore", "done", True, "admin")
    (tmp_path / "lost").rename(tmp_path / "primary")  # it comes back
    room.backup(docs)
    report = room.copy(str(tmp_path / "replica"))
    assert report.whole
    assert "entries of the replica's own" in report.left_out[0]
    for place in ("primary", "replica"):
        opened = open_repository(str(tmp_path / place), password=PASSWORD)
        assert opened.verify_audit().problems == ()
        assert len(opened.snapshots()) == 2
    verbs = [one.verb for one in open_repository(str(tmp_path / "replica"), password=PASSWORD).audit()]
    assert verbs.count("restore") == 1


def test_at_a_replica_that_may_only_be_read_nothing_is_restored_unseen(
    seaweed: SeaweedFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STRONGROOM_RETRY_SECONDS", "0")
    for name, value in seaweed.environment().items():
        monkeypatch.setenv(name, value)
    bucket = f"read-only-{os.getpid()}"
    seaweed.make_bucket(bucket)
    room = init_repository(str(tmp_path / "primary"), password=PASSWORD, cost=CHEAP)
    docs = build(tmp_path / "sources", "docs", 1)
    made = room.backup(docs).snapshot.id
    room.copy(f"s3://{bucket}/main")
    shutil.rmtree(tmp_path / "primary")
    for name, value in seaweed.environment(who=READER).items():
        monkeypatch.setenv(name, value)
    reading = open_repository(str(tmp_path / "primary"), password=PASSWORD, reading=Reading())
    assert [one.id for one in reading.snapshots()] == [made]  # looking is not refused
    with pytest.raises(StoreDenied, match="restore must be written into the audit log first") as refused:
        restored(reading, "latest", tmp_path / "out")
    assert "below audit/" in refused.value.hint
    assert not (tmp_path / "out").exists()
    mirror = tmp_path / "mirror"  # by any other tool
    for one in open_store(f"s3://{bucket}/main").list(""):
        (mirror / one.name).parent.mkdir(parents=True, exist_ok=True)
        (mirror / one.name).write_bytes(open_store(f"s3://{bucket}/main").read(one.name))
    own = open_repository(str(mirror), password=PASSWORD)
    assert restored(own, made, tmp_path / "out") == Path(docs.removeprefix("faiss://")).read_bytes()
    assert own.audit()[-1].verb == "restore"
