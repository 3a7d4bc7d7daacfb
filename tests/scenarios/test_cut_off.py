"""What becomes of a backup or a restore when the way to the server breaks, stalls, or answers that it can't now? It is whole, or it
fails in one line that says what to do, and nothing is recorded, or put in place, that isn't whole.

A proxy stands before real servers: Chroma, Redis, PostgreSQL; before Qdrant's stand-in, which shows how its client is handled.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
from chroma_server import Server as ChromaServer
from postgres import Postgres
from qdrant_client import models
from qdrant_stand_in import StandIn
from redis_server import Server as RedisServer
from tcp_proxy import TcpProxy

from strongroom.engines import retrying
from strongroom.engines.changes import RowChanges
from strongroom.engines.pgvector.address import Address
from strongroom.engines.pgvector.server import Impatient, connect, failing_as
from strongroom.engines.redis.stage import RedisStage
from strongroom.errors import StrongroomError, Unreachable, Unreadable
from strongroom.journal.stream import read_chain, read_changes, streams
from strongroom.library import Strongroom, init_repository
from strongroom.operations.follow.run import Event, FollowOptions, FollowReport
from strongroom.progress import SILENT, Progress
from strongroom.repository import Argon2Cost

ROWS, DIMENSION = 300, 12
ALLOWED = {1}
"""Exit codes of what is to be run again."""


class World(Protocol):
    """An engine that runs: `port` is that of the source, `target_port` that of the target; URLs are of other ports before them."""

    port: int
    target_port: int
    speaks_http: bool

    def url(self, port: int) -> str: ...

    def target_url(self, port: int) -> str: ...

    def restart(self) -> None:
        """The source dies and comes back, with what it held."""

    def restored(self) -> dict[str, list[float]] | None:
        """The rows that users of the target see, None if they see none."""

    def clear(self) -> None:
        """Nothing is left at the target."""

    def hurry(self, patch: pytest.MonkeyPatch) -> None:
        """Time-outs are of tests."""

    def stop(self) -> None: ...


def vectors() -> Any:
    return np.random.default_rng(3).standard_normal((ROWS, DIMENSION)).astype(np.float32)


def truth() -> dict[str, list[float]]:
    return {f"id-{i}": vector.tolist() for i, vector in enumerate(vectors())}


class Chroma:
    speaks_http = True

    def __init__(self, place: Path, request: pytest.FixtureRequest) -> None:
        self._source, self._target = ChromaServer(place / "source"), ChromaServer(place / "target")
        self.port, self.target_port = self._source.port, self._target.port
        self._source.raw.make("docs")
        documents = [f"text {i}" for i in range(ROWS)]
        self._source.raw.do("add", "docs", ids=list(truth()), embeddings=vectors().tolist(), documents=documents)

    def url(self, port: int) -> str:
        return f"chroma+http://127.0.0.1:{port}"

    target_url = url

    def restart(self) -> None:
        self._source.stop()
        self._source.start()

    def restored(self) -> dict[str, list[float]] | None:
        if "docs" not in self._target.raw.names():
            return None
        return {one: row[0] for one, row in self._target.raw.rows("docs").items()}

    def clear(self) -> None:
        self._target.raw.clear()

    def hurry(self, patch: pytest.MonkeyPatch) -> None:
        patch.setattr("strongroom.engines.chroma.server.connection._SECONDS", 2.0)

    def stop(self) -> None:
        self._source.stop()
        self._target.stop()


class Redis:
    speaks_http = False

    def __init__(self, place: Path, request: pytest.FixtureRequest) -> None:
        self._source, self._target = RedisServer(place / "source", "--appendonly", "yes"), RedisServer(place / "target")
        self.port, self.target_port = self._source.port, self._target.port
        for one, vector in truth().items():
            self._source.client.hset(f"docs:{one}", mapping={"v": np.float32(vector).tobytes(), "t": "text"})
        create = ["FT.CREATE", "docs", "PREFIX", 1, "docs:", "SCHEMA", "v", "VECTOR", "HNSW", 6]
        self._source.client.execute_command(*create, "TYPE", "FLOAT32", "DIM", DIMENSION, "DISTANCE_METRIC", "L2")

    def url(self, port: int) -> str:
        return f"redis://127.0.0.1:{port}"

    target_url = url

    def restart(self) -> None:
        self._source.stop()
        self._source.start()

    def restored(self) -> dict[str, list[float]] | None:
        client = self._target.client
        keys = list(client.scan_iter("docs:*"))
        found = {key.decode().removeprefix("docs:"): np.frombuffer(client.hget(key, "v"), np.float32).tolist() for key in keys}
        return found if found or b"docs" in client.execute_command("FT._LIST") else None

    def write(self, one: str) -> None:
        self._source.client.hset(f"docs:{one}", mapping={"v": bytes(4 * DIMENSION), "t": "late"})

    def remove(self, *names: str) -> None:
        self._source.client.delete(*(f"docs:{one}" for one in names))

    def clear(self) -> None:
        self._target.client.flushall()

    def hurry(self, patch: pytest.MonkeyPatch) -> None:
        patch.setattr("strongroom.engines.redis.server._SECONDS", 1.0)
        patch.setattr("strongroom.engines.redis.replica._SILENCE", 2.0)

    def stop(self) -> None:
        self._source.stop()
        self._target.stop()


class Pgvector:
    speaks_http = False

    def __init__(self, place: Path, request: pytest.FixtureRequest) -> None:
        self._server: Postgres = request.getfixturevalue("postgres")
        self.port = self.target_port = self._server.port
        self._source, self._target = self._server.database(), self._server.database()
        with self._server.connect(self._source) as connection:
            connection.execute(f"CREATE TABLE docs (id text PRIMARY KEY, v vector({DIMENSION}))")
            for one, vector in truth().items():
                connection.execute("INSERT INTO docs VALUES (%s, %s::text::vector)", (one, str(vector)))

    def url(self, port: int) -> str:
        return f"pgvector://postgres@127.0.0.1:{port}/{self._source}"

    def target_url(self, port: int) -> str:
        return f"pgvector://postgres@127.0.0.1:{port}/{self._target}"

    def restart(self) -> None:
        """As for its clients: the server ends all that they have."""
        with self._server.connect("postgres") as connection:
            query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
            connection.execute(query, (self._source,))

    def restored(self) -> dict[str, list[float]] | None:
        with self._server.connect(self._target) as connection:
            if connection.execute("SELECT to_regclass('public.docs')").fetchone() == (None,):
                return None
            found = connection.execute("SELECT id, v::real[] FROM docs").fetchall()
        return {one: np.float32(vector).tolist() for one, vector in found}

    def write(self, one: str) -> None:
        with self._server.connect(self._source) as connection:
            connection.execute("INSERT INTO docs VALUES (%s, %s::text::vector)", (one, str([0.5] * DIMENSION)))

    def remove(self, *names: str) -> None:
        with self._server.connect(self._source) as connection:
            connection.execute("DELETE FROM docs WHERE id = ANY(%s)", (list(names),))

    def clear(self) -> None:
        with self._server.connect(self._target) as connection:
            found = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'strongroom%'").fetchall()
            for (schema,) in found:
                connection.execute(f'DROP SCHEMA "{schema}" CASCADE')
            connection.execute("DROP TABLE IF EXISTS public.docs")

    def hurry(self, patch: pytest.MonkeyPatch) -> None:
        patch.setattr("strongroom.engines.pgvector.server.SILENCE", 2)
        patch.setattr("strongroom.engines.pgvector.server.SECONDS_TO_CONNECT", 2)

    def stop(self) -> None:
        pass


class Qdrant:
    speaks_http = True

    def __init__(self, place: Path, request: pytest.FixtureRequest) -> None:
        self._source, self._target = StandIn(), StandIn()
        self.port, self.target_port = self._source.port, self._target.port
        self._source.local.create_collection("docs", models.VectorParams(size=DIMENSION, distance=models.Distance.EUCLID))
        points = [models.PointStruct(id=i, vector=vector, payload={"key": one}) for i, (one, vector) in enumerate(truth().items())]
        self._source.local.upsert("docs", points)

    def url(self, port: int) -> str:
        return f"qdrant://127.0.0.1:{port}"

    target_url = url

    def restart(self) -> None:
        """There is no server whose death would show anything."""

    def restored(self) -> dict[str, list[float]] | None:
        if not self._target.local.collection_exists("docs"):
            return None
        points, _ = self._target.local.scroll("docs", limit=10 * ROWS, with_vectors=True)
        return {one.payload["key"]: np.float32(one.vector).tolist() for one in points}

    def clear(self) -> None:
        for one in self._target.local.get_collections().collections:
            self._target.local.delete_collection(one.name)

    def hurry(self, patch: pytest.MonkeyPatch) -> None:
        patch.setattr("strongroom.engines.qdrant.server.connection.SECONDS", 2)

    def stop(self) -> None:
        self._source.stop()
        self._target.stop()


@pytest.fixture(
    scope="module",
    params=[Chroma, Redis, Pgvector, pytest.param(Qdrant, marks=pytest.mark.soak)],
    ids=["chroma", "redis", "pgvector", "qdrant"],
)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = request.param(tmp_path_factory.mktemp("world"), request)
    yield made
    made.stop()


@pytest.fixture
def proxy(world: World) -> Iterator[TcpProxy]:
    made = TcpProxy(world.port)
    yield made
    made.close()


@pytest.fixture
def before(world: World) -> Iterator[TcpProxy]:
    """A proxy before the target, where nothing is."""
    world.clear()
    made = TcpProxy(world.target_port)
    yield made
    made.close()


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: World) -> Strongroom:
    monkeypatch.setenv("STRONGROOM_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("STRONGROOM_RETRY_SECONDS", "20")
    world.hurry(monkeypatch)
    return init_repository(str(tmp_path / "repo"), password="x", cost=Argon2Cost(1, 1, 64))


def outcome(do: Callable[[], Any]) -> StrongroomError | None:
    """None if it was done; else the error, which is one line with advice."""
    try:
        do()
    except StrongroomError as error:
        assert "\n" not in str(error), error
        assert error.exit_code in ALLOWED, (error.exit_code, str(error), error.hint)
        assert error.hint, error
        return error
    return None


def backed_up(room: Strongroom, url: str, root: str, progress: Progress = SILENT) -> StrongroomError | None:
    """As `outcome`: a snapshot that is recorded holds all rows."""
    was = len(room.snapshots())
    failed = outcome(lambda: room.backup(url, reread=True, progress=progress))
    found = room.snapshots()
    assert len(found) == was + (failed is None)
    if failed is None:
        assert (found[-1].manifest.root, found[-1].manifest.rows) == (root, ROWS)
    return failed


@pytest.fixture
def root(room: Strongroom, world: World, before: TcpProxy) -> str:
    """That of an undisturbed backup, of which it is known that it holds the truth."""
    made = room.backup(world.url(world.port)).snapshot
    room.restore("latest", world.target_url(world.target_port))
    assert world.restored() == truth()
    world.clear()
    return made.manifest.root


class Interrupting:
    """A `Progress` that does something once, when the first rows were read."""

    def __init__(self, do: Callable[[], Any]) -> None:
        self._do: list[Callable[[], Any]] = [do]

    def begin(self, stage: str, total: int | None, unit: str) -> None:
        pass

    def advance(self, amount: int) -> None:
        if self._do:
            self._do.pop()()


# -- backups -------------------------------------------------------------------------------------------------------------------


PLACES = ((0, 0), (0, 300), (0, 9_000), (1, 0), (2, 150), (4, 0), (7, 0))
"""Where a way is cut: after so many connections, in the next one after so many bytes."""


def test_a_backup_that_is_cut_off(world: World, proxy: TcpProxy, room: Strongroom, root: str) -> None:
    cut = 0
    for place in PLACES:
        harmed = proxy.harmed
        cut_at(proxy, "answered", *place)
        failed = backed_up(room, world.url(proxy.port), root)
        cut += proxy.harmed > harmed
        assert failed is None or proxy.harmed > harmed, failed
        proxy.heal()
    assert cut >= 3
    assert backed_up(room, world.url(proxy.port), root) is None


def cut_at(proxy: TcpProxy, way: str, connections: int, some: int) -> None:
    if connections:
        proxy.cut(**{way: 1 << 40}, connections=connections)
    proxy.cut(**{way: some})


def test_a_backup_from_a_server_that_is_away_for_a_while(
    world: World, proxy: TcpProxy, room: Strongroom, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if world.speaks_http:
        for status, retry_after in ((503, None), (429, 0), (502, None), (429, 1)):
            proxy.answer(status, 3, retry_after=retry_after)
            assert backed_up(room, world.url(proxy.port), root) is None
    proxy.refuse(1000)
    refused = backed_up(room, world.url(proxy.port), root)
    assert refused is not None
    proxy.heal()
    monkeypatch.setenv("STRONGROOM_RETRY_SECONDS", "0.3")
    if world.speaks_http:
        proxy.answer(503, 100_000)
        assert backed_up(room, world.url(proxy.port), root) is not None
        proxy.heal()
    assert backed_up(room, world.url(proxy.port), root) is None


def test_a_backup_from_a_server_that_falls_silent(
    world: World, proxy: TcpProxy, room: Strongroom, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STRONGROOM_RETRY_SECONDS", "0.3")
    proxy.stall(1000)
    assert backed_up(room, world.url(proxy.port), root) is not None
    proxy.heal()
    backed_up(room, world.url(proxy.port), root, Interrupting(proxy.pause))  # small tables are read by then
    proxy.heal()
    assert backed_up(room, world.url(proxy.port), root) is None


def test_a_backup_from_a_server_that_starts_anew(world: World, proxy: TcpProxy, room: Strongroom, root: str) -> None:
    backed_up(room, world.url(proxy.port), root, Interrupting(world.restart))
    assert backed_up(room, world.url(proxy.port), root) is None


# -- restores ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["sent", "answered"])
def test_a_restore_that_is_cut_off(world: World, before: TcpProxy, room: Strongroom, root: str, way: str) -> None:
    url, cut = world.target_url(before.port), 0
    for place in PLACES[::2]:
        harmed = before.harmed
        cut_at(before, way, *place)
        failed = outcome(lambda: room.restore("latest", url))
        cut += before.harmed > harmed
        before.heal()
        if failed is not None:
            assert world.restored() in (None, truth())
            room.restore("latest", url)
        assert world.restored() == truth()
        world.clear()
    assert cut >= 2


def test_a_restore_to_a_server_that_is_busy_for_a_while(world: World, before: TcpProxy, room: Strongroom, root: str) -> None:
    if not world.speaks_http:
        pytest.skip("it has no such answers")
    url = world.target_url(before.port)
    before.answer(503, 3)
    before.answer(429, 2, retry_after=1)
    room.restore("latest", url)
    assert world.restored() == truth()


def test_who_never_answered_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def fail(busy: bool) -> None:
        asked.append(1)
        raise Unreachable("x", busy=busy)

    monkeypatch.setenv("STRONGROOM_RETRY_SECONDS", "0.2")
    with pytest.raises(Unreachable):
        retrying.Retrying().call(lambda: fail(busy=False))
    assert len(asked) == 1
    with pytest.raises(Unreachable):
        retrying.Retrying().call(lambda: fail(busy=True))
    assert len(asked) >= 2


# -- followers -----------------------------------------------------------------------------------------------------------------


def test_a_follower_goes_on_when_its_server_is_back(world: World, proxy: TcpProxy, room: Strongroom) -> None:
    if not isinstance(world, Redis | Pgvector):
        pytest.skip("it has no log that is read over a network")
    stop, told = threading.Event(), queue.Queue[Event]()
    reports: list[FollowReport] = []

    def follow() -> None:
        reports.append(room.follow(world.url(proxy.port), FollowOptions(every=0.6, poll=0.02), stop=stop, tell=told.put))

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        _until(told, "following")
        world.write("before")
        _until(told, "sealed", 1)
        harms = [proxy.cut_all] if isinstance(world, Redis) else [proxy.cut_all, world.restart]  # Redis' own log dies with it
        for number, harm in enumerate(harms):
            harm()
            world.write(f"after-{number}")
            _until(told, "sealed", 1)
    finally:
        stop.set()
        thread.join(120)
    assert [one.gaps for one in reports] == [[]]
    fronts = [front for stream in streams(room.repository) for front in read_chain(room.repository, stream).fronts]
    changes = [change for front in fronts for change in read_changes(room.repository, front) if isinstance(change, RowChanges)]
    written = [one for change in changes for one in change.batch.column("id").to_pylist()]
    assert [one.removeprefix("docs:") for one in written] == ["before", *(f"after-{number}" for number in range(len(harms)))]
    world.remove(*(one.removeprefix("docs:") for one in written))


def _until(told: queue.Queue[Event], what: str, operations: int = 0) -> None:
    for _ in range(20):
        event = told.get(timeout=60)
        if event.what == what and event.operations >= operations:
            return
    raise AssertionError(f"it was never {what}")


@pytest.fixture
def redis(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Redis]:
    made = Redis(tmp_path, request)
    yield made
    made.stop()


@pytest.mark.parametrize("killed", [True, False])
def test_a_transaction_that_wasnt_done_is_not_taken_for_done(
    redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    monkeypatch.setenv("STRONGROOM_STATE_DIR", str(tmp_path / "state"))
    room = init_repository(str(tmp_path / "repo"), password="x", cost=Argon2Cost(1, 1, 64))
    proxy = TcpProxy(redis.target_port)
    url = redis.target_url(proxy.port)
    room.backup(redis.url(redis.port))
    room.restore("latest", url)  # leaves the receipt that the next one leaves too
    redis._target.client.hset("docs:id-7", "t", "changed")
    settle = RedisStage._settle_expiry

    class Killed(BaseException):
        pass

    def broken(stage: RedisStage, *given: Any) -> None:
        settle(stage, *given)
        if killed:
            raise Killed
        proxy.cut_all()

    with monkeypatch.context() as patch, pytest.raises(Killed if killed else Unreachable):
        patch.setattr(RedisStage, "_settle_expiry", broken)
        room.restore("latest", url, overwrite=True)
    assert redis._target.client.hget("docs:id-7", "t") == b"changed"
    room.restore("latest", url, overwrite=True)
    assert redis._target.client.hget("docs:id-7", "t") == b"text"
    assert redis.restored() == truth()
    proxy.close()


def test_a_postgres_that_falls_silent_while_it_is_read(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("strongroom.engines.pgvector.server.SILENCE", 0.5)
    proxy = TcpProxy(postgres.port)
    address = Address.parse(f"pgvector://postgres@127.0.0.1:{proxy.port}/postgres")
    with closing(connect(address, kind=Impatient)) as connection:
        connection.execute("SELECT 1")
        proxy.pause()
        with pytest.raises(Unreachable, match="fell silent"), failing_as(Unreadable, "x"):
            connection.execute("SELECT 1")
    proxy.close()
