"""Is what is done through a captured Chroma client known at every moment, whoever dies, whatever answer is lost?"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chroma_server import HOME, Server
from dropping_front import Front
from forks import PIPE, Running
from processes import program
from sampling import part_of
from test_moment_elsewhere import rows_of

import strongroom
from strongroom import engines
from strongroom.engines.chroma.server.captured import log_of
from strongroom.engines.chroma.server.place import Place
from strongroom.engines.oplog.calls import end_of
from strongroom.library import Strongroom, init_repository
from strongroom.operations.follow.run import FollowOptions
from strongroom.progress import SILENT
from strongroom.repository import Argon2Cost

DIMENSION = 8
ONCE = FollowOptions(once=True)
State = dict[str, dict[str, tuple[Any, ...]]]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    place = tmp_path_factory.mktemp("chroma")
    started = [Server(place / name) for name in ("source", "target")]
    yield started[0], started[1]
    for server in started:
        server.stop()


class World:
    """A database of the server, one process that captures it, and a repository."""

    def __init__(self, servers: tuple[Server, Server], number: int, folder: Path) -> None:
        self.source, self.target = servers
        self.where = ("default_tenant", f"world-{number}")
        self.source.raw.ask("POST", "tenants/default_tenant/databases", name=self.where[1])
        self.url = f"{self.source.url}/default_tenant/{self.where[1]}"
        self.back = f"{self.target.url}/default_tenant/{self.where[1]}"
        self.room: Strongroom = init_repository(str(folder / "repo"), password="x", cost=Argon2Cost(1, 1, 64))
        self.folder, self.front = folder, Front(self.source.port)
        self.truth: list[tuple[str, State]] = []
        self._child: Running | None = None

    def begin(self, every: float = 0, *, ship: bool = False) -> None:
        words = [self.url, self.front.port, *self.where, every, *([self.folder / "repo"] if ship else [])]
        captor = Path(__file__).with_name("chroma_captor.py")
        env = os.environ | {"STRONGROOM_PASSWORD": "x"}
        self._child = program(captor, *map(str, words), env=env, stdin=PIPE, stdout=PIPE)
        assert self._child.stdout is not None
        assert self._child.stdout.readline() == "ready\n"

    def tell(self, call: str, on: str | None = None, **more: Any) -> dict[str, Any]:
        """What the captured client answers; {} if it died."""
        assert self._child is not None
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        named = {key: more.pop(key) for key in ("batch", "die") if key in more}
        self._child.stdin.write(json.dumps({"call": call, "on": on, "with": more, **named}) + "\n")
        self._child.stdin.flush()
        line = self._child.stdout.readline()
        if not line:
            self._child.wait()
        return json.loads(line) if line else {}

    def do(self, call: str, on: str | None = None, **more: Any) -> dict[str, Any]:
        """The same, which must succeed; what there is afterwards is noted with the mark of the moment."""
        answer = self.tell(call, on, **more)
        assert "error" not in answer, answer
        self.note()
        return answer

    def note(self) -> None:
        self.truth.append((self.mark(), self.state(self.source)))

    def mark(self) -> str:
        folder = log_of(Place.parse(self.url))
        log = folder.log_id()
        assert log is not None
        return end_of(folder, log).place

    def state(self, server: Server) -> State:
        return {name: server.raw.rows(name, self.where) for name in server.raw.names(self.where)}

    def restored(self, **more: Any) -> State:
        report = self.room.restore("latest", self.back, overwrite=True, **more)
        for name in set(self.target.raw.names(self.where)) - {one.target_name for one in report.plan.collections}:
            if name not in {name for _, state in self.truth for name in state}:
                self.target.raw.drop(name, self.where)
        return self.state(self.target)

    def end(self) -> None:
        self.front.close()
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            for pipe in (self._child.stdin, self._child.stdout):
                assert pipe is not None
                pipe.close()


numbers = itertools.count()


@pytest.fixture
def world(servers: tuple[Server, Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("STRONGROOM_STATE_DIR", str(tmp_path / "state"))
    made = World(servers, next(numbers), tmp_path)
    yield made
    made.end()


def vectors(count: int, seed: int = 1) -> list[list[float]]:
    return np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype(np.float32).tolist()


def some(count: int, seed: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "ids": [f"id-{seed}-{i}" for i in range(count)],
        "embeddings": vectors(count, seed),
        "documents": [f"text {i}" for i in range(count)],
        "metadatas": [{"n": i, "tags": ["a", f"{i}"]} for i in range(count)],
        **more,
    }


def drop_all(world: World) -> None:
    for name in world.target.raw.names(world.where):
        world.target.raw.drop(name, world.where)


def expect(world: World, at: str, state: State) -> None:
    """The server holds just that after a restore to a moment."""
    databases = [one["name"] for one in world.target.raw.ask("GET", "tenants/default_tenant/databases")]
    if world.where[1] in databases:
        drop_all(world)
    world.room.restore("latest", world.back, at=at)
    assert world.state(world.target) == state, at


def test_every_kind_of_change(world: World) -> None:
    world.begin()
    world.do(
        "create_collection", name="docs", metadata={"a": 1}, embedding_function=None, configuration={"hnsw": {"ef_search": 50}}
    )
    world.do("add", "docs", **some(20))
    world.room.follow(world.url, ONCE)
    world.truth.clear()
    world.do("upsert", "docs", **some(10, 2, uris=[f"file:{i}" for i in range(10)]), batch="second")
    world.do("update", "docs", ids=["id-1-0", "nothing"], metadatas=[{"n": None, "more": 1.5}, {"n": 1}])
    world.do("update", "docs", ids=["id-1-1"], documents=["another"], embeddings=vectors(1, 8))
    world.do("upsert", "docs", ids=["id-1-2"], embeddings=vectors(1, 9))
    world.do("add", "docs", ids=["id-1-3"], embeddings=vectors(1, 10))  # is there: Chroma does nothing
    world.do("delete", "docs", ids=["id-1-4", "nothing"])
    world.do("delete", "docs", where={"n": {"$gt": 15}})
    world.do("delete", "docs", where_document={"$contains": "text 7"})
    world.do("get_or_create_collection", name="docs", embedding_function=None)
    world.do("get_or_create_collection", name="more", embedding_function=None)
    world.do("upsert", "more", **some(5, 3, embeddings=[[float(i), 1.0, 2.0] for i in range(5)]))
    world.do("modify", "docs", name="papers", metadata={"b": 2}, configuration={"hnsw": {"ef_search": 70}})
    world.do("add", "papers", **some(3, 4))
    world.do("delete_collection", name="more")
    world.do("create_collection", name="more", embedding_function=None)
    world.do("add", "more", **some(4, 5))
    world.do("delete_collection", name="more")
    for name in ("fork", "reset", "set_database"):
        refused = world.tell(name, "papers" if name == "fork" else None)
        assert refused["error"].startswith("Refused"), refused
    world.room.follow(world.url, ONCE)
    assert len({mark for mark, _ in world.truth}) >= 15
    for mark, state in world.truth:
        expect(world, mark, state)
    described = world.target.raw.describe("papers", world.where)
    assert described["metadata"] == {"b": 2}
    assert described["configuration_json"]["hnsw"]["ef_search"] == 70
    expect(world, "before:second", {"docs": {key: row for key, row in world.truth[0][1]["docs"].items() if "-1-" in key}})


@pytest.mark.soak
def test_into_an_embedded_database(world: World) -> None:
    world.begin()
    world.do("create_collection", name="docs", embedding_function=None)
    world.do("add", "docs", **some(20))
    world.room.follow(world.url, ONCE)
    world.do("upsert", "docs", **some(10, 2))
    world.do("delete", "docs", ids=["id-1-4"])
    world.room.follow(world.url, ONCE)
    world.room.restore("latest", f"chroma://{world.folder}/db", at=world.truth[-1][0])
    real = {one: (row[0], row[1], row[2]) for one, row in world.state(world.source)["docs"].items()}
    assert rows_of(f"chroma://{world.folder}/db") == real


@pytest.mark.parametrize("where", part_of(["call"], ["intent", "call", "changes", "done"]))
def test_killed_in_a_call(world: World, where: str) -> None:
    """Whatever the server did of it is what the journal says afterwards; nothing else is."""
    world.begin()
    world.do("create_collection", name="docs", embedding_function=None)
    world.do("add", "docs", **some(10))
    world.room.follow(world.url, ONCE)
    for call in (
        {"call": "upsert", "on": "docs", **some(5, 2), "batch": "late"},
        {"call": "create_collection", "name": "more", "embedding_function": None},
    ):
        call = dict(call)
        assert world.tell(call.pop("call"), call.pop("on", None), **call, die=where) == {}
        world.room.follow(world.url, ONCE)
        world.begin()
        world.note()
        world.do("upsert", "docs", **some(1, 7))
    assert (len(world.truth[-1][1]["docs"]) == 16) == (where != "intent")
    world.room.follow(world.url, ONCE)
    for mark, state in world.truth[2:]:
        expect(world, mark, state)
    if where != "intent":
        assert "id-2-0" not in _restored_before(world, "late")["docs"]


def _restored_before(world: World, batch: str) -> State:
    drop_all(world)
    world.room.restore("latest", world.back, at=f"before:{batch}")
    return world.state(world.target)


def test_answers_that_are_lost(world: World) -> None:
    """The caller is told that it failed; it was done; and both the next call and a new process know it."""
    world.begin()
    world.do("create_collection", name="docs", embedding_function=None)
    world.do("add", "docs", **some(10))
    world.room.follow(world.url, ONCE)
    for seed, call in enumerate(("upsert", "update", "delete"), 2):
        lost = {"ids": ["id-1-0", "id-1-1"]} if call == "delete" else {"ids": ["id-1-2"], "embeddings": vectors(1, seed)}
        world.front.drop_after(f"/{call} ".encode())
        answer = world.tell(call, "docs", **lost)
        assert "error" in answer, answer
        world.front.dropping.clear()
        world.do("upsert", "docs", **some(1, 20 + seed))
    assert world.front.dropped
    assert "id-1-0" not in world.state(world.source)["docs"], "the deletion was done"
    world.room.follow(world.url, ONCE)
    for mark, state in world.truth[2:]:
        expect(world, mark, state)


def test_a_call_that_goes_on_without_its_caller(world: World) -> None:
    """The connection breaks, and the server does it a second later."""
    world.begin()
    world.do("create_collection", name="docs", embedding_function=None)
    world.do("add", "docs", **some(10))
    world.room.follow(world.url, ONCE)
    world.front.late = 1.0
    world.front.drop_after(b"/update ")
    lost = world.tell("update", "docs", ids=["id-1-2"], embeddings=vectors(1, 50))
    assert "error" in lost, lost
    world.front.dropping.clear()
    world.note()
    assert np.float32(vectors(1, 50)[0]).tolist() == world.truth[-1][1]["docs"]["id-1-2"][0]
    world.room.follow(world.url, ONCE)
    expect(world, *world.truth[-1])


@pytest.mark.soak
def test_a_backup_while_it_writes(world: World) -> None:
    """Read once, and just the state at its mark: the journal leads to the same from an earlier snapshot."""
    world.begin()
    world.do("create_collection", name="docs", embedding_function=None)
    world.do("add", "docs", **some(400))
    world.room.follow(world.url, ONCE)
    first = world.room.snapshots()[0].id
    stop, done = threading.Event(), [0]

    def write() -> None:
        drawn = np.random.default_rng(3)
        while not stop.is_set():
            done[0] += 1
            ids = [f"id-1-{i}" for i in drawn.choice(400, 20, replace=False)]
            if done[0] % 3 == 0:
                world.tell("delete", "docs", ids=ids)
            else:
                world.tell("upsert", "docs", ids=ids, embeddings=vectors(20, done[0]), metadatas=[{"round": done[0]}] * 20)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        snapshots = [world.room.backup(world.url).snapshot for _ in range(4)]
    finally:
        stop.set()
        writer.join()
    world.room.follow(world.url, ONCE)
    marks = [one.manifest.position.value for one in snapshots]
    assert {one.manifest.position.kind for one in snapshots} == {"oplog"}
    assert len(set(marks)) > 1, "it wrote meanwhile"
    for snapshot, mark in zip(snapshots, marks, strict=True):
        drop_all(world) if world.where[1] in _databases(world) else None
        world.room.restore(snapshot.id, world.back)
        read = world.state(world.target)
        for other in snapshots:  # so that the moment is told by the journal alone
            assert other.id != first
        told = _by_journal(world, first, mark)
        assert read == told


def _databases(world: World) -> list[str]:
    return [one["name"] for one in world.target.raw.ask("GET", "tenants/default_tenant/databases")]


def _by_journal(world: World, first: str, mark: str) -> State:
    """The state at a mark, from the first snapshot on: all others are forgotten in a copy of the repository."""
    copy = world.folder / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(world.folder / "repo", copy)
    for path in (copy / "snapshots").iterdir():
        if path.name != first:
            path.unlink()
    room = strongroom.open(str(copy), password="x")
    drop_all(world)
    room.restore("latest", world.back, at=mark)
    return world.state(world.target)


def test_others_write_past_it(world: World) -> None:
    """Noticed by the number of rows: a hole, a snapshot at once, and the journal goes on."""
    world.begin()
    world.do("create_collection", name="docs", embedding_function=None)
    world.do("add", "docs", **some(10))
    world.room.follow(world.url, ONCE)
    world.source.raw.do("delete", "docs", world.where, ids=["id-1-9"])
    time.sleep(1.1)  # it looks once a second
    told = world.do("upsert", "docs", **some(1, 2))["warnings"]
    assert any("others write past its capture" in one for one in told), told
    world.room.follow(world.url, ONCE)
    world.do("upsert", "docs", **some(1, 3))
    world.room.follow(world.url, ONCE)
    expect(world, *world.truth[-1])
    assert any(one.holes for one in world.room.journal_status())
    world.tell("close")
    world.source.raw.do("add", "docs", world.where, ids=["stranger"], embeddings=vectors(1, 30))
    before = world.mark()
    world.begin()
    assert world.mark().partition(":")[2] != before.partition(":")[2], "what happened while nobody captured is found out too"


def test_others_change_collections(world: World) -> None:
    """A collection that somebody replaces: its rows are those of no call."""
    world.begin()
    world.do("create_collection", name="docs", embedding_function=None)
    world.do("add", "docs", **some(10))
    world.room.follow(world.url, ONCE)
    world.source.raw.drop("docs", world.where)
    world.source.raw.make("docs", world.where)
    world.source.raw.do("add", "docs", world.where, **some(4, 60))
    told = world.do("get_or_create_collection", name="docs", embedding_function=None)["warnings"]
    assert any("drop collections past its capture" in one for one in told), told
    world.room.follow(world.url, ONCE)
    world.do("add", "docs", **some(2, 61))
    world.room.follow(world.url, ONCE)
    expect(world, *world.truth[-1])
    assert len(world.state(world.target)["docs"]) == 6


def test_a_batch_is_taken_back(world: World) -> None:
    world.begin()
    world.do("create_collection", name="docs", embedding_function=None)
    world.do("add", "docs", **some(10))
    world.room.follow(world.url, ONCE)
    world.do("upsert", "docs", **some(3, embeddings=vectors(3, 40)), batch="bad")
    world.do("upsert", "docs", **some(2, 5))
    good = world.state(world.source)["docs"]
    world.room.follow(world.url, ONCE)
    world.room.restore("latest", world.back, undo="bad")
    undone = world.state(world.target)["docs"]
    assert undone.keys() == good.keys()
    given = {f"id-1-{i}": np.float32(vector).tolist() for i, vector in enumerate(vectors(10))}
    assert {one: row[0] for one, row in undone.items() if one in given} == given
    assert undone["id-5-1"] == good["id-5-1"]


def test_it_is_shipped_from_the_very_process(world: World) -> None:
    """Nobody else follows: not up to the clean end, and not after the process was killed before it had shipped all."""
    world.begin(ship=True)
    world.do("create_collection", name="docs", embedding_function=None)
    world.do("add", "docs", **some(20))
    wait_until(lambda: bool(world.room.snapshots()))
    world.truth.clear()
    world.do("upsert", "docs", **some(5, 2), batch="second")
    world.do("delete", "docs", ids=["id-1-3"])
    world.tell("upsert", "docs", **some(4, 3), die="done")
    world.begin(ship=True)
    world.do("delete", "docs", ids=["id-2-1"])
    assert world.tell("close") == {"warnings": []}
    for mark, state in world.truth:
        expect(world, mark, state)
    assert {"id-3-0", "id-2-0"} < world.truth[-1][1]["docs"].keys()
    assert "second" in [one.batch for one in world.room.journal_batches(world.url)]


def wait_until(true: Callable[[], bool], seconds: float = 60) -> None:
    late = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < late
        time.sleep(0.1)


def test_cosine_keeps_directions(world: World) -> None:
    world.begin()
    world.do("create_collection", name="docs", embedding_function=None, configuration={"hnsw": {"space": "cosine"}})
    world.do("add", "docs", **some(30))
    world.room.follow(world.url, ONCE)
    world.do("upsert", "docs", **some(10, 2))
    world.room.follow(world.url, ONCE)
    world.room.restore("latest", world.back, at=world.truth[-1][0])
    held, real = world.state(world.target)["docs"], world.state(world.source)["docs"]
    assert held.keys() == real.keys()
    assert all(np.allclose(held[one][0], real[one][0], atol=1e-6) for one in real)


def test_who_can_be_captured(world: World, servers: tuple[Server, Server]) -> None:
    world.begin()
    world.do("create_collection", name="docs", embedding_function=None)
    first = world._child  # a fork ends with who holds it
    with pytest.raises(AssertionError):  # a second process
        World.begin(world)
    assert first is not None
    assert first.poll() is None
    with engines.source_of(f"{world.source.url}/{HOME[0]}/{HOME[1]}").freeze(SILENT) as frozen:
        assert frozen.position.kind == "chroma-print", "nobody captures that one"
