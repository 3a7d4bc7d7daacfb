"""What does a database of many small collections cost, one for each tenant say? Nothing in it may be done anew for each of them."""

from __future__ import annotations

import cProfile
import os
import pstats
import sqlite3
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chroma_writer
import lancedb
import numpy as np
import pyarrow as pa
import pytest
from processes import apart

from strongroom.cli.showing.restores import show_conversions
from strongroom.engines import isolation
from strongroom.engines.chroma.target import ChromaStage
from strongroom.engines.duckdb.target import DuckStage
from strongroom.engines.lancedb.freeze import FrozenLance
from strongroom.engines.staging import write_durably
from strongroom.errors import EngineFailed
from strongroom.library import Strongroom, init_repository
from strongroom.model import Collection, Conversion, Verdict
from strongroom.operations.restore import state
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


def test_little_is_remembered_of_each_while_others_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes through its rows is as large for two of them as for a million, and is given up with the last row."""
    found, check = [], FrozenLance.check

    def noting(frozen: FrozenLance) -> None:
        found.append(tracemalloc.get_traced_memory()[0])
        check(frozen)

    monkeypatch.setattr(FrozenLance, "check", noting)
    tracemalloc.start()
    try:
        for count in (5, 20, 80):  # the first one loads what is needed
            place = tmp_path / str(count)
            place.mkdir()
            source = lance(place, count)
            room = init_repository(str(place / "repo"), password="x", cost=Argon2Cost(1, 1, 64))
            before = tracemalloc.get_traced_memory()[0]
            room.backup(source)
            found[-1] -= before
    finally:
        tracemalloc.stop()
    _, few, many = found
    assert (many - few) / 60 < 60_000


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


def calls_of(work: Callable[[], Any]) -> Counter[str]:
    """How often each function is called in this thread."""
    profile = cProfile.Profile()
    profile.enable()
    work()
    profile.disable()
    found = Counter[str]()
    for (file, _, name), (_, calls, *_) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        found[f"{Path(file).name}: {name}"] += calls
    return found


def all_of(room: Strongroom, source: str) -> None:
    """What is done with a whole database."""
    room.backup(source)
    room.backup(source)
    room.restore("latest", source.replace("/db", "/back"), require_exact=True)
    assert room.verify("latest").findings == ()


def grown(few: Counter[str], many: Counter[str], *, times: int) -> dict[str, tuple[int, int]]:
    """What was done much oftener than `times` as often for so many times as many collections."""
    assert any(calls > 0.8 * times * few[name] > 0 for name, calls in many.items()), "that of so many more was seen"
    return {name: (few[name], calls) for name, calls in many.items() if calls > 1000 and calls > 1.6 * times * few[name]}


@pytest.mark.parametrize("make", [chroma, lance])
def test_nothing_is_done_for_each_pair_of_them(make: Any, tmp_path: Path) -> None:
    """Of 10,000 there are fifty million."""
    found = []
    for count in (10, 60):
        place = tmp_path / str(count)
        place.mkdir()
        room = init_repository(str(place / "repo"), password="x", cost=Argon2Cost(1, 1, 64))
        source = make(place, count)
        found.append(calls_of(lambda room=room, source=source: all_of(room, source)))  # type: ignore[misc]
    assert not grown(*found, times=6)


@pytest.mark.parametrize(("make", "engine"), [(chroma, "lancedb"), (lance, "chroma"), (lance, "duckdb"), (lance, "sqlite-vec")])
def test_nor_on_their_way_into_another_engine(make: Any, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There they are loaded, and their indices built, by a few processes: one takes longer to start than most of them to load."""
    found, started = [], []
    begin = isolation._Child.__init__

    def counted(child: Any, loading: str = "") -> None:
        started.append(loading)
        begin(child, loading)

    for count in (4, 24):
        place = tmp_path / str(count)
        place.mkdir()
        room = init_repository(str(place / "repo"), password="x", cost=Argon2Cost(1, 1, 64))
        source = make(place, count)
        room.backup(source)
        with monkeypatch.context() as patched:
            patched.setattr(isolation._Child, "__init__", counted)
            del started[:]
            target = f"{engine}://{place}/other"
            found.append(calls_of(lambda room=room, target=target: room.restore("latest", target)))  # type: ignore[misc]
        assert len(started) <= 8, f"{len(started)} processes for {count} collections"
        assert room.backup(target).snapshot.manifest.rows == 2 * count
    assert not grown(*found, times=6)


@pytest.mark.parametrize("engine", ["chroma", "duckdb"])
def test_where_a_conversion_stopped_it_goes_on(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was loaded and not noted yet is loaded once more; a scratch of then is of no use."""
    room = init_repository(str(tmp_path / "repo"), password="x", cost=Argon2Cost(1, 1, 64))
    room.backup(lance(tmp_path, 6))
    stage, loaded = {"chroma": ChromaStage, "duckdb": DuckStage}[engine], list[str]()
    load = stage.load

    def stopping(its: Any, collection: Collection, batches: Any) -> None:
        loaded.append(collection.name)
        if len(loaded) == 4:
            raise EngineFailed("no more")
        load(its, collection, batches)

    monkeypatch.setattr(stage, "load", stopping)
    target = f"{engine}://{tmp_path}/other"
    with pytest.raises(EngineFailed, match="no more"):
        room.restore("latest", target)
    room.restore("latest", target)
    assert len(loaded) <= 4 + 6
    assert set(loaded) == {f"tenant-{n}" for n in range(6)}
    assert room.backup(target).snapshot.manifest.rows == 12


class Steps(sqlite3.Connection):
    """Counts what sqlite does, by the thousand instructions of its machine."""

    done = 0

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.set_progress_handler(self.step, 1000)

    @classmethod
    def step(cls) -> int:
        cls.done += 1
        return 0


def test_sqlite_looks_at_nothing_of_chroma_for_each_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the log nor the segments have an index by collection."""
    found, connect = [], sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *given, **named: connect(*given, **{"factory": Steps, **named}))
    for count in (20, 160):
        place = tmp_path / str(count)
        place.mkdir()
        room = init_repository(str(place / "repo"), password="x", cost=Argon2Cost(1, 1, 64))
        source = chroma(place, count)
        Steps.done = 0
        room.backup(source)
        room.backup(source)
        room.restore("latest", f"chroma://{place}/one", collections=["tenant-7"], require_exact=True)
        found.append(Steps.done)
    few, many = found
    assert 0 < few < many < 24 * few, found  # for each pair it would be 64 times as much


def test_what_is_done_is_noted_in_no_more_than_a_few_times_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[int] = []

    def write(path: Path, content: bytes) -> None:
        noted.append(len(content))
        write_durably(path, content)

    monkeypatch.setattr(state, "write_durably", write)
    doing = state.RestoreState(tmp_path)
    with doing.loading():
        for number in range(5000):
            doing.add_loaded(f"tenant-{number}", {"sent": "x" * 64, "core": "x" * 64, "rows": 2})
    assert len(state.RestoreState(tmp_path).loaded) == 5000
    with pytest.raises(KeyboardInterrupt), doing.loading():
        doing.add_loaded("one more", {})
        raise KeyboardInterrupt
    assert "one more" in state.RestoreState(tmp_path).loaded
    assert sum(noted) < 20 * noted[-1]


def test_a_plan_tells_once_what_becomes_of_all_that_are_alike(capsys: pytest.CaptureFixture[str]) -> None:
    def table(name: str, verdict: Verdict) -> list[Conversion]:
        return [Conversion(name, "id id", "text", "text", verdict), Conversion(name, "column a", "int64", "int64", Verdict.KEPT)]

    alike = [one for number in range(3000) for one in table(f"tenant-{number}", Verdict.KEPT)]
    show_conversions([*alike[:20], *table("other", Verdict.WIDENED), *alike[20:]])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert "tenant-0, tenant-1" in lines[0]
    assert "2988 more" in lines[0]
    assert "other" in lines[3]
