"""Does `strongroom run` keep replicas, whatever happens to one of them? A region on a real S3 server is cut off, one isn't."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import command_forks
import pytest
from commands import environment
from forks import DEVNULL
from seaweed import SeaweedFS
from served import build, once, served
from tcp_proxy import TcpProxy

from strongroom.library import Strongroom, init_repository, open_repository
from strongroom.operations.copy import open_replica
from strongroom.operations.fall_over import Reading
from strongroom.operations.verify import verify
from strongroom.policy import marked
from strongroom.repository import Argon2Cost, Repository, open_store
from strongroom.repository.region import region_of

PASSWORD = "three regions"
CHEAP = Argon2Cost(1, 1, 64)
FOREVER = 1_000_000


@dataclass
class World:
    """A repository of two sources, and a policy file about it."""

    folder: Path
    room: Strongroom
    docs: str
    document: dict[str, Any] = field(default_factory=dict)

    @property
    def repositories(self) -> dict[str, Any]:
        found: dict[str, Any] = self.document["repositories"]
        return found

    @property
    def policy(self) -> dict[str, Any]:
        found: dict[str, Any] = self.document["policies"]["p"]
        return found

    def replica(self, name: str) -> Repository:
        return open_replica(self.room.repository, open_store(self.repositories[name]["url"]))

    def objects(self, name: str) -> set[str]:
        return {one.name for one in open_store(self.repositories[name]["url"]).list("")}


@pytest.fixture
def world(tmp_path: Path) -> World:
    room = init_repository(str(tmp_path / "central"), password=PASSWORD, cost=CHEAP)
    docs, people = build(tmp_path / "sources", "docs", 1), build(tmp_path / "sources", "people", 2)
    room.backup(docs)
    room.backup(people)
    (tmp_path / "password").write_text(PASSWORD)
    secret = {"password_file": str(tmp_path / "password")}
    document = {
        "version": 1,
        "sources": {"docs": {"url": docs}, "people": {"url": people}},
        "repositories": {
            "central": {"url": str(tmp_path / "central"), "region": "eu-central-1", "replicas": ["east"], **secret},
            "east": {"url": str(tmp_path / "east"), "region": "us-east-1", "replication": {"when": {"interval": "1s"}}},
        },
        "policies": {"p": {"repository": "central"}},
    }
    return World(tmp_path, room, docs, document)


@pytest.fixture
def west(world: World, seaweed: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> Iterator[TcpProxy]:
    """The way to a third region, that can be cut off."""
    proxy = TcpProxy(seaweed.port)
    for name, value in seaweed.environment(proxy.port).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("STRONGROOM_RETRY_SECONDS", "0")
    monkeypatch.setenv("STRONGROOM_REQUEST_SECONDS", "3")
    bucket = f"west-run-{os.getpid()}"
    seaweed.make_bucket(bucket)
    place = {"url": f"s3://{bucket}/main", "region": "eu-west-1", "replication": {"when": {"interval": "1s"}}}
    world.repositories["west"] = place
    world.repositories["central"]["replicas"] = ["west", "east"]
    yield proxy
    proxy.close()


def restored(room: Strongroom, snapshot: str, folder: Path) -> bytes:
    room.restore(snapshot, f"faiss://{folder}/out.faiss")
    return (folder / "out.faiss").read_bytes()


def test_one_region_is_cut_off_and_comes_back(world: World, west: TcpProxy) -> None:
    metrics, said = world.folder / "strongroom.prom", world.folder / "told"
    tell = {"command": {"command": ["/bin/sh", "-c", f"cat >> {said}; echo >> {said}"]}}
    world.document |= {"metrics_file": str(metrics), "notifications": {"oncall": tell}}
    world.policy.update({"objectives": {"lag": "4s"}, "notifications": ["oncall"]})
    world.policy["schedule"] = [{"kind": "incremental", "interval": "1s"}]
    with served(world.document, world.folder) as told:
        for name in ("west", "east"):
            told.wait_until(lambda name=name: any(name in one["text"] for one in told.of("done", work="replicate")))
        west.refuse(FOREVER)
        west.cut_all()
        build(world.folder / "sources", "docs", 3)
        broken = told.wait_for("broken", objective="replica", repository="west")
        assert "replica west: " in broken["text"]
        first = told.wait_for("broken", objective="lag", repository="west")
        made = {"work": "incremental", "source": "docs"}
        newest = told.wait_for("done", len(told.of("done", **made)) + 1, **made)["snapshot"]
        told.wait_until(lambda: newest in world.replica("east").manifest_ids())  # it holds up neither backups nor the other one
        later = told.wait_for("behind", len(told.of("behind")) + 2)
        assert later["lag_seconds"] > first["achieved"]
        assert later["missing_snapshots"] > 0
        told.wait_until(lambda: f'up{{replica="{world.repositories["west"]["url"]}"}} 0' in metrics.read_text())
        west.heal()
        told.wait_for("recovered", objective="replica", repository="west")
        told.wait_for("recovered", objective="lag", repository="west")
        told.wait_until(lambda: newest in world.replica("west").manifest_ids())
        told.wait_until(lambda: " 0\n" not in metrics.read_text().partition("TYPE strongroom_replica_up gauge\n")[2])
    assert len(told.of("broken", objective="replica")) == 1
    assert {one["repository"] for one in told.of("broken", objective="replica")} == {"west"}
    assert not told.of("failed", work="replicate")
    heard = [one for one in map(json.loads, said.read_text().splitlines()) if one["objective"] == "replica"]
    assert [one["event"] for one in heard] == ["broken", "recovered"]
    for name, region in (("west", "eu-west-1"), ("east", "us-east-1")):
        world.room.copy(world.repositories[name]["url"])  # what came after the last look
        assert region_of(world.replica(name)) == region
        assert verify(world.replica(name), None).passed
    shutil.rmtree(world.folder / "central")
    reading = open_repository(str(world.folder / "central"), password=PASSWORD, reading=Reading())  # it knows the replicas
    assert restored(reading, newest, world.folder / "out") == Path(world.docs.removeprefix("faiss://")).read_bytes()


def test_a_quiet_replica_costs_a_listing_and_leaves_no_trace(world: World) -> None:
    with served(world.document, world.folder) as told:
        told.wait_for("done", work="replicate")
        entries = [one.verb for one in world.room.audit()].count("replicate")
        before = world.objects("east")
        time.sleep(2.5)  # two looks, at least
        assert [one.verb for one in world.room.audit()].count("replicate") == entries == 1
        assert world.objects("east") == before
        assert len(told.of("started", work="replicate")) == 1
        world.room.backup(build(world.folder / "sources", "docs", 7))
        told.wait_for("done", 2, work="replicate")
    assert world.objects("east") > before


def test_a_copy_that_is_stopped_in_the_middle_goes_on_where_it_was(world: World) -> None:
    for number in range(4):
        world.room.backup(build(world.folder / "sources", f"more{number}", 10 + number))
    packs = {one.name: one.size for one in world.room.repository.store.list("packs/")}
    world.repositories["east"]["replication"]["bandwidth"] = f"{max(packs.values())}B"  # about one a second
    file = world.folder / "strongroom.yaml"
    file.write_text(marked.write(world.document))
    process = command_forks.start(["run", "--file", file], environment(), stdout=DEVNULL)
    assert process.stderr is not None
    while not list((world.folder / "east").glob("packs/*/*")):
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 0
    events = [json.loads(line) for line in said.splitlines()]
    assert any(one["event"] == "stopping" and one.get("work") == "replicate" for one in events), events
    there = {name for name in world.objects("east") if name.startswith("packs/")}
    assert 0 < len(there) < len(packs)
    assert {one.name for one in world.replica("east").index.packs.values()} == there  # listed, so not sent again
    assert not world.replica("east").manifest_ids()
    del world.repositories["east"]["replication"]["bandwidth"]
    code, told = once(world.document, world.folder)
    assert code == 0, told.events
    [done] = told.of("done", work="replicate")
    assert (done["text"], done["lag_seconds"]) == ("east: in step", 0)
    assert len(world.replica("east").manifest_ids()) == 6
    assert verify(world.replica("east"), None).passed


def test_a_replica_that_never_was_is_told_and_ends_once_with_its_code(world: World) -> None:
    (world.folder / "east").write_text("not a directory")
    world.policy["schedule"] = [{"kind": "full", "cron": "0 0 1 1 *"}]
    code, told = once(world.document, world.folder)
    assert code == 1
    assert told.of("behind")[0]["exit_code"] == 1
    assert told.of("behind")[0]["missing_snapshots"] == 2
    assert len(told.of("broken", objective="replica")) == 1
    time.sleep(1)  # then it is due again
    code, told = once(world.document, world.folder)
    assert code == 1
    assert not told.of("broken")  # it was said
    (world.folder / "east").unlink()
    time.sleep(1)
    code, told = once(world.document, world.folder)
    assert (code, len(told.of("recovered", repository="east"))) == (0, 1)


def test_a_policy_replicates_its_own_sources_alone(world: World) -> None:
    world.repositories["central"]["replicas"] = []
    world.policy.update({"match": {"source": ["docs"]}, "replicas": ["east"]})
    code, told = once(world.document, world.folder)
    assert code == 0, told.events
    assert told.of("done", work="replicate")[0]["text"] == "east: in step"
    names = {one.id: one.manifest.source for one in world.room.snapshots()}
    assert [names[one] for one in world.replica("east").manifest_ids()] == [world.docs]
