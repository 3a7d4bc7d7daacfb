"""What does a refused backup touch, and what does a cycle cost that has nothing to do?"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pytest
from faulty_store import FaultyStore
from worlds import CHEAP, PASSWORD

from strongroom.errors import Refused
from strongroom.library import init_repository, open_repository
from strongroom.operations.backup.collection_reading import CollectionReading
from strongroom.operations.copy import Selection
from strongroom.operations.follow.run import FollowOptions
from strongroom.operations.replicate import Lag, ReplicateOptions, behind, replicate
from strongroom.repository import open_store
from strongroom.repository.policies import publish
from strongroom.repository.region import name_region


def build(folder: Path, name: str, seed: int) -> str:
    """The URL of a small index with a file of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    index = faiss.IndexFlatL2(16)
    index.add(np.random.default_rng(seed).standard_normal((200, 16)).astype(np.float32))
    faiss.write_index(index, str(folder / f"{name}.faiss"))
    return f"faiss://{folder}/{name}.faiss"


def wait_for(true: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.05)


def test_a_backup_that_residency_forbids_reads_and_stores_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = init_repository(str(tmp_path / "us"), password=PASSWORD, cost=CHEAP)
    people = build(tmp_path / "sources", "people", 2)
    publish(room.repository, {"residency": [{"name": "gdpr", "collection": "people*", "regions": ["eu-*"]}]})
    counting = FaultyStore(room.repository.store)
    room.repository.store = counting
    read: list[str] = []
    monkeypatch.setattr(CollectionReading, "measure", lambda self, block: read.append("rows"))
    with pytest.raises(Refused, match=r"'gdpr' keeps collection 'people'.*nobody has said in which region") as refused:
        room.backup(people)
    assert refused.value.exit_code == 5
    room.repository.store = counting.inner
    name_region(room.repository, "us-east-1")
    room.repository.store = counting
    with pytest.raises(Refused, match=r"'gdpr' keeps collection 'people'.*is in us-east-1"):
        room.backup(people)
    made = {one.name for one in counting.operations if one.verb == "create" and not one.name.startswith("audit/")}
    assert made == {"config"}  # refused: it shows what the store does; the audit log says that it was asked for
    assert read == []
    with pytest.raises(Refused, match="gdpr"):
        room.follow(people)
    assert {one.name for one in counting.operations if one.verb == "create" and not one.name.startswith("audit/")} == {"config"}


def test_the_lag_of_one_that_is_away_counts_snapshots_and_segments_since(tmp_path: Path) -> None:
    room = init_repository(str(tmp_path / "primary"), password=PASSWORD, cost=CHEAP)
    docs, once = build(tmp_path / "sources", "docs", 1), FollowOptions(once=True, scan=True, probes=0)
    room.follow(docs, once)
    away = str(tmp_path / "replica")
    room.replicate([away], ReplicateOptions(once=True))
    url = open_store(away).url
    assert behind(room.repository, url, "away") == Lag(url, 0.0, problem="away")
    build(tmp_path / "sources", "docs", 2)
    room.follow(docs, once)
    build(tmp_path / "sources", "docs", 3)
    room.follow(docs, once)
    lag = behind(room.repository, url, "away")
    sealed = [one for one in room.repository.store.list("journal/") if "/epochs/" not in one.name]
    before = [one for one in open_store(away).list("journal/") if "/epochs/" not in one.name]
    assert lag.segments == len(sealed) - len(before) > 1
    assert 0 < lag.seconds < 60
    assert behind(room.repository, url, "away", Selection(sources=("faiss:///another",))).segments == 0
    made = room.backup(build(tmp_path / "sources", "more", 4))
    assert behind(room.repository, url, "").snapshots == 1
    room.replicate([away], ReplicateOptions(once=True))
    assert behind(room.repository, url, "") == Lag(url, 0.0)
    assert made.snapshot.id in {one.id for one in open_repository(away, password=PASSWORD).snapshots()}


def test_a_quiet_cycle_is_one_listing(tmp_path: Path) -> None:
    room = init_repository(str(tmp_path / "primary"), password=PASSWORD, cost=CHEAP)
    room.backup(build(tmp_path / "sources", "docs", 1))
    target = FaultyStore(open_store(str(tmp_path / "replica")))
    primary = FaultyStore(room.repository.store)
    room.repository.store = primary
    stop, cycles = threading.Event(), []
    running = threading.Thread(
        target=replicate,
        args=(room.repository, [target], ReplicateOptions(every=0.05)),
        kwargs={"stop": stop, "tell": cycles.append},
    )
    running.start()
    try:
        wait_for(lambda: len(cycles) == 1)
        before, asked = len(primary.operations), len(target.operations)
        wait_for(lambda: len(primary.operations) >= before + 5)
        assert {(one.verb, one.name) for one in primary.operations[before:]} == {("list", "")}
        assert len(target.operations) == asked
    finally:
        stop.set()
        running.join()
