"""What only a DuckDB database has: types, schemas and keys, its lock, its log, indexes by an extension that may not be there."""

from __future__ import annotations

import os
import signal
import textwrap
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import duckdb
import lancedb
import numpy as np
import pyarrow as pa
import pytest
from forks import PIPE, Running
from hypothesis import given
from hypothesis import strategies as st
from processes import program
from raw_engines import _duck as connected
from raw_engines import duckdb_make, duckdb_read

import strongroom
from strongroom.engines.duckdb import DuckDB
from strongroom.engines.duckdb.definition import carried, collection_name, items_of, place_of
from strongroom.engines.duckdb.streaming import streamed
from strongroom.errors import EngineFailed, Locked, NotFound, Refused, Unreadable, WrongRequest
from strongroom.model import Status, Verdict
from strongroom.repository import Argon2Cost

HERE = Path(__file__).parent
IMPORTABLE = os.pathsep.join(map(str, (HERE, HERE.parent / "servers")))


@pytest.fixture
def room(tmp_path: Path) -> strongroom.Strongroom:
    return strongroom.init(str(tmp_path / "repository"), password="x", cost=Argon2Cost(1, 1, 64))


def url(path: Path) -> str:
    return f"duckdb://{path}"


RICH = r"""
    create schema "sch.ema"; create sequence s start 5; create type mood as enum ('sad', 'o''k, "fine"');
    create table other (n integer, body varchar); insert into other values (1, 'text');
    create view looking as select * from other; create macro doubled(x) as 2 * x;
    create table "sch.ema"."we ird""é" (
        "the key" bigint primary key, e float[4], f float[2] not null, n integer default nextval('s'), text varchar, uri varchar,
        b boolean, t tinyint, us usmallint, ub ubigint, h hugeint, uh uhugeint, d double, fl float, dc decimal(30, 7), bl blob,
        da date, tm time, tz time with time zone, ts timestamp, tss timestamp_s, tsn timestamp_ns, tst timestamptz, iv interval,
        u uuid, bi bit, m mood, l varchar[], li integer[2], st struct(a integer, "b c" varchar[]), mp map(varchar, double),
        lu uuid[], un union(i integer, s varchar), twice integer generated always as (n * 2), unique (n), check (n > 0));
    insert into "sch.ema"."we ird""é" (
        "the key", e, f, text, uri, b, t, us, ub, h, uh, d, fl, dc, bl, da, tm, tz, ts, tss, tsn, tst, iv, u, bi, m, l, li, st,
        mp, lu, un)
    values
        (9223372036854775807, [1, 2, 3, 4], [1, 2], 'ü' || chr(0) || ' 😀', 'a://b', true, -128, 65535, 18446744073709551615,
         -170141183460469231731687303715884105728, 340282366920938463463374607431768211455, 1e300, '-0'::float, 1.5,
         '\x00\xFF'::blob, '1969-01-01', '23:59:59.999999', '10:00:00+02', '1900-01-01 00:00:00.000001', '1900-01-01', '1900-01-01',
         '2020-02-02 02:02:02+05', interval '1 year 2 days 3.5 seconds', '00000000-0000-0000-0000-0000000000ff', '0101',
         'o''k, "fine"',
         ['a, ]', null, '', 'NULL'], [1, null], {'a': 1, 'b c': ['x', '''']}, map {'k"': 0.1}, [uuid()], 1::integer);
    insert into "sch.ema"."we ird""é" ("the key", f, d, fl, da, ts)
    values (-9223372036854775808, [3, 4], 'nan', 'inf', 'infinity', '-infinity');
    insert into "sch.ema"."we ird""é" ("the key", e, f) select i, [i, 1, 2, 3], [random(), i] from range(300) t(i);
    delete from "sch.ema"."we ird""é" where "the key" between 100 and 120;
    create index plain on "sch.ema"."we ird""é" (t, us);
    create index near on "sch.ema"."we ird""é" using hnsw (e) with (metric = 'cosine', M = 7, M0 = 19);
    create index "near too" on "sch.ema"."we ird""é" using hnsw (f) with (metric = 'ip');
    create table two (a integer, b varchar, v float[2], primary key (a, b));
    insert into two values (1, 'ä"', [1, 2]), (1, '', null);
    create table bare (v float[3], n integer); insert into bare select [i, i, i], i % 3 from range(50) t(i);
    delete from bare where v[1] < 7;
    create table named (id uuid, v float[1]); insert into named values ('00000000-0000-0000-0000-000000000001', [1]);
    create table nothing (id varchar primary key, v float[16], made timestamptz default now());
    create table child (id integer primary key references named2 (id), v float[1]);
"""


def rich(path: Path) -> None:
    with closing(connected(str(path))) as db:
        db.execute("create table named2 (id integer primary key)")
        db.execute(RICH)


def told(path: Path, table: str, without: str = "") -> list[str]:
    """What DuckDB itself says of a table, value by value."""
    with closing(connected(str(path), read_only=True)) as db:
        columns = [one for one in db.execute(f"describe {table}").fetchall() if one[0] not in (without, "strongroom_row")]
        listed = ", ".join('"' + name.replace('"', '""') + '"::varchar' for name, *_ in columns)
        rows = db.execute(f"select {listed} from {table}").fetchall()
    return sorted(repr(one) for one in rows)


WEIRD, TABLES = '"sch.ema"."we ird""é"', ("two", "bare", "named", "nothing", "child")


def ledger(snapshot: Any) -> dict[str, tuple[Status, str]]:
    return {one.item: (one.status, one.note) for one in snapshot.manifest.ledger}


# -- what comes back --------------------------------------------------------------------------------------------------------------


def test_all_that_tables_hold_comes_back(room: strongroom.Strongroom, tmp_path: Path) -> None:
    path = tmp_path / "odd 'näme' 100%.duckdb"
    rich(path)
    snapshot = room.backup(url(path)).snapshot
    room.restore(snapshot.id, url(tmp_path / "exact.duckdb"), require_exact=True)
    assert (tmp_path / "exact.duckdb").read_bytes() == path.read_bytes()
    room.restore(snapshot.id, url(tmp_path / "built.duckdb"), rung=strongroom.Rung.REBUILD)
    assert len(told(path, WEIRD)) == 281
    assert told(tmp_path / "built.duckdb", WEIRD, "un") == told(path, WEIRD, "un")
    for table in TABLES:
        assert told(tmp_path / "built.duckdb", table) == told(path, table), table
    with closing(connected(str(tmp_path / "built.duckdb"))) as db:
        db.execute(f'insert into {WEIRD} ("the key", f) values (1000, [0, 0])')
        assert db.execute(f'select n, twice from {WEIRD} where "the key" = 1000').fetchone() == (307, 614), "the sequence goes on"
        with pytest.raises(duckdb.ConstraintException):
            db.execute(f'insert into {WEIRD} ("the key", f, n) values (1001, [0, 0], 307)')
        assert db.execute("select count(*) from duckdb_tables() where table_name = 'other'").fetchone() == (0,)
    before, after = (snapshot.manifest, room.backup(url(tmp_path / "built.duckdb")).snapshot.manifest)
    fields = [{one.name: one.catalog.fields for one in record.collections} for record in (before, after)]
    assert fields[0] == fields[1], "indexes with their metric, M and M0"
    assert fields[0][collection_name("sch.ema", 'we ird"é')][0].index == {"kind": "hnsw", "metric": "cosine", "M": 7, "M0": 19}


def test_the_ledger_names_what_is_in_the_file_only(room: strongroom.Strongroom, tmp_path: Path) -> None:
    rich(tmp_path / "a.duckdb")
    found = ledger(room.backup(url(tmp_path / "a.duckdb")).snapshot)
    assert found["rows of other tables"] == (Status.NOT_CAPTURED, "named2, other: they are in the file only")
    assert found["views, macros, types"][1].startswith("looking, doubled, mood")
    assert found["foreign keys"][1].startswith("those of child:")
    assert '"sch.ema"."we ird""é": columns in rows' in found
    assert "un (UNION" in found['"sch.ema"."we ird""é": columns in rows'][1]
    assert found["bare: names of rows"][0] is Status.NOT_OFFERED
    assert "named: names of rows" not in found, "its ids are as good as a key"


def test_of_a_part_the_rows_are_loaded(room: strongroom.Strongroom, tmp_path: Path) -> None:
    rich(tmp_path / "a.duckdb")
    snapshot = room.backup(url(tmp_path / "a.duckdb")).snapshot
    with pytest.raises(Refused, match="can't rename a table"):
        room.restore(snapshot.id, url(tmp_path / "b.duckdb"), collections=["two"], require_exact=True)
    room.restore(snapshot.id, url(tmp_path / "b.duckdb"), collections=["two"], renames={"two": 'new."t.o"'})
    assert told(tmp_path / "b.duckdb", 'new."t.o"') == told(tmp_path / "a.duckdb", "two")


@given(st.text(min_size=1), st.text(min_size=1))
def test_any_name_has_its_way_back(schema: str, table: str) -> None:
    assert place_of(collection_name(schema, table)) == (schema, table)


def test_types_are_carried_or_said_not_to_be() -> None:
    assert {
        kind: carried(kind)
        for kind in ("FLOAT[3]", "STRUCT(a INTEGER, b VARCHAR[])", 'STRUCT("UNION(x" DATE)', "MAP(VARCHAR, TIME)")
    } == {
        "FLOAT[3]": "plain",
        "STRUCT(a INTEGER, b VARCHAR[])": "plain",
        'STRUCT("UNION(x" DATE)': "plain",
        "MAP(VARCHAR, TIME)": "plain",
    }
    assert {carried(kind) for kind in ("ENUM('UNION', 'b')", "UUID[]", "HUGEINT", "TIME WITH TIME ZONE", "JSON")} == {"text"}
    assert {carried(kind) for kind in ("UNION(a INTEGER)", "UNION(a INTEGER)[]", "GEOMETRY", "VARIANT", "SOMETHING_NEW")} == {"out"}
    assert items_of("""CREATE TABLE a."b(c"("x,y" ENUM('a,b', ')'), z DECIMAL(3,1), CHECK((z > f(1, 2))));""") == (
        "\"x,y\" ENUM('a,b', ')')",
        "z DECIMAL(3,1)",
        "CHECK((z > f(1, 2)))",
    )


# -- its lock and its log ---------------------------------------------------------------------------------------------------------


@contextmanager
def process(code: str, *arguments: str) -> Iterator[Running]:
    text = "import os, sys, signal\nfrom raw_engines import _duck\n" + textwrap.dedent(code)
    with program("-c", text, *arguments, stdin=PIPE, stdout=PIPE) as child:
        try:
            yield child
        finally:
            child.kill()


def test_who_has_it_open_for_writing_is_named_and_readers_go_on(room: strongroom.Strongroom, tmp_path: Path) -> None:
    path = tmp_path / "a.duckdb"
    duckdb_make(str(path), 0, 20)
    with process("db = _duck(sys.argv[1]); print('open', flush=True); input()", str(path)) as child:
        assert child.stdout.readline() == "open\n"
        with pytest.raises(Locked, match="open for writing") as found:
            room.backup(url(path))
        assert "read_only=True" in found.value.hint
    with closing(connected(str(path))), pytest.raises(Locked):  # this very process
        room.backup(url(path))
    with process("db = _duck(sys.argv[1], read_only=True); print('open', flush=True); input()", str(path)) as child:
        assert child.stdout.readline() == "open\n"
        assert room.backup(url(path)).snapshot.manifest.collections[0].count == 20
    assert [one.name for one in tmp_path.glob(".*")] == []


def test_a_killed_writer_is_neither_captured_half_nor_disturbed(room: strongroom.Strongroom, tmp_path: Path) -> None:
    path = tmp_path / "source" / "a.duckdb"
    path.parent.mkdir()
    duckdb_make(str(path), 0, 200)
    code = """
        db = _duck(sys.argv[1])
        db.execute("create sequence s; create table counted (id integer primary key default nextval('s'), v float[1])")
        db.execute("insert into counted(v) values ([1]), ([2]), ([3])")
        values = "'{} ' || i, list_resize([i], 24, 0)::float[24], 1000 + i"
        more = f"insert into things(id, embedding, number) select {values} from range({{}}) t(i)"
        db.execute(more.format("more", 30))
        db.execute("delete from things where number < 5")
        db.execute("begin")
        db.execute(more.format("never", 9))
        os.kill(os.getpid(), signal.SIGKILL)
    """
    with process(code, str(path)) as child:
        assert child.wait() == -signal.SIGKILL
    before = {one.name: one.read_bytes() for one in path.parent.iterdir()}
    assert sorted(before) == ["a.duckdb", "a.duckdb.wal"]
    snapshot = room.backup(url(path)).snapshot
    assert {one.name: one.read_bytes() for one in path.parent.iterdir()} == before
    assert {one.name: one.count for one in snapshot.manifest.collections} == {"things": 225, "counted": 3}
    target = tmp_path / "target" / "b.duckdb"
    room.restore(snapshot.id, url(target), require_exact=True)
    names = {"b.duckdb": "a.duckdb", "b.duckdb.wal": "a.duckdb.wal"}
    assert {names.get(one.name): one.read_bytes() for one in target.parent.iterdir() if one.name in names} == before
    assert duckdb_read(str(target)) == duckdb_read(str(path))
    room.restore(snapshot.id, url(tmp_path / "built.duckdb"), collections=["counted"])
    with closing(connected(str(tmp_path / "built.duckdb"))) as db:
        db.execute("insert into counted(v) values ([4])")
        assert db.execute("select max(id) from counted").fetchone() == (4,)
    duckdb_make(str(tmp_path / "c.duckdb"), 0, 10)
    whole = room.backup(url(tmp_path / "c.duckdb")).snapshot
    room.restore(whole.id, url(target), overwrite=True)
    assert sorted(one.name for one in target.parent.iterdir()) == ["b.duckdb", "b.duckdb.strongroom.json"], "no log of the old one"
    assert len(duckdb_read(str(target))) == 10


def test_a_link_is_read_with_the_log_beside_its_file(room: strongroom.Strongroom, tmp_path: Path) -> None:
    path, link = tmp_path / "data" / "of 2024.duckdb", tmp_path / "now.duckdb"
    path.parent.mkdir()
    link.symlink_to(path)
    duckdb_make(str(path), 0, 20)
    code = "db = _duck(sys.argv[1]); db.execute('delete from things where number < 5'); os.kill(os.getpid(), signal.SIGKILL)"
    with process(code, str(link)) as child:
        child.wait()
    assert (path.parent / "of 2024.duckdb.wal").exists()
    assert room.backup(url(link)).snapshot.manifest.collections[0].count == 15


# -- without the extension --------------------------------------------------------------------------------------------------------


def test_without_vss_files_and_rows_are_kept_and_the_index_is_reported(
    room: strongroom.Strongroom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.duckdb"
    duckdb_make(str(path), 0, 100)
    rows = duckdb_read(str(path))
    (tmp_path / "none" / "duckdb_extension_vss").mkdir(parents=True)
    (tmp_path / "none" / "duckdb_extension_vss" / "__init__.py").touch()
    with monkeypatch.context() as patch:  # what the child processes find
        patch.setenv("PYTHONPATH", str(tmp_path / "none"))
        patch.setenv("HOME", str(tmp_path))
        snapshot = room.backup(url(path)).snapshot
        room.restore(snapshot.id, url(tmp_path / "b.duckdb"), require_exact=True)
    found = ledger(snapshot)
    assert found["metric, M and M0 of HNSW indexes"] == (Status.NOT_CAPTURED, "pip install duckdb-extension-vss")
    assert "needs the extension vss" in found["things: live answers"][1]
    assert snapshot.manifest.collections[0].catalog.fields[0].index == {"kind": "hnsw"}
    assert (tmp_path / "b.duckdb").read_bytes() == path.read_bytes()
    assert duckdb_read(str(tmp_path / "b.duckdb")) == rows


# -- other engines' rows ----------------------------------------------------------------------------------------------------------


def test_rows_of_other_shapes_find_their_columns(room: strongroom.Strongroom, tmp_path: Path) -> None:
    rows = pa.table(
        {
            "id": pa.array([3, -1, 7], pa.int64()),
            "vector": pa.array([[1, 2], None, [5, 6]], pa.list_(pa.float16(), 2)),
            "small": pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.int8(), 2)),
            "text": ["ä\0", None, ""],
            "with space": [1, None, 3],
            "when": pa.array([0, 1, None], pa.timestamp("us")),
            "big": pa.array([(1 << 64) - 1, 0, None], pa.uint64()),
            "list": [[1, 2], [], None],
            "deep": [{"a": [1]}, None, {"a": None}],
        }
    )
    lancedb.connect(tmp_path / "lance").create_table("t.x", rows, on_bad_vectors="null")
    first = room.backup(f"lancedb://{tmp_path / 'lance'}").snapshot
    with pytest.raises(WrongRequest, match="--rename"):
        room.plan_restore(first.id, url(tmp_path / "a.duckdb"), renames={"t.x": "a.b.c"})
    room.restore(first.id, url(tmp_path / "a.duckdb"), renames={"t.x": "odd"})
    with closing(connected(str(tmp_path / "a.duckdb"), read_only=True)) as db:
        found = db.execute('select id, vector, small, document, "with space", big, list, deep from odd order by id').fetchall()
        assert len(db.execute("select * from duckdb_indexes()").fetchall()) == 2
    assert found == [
        (-1, None, (3.0, 4.0), None, None, 0, [], None),
        (3, (1.0, 2.0), (1.0, 2.0), "ä\0", 1, (1 << 64) - 1, [1, 2], {"a": [1]}),
        (7, (5.0, 6.0), (5.0, 6.0), "", 3, None, None, {"a": None}),
    ]
    room.restore(room.backup(url(tmp_path / "a.duckdb")).snapshot.id, f"lancedb://{tmp_path / 'again'}")
    back = lancedb.connect(tmp_path / "again").open_table("odd").to_arrow().sort_by("id")
    assert back["vector"].to_pylist() == [None, [1, 2], [5, 6]]
    assert back["document"].to_pylist() == [None, "ä\0", ""]


# -- what goes wrong --------------------------------------------------------------------------------------------------------------


def test_what_is_shorter_than_a_microsecond_is_kept_or_said_to_go(room: strongroom.Strongroom, tmp_path: Path) -> None:
    times = {"zoned": pa.array([1], pa.timestamp("ns", "UTC")), "plain": pa.array([1], pa.timestamp("ns"))}
    times |= {"clock": pa.array([1], pa.time64("ns"))}
    vector = pa.FixedSizeListArray.from_arrays(pa.array([1.0, 2.0], pa.float32()), 2)
    lancedb.connect(tmp_path / "source").create_table("t", pa.table({"id": ["a"], "vector": vector, **times}))
    snapshot = room.backup(f"lancedb://{tmp_path}/source").snapshot
    plan = room.restore(snapshot.id, url(tmp_path / "a.duckdb")).plan
    assert {one.part: one.verdict for one in plan.conversions if one.part.startswith("column")} == {
        "column zoned": Verdict.CHANGED,
        "column plain": Verdict.KEPT,
        "column clock": Verdict.KEPT,
    }
    again = room.backup(url(tmp_path / "a.duckdb")).snapshot
    room.restore(again.id, url(tmp_path / "b.duckdb"), collections=["t"])
    assert told(tmp_path / "b.duckdb", "t") == told(tmp_path / "a.duckdb", "t")
    assert "'00:00:00.000000001'" in told(tmp_path / "b.duckdb", "t")[0]


def test_what_is_no_database_is_said_so(room: strongroom.Strongroom, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        room.backup(url(tmp_path / "nothing.duckdb"))
    (tmp_path / "text.duckdb").write_text("hello" * 100)
    (tmp_path / "folder.duckdb").mkdir()
    os.mkfifo(tmp_path / "pipe.duckdb")
    for name in ("text.duckdb", "folder.duckdb", "pipe.duckdb"):
        with pytest.raises(Unreadable, match="not a DuckDB database"):
            room.backup(url(tmp_path / name))
    for wrong in ("duckdb:", "duckdb://host/a.duckdb", "duckdb:///srv/"):
        with pytest.raises(WrongRequest):
            DuckDB().source(wrong)
    duckdb_make(str(tmp_path / "a.duckdb"), 0, 2000)
    content = bytearray((tmp_path / "a.duckdb").read_bytes())
    for start in range(12_288, len(content), 1 << 18):
        content[start + 1000 : start + 3000] = os.urandom(2000)
    (tmp_path / "a.duckdb").write_bytes(content)
    with pytest.raises((Unreadable, EngineFailed)):
        room.backup(url(tmp_path / "a.duckdb"))
    assert not room.snapshots()


def die(pipe: int, after: int) -> int:
    """Write some batches and no more."""
    batch = pa.record_batch({"n": np.arange(1000)})
    with os.fdopen(pipe, "wb") as file, pa.ipc.new_stream(file, batch.schema) as stream:
        for number in range(1_000_000):
            if number == after:
                file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            stream.write_batch(batch)
    return 0


@pytest.mark.parametrize("after", [0, 1, 50])
def test_a_stream_that_ends_early_is_no_short_table(after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", IMPORTABLE)
    with pytest.raises(EngineFailed, match="crashed"):
        list(streamed("test_duckdb:die", after))


def test_who_reads_no_further_isnt_kept_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", IMPORTABLE)
    batches = streamed("test_duckdb:die", 900_000)
    assert next(batches).num_rows == 1000
    batches.close()
