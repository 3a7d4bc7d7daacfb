"""Does every moment of a followed Redis come back? Seeded writers, killed followers, lost logs; every row compared."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from forks import DEVNULL, PIPE, Running
from processes import program
from redis_server import PATIENCE_SECONDS, Server

from strongroom.engines.changes import MARK, RowChanges
from strongroom.engines.redis.feed import RedisFeed
from strongroom.errors import NotFound, Refused
from strongroom.journal.stream import read_chain, read_changes, streams
from strongroom.library import Strongroom, init_repository
from strongroom.operations.follow.run import Event, FollowOptions
from strongroom.repository import Argon2Cost

DIMENSION, ROWS = 8, 40
QUICK = FollowOptions(every=0.7, poll=0.02)
Rows = dict[Any, Any]


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[Server, Server]]:
    started = [Server(tmp_path / name) for name in ("source", "target")]
    yield started[0], started[1]
    for server in started:
        server.stop()


@pytest.fixture
def room(tmp_path: Path) -> Strongroom:
    return init_repository(str(tmp_path / "repo"), password="x", cost=Argon2Cost(1, 1, 64))


def rows_of(server: Server) -> Rows:
    """Every row as Redis' own client sees it. Vectors of sets only up to how they are coded anew."""
    client, found = server.client, {}
    for key in client.keys("doc:*"):
        if client.type(key) == b"hash":
            found[key] = client.hgetall(key), client.execute_command("PEXPIRETIME", key)
    for key in client.keys("paper:*"):
        found[key] = json.loads(client.execute_command("JSON.GET", key))
    for key in (b"set8", b"set32"):
        for name in client.execute_command("VRANDMEMBER", key, 10**6) if client.exists(key) else ():
            vector = [round(float(one), 3) for one in client.execute_command("VEMB", key, name)]
            found[key, name] = vector, client.execute_command("VGETATTR", key, name)
    return found


class Writer:
    """Seeded writes of every kind that a follower must understand."""

    def __init__(self, server: Server, seed: int) -> None:
        self.client, self._draw = server.another(), random.Random(seed)
        self._vectors = np.random.default_rng(seed)

    def vector(self) -> np.ndarray:
        return self._vectors.standard_normal(DIMENSION).astype(np.float32)

    def fill(self) -> None:
        ask = self.client.execute_command
        kind = ("TYPE", "FLOAT32", "DIM", DIMENSION, "DISTANCE_METRIC")
        ask("FT.CREATE", "docs", "PREFIX", 1, "doc:", "SCHEMA", "v", "VECTOR", "HNSW", 6, *kind, "L2", "t", "TEXT")
        flat = ("VECTOR", "FLAT", 6, *kind, "COSINE")
        ask("FT.CREATE", "papers", "ON", "JSON", "PREFIX", 1, "paper:", "SCHEMA", "$.v", "AS", "v", *flat)
        for i in range(ROWS):
            self.client.hset(f"doc:{i}", mapping={"v": self.vector().tobytes(), "t": "text"})
            self.paper(i)
            ask("VADD", "set8", "FP32", self.vector().tobytes(), f"e{i}")
            ask("VADD", "set32", "FP32", self.vector().tobytes(), f"e{i}", "NOQUANT")

    def paper(self, i: int) -> None:
        self.client.execute_command(
            "JSON.SET", f"paper:{i}", "$", json.dumps({"v": self.vector().astype(float).tolist(), "n": i / 3})
        )

    def write(self, count: int) -> None:
        for _ in range(count):
            try:
                self._step()
            except redis.ResponseError as error:
                if not any(said in str(error) for said in ("WRONGTYPE", "no such key", "could not perform", "doesn't exist")):
                    raise

    def _step(self) -> None:
        draw, client, ask = self._draw, self.client, self.client.execute_command
        i, vector = draw.randrange(ROWS + 15), self.vector().tobytes()
        key = f"doc:{i}"
        match draw.randrange(18):
            case 0 | 1:
                client.hset(key, mapping={"v": vector, "t": f"n{draw.random()}", "raw": draw.randbytes(4)})
            case 2:
                client.hset(key, "t", f"u{i}")
            case 3:
                client.delete(key, f"doc:{i + 1}")
            case 4:
                client.hincrby(key, "count", 3)
            case 5:
                client.hdel(key, draw.choice(["t", "v"]))
            case 6:
                client.pexpire(key, 10_000_000 + i)
            case 7:
                client.persist(key)
            case 8:
                self.paper(i)
            case 9:
                ask("JSON.NUMINCRBY", f"paper:{i}", "$.n", 5)
            case 10:
                client.delete(f"paper:{i}")
            case 11:
                ask("VADD", "set8", "FP32", vector, f"e{i}", "SETATTR", json.dumps({"a": draw.random()}))
            case 12:
                ask("VREM", "set8", f"e{i}")
            case 13:
                ask("VSETATTR", "set32", f"e{i}", '{"z":1}')
            case 14:
                client.rename(key, f"doc:{draw.randrange(ROWS)}")
            case 15:
                client.set(key, "a string") if draw.random() < 0.2 else client.hset(key, "v", b"too short")
            case 16:
                with client.pipeline(transaction=True) as pipeline:
                    pipeline.delete(key)
                    pipeline.hset(key, mapping={"v": vector, "pair": i})
                    pipeline.hset(f"doc:pair{i}", mapping={"v": vector, "pair": i})
                    pipeline.execute()
            case _:
                client.delete("set32") if draw.random() < 0.03 else ask("VADD", "set32", "FP32", vector, f"e{i}", "NOQUANT")


def wait(until: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not until():
        assert time.monotonic() < deadline, f"still no {what}"
        time.sleep(0.01)


class Follower:
    """A follower in a thread, until it is stopped."""

    def __init__(self, room: Strongroom, url: str, options: FollowOptions = QUICK) -> None:
        self.events: list[Event] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: room.follow(url, options, stop=self._stop, tell=self.events.append))
        self._patch, self._all_before = pytest.MonkeyPatch(), 0.0

    def __enter__(self) -> Follower:
        read = RedisFeed.read

        def noted(feed: RedisFeed) -> Any:
            began = time.monotonic()
            found = read(feed)
            if not found[2]:
                self._all_before = began
            return found

        self._patch.setattr(RedisFeed, "read", noted)
        self._thread.start()
        self.wait_for("following")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._patch.undo()

    def wait_for(self, what: str, count: int = 1) -> None:
        self._wait(lambda: sum(event.what == what for event in list(self.events)) >= count, what)

    def moment(self) -> str:
        """Now, once all that was answered to is received; when it returns, the follower has seen all up to that moment."""
        self._wait_for_read()
        now = datetime.now(UTC).isoformat()
        self._wait_for_read()
        return now

    def _wait_for_read(self) -> None:
        now = time.monotonic()
        self._wait(lambda: self._all_before > now, "rest")

    def _wait(self, until: Callable[[], bool], what: str) -> None:
        def come() -> bool:
            assert self._thread.is_alive(), f"the follower ended: {self.events}"
            return until()

        wait(come, what)


def sealed(room: Strongroom, server: Server) -> str:
    """The moment up to which all that was answered to is in the journal, whoever writes that."""
    place = server.client.info("replication")["master_repl_offset"]

    def come() -> bool:
        heads = [front.head for stream in streams(room.repository) for front in read_chain(room.repository, stream).fronts]
        reached = bool(heads) and int(heads[-1].ends[""].partition(":")[0]) >= place
        return reached and heads[-1].seen >= max(head.latest for head in heads)

    wait(come, "segment up to there")
    return room.journal_status()[0].until


def alike(truth: Any, found: Any) -> bool:
    """Vectors of a set lie within the rounding of a second coding, all else is equal."""
    if isinstance(truth, tuple) and isinstance(truth[0], list):
        return truth[1] == found[1] and np.allclose(truth[0], found[0], atol=0.002)
    return bool(truth == found)


def check(room: Strongroom, target: Server, truths: list[tuple[str, Rows]]) -> None:
    for at, truth in truths:
        target.client.flushall()
        room.restore("latest", target.url, at=at)
        found = rows_of(target)
        assert found.keys() == truth.keys()
        wrong = [key for key in truth if not alike(truth[key], found[key])]
        assert wrong == [], (wrong[0], truth[wrong[0]], found[wrong[0]])


def test_every_moment_under_concurrent_writers(servers: tuple[Server, Server], room: Strongroom) -> None:
    source, target = servers
    writers = [Writer(source, seed) for seed in (1, 2, 3)]
    writers[0].fill()
    truths = []
    with Follower(room, source.url) as follower:
        for _ in range(5):
            threads = [threading.Thread(target=writer.write, args=(120,)) for writer in writers]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            at = follower.moment()
            truths.append((at, rows_of(source)))
    assert len({json.dumps(sorted(map(str, truth.items()))) for _, truth in truths}) == len(truths)
    check(room, target, truths)
    status = room.journal_status()[0]
    assert not status.problems


def test_moments_in_the_middle_of_writing(servers: tuple[Server, Server], room: Strongroom) -> None:
    """Pairs are written by one MULTI, and their number counts up: whatever the time, no half of a pair, and no number left out."""
    source, target = servers
    Writer(source, 4).fill()
    stop, numbers = threading.Event(), [0]

    def write() -> None:
        client, vector = source.another(), np.ones(DIMENSION, np.float32)
        while not stop.is_set():
            number = numbers[-1] + 1
            with client.pipeline(transaction=True) as pipeline:
                pipeline.hset("doc:left", mapping={"v": (vector * number).tobytes(), "n": number})
                pipeline.hset("doc:right", "v", vector.tobytes())
                pipeline.hincrby("doc:right", "n", 1)
                pipeline.hset(f"doc:all{number}", "v", vector.tobytes())
                pipeline.execute()
            numbers.append(number)

    writer = threading.Thread(target=write)
    with Follower(room, source.url) as follower:
        writer.start()
        times = []
        for _ in range(4):
            enough = numbers[-1] + 50
            wait(lambda enough=enough: numbers[-1] >= enough, "writer")
            times.append(follower.moment())
        stop.set()
        writer.join()
    seen = []
    for at in times:
        target.client.flushall()
        room.restore("latest", target.url, at=at)
        left, right = (int(target.client.hget(f"doc:{side}", "n")) for side in ("left", "right"))
        assert left == right
        assert len(target.client.keys("doc:all*")) == left
        seen.append(left)
    assert seen == sorted(set(seen))


FOLLOW = """
import sys, strongroom
from strongroom.operations.follow.run import FollowOptions
room = strongroom.open(sys.argv[1], password="x")
room.follow(sys.argv[2], FollowOptions(every=0.7, poll=0.02), tell=lambda event: print(event.what, flush=True))
"""


def follower_process(room: Strongroom, url: str) -> Running:
    process = program("-c", FOLLOW, Path(room.repository.store.url), url, stdout=PIPE)
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == "following":
            return process
    raise AssertionError("the follower ended")


def test_a_killed_follower_goes_on_where_it_was(servers: tuple[Server, Server], room: Strongroom) -> None:
    """What was not sealed when it was killed is read again, with the time at which it is."""
    source, target = servers
    writer = Writer(source, 5)
    writer.fill()
    kept = []
    for turn in range(3):
        process = follower_process(room, source.url)
        writer.write(150)
        at = sealed(room, source)
        kept.append((at, rows_of(source)))
        writer.write(5)
        time.sleep(random.Random(turn).random() / 2)  # sealed or not
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        writer.write(150)  # nobody follows
    with Follower(room, source.url, FollowOptions(every=60, poll=0.02)) as last:
        at = last.moment()
        kept.append((at, rows_of(source)))
        last.wait_for("sealed", 2)  # to be the first, and as soon as it has caught up
    assert not [event for event in last.events if event.what == "gap"]
    assert len(room.snapshots()) == 1
    check(room, target, kept)


def test_a_backlog_that_is_too_short_is_a_hole(servers: tuple[Server, Server], room: Strongroom) -> None:
    source, target = servers
    source.client.config_set("repl-backlog-size", 20_000)
    writer = Writer(source, 6)
    writer.fill()
    with Follower(room, source.url) as first:
        writer.write(50)
        at = first.moment()
        before = (at, rows_of(source))
    inside = datetime.now(UTC).isoformat()
    for i in range(400):
        source.client.hset("doc:big", "t", os.urandom(500).hex() + str(i))
    with Follower(room, source.url) as follower:
        assert any(event.what == "gap" and "backlog" in event.text for event in follower.events)
        writer.write(50)
        at = follower.moment()
        after = (at, rows_of(source))
    assert len(room.snapshots()) == 2
    check(room, target, [before, after])
    with pytest.raises(Refused, match="hole"):
        room.restore("latest", target.url, at=inside, overwrite=True)


def test_a_flushed_database(servers: tuple[Server, Server], room: Strongroom) -> None:
    source, target = servers
    writer = Writer(source, 7)
    writer.fill()
    with Follower(room, source.url) as follower:
        at = follower.moment()
        before = (at, rows_of(source))
        source.client.flushdb()
        at = follower.moment()
        empty = (at, rows_of(source))
        writer.fill()
        follower.wait_for("snapshot", 2)
        follower.wait_for("following", 2)
        at = follower.moment()
        again = (at, rows_of(source))
    assert empty[1] == {}
    check(room, target, [before, empty, again])


def test_a_vector_set_is_not_taken_for_a_word(servers: tuple[Server, Server], room: Strongroom) -> None:
    """Values may be called as keys are; other keys change all the time; and what is renamed is noticed."""
    source, target = servers
    Writer(source, 15).fill()
    with Follower(room, source.url) as follower:
        source.client.hset("doc:1", "of", "set8")
        source.client.set("default", "set8")
        source.client.sadd("names", "set8", "doc:1")
        source.client.eval("redis.call('set', 'other', 'doc:2') redis.call('hincrby', KEYS[1], 'n', 2)", 1, "doc:2")
        source.client.execute_command("COPY", "doc:3", "doc:copied")
        source.client.pexpire("doc:4", 150)
        wait(lambda: not source.client.exists("doc:4"), "end of doc:4")
        at = follower.moment()
        truth = (at, rows_of(source))
        assert not [event for event in follower.events if event.what == "gap"]
        source.client.rename("set8", "set9")
        follower.wait_for("gap")
    assert b"doc:4" not in truth[1]
    check(room, target, [truth])


def test_an_index_that_is_made_and_dropped(servers: tuple[Server, Server], room: Strongroom) -> None:
    source, target = servers
    writer = Writer(source, 8)
    writer.fill()
    ask = source.client.execute_command
    kind = ("VECTOR", "FLAT", 6, "TYPE", "FLOAT32", "DIM", DIMENSION, "DISTANCE_METRIC", "IP")
    source.client.hset("new:1", mapping={"w": writer.vector().tobytes()})
    with Follower(room, source.url) as follower:
        writer.write(40)
        at = follower.moment()
        before = (at, rows_of(source))
        ask("FT.CREATE", "fresh", "PREFIX", 1, "new:", "SCHEMA", "w", *kind)
        follower.wait_for("gap")
        follower.wait_for("following", 2)
        assert any("an index was created or altered" in event.text and "fresh" in event.text for event in follower.events)
        source.client.hset("new:2", mapping={"w": writer.vector().tobytes()})
        made = follower.moment()
        ask("FT.DROPINDEX", "papers")
        dropped = follower.moment()
    check(room, target, [before])
    assert sorted(target.client.execute_command("FT._LIST")) == [b"docs", b"papers"]
    target.client.flushall()
    room.restore("latest", target.url, at=made)
    assert sorted(target.client.execute_command("FT._LIST")) == [b"docs", b"fresh", b"papers"]
    assert target.client.hgetall("new:2") == source.client.hgetall("new:2")
    target.client.flushall()
    room.restore("latest", target.url, at=dropped)
    assert sorted(target.client.execute_command("FT._LIST")) == [b"docs", b"fresh"]


def test_a_server_that_was_started_anew(servers: tuple[Server, Server], room: Strongroom) -> None:
    """Its log is another one: a hole, and a snapshot that closes it."""
    source, target = servers
    writer = Writer(source, 9)
    writer.fill()
    with Follower(room, source.url) as follower:
        source.client.save()
        writer.write(30)
        at = follower.moment()
        before = (at, rows_of(source))
        follower.wait_for("sealed", 3)
        source.stop()
        source.start()
        follower.wait_for("gap")
        follower.wait_for("following", 2)
        Writer(source, 10).write(30)
        at = follower.moment()
        after = (at, rows_of(source))
    check(room, target, [before, after])


def test_a_connection_that_breaks(servers: tuple[Server, Server], room: Strongroom) -> None:
    source, target = servers
    writer = Writer(source, 11)
    writer.fill()
    with Follower(room, source.url) as follower:
        writer.write(60)
        source.client.execute_command("CLIENT", "KILL", "TYPE", "replica")
        writer.write(60)
        at = follower.moment()
        truth = (at, rows_of(source))
    assert not [event for event in follower.events if event.what == "gap"]
    check(room, target, [truth])


def test_a_vector_set_that_changes_in_silence(servers: tuple[Server, Server], room: Strongroom) -> None:
    """Redis 8.2 doesn't replicate VADD of an element that is there: the journal has it all the same."""
    source, target = servers
    Writer(source, 12).fill()
    with Follower(room, source.url) as follower:
        at = follower.moment()
        before = (at, rows_of(source))
        source.client.execute_command("VADD", "set8", "FP32", np.ones(DIMENSION, np.float32).tobytes(), "e3", "SETATTR", '{"b":1}')
        at = follower.moment()
        after = (at, rows_of(source))
    assert before[1][b"set8", b"e3"] != after[1][b"set8", b"e3"]
    check(room, target, [before, after])


def test_no_position_lies_inside_of_a_transaction(servers: tuple[Server, Server], room: Strongroom) -> None:
    """Pairs that the stream says all of, and pairs that must be read from the server."""
    source, target = servers
    Writer(source, 13).fill()
    vector = np.ones(DIMENSION, np.float32).tobytes()
    for name in ("a", "b", "c", "d"):
        source.client.hset(f"doc:{name}", mapping={"v": vector, "n": 0})
    with Follower(room, source.url):
        for number in range(1, 61):
            with source.client.pipeline(transaction=True) as pipeline:
                if number % 3:
                    pipeline.hset("doc:a", "n", number)
                    pipeline.hset("doc:b", "n", number)
                else:
                    pipeline.hincrby("doc:c", "n", 1)
                    pipeline.hset("doc:d", "n", number // 3)
                pipeline.execute()
            time.sleep(0.004)
    marks = [mark for mark in _marks(room) if mark]
    chosen = random.Random(5).sample(marks, 8)
    seen = set()
    for mark in chosen:
        target.client.flushall()
        room.restore("latest", target.url, at=mark.partition(":")[0])
        a, b, c, d = (int(target.client.hget(f"doc:{name}", "n")) for name in ("a", "b", "c", "d"))
        assert (a, c) == (b, d), mark
        seen.add((a, c))
    assert len(seen) > 4


def _marks(room: Strongroom) -> list[str]:
    """Of every operation on rows."""
    found: dict[str, None] = {}
    for stream in streams(room.repository):
        for front in read_chain(room.repository, stream).fronts:
            for change in read_changes(room.repository, front):
                if isinstance(change, RowChanges):
                    found.update(dict.fromkeys(change.batch.column(MARK).to_pylist()))
    return list(found)


BACKUP = 'import sys, strongroom; strongroom.open(sys.argv[1], password="x").backup(sys.argv[2])'


def prove(servers: tuple[Server, Server], room: Strongroom, seed: int, operations: int, moments: int) -> None:
    """Concurrent writers; followers and backups that are killed at random; every row of every moment."""
    source, target = servers
    source.client.config_set("repl-backlog-size", 256 << 20)
    writers = [Writer(source, seed + number) for number in range(3)]
    writers[0].fill()
    draw, truths, killed, process = random.Random(seed), [], 0, follower_process(room, source.url)
    began = time.monotonic()
    for _ in range(moments):
        count = operations // moments // len(writers) + 1
        threads = [threading.Thread(target=writer.write, args=(count,)) for writer in writers]
        for thread in threads:
            thread.start()
        if draw.random() < 0.5:
            time.sleep(draw.random() * 0.5)
            process.kill()
            process.wait()
            killed += 1
            process = follower_process(room, source.url)
        if draw.random() < 0.3:
            backup = program("-c", BACKUP, Path(room.repository.store.url), source.url, stderr=DEVNULL)
            time.sleep(draw.random() * 2)
            backup.kill() if draw.random() < 0.5 else None
            backup.wait()
        for thread in threads:
            thread.join()
        at = sealed(room, source)
        truths.append((at, rows_of(source)))
    taken = time.monotonic() - began
    process.terminate()
    process.wait()
    with Follower(room, source.url):
        pass
    status = room.journal_status()[0]
    assert not status.holes
    assert not status.problems
    restoring = time.monotonic()
    check(room, target, truths)
    seconds = (time.monotonic() - restoring) / moments
    print(
        f"\nredis: {operations:,} writes in {taken:.0f} s, {status.operations:,} in the journal, {killed} followers killed;"
        f" {moments} moments restored in {seconds:.1f} s each, all rows equal; RPO {status.rpo} s"
    )
    assert killed


@pytest.mark.soak
def test_every_moment_whoever_is_killed(servers: tuple[Server, Server], room: Strongroom) -> None:
    prove(servers, room, 21, 1_000, 6)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_every_moment_of_many(servers: tuple[Server, Server], room: Strongroom) -> None:
    prove(servers, room, 31, 20_000, 50)


@pytest.mark.parametrize("patience", [24, 0])
def test_writers_that_are_faster_than_the_follower(
    servers: tuple[Server, Server], room: Strongroom, patience: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counters that only the server knows, in long pipelines from several clients: no hole, and none is miscounted."""
    source, target = servers
    monkeypatch.setattr("strongroom.engines.redis.feed._UNPAUSED", patience)
    source.client.config_set("repl-backlog-size", 256 << 20)
    Writer(source, 14).fill()
    stop, counted = threading.Event(), [0] * 4

    def count(number: int) -> None:
        client = source.another()
        while not stop.is_set():
            with client.pipeline(transaction=False) as pipeline:
                for i in range(50):
                    pipeline.hincrby(f"doc:{(number + i) % ROWS}", "n", 1)
                pipeline.execute()
            counted[number] += 50

    def enough() -> bool:
        paused = source.client.info("commandstats").get("cmdstat_client|pause", {"calls": 0})["calls"]
        return sum(counted) > 15_000 and (patience or paused)

    writers = [threading.Thread(target=count, args=(number,)) for number in range(4)]
    with Follower(room, source.url) as follower:
        for writer in writers:
            writer.start()
        wait(enough, "such fast writers")
        stop.set()
        for writer in writers:
            writer.join()
        at = follower.moment()
        truth = (at, rows_of(source))
    assert not [event for event in follower.events if event.what == "gap"]
    assert sum(int(row[0].get(b"n", 0)) for key, row in truth[1].items() if key[:4] == b"doc:") == sum(counted)
    check(room, target, [truth])


def test_what_was_when_nobody_followed_is_not_guessed(servers: tuple[Server, Server], room: Strongroom) -> None:
    """The stream has no times: a time in a pause is refused, and so is an offset inside of what had to be read back as one."""
    source, target = servers
    once = FollowOptions(once=True)
    Writer(source, 7).fill()
    room.follow(source.url, once)
    source.client.hset("doc:1", "t", "in the pause")
    at = datetime.now(UTC).isoformat()
    source.client.hincrby("doc:1", "n", 1)
    source.client.hincrby("doc:1", "n", 1)
    inside = source.client.info("replication")["master_repl_offset"] - 10
    room.follow(source.url, once)
    with pytest.raises(Refused, match="this engine's log has no times"):
        room.restore("latest", target.url, at=at)
    with pytest.raises(NotFound, match="no position in the journal"):
        room.restore("latest", target.url, at=str(inside))
    check(room, target, [(room.journal_status()[0].until, rows_of(source))])
