"""Does a PostgreSQL database with pgvector come back: every type, key, index and sequence; at one moment; safely into place?"""

from __future__ import annotations

import json
import threading
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from commands import PASSWORD, strongroom
from postgres import Postgres

from strongroom import engines
from strongroom.engines.pgvector import frozen
from strongroom.errors import EngineFailed, NotFound, Refused, SourceChanged, Unreadable, WrongRequest
from strongroom.library import Strongroom, init_repository
from strongroom.operations.verify import Level
from strongroom.progress import SILENT
from strongroom.repository import Argon2Cost

EVERY_TYPE = """
CREATE SCHEMA app;
CREATE TABLE items (
  id bigserial PRIMARY KEY, embedding vector(8), half halfvec(4), bits bit(5), sparse sparsevec(5),
  amount numeric(12,3) CHECK (amount <> 7), list int[], at timestamptz, day date, span interval, body jsonb, raw json, content text,
  padded char(4), address inet, key uuid UNIQUE, flag boolean, bytes bytea, small smallint, single real, exact float8,
  short varchar(10) NOT NULL DEFAULT 'x', twice int GENERATED ALWAYS AS (small * 2) STORED);
CREATE INDEX ON items USING hnsw (embedding vector_cosine_ops) WITH (m = 8);
CREATE INDEX cast_idx ON items USING hnsw ((embedding::halfvec(8)) halfvec_l2_ops);
CREATE INDEX part_idx ON items (amount DESC) INCLUDE (flag) WHERE amount > 1;
INSERT INTO items (embedding, half, bits, sparse, amount, list, at, day, span, body, raw, content, padded, address, key, flag,
  bytes, small, single, exact)
SELECT ARRAY[sin(i), cos(i), i, 1, 2, 3, 4, 5]::vector, ARRAY[i, 0.1, 3, 4]::halfvec, '01010', '{1:1.5,3:2}/5', i * 1.125,
  ARRAY[i, NULL], '2026-11-24 10:00:00.123456+02'::timestamptz + i * interval '1 minute', date '2026-01-01' + i,
  i * interval '1 month 2 days', jsonb_build_object('k', i, 'text', 'ä "quoted"'), '{"a" :  1}', 'text ' || i, 'ab', '10.0.0.1',
  gen_random_uuid(), i % 2 = 0, decode('00ff', 'hex'), i, i * 0.1, i / 3.0 FROM generate_series(1, 600) i;
INSERT INTO items (at, day, amount, single, exact, content)
  VALUES ('infinity', '-infinity', 'NaN', 'NaN', '-0', E'tab\\t\\\\ \\nnew');
CREATE TABLE app.pairs (a int, b text, v vector(3), id int GENERATED ALWAYS AS IDENTITY (INCREMENT BY 10), PRIMARY KEY (b, a));
INSERT INTO app.pairs (a, b, v) SELECT i, 'é.' || i, ARRAY[i, 1, 2]::vector FROM generate_series(1, 50) i;
CREATE TABLE "Odd.name" (k varchar PRIMARY KEY, "select" vector(2));
INSERT INTO "Odd.name" VALUES ('a"b', '[1,2]'), ('c', NULL);
CREATE TABLE nokey (v vector, t text);
INSERT INTO nokey VALUES ('[1,2]', 'same'), ('[1,2]', 'same'), ('[3,4]', 'other');
CREATE TABLE plain (a int);
CREATE TABLE empty (id int PRIMARY KEY, v vector(3));
"""
NAMES = ['"Odd.name"', "app.pairs", "empty", "items", "nokey"]


@pytest.fixture
def room(tmp_path: Path) -> Strongroom:
    return init_repository(str(tmp_path / "repo"), password=PASSWORD, cost=Argon2Cost(1, 1, 64))


def content(connection: psycopg.Connection, table: str) -> list[str]:
    """Every row of a table as PostgreSQL writes it."""
    return sorted(row[0] for row in connection.execute(f"SELECT t::text FROM {table} t"))


def definitions(connection: psycopg.Connection) -> list[str]:
    """Columns, indexes and constraints of all tables."""
    queries = (
        "SELECT indexdef FROM pg_indexes WHERE schemaname IN ('public', 'app')",
        """SELECT concat(conrelid::regclass, conname, pg_get_constraintdef(oid)) FROM pg_constraint
           WHERE connamespace::regnamespace::text IN ('public', 'app') AND contype <> 'n'""",
        """SELECT concat(attrelid::regclass, attname, format_type(atttypid, atttypmod), attnotnull, attidentity, attgenerated,
                         pg_get_expr(adbin, adrelid))
           FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum JOIN pg_class c ON c.oid = attrelid
           WHERE relkind = 'r' AND attnum > 0 AND relnamespace::regnamespace::text IN ('public', 'app')""",
        "SELECT concat(schemaname, sequencename, increment_by, last_value) FROM pg_sequences",
    )
    return [row[0] for query in queries for row in sorted(connection.execute(query).fetchall())]


def test_everything_comes_back(any_postgres: Postgres, room: Strongroom, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = any_postgres.database(), any_postgres.database()
    with any_postgres.connect(source) as connection:
        connection.execute(EVERY_TYPE)
        before = definitions(connection)
        rows = {name: content(connection, name) for name in NAMES}
    report = room.backup(any_postgres.url(source))
    assert sorted(one.name for one in report.snapshot.manifest.collections) == NAMES
    assert {one.item: one.note for one in report.snapshot.manifest.ledger}["tables without vectors"] == "plain"
    restored = room.restore("latest", any_postgres.url(target))
    assert sum("all columns equal" in check for check in restored.checks) == len(NAMES), restored.checks
    assert all(recall > 0.8 for recall in restored.recall.values()), restored.recall
    with any_postgres.connect(target) as connection:
        assert {name: content(connection, name) for name in NAMES} == rows
        connection.execute("CREATE TABLE plain (a int)")
        assert [one for one in definitions(connection) if not one.startswith("strongroom")] == before
        assert not connection.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'strongroom\\_%'").fetchall()
        connection.execute("INSERT INTO items (amount) VALUES (3)")
        assert connection.execute("SELECT max(id) FROM items").fetchone() == (602,)
    scratch = any_postgres.database()
    monkeypatch.setenv("STRONGROOM_PGVECTOR_SCRATCH", any_postgres.url(scratch))
    verified = room.verify("latest", level=Level.ANSWERS)
    assert not verified.findings, verified.findings
    with any_postgres.connect(scratch) as connection:
        assert connection.execute("SELECT nspname FROM pg_namespace WHERE nspname ~ '^strongroom'").fetchall() == [("strongroom",)]
        assert not connection.execute("SELECT 1 FROM strongroom.receipts").fetchall()
    assert verified.looked_at["rows"] == sum(map(len, rows.values()))


def test_all_tables_by_choice_and_who_may_do_what(any_postgres: Postgres, room: Strongroom) -> None:
    source, target = any_postgres.database(), any_postgres.database()
    with any_postgres.connect(source) as connection:
        connection.execute(EVERY_TYPE)
        connection.execute("CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE DOMAIN few AS int CHECK (VALUE < 9)")
        connection.execute("CREATE TABLE notes (id int PRIMARY KEY, felt mood[], n few, words text); CREATE INDEX ON notes (words)")
        connection.execute(
            "INSERT INTO notes VALUES (1, '{sad,glad}', 3, 'a'), (2, NULL, NULL, NULL); INSERT INTO plain VALUES (5)"
        )
        connection.execute("CREATE ROLE reading; CREATE ROLE looking LOGIN IN ROLE reading")
        connection.execute("GRANT SELECT ON notes TO reading WITH GRANT OPTION; GRANT UPDATE (words) ON notes TO PUBLIC")
        before = definitions(connection)
        rows = {name: content(connection, name) for name in (*NAMES, "notes", "plain")}
    try:
        url = f"{any_postgres.url(source)}?tables=all"
        record = room.backup(url).snapshot.manifest
        assert {one.name: one.count for one in record.collections} == {name: len(found) for name, found in rows.items()}
        assert "tables without vectors" not in {one.item for one in record.ledger}
        roles = {one["name"]: one for one in record.catalog["roles"]}
        assert roles["looking"]["member_of"] == ["reading"] and roles["looking"]["login"] and not roles["reading"]["login"]
        rights = record.catalog["rights"]["notes"]
        assert rights["owner"] == "postgres"
        assert {"role": "reading", "privilege": "SELECT", "may_grant": True} in rights["grants"]
        assert rights["column_grants"] == [{"role": "PUBLIC", "privilege": "UPDATE", "may_grant": False, "column": "words"}]
        types = {one["name"]: one for one in record.catalog["types"]}
        assert types["mood"]["labels"] == ["sad", "glad"] and types["few"]["constraints"] == ["CHECK ((VALUE < 9))"]
        with any_postgres.connect(target) as connection:
            connection.execute("CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE DOMAIN few AS int CHECK (VALUE < 9)")
        room.restore("latest", f"{any_postgres.url(target)}?tables=all")
        assert room.restore("latest", f"{any_postgres.url(target)}?tables=all").already_there
        with any_postgres.connect(target) as connection:
            assert {name: content(connection, name) for name in rows} == rows
            assert [one for one in definitions(connection) if not one.startswith("strongroom")] == before
        with pytest.raises(Refused, match="can't be followed"):
            room.follow(url)
    finally:
        with any_postgres.connect(source) as connection:
            connection.execute("DROP OWNED BY reading; DROP ROLE looking; DROP ROLE reading")


def test_a_sequence_that_may_not_be_read_goes_on_after_the_rows(any_postgres: Postgres, room: Strongroom) -> None:
    source, target = any_postgres.database(), any_postgres.database()
    with any_postgres.connect(source) as connection:
        connection.execute("CREATE TABLE up (id serial PRIMARY KEY, v vector(2))")
        connection.execute("CREATE SEQUENCE falling INCREMENT -1 MAXVALUE 100 START 100")
        connection.execute("CREATE TABLE down (id bigint PRIMARY KEY DEFAULT nextval('falling'), v vector(2))")
        connection.execute("ALTER SEQUENCE falling OWNED BY down.id")
        for table in ("up", "down"):
            connection.execute(f"INSERT INTO {table} (v) SELECT '[1,2]' FROM generate_series(1, 9)")
        connection.execute("CREATE ROLE looker LOGIN")
        connection.execute("GRANT SELECT ON up, down TO looker")
    try:
        report = room.backup(any_postgres.url(source).replace("postgres@", "looker@"))
        ledger = {one.item: one for one in report.snapshot.manifest.ledger}
        assert "up_id_seq: this user may not read it" in ledger["up: where its sequences are"].note
        room.restore("latest", any_postgres.url(target))
        with any_postgres.connect(target) as connection:
            for table, number in (("up", 10), ("down", 91)):
                found = connection.execute(f"INSERT INTO {table} (v) VALUES ('[3,4]') RETURNING id").fetchone()
                assert found == (number,)
    finally:
        with any_postgres.connect(source) as connection:
            connection.execute("DROP OWNED BY looker")
            connection.execute("DROP ROLE looker")


def test_partitions_and_heirs_come_back_with_their_keys(postgres: Postgres, room: Strongroom) -> None:
    """Constraints that a table has from the one above it are its own once it is a table of its own."""
    source, target = postgres.database(), postgres.database()
    with postgres.connect(source) as connection:
        connection.execute("CREATE TABLE p (t int, id int CHECK (id > 0), v vector(3), note text, PRIMARY KEY (t, id),"
                           " UNIQUE (t, note)) PARTITION BY LIST (t)")  # fmt: skip
        connection.execute("CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1); CREATE INDEX ON p USING hnsw (v vector_l2_ops)")
        connection.execute("INSERT INTO p SELECT 1, i, ARRAY[i, 1, 2]::vector, i FROM generate_series(1, 50) i")
        connection.execute(
            "CREATE TABLE base (id int CHECK (id > 0), v vector(3)); CREATE TABLE kid (PRIMARY KEY (id)) INHERITS (base)"
        )
        connection.execute("INSERT INTO kid VALUES (5, '[1,2,3]')")
        wanted = [one for one in definitions(connection) if one.startswith(("p1", "kid")) or " public.p1 " in one]
    record = room.backup(postgres.url(source)).snapshot.manifest
    ledger = {one.item for one in record.ledger}
    assert {f"{one}: its place as a partition or heir" for one in ("p1", "kid")} <= ledger
    assert "base: its place as a partition or heir" not in ledger
    room.restore("latest", postgres.url(target))
    with postgres.connect(target) as connection:
        assert len(wanted) > 6 and set(wanted) <= set(definitions(connection))


def test_keys_that_rows_do_not_hold_or_hold_otherwise_than_as_text(postgres: Postgres, room: Strongroom) -> None:
    """What a search finds is the row that it is: also where the key is computed, or of several columns of any type."""
    source, target = postgres.database(), postgres.database()
    rows = "i, ARRAY[sin(i), cos(i), i]::vector FROM generate_series(1, 60) i"
    with postgres.connect(source) as connection:
        connection.execute("CREATE TABLE one (n int, v vector(3), id text GENERATED ALWAYS AS (md5(n::text)) STORED PRIMARY KEY)")
        connection.execute("CREATE TABLE two (a int, n int, v vector(3), id text GENERATED ALWAYS AS (md5(n::text)) STORED,"
                           " PRIMARY KEY (a, id))")  # fmt: skip
        connection.execute("CREATE TABLE more (h bytea, f float8, s real, b bool, n int, v vector(3), PRIMARY KEY (h, f, s, b, n))")
        connection.execute(f"INSERT INTO one (n, v) SELECT {rows}; INSERT INTO two (a, n, v) SELECT 1, {rows}")
        connection.execute(f"INSERT INTO more SELECT decode(md5(i::text), 'hex'), i, i / 10.0, i % 2 = 0, {rows}")
        before = definitions(connection)
        held = {name: content(connection, name) for name in ("one", "two", "more")}
    room.backup(postgres.url(source))
    restored = room.restore("latest", postgres.url(target))
    assert sorted(restored.recall) == ["more", "one", "two"] and min(restored.recall.values()) > 0.8, restored.recall
    with postgres.connect(target) as connection:
        assert [one for one in definitions(connection) if not one.startswith("strongroom")] == before
        assert {name: content(connection, name) for name in held} == held


def test_types_of_one_name_in_several_schemas(postgres: Postgres, room: Strongroom) -> None:
    """A schema for each tenant, with the same types in each, and in that of the extension."""
    source, target = postgres.database(), postgres.database()
    for name in (source, target):
        with postgres.connect(name) as connection:
            connection.execute(
                "CREATE SCHEMA app; CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE TYPE app.mood AS ENUM ('sad', 'glad')"
            )
    with postgres.connect(source) as connection:
        connection.execute("CREATE TABLE app.t (id int PRIMARY KEY, m app.mood DEFAULT 'sad', p public.mood, v vector(2))")
        connection.execute("INSERT INTO app.t VALUES (1, 'glad', 'sad', '[1,2]')")
        before = definitions(connection)
    room.backup(postgres.url(source))
    room.restore("latest", postgres.url(target))
    with postgres.connect(target) as connection:
        assert [one for one in definitions(connection) if not one.startswith("strongroom")] == before


def test_a_sequence_that_no_column_owns(postgres: Postgres, room: Strongroom) -> None:
    source, target = postgres.database(), postgres.database()
    with postgres.connect(source) as connection:
        connection.execute("CREATE SEQUENCE s; CREATE TABLE t (id int PRIMARY KEY DEFAULT nextval('s'), n serial, v vector(2))")
        connection.execute("INSERT INTO t (v) VALUES ('[1,2]')")
    ledger = {one.item: one.note for one in room.backup(postgres.url(source)).snapshot.manifest.ledger}
    assert "that of id is no column's" in ledger["t: sequences of others"]
    with pytest.raises(EngineFailed, match='"s" does not exist'):
        room.restore("latest", postgres.url(target))
    with postgres.connect(target) as connection:
        connection.execute("CREATE SEQUENCE s START 2")
    room.restore("latest", postgres.url(target))
    with postgres.connect(target) as connection:
        connection.execute("INSERT INTO t (v) VALUES ('[3,4]')")
        assert content(connection, "t") == ['(1,1,"[1,2]")', '(2,2,"[3,4]")']


def test_limits_of_the_database_do_not_end_the_moment(postgres: Postgres) -> None:
    source = postgres.database()
    with postgres.connect(source) as connection:
        connection.execute("CREATE TABLE t (id int PRIMARY KEY, v vector(3)); INSERT INTO t VALUES (1, '[1,2,3]')")
        for limit in ("statement", "transaction", "idle_session", "idle_in_transaction_session"):
            connection.execute(f"ALTER DATABASE {source} SET {limit}_timeout = '300ms'")
    with engines.source_of(postgres.url(source)).freeze(SILENT) as found:
        time.sleep(0.6)
        assert sum(block.batch.num_rows for block in found.rows("t")) == 1
        found.check()


def test_renamed_to_the_longest_name(postgres: Postgres, room: Strongroom) -> None:
    """What belongs to a table is called after it, and no two alike."""
    source, target, longest = postgres.database(), postgres.database(), "b" * 63
    with postgres.connect(source) as connection:
        connection.execute("CREATE TABLE t (id serial PRIMARY KEY, n serial UNIQUE, v vector(3), w vector(3))")
        connection.execute("CREATE INDEX ON t USING hnsw (v vector_l2_ops); CREATE INDEX ON t USING hnsw (w vector_l2_ops)")
        connection.execute("INSERT INTO t (v, w) VALUES ('[1,2,3]', '[4,5,6]')")
    room.backup(postgres.url(source))
    room.restore("latest", postgres.url(target, "app"), renames={"t": longest})
    with postgres.connect(target) as connection:
        assert content(connection, f"app.{longest}") == ['(1,1,"[1,2,3]","[4,5,6]")']
        assert connection.execute("SELECT count(*) FROM pg_indexes WHERE schemaname = 'app'").fetchone() == (4,)
        connection.execute(f"INSERT INTO app.{longest} (v) VALUES (NULL)")
        assert connection.execute(f"SELECT max(id), max(n) FROM app.{longest}").fetchone() == (2, 2)


def test_long_documents_come_in_small_blocks(postgres: Postgres, room: Strongroom, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a block takes in memory is bounded by all that is in its rows, not by their vectors alone."""
    source, target = postgres.database(), postgres.database()
    with postgres.connect(source) as connection:
        connection.execute("CREATE TABLE t (id int PRIMARY KEY, v vector(3), content text)")
        connection.execute("INSERT INTO t SELECT i, ARRAY[i, 1, 2]::vector, repeat(md5(i::text), i) FROM generate_series(1, 200) i")
        before = content(connection, "t")
    monkeypatch.setattr(frozen, "_MOST_BYTES", 50_000)
    with engines.source_of(postgres.url(source)).freeze(SILENT) as found:
        blocks = [block.batch.nbytes for block in found.rows("t")]
    assert len(blocks) > 10 and max(blocks) < 60_000
    first = room.backup(postgres.url(source)).snapshot.manifest
    with postgres.connect(source) as connection:
        connection.execute("UPDATE t SET content = 'short' WHERE id = 100")
        connection.execute("UPDATE t SET content = repeat(md5('100'), 100) WHERE id = 100")
    assert room.backup(postgres.url(source)).snapshot.manifest.root == first.root
    room.restore("latest", postgres.url(target))
    with postgres.connect(target) as connection:
        assert content(connection, "t") == before


@pytest.mark.soak
def test_restored_twice_is_the_same_state(postgres: Postgres, room: Strongroom) -> None:
    source, target = postgres.database(), postgres.database()
    with postgres.connect(source) as connection:
        connection.execute(EVERY_TYPE)
    room.backup(postgres.url(source))
    room.restore("latest", postgres.url(target))
    assert room.restore("latest", postgres.url(target)).already_there
    with postgres.connect(target) as connection:
        connection.execute("DELETE FROM items WHERE id < 10")
        connection.execute("CREATE TABLE mine (id int PRIMARY KEY, v vector(2))")
    with pytest.raises(Refused, match="not empty"):
        room.restore("latest", postgres.url(target))
    assert not room.restore("latest", postgres.url(target), overwrite=True).already_there
    with postgres.connect(target) as connection, postgres.connect(source) as original:
        assert content(connection, "items") == content(original, "items")
        connection.execute("SELECT * FROM mine")
        connection.execute("CREATE VIEW leans AS SELECT id FROM items")
        connection.execute("DELETE FROM items WHERE id < 10")
    with pytest.raises(Refused, match="can't take their places"):
        room.restore("latest", postgres.url(target), overwrite=True)
    with postgres.connect(target) as connection:
        assert len(content(connection, "items")) == 592  # as it was: all or nothing


def test_a_table_that_appears_while_it_is_restored_is_left_alone(
    postgres: Postgres, room: Strongroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    from strongroom.engines.pgvector.target import PgStage

    source, target = postgres.database(), postgres.database()
    with postgres.connect(source) as connection:
        connection.execute(EVERY_TYPE)
    room.backup(postgres.url(source))
    publish = PgStage.publish

    def late(stage, receipt, *, overwrite):
        with postgres.connect(target) as connection:
            connection.execute("CREATE TABLE items (id int)")
        publish(stage, receipt, overwrite=overwrite)

    monkeypatch.setattr(PgStage, "publish", late)
    with pytest.raises(Refused, match="items is already there"):
        room.restore("latest", postgres.url(target))
    with postgres.connect(target) as connection:
        assert content(connection, "items") == []
        assert not connection.execute("SELECT to_regclass('app.pairs')").fetchone()[0]  # nor is anything else in place


@pytest.mark.soak
def test_renamed_beside_the_original(postgres: Postgres, room: Strongroom) -> None:
    source = postgres.database()
    with postgres.connect(source) as connection:
        connection.execute(EVERY_TYPE)
    room.backup(postgres.url(source))
    room.restore(
        "latest", postgres.url(source), collections=["items", "app.pairs"], renames={"items": "app.items", "app.pairs": "old"}
    )
    with postgres.connect(source) as connection:
        assert content(connection, "app.items") == content(connection, "items")
        assert content(connection, "old") == content(connection, "app.pairs")


def test_one_moment_while_transactions_begin_before_and_commit_after(postgres: Postgres, room: Strongroom) -> None:
    """Each transaction moves a unit from one table to another: in any one moment the sum is the same."""
    source, target = postgres.database(), postgres.database()
    with postgres.connect(source) as connection:
        for name in ("one", "two"):
            connection.execute(f"CREATE TABLE {name} (id int PRIMARY KEY, n int, v vector(4))")
            connection.execute(f"INSERT INTO {name} SELECT i, 1000, '[1,2,3,4]' FROM generate_series(1, 300) i")
    stop = threading.Event()

    def move(seed: int) -> None:
        draw = np.random.default_rng(seed)
        with psycopg.connect(postgres.conninfo(source)) as connection:
            while not stop.is_set():
                row, amount = int(draw.integers(1, 301)), int(draw.integers(1, 9))
                connection.execute("UPDATE one SET n = n - %s WHERE id = %s", (amount, row))
                stop.wait(0.002)
                connection.execute("UPDATE two SET n = n + %s WHERE id = %s", (amount, row))
                connection.commit()

    writers = [threading.Thread(target=move, args=(seed,)) for seed in range(3)]
    for one in writers:
        one.start()
    try:
        for round_ in range(3):
            room.backup(postgres.url(source))
            room.restore("latest", postgres.url(target), overwrite=round_ > 0)
            with postgres.connect(target) as connection:
                assert connection.execute("SELECT (SELECT sum(n) FROM one) + (SELECT sum(n) FROM two)").fetchone() == (600_000,)
    finally:
        stop.set()
        for one in writers:
            one.join()


def test_an_interrupted_restore_goes_on(postgres: Postgres, room: Strongroom, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = postgres.database(), postgres.database()
    with postgres.connect(source) as connection:
        connection.execute(EVERY_TYPE)
    room.backup(postgres.url(source))
    from strongroom.engines.pgvector.target import PgStage

    loaded: list[str] = []
    load = PgStage.load

    def failing(stage, collection, batches):
        if len(loaded) == 3:
            raise EngineFailed("cut off")
        loaded.append(collection.name)
        load(stage, collection, batches)

    monkeypatch.setattr(PgStage, "load", failing)
    with pytest.raises(EngineFailed, match="cut off"):
        room.restore("latest", postgres.url(target))
    with postgres.connect(target) as connection:
        assert not connection.execute("SELECT 1 FROM pg_tables WHERE schemaname = 'public'").fetchall()
    monkeypatch.setattr(PgStage, "load", lambda stage, one, batches: (loaded.append(one.name), load(stage, one, batches)))
    room.restore("latest", postgres.url(target))
    assert sorted(loaded) == sorted(NAMES)  # none twice
    with postgres.connect(target) as connection, postgres.connect(source) as original:
        assert content(connection, "items") == content(original, "items")


def test_a_table_truncated_in_the_middle_is_noticed(postgres: Postgres, room: Strongroom, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction's snapshot doesn't show what a table held before it was truncated."""
    source = postgres.database()
    with postgres.connect(source) as connection:
        connection.execute(EVERY_TYPE)
    hold = frozen._hold

    def truncated(moment, tables):
        with postgres.connect(source) as connection:
            connection.execute("TRUNCATE items")
        hold(moment, tables)

    monkeypatch.setattr(frozen, "_hold", truncated)
    with pytest.raises(SourceChanged, match="items"):
        room.backup(postgres.url(source))


def test_bits_sparse_vectors_and_other_metrics(postgres: Postgres, room: Strongroom, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = postgres.database(), postgres.database()
    with postgres.connect(source) as connection:
        connection.execute("CREATE TABLE bits (id int PRIMARY KEY, b bit(64)); CREATE INDEX ON bits USING hnsw (b bit_hamming_ops)")
        connection.execute("INSERT INTO bits SELECT i, i::bit(64) FROM generate_series(1, 50) i")
        connection.execute("CREATE TABLE flags (id int PRIMARY KEY, b bit(3))")
        connection.execute("CREATE TABLE sparse (id int PRIMARY KEY, s sparsevec(9))")
        connection.execute("INSERT INTO sparse SELECT i, ('{1:' || i || '}/9')::sparsevec FROM generate_series(1, 50) i")
        connection.execute(
            "CREATE TABLE manhattan (id int PRIMARY KEY, v vector(3)); CREATE INDEX ON manhattan USING hnsw (v vector_l1_ops)"
        )
        connection.execute("INSERT INTO manhattan SELECT i, ARRAY[i, 0, 1]::vector FROM generate_series(1, 50) i")
        connection.execute("CREATE INDEX ON manhattan USING ivfflat (v vector_ip_ops) WITH (lists = 3)")
    report = room.backup(postgres.url(source, "public"))
    assert [one.name for one in report.snapshot.manifest.collections] == ["bits", "manhattan", "sparse"]
    room.restore("latest", postgres.url(target, "public"))
    with postgres.connect(source) as before, postgres.connect(target) as after:
        assert definitions(after) == [one for one in definitions(before) if "flags" not in one]
        assert all(content(after, name) == content(before, name) for name in ("bits", "manhattan", "sparse"))
    monkeypatch.setenv("STRONGROOM_PGVECTOR_SCRATCH", postgres.url(postgres.database()))
    assert not room.verify("latest", level=Level.ANSWERS).findings


def test_a_type_that_the_target_lacks(postgres: Postgres, room: Strongroom) -> None:
    source, target = postgres.database(), postgres.database()
    with postgres.connect(source) as connection:
        connection.execute("CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE TABLE kinds (id int PRIMARY KEY, m mood, v vector(2))")
        connection.execute("INSERT INTO kinds VALUES (1, 'glad', '[1,2]')")
    room.backup(postgres.url(source))
    with pytest.raises(EngineFailed, match="mood"):
        room.restore("latest", postgres.url(target))
    with postgres.connect(target) as connection:
        connection.execute("CREATE TYPE mood AS ENUM ('sad', 'glad')")
        room.restore("latest", postgres.url(target))
        assert connection.execute("SELECT m::text FROM kinds").fetchone() == ("glad",)


def test_rows_of_another_engine(postgres: Postgres, room: Strongroom, tmp_path: Path) -> None:
    import faiss
    import pyarrow as pa
    import pyarrow.parquet as pq

    vectors = np.random.default_rng(1).standard_normal((200, 16)).astype(np.float32)
    index = faiss.IndexHNSWFlat(16, 8)
    index.add(vectors)
    faiss.write_index(index, str(tmp_path / "x.faiss"))
    table = pa.table({"id": [f"n{i}" for i in range(200)], "document": [f"d{i}" for i in range(200)], "score": list(range(200))})
    pq.write_table(table, tmp_path / "x.parquet")
    room.backup(f"faiss://{tmp_path}/x.faiss")
    target = postgres.database()
    report = room.restore("latest", postgres.url(target, "fresh"))
    assert all(recall > 0.9 for recall in report.recall.values())
    with postgres.connect(target) as connection:
        name = report.plan.collections[0].target_name
        found = connection.execute(f'SELECT id, document, score FROM fresh."{name}" ORDER BY score').fetchall()
        assert found == [(f"n{i}", f"d{i}", i) for i in range(200)]
        assert "hnsw" in str(connection.execute("SELECT indexdef FROM pg_indexes WHERE schemaname = 'fresh'").fetchall())


DIGITS = [
    '{"x":0.1234567890123456789,"n":12345678901234567890123}', '{"x":0.5,"list":[1.00000000000000000001]}', '{"x":1e400}',
    '{"x":0.30000000000000004,"deep":{"y":9007199254740993.5}}',
]  # fmt: skip
"""Numbers of which a double holds only some."""


def with_digits(connection: psycopg.Connection) -> list[dict[str, Any]]:
    """The rows of the only table, the keys of objects beside its columns, numbers as decimals."""
    ((table,),) = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    rows = connection.execute(f'SELECT to_jsonb(t)::text FROM "{table}" t ORDER BY id')
    found = [json.loads(text, parse_float=Decimal, parse_int=Decimal) for (text,) in rows]
    return [one | {key: value for its in one.values() if isinstance(its, dict) for key, value in its.items()} for one in found]


@pytest.mark.parametrize("engine", ["duckdb", "faiss", "lancedb", "sqlite-vec"])
def test_numbers_of_json_keep_their_digits(postgres: Postgres, room: Strongroom, tmp_path: Path, engine: str) -> None:
    source, back = postgres.database(), postgres.database()
    with postgres.connect(source) as connection:
        connection.execute("CREATE TABLE items (id text PRIMARY KEY, v vector(2), payload jsonb, more json)")
        for number, one in enumerate(DIGITS):
            connection.execute("INSERT INTO items VALUES (%s, %s, %s, %s)", (str(number), f"[1,{number}]", one, one))
    room.backup(postgres.url(source))
    room.restore("latest", f"{engine}://{tmp_path}/there")
    room.backup(f"{engine}://{tmp_path}/there")
    room.restore("latest", postgres.url(back))
    with postgres.connect(back) as connection:
        found = with_digits(connection)
    for text, row in zip(DIGITS, found, strict=True):
        for key, value in json.loads(text, parse_float=Decimal, parse_int=Decimal).items():
            assert row[key] == value
        assert row["more"] == text, "a column of json is text, and no payload"


@pytest.mark.parametrize("engine", ["chroma", "faiss", "lancedb"])
def test_rows_go_into_another_engine_and_back(postgres: Postgres, room: Strongroom, tmp_path: Path, engine: str) -> None:
    source, back = postgres.database(), postgres.database()
    with postgres.connect(source) as connection:
        connection.execute(
            "CREATE TABLE notes (id text PRIMARY KEY, v vector(16), content text, n numeric, at timestamptz DEFAULT now())"
        )
        for number, row in enumerate(np.random.default_rng(5).standard_normal((120, 16)).astype(np.float32)):
            values = (f"n{number}", str(row.tolist()), f"text {number}", number)
            connection.execute("INSERT INTO notes VALUES (%s, %s, %s, %s)", values)
        rows = connection.execute("SELECT id, v::text, content FROM notes ORDER BY id").fetchall()
    room.backup(postgres.url(source))
    leaf = {"chroma": "db", "faiss": "notes.faiss", "lancedb": "db"}[engine]
    url = f"{engine}://{tmp_path}/{leaf}"
    with pytest.raises(Refused):
        room.restore("latest", url, require_exact=True)
    report = room.restore("latest", url)
    assert min(report.recall.values()) > 0.8
    room.backup(url)
    room.restore("latest", postgres.url(back))
    (collection,) = room.snapshot("latest").manifest.collections
    vector = collection.catalog.fields[0].name
    with postgres.connect(back) as connection:
        query = f"SELECT attname FROM pg_attribute WHERE attrelid = '{collection.name}'::regclass"
        columns = [name for (name,) in connection.execute(query)]
        document = "document" if "document" in columns else "content"
        query = f'SELECT id, "{vector}"::text, "{document}" FROM "{collection.name}" ORDER BY id'
        assert connection.execute(query).fetchall() == rows


def test_a_plan_touches_nothing_and_what_is_known_is_not_stored_again(postgres: Postgres, room: Strongroom) -> None:
    source, target = postgres.database(), postgres.database()
    with postgres.connect(source) as connection:
        connection.execute(EVERY_TYPE)
    first = room.backup(postgres.url(source)).snapshot.manifest
    plan = room.plan_restore("latest", postgres.url(target))
    assert (plan.rows, plan.occupied, plan.rung.value) == (first.rows, (), "rows + rebuild")
    with postgres.connect(target) as connection:
        assert connection.execute("SELECT count(*) FROM pg_namespace WHERE nspname ~ '^strongroom'").fetchone() == (0,)
    second = room.backup(postgres.url(source)).snapshot.manifest
    assert second.root == first.root
    assert second.stored_bytes < first.stored_bytes / 4
    with postgres.connect(source) as connection:
        connection.execute("UPDATE items SET amount = 8 WHERE id = 5")
    third = room.backup(postgres.url(source)).snapshot.manifest
    assert third.root != first.root
    assert third.stored_bytes < first.stored_bytes / 2


def test_what_is_refused(postgres: Postgres, room: Strongroom) -> None:
    source = postgres.database(extension=False)
    with pytest.raises(Unreadable, match="pgvector"):
        room.backup(postgres.url(source))
    with pytest.raises(NotFound):
        room.backup(postgres.url("nowhere"))
    for url in ("pgvector:///", "pgvector://u@h/db?x=1", "pgvector:db", "pgvector://h/a/b", "pgvector://h:port/a"):
        with pytest.raises(WrongRequest):
            room.backup(url)


def test_a_password_in_the_url_is_refused_and_not_repeated(room: Strongroom, tmp_path: Path) -> None:
    ended = strongroom("backup", "pgvector://me:hunter2@127.0.0.1/db", env={"STRONGROOM_REPOSITORY": str(tmp_path / "repo")})
    ended.failed(2, "password", "PGPASSWORD")
    assert "hunter2" not in ended.err
