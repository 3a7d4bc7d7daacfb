"""Does the daemon practise restores and keep journals as its file says? Real drills; a LanceDB table that is written all the time,
followed through SIGTERM, SIGKILL and a new start."""

from __future__ import annotations

import itertools
import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import command_forks
import lance
import lancedb
import numpy as np
import pyarrow as pa
import pytest
from commands import environment, strongroom
from forks import DEVNULL
from served import build, once, served

from strongroom.library import Strongroom, init_repository
from strongroom.policy import marked
from strongroom.repository import Argon2Cost

PASSWORD = "correct horse"
CHEAP = Argon2Cost(1, 1, 64)
PATIENCE = 60.0


def made(folder: Path, source: str, policy: dict[str, Any]) -> tuple[Strongroom, dict[str, Any]]:
    """A repository, and a policy file about one source."""
    room = init_repository(str(folder / "repo"), password=PASSWORD, cost=CHEAP)
    (folder / "password").write_text(PASSWORD)
    place = {"url": str(folder / "repo"), "password_file": str(folder / "password")}
    policies = {"p": {"repository": "main", **policy}}
    return room, {"version": 1, "sources": {"docs": {"url": source}}, "repositories": {"main": place}, "policies": policies}


# -- drills --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def drilled(tmp_path: Path) -> tuple[Strongroom, dict[str, Any]]:
    daily = {"interval": "1d"}
    policy = {
        "schedule": [{"kind": "full", "interval": "1d"}],
        "drills": [{"when": daily}, {"when": daily, "moment": "random"}],
        "verification": {"checks": [{"level": "objects", "when": daily}]},
        "objectives": {"rto": "5m", "rpo": "2d"},
    }
    return made(tmp_path, build(tmp_path / "sources", "docs", 1, rows=2_000), policy)


def test_drills_wait_for_the_first_snapshot_and_measure_the_objectives(
    drilled: tuple[Strongroom, dict[str, Any]], tmp_path: Path
) -> None:
    room, document = drilled
    with served(document, tmp_path) as told:
        told.wait_for("done", 2, work="drill")
        told.wait_for("recovered", objective="RTO")
    assert not told.of("failed"), told.events
    assert [one["passed"] for one in told.of("done", work="drill")] == [True, True]
    assert all(0 < one["rto"] < 300 for one in told.of("done", work="drill"))
    assert len(room.drill_history(document["sources"]["docs"]["url"]).reports) == 2
    verbs = [one.verb for one in room.audit()]
    assert verbs.count("drill") == 2
    code, again = once(document, tmp_path)
    assert (code, again.events) == (0, [])  # all of it was done today, and the objectives are met


def test_a_drill_that_fails_says_what_and_its_code(drilled: tuple[Strongroom, dict[str, Any]], tmp_path: Path) -> None:
    room, document = drilled
    room.backup(document["sources"]["docs"]["url"])
    del document["policies"]["p"]["verification"]
    for pack in (tmp_path / "repo" / "packs").glob("*/*"):
        pack.unlink()
    code, told = once(document, tmp_path)
    assert code == 4
    assert told.of("failed", work="drill")[0]["exit_code"] == 4
    assert told.of("broken", objective="RTO")[0]["achieved"] is None


# -- journals ------------------------------------------------------------------------------------------------------------------


def rows(first: int, count: int) -> pa.Table:
    vectors = pa.array(np.random.default_rng(first).standard_normal(count * 8).astype(np.float32))
    ids = [f"row {number}" for number in range(first, first + count)]
    return pa.table({"id": ids, "vector": pa.FixedSizeListArray.from_arrays(vectors, 8)})


class Written:
    """A table that is written by a thread all the time, and what it held at some moments."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "db"
        self.table = lancedb.connect(str(self.folder)).create_table("items", rows(0, 300))
        self.moments: list[tuple[float, Counter[str]]] = []
        self._numbers, self._over = itertools.count(1000, 10), threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._write)

    def __enter__(self) -> Written:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _write(self) -> None:
        while not self._over.wait(0.4):
            with self._lock:
                self.table.add(rows(next(self._numbers), 10))

    def mark(self) -> None:
        """Remember what it holds at this moment, in which nothing is written."""
        with self._lock:
            time.sleep(0.02)
            self.moments.append((time.time(), state(self.folder)))
            time.sleep(0.02)


def state(folder: Path) -> Counter[str]:
    return Counter(repr(row) for row in lance.dataset(str(folder / "items.lance")).to_table().to_pylist())


class Daemon:
    """`strongroom run` in a process of its own."""

    def __init__(self, file: Path) -> None:
        self.process = command_forks.start(["run", "--file", file], environment(STRONGROOM_PASSWORD=None), stdout=DEVNULL)
        self.follower = int(self.wait_for("started", work="journal")["text"].rpartition(" ")[2])

    def wait_for(self, what: str, **fields: str) -> dict[str, Any]:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            event: dict[str, Any] = json.loads(line)
            if event["event"] == what and all(event.get(k) == v for k, v in fields.items()):
                return event
        raise AssertionError(f"it ended without {what}")

    def end(self, number: int) -> None:
        self.process.send_signal(number)
        self.process.communicate(timeout=PATIENCE)


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.1)


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_journal_is_followed_without_a_gap_through_stops_and_kills(tmp_path: Path) -> None:
    with Written(tmp_path) as written:
        source = f"lancedb://{written.folder}"
        room, document = made(tmp_path, source, {"schedule": [{"kind": "journal", "every": "600ms"}], "objectives": {"rpo": "1h"}})
        file = tmp_path / "strongroom.yaml"
        file.write_text(marked.write(document))

        def followed() -> bool:
            found = room.journal_status(source)
            return bool(found and found[0].until and datetime.fromisoformat(found[0].until).timestamp() > written.moments[-1][0])

        def part(daemon: Daemon) -> None:
            wait_until(lambda: bool(room.journal_status(source)))  # the first one begins it
            written.mark()
            wait_until(followed)
            assert runs(daemon.follower)

        first = Daemon(file)
        part(first)
        written.mark()
        first.end(signal.SIGTERM)
        assert first.process.returncode == 0
        assert not runs(first.follower)  # it sealed what it had
        written.mark()  # while nobody follows

        second = Daemon(file)
        part(second)
        second.end(signal.SIGKILL)
        wait_until(lambda: not runs(second.follower))  # it seals what it has, and leaves the source to the next one
        written.mark()

        third = Daemon(file)
        part(third)
        third.end(signal.SIGTERM)
    [found] = room.journal_status(source)
    assert (found.holes, found.problems) == ((), ())
    stopped, killed = written.moments[2], written.moments[4]  # while nobody followed
    room.restore("latest", f"lancedb://{tmp_path}/back", at=datetime.fromtimestamp(stopped[0], UTC).isoformat())
    assert state(tmp_path / "back") == stopped[1]
    at = datetime.fromtimestamp(killed[0], UTC).isoformat()
    done = strongroom("restore", "--at", at, f"lancedb://{tmp_path}/last", "--repo", tmp_path / "repo", "--quiet")
    assert done.code == 0, done
    assert state(tmp_path / "last") == killed[1]
