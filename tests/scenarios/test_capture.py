"""Is what is done to a captured index recorded, followed and restored, row by row, by the libraries' own account?

Concurrent writers that are killed are in test_journal_proof. Here: many kinds of index, and what can go wrong.
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
import textwrap
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import faiss
import hnswlib
import numpy as np
import pytest
from commands import PASSWORD, strongroom
from forks import PIPE
from processes import program
from sampling import part_of
from usearch.index import Index

from strongroom import capture
from strongroom.engines.oplog import writer as oplog_writer
from strongroom.engines.oplog.folder import OplogFolder
from strongroom.errors import Locked, NotFound, Refused, StoreFull, StrongroomError, WrongRequest
from strongroom.library import Strongroom, init_repository
from strongroom.operations.follow.run import FollowOptions
from strongroom.repository import Argon2Cost

DIMENSION, IDS = 16, 120
ONCE = FollowOptions(once=True, probes=20)
Rows = dict[int, bytes]


@dataclass(frozen=True)
class Kind:
    """A kind of index: how it is made and loaded, its rows as the library tells them, and what can be done to it."""

    engine: str
    make: Callable[[], Any]
    load: Callable[[str], Any]
    rows: Callable[[Any], Rows]
    put: Callable[[Any, np.ndarray, np.ndarray], Any]
    delete: Callable[[Any, np.ndarray], Any] | None
    updates: bool = True

    def url(self, path: Path) -> str:
        return f"{self.engine}://{path}"


def vectors(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype(np.float32)


def hnsw(space: str) -> Kind:
    def make() -> Any:
        index = hnswlib.Index(space, DIMENSION)
        index.init_index(4 * IDS, M=8, ef_construction=50)
        return index

    def load(path: str) -> Any:
        index = hnswlib.Index(space, DIMENSION)
        index.load_index(path, max_elements=4 * IDS)
        return index

    def rows(index: Any) -> Rows:
        found = {}
        for one in index.get_ids_list():
            try:
                found[one] = np.asarray(index.get_items([one])[0], np.float32).tobytes()
            except RuntimeError:
                continue
        return found

    def delete(index: Any, ids: np.ndarray) -> None:
        for one in ids.tolist():
            index.mark_deleted(one)

    return Kind("hnswlib", make, load, rows, lambda index, ids, new: index.add_items(new, ids), delete)


def us(dtype: str, metric: str) -> Kind:
    def put(index: Any, ids: np.ndarray, new: np.ndarray) -> None:
        index.remove(ids)
        index.add(ids, np.clip(new * 40, -127, 127).astype(np.int8) if dtype == "i8" else new)

    def rows(index: Any) -> Rows:
        return {int(one): np.asarray(index.get(int(one))).tobytes() for one in index.keys}

    def make() -> Any:
        return Index(ndim=DIMENSION, metric=metric, dtype=dtype, connectivity=8)

    return Kind("usearch", make, Index.restore, rows, put, lambda index, ids: index.remove(ids))


def fa(factory: str, id_map: str = "", *, own: bool = True, removes: bool = True) -> Kind:
    def make() -> Any:
        index = faiss.index_factory(DIMENSION, factory)
        index.train(vectors(2_000, 99))
        return getattr(faiss, id_map)(index) if id_map else index

    def rows(index: Any) -> Rows:
        inner = faiss.downcast_index(index.index) if id_map else index
        if isinstance(inner, faiss.IndexIVF):
            inner = faiss.clone_index(inner)
            inner.set_direct_map_type(faiss.DirectMap.Hashtable)
            ids = [one for n in range(inner.nlist) for one in _ids_of(inner.invlists, n)]
            return {one: inner.reconstruct(one).tobytes() for one in ids}
        ids = faiss.vector_to_array(index.id_map).tolist() if id_map else list(range(index.ntotal))
        return {one: inner.reconstruct(number).tobytes() for number, one in enumerate(ids)}

    def put(index: Any, ids: np.ndarray, new: np.ndarray) -> None:
        if not own:
            index.add(new)
            return
        if removes:
            index.remove_ids(ids)
        index.add_with_ids(new, ids)

    return Kind(
        "faiss", make, faiss.read_index, rows, put, (lambda index, ids: index.remove_ids(ids)) if removes else None, removes
    )


def _ids_of(lists: Any, number: int) -> list[int]:
    size = lists.list_size(number)
    return faiss.rev_swig_ptr(lists.get_ids(number), size).tolist() if size else []


KINDS = {
    "hnswlib l2": hnsw("l2"),
    "hnswlib cosine": hnsw("cosine"),
    "usearch f32": us("f32", "l2sq"),
    "usearch bf16": us("bf16", "cos"),
    "usearch f16": us("f16", "ip"),
    "usearch i8": us("i8", "l2sq"),
    "faiss flat": fa("Flat", own=False, removes=False),
    "faiss hnsw": fa("HNSW8", own=False, removes=False),
    "faiss id map": fa("Flat", "IndexIDMap2"),
    "faiss id map over hnsw": fa("HNSW8", "IndexIDMap", removes=False),
    "faiss ivf": fa("IVF8,Flat"),
    "faiss pq": fa("PQ4x4", "IndexIDMap2"),
    "faiss ivf pq": fa("IVF8,PQ4x4"),
}
MAIN = ["hnswlib l2", "usearch f32", "faiss id map"]


@pytest.fixture
def room(tmp_path: Path) -> Strongroom:
    return init_repository(str(tmp_path / "repo"), password=PASSWORD, cost=Argon2Cost(1, 1, 64))


def changed(kind: Kind, captured: Any, draw: np.random.Generator, there: set[int]) -> set[int]:
    """One random call; gives the ids that are there afterwards."""
    count = int(draw.integers(1, 9))
    new = draw.standard_normal((count, DIMENSION)).astype(np.float32)
    if kind.delete is not None and there and draw.random() < 0.3:
        gone = draw.choice(sorted(there), min(count, len(there)), replace=False)
        kind.delete(captured, gone)
        return there - set(gone.tolist())
    ids = draw.choice(IDS, count, replace=False) if kind.updates else np.arange(len(there), len(there) + count)
    kind.put(captured, ids, new)
    return there | set(ids.tolist())


def restored(room: Strongroom, kind: Kind, at: str | float, place: Path) -> Rows:
    moment = at if isinstance(at, str) else datetime.fromtimestamp(at, UTC).isoformat()
    room.restore("latest", kind.url(place), at=moment)
    return kind.rows(kind.load(str(place)))


def alike(kind: str, found: Rows, expected: Rows) -> bool:
    """Bit for bit; hnswlib's cosine scales a vector again, which may move its last bit."""
    if kind != "hnswlib cosine":
        return found == expected
    return found.keys() == expected.keys() and all(
        np.allclose(np.frombuffer(found[one], np.float32), np.frombuffer(expected[one], np.float32), atol=1e-6) for one in found
    )


@pytest.mark.parametrize("name", part_of([*MAIN, "hnswlib cosine", "faiss ivf pq"], KINDS))
def test_every_moment_comes_back(name: str, room: Strongroom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oplog_writer, "SEGMENT_BYTES", 4_000)
    kind, path = KINDS[name], tmp_path / "x.index"
    index = kind.make()
    draw, moments, there = np.random.default_rng(5), [], set()
    with capture(index, None, kind.url(path)) as captured:
        room.follow(kind.url(path), ONCE)
        for number in range(5):
            for _ in range(8):
                there = changed(kind, captured, draw, there)
            moments.append((time.time(), kind.rows(index)))
            time.sleep(0.01)
            if number % 2:
                captured.save()
                room.follow(kind.url(path), ONCE)
    assert all(rows.keys() for _, rows in moments)
    room.follow(kind.url(path), ONCE)
    for number, (at, rows) in enumerate(moments):
        assert alike(name, restored(room, kind, at, tmp_path / f"m{number}" / "x.index"), rows)
    assert alike(name, restored(room, kind, "latest", tmp_path / "latest" / "x.index"), moments[-1][1])
    (status,) = room.journal_status(ask=True)
    assert (status.holes, status.problems, status.behind.operations) == ((), (), 0)


@pytest.mark.parametrize("name", part_of([*MAIN, "faiss ivf pq"], KINDS))
def test_after_a_crash_the_log_brings_the_file_up_to_date(name: str, tmp_path: Path) -> None:
    kind, path = KINDS[name], tmp_path / "x.index"
    index, draw, there = kind.make(), np.random.default_rng(6), set()
    captured = capture(index, None, kind.url(path))
    for number in range(12):
        there = changed(kind, captured, draw, there)
        if number == 5:
            captured.save()
    rows = kind.rows(index)
    captured.close()  # the file stays as it was saved; so it does when the process is killed
    again = kind.load(str(path))
    assert kind.rows(again) != rows
    with capture(again, None, kind.url(path)) as captured:
        assert alike(name, kind.rows(again), rows)
        changed(kind, captured, draw, there)
        rows = kind.rows(again)
        captured.save()
    assert alike(name, kind.rows(kind.load(str(path))), rows)


@pytest.mark.parametrize("name", MAIN)
def test_what_was_recorded_is_not_given_up_with_a_file_that_was_moved(name: str, tmp_path: Path) -> None:
    """A copy with its time of writing is the file that was saved; of any other nobody knows which operations it has."""
    kind, path = KINDS[name], tmp_path / "here" / "x.index"
    path.parent.mkdir()
    index = kind.make()
    with capture(index, None, kind.url(path)) as captured:
        kind.put(captured, np.arange(9), vectors(9, 1))
        captured.save()
        kind.put(captured, np.arange(9, 12), vectors(3, 2))
        rows = kind.rows(index)
    moved, copied = (tmp_path / one / path.name for one in ("moved", "copied"))
    shutil.copytree(path.parent, moved.parent)
    shutil.copytree(path.parent, copied.parent, copy_function=shutil.copyfile)
    again = kind.load(str(moved))
    capture(again, None, kind.url(moved)).close()
    assert alike(name, kind.rows(again), rows)
    before = sorted(copied.parent.rglob("*.ops"))
    with pytest.raises(Refused, match="operations of after that"):
        capture(kind.load(str(copied)), None, kind.url(copied))
    assert sorted(copied.parent.rglob("*.ops")) == before
    copied.rename(tmp_path / "aside")
    with pytest.raises(Refused, match="is gone"):
        capture(kind.make(), None, kind.url(copied))
    (tmp_path / "aside").rename(copied)
    capture(kind.load(str(copied)), None, kind.url(copied), anew=True).close()
    capture(kind.load(str(copied)), None, kind.url(copied)).close()


@pytest.mark.parametrize("name", MAIN)
def test_what_is_in_memory_must_be_what_the_file_holds(name: str, room: Strongroom, tmp_path: Path) -> None:
    kind, path = KINDS[name], tmp_path / "x.index"
    first = kind.make()
    with capture(first, None, kind.url(path)) as captured:
        kind.put(captured, np.arange(9), vectors(9, 1))
        captured.save()
        room.follow(kind.url(path), ONCE)
        kind.put(captured, np.arange(9, 12), vectors(3, 2))
        before = kind.rows(first)
    other = kind.make()
    with pytest.raises(Refused, match="not what"):
        capture(other, None, kind.url(path))
    with capture(other, None, kind.url(path), anew=True) as captured:
        kind.put(captured, np.arange(2), vectors(2, 3))
        with pytest.raises(Locked):
            capture(kind.load(str(path)), None, kind.url(path))
        report = room.follow(kind.url(path), ONCE)
        now = time.time()
    room.follow(kind.url(path), ONCE)
    assert len(report.gaps) == 1
    (hole,) = room.journal_status()[0].holes
    assert restored(room, kind, hole.since, tmp_path / "before" / "x") == before, "the old log was shipped to its end"
    assert restored(room, kind, now, tmp_path / "now" / "x") == kind.rows(other)


@pytest.mark.parametrize("name", MAIN)
def test_a_file_that_somebody_replaced_is_no_moment_of_the_log(name: str, room: Strongroom, tmp_path: Path) -> None:
    kind, path = KINDS[name], tmp_path / "x.index"
    captured = capture(kind.make(), None, kind.url(path))
    kind.put(captured, np.arange(9), vectors(9, 1))
    captured.close()
    path.write_bytes(path.read_bytes())
    with pytest.raises(Refused, match="somebody replaced it"):
        room.follow(kind.url(path), ONCE)
    room.backup(kind.url(path), probes=0)
    assert room.snapshot().manifest.position.kind == "file"


@pytest.mark.parametrize("name", MAIN)
def test_an_ingest_batch_is_undone(name: str, room: Strongroom, tmp_path: Path) -> None:
    kind, path = KINDS[name], tmp_path / "x.index"
    index = kind.make()
    with capture(index, room, kind.url(path), ship=True, every_ms=10, options=FollowOptions(every=0.6, probes=0)) as captured:
        kind.put(captured, np.arange(20), vectors(20, 1))
        before = kind.rows(index)
        with captured.batch("nightly"):
            kind.put(captured, np.arange(5, 30), vectors(25, 2))
        kind.put(captured, np.arange(40, 44), vectors(4, 3))
        after = kind.rows(index)
        until = time.time()
    assert restored(room, kind, "before:nightly", tmp_path / "before" / "x") == before
    assert restored(room, kind, until, tmp_path / "after" / "x") == after
    assert room.journal_status()[0].source == kind.url(path)


def test_another_process_follows_by_the_command(tmp_path: Path, room: Strongroom) -> None:
    kind, path = KINDS["faiss id map"], tmp_path / "x.faiss"
    env = {"STRONGROOM_REPOSITORY": str(tmp_path / "repo")}
    strongroom("journal", "follow", kind.url(path), "--once", env=env).failed(1, "has no log", "strongroom.capture")
    with capture(kind.make(), None, kind.url(path)) as captured:
        kind.put(captured, np.arange(9), vectors(9, 1))
        strongroom("journal", "follow", kind.url(path), "--once", "--json", env=env)
        kind.put(captured, np.arange(9, 12), vectors(3, 1))
        (status,) = strongroom("journal", "status", "--json", env=env).done().json
        assert status["behind"]["operations"] == 3
    assert room.release(kind.url(path))
    assert not room.release(kind.url(path))


def test_shipping_goes_on_after_a_disk_was_full(room: Strongroom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever stops the thread that ships, it begins again; who closes the capture hears of it if it can't be helped."""
    kind, path, failing = KINDS["hnswlib l2"], tmp_path / "x.index", [True]
    hold = OplogFolder.hold

    def full(folder: OplogFolder, name: str, shipped: str) -> None:
        if failing[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        hold(folder, name, shipped)

    monkeypatch.setattr(OplogFolder, "hold", full)
    monkeypatch.setattr("strongroom.operations.follow.capture._AGAIN_SECONDS", 0.05)
    index = kind.make()
    captured = capture(index, room, kind.url(path), ship=True, options=FollowOptions(every=0.6, probes=0))
    kind.put(captured, np.arange(9), vectors(9, 1))
    time.sleep(1)
    failing[0] = False
    time.sleep(1)
    captured.close()
    assert restored(room, kind, "latest", tmp_path / "latest" / "x") == kind.rows(index)
    failing[0] = True
    captured = capture(kind.load(str(path)), room, kind.url(path), ship=True)
    with pytest.raises(OSError, match="No space"):
        captured.close()


def test_a_killed_writer_loses_nothing_that_it_was_told_is_done(tmp_path: Path) -> None:
    """Also where a loss of power might: what was written to memory outlives the process."""
    text = """
        import os, sys, numpy as np, hnswlib, strongroom
        index = hnswlib.Index("l2", 16); index.init_index(10_000)
        captured = strongroom.capture(index, None, sys.argv[1], every_ms=60_000)
        for number in range(10_000):
            captured.add_items(np.full((1, 16), number, np.float32), [number])
            os.write(1, b"%d\\n" % number)
    """
    url = f"hnswlib://{tmp_path}/x.bin"
    with program("-c", textwrap.dedent(text), url, stdout=PIPE) as process:
        assert process.stdout is not None
        told = [int(process.stdout.readline()) for _ in range(300)]
        process.kill()
        told += [int(line) for line in process.stdout.read().splitlines()]
    index = hnswlib.Index("l2", 16)
    index.load_index(str(tmp_path / "x.bin"), max_elements=10_000)
    assert index.element_count == 0
    capture(index, None, url).close()
    assert index.element_count - len(told) in (0, 1)
    for number in told:
        assert index.get_items([number])[0][3] == number


def test_a_damaged_log_is_not_taken_for_a_torn_one(room: Strongroom, tmp_path: Path) -> None:
    kind, path = KINDS["usearch f32"], tmp_path / "x.usearch"
    captured = capture(kind.make(), None, kind.url(path))
    for number in range(10):
        kind.put(captured, np.array([number]), vectors(1, number))
    captured.close()
    (segment,) = path.with_name(path.name + ".oplog").glob("*.ops")
    whole = segment.read_bytes()
    segment.write_bytes(whole[:-9])
    with capture(index := kind.load(str(path)), None, kind.url(path)):
        assert sorted(kind.rows(index)) == list(range(9)), "the last call's record was torn: it had never returned"
    segment.write_bytes(whole)
    room.follow(kind.url(path), ONCE)
    torn = bytearray(whole)
    torn[700] ^= 4
    segment.write_bytes(torn)
    with pytest.raises(Refused, match="damaged after operation"):
        capture(kind.load(str(path)), None, kind.url(path))
    report = room.follow(kind.url(path), ONCE)
    assert "older copy" in report.gaps[0]


def test_a_full_disk_ends_the_recording_loudly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oplog_writer, "SEGMENT_BYTES", 10_000)
    kind, path = KINDS["faiss id map"], tmp_path / "x.faiss"
    captured = capture(kind.make(), None, kind.url(path))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setattr(oplog_writer, "SEGMENT_BYTES", 20_000)
    resource.setrlimit(resource.RLIMIT_FSIZE, (15_000, limits[1]))
    try:
        with pytest.raises(StoreFull):
            kind.put(captured, np.arange(500), vectors(500, 1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    for call in (lambda: kind.put(captured, np.array([1]), vectors(1, 1)), captured.save):
        with pytest.raises(Refused, match="can't be recorded any more"):
            call()
    index = captured.index
    captured.close()
    with capture(index, None, kind.url(path), anew=True) as captured:
        kind.put(captured, np.array([600]), vectors(1, 1))


def test_calls_that_fail_half_way_are_recorded_as_far_as_they_came(room: Strongroom, tmp_path: Path) -> None:
    index = Index(ndim=DIMENSION, metric="l2sq", dtype="f32")
    with capture(index, None, url := f"usearch://{tmp_path}/x.usearch") as captured:
        captured.add([1, 2], vectors(2, 1))
        with pytest.raises(RuntimeError):
            captured.add(np.array([5, 6, 2, 7]), vectors(4, 2), threads=1)  # which come first is left to them else
        expected = KINDS["usearch f32"].rows(index)
        room.follow(url, ONCE)
        until = time.time()
        room.follow(url, ONCE)
    assert len(expected) > 2
    assert restored(room, KINDS["usearch f32"], until - 0.01, tmp_path / "back" / "x") == expected
    small = hnswlib.Index("l2", DIMENSION)
    small.init_index(10)
    with capture(small, None, f"hnswlib://{tmp_path}/x.bin") as captured:
        with pytest.raises(RuntimeError):
            captured.add_items(vectors(12, 3), np.arange(12))
        expected = KINDS["hnswlib l2"].rows(small)
    again = KINDS["hnswlib l2"].load(str(tmp_path / "x.bin"))
    capture(again, None, f"hnswlib://{tmp_path}/x.bin").close()
    assert KINDS["hnswlib l2"].rows(again) == expected


def test_parameters_of_a_search_come_back(room: Strongroom, tmp_path: Path) -> None:
    with capture(KINDS["hnswlib l2"].make(), None, url := f"hnswlib://{tmp_path}/x.bin") as captured:
        captured.add_items(vectors(30, 1), np.arange(30))
        captured.set_ef(77)
        room.follow(url, ONCE)
        at = room.journal_status()[0].until
    room.restore("latest", f"hnswlib://{tmp_path}/back/x.bin", at=at)
    assert b'"ef": 77' in (tmp_path / "back" / "x.bin.json").read_bytes()
    assert b'"ef": 77' not in (tmp_path / "x.bin.json").read_bytes(), "not before the index is saved"
    index = KINDS["faiss ivf"].make()
    with capture(index, None, url := f"faiss://{tmp_path}/x.faiss") as captured:
        captured.add(vectors(30, 1))
        captured.nprobe = 5
        captured.add(vectors(1, 2))
        room.follow(url, ONCE)
        room.follow(url, ONCE)
    assert index.nprobe == 5
    room.restore("latest", f"faiss://{tmp_path}/back/x.faiss", at="32", source=url)
    assert faiss.read_index(str(tmp_path / "back" / "x.faiss")).nprobe == 5
    room.restore("latest", f"faiss://{tmp_path}/earlier/x.faiss", at="30", source=url)
    assert faiss.read_index(str(tmp_path / "earlier" / "x.faiss")).nprobe == 1


def _bare(call: Callable[[Any], Any], kind: str = "faiss id map") -> Any:
    return pytest.param(kind, call, id=f"{kind}-{call.__code__.co_firstlineno}")


@pytest.mark.parametrize(
    ("name", "call"),
    [
        _bare(lambda it: it.remove_ids(np.array([1])), "faiss flat"),
        _bare(lambda it: it.add_with_ids(vectors(1, 1), np.array([3]))),
        _bare(lambda it: it.add_with_ids(vectors(2, 1), np.array([8, 8]))),
        _bare(lambda it: it.add_with_ids(vectors(1, 1), np.array([-8]))),
        _bare(lambda it: it.train(vectors(9, 1))),
        _bare(lambda it: it.merge_from(it.index, 0)),
        _bare(lambda it: it.add_items(vectors(1, 1), np.array([1 << 63], np.uint64)), "hnswlib l2"),
        _bare(lambda it: it.load_index("x"), "hnswlib l2"),
        _bare(lambda it: it.add(np.array([1 << 63], np.uint64), vectors(1, 1)), "usearch f32"),
        _bare(lambda it: it.load("x"), "usearch f32"),
    ],
)
def test_what_cannot_be_recorded_is_refused_before_it_is_done(name: str, call: Callable[[Any], Any], tmp_path: Path) -> None:
    kind = KINDS[name]
    index = kind.make()
    with capture(index, None, kind.url(tmp_path / "x.index")) as captured:
        kind.put(captured, np.arange(5), vectors(5, 1))
        before = kind.rows(index)
        with pytest.raises(Refused):
            call(captured)
        assert kind.rows(index) == before
        kind.put(captured, np.arange(5, 8), vectors(3, 1))


def test_ids_that_are_free_no_more_are_not_given_again(tmp_path: Path) -> None:
    index = KINDS["faiss ivf"].make()
    with capture(index, None, f"faiss://{tmp_path}/x.faiss") as captured:
        captured.add(vectors(5, 1))
        captured.remove_ids(faiss.IDSelectorRange(0, 3))
        assert sorted(KINDS["faiss ivf"].rows(index)) == [3, 4]
        with pytest.raises(Refused, match="id 2 is taken"):
            captured.add(vectors(2, 2))
        captured.reset()
        captured.add(vectors(2, 2))


def test_changes_past_the_capture_are_noticed(tmp_path: Path) -> None:
    for name in MAIN:
        kind = KINDS[name]
        index = kind.make()
        captured = capture(index, None, kind.url(tmp_path / f"x.{kind.engine}"))
        kind.put(captured, np.arange(3), vectors(3, 1))
        kind.put(index, np.arange(7, 9), vectors(2, 1))
        with pytest.raises(Refused, match="past its capture"):
            captured.save()
        captured.close()


def test_what_is_not_captured(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"")
    with pytest.raises(Refused, match=r"x\.parquet"):
        capture(KINDS["usearch f32"].make(), None, f"usearch://{tmp_path}/x.usearch")
    for index, url in [
        (Index(ndim=4, multi=True), "usearch:///nowhere/y"),
        (Index(ndim=4, dtype="f64"), "usearch:///nowhere/y"),
        (faiss.index_factory(DIMENSION, "IVF8,Flat"), "faiss:///nowhere/y"),
        (object(), "chroma:///nowhere"),
    ]:
        with pytest.raises(WrongRequest):
            capture(index, None, url)
    with pytest.raises(StrongroomError):
        capture(KINDS["faiss flat"].make(), None, f"hnswlib://{tmp_path}/y")
    with pytest.raises(NotFound):
        Strongroom.release(init_repository(str(tmp_path / "r"), password="x", cost=Argon2Cost(1, 1, 64)), f"faiss://{tmp_path}/y")


def test_nobody_else_reads_the_log(tmp_path: Path) -> None:
    capture(KINDS["faiss flat"].make(), None, f"faiss://{tmp_path}/x.faiss").close()
    folder = tmp_path / "x.faiss.oplog"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all(one.stat().st_mode & 0o077 == 0 for one in folder.glob("*.ops"))
    assert sorted(one.name for one in tmp_path.iterdir()) == ["x.faiss", "x.faiss.oplog"]


@pytest.mark.parametrize("name", MAIN)
def test_a_call_returns_when_its_record_is_durable(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the disk had been made to keep when the call returned is enough to have the row back."""
    kind, path = KINDS[name], tmp_path / "x.index"
    kept: list[bytes] = []
    monkeypatch.setattr(oplog_writer, "make_durable", lambda file: kept.append(os.pread(file, 1 << 20, 0)) or os.fdatasync(file))
    monkeypatch.setattr(oplog_writer, "SEGMENT_BYTES", 1 << 16)
    index = kind.make()
    captured = capture(index, None, kind.url(path))
    (segment,) = captured.path.with_name("x.index.oplog").glob("*.ops")
    states = []
    for number in range(4):
        kind.put(captured, np.array([number]), vectors(1, number))
        states.append((kept[-1], kind.rows(index)))
    captured.close()
    for content, rows in states:
        segment.write_bytes(content)
        again = kind.load(str(path))
        capture(again, None, kind.url(path)).close()
        assert kind.rows(again) == rows


def test_writers_that_wait_at_the_same_time_share_one_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []

    def slowly(file: int) -> None:
        time.sleep(0.02)
        flushed.append(file)

    monkeypatch.setattr(oplog_writer, "make_durable", slowly)
    index = KINDS["faiss id map"].make()
    with capture(index, None, f"faiss://{tmp_path}/x.faiss") as captured, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: captured.add_with_ids(vectors(1, number), np.array([number])), range(40)))
        assert len(flushed) < 40
    assert index.ntotal == 40


def test_a_forked_child_records_nothing(tmp_path: Path) -> None:
    """And doesn't keep the log from whoever captures the index after the parent."""
    kind, path = KINDS["faiss id map"], tmp_path / "x.faiss"
    captured = capture(kind.make(), None, kind.url(path))
    kind.put(captured, np.arange(3), vectors(3, 1))
    captured.save()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            kind.put(captured, np.array([9]), vectors(1, 1))
            os.write(writing, b"recorded")
        except Refused as error:
            os.write(writing, str(error).encode())
        time.sleep(30)
        os._exit(0)
    try:
        assert b"parent" in os.read(reading, 1000)
        captured.close()
        capture(kind.load(str(path)), None, kind.url(path)).close()
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_what_the_application_said_of_the_space_stays(tmp_path: Path) -> None:
    said = tmp_path / "x.bin.json"
    said.write_text('{"space": "l2", "dim": 16, "ef": 100}')
    index = KINDS["hnswlib l2"].make()
    capture(index, None, f"hnswlib://{tmp_path}/x.bin").close()
    assert '"ef": 100' in said.read_text()
    with capture(index, None, f"hnswlib://{tmp_path}/x.bin") as captured:
        captured.set_ef(50)
        captured.save()
    assert '"ef": 50' in said.read_text()


@pytest.mark.parametrize("name", MAIN)
def test_an_interrupted_call_is_not_taken_for_recorded(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C between the library's own call and the record of it."""
    kind = KINDS[name]
    captured = capture(kind.make(), None, kind.url(tmp_path / "x.index"))
    kind.put(captured, np.arange(3), vectors(3, 1))

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(oplog_writer.OplogWriter, "append", interrupted)
        with pytest.raises(KeyboardInterrupt):
            kind.put(captured, np.arange(3), vectors(3, 2))
    with pytest.raises(Refused):
        kind.put(captured, np.arange(3), vectors(3, 3))
    with pytest.raises(Refused):
        captured.save()
    captured.close()


@pytest.mark.parametrize("name", MAIN)
def test_a_batch_is_taken_back_while_later_writes_stay(name: str, room: Strongroom, tmp_path: Path) -> None:
    """In the index itself, and in one of another library."""
    kind, path = KINDS[name], tmp_path / "x.index"
    index = kind.make()
    with capture(index, None, kind.url(path)) as captured:
        room.follow(kind.url(path), ONCE)
        kind.put(captured, np.arange(20), vectors(20, 1))
        expected = kind.rows(index)
        with captured.batch("bad"):
            kind.put(captured, np.arange(10, 30), vectors(20, 2))
        kind.put(captured, np.arange(40, 44), vectors(4, 3))
        good = {one: row for one, row in kind.rows(index).items() if one >= 40}
        room.follow(kind.url(path), ONCE)
    room.restore("latest", kind.url(tmp_path / "back" / "x"), undo="bad")
    assert kind.rows(kind.load(str(tmp_path / "back" / "x"))) == expected | good
    other = KINDS["usearch f32" if kind.engine != "usearch" else "faiss id map"]
    room.restore("latest", other.url(tmp_path / "other" / "x"), undo="bad")
    assert other.rows(other.load(str(tmp_path / "other" / "x"))) == expected | good
