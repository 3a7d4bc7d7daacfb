"""Does a PostgreSQL cluster come back by its files: every page, at every moment; and is what can't be had refused and said?"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import command_forks
import pytest
from commands import COMMAND, PASSWORD, environment
from forks import DEVNULL
from postgres import Postgres, Restored, programs_of

from strongroom.engines.pgvector.moment import lsn_number
from strongroom.engines.pgvector.physical import feed, programs, received
from strongroom.engines.pgvector.physical.place import Server
from strongroom.engines.pgvector.physical.records import Records
from strongroom.errors import Gap, NotFound, Refused, SourceChanged, StrongroomError, Unreadable, WrongRequest
from strongroom.journal.spans import spans
from strongroom.journal.stream import read_chain, read_changes, streams
from strongroom.library import Strongroom, init_repository
from strongroom.model import Status
from strongroom.operations.follow.run import FollowOptions
from strongroom.operations.verify import Level
from strongroom.progress import SILENT
from strongroom.repository import Argon2Cost

ONCE = FollowOptions(once=True, probes=4)
TABLES = """
CREATE TABLE still (id int PRIMARY KEY, v vector(8));
INSERT INTO still SELECT i, ARRAY[sin(i), cos(i), sin(i * 0.7), cos(i * 1.3), sin(i * 2.1), 1, 0, i % 7]::vector
  FROM generate_series(1, 700) i;
CREATE INDEX links ON still USING hnsw (v vector_l2_ops);
CREATE TABLE busy (id bigserial PRIMARY KEY, v vector(3));
INSERT INTO busy (v) VALUES ('[1,2,3]');
"""
NEAREST = "SELECT array_agg(id) FROM (SELECT id FROM still ORDER BY v <-> '[0.1,0.9,0,0.3,0,1,0,3]' LIMIT 20) AS near"


class Cluster:
    """A server of these tests' own, and a database in it."""

    def __init__(self, postgres: Postgres) -> None:
        self.postgres = postgres
        self.name = postgres.database()
        self.url = f"pgvector+physical://postgres@127.0.0.1:{postgres.port}"
        self.ask(TABLES)

    def ask(self, query: str, restored: Restored | None = None) -> tuple[object, ...]:
        """The first row; nothing if the last statement gives none."""
        with (restored or self.postgres).connect(self.name) as connection:
            cursor = connection.execute(query)
            return (cursor.fetchone() or ()) if cursor.description else ()

    def moment(self) -> tuple[str, str]:
        """The time and the place in the log of now, on the server."""
        time, place = self.ask("SELECT clock_timestamp(), pg_current_wal_insert_lsn()::text")
        return time.isoformat(), str(place)  # type: ignore[attr-defined]

    def file(self, relation: str) -> str:
        """Where its pages lie, once they are written."""
        self.ask("CHECKPOINT")
        return str(self.ask(f"SELECT pg_relation_filepath('{relation}')")[0])


def _cluster(server: Postgres, patch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    patch.setenv(programs.VARIABLE, str(server.programs))
    made = Cluster(server)
    yield made
    with server.connect("postgres") as connection:
        connection.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active")
        connection.execute(f"DROP DATABASE {made.name} WITH (FORCE)")


@pytest.fixture(scope="module")
def servers() -> Iterator[Callable[[int], Postgres]]:
    """One of each version, started when it is wanted first."""
    started: dict[int, Postgres] = {}

    def server(version: int) -> Postgres:
        if version not in started:
            newer = {"summarize_wal": "on"} if version >= 17 else {}
            kept = {"wal_keep_size": "0", "checkpoint_timeout": "1d", "autovacuum_naptime": "5s"}
            started[version] = Postgres(version, **kept, **newer)
            started[version].start()
        return started[version]

    try:
        yield server
    finally:
        for one in started.values():
            one.stop()


@pytest.fixture
def cluster(servers: Callable[[int], Postgres], monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    yield from _cluster(servers(18), monkeypatch)


@pytest.fixture(params=[18, pytest.param(16, marks=pytest.mark.soak)])
def either(
    servers: Callable[[int], Postgres], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Cluster]:
    yield from _cluster(servers(request.param), monkeypatch)


@pytest.fixture
def room(tmp_path: Path) -> Strongroom:
    return init_repository(str(tmp_path / "repo"), password=PASSWORD, cost=Argon2Cost(1, 1, 64))


def place(directory: Path) -> str:
    return f"pgvector+physical://{directory}"


class Writing(threading.Thread):
    """Inserts rows, one a transaction, until it is stopped."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__()
        self._cluster, self._ended, self.begun = cluster, threading.Event(), threading.Event()

    def run(self) -> None:
        with self._cluster.postgres.connect(self._cluster.name) as connection:
            while not self._ended.is_set():
                connection.execute("INSERT INTO busy (v) VALUES ('[4,5,6]')")
                self.begun.set()

    def __enter__(self) -> Writing:
        self.start()
        assert self.begun.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()


# -- files ---------------------------------------------------------------------------------------------------------------------


def test_every_page_comes_back_while_others_write(either: Cluster, room: Strongroom, tmp_path: Path) -> None:
    links = either.file("links")
    pages, answers = (either.postgres.data / links).read_bytes(), either.ask(NEAREST)
    (before,) = either.ask("SELECT count(*) FROM busy")
    with Writing(either):
        report = room.backup(either.url)
    (after,) = either.ask("SELECT count(*) FROM busy")
    record = report.snapshot.manifest
    counts = {one.name: one.count for one in record.collections}
    assert counts[f"{either.name}/still"] == 700
    assert before < counts[f"{either.name}/busy"] <= after
    assert not report.not_captured
    said = {one.item: one for one in record.ledger}
    assert said["index files"].status is said["rows"].status is Status.CAPTURED
    looked = said["tables and B-trees, looked at by pg_amcheck"]
    assert (looked.status, bool(looked.note)) in ((Status.CAPTURED, False), (Status.NOT_CAPTURED, True))
    assert (looked.status is Status.CAPTURED) == (either.postgres.programs / "pg_amcheck").exists() or "amcheck" in looked.note

    restored = room.restore("latest", place(tmp_path / "data"))
    assert any("identical bit for bit" in one for one in restored.checks)
    assert (tmp_path / "data" / links).read_bytes() == pages
    assert {one.stat().st_mode & 0o077 for one in (tmp_path / "data").rglob("*")} == {0}
    verify = subprocess.run(
        [either.postgres.programs / "pg_verifybackup", "-i", "strongroom.json", tmp_path / "data"], capture_output=True, check=False
    )
    assert verify.returncode == 0, verify.stderr
    with either.postgres.restored(tmp_path / "data") as server:
        assert either.ask(NEAREST, server) == answers
        rows = counts[f"{either.name}/busy"]
        assert either.ask("SELECT count(*), min(id), max(id) FROM busy", server) == (rows, 1, rows)
    looked_at = room.verify("latest", level=Level.ANSWERS)
    assert not looked_at.findings
    assert looked_at.looked_at["rows"] == sum(counts.values()) and looked_at.looked_at["probes"] > 0


def test_what_is_there_already_costs_next_to_nothing(cluster: Cluster, room: Strongroom) -> None:
    first = room.backup(cluster.url).snapshot.manifest
    cluster.ask("UPDATE still SET v = v WHERE id = 5; CHECKPOINT")
    second = room.backup(cluster.url).snapshot.manifest
    assert second.source_bytes > 30_000_000
    assert second.stored_bytes < first.stored_bytes / 10
    assert not room.verify(level=Level.DATA).findings


def test_what_arrives_is_held_against_the_manifest(cluster: Cluster, tmp_path: Path) -> None:
    tmp_path = tmp_path / "base"
    tmp_path.mkdir()
    came = received.receive(Server("127.0.0.1", cluster.postgres.port, "postgres"), tmp_path, SILENT)
    assert came.start < came.stop
    file = tmp_path / cluster.file("links")
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(SourceChanged, match="another checksum"):
        received.prove(tmp_path, SILENT)
    file.write_bytes(content[:-8192])
    with pytest.raises(SourceChanged, match="did not arrive"):
        received.prove(tmp_path, SILENT)
    file.write_bytes(content)
    received.prove(tmp_path, SILENT)
    (tmp_path / "base" / "stray").touch()
    with pytest.raises(SourceChanged, match="doesn't have it"):
        received.prove(tmp_path, SILENT)
    manifest = tmp_path / received.MANIFEST
    manifest.write_bytes(manifest.read_bytes().replace(b"PG_VERSION", b"PG_VERSIOM", 1))
    with pytest.raises(Unreadable):
        received.prove(tmp_path, SILENT)


def test_what_is_refused(
    cluster: Cluster, room: Strongroom, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WrongRequest) as told:
        room.backup(cluster.url.replace("postgres@", "postgres:s3cret@"))
    assert "s3cret" not in f"{told.value}{told.value.hint}"
    for url in ("pgvector+physical://", "pgvector+physical://host/database", "pgvector+physical:///x?schema=a"):
        with pytest.raises(WrongRequest):
            room.backup(url)
    room.backup(cluster.url)
    with pytest.raises(WrongRequest, match="not into a running server"):
        room.restore("latest", cluster.url)
    with pytest.raises(WrongRequest, match="whole"):
        room.restore("latest", place(tmp_path / "x"), collections=[f"{cluster.name}/still"])
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").touch()
    with pytest.raises(Refused, match="not empty"):
        room.restore("latest", place(tmp_path / "taken"))
    cluster.ask("CREATE ROLE plain LOGIN")
    with pytest.raises(Unreadable) as refused:
        room.backup(cluster.url.replace("postgres@", "plain@"))
    assert "REPLICATION" in str(refused.value.hint)
    monkeypatch.setenv(programs.VARIABLE, str(programs_of(16)))
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(WrongRequest, match="PostgreSQL 18"):
        room.backup(cluster.url)
    with pytest.raises(WrongRequest, match="own files"):
        room.restore("latest", place(tmp_path / "x"))
    assert not (tmp_path / "x").exists()


def test_tablespaces_are_refused(cluster: Cluster, room: Strongroom) -> None:
    folder = cluster.postgres.data.parent / "elsewhere"
    folder.mkdir()
    shutil.chown(folder, cluster.postgres.data.owner())
    with cluster.postgres.connect("postgres") as connection:
        connection.execute(f"CREATE TABLESPACE elsewhere LOCATION '{folder}'")
    with pytest.raises(Refused, match="tablespace"):
        room.backup(cluster.url)
    assert not room.snapshots()
    with cluster.postgres.connect("postgres") as connection:
        connection.execute("DROP TABLESPACE elsewhere")


@pytest.mark.soak
def test_a_killed_backup_leaves_nothing_running(cluster: Cluster, room: Strongroom, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        environs = {"TMPDIR": folder, programs.VARIABLE: str(cluster.postgres.programs)}
        command = [COMMAND, "backup", cluster.url, "--repo", str(tmp_path / "repo")]
        process = subprocess.Popen(command, env={**environment(), **environs}, stderr=subprocess.DEVNULL)
        while process.poll() is None and not (found := list(Path(folder).glob("strongroom-pg-*/.s.PGSQL.*.lock"))):
            pass
        number = int(found[0].read_text().split()[0])
        process.kill()
        process.wait()
        while Path(f"/proc/{number}/fd").exists() and (Path(f"/proc/{number}/cmdline").read_text()):
            pass
    assert not room.snapshots()
    assert not room.backup(cluster.url).not_captured


@pytest.mark.soak
def test_rows_go_into_another_engine(cluster: Cluster, room: Strongroom, tmp_path: Path) -> None:
    room.backup(cluster.url)
    target = cluster.postgres.database()
    name, url = f"{cluster.name}/still", cluster.postgres.url(target)
    report = room.restore("latest", url, collections=[name], renames={name: "still"})
    assert report.plan.rung.value == "rows into another engine"
    with cluster.postgres.connect(target) as connection:
        assert connection.execute("SELECT count(*) FROM still").fetchone() == (700,)


def test_only_what_changed_is_sent(cluster: Cluster, room: Strongroom, tmp_path: Path) -> None:
    keep = tmp_path / "keep"
    url = f"{cluster.url}?keep={keep}"

    def sent() -> str:
        record = room.backup(url).snapshot.manifest
        return next(one.note for one in record.ledger if one.item == "incremental base backup")

    assert "none of before" in sent()
    cluster.ask("INSERT INTO busy (v) VALUES ('[7,7,7]'); UPDATE still SET v = v WHERE id = 5; CHECKPOINT")
    pages = (cluster.postgres.data / cluster.file("links")).read_bytes()
    least = int(sent().split()[0].replace(",", ""))
    assert least < room.snapshots()[-1].manifest.source_bytes - (8 << 20)
    room.restore("latest", place(tmp_path / "data"))
    assert (tmp_path / "data" / cluster.file("links")).read_bytes() == pages
    with cluster.postgres.restored(tmp_path / "data") as server:
        assert cluster.ask("SELECT count(*) FROM busy", server) == (2,)
        assert cluster.ask(NEAREST, server) == cluster.ask(NEAREST)
    file = keep / "base" / cluster.file("links")
    file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:])
    cluster.ask("INSERT INTO still VALUES (1000, '[1,2,3,4,5,6,7,8]'); CHECKPOINT")  # else pg_combinebackup finds it itself
    assert "another checksum" in sent()
    assert "bytes were sent" in sent()


# -- moments -------------------------------------------------------------------------------------------------------------------


def test_a_moment_is_what_the_server_had_then(cluster: Cluster, room: Strongroom, tmp_path: Path) -> None:
    early = cluster.moment()
    room.follow(cluster.url, ONCE)
    cluster.ask("INSERT INTO busy (v) VALUES ('[7,7,7]')")
    (time, _), rows = cluster.moment(), cluster.ask("SELECT count(*) FROM busy")
    cluster.ask("DELETE FROM busy; CREATE TABLE later (id int PRIMARY KEY, v vector(2)); INSERT INTO later VALUES (1, '[1,2]')")
    with cluster.postgres.connect(cluster.name) as open_, open_.transaction():
        open_.execute("INSERT INTO later VALUES (2, '[1,2]')")
        (_, lsn) = cluster.moment()  # the next record is that of the commit
    cluster.ask("DROP TABLE later; UPDATE still SET v = '[0,0,0,0,0,0,0,0]'")
    room.follow(cluster.url, ONCE)

    def restored(at: str, check: Callable[[Restored], None]) -> None:
        directory = tmp_path / (re.sub("[^0-9]", "", at) or at)
        report = room.restore("latest", place(directory), at=at)
        assert any("came to the moment" in one for one in report.checks)
        assert at is lsn or room.restore("latest", place(directory), at=at).already_there
        with cluster.postgres.restored(directory) as server:
            check(server)

    def before(server: Restored) -> None:
        assert cluster.ask("SELECT count(*) FROM busy", server) == rows
        assert cluster.ask("SELECT to_regclass('later')", server) == (None,)

    def after(server: Restored) -> None:
        with feed.following(Server("127.0.0.1", server.port, "postgres"), "x" * 32) as follower:
            with pytest.raises(Gap, match="history"):  # the log went another way from the moment on
                follower.resume(span.fronts[-1].head.ends)
            cluster.ask("INSERT INTO busy (v) SELECT '[1,1,1]' FROM generate_series(1, 60000); DELETE FROM busy", server)
            with pytest.raises(Gap, match="history"):  # also once it is longer
                follower.resume(span.fronts[-1].head.ends)
        assert cluster.ask("SELECT count(*) FROM busy", server) == (0,)
        assert cluster.ask("SELECT count(*) FROM later", server) == (1,)
        assert cluster.ask("SELECT count(*) FROM still WHERE v <-> '[0,0,0,0,0,0,0,0]' = 0", server) == (0,)

    def at_last(server: Restored) -> None:
        assert cluster.ask("SELECT to_regclass('later')", server) == (None,)
        assert cluster.ask("SELECT count(*) FROM still WHERE v <-> '[0,0,0,0,0,0,0,0]' = 0", server) == cluster.ask(
            "SELECT count(*) FROM still WHERE v <-> '[0,0,0,0,0,0,0,0]' = 0"
        )

    ((stream, _),) = streams(room.repository).items()
    (span,) = spans(read_chain(room.repository, stream))
    restored(time, before)
    restored(lsn, after)
    restored("latest", at_last)
    for at, kind in ((early[0], Refused), (early[1], StrongroomError), ("2200-01-01T00:00:00Z", Refused), ("F/0", NotFound)):
        with pytest.raises(kind):
            room.restore("latest", place(tmp_path / "no"), at=at)
    assert not (tmp_path / "no").exists()
    with pytest.raises(Refused, match="only pgvector"):
        room.restore("latest", f"chroma://{tmp_path / 'no'}", at=lsn)
    with pytest.raises(WrongRequest, match="nothing of it can be left out"):
        room.restore("latest", place(tmp_path / "no"), undo="batch")
    assert not room.verify(level=Level.DATA).findings


def test_records_are_those_that_pg_waldump_finds(cluster: Cluster, room: Strongroom) -> None:
    room.follow(cluster.url, ONCE)
    cluster.ask("INSERT INTO busy (v) SELECT '[1,1,1]' FROM generate_series(1, 3000); SELECT pg_switch_wal()")
    cluster.ask("BEGIN; INSERT INTO busy (v) SELECT '[1,1,1]' FROM generate_series(1, 3000); ROLLBACK; CREATE INDEX ON busy (v)")
    room.follow(cluster.url, ONCE)
    ((stream, _),) = streams(room.repository).items()
    chain = read_chain(room.repository, stream)
    rows = [one for front in chain.fronts for change in read_changes(room.repository, front) for one in change.batch.to_pylist()]
    begin = rows[0][feed.PLACE]
    records = Records(begin, 16 << 20)
    found = [record for one in rows for record in records.take(one[feed.PLACE], one[feed.BYTES])]
    log = cluster.postgres.data / "pg_wal"
    command = [cluster.postgres.programs / "pg_waldump", "-p", log, "-s", _text(begin), "-e", _text(found[-1].end)]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    places = [lsn_number(one) for one in re.findall(r"lsn: ([0-9A-F]+/[0-9A-F]+)", told)]
    assert len(places) > 3000
    assert [one.start for one in found] == places
    ends = [line for line in told.splitlines() if re.search("desc: (COMMIT|ABORT)", line)]
    assert len(ends) == sum(one.time is not None for one in found) > 2


def _text(place: int) -> str:
    return f"{place >> 32:X}/{place & 0xFFFFFFFF:X}"


def test_the_server_keeps_what_is_not_stored_yet(cluster: Cluster) -> None:
    def kept() -> int:
        (place,) = cluster.ask("SELECT restart_lsn::text FROM pg_replication_slots WHERE slot_name LIKE 'strongroom_wal_y%'")
        return lsn_number(str(place))

    def read(follower: feed.WalFeed) -> feed.Mark:
        more = True
        while more:
            _, marks, more = follower.read()
        return feed.Mark.parse(marks[""])

    with feed.following(Server("127.0.0.1", cluster.postgres.port, "postgres"), "y" * 32) as follower:
        begin = feed.Mark.parse(follower.begin()[""]).place
        for _ in range(2):  # the second time after the stream was cut
            cluster.ask("INSERT INTO busy (v) VALUES ('[7,7,7]')")
            end = read(follower)
            assert end.place > begin
            assert kept() == begin
            cluster.ask("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active")
        cluster.ask("INSERT INTO busy (v) VALUES ('[7,7,7]')")
        read(follower)
        follower.shipped({"": str(replace(end, place=begin))})
        cluster.ask("INSERT INTO busy (v) VALUES ('[7,7,7]')")
        read(follower)
        assert kept() == begin
        follower.shipped({"": str(end)})
        cluster.ask("INSERT INTO busy (v) VALUES ('[7,7,7]')")
        read(follower)
        assert kept() == end.place


def test_a_follower_is_killed_and_nothing_is_lost(cluster: Cluster, room: Strongroom, tmp_path: Path) -> None:
    room.follow(cluster.url, ONCE)
    command = ["journal", "follow", cluster.url, "--repo", tmp_path / "repo", "--every", "0.6"]
    with Writing(cluster):
        for _ in range(2):
            process = command_forks.start(command, environment(), stdout=DEVNULL)
            assert process.stderr is not None
            assert any("segment" in line for line in process.stderr)
            process.send_signal(signal.SIGKILL)
            process.wait()
    rows, (time, _) = cluster.ask("SELECT count(*) FROM busy"), cluster.moment()
    for _ in range(10):
        room.follow(cluster.url, ONCE)
        (status,) = room.journal_status(ask=True)
        if status.behind is not None and not status.behind.bytes:  # else the server vacuumed meanwhile
            break
    assert not status.holes and not status.problems
    assert status.behind is not None and status.behind.bytes == 0
    room.restore("latest", place(tmp_path / "data"), at=time)
    with cluster.postgres.restored(tmp_path / "data") as server:
        assert cluster.ask("SELECT count(*) FROM busy", server) == rows


def test_the_journal_goes_on_over_a_promotion(cluster: Cluster, room: Strongroom, tmp_path: Path) -> None:
    room.follow(cluster.url, ONCE)
    cluster.ask("INSERT INTO busy (v) VALUES ('[8,8,8]')")
    cluster.postgres.stand_by()
    with pytest.raises(Refused, match="standby"):
        room.backup(cluster.url)
    cluster.postgres.promote()
    cluster.ask("INSERT INTO busy (v) VALUES ('[9,9,9]')")
    (time, _) = cluster.moment()
    cluster.ask("DELETE FROM busy")
    report = room.follow(cluster.url, ONCE)
    assert not report.gaps and not report.snapshots
    room.restore("latest", place(tmp_path / "data"), at=time)
    with cluster.postgres.restored(tmp_path / "data") as server:
        assert cluster.ask("SELECT count(*) FROM busy", server) == (3,)


def test_what_the_server_has_forgotten_is_a_hole(cluster: Cluster, room: Strongroom, tmp_path: Path) -> None:
    room.follow(cluster.url, ONCE)
    (slot,) = cluster.ask("SELECT slot_name FROM pg_replication_slots")
    cluster.ask(f"SELECT pg_drop_replication_slot('{slot}')")
    cluster.ask("INSERT INTO busy (v) VALUES ('[7,7,7]')")
    report = room.follow(cluster.url, ONCE)  # the server still has it all: the slot is made again
    assert not report.gaps
    cluster.ask(f"SELECT pg_drop_replication_slot('{slot}')")
    (lost, _) = cluster.moment()
    for _ in range(3):
        cluster.ask("INSERT INTO busy (v) VALUES ('[7,7,7]'); SELECT pg_switch_wal()")
        cluster.ask("CHECKPOINT")
    report = room.follow(cluster.url, ONCE)
    assert len(report.gaps) == len(report.snapshots) == 1
    (status,) = room.journal_status()
    assert "removed" in status.holes[0].reason
    with pytest.raises(Refused, match="hole"):
        room.restore("latest", place(tmp_path / "no"), at=lost)
    assert room.release(cluster.url)
    assert cluster.ask("SELECT count(*) FROM pg_replication_slots") == (0,)
