"""Is every moment of a PostgreSQL database what the server itself showed at that place of its log?"""

from __future__ import annotations

import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from queue import Queue

import command_forks
import numpy as np
import psycopg
import pytest
from commands import PASSWORD, environment
from forks import DEVNULL, Running
from postgres import Postgres

from strongroom.engines.changes import MARK, CatalogChange
from strongroom.errors import NotFound, Refused, StrongroomError, Unreachable
from strongroom.journal.sealing import Fenced
from strongroom.journal.spans import Span, spans
from strongroom.journal.stream import read_chain, read_changes, streams
from strongroom.journal.timeline import at_time
from strongroom.library import Strongroom, init_repository
from strongroom.operations.follow.run import FollowOptions, FollowReport
from strongroom.operations.verify import Level
from strongroom.repository import Argon2Cost

ONCE = FollowOptions(once=True, probes=4)


@pytest.fixture
def room(tmp_path: Path) -> Strongroom:
    return init_repository(str(tmp_path / "repo"), password=PASSWORD, cost=Argon2Cost(1, 1, 64))


class Database:
    """A source, and what it showed at places of its log."""

    def __init__(self, postgres: Postgres, *tables: str) -> None:
        self.postgres = postgres
        self.name = postgres.database()
        self.url = postgres.url(self.name)
        self.seen: list[tuple[str, dict[str, list[str]], list[str]]] = []
        with postgres.connect(self.name) as connection:
            for one in tables:
                connection.execute(one)

    def run(self, *statements: str, look: bool = True) -> None:
        """Each statement by itself; then look."""
        with self.postgres.connect(self.name) as connection:
            for one in statements:
                connection.execute(one)
        if look:
            self.look()

    def ask(self, query: str) -> object:
        with self.postgres.connect(self.name) as connection:
            (found,) = connection.execute(query).fetchone() or (None,)
            return found

    def look(self) -> None:
        """By a snapshot of the server's own, and the place in the log that it says this is."""
        with (
            psycopg.connect(f"{self.postgres.conninfo(self.name)} replication=database", autocommit=True) as replication,
            self.postgres.connect(self.name) as connection,
        ):
            made = "CREATE_REPLICATION_SLOT looking TEMPORARY LOGICAL pgoutput (SNAPSHOT 'export')"
            _, place, snapshot, _ = replication.execute(made).fetchone()
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            connection.execute(f"SET TRANSACTION SNAPSHOT '{snapshot}'")
            self.seen.append((place, state(connection), indexes(connection)))

    def check(self, room: Strongroom, places: Iterator[int] | range | None = None) -> None:
        """Restore what was seen, and compare every row."""
        for number in places if places is not None else range(len(self.seen)):
            place, rows, _ = self.seen[number]
            target = self.postgres.database()
            report = room.restore("latest", self.postgres.url(target), at=place)
            with self.postgres.connect(target) as connection:
                assert state(connection) == rows, (number, place, report.checks)
                assert indexes(connection) == self.seen[number][2], number


def state(connection: psycopg.Connection) -> dict[str, list[str]]:
    """Every row of every table with vectors, as PostgreSQL writes it."""
    tables = connection.execute(
        "SELECT DISTINCT c.oid::regclass::text FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid"
        " WHERE relkind = 'r' AND atttypid IN ('vector'::regtype, 'halfvec'::regtype)"
        " AND relnamespace::regnamespace::text !~ '^pg_'"
    ).fetchall()
    return {name: sorted(row[0] for row in connection.execute(f"SELECT t::text FROM {name} t")) for (name,) in tables}


def indexes(connection: psycopg.Connection) -> list[str]:
    query = "SELECT indexdef FROM pg_indexes WHERE schemaname !~ '^(pg_|strongroom)' ORDER BY indexname"
    return [row[0] for row in connection.execute(query)]


def vector(seed: float, dimension: int = 3) -> str:
    return "[" + ",".join(f"{value:.7g}" for value in np.sin(seed + np.arange(dimension) * 0.37)) + "]"


ITEMS = """
CREATE TABLE items (id bigserial PRIMARY KEY, v vector(1500), amount numeric(9,2), body jsonb, note text, list int[], flag boolean,
  bytes bytea, single real, padded char(5), at timestamptz)
"""


def test_every_moment_of_rows_keys_and_definitions(any_postgres: Postgres, room: Strongroom) -> None:
    source = Database(
        any_postgres, ITEMS, "CREATE SCHEMA app", "CREATE TABLE app.pairs (a int, b text, h halfvec(4), PRIMARY KEY (a, b))"
    )
    fill = f"""INSERT INTO items (v, amount, body, note, list, flag, bytes, single, padded, at) SELECT '{vector(1, 1500)}'::vector,
        i * 1.5, jsonb_build_object('k', i), 'note ä ' || i, ARRAY[i, NULL], i % 2 = 0, decode('00ff', 'hex'), i * 0.1, 'ab',
        '2026-11-24 10:00:00.5+02' FROM generate_series(1, 40) i"""
    source.run(fill, "INSERT INTO app.pairs SELECT i, 'p' || i, '[1,2,3,4]' FROM generate_series(1, 20) i", look=False)
    room.follow(source.url, ONCE)
    source.look()
    source.run("UPDATE items SET note = 'changed', flag = NULL WHERE id <= 10")  # the vector lies out of line and stays
    source.run(
        f"UPDATE items SET v = '{vector(2.5, 1500)}', list = '{{}}' WHERE id BETWEEN 5 AND 15", "DELETE FROM items WHERE id = 3"
    )
    source.run("UPDATE items SET id = id + 1000 WHERE id > 35", "UPDATE app.pairs SET b = 'moved', h = NULL WHERE a < 4")
    room.follow(source.url, ONCE)
    source.run(
        "CREATE INDEX ON items USING hnsw ((v::halfvec(1500)) halfvec_cosine_ops)", "ALTER TABLE items ADD COLUMN extra text"
    )
    source.run("UPDATE items SET extra = 'x' WHERE id = 1; INSERT INTO items (v, note, extra) VALUES (NULL, 'new', 'y')")
    source.run("CREATE TABLE fresh (k uuid PRIMARY KEY DEFAULT gen_random_uuid(), v vector(3), w halfvec(2))")
    source.run(*(f"INSERT INTO fresh (v, w) VALUES ('{vector(i)}', '[{i},0.1]')" for i in range(5)))
    source.run("ALTER TABLE fresh RENAME TO renamed", "ALTER TABLE renamed ADD CONSTRAINT there CHECK (v IS NOT NULL)")
    source.run("TRUNCATE app.pairs", "INSERT INTO app.pairs VALUES (7, 'after', '[5,6,7,8]')")
    source.run("DROP INDEX items_v_idx", "BEGIN; DELETE FROM items WHERE id = 7; ROLLBACK")
    source.run("DROP TABLE renamed")
    source.run("ALTER TABLE items ALTER note SET DEFAULT 'none'; INSERT INTO items (single) VALUES ('NaN'), ('-Infinity'), (1e-40)")
    report = room.follow(source.url, ONCE)
    assert not report.gaps
    assert len(room.snapshots()) == 1  # the base alone
    source.check(room)
    source.run("DELETE FROM items", look=False)
    with pytest.raises((Refused, NotFound)):
        room.restore("latest", any_postgres.url(any_postgres.database()), at=lsn(source))  # not in the journal yet
    assert not room.verify(level=Level.DATA).findings


def lsn(source: Database) -> str:
    with source.postgres.connect(source.name) as connection:
        return str(connection.execute("SELECT pg_current_wal_insert_lsn()").fetchone()[0])


@contextmanager
def writing(source: Database, writers: int, tables: tuple[str, ...] = ("one", "two")) -> Iterator[None]:
    """Transactions over two tables that overlap: who begins first often commits last; some are rolled back."""
    stop = threading.Event()

    def write(seed: int) -> None:
        draw = np.random.default_rng(seed)
        with psycopg.connect(source.postgres.conninfo(source.name)) as connection:
            while not stop.is_set():
                for table in tables:
                    key = int(draw.integers(0, 100)) * writers + seed
                    if draw.random() < 0.2:
                        connection.execute(f"DELETE FROM {table} WHERE id = %s", (key,))
                    else:
                        connection.execute(
                            f"INSERT INTO {table} VALUES (%s, %s, %s) ON CONFLICT (id) DO UPDATE SET n = EXCLUDED.n"
                            + (", v = EXCLUDED.v" if draw.random() < 0.5 else ""),
                            (key, int(draw.integers(0, 10**6)), vector(float(draw.random()), 700)),
                        )
                    stop.wait(float(draw.random()) * 0.03)
                if draw.random() < 0.1:
                    connection.rollback()
                else:
                    connection.commit()

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(writers)]
    for one in threads:
        one.start()
    try:
        yield
    finally:
        stop.set()
        for one in threads:
            one.join()


TWO = tuple(f"CREATE TABLE {name} (id int PRIMARY KEY, n int, v vector(700))" for name in ("one", "two"))


@contextmanager
def follower(source: Database, room: Strongroom) -> Iterator[Running]:
    """The command, as a process of its own."""
    command = ["journal", "follow", source.url, "--every", "1"]
    process = command_forks.start(command, environment(STRONGROOM_REPOSITORY=room.repository.store.url), stdout=DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.soak
def test_followers_are_killed_while_transactions_overlap(postgres: Postgres, room: Strongroom) -> None:
    source = Database(postgres, *TWO)
    cut_off = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = current_database()"
    room.follow(source.url, ONCE)
    with writing(source, 3):
        for _ in range(3):
            with follower(source, room) as process:
                time.sleep(2)
                source.run(cut_off, look=False)  # the server hangs up: the follower comes again
                time.sleep(1.5)
                source.look()
                time.sleep(0.7)
                process.send_signal(signal.SIGKILL)
            source.look()
        room.backup(source.url)  # its position lies between others' transactions
        time.sleep(0.3)
        source.look()
    report = room.follow(source.url, ONCE)
    assert not report.gaps
    assert sum(len(rows) for rows in source.seen[-1][1].values()) > 50
    source.check(room, iter((0, 2, 3, 5, 6)))


def test_a_second_follower_takes_over(postgres: Postgres, room: Strongroom, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server lets one read its log: the first follower is told that it is not the network."""
    from strongroom.engines.pgvector import feed

    monkeypatch.setattr(feed, "_PATIENCE_SECONDS", 1.0)
    source = Database(postgres, *TWO)
    room.follow(source.url, ONCE)
    ended: Queue[Exception] = Queue()

    def first() -> None:
        try:
            room.follow(source.url, FollowOptions(every=600))
        except StrongroomError as error:
            ended.put(error)

    thread = threading.Thread(target=first, daemon=True)
    thread.start()
    active = "SELECT active FROM pg_replication_slots WHERE database = current_database()"
    while not source.ask(active):
        time.sleep(0.05)
    with follower(source, room) as second:
        assert isinstance(error := ended.get(timeout=60), Fenced), error
        source.run(f"INSERT INTO one VALUES (1, 1, '{vector(1, 700)}')")
        second.terminate()
        assert second.wait(60) == 0
    assert not room.follow(source.url, ONCE).gaps
    source.check(room, iter((0,)))


def test_a_slot_that_is_gone_is_a_hole(postgres: Postgres, room: Strongroom) -> None:
    source = Database(postgres, *TWO)
    room.follow(source.url, ONCE)
    source.run(f"INSERT INTO one VALUES (1, 1, '{vector(1, 700)}')")
    room.follow(source.url, ONCE)
    with postgres.connect(source.name) as connection:
        slot = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()"
        connection.execute(slot)
    source.run(f"INSERT INTO one VALUES (2, 2, '{vector(2, 700)}')")
    report = room.follow(source.url, ONCE)
    assert ["slot" in gap for gap in report.gaps] == [True]
    assert len(room.snapshots()) == 2
    source.run(f"INSERT INTO one VALUES (3, 3, '{vector(3, 700)}')")
    room.follow(source.url, ONCE)
    source.check(room, iter((0, 2)))
    with pytest.raises((Refused, NotFound)):
        room.restore("latest", postgres.url(postgres.database()), at=source.seen[1][0])


def test_a_snapshot_of_before_a_server_was_set_back_is_no_base_of_after_it(room: Strongroom, tmp_path: Path) -> None:
    """Its place in the log comes again: what was written there the first time is not in what came to be there the second time."""
    server = Postgres()
    try:
        server.start()
        source = Database(server, *TWO)
        rows = "INSERT INTO one SELECT n, n, array_fill(n, ARRAY[700])::vector FROM generate_series({}, {}) n"
        source.run(rows.format(1, 9))
        room.follow(source.url, ONCE)
        with server.down() as data:
            shutil.copytree(data, tmp_path / "copy", symlinks=True)
        source.run(rows.format(100, 180))
        lost = room.backup(source.url, probes=0).snapshot.manifest.position
        room.follow(source.url, ONCE)
        with server.down() as data:
            shutil.rmtree(data)
            shutil.copytree(tmp_path / "copy", data, symlinks=True)
        source.run(rows.format(10, 12))
        report = room.follow(source.url, ONCE)
        source.run(rows.format(13, 13), rows.format(200, 400))  # before that place, and after it
        room.follow(source.url, ONCE)
        with server.connect(source.name) as connection:
            place = connection.execute("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn").fetchall()[0][0]
            there = [one for (one,) in connection.execute("SELECT id FROM one ORDER BY id").fetchall()]
        assert place > int(lost.value)
        assert len(report.gaps) == 1
        target = server.database()
        room.restore("latest", server.url(target), at="latest")
        with server.connect(target) as connection:
            assert [one for (one,) in connection.execute("SELECT id FROM one ORDER BY id").fetchall()] == there
    finally:
        server.stop()


@pytest.mark.parametrize(
    "statement, reason",
    [
        ("ALTER TABLE one DROP COLUMN n", "column n is gone"),
        ("ALTER TABLE one ADD COLUMN z int DEFAULT 7", "column z was added with values"),
        ("ALTER TABLE one ALTER n TYPE bigint", "column n has another type"),
        ("CREATE TABLE copied AS SELECT * FROM one", "came with rows"),
    ],
)
def test_what_the_log_does_not_tell_is_a_hole_and_then_goes_on(
    postgres: Postgres, room: Strongroom, statement: str, reason: str
) -> None:
    source = Database(postgres, *TWO)
    room.follow(source.url, ONCE)
    source.run(f"INSERT INTO one VALUES (1, 1, '{vector(1, 700)}')", "UPDATE one SET n = 2")
    source.run(statement)
    if statement.startswith("CREATE"):
        with pytest.raises(Refused, match="primary key"):
            room.follow(source.url, ONCE)
        source.run("ALTER TABLE copied ADD PRIMARY KEY (id)", look=False)
    reports: list[FollowReport] = [room.follow(source.url, ONCE)]
    gaps = [gap for report in reports for gap in report.gaps]
    if not statement.startswith("CREATE"):
        assert any(reason in gap for gap in gaps), gaps
    source.run("DELETE FROM one")
    assert not room.follow(source.url, ONCE).gaps
    source.check(room, iter((0, 2)))


def test_nobodys_own_work_fails_because_it_can_not_be_noted(postgres: Postgres, room: Strongroom) -> None:
    source = Database(postgres, *TWO)
    room.follow(source.url, ONCE)
    source.run(
        "CREATE OR REPLACE FUNCTION strongroom.described(number oid) RETURNS json LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'broken'; END $$",
        f"INSERT INTO one VALUES (1, 1, '{vector(1, 700)}')",
    )
    source.run("ALTER TABLE one ADD COLUMN more int", "CREATE TABLE three (id int PRIMARY KEY, v vector(3))")
    source.run("INSERT INTO three VALUES (1, '[1,2,3]')")
    report = room.follow(source.url, ONCE)
    assert ["could not be noted" in gap for gap in report.gaps] == [True]
    source.run("DELETE FROM three", "CREATE INDEX ON one (n)")
    assert not room.follow(source.url, ONCE).gaps
    source.check(room, iter((0, 3)))


def test_a_transaction_that_stays_open(postgres: Postgres, room: Strongroom, monkeypatch: pytest.MonkeyPatch) -> None:
    from strongroom.engines.pgvector import moment

    monkeypatch.setattr(moment, "_PATIENCE_SECONDS", 1.0)
    source = Database(postgres, *TWO)
    source.run(f"INSERT INTO one VALUES (1, 1, '{vector(1, 700)}')", look=False)
    with psycopg.connect(postgres.conninfo(source.name)) as writer:
        writer.execute("INSERT INTO two VALUES (1, 1, NULL)")
        report = room.backup(source.url)
        assert report.snapshot.manifest.position.kind == "transactions"
        assert [one.count for one in report.snapshot.manifest.collections] == [1, 0]
        with pytest.raises(Unreachable):
            room.follow(source.url, ONCE)
    source.look()
    assert not room.follow(source.url, ONCE).gaps
    source.run("DELETE FROM two")
    room.follow(source.url, ONCE)
    source.check(room, iter((1,)))


BIG = f"INSERT INTO one SELECT i, 1, '{vector(1, 700)}' FROM generate_series(1, 4000) i"


def test_a_transaction_of_many_pieces_is_there_or_not(
    postgres: Postgres, room: Strongroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    from strongroom.engines.pgvector.feed import PgFeed

    source = Database(postgres, *TWO)
    room.follow(source.url, ONCE)
    source.run(f"INSERT INTO one VALUES (0, 1, '{vector(1, 700)}')")
    source.run(f"BEGIN; {BIG}; UPDATE one SET n = 2 WHERE id < 5; DELETE FROM one WHERE id = 3; COMMIT")
    shipped, sealed = PgFeed.shipped, []

    def killed(feed, marks):
        sealed.append(marks)
        if len(sealed) == 3:
            raise KeyboardInterrupt
        shipped(feed, marks)

    monkeypatch.setattr(PgFeed, "shipped", killed)
    with pytest.raises(KeyboardInterrupt):
        room.follow(source.url, FollowOptions(once=True, most=1 << 20))
    monkeypatch.setattr(PgFeed, "shipped", shipped)
    assert len({marks[""] for marks in sealed}) == 1  # three segments, and the transaction isn't complete
    (status,) = room.journal_status()
    assert status.operations > 1000
    target = postgres.database()
    room.restore("latest", postgres.url(target), at=sealed[-1][""])
    with postgres.connect(target) as connection:
        assert state(connection) == source.seen[0][1]
    chain = read_chain(room.repository, status.stream)
    (span,) = spans(chain)
    late = replace(span.fronts[-1].head, seen=span.fronts[-1].head.latest)  # as where the server's clock goes behind ours
    told = Span((*span.fronts[:-1], replace(span.fronts[-1], head=late)))
    moment = at_time([told], late.latest, lambda front: list(read_changes(room.repository, front)))
    assert moment is not None
    assert moment.number == 2  # the tables, and the first row
    room.backup(source.url)
    report = room.follow(source.url, FollowOptions(once=True, most=1 << 20))
    assert report.segments > 3
    source.run("DELETE FROM one WHERE id = 7")
    room.follow(source.url, ONCE)
    source.check(room)


def test_a_transaction_of_many_pieces_that_the_log_does_not_tell(postgres: Postgres, room: Strongroom) -> None:
    source = Database(postgres, *TWO)
    room.follow(source.url, ONCE)
    source.run(f"INSERT INTO one VALUES (0, 1, '{vector(1, 700)}')")
    source.run(f"BEGIN; {BIG}; ALTER TABLE one DROP COLUMN n; COMMIT")
    report = room.follow(source.url, FollowOptions(once=True, most=1 << 20))
    assert ["column n is gone" in gap for gap in report.gaps] == [True]
    source.run("DELETE FROM one WHERE id < 10")
    assert not room.follow(source.url, ONCE).gaps
    source.check(room, iter((0, 2)))
    with pytest.raises((Refused, NotFound)):
        room.restore("latest", postgres.url(postgres.database()), at=source.seen[1][0])


def test_each_commit_is_there_once_however_often_the_follower_begins(postgres: Postgres, room: Strongroom) -> None:
    source = Database(postgres, "CREATE TABLE small (id int PRIMARY KEY, v vector(2))")
    room.follow(source.url, ONCE)
    for step in range(12):
        source.run(*(f"INSERT INTO small VALUES ({10 * step + one}, '[{step},1]')" for one in range(step % 3 + 1)), look=False)
        room.follow(source.url, ONCE)
    (stream,) = streams(room.repository)
    found = [
        one
        for front in read_chain(room.repository, stream).fronts
        for change in read_changes(room.repository, front)
        for one in ([] if isinstance(change, CatalogChange) else change.batch.column("id").to_pylist())
    ]
    assert found == [10 * step + one for step in range(12) for one in range(step % 3 + 1)]


def test_old_rows_stay_whole_in_the_log_whoever_alters_that(postgres: Postgres, room: Strongroom) -> None:
    source = Database(postgres, *TWO)
    room.follow(source.url, ONCE)
    source.run(f"INSERT INTO one VALUES (1, 1, '{vector(1, 700)}')")
    source.run("ALTER TABLE one REPLICA IDENTITY DEFAULT", "UPDATE one SET n = 5")
    assert not room.follow(source.url, ONCE).gaps
    source.check(room)


def test_what_follows_is_taken_away_again(postgres: Postgres, room: Strongroom) -> None:
    source = Database(postgres, *TWO, "CREATE TABLE three (a int NOT NULL UNIQUE, k int PRIMARY KEY, v vector(2))")
    source.run("ALTER TABLE three REPLICA IDENTITY USING INDEX three_a_key", look=False)
    room.follow(source.url, ONCE)
    with postgres.connect(source.name) as connection:
        identities = (
            "SELECT relname, relreplident::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        )
        ours = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"
        assert connection.execute(ours).fetchone() == (1,)
        assert set(dict(connection.execute(identities).fetchall()).values()) == {"f"}
    assert room.release(source.url)
    with postgres.connect(source.name) as connection:
        assert connection.execute(ours).fetchone() == (0,)
        for query in ("SELECT 1 FROM pg_publication", "SELECT 1 FROM pg_event_trigger"):
            assert not connection.execute(query).fetchall()
        identities = (
            "SELECT relname, relreplident::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        )
        assert dict(connection.execute(identities).fetchall()) == {"one": "d", "two": "d", "three": "i"}
        connection.execute("CREATE TABLE four (v vector(2))")
    assert not room.release(source.url)


def test_the_log_is_let_go_while_nothing_happens_to_the_tables(postgres: Postgres, room: Strongroom) -> None:
    source = Database(postgres, *TWO, "CREATE TABLE other (t text)")
    room.follow(source.url, ONCE)
    kept = "SELECT pg_current_wal_lsn() - confirmed_flush_lsn FROM pg_replication_slots WHERE database = current_database()"
    with postgres.connect(source.name) as connection:
        connection.execute("INSERT INTO other SELECT repeat('x', 1000) || i FROM generate_series(1, 5000) i")
        before = connection.execute(kept).fetchone()[0]
        room.follow(source.url, ONCE)
        while connection.execute(kept).fetchone()[0] > before / 10:  # the server takes what it is told when it comes to it
            time.sleep(0.02)
    (status,) = room.journal_status(ask=True)
    assert status.behind is not None
    source.run(f"INSERT INTO one VALUES (1, 1, '{vector(1, 700)}'), (2, 1, NULL)", look=False)
    assert room.journal_status(ask=True)[0].behind.operations == 2


def test_before_an_ingest_batch_and_what_is_selected(postgres: Postgres, room: Strongroom) -> None:
    source = Database(postgres, "CREATE TABLE docs (id text PRIMARY KEY, v vector(3), meta jsonb)", TWO[0])
    options = FollowOptions(once=True, probes=4, batch_key="batch")
    room.follow(source.url, options)
    source.run(f"INSERT INTO docs VALUES ('a', '{vector(1)}', '{{\"batch\": \"b1\"}}')")
    mixed = f"INSERT INTO docs VALUES ('b', '{vector(2)}', NULL), ('c', '{vector(3)}', '{{\"batch\": \"b2\"}}')"
    source.run(mixed)
    room.follow(source.url, options)
    target = postgres.database()
    room.restore("latest", postgres.url(target), at="before:b2", collections=["docs"], renames={"docs": "papers"})
    with postgres.connect(target) as connection:
        assert connection.execute("SELECT id FROM papers ORDER BY id").fetchall() == [("a",)]  # a transaction is whole or not there
        assert not connection.execute("SELECT to_regclass('one')").fetchone()[0]
    mark = last_mark(room)
    for at, ids in ((str(mark - 1), ["a"]), (str(mark), ["a", "b", "c"])):  # a position is that of the last byte of the commit
        target = postgres.database()
        room.restore("latest", postgres.url(target), at=at)
        with postgres.connect(target) as connection:
            assert [one for (one,) in connection.execute("SELECT id FROM docs ORDER BY id")] == ids


def test_a_table_that_came_after_the_snapshot_by_itself(postgres: Postgres, room: Strongroom) -> None:
    source = Database(postgres, TWO[0])
    room.follow(source.url, ONCE)
    source.run("CREATE TABLE late (id int PRIMARY KEY, v vector(3))", f"INSERT INTO late VALUES (1, '{vector(1)}'), (2, NULL)")
    room.follow(source.url, ONCE)
    target = postgres.database()
    room.restore("latest", postgres.url(target), at=str(last_mark(room)), collections=["late"])
    with postgres.connect(target) as connection, postgres.connect(source.name) as original:
        rows = "SELECT id, v::text FROM late ORDER BY id"
        assert connection.execute(rows).fetchall() == original.execute(rows).fetchall()
        assert not connection.execute("SELECT to_regclass('one')").fetchone()[0]


def last_mark(room: Strongroom) -> int:
    """The place of the last commit in the journal."""
    (stream,) = streams(room.repository)
    marks = [
        int(mark)
        for front in read_chain(room.repository, stream).fronts
        for change in read_changes(room.repository, front)
        for mark in ([change.mark] if isinstance(change, CatalogChange) else change.batch.column(MARK).to_pylist())
    ]
    assert marks == sorted(marks)
    return marks[-1]


def test_a_restore_killed_in_the_middle_of_the_replay(postgres: Postgres, room: Strongroom) -> None:
    source = Database(postgres, *TWO)
    room.follow(source.url, ONCE)
    for step in range(3):
        rows = f"SELECT i, {step}, '{vector(step, 700)}' FROM generate_series({step}000, {step}999) i"
        source.run(f"INSERT INTO one {rows}", look=step == 2)
    room.follow(source.url, ONCE)
    target = postgres.database()
    columns = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'public.one'::regclass AND attnum > 0"
    command = ["restore", "--at", source.seen[-1][0], postgres.url(target), "--overwrite"]
    env = environment(STRONGROOM_REPOSITORY=room.repository.store.url)
    killed = 0
    with postgres.connect(target) as connection:
        connection.execute("CREATE TABLE one (id int PRIMARY KEY, v vector(2))")
        for wait in (0.1, 0.3, 0.6, 1.0):
            process = command_forks.start(command, env, stdout=DEVNULL, stderr=DEVNULL)
            try:
                process.wait(wait)
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                if connection.execute(columns).fetchone() != (2,):  # published, though it hadn't ended: whole, or it is seen below
                    break
                killed += 1
    assert killed
    room.restore("latest", postgres.url(target), at=source.seen[-1][0], overwrite=True)
    with postgres.connect(target) as connection:
        assert state(connection) == source.seen[-1][1]
        assert not connection.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'strongroom\\_%'").fetchall()


def test_a_slot_that_the_server_gave_up_is_a_hole(postgres: Postgres, room: Strongroom) -> None:
    source = Database(postgres, *TWO)
    room.follow(source.url, ONCE)
    with postgres.connect(source.name) as connection:
        connection.execute("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'")
        connection.execute("SELECT pg_reload_conf()")
        try:
            for _ in range(4):
                rows = f"SELECT i, 1, '{vector(1, 700)}' FROM generate_series(1, 200) i"
                connection.execute(f"INSERT INTO one {rows} ON CONFLICT (id) DO UPDATE SET n = 2")
                connection.execute("SELECT pg_switch_wal()")
            status = "SELECT wal_status FROM pg_replication_slots WHERE database = current_database()"
            while connection.execute(status).fetchone() != ("lost",):
                connection.execute("CHECKPOINT")
                time.sleep(0.02)
        finally:
            connection.execute("ALTER SYSTEM RESET max_slot_wal_keep_size")
            connection.execute("SELECT pg_reload_conf()")
    report = room.follow(source.url, ONCE)
    assert ["max_slot_wal_keep_size" in gap for gap in report.gaps] == [True]
    source.run("UPDATE one SET n = 3")
    assert not room.follow(source.url, ONCE).gaps
    source.check(room)
    room.release(source.url)


def test_tables_restored_into_a_followed_database_are_noticed(postgres: Postgres, room: Strongroom) -> None:
    source = Database(postgres, TWO[0])
    source.run(f"INSERT INTO one VALUES (1, 1, '{vector(1, 700)}')", look=False)
    room.follow(source.url, ONCE)
    room.restore("latest", source.url, renames={"one": "back"}, collections=["one"])
    report = room.follow(source.url, ONCE)
    assert ["back came with rows" in gap for gap in report.gaps] == [True]
    source.run("DELETE FROM back")
    room.follow(source.url, ONCE)
    source.check(room)


def test_who_may_not_and_what_can_not_be_followed(
    any_postgres: Postgres, room: Strongroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Database(any_postgres, "CREATE TABLE nokey (v vector(3))")
    with pytest.raises(Refused, match="primary key"):
        room.follow(source.url, ONCE)
    source.run("ALTER TABLE nokey ADD id serial PRIMARY KEY, ADD w vector", look=False)
    with pytest.raises(Refused, match="length"):
        room.follow(source.url, ONCE)
    source.run("ALTER TABLE nokey DROP w", "CREATE ROLE plain LOGIN", "GRANT SELECT ON nokey TO plain", look=False)
    user = source.url.replace("postgres@", "plain@")
    with pytest.raises(Refused, match=r"superuser|permission|privilege|denied"):
        room.follow(user, ONCE)
    with any_postgres.connect(source.name) as connection:
        assert not connection.execute("SELECT 1 FROM pg_publication").fetchall()
    report = room.backup(user)  # a backup needs no more than to read
    items = {one.item: one.note for one in report.snapshot.manifest.ledger}
    assert "no journal can go on" in items["position in the server's log"]
    assert report.snapshot.manifest.position.kind == "transactions"
