"""Does a Redis database come back: search indexes, vector sets and every other key, at one moment, whoever writes meanwhile?"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pytest
from redis_server import Server, command
from tls_front import Front

from strongroom.engines.redis import frozen, keyfile
from strongroom.engines.redis.definitions import read_definitions
from strongroom.engines.redis.loading import keys_of
from strongroom.engines.redis.stage import RedisStage
from strongroom.errors import EngineFailed, NotFound, Refused, Unreachable, Unreadable, WrongRequest
from strongroom.library import Strongroom, init_repository
from strongroom.model import Status
from strongroom.operations.follow.run import FollowOptions
from strongroom.operations.restore.plan import Rung
from strongroom.operations.verify import Level
from strongroom.repository import Argon2Cost

DIMENSION, ROWS = 24, 120


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    place = tmp_path_factory.mktemp("redis")
    started = [Server(place / name) for name in ("source", "target")]
    yield started[0], started[1]
    for server in started:
        server.stop()


@pytest.fixture
def source(servers: tuple[Server, Server]) -> Server:
    servers[0].client.flushall()
    return servers[0]


@pytest.fixture
def target(servers: tuple[Server, Server]) -> Server:
    servers[1].client.flushall()
    return servers[1]


@pytest.fixture
def room(tmp_path: Path) -> Strongroom:
    return init_repository(str(tmp_path / "repo"), password="x", cost=Argon2Cost(1, 1, 64))


def vectors(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype(np.float32)


def fill(client: Any) -> None:
    ask = client.execute_command
    vector = ("TYPE", "FLOAT32", "DIM", DIMENSION, "DISTANCE_METRIC")
    hnsw = ("VECTOR", "HNSW", 14, *vector, "L2", "M", 16, "EF_CONSTRUCTION", 100, "EF_RUNTIME", 40, "EPSILON", "0.02")
    others = ("t", "TEXT", "NOSTEM", "SORTABLE", "UNF", "tag", "TAG", "SEPARATOR", ";", "n", "NUMERIC", "SORTABLE")
    ask("FT.CREATE", "docs", "PREFIX", 2, "doc:", "other:", "SCORE", "0.5", "STOPWORDS", 1, "the", "SCHEMA", "v", *hnsw, *others)
    flat = ("VECTOR", "FLAT", 6, *vector, "COSINE")
    ask("FT.CREATE", "papers", "ON", "JSON", "PREFIX", 1, "paper:", "SCHEMA", "$.a.v", "AS", "v", *flat, "$.t", "AS", "t", "TEXT")
    ask("FT.CREATE", "words", "PREFIX", 1, "word:", "SCHEMA", "t", "TEXT")
    for i, one in enumerate(vectors(ROWS)):
        fields = {"v": one.tobytes(), "t": f"text {i}", "n": i, "raw": bytes([255, i]), b"\xfe": "odd"}
        client.hset(b"doc:%d" % i + (b"\xff" if i % 7 == 0 else b""), mapping=fields)
        ask("JSON.SET", f"paper:{i}", "$", json.dumps({"a": {"v": one.tolist(), "k": [1, 2.5, None]}, "t": f"é{i}"}))
        ask("VADD", "set8", "FP32", one.tobytes(), f"e{i}", "Q8", *(["SETATTR", f'{{"i": {i}}}'] if i % 3 else []))
        ask("VADD", "set32", "FP32", one.tobytes(), b"e%d\xff" % i, "NOQUANT")
        ask("VADD", "set1", "FP32", one.tobytes(), f"e{i}", "BIN")
    client.hset("doc:bare", mapping={"t": "no vector"})
    client.hset("word:1", "t", "hello")
    client.set("plain", "x", ex=5000)
    client.rpush("list", *range(300))
    client.zadd("sorted", {"a": 1.5})
    client.sadd("members", "a", "b")
    client.xadd("stream", {"a": 1})
    client.pexpire("doc:5", 10_000_000)


def test_everything_comes_back(source: Server, target: Server, room: Strongroom) -> None:
    fill(source.client)
    record = room.backup(source.url, model="encoder@2").snapshot.manifest
    assert [(one.name, one.count) for one in record.collections] == [
        ("docs", ROWS + 1), ("papers", ROWS), ("set1", ROWS), ("set32", ROWS), ("set8", ROWS),
    ]  # fmt: skip
    assert all(probe.live and probe.recall > 0.3 for one in record.collections for probe in one.probes)
    assert not any(one.probes[0].repeatable for one in record.collections)
    assert {item.item for item in record.ledger if item.status is Status.NOT_CAPTURED} == {"users, functions, configuration"}
    report = room.restore("latest", target.url, require_exact=True)
    assert sum("answers identical" in check for check in report.checks) == 5
    assert target.state() == source.state()
    assert len(target.state()) == 2 * ROWS + 10
    assert read_definitions(target.client) == read_definitions(source.client)
    assert keys_of(target.client, b"strongroom:") == [b"strongroom:receipt"]
    assert room.restore("latest", target.url).already_there
    target.client.hset("doc:1", "t", "changed")
    with pytest.raises(Refused):
        room.restore("latest", target.url)
    target.client.hset("doc:later", mapping={"t": "not in the snapshot"})
    target.client.set("unrelated", "stays")
    room.restore("latest", target.url, overwrite=True)
    assert target.client.get("unrelated") == b"stays"
    target.client.delete("unrelated")
    assert target.state() == source.state()


def test_numbers_of_json_are_what_the_server_holds(source: Server, target: Server, room: Strongroom, tmp_path: Path) -> None:
    """RedisJSON has whole numbers of 64 bits and doubles; attributes of a vector set are the text that was given."""
    ask = source.client.execute_command
    flat = ("VECTOR", "FLAT", 6, "TYPE", "FLOAT32", "DIM", 2, "DISTANCE_METRIC", "L2")
    ask("FT.CREATE", "papers", "ON", "JSON", "PREFIX", 1, "paper:", "SCHEMA", "$.v", "AS", "v", *flat)
    numbers = [
        "0.1234567890123456789",
        "12345678901234567890123",
        "18446744073709551615",
        "1e300",
        "5e-324",
        "100000000000000000.0",
    ]
    for number, one in enumerate(numbers):
        ask("JSON.SET", f"paper:{number}", "$", f'{{"v":[1,{number}],"x":{one},"list":[{one}]}}')
        ask("VADD", "set", "FP32", np.array([1, number], np.float32).tobytes(), str(number), "SETATTR", f'{{"x":{one}}}')
    room.backup(source.url)
    room.restore("latest", f"lancedb://{tmp_path}/there")
    room.restore("latest", target.url)
    assert target.state() == source.state()
    tables = lancedb.connect(tmp_path / "there")
    for number, one in enumerate(numbers):
        key = f"paper:{number}"
        held = json.loads(source.client.execute_command("JSON.GET", key), parse_int=Decimal, parse_float=Decimal)
        (row,) = tables.open_table("papers").search().where(f"id = '{key}'").to_list()
        assert json.loads(row["payload"], parse_int=Decimal, parse_float=Decimal)["list"] == held["list"]
        (element,) = tables.open_table("set").search().where(f"id = '{number}'").to_list()
        assert json.loads(element["payload"], parse_int=Decimal, parse_float=Decimal)["x"] == Decimal(one)


def test_keys_of_any_name(source: Server, target: Server, room: Strongroom) -> None:
    """Also longer than a file's name may be, which a vector set's key becomes."""
    for key in ("", "..", "a/b\0c", "k" * 400, "k" * 401, "\U0001f600" * 60, b"\xff" * 300):
        source.client.execute_command("VADD", key, "VALUES", 2, 1, 2, "e")
    flat = ("VECTOR", "FLAT", 6, "TYPE", "FLOAT32", "DIM", 2, "DISTANCE_METRIC", "L2")
    source.client.execute_command("FT.CREATE", "i" * 300, "PREFIX", 1, "d:", "SCHEMA", "v", *flat)
    source.client.hset("d:1", "v", np.ones(2, np.float32).tobytes())
    assert len(room.backup(source.url).snapshot.manifest.collections) == 8
    room.restore("latest", target.url)
    assert len(target.state()) == 8
    assert target.state() == source.state()
    assert read_definitions(target.client) == read_definitions(source.client)


def test_a_value_that_the_server_does_not_take(
    source: Server, target: Server, room: Strongroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server breaks the connection: a vector set may well be longer than the 512 MB of proto-max-bulk-len."""
    source.client.execute_command("VADD", "set", "VALUES", 2, 1, 2, "e")
    source.client.set("long", np.random.default_rng(1).bytes(2 << 20))
    room.backup(source.url)
    target.client.config_set("proto-max-bulk-len", 1 << 20)
    try:
        with pytest.raises(EngineFailed, match=r"'long' has 2,097,.* the server takes 1,048,576") as refused:
            room.restore("latest", target.url)
        assert "proto-max-bulk-len" in str(refused.value.hint)
    finally:
        target.client.config_set("proto-max-bulk-len", 512 << 20)
    room.restore("latest", target.url)
    assert target.state() == source.state()
    monkeypatch.setattr(keyfile, "_MOST", 1 << 20)
    with pytest.raises(Unreadable, match="'long' has 2,097"):
        room.backup(source.url)


def test_an_index_is_waited_for_as_long_as_it_gets_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen, "_PATIENCE", 0.5)
    began, ends = time.monotonic(), [1.5]

    class Indexing:
        def execute_command(self, *_: Any) -> list[Any]:
            done = min(1.0, (time.monotonic() - began) / 2, ends[0])
            return [b"indexing", b"1" if done < 1 else b"0", b"percent_indexed", b"%f" % done, b"num_docs", b"5"]

    frozen.wait_until_indexed(Indexing(), b"docs")
    assert time.monotonic() - began > 1.5
    ends[0] = 0.9
    with pytest.raises(EngineFailed, match="didn't get on"):
        frozen.wait_until_indexed(Indexing(), b"docs")


def test_verify_restores_into_a_server_of_its_own(source: Server, room: Strongroom, monkeypatch: pytest.MonkeyPatch) -> None:
    for life in (1_500, 15_000, 150_000):  # milliseconds: in the snapshot, and over after it
        source.client.flushall()
        fill(source.client)
        source.client.pexpire("doc:6", life)
        if room.backup(source.url).snapshot.manifest.collections[0].count == ROWS + 1:
            break
    while source.client.exists("doc:6"):
        time.sleep(0.01)
    monkeypatch.setenv("STRONGROOM_REDIS_SERVER", " ".join(command()))
    report = room.verify(level=Level.ANSWERS)
    assert report.findings == ()
    assert report.looked_at["rows"] == 5 * ROWS + 1
    assert report.looked_at["probes"] == 5 * 32
    drilled = room.drill()
    assert (drilled.failures, drilled.passed) == ((), True)
    assert drilled.restart == "the server was stopped and started, and asked by another process"
    monkeypatch.setenv("STRONGROOM_REDIS_SERVER", "/nowhere/redis-server")
    assert "there is no redis-server" in room.verify(level=Level.RESTORE).findings[0].problem


def test_rows_come_back_without_their_files(source: Server, target: Server, room: Strongroom) -> None:
    fill(source.client)
    room.backup(source.url)
    report = room.restore("latest", target.url, rung=Rung.REBUILD)
    assert min(report.recall.values()) > 0.3
    assert target.client.hgetall("doc:1") == source.client.hgetall("doc:1")
    assert target.client.execute_command("PEXPIRETIME", "doc:5") == source.client.execute_command("PEXPIRETIME", "doc:5")
    one, other = (json.loads(server.client.execute_command("JSON.GET", "paper:3")) for server in (source, target))
    assert np.array_equal(np.float32(one["a"].pop("v")), np.float32(other["a"].pop("v")))
    assert one == other
    assert target.client.execute_command("VGETATTR", "set8", "e4") == b'{"i": 4}'


def test_a_collection_may_be_chosen_and_renamed(source: Server, target: Server, room: Strongroom) -> None:
    fill(source.client)
    room.backup(source.url)
    target.client.set("mine", "1")
    room.restore("latest", target.url, collections=["docs", "set8"], renames={"set8": "other", "docs": "copies"})
    assert target.state()[b"other"] == source.state()[b"set8"]
    assert target.client.execute_command("FT._LIST") == [b"copies"]
    assert len(target.state()) == ROWS + 3
    with pytest.raises(NotFound):
        room.restore("latest", target.url, collections=["nothing"])


def test_one_moment_under_writers(source: Server, target: Server, room: Strongroom) -> None:
    """Pairs of keys are written by one MULTI, and a counter with them: no snapshot may hold half of one."""
    fill(source.client)
    stop = threading.Event()
    rounds = [0]

    def write() -> None:
        client, one, drawn = source.another(), vectors(1)[0], np.random.default_rng(9)
        while not stop.is_set():
            rounds[0] += 1
            with client.pipeline(transaction=True) as pipeline:
                pipeline.hset(f"doc:{rounds[0] % 50}", mapping={"v": (one * rounds[0]).tobytes(), "pair": rounds[0]})
                pipeline.hset(f"word:{rounds[0] % 50}", "pair", rounds[0])
                fresh = drawn.standard_normal(DIMENSION).astype(np.float32).tobytes()
                pipeline.execute_command("VADD", "set32", "FP32", fresh, f"round-{rounds[0]}", "NOQUANT")
                pipeline.set("round", rounds[0])
                pipeline.execute()
        client.close()

    writer = threading.Thread(target=write)
    writer.start()
    while rounds[0] < 3:
        time.sleep(0.01)
    try:
        snapshots = [room.backup(source.url).snapshot for _ in range(4)]
    finally:
        stop.set()
        writer.join()
    seen = set()
    for snapshot in snapshots:
        target.client.flushall()
        room.restore(snapshot.id, target.url)
        last = int(target.client.get("round"))
        seen.add(last)
        pairs = [int(target.client.hget(f"doc:{i}", "pair") or 0) for i in range(50)]
        assert pairs == [int(target.client.hget(f"word:{i}", "pair") or 0) for i in range(50)]
        assert max(pairs) == last
        assert target.client.execute_command("VCARD", "set32") == ROWS + last
    assert len(seen) > 1, "the writer wrote meanwhile"
    assert rounds[0] > max(seen)


def test_what_changed_is_all_that_is_stored(source: Server, room: Strongroom) -> None:
    fill(source.client)
    first = room.backup(source.url).snapshot.manifest
    assert room.backup(source.url).snapshot.manifest.root == first.root
    source.client.hset("doc:1", "t", "another text")
    again = room.backup(source.url).snapshot.manifest
    assert again.root != first.root
    assert again.stored_bytes < first.stored_bytes / 3


def test_no_password_in_a_url_and_none_is_shown(tmp_path: Path, room: Strongroom, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(tmp_path / "guarded", "--requirepass", "opensesame")
    try:
        fill(server.client)
        with pytest.raises(WrongRequest, match="password") as refused:
            room.backup(f"redis://:opensesame@127.0.0.1:{server.port}")
        assert "opensesame" not in str(refused.value)
        with pytest.raises(Refused):
            room.backup(server.url)
        monkeypatch.setenv("REDISCLI_AUTH", "wrong")
        with pytest.raises(Refused) as refused:
            room.backup(server.url)
        assert "wrong" not in str(refused.value)
        monkeypatch.setenv("STRONGROOM_REDIS_PASSWORD", "opensesame")
        assert room.backup(server.url).snapshot.manifest.rows == 5 * ROWS + 1
    finally:
        server.stop()


def test_an_index_over_every_key_would_show_the_stage(source: Server, target: Server, room: Strongroom) -> None:
    fill(source.client)
    room.backup(source.url)
    target.client.execute_command("FT.CREATE", "all", "SCHEMA", "t", "TEXT")
    with pytest.raises(Refused, match="takes in every key"):
        room.restore("latest", target.url)
    assert keys_of(target.client, b"") == []


def test_bad_urls_and_dead_servers(room: Strongroom) -> None:
    for url in ("redis:", "redis://host:x", "redis://host/db", "redis://host/0?x=1", "redis://host/-1"):
        with pytest.raises(WrongRequest):
            room.backup(url)
    with pytest.raises(Unreachable):
        room.backup("redis://127.0.0.1:1")


def test_a_restore_goes_on_wherever_it_was_killed(
    source: Server, target: Server, room: Strongroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    import redis

    fill(source.client)
    room.backup(source.url)
    load, execute, discard = RedisStage._load_file, redis.client.Pipeline.execute, RedisStage.discard
    calls = [0]

    def failing_load(self: RedisStage, *arguments: Any) -> None:
        calls[0] += 1
        if calls[0] == 3:
            raise KeyboardInterrupt
        load(self, *arguments)

    def lost_answer(self: Any, *arguments: Any, **options: Any) -> Any:
        final = any(command[0][:2] == ("SET", b"strongroom:receipt") for command in self.command_stack)
        answer = execute(self, *arguments, **options)
        if final:
            raise redis.ConnectionError("the answer is lost")
        return answer

    def no_discard(self: RedisStage) -> None:
        raise KeyboardInterrupt

    for name, broken, error in (("_load_file", failing_load, KeyboardInterrupt), ("discard", no_discard, KeyboardInterrupt)):
        target.client.flushall()
        monkeypatch.setattr(RedisStage, name, broken)
        with pytest.raises(error):
            room.restore("latest", target.url)
        monkeypatch.setattr(RedisStage, "_load_file", load)
        monkeypatch.setattr(RedisStage, "discard", discard)
        room.restore("latest", target.url)
        assert target.state() == source.state()
        assert keys_of(target.client, b"strongroom:") == [b"strongroom:receipt"]
        assert read_definitions(target.client) == read_definitions(source.client)
    target.client.flushall()
    monkeypatch.setattr(redis.client.Pipeline, "execute", lost_answer)
    with pytest.raises(Unreachable):
        room.restore("latest", target.url)
    monkeypatch.setattr(redis.client.Pipeline, "execute", execute)
    report = room.restore("latest", target.url)
    assert report.checks == ("an interrupted cut-over was finished",)
    assert target.state() == source.state()
    assert keys_of(target.client, b"strongroom:") == [b"strongroom:receipt"]


def test_a_server_that_lost_the_stage(source: Server, target: Server, room: Strongroom, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(source.client)
    room.backup(source.url)
    publish = RedisStage.publish

    def killed(self: RedisStage, *_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RedisStage, "publish", killed)
    with pytest.raises(KeyboardInterrupt):
        room.restore("latest", target.url)
    assert len(keys_of(target.client, b"strongroom:")) > 2 * ROWS
    assert target.state() == {}
    target.client.flushall()
    monkeypatch.setattr(RedisStage, "publish", publish)
    room.restore("latest", target.url)
    assert target.state() == source.state()


def test_from_another_engine_and_into_one(source: Server, target: Server, room: Strongroom, tmp_path: Path) -> None:
    import faiss

    index = faiss.IndexHNSWFlat(DIMENSION, 16)
    index.add(vectors(200))
    faiss.write_index(index, str(tmp_path / "things.faiss"))
    room.backup(f"faiss://{tmp_path / 'things.faiss'}")
    report = room.restore("latest", target.url)
    assert report.plan.rung is Rung.CONVERT
    assert min(report.recall.values()) > 0.9
    assert target.client.hget("things:7", "vector" if target.client.hexists("things:7", "vector") else "embedding") is not None
    assert len(target.state()) == 200
    again = room.backup(target.url).snapshot.manifest
    assert [(one.name, one.count) for one in again.collections] == [("things", 200)]
    fill(source.client)
    snapshot = room.backup(source.url).snapshot
    room.restore(snapshot.id, f"faiss://{tmp_path / 'set.faiss'}", collections=["set32"])
    assert faiss.read_index(str(tmp_path / "set.faiss")).ntotal == ROWS


def test_all_of_it_by_tls(source: Server, room: Strongroom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(source.client)
    front = Front(tmp_path, source.port)
    url = f"rediss://127.0.0.1:{front.port}"
    try:
        with pytest.raises(Unreachable):  # nobody vouches for the certificate
            room.backup(url)
        monkeypatch.setenv("SSL_CERT_FILE", str(front.certificate))
        record = room.backup(url).snapshot.manifest
        assert (record.engine, record.rows, record.source) == ("redis", 5 * ROWS + 1, url)
        before = source.state()
        source.client.flushall()
        room.restore("latest", url)
        assert source.state() == before
        report = room.follow(url, FollowOptions(once=True))
        assert report.segments > 0
    finally:
        front.close()
