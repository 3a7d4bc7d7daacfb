"""Is each scan of a source without a log a moment that can be restored? Real FAISS and hnswlib files that are replaced by atomic
saves, and a Chroma database; every row of every moment is compared with what was written."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import chroma_writer
import faiss
import hnswlib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import PASSWORD, Ended, strongroom
from processes import apart
from test_moment_elsewhere import rows_of
from test_undo import World, names, same, tell, world  # noqa: F401 - a fixture

from strongroom import engines
from strongroom.engines.changes import Act, RowChanges
from strongroom.errors import Refused
from strongroom.journal.stream import read_chain, read_changes, stream_of
from strongroom.library import Strongroom, init_repository, open_repository
from strongroom.operations.follow import scan
from strongroom.operations.follow.run import Event, FollowOptions
from strongroom.operations.restore.plan import Rung
from strongroom.progress import SILENT
from strongroom.repository import Argon2Cost

DIMENSION = 12
Vectors = dict[int, np.ndarray]


def save_faiss(path: Path, rows: Vectors) -> None:
    index = faiss.IndexIDMap2(faiss.IndexHNSWFlat(DIMENSION, 8))
    index.add_with_ids(np.array(list(rows.values())), np.array(list(rows), np.int64))
    faiss.write_index(index, f"{path}.new")
    Path(f"{path}.new").rename(path)


def read_faiss(path: Path) -> Vectors:
    index = faiss.read_index(str(path))
    ids = faiss.vector_to_array(index.id_map)
    inner = faiss.downcast_index(index.index)
    return dict(zip(ids.tolist(), inner.reconstruct_n(0, index.ntotal), strict=True))


def save_hnswlib(path: Path, rows: Vectors) -> None:
    index = hnswlib.Index("l2", DIMENSION)
    index.init_index(len(rows) + 10, M=8, ef_construction=40)
    index.add_items(np.array(list(rows.values())), np.array(list(rows)))
    index.save_index(f"{path}.new")
    Path(f"{path}.new").rename(path)


def read_hnswlib(path: Path) -> Vectors:
    index = hnswlib.Index("l2", DIMENSION)
    index.load_index(str(path))
    ids = index.get_ids_list()
    return dict(zip(ids, np.array(index.get_items(ids), np.float32), strict=True))


@dataclass
class Files:
    """An index file of 300 rows, which is written anew as a whole, and its journal of scans."""

    folder: Path
    scheme: str
    save: Callable[[Path, Vectors], None]
    read: Callable[[Path], Vectors]
    rows: Vectors = field(default_factory=dict)
    draw: np.random.Generator = field(default_factory=lambda: np.random.default_rng(3))
    moments: list[tuple[str, Vectors]] = field(default_factory=list)

    def __post_init__(self) -> None:
        init_repository(str(self.folder / "repo"), password=PASSWORD, cost=Argon2Cost(1, 1, 64))
        self.put(range(300))

    @property
    def index(self) -> Path:
        return self.folder / "index.bin"

    @property
    def source(self) -> str:
        return f"{self.scheme}://{self.index}"

    @property
    def room(self) -> Strongroom:
        return open_repository(str(self.folder / "repo"), password=PASSWORD)

    def put(self, ids: range, gone: range = range(0)) -> None:
        for one in gone:
            del self.rows[one]
        self.rows |= {one: self.draw.standard_normal(DIMENSION).astype(np.float32) for one in ids}
        self.save(self.index, self.rows)

    def scan(self) -> list[Event]:
        told: list[Event] = []
        self.room.follow(self.source, FollowOptions(every=5, once=True, scan=True), tell=told.append)
        self.moments.append((self.until, dict(self.rows)))
        return told

    @property
    def until(self) -> str:
        return self.room.journal_status()[0].until

    def check(self, at: str, rows: Vectors) -> None:
        target = self.folder / "back" / "index.bin"
        report = self.room.restore("latest", f"{self.scheme}://{target}", at=at, overwrite=True)
        assert report.checks
        found = self.read(target)
        assert found.keys() == rows.keys()
        assert all(np.array_equal(found[one], vector) for one, vector in rows.items())


@pytest.fixture(params=["faiss", "hnswlib"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    if request.param == "faiss":
        return Files(tmp_path, "faiss", save_faiss, read_faiss)
    return Files(tmp_path, "hnswlib", save_hnswlib, read_hnswlib)


@pytest.fixture
def one(tmp_path: Path) -> Files:
    return Files(tmp_path, "faiss", save_faiss, read_faiss)


def operations(files: Files) -> list[tuple[str, int]]:
    """What the journal holds of rows: acts and how many rows, a change each."""
    repository = files.room.repository
    found = []
    for front in read_chain(repository, stream_of(repository, files.source)).fronts:
        for change in read_changes(repository, front):
            if isinstance(change, RowChanges):
                found.append((Act(change.batch.column(0)[0].as_py()).name, len(change)))
    return found


def test_each_scan_is_a_moment(files: Files) -> None:
    files.scan()
    files.put(range(300, 350), gone=range(20))
    files.scan()
    files.put(range(100, 130))
    between = files.until
    time.sleep(0.01)
    files.scan()
    assert operations(files)[-3:] == [("PUT", 50), ("DELETE", 20), ("PUT", 30)] or files.scheme == "hnswlib"
    assert [count for act, count in operations(files) if act == "PUT"] == [50, 30]
    assert [count for act, count in operations(files) if act == "DELETE"] == [20]
    for at, rows in files.moments:
        files.check(at, rows)
    files.check(between, files.moments[1][1])
    plan = files.room.plan_restore("latest", f"{files.scheme}://{files.folder}/x/y.bin", at=between)
    assert plan.rung is Rung.REBUILD
    assert plan.moment is not None
    assert plan.moment.scanned
    assert files.room.journal_status(ask=True)[0].kind == "scan"
    assert len(files.room.snapshots()) == 1
    with pytest.raises(Refused, match="journal ends"):
        files.room.plan_restore("latest", f"{files.scheme}://{files.folder}/x/y.bin", at="2090-01-01")


def test_what_this_machine_knew_can_be_lost_or_damaged(one: Files, own_state: Path) -> None:
    """Another compare, and nothing else: neither a change lost nor one invented."""
    one.scan()
    one.put(range(300, 350), gone=range(20))
    one.scan()
    (cache,) = own_state.glob("scans/*/*.sqlite")
    before = operations(one)
    cache.unlink()
    one.scan()
    assert operations(one) == before
    one.put(range(40, 50), gone=range(20, 40))
    cache.write_bytes(b"no database at all" * 500)
    one.scan()
    assert operations(one)[len(before) :] == [("PUT", 10), ("DELETE", 20)]
    for at, rows in one.moments:
        one.check(at, rows)


def test_a_segment_that_was_stored_by_a_killed_follower(one: Files, own_state: Path) -> None:
    """Its notes are of before: the journal counts."""
    one.scan()
    (cache,) = own_state.glob("scans/*/*.sqlite")
    old = cache.read_bytes()
    one.put(range(10))
    one.scan()
    cache.write_bytes(old)
    one.put(range(10, 20))
    one.scan()
    assert operations(one)[-2:] == [("PUT", 10), ("PUT", 10)]
    for at, rows in one.moments:
        one.check(at, rows)


def test_a_follower_that_dies_before_its_segment_is_stored(one: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the scan found is found again."""
    one.scan()
    one.put(range(10))
    with monkeypatch.context() as patch:
        patch.setattr("strongroom.journal.sealing.Sealer.seal", _die)
        with pytest.raises(KeyboardInterrupt):
            one.room.follow(one.source, FollowOptions(every=5, once=True, scan=True))
    one.scan()
    assert operations(one)[-1] == ("PUT", 10)
    one.check(*one.moments[-1])


def _die(*_: object) -> None:
    raise KeyboardInterrupt


def test_too_much_for_a_journal_is_a_snapshot(one: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    one.scan()
    monkeypatch.setattr(scan, "MOST_BYTES", 10_000)
    one.put(range(1000, 2000))
    told = one.scan()
    assert any(event.what == "gap" and "a snapshot keeps them" in event.text for event in told)
    assert len(one.room.snapshots()) == 2
    one.put(range(5))
    one.scan()
    for at, rows in one.moments:
        one.check(at, rows)


def test_it_scans_until_it_is_stopped(one: Files) -> None:
    stop, told = threading.Event(), list[Event]()
    options = FollowOptions(every=0.2, poll=0.02, scan=True)
    room = one.room
    thread = threading.Thread(target=lambda: room.follow(one.source, options, stop=stop, tell=told.append))
    thread.start()
    try:
        for step in range(5):
            one.put(range(10 * step, 10 * step + 10))
            if step == 0:  # that is what the first scan finds
                while not any(event.what == "following" for event in told):
                    assert thread.is_alive()
                    time.sleep(0.02)
                continue
            before = len([event for event in told if event.operations >= 10])
            while len([event for event in told if event.operations >= 10]) == before:
                assert thread.is_alive()
                time.sleep(0.02)
            one.moments.append((one.until, dict(one.rows)))
    finally:
        stop.set()
        thread.join()
    for at, rows in one.moments:
        one.check(at, rows)


def test_a_sidecar_and_what_it_says(one: Files) -> None:
    """Ids as text and columns beside the index: a changed column is a changed row, a new one changes all; batches and filters are
    asked of columns."""

    def write(names_: list[str], batch: list[str], **more: list[int]) -> None:
        index = faiss.IndexFlatL2(DIMENSION)
        index.add(np.array([one.rows[place] for place in range(len(names_))]))
        faiss.write_index(index, str(one.index))
        pq.write_table(pa.table({"id": names_, "batch": batch, **more}), one.index.with_suffix(".parquet"))

    def follow() -> str:
        one.room.follow(one.source, FollowOptions(every=5, once=True, scan=True, batch_key="batch"))
        return one.until

    ids = names("r", 100)
    write(ids, ["seed"] * 100)
    follow()
    write(ids, ["bad" if place < 10 else "seed" for place in range(100)])
    follow()
    write(ids, ["good" if place in (0, 50) else "bad" if place < 10 else "seed" for place in range(100)])
    last = follow()
    batches = {entry.batch: entry.rows for entry in one.room.journal_batches()}
    assert batches == {"bad": 10, "good": 2}
    target = f"faiss://{one.folder}/undone/x.bin"
    undo = one.room.restore("latest", target, undo="bad").plan.moment
    assert undo is not None
    assert undo.undo is not None
    assert undo.undo.rows == {"kept": 1, "put back": 9}
    found = pq.read_table(one.folder / "undone" / "x.parquet").to_pylist()
    assert {row["id"]: row["batch"] for row in found} == {
        name: "good" if place in (0, 50) else "seed" for place, name in enumerate(ids)
    }
    write(ids, ["seed"] * 100, extra=list(range(100)))
    follow()
    one.room.restore("latest", f"faiss://{one.folder}/wide/x.bin", at=one.until)
    wide = pq.read_table(one.folder / "wide" / "x.parquet").to_pylist()
    assert {row["id"]: row["extra"] for row in wide} == {name: place for place, name in enumerate(ids)}
    one.room.restore("latest", f"faiss://{one.folder}/narrow/x.bin", at=last)
    assert "extra" not in pq.read_table(one.folder / "narrow" / "x.parquet").column_names


def test_ids_that_are_no_ids_any_more(one: Files) -> None:
    """LanceDB knows rows by their place once two have one id: then all rows are others."""
    import lancedb

    source, options = f"lancedb://{one.folder}/tables", FollowOptions(every=5, once=True, scan=True)
    rows = [{"id": name, "vector": [1.0, 2.0, 3.0]} for name in names("r", 20)]
    table = lancedb.connect(one.folder / "tables").create_table("things", rows)
    one.room.follow(source, options)
    before = one.until
    table.add(rows[:1])
    one.room.follow(source, options)
    with engines.source_of(source).freeze(SILENT) as frozen:
        count = sum(block.live().num_rows for block in frozen.rows("things"))
    assert count == 21
    one.room.restore("latest", f"faiss://{one.folder}/then/x.bin", at=before)
    one.room.restore("latest", f"faiss://{one.folder}/now/x.bin", at=one.until)
    counts = [faiss.read_index(str(one.folder / name / "x.bin")).ntotal for name in ("then", "now")]
    assert counts == [20, 21]


def test_chroma_by_scans_and_into_lancedb(world: World) -> None:  # noqa: F811
    """Its log is followed no more; what scans find is restored to Chroma itself and to another engine."""
    follow = ("journal", "follow", world.source, "--scan", "--once", "--every", "30", "--quiet", "--batch-key", "batch")
    first = world.run(*follow)
    assert first.code == 0, first
    before = dict(world.model)
    until = world.room.journal_status()[0].until

    def write(*steps: dict[str, object]) -> None:
        apart(chroma_writer.write, str(world.folder / "db"), list(steps))
        for step in steps:
            if step.get("name", "docs") == "docs":
                tell(world.model, step)

    write(
        {"do": "update", "ids": names("d", 10), "metadatas": [{"stars": 1}] * 10},
        {"do": "delete", "ids": names("d", 10, 30)},
        {"do": "create", "name": "more"},
        {"do": "upsert", "name": "more", "ids": names("m", 5), "embeddings": world.vectors(5)},
    )
    assert world.run(*follow).code == 0
    shown = world.run("journal", "status").done().out
    assert "those of scans" in shown
    later = world.room.journal_status()[0].until
    world.run("restore", "--at", until, f"chroma://{world.folder}/then", "--quiet").done()
    same(world.read("then"), before)
    world.run("restore", "--at", later, f"chroma://{world.folder}/now", "--quiet").done()
    same(world.read("now"), world.model)
    target = f"lancedb://{world.folder}/lance"
    world.run("restore", "--at", later, target, "--collection", "docs", "--quiet").done()
    same(rows_of(target), world.model)
    with engines.source_of(f"chroma://{world.folder}/now").freeze(SILENT) as frozen:
        assert {one.name: one.count for one in frozen.description.collections} == {"docs": len(world.model), "more": 5}
    write({"do": "drop", "name": "more"}, {"do": "drop"}, {"do": "create"}, {"do": "add", "ids": ["d1"], "embeddings": [[1.0] * 8]})
    assert world.run(*follow).code == 0
    world.run("restore", "--at", world.room.journal_status()[0].until, f"chroma://{world.folder}/last", "--quiet").done()
    assert world.read("last") == {"d1": ([1.0] * 8, None, None)}
    back = world.run("journal", "follow", world.source, "--once", "--quiet", "--json")
    assert back.code == 0, back
    assert "in another way" in back.json["gaps"][0]


def test_release_forgets_what_scans_found(one: Files, own_state: Path) -> None:
    one.scan()
    run = {"STRONGROOM_REPOSITORY": str(one.folder / "repo")}
    released: Ended = strongroom("journal", "release", one.source, env=run)
    assert "is released" in released.done().out
    assert not list(own_state.glob("scans/*/*.sqlite"))
    assert strongroom("journal", "release", one.source, env=run).code == 1


def test_two_on_one_machine_do_not_share_their_notes(one: Files, own_state: Path) -> None:
    """The second takes over; it doesn't wait for the first one's file."""
    one.scan()
    (cache,) = own_state.glob("scans/*/*.sqlite")
    with sqlite3.connect(cache, isolation_level=None) as busy:
        busy.execute("BEGIN EXCLUSIVE")
        one.put(range(10))
        one.scan()
    assert operations(one)[-1] == ("PUT", 10)
    one.check(*one.moments[-1])
