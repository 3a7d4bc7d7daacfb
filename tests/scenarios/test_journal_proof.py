"""Does every moment come back, whoever is killed? A seeded random workload of concurrent writers on the real engine; writer,
follower and backup are killed at random and started again; each moment is restored and every row compared with what the database
itself said then.

The long runs are soak tests: at least 20,000 operations and 50 moments. RPO and RTO are printed (pytest -s).
"""

from __future__ import annotations

import importlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import command_forks
import pytest
from commands import PASSWORD
from forks import Running
from processes import apart, program
from proof_reader import read

from strongroom.errors import Refused
from strongroom.library import Strongroom, init_repository
from strongroom.repository import Argon2Cost

HERE = Path(__file__).parent
THREADS = 4
DROPPED = re.compile(r"(\S+) was dropped between (\S+) and (\S+): what it held then isn't known")
LONGEST_SECONDS = 3600
CATCHING_UP_SECONDS = 1200
"""A follower that was killed all the time has much to read at the end, and whoever else works on the machine is in its way."""


@dataclass
class Proof:
    """One engine's database, its repository, and who works on both."""

    engine: str
    """Whose proof_<engine>.py it is."""
    place: str
    target: Callable[[int], str]
    """Where a moment is restored to, by its number."""
    folder: Path
    draw: random.Random
    every: int = 0
    processes: dict[str, Running] = field(default_factory=dict)
    killed: dict[str, int] = field(default_factory=dict)
    spared: tuple[str, ...] = ()
    more: int = 0
    """Moments that there are beyond those asked for: in some a table is refused that was dropped unseen."""
    lasting: tuple[str, ...] = ()
    """Collections that are never dropped."""
    noted: int = 0
    """How many moments there were when the writer began: it isn't killed before there is another one."""

    @property
    def source(self) -> str:
        return self.url(self.place)

    def url(self, place: str) -> str:
        return f"{SCHEMES.get(self.engine, self.engine)}://{place}"

    @property
    def moments(self) -> list[dict[str, Any]]:
        return [json.loads(one.read_text()) for one in sorted(self.folder.glob("moment-*.json"))]

    @property
    def operations(self) -> int:
        return sum(int(one.read_text() or 0) for one in self.folder.glob("done-*"))

    def start(self, who: str) -> None:
        self.noted = len(self.moments) if who == "writer" else self.noted
        variables = {**os.environ, "STRONGROOM_REPOSITORY": str(self.folder / "repo"), "STRONGROOM_PASSWORD": PASSWORD}
        follow = ["journal", "follow", self.source, "--every", "2", "--json"]
        commands = {
            "follower": follow,
            "last follower": [*follow, "--once"],
            "backup": ["backup", self.source, "--quiet", "--json"],
        }
        with (self.folder / f"{who}.log").open("ab") as log:
            if who == "writer":
                self.processes[who] = program(*self.writer(), env=variables, stdout=log, stderr=log)
            else:
                self.processes[who] = command_forks.start(commands[who], variables, stdout=log, stderr=log)

    def writer(self) -> list[str]:
        words = [str(HERE / "proof_writer.py"), self.engine, self.place, str(self.folder)]
        return [*words, str(self.draw.getrandbits(30)), str(THREADS), str(self.every)]

    def kill(self, who: str) -> None:
        process = self.processes.pop(who)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            self.killed[who] = self.killed.get(who, 0) + 1
        process.wait(60)

    def disturb(self) -> None:
        """Somebody is killed, and comes back, or not at once."""
        for who in ("writer", "follower"):
            process = self.processes.get(who)
            if process is not None and process.poll() is not None:
                raise AssertionError(f"{who} ended with {process.returncode}: {(self.folder / f'{who}.log').read_text()[-3000:]}")
        for who in [one for one in ("writer", "follower", "backup") if one not in self.processes]:
            if self.draw.random() < 0.5:
                self.start(who)
        backup = self.processes.get("backup")
        if backup is not None and backup.poll() is not None:
            del self.processes["backup"]
        chance = self.draw.random()
        doomed = "writer" if chance < 0.12 else "follower" if chance < 0.3 else "backup" if chance < 0.4 else ""
        early = doomed == "writer" and len(self.moments) == self.noted
        if doomed in self.processes and doomed not in self.spared and not early:
            self.kill(doomed)

    def work(self, operations: int, moments: int) -> None:
        self.start("writer")
        self.start("follower")
        deadline = time.monotonic() + LONGEST_SECONDS
        while not self.enough(operations, moments + self.more):
            assert time.monotonic() < deadline
            time.sleep(self.draw.uniform(0.2, 1.5))
            self.disturb()
        if "writer" not in self.processes:
            self.start("writer")
        (self.folder / "stop").touch()
        assert self.processes.pop("writer").wait(300) == 0, (self.folder / "writer.log").read_text()[-3000:]
        if "follower" in self.processes:
            self.finish("follower", signal.SIGTERM)
        self.start("last follower")  # the signal may have come while the other one began
        assert self.finish("last follower", signal.SIGCONT) == 0, (self.folder / "last follower.log").read_text()[-3000:]
        if "backup" in self.processes:
            self.finish("backup", signal.SIGCONT)

    def enough(self, operations: int, moments: int) -> bool:
        killed = all(self.killed.get(one) for one in ("writer", "follower") if one not in self.spared)
        return killed and self.operations >= operations and len(self.moments) >= moments

    def finish(self, who: str, number: signal.Signals) -> int:
        process = self.processes.pop(who)
        process.send_signal(number)
        return process.wait(CATCHING_UP_SECONDS)

    def was_dropped(self, name: str, since: float, until: float) -> bool:
        """Whether the writer dropped a table between two times."""
        notes = [json.loads(one.read_text()) for one in self.folder.glob("drop-*.json")]
        return any(one == name and began <= until and (ended or until) >= since for one, began, ended in notes)

    def close(self) -> None:
        for process in self.processes.values():
            with suppress(ProcessLookupError):
                process.kill()
            process.wait(60)


def told_by(engine: str, place: str | Path) -> dict[str, dict[str, Any]]:
    return apart(read, engine, str(place))


def differences(expected: dict[str, dict[str, Any]], found: dict[str, dict[str, Any]]) -> list[str]:
    """Rows lost, invented and changed, a few of them."""
    said = [f"collections {sorted(found)} are not {sorted(expected)}"] if found.keys() != expected.keys() else []
    for name in expected.keys() & found.keys():
        then, now = expected[name], found[name]
        said += [f"{name}: {one} is lost" for one in sorted(then.keys() - now.keys())]
        said += [f"{name}: {one} is invented" for one in sorted(now.keys() - then.keys())]
        said += [
            f"{name}: {one} is {now[one]}, was {then[one]}" for one in sorted(then.keys() & now.keys()) if then[one] != now[one]
        ]
    return said[:10]


def proven(proof: Proof, room: Strongroom) -> tuple[list[float], int]:
    """Restore each moment and compare; gives the seconds of each restore of all, and of how many moments a table is refused."""
    taken: list[float] = []
    moments = proof.moments
    for number, moment in enumerate(moments):
        place, expected = proof.target(number), moment["rows"]
        began = time.perf_counter()
        if restored(proof, room, moment["at"], proof.url(place)):
            taken.append(time.perf_counter() - began)
        else:
            expected = {name: rows for name, rows in expected.items() if name in proof.lasting}
        assert differences(expected, told_by(proof.engine, place)) == [], f"moment {number} of {len(moments)}, {moment['at']}"
    return taken, len(moments) - len(taken)


def restored(proof: Proof, room: Strongroom, at: str, target: str) -> bool:
    """Restore a moment; False if only the tables that are never dropped can be, since another one really was at that time."""
    try:
        room.restore("latest", target, at=at)
        return True
    except Refused as refused:
        said = DROPPED.fullmatch(str(refused))
        if said is None:
            raise
        since, moment, until = (datetime.fromisoformat(one).timestamp() for one in (said[2], at, said[3]))
        assert since < moment < until
        assert proof.was_dropped(said[1], since, until), refused
    room.restore("latest", target, at=at, collections=proof.lasting)
    return False


def run(proof: Proof, *, operations: int, moments: int) -> None:
    room = init_repository(str(proof.folder / "repo"), password=PASSWORD, cost=Argon2Cost(1, 1, 64))
    proof.every = max(1, operations // moments)
    try:
        proof.start("follower")
        while not room.snapshots():
            assert proof.processes["follower"].poll() is None, (proof.folder / "follower.log").read_text()
            time.sleep(0.1)
        proof.kill("follower")
        proof.killed.clear()
        proof.work(operations, moments)
        taken, partly = proven(proof, room)
    finally:
        proof.close()
    status = room.journal_status(proof.source, ask=False)[0]
    assert not status.holes, status.holes
    assert not status.problems
    count = len(proof.moments)
    assert len(taken) >= moments
    assert proof.operations >= operations
    print(
        f"\n{proof.engine}: {proof.operations:,} operations, {status.operations:,} in the journal, killed {proof.killed};"
        f" {count} moments restored, all rows equal,"
        f" {partly} of them only of tables that weren't dropped unseen; a restore took {min(taken):.1f} to {max(taken):.1f} s;"
        f" RPO {status.rpo:.1f} s with a follower that is killed"
    )


EMBEDDED = ["chroma", "chroma_purging", "faiss", "hnswlib", "usearch", "lancedb", "qdrant_edge"]
SCHEMES = {"chroma_purging": "chroma", "qdrant_edge": "qdrant-edge"}
LONG = {"operations": 20_000, "moments": 50}
SHORT = {"operations": 800, "moments": 3}


def embedded(engine: str, folder: Path, seed: int) -> Proof:
    """A database in the folder, made and empty."""
    told_by(engine, folder / "db")
    spared = ("writer",) if engine == "chroma_purging" else ()
    target = lambda number: str(folder / "back" / f"moment-{number}")  # noqa: E731
    more = 20 if engine == "lancedb" else 0
    lasting = ("notes", "people")
    return Proof(engine, str(folder / "db"), target, folder, random.Random(seed), spared=spared, more=more, lasting=lasting)


@pytest.fixture
def on_postgres(postgres: Any, tmp_path: Path) -> Proof:
    def place(name: str) -> str:
        return f"postgres@127.0.0.1:{postgres.port}/{name}"

    name = postgres.database()
    importlib.import_module("proof_pgvector").open_database(place(name)).prepare()
    return Proof("pgvector", place(name), lambda _: place(postgres.database()), tmp_path, random.Random(3))


@pytest.fixture
def on_redis(tmp_path: Path) -> Iterator[Proof]:
    from redis_server import Server

    servers = [Server(tmp_path / "server", "--repl-backlog-size", "256mb"), Server(tmp_path / "target")]
    places = [f"127.0.0.1:{server.port}" for server in servers]

    def emptied(_: int) -> str:
        servers[1].client.flushall()
        return places[1]

    importlib.import_module("proof_redis").open_database(places[0]).prepare()
    yield Proof("redis", places[0], emptied, tmp_path, random.Random(3))
    for server in servers:
        server.stop()


@dataclass
class OfServer(Proof):
    """Places are PORT,LOG FOLDER; what is restored has no log."""

    def url(self, place: str) -> str:
        port, _, log = place.partition(",")
        return f"chroma+http://127.0.0.1:{port}/default_tenant/default_database" + (f"?log={log}" if log else "")


@pytest.fixture
def on_chroma_server(tmp_path: Path) -> Iterator[Proof]:
    from chroma_server import Server

    servers = [Server(tmp_path / "server"), Server(tmp_path / "target")]

    def emptied(_: int) -> str:
        servers[1].raw.clear()
        return str(servers[1].port)

    place = f"{servers[0].port},{tmp_path / 'log'}"
    prepared = f"from proof_chroma_server import open_database; open_database({place!r}).captured.close()"
    subprocess.run([sys.executable, "-c", prepared], check=True, cwd=HERE)
    yield OfServer("chroma_server", place, emptied, tmp_path, random.Random(3))
    for server in servers:
        server.stop()


@pytest.mark.parametrize("engine", ["chroma", pytest.param("hnswlib", marks=pytest.mark.soak)])
def test_every_moment_comes_back(engine: str, tmp_path: Path) -> None:
    run(embedded(engine, tmp_path, 3), **SHORT)


def test_every_moment_comes_back_from_pgvector(on_postgres: Proof) -> None:
    run(on_postgres, **SHORT)


@pytest.mark.soak
def test_every_moment_comes_back_from_redis(on_redis: Proof) -> None:
    run(on_redis, **SHORT)


@pytest.mark.soak
@pytest.mark.timeout(3 * LONGEST_SECONDS)
@pytest.mark.parametrize("engine", EMBEDDED)
def test_every_moment_comes_back_of_many(engine: str, tmp_path: Path) -> None:
    run(embedded(engine, tmp_path, 11), **LONG)


@pytest.mark.soak
@pytest.mark.timeout(3 * LONGEST_SECONDS)
def test_every_moment_comes_back_of_many_from_pgvector(on_postgres: Proof) -> None:
    run(on_postgres, **LONG)


@pytest.mark.soak
@pytest.mark.timeout(3 * LONGEST_SECONDS)
def test_every_moment_comes_back_of_many_from_redis(on_redis: Proof) -> None:
    run(on_redis, **LONG)


@pytest.mark.soak
@pytest.mark.timeout(3 * LONGEST_SECONDS)
def test_every_moment_comes_back_of_many_from_a_captured_client(on_chroma_server: Proof) -> None:
    run(on_chroma_server, **LONG)


@pytest.mark.soak
def test_every_moment_comes_back_from_a_captured_client(on_chroma_server: Proof) -> None:
    run(on_chroma_server, **SHORT)
