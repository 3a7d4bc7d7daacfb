"""Does a drill say what a real restore is worth? On real engines: those that pass, and each way to fail."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import chromadb
import faiss
import lance
import numpy as np
import psycopg
import pyarrow as pa
import pytest
from commands import PASSWORD, build_index, environment, strongroom
from postgres import Postgres

from strongroom import capture
from strongroom.clock import Clock
from strongroom.errors import NotFound, Refused, StoreDenied, StrongroomError, WrongRequest
from strongroom.library import Strongroom, init_repository, open_repository
from strongroom.operations.backup.run import BackupOptions, backup
from strongroom.operations.drill import DrillReport, restarted, run
from strongroom.operations.drill.objectives import parse
from strongroom.operations.follow.run import FollowOptions
from strongroom.operations.forget import ForgetOptions
from strongroom.operations.journal.moment import plan_moment
from strongroom.operations.prune.run import PruneOptions
from strongroom.repository import Argon2Cost, Store
from strongroom.snapshots import manifest, probes
from strongroom.snapshots.manifest import ProbeSet

CHEAP = Argon2Cost(1, 1, 64)
EASY = parse("rpo=1h,rto=10m,recall=0.5,p50=10s,p95=10s,envelope=100000")
ROWS, DIMENSION = 500, 16


def vectors(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype(np.float32)


def new_room(folder: Path) -> Strongroom:
    return init_repository(str(folder), password=PASSWORD, cost=CHEAP)


@dataclass(frozen=True)
class Place:
    """A repository with a snapshot of a FAISS index."""

    folder: Path
    source: str
    snapshot: str

    def open(self, clock: Clock | None = None) -> Strongroom:
        return open_repository(str(self.folder), password=PASSWORD, **({"clock": clock} if clock else {}))

    def drill(self, **wish: Any) -> DrillReport:
        return self.open().drill(**wish)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("drill")
    index = build_index(folder / "source" / "notes.faiss", ROWS, dimension=DIMENSION)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STRONGROOM_STATE_DIR", str(folder / "state"))
        patch.setenv("OMP_NUM_THREADS", "1")
        made = new_room(folder / "repo").backup(f"faiss://{index}").snapshot.id
    return Place(folder / "repo", f"faiss://{index}", made)


@pytest.fixture
def place(pristine: Place, tmp_path: Path) -> Place:
    shutil.copytree(pristine.folder, tmp_path / "repo")
    return replace(pristine, folder=tmp_path / "repo")


def steps(report: DrillReport) -> dict[str, bool]:
    return {one.name: one.passed for one in report.steps}


def failed(report: DrillReport) -> list[str]:
    return [one.name for one in report.steps if not one.passed]


def failures_in(junit: Path) -> str | None:
    return ElementTree.parse(junit).getroot().get("failures")  # noqa: S314 - we wrote it


# -- those that pass -----------------------------------------------------------------------------------------------------------


def make_faiss(folder: Path) -> str:
    return f"faiss://{build_index(folder / 'notes.faiss', ROWS, dimension=DIMENSION)}"


def make_chroma(folder: Path) -> str:
    collection = chromadb.PersistentClient(str(folder)).create_collection("notes", embedding_function=None)
    collection.add(
        ids=[str(one) for one in range(ROWS)], embeddings=vectors(ROWS), documents=[f"text {one}" for one in range(ROWS)]
    )
    return f"chroma://{folder}"


def make_lancedb(folder: Path) -> str:
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors(ROWS).ravel()), DIMENSION)
    lance.write_dataset(pa.table({"id": pa.array(range(ROWS)), "vector": column}), str(folder / "notes.lance"))
    return f"lancedb://{folder}"


@pytest.mark.parametrize("make", [make_faiss, make_chroma, pytest.param(make_lancedb, marks=pytest.mark.soak)])
def test_what_comes_back_passes_on_every_level_and_is_measured(make: Callable[[Path], str], tmp_path: Path) -> None:
    room = new_room(tmp_path / "repo")
    source = make(tmp_path / "source")
    made = room.backup(source).snapshot
    report = room.drill(objectives=EASY, out=tmp_path / "out", scratch=tmp_path)
    assert report.failures == ()
    assert report.passed
    assert all(steps(report).values())
    assert list(steps(report)) == ["recovery point", "objects", "data", "restore", "restart", "answers"]
    point = report.point
    assert point is not None
    assert (point.source, point.snapshot, point.rows, point.journal) == (source, made.id, ROWS, False)
    assert report.rung == "exact"
    assert report.rto is not None
    assert report.stages["restore"] < report.rto < report.stages["restore"] + report.stages["restart"] + 5
    began = datetime.fromisoformat(made.manifest.created) - timedelta(seconds=made.manifest.seconds["total"])
    assert report.rpo == pytest.approx((datetime.fromisoformat(report.started) - began).total_seconds(), abs=0.1)
    (taken,) = report.latency.values()
    assert len(taken.laps) == made.manifest.collections[0].probes[0].count
    assert 0 < min(taken.laps) <= taken.p50 <= taken.p95 <= max(taken.laps) < 5
    recorded = made.manifest.collections[0].latency[
        "vector" if "chroma" not in source else made.manifest.collections[0].probes[0].field
    ]
    assert (taken.recorded_p50, taken.recorded_p95) == (recorded["p50"], recorded["p95"])
    assert report.lowest_recall == made.manifest.collections[0].probes[0].recall
    assert report.coverage["1"] == 1.0
    assert room.coverage().covered.never.blobs == 0
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("strongroom-drill")] == []
    assert failures_in(tmp_path / "out" / "junit.xml") == "0"
    assert "passed" in (tmp_path / "out" / "report.html").read_text()
    (kept,) = room.drill_history().reports
    assert (kept.id, kept.document) == (report.id, (tmp_path / "out" / "report.json").read_bytes())


def test_a_server_gives_a_schema_of_its_own_and_it_goes(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, scratch = postgres.database(), postgres.database()
    with psycopg.connect(postgres.conninfo(database), autocommit=True) as connection:
        connection.execute("CREATE TABLE notes (id int PRIMARY KEY, v vector(8))")
        rows = "SELECT i, ARRAY[sin(i), cos(i), sin(2*i), cos(3*i), i % 7, i % 5, i % 3, 1]::vector FROM generate_series(1, 300) i"
        connection.execute(f"INSERT INTO notes {rows}")
    monkeypatch.setenv("STRONGROOM_PGVECTOR_SCRATCH", postgres.url(scratch))
    room = new_room(tmp_path / "repo")
    room.backup(postgres.url(database))
    report = room.drill(objectives=EASY)
    assert report.failures == ()
    assert report.passed
    assert report.restart == "another process connected; the server itself ran on"
    with psycopg.connect(postgres.conninfo(scratch), autocommit=True) as connection:
        left = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'strongroom_scratch%'").fetchall()
    assert left == []


# -- each way to fail ----------------------------------------------------------------------------------------------------------


def damage(place: Place) -> None:
    """Bytes all over the largest pack."""
    path = max((place.folder / "packs").rglob("*/*"), key=lambda one: one.stat().st_size)
    content = bytearray(path.read_bytes())
    for at in range(100, len(content), 200):
        content[at] ^= 1
    path.write_bytes(content)


def test_a_damaged_pack(place: Place, tmp_path: Path) -> None:
    damage(place)
    report = place.drill(objectives=EASY, out=tmp_path / "out")
    assert not report.passed
    assert failed(report) == ["data", "restore", "restart", "answers"]
    assert "packs/" in report.failures[0]
    assert (report.rto, report.recall, report.latency) == (None, {}, {})
    missed = [one.name for one in report.objectives if not one.passed]
    assert missed == ["rto", "p50", "p95", "recall", "envelope"]
    assert not next(one for one in report.steps if one.name == "answers").reached
    assert failures_in(tmp_path / "out" / "junit.xml") == "9"
    assert "Why it failed" in (tmp_path / "out" / "report.html").read_text()
    assert place.open().drill_history().reports[0].passed is False
    assert place.open().coverage().covered.damaged.blobs > 5


def with_probes(place: Place, change: Callable[[probes.Probes], probes.Probes | None]) -> str:
    """Another snapshot of the same, whose probes are others."""
    room = place.open()
    record = room.snapshot().manifest
    (collection,) = record.collections
    (probe,) = collection.probes
    sealed = change(probes.decode(room.repository.read_blob(bytes.fromhex(probe.blob))))
    sets: tuple[ProbeSet, ...] = ()
    if sealed is not None:
        with room.repository.writer() as writer:
            blob = writer.submit(probes.encode(sealed), "bytes").result().hex()
            room.repository.add_index(writer.close())
        recall = sealed.recall(sealed.live) if sealed.live else None
        sets = (replace(probe, blob=blob, recall=recall),)
    later = (datetime.fromisoformat(record.created) + timedelta(seconds=1)).isoformat()
    changed = replace(record, created=later, parents=(place.snapshot,), collections=(replace(collection, probes=sets),))
    return room.repository.add_manifest(manifest.encode(changed))


def test_probes_whose_sealed_answers_are_not_exact(place: Place) -> None:
    """The live index answers just as it did: only exact search in the rows tells that what was sealed is wrong."""

    def wrong(sealed: probes.Probes) -> probes.Probes:
        ids = (sealed.exact.ids[1], *sealed.exact.ids[1:])
        return replace(sealed, exact=replace(sealed.exact, ids=ids), rows=None)

    with_probes(place, wrong)
    report = place.drill()
    assert failed(report) == ["answers"]
    assert "1 of 32 sealed answers are not the exact ones" in report.failures[0]


def test_answers_that_are_not_the_sealed_ones(place: Place) -> None:
    def wrong(sealed: probes.Probes) -> probes.Probes:
        assert sealed.live is not None
        return replace(sealed, live=replace(sealed.live, ids=sealed.live.ids[::-1], distances=sealed.live.distances[::-1]))

    with_probes(place, wrong)
    report = place.drill(objectives=parse("rto=10m"))
    assert failed(report) == ["answers"]
    assert report.rto is None  # not one answer was right
    assert [one.passed for one in report.objectives] == [False]


def test_a_snapshot_without_probes_fails_at_answers(place: Place) -> None:
    with_probes(place, lambda _: None)
    report = place.drill(objectives=parse("recall=0.1"))
    assert failed(report) == ["answers"]
    assert any("not one probe could be replayed" in one for one in report.failures)
    assert any("has no probes" in one for one in report.failures)
    assert report.objectives[0].measured is None


def test_objectives_that_are_missed_say_by_how_much(place: Place) -> None:
    report = place.drill(objectives=parse("rto=1ms,rpo=1us,recall=1,p95=1us,p50=1us,envelope=0.0001"))
    assert failed(report) == []  # it is sound, and too slow
    assert not report.passed
    found = {one.name: one for one in report.objectives if not one.passed}
    assert set(found) >= {"rto", "rpo", "p95", "p50", "envelope"}
    for name, measured in (("rto", report.rto), ("rpo", report.rpo), ("p95", report.highest_p95)):
        assert found[name].measured == measured
        assert found[name].missed_by == pytest.approx((measured or 0) - found[name].wanted)
    assert all("missed by" in one for one in report.failures)


def test_an_index_that_finds_little(tmp_path: Path) -> None:
    """Its links were cut before the backup: it answers just as the live one did, and far from what exact search finds."""
    faiss.omp_set_num_threads(1)
    index = faiss.IndexHNSWFlat(DIMENSION, 8)
    index.add(vectors(ROWS))
    links = faiss.vector_to_array(index.hnsw.neighbors)
    links[links % 3 != 0] = -1
    faiss.copy_array_to_vector(links, index.hnsw.neighbors)
    (tmp_path / "source").mkdir()
    faiss.write_index(index, str(tmp_path / "source" / "poisoned.faiss"))
    room = new_room(tmp_path / "repo")
    room.backup(f"faiss://{tmp_path}/source/poisoned.faiss")
    report = room.drill(objectives=parse("recall=0.9"))
    assert failed(report) == []
    assert not report.passed
    assert report.lowest_recall is not None
    assert report.lowest_recall < 0.9
    assert report.objectives[0].missed_by == pytest.approx(0.9 - report.lowest_recall)


def test_files_that_break_between_restore_and_restart(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = restarted.opened_again

    def broken(url: str, questions: Any) -> Any:
        path = Path(url.removeprefix("faiss://"))
        path.write_bytes(path.read_bytes()[:-1000])
        return opened(url, questions)

    monkeypatch.setattr(restarted, "opened_again", broken)
    report = place.drill(objectives=EASY)
    assert failed(report) == ["restore", "restart", "answers"]
    assert any(one.startswith("restart: restart: it doesn't open again") for one in report.failures)
    assert report.rto is None


def test_answers_come_from_a_process_that_had_no_part_in_the_restore(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the restoring process has in memory or patched: the other one has the URL alone, and its own code."""
    monkeypatch.setattr(restarted, "answer", lambda url, questions: [])
    monkeypatch.setattr("strongroom.engines.indexfile.frozen.IndexFrozen.search", lambda *_: 1 / 0)
    assert place.drill().passed


def test_latency_that_nobody_measured_meets_no_objective(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = restarted.opened_again
    monkeypatch.setattr(restarted, "opened_again", lambda *one: [replace(reply, laps=()) for reply in opened(*one)])
    report = place.drill(objectives=parse("p95=10s,recall=0.1"))
    assert {one.name: one.passed for one in report.objectives} == {"p95": False, "recall": True}


def test_rows_that_are_not_those_of_the_snapshot(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something writes to the restored index before it is read back."""
    opened = restarted.opened_again

    def meddled(url: str, questions: Any) -> Any:
        replies = opened(url, questions)
        index = faiss.read_index(url.removeprefix("faiss://"))
        index.add(vectors(1, 77))
        faiss.write_index(index, url.removeprefix("faiss://"))
        return replies

    monkeypatch.setattr(restarted, "opened_again", meddled)
    report = place.drill()
    assert failed(report) == ["restore", "answers"] or failed(report) == ["restore"]
    assert any("rows came back" in one for one in report.failures)


# -- which recovery point ------------------------------------------------------------------------------------------------------


def test_a_random_snapshot_can_be_drawn_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    room = place.open()
    for _ in range(3):
        backup(room.repository, place.source, BackupOptions(reread=True))
    monkeypatch.setattr(run.Drill, "_exercise", lambda *_: None)
    drawn = {seed: room.drill(moment="random", seed=seed).point for seed in range(12)}
    snapshots = {point.snapshot for point in drawn.values() if point}
    assert len(snapshots) == 4
    again = room.drill(moment="random", seed=3).point
    assert again is not None
    assert drawn[3] is not None
    assert (again.snapshot, again.seed) == (drawn[3].snapshot, 3)
    unseeded = room.drill(moment="random").point
    assert unseeded is not None
    assert unseeded.seed is not None
    repeated = room.drill(moment="random", seed=unseeded.seed).point
    assert repeated is not None
    assert repeated.snapshot == unseeded.snapshot
    newest = max(one.manifest.created for one in room.snapshots())
    assert all(point.newest < newest for point in drawn.values() if point)  # frozen before it was written down
    assert len({point.newest for point in drawn.values() if point}) == 1


@dataclass(frozen=True)
class Followed:
    """A repository with a journal of a captured index, and times: before anything, in the middle, at the end."""

    room: Strongroom
    source: str
    middle: str
    index: Path


@pytest.fixture
def followed(tmp_path: Path) -> Followed:
    path = tmp_path / "live" / "notes.faiss"
    path.parent.mkdir()
    faiss.omp_set_num_threads(1)
    index = faiss.index_factory(DIMENSION, "IDMap2,HNSW8")
    index.add_with_ids(vectors(300), np.arange(300))
    faiss.write_index(index, str(path))
    room, source = new_room(tmp_path / "repo"), f"faiss://{path}"
    client = capture(index, room, source)
    once = FollowOptions(once=True)
    room.follow(source, once)
    client.add_with_ids(vectors(100, 2), np.arange(1000, 1100))
    client.flush()
    room.follow(source, once)
    middle = datetime.now(UTC).isoformat()
    client.add_with_ids(vectors(50, 3), np.arange(2000, 2050))
    client.flush()
    room.follow(source, once)
    client.close()
    return Followed(room, source, middle, path)


def test_the_newest_moment_is_the_end_of_the_journal(followed: Followed) -> None:
    report = followed.room.drill(objectives=parse("rpo=10m,rto=10m,recall=0.5"))
    assert report.failures == ()
    assert report.passed
    assert report.point is not None
    assert (report.point.journal, report.point.operations) == (True, 150)
    assert {one.name: one.looked_at.get("rows") for one in report.steps}["restore"] == 450
    (status,) = followed.room.journal_status()
    until = datetime.fromisoformat(status.until)
    assert report.rpo == pytest.approx((datetime.fromisoformat(report.started) - until).total_seconds(), abs=0.01)
    assert report.point.at == report.point.newest


def test_a_moment_of_the_journal(followed: Followed) -> None:
    report = followed.room.drill(moment=f"at={followed.middle}")
    assert report.failures == ()
    assert report.point is not None
    assert report.point.operations == 100
    assert {one.name: one.looked_at.get("rows") for one in report.steps}["restore"] == 400
    assert report.point.at < followed.middle < report.point.newest
    age = datetime.fromisoformat(report.started) - datetime.fromisoformat(report.point.newest)
    assert report.rpo == pytest.approx(age.total_seconds(), abs=1e-5)  # by what could have been restored


def test_a_hole_in_the_journal(followed: Followed, tmp_path: Path) -> None:
    """The segment that leads to the moment is gone: that fails the drill, and is reported as any other failure."""
    (tmp_path / "repo" / plan_moment(followed.room.repository, followed.middle).segments[-1]).unlink()
    report = followed.room.drill(moment=f"at={followed.middle}", objectives=parse("rto=10m"))
    assert failed(report) == list(steps(report))
    assert "can't be restored" in report.failures[0]
    assert followed.room.drill_history().reports[-1].failures == report.failures
    newest = followed.room.drill()  # falls back to the snapshot, and says how old that is
    assert newest.point is not None
    assert not newest.point.journal


def test_rows_of_a_moment_that_are_others(followed: Followed, monkeypatch: pytest.MonkeyPatch) -> None:
    roots = run._roots
    monkeypatch.setattr(run, "_roots", lambda url: dict.fromkeys(roots(url), "0" * 64))
    report = followed.room.drill()
    assert "restore" in failed(report)
    assert any("not those that the journal leads to" in one for one in report.failures)


def test_what_stands_in_the_way_of_a_drill_is_raised(place: Place, tmp_path: Path) -> None:
    room = place.open()
    with pytest.raises(NotFound):
        room.drill(source="faiss:///nowhere")
    for moment in ("oldest", "at=", "at=never", ""):
        with pytest.raises(StrongroomError) as refused:
            room.drill(moment=moment)
        assert not isinstance(refused.value, Refused)
    with pytest.raises(WrongRequest, match="--seed"):
        room.drill(seed=5)
    occupied = tmp_path / "there.faiss"
    build_index(occupied, 50, dimension=DIMENSION)
    before = occupied.read_bytes()
    with pytest.raises(Refused, match="not empty"):
        room.drill(f"faiss://{occupied}")
    assert occupied.read_bytes() == before
    assert room.drill_history().reports == ()


def test_a_target_that_was_given_stays(place: Place, tmp_path: Path) -> None:
    target = f"faiss://{tmp_path}/given.faiss"
    report = place.drill(target=target)
    assert report.passed
    assert faiss.read_index(f"{tmp_path}/given.faiss").ntotal == ROWS
    with pytest.raises(Refused):
        place.drill(target=target)


# -- reports -------------------------------------------------------------------------------------------------------------------


class KeepsNoReport:
    def __init__(self, inner: Store) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def create(self, name: str, data: bytes) -> None:
        if name.startswith("drills/"):
            raise StoreDenied("you may only read")
        self._inner.create(name, data)


def test_reports_stay_when_snapshots_go_and_forged_ones_are_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    room = place.open()
    monkeypatch.setattr(run.Drill, "_exercise", lambda *_: None)
    first, second = room.drill(), room.drill()
    room.backup(place.source)
    room.forget(ForgetOptions((place.snapshot,)))
    room.prune(PruneOptions(timedelta(0)))
    room.prune(PruneOptions(timedelta(0)))
    found = room.drill_history()
    assert {one.id for one in found.reports} == {first.id, second.id}
    assert room.drill_history("faiss:///other").reports == ()
    path = place.folder / "drills" / first.id
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    found = room.drill_history()
    assert [one.id for one in found.reports] == [second.id]
    assert len(found.problems) == 1
    room.repository.store = KeepsNoReport(room.repository.store)  # type: ignore[assignment]
    unkept = room.drill()
    assert (unkept.id, unkept.unkept) == ("", "you may only read")
    assert unkept.document


def test_the_command_tells_passes_and_failures(place: Place, tmp_path: Path) -> None:
    env = {"STRONGROOM_REPOSITORY": str(place.folder)}
    passed = strongroom("drill", "--quiet", "--json", "--objectives", "rto=10m", "--out", tmp_path / "out", env=env)
    assert (passed.code, passed.err) == (0, "")
    assert passed.json["passed"] is True
    history = strongroom("drill", "history", "--json", env=env).json
    assert [one["id"] for one in history["drills"]] == [passed.json["id"]]
    key, report = history["public_key"], tmp_path / "out" / "report.json"
    nothing = {"STRONGROOM_PASSWORD": None}
    assert strongroom("drill", "verify", report, "--public-key", key, "--json", env=nothing).json["passed"] is True
    strongroom("drill", "verify", report, env=nothing).failed(2, "--public-key", key)
    strongroom("drill", "verify", report, "--public-key", "0" * 64, env=nothing).failed(4, "signature")
    report.write_text(report.read_text().replace('"passed": true', '"passed": false', 1))
    strongroom("drill", "verify", report, "--public-key", key, env=nothing).failed(4, "altered")
    strongroom("drill", "--objectives", "rto=soon", env=env).failed(2, "rto")
    strongroom("drill", env={}).failed(2, "repository")
    damage(place)
    failing = strongroom("drill", "--quiet", env=env)
    assert failing.code == 4
    assert "✗ failed" in failing.out
    assert json.loads(strongroom("coverage", "--json", env=env).out)["covered"]["damaged"]["blobs"] > 5
    assert "passed" in strongroom("drill", "history", env=env).out
    assert environment()["STRONGROOM_PASSWORD"] == PASSWORD
