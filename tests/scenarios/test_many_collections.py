"""What does a database of many small collections cost, one for each tenant say? Nothing in it may be done anew for each of them."""

from __future__ import annotations

import cProfile
import os
import pstats
from collections import Counter
from pathlib import Path
from typing import Any

import chroma_writer
import lancedb
import numpy as np
import pyarrow as pa
import pytest
from processes import apart

from strongroom.engines import isolation
from strongroom.library import Strongroom, init_repository
from strongroom.progress import Silent
from strongroom.repository import Argon2Cost

DIMENSION = 8
MANY = int(os.environ.get("MANY_COLLECTIONS", "2000"))


def chroma(place: Path, count: int) -> str:
    rows = {"ids": ["a", "b"], "embeddings": np.eye(2, DIMENSION).tolist(), "documents": ["x", "y"]}
    steps = [[{"do": "create", "name": f"tenant-{n}"}, {"do": "add", "name": f"tenant-{n}", **rows}] for n in range(count)]
    apart(chroma_writer.write, str(place / "db"), [step for two in steps for step in two])
    return f"chroma://{place}/db"


def lance(place: Path, count: int) -> str:
    database = lancedb.connect(place / "db")
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.eye(2, DIMENSION, dtype=np.float32).ravel()), DIMENSION)
    for n in range(count):
        database.create_table(f"tenant-{n}", pa.table({"id": ["a", "b"], "vector": vectors, "document": ["x", f"{n}"]}))
    return f"lancedb://{place}/db"


@pytest.mark.parametrize("make", [chroma, lance])
@pytest.mark.parametrize("count", [30, pytest.param(MANY, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])])
def test_they_are_asked_by_one_child(make: Any, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make(tmp_path, count)
    room = init_repository(str(tmp_path / "repo"), password="x", cost=Argon2Cost(1, 1, 64))
    started = []
    begin = isolation._Child.__init__

    def counted(child: Any, loading: str = "") -> None:
        started.append(loading)
        begin(child, loading)

    monkeypatch.setattr(isolation._Child, "__init__", counted)
    record = room.backup(source).snapshot.manifest
    assert len(record.collections) == count
    assert all(probe.live for one in record.collections for probe in one.probes)
    assert len(started) <= 3, f"{len(started)} processes for {count} collections"
    del started[:]
    report = room.restore("latest", source.replace("/db", "/back"), require_exact=True)
    assert report.plan.rows == 2 * count
    assert len(started) <= 5, f"{len(started)} processes for {count} collections"
    assert {one.name for one in record.collections} == {f"tenant-{n}" for n in range(count)}


class Counting(Silent):
    """The most descriptors that were open whenever something was done."""

    most = 0

    def advance(self, amount: int) -> None:
        self.most = max(self.most, len(list(Path("/proc/self/fd").iterdir())))


def test_no_file_is_held_open_for_each_of_them(tmp_path: Path) -> None:
    """A process may have a few thousand descriptors, and 10,000 collections have 50,000 files."""
    source = chroma(tmp_path, 60)
    room = init_repository(str(tmp_path / "repo"), password="x", cost=Argon2Cost(1, 1, 64))
    counting, before = Counting(), len(list(Path("/proc/self/fd").iterdir()))
    record = room.backup(source, progress=counting).snapshot.manifest
    assert len(record.artifacts) > 200
    assert 0 < counting.most < before + 120, "beside those of what is being stored"


def test_nor_when_some_of_them_changed(tmp_path: Path) -> None:
    """Then what is known of each one's rows is read, and written anew."""
    source = lance(tmp_path, 150)
    room = init_repository(str(tmp_path / "repo"), password="x", cost=Argon2Cost(1, 1, 64))
    before = len(list(Path("/proc/self/fd").iterdir()))
    for again in (False, True):
        counting = Counting()
        if again:
            table = lancedb.connect(tmp_path / "db").open_table("tenant-149")
            table.add(table.to_arrow())
        assert room.backup(source, progress=counting, reread=again).snapshot.manifest.rows == 300 + 2 * again
        assert 0 < counting.most < before + 100


def memory_after(place: str, counts: list[int]) -> list[int]:
    """Bytes that this process has in memory after it has searched so many collections."""
    from strongroom.engines.chroma.client import search

    found, done = [], 0
    for count in counts:
        for number in range(done, count):
            ids, _ = search(
                place, "default_tenant", "default_database", f"tenant-{number}", np.eye(1, DIMENSION, dtype=np.float32), 1
            )
            assert ids == [["a"]]
        done = count
        found.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    return found


def test_indices_of_chroma_are_not_all_in_memory(tmp_path: Path) -> None:
    """It would keep some 4,000 of them."""
    chroma(tmp_path, 130)
    before, after = apart(memory_after, str(tmp_path / "db"), [70, 130])
    assert after - before < 60 * (1 << 20), "a megabyte for each of the last ones"


def calls_of(room: Strongroom, source: str) -> Counter[str]:
    """How often each function is called in this thread, by all that is done with a whole database."""
    profile = cProfile.Profile()
    profile.enable()
    room.backup(source)
    room.backup(source)
    room.restore("latest", source.replace("/db", "/back"), require_exact=True)
    findings = room.verify("latest").findings
    profile.disable()
    assert findings == ()
    found = Counter[str]()
    for (file, _, name), (_, calls, *_) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        found[f"{Path(file).name}: {name}"] += calls
    return found


@pytest.mark.parametrize("make", [chroma, lance])
def test_nothing_is_done_for_each_pair_of_them(make: Any, tmp_path: Path) -> None:
    """Of 10,000 there are fifty million."""
    found = []
    for count in (10, 60):
        place = tmp_path / str(count)
        place.mkdir()
        room = init_repository(str(place / "repo"), password="x", cost=Argon2Cost(1, 1, 64))
        found.append(calls_of(room, make(place, count)))
    few, many = found
    assert any(calls > 5 * few[name] > 0 for name, calls in many.items()), "that of six times as many was seen"
    grown = {name: (few[name], calls) for name, calls in many.items() if calls > 1000 and calls > 10 * few[name]}
    assert not grown
