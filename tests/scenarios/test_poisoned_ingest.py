"""A bad batch is found after nine days of good writes. A captured FAISS index, its journal, a snapshot a day."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

import faiss
import numpy as np
import pytest
from commands import PASSWORD, Ended, strongroom
from runbooks import runbook

from strongroom import capture
from strongroom.clock import Clock
from strongroom.engines.oplog import writer
from strongroom.library import init_repository
from strongroom.operations.follow.run import FollowOptions
from strongroom.repository import Argon2Cost

DIMENSION, DAY = 8, 86_400
POISONED = 2
"""The day on which the bad batch comes; it is found nine days later."""
Rows = dict[int, bytes]


def vector_of(one: int, version: int = 0) -> np.ndarray:
    return np.random.default_rng([one, version]).standard_normal(DIMENSION).astype(np.float32)


@dataclass
class Days:
    """Eleven of them. `good` is what good writes alone made of the index, `before` that of the moment before the batch."""

    folder: Path
    repo: Path | None = None
    today: int = 0
    end: float = field(default_factory=time.time)
    good: Rows = field(default_factory=dict)
    before: Rows = field(default_factory=dict)

    @property
    def source(self) -> str:
        return f"faiss://{self.folder}/srv/notes.faiss"

    @property
    def env(self) -> dict[str, str | None]:
        return {"STRONGROOM_REPOSITORY": str(self.repo or self.folder / "repo")}

    def now(self) -> float:
        """Day 11 is the real one."""
        return self.end - (POISONED + 9 - self.today) * DAY

    def run(self, *arguments: str | Path) -> Ended:
        return strongroom(*arguments, env=self.env)

    def live(self) -> None:
        room = init_repository(str(self.folder / "repo"), password=PASSWORD, cost=Argon2Cost(1, 1, 64), clock=Clock(self.now))
        path = self.folder / "srv" / "notes.faiss"
        path.parent.mkdir()
        with capture(faiss.IndexIDMap2(faiss.IndexFlatL2(DIMENSION)), None, self.source) as index:
            for day in range(POISONED + 9):
                self.today = day
                with index.batch(f"day-{day}"):
                    self._good_writes(index, day)
                if day == POISONED:
                    self.before = dict(self.good)
                    with index.batch("crawl-7"):
                        bad_writes(index)
                    with index.batch("repair"):  # somebody noticed one of them that very day
                        self._put(index, [1], 99)
                index.save()
                room.follow(self.source, FollowOptions(once=True, batch_key="batch"))
                room.backup(self.source)
                self._stamp()
        self.today = POISONED + 9

    def _stamp(self) -> None:
        """The store got today what it got today."""
        for path in (self.folder / "repo" / "snapshots").iterdir():
            if path.stat().st_mtime > self.end - DAY / 2:
                os.utime(path, (self.now(), self.now()))

    def _good_writes(self, index: object, day: int) -> None:
        self._put(index, range(100 * day, 100 * day + 40), 0)
        if day > POISONED:  # some of what the batch had spoilt is written anew, some of it deleted
            self._put(index, [day], day)
            index.remove_ids(np.array([20 + day]))
            self.good.pop(20 + day)

    def _put(self, index: object, ids: object, version: int) -> None:
        numbers = np.array(list(ids))
        old = np.array([one for one in numbers if int(one) in self.good], np.int64)
        if len(old):
            index.remove_ids(old)
        vectors = np.stack([vector_of(int(one), version) for one in numbers])
        index.add_with_ids(vectors, numbers)
        self.good |= {int(one): row.tobytes() for one, row in zip(numbers, vectors, strict=True)}


def bad_writes(index: object) -> None:
    """Spoils rows 0 to 39 and adds 60 of its own."""
    index.remove_ids(np.arange(40))
    spoilt = np.concatenate([np.arange(40), np.arange(5_000, 5_060)])
    index.add_with_ids(np.zeros((100, DIMENSION), np.float32) + np.arange(100, dtype=np.float32)[:, None], spoilt)


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Days:
    """All of it, once: tests that prune have a copy of the repository."""
    made = Days(tmp_path_factory.mktemp("days"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "_clock", lambda: int(made.now() * 1e9))
        patch.setenv("STRONGROOM_STATE_DIR", str(made.folder / "state"))
        made.live()
    return made


@pytest.fixture
def days(lived: Days, tmp_path: Path) -> Days:
    shutil.copytree(lived.folder / "repo", tmp_path / "repo")
    return replace(lived, repo=tmp_path / "repo")


def rows_of(path: Path) -> Rows:
    index = faiss.read_index(str(path))
    ids = faiss.vector_to_array(index.id_map).tolist()
    vectors = index.index.reconstruct_n(0, index.ntotal)
    return {one: row.tobytes() for one, row in zip(ids, vectors, strict=True)}


def answers(path: Path) -> list[list[int]]:
    queries = np.stack([vector_of(one) for one in (3, 17, 25, 105, 930)])
    return faiss.read_index(str(path)).search(queries, 5)[1].tolist()


def test_the_batch_is_taken_back_and_nine_days_of_good_writes_stay(days: Days, tmp_path: Path) -> None:
    live = rows_of(days.folder / "srv" / "notes.faiss")
    spoilt = {one for one in live if live[one] != days.good.get(one)}
    assert len(spoilt) > 80

    names = {"SOURCE": days.source, "BATCH": "crawl-7", "TARGET": f"faiss://{tmp_path}/back/n.faiss"}
    with runbook("a poisoned ingest is found late", days.env, **names, BEFORE=f"faiss://{tmp_path}/before/n.faiss") as play:
        listed = play.step().out
        assert "crawl-7" in listed
        told = play.step().out
        assert "takes back batch 'crawl-7'" in told
        assert not (tmp_path / "back").exists()
        play.step()
        back, before = tmp_path / "back" / "n.faiss", tmp_path / "before" / "n.faiss"
        assert rows_of(back) == days.good
        assert rows_of(before) == days.before
        (held,) = days.run("hold", "list", "--json").done().json

        # until it is released, no retention takes away what the undo needs
        assert days.run("forget", "--keep-last", "1", "--json").done().json["snapshots"][-1]["keep"]
        days.run("prune", "-q", "--grace", "0").done()
        days.run("restore", "--undo", "crawl-7", f"faiss://{tmp_path}/again/n.faiss", "-q").done()
        assert rows_of(tmp_path / "again" / "n.faiss") == days.good
        play.step(HOLD=held["id"])

    clean = faiss.IndexIDMap2(faiss.IndexFlatL2(DIMENSION))
    clean.add_with_ids(np.stack([np.frombuffer(row, np.float32) for row in days.good.values()]), np.array(list(days.good)))
    faiss.write_index(clean, str(tmp_path / "clean.faiss"))
    assert answers(back) == answers(tmp_path / "clean.faiss")
    assert answers(back) != answers(days.folder / "srv" / "notes.faiss")


def test_retention_was_quicker(days: Days, tmp_path: Path) -> None:
    """Then it says so, and gives nothing that only looks like it."""
    days.run("forget", "--keep-daily", "5", "--a-day", "9", "--json").done()
    days.run("prune", "-q", "--grace", "0").done()
    oldest = datetime.fromisoformat(days.run("snapshots", "--json").done().json[0]["created"])
    assert oldest.timestamp() > days.end - 7 * DAY
    target = f"faiss://{tmp_path}/back/n.faiss"
    days.run("restore", "--undo", "crawl-7", target, "-q").failed(5, "belongs to batch 'crawl-7'")
    days.run("restore", "--at", "before:crawl-7", target, "-q").failed(1, "belongs to batch 'crawl-7'")
    days.run("restore", "--at", (oldest - timedelta(days=3)).isoformat(), target, "-q").failed(5)
    assert not (tmp_path / "back").exists()
    days.run("restore", "--at", (oldest + timedelta(hours=30)).isoformat(), target, "-q").done()  # what it still covers goes on
