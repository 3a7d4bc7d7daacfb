"""What only a database with vec0 tables has: all kinds of columns, other tables beside them, writers in other processes, a log."""

from __future__ import annotations

import math
import os
import signal
import sqlite3
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from forks import PIPE, Running
from processes import program
from raw_engines import _vec0 as connected
from raw_engines import vec0_ask, vec0_make, vec0_read

import strongroom
from strongroom.engines import private_copy, sqlite_file
from strongroom.engines.sqlite_vec import SqliteVec, library, moment
from strongroom.engines.sqlite_vec.definition import parsed
from strongroom.engines.sqlite_vec.frozen import SqliteVecSource
from strongroom.engines.staged_file import FILE, FileStage
from strongroom.errors import Locked, NotFound, SourceChanged, Unreadable, WrongRequest
from strongroom.model import RowBlock, Status
from strongroom.progress import SILENT
from strongroom.repository import Argon2Cost

HERE = Path(__file__).parent
NAMES = ['we ird"é', "it's [odd] `name`", "select"]
HIGHEST = (1 << 63) - 1


@pytest.fixture
def room(tmp_path: Path) -> strongroom.Strongroom:
    return strongroom.init(str(tmp_path / "repository"), password="x", cost=Argon2Cost(1, 1, 64))


def url(path: Path) -> str:
    return f"sqlite-vec://{path}"


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def rich(path: Path, page_size: int = 4096) -> None:
    """Each kind of column and key, deleted rows, an empty table, and what is no vec0 table."""
    with closing(connected(path)) as db:
        db.execute(f"pragma page_size = {page_size}")
        db.execute(
            f"""create virtual table {quoted(NAMES[0])} using vec0(
                key text primary key, e float[8] distance_metric=cosine, q int8[8], b bit[16], one float[3] distance_metric=L1,
                part text partition key, shard INTEGER partition key, year integer, ok boolean, f double, genre text,
                +document text, +blob blob, +n int, +x float, chunk_size=16)"""
        )
        insert = f"""insert into {quoted(NAMES[0])} (key, e, q, b, one, part, shard, year, ok, f, genre, document, blob, n, x)
            values (?, ?, vec_int8(?), vec_bit(?), ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
        draw = np.random.default_rng(1)
        for n in range(90):
            vector = draw.standard_normal(8).astype(np.float32)
            vector[n % 8] = [np.nan, np.inf, -0.0, 1e-42][n % 4] if n % 9 == 0 else vector[n % 8]
            values = [f"k\0{n} ü" if n else "", vector.tobytes(), draw.integers(-128, 128, 8, np.int8).tobytes(), draw.bytes(2)]
            values += [draw.standard_normal(3).astype(np.float32).tobytes(), None if n % 5 == 0 else f"p{n % 2}", n % 2]
            values += [(HIGHEST, -HIGHEST - 1, n)[n % 3], n % 2, n / 3, ("ü\0 emoji 😀 long", "abcdefghijklmnop")[n % 2][: n % 17]]
            values += [None if n % 4 == 0 else f"t\0ext {n} 😀" * (n % 3), None if n % 3 else bytes(range(n)), n or None, np.inf]
            db.execute(insert, values)
        for n in (0, 7, *range(20, 60)):
            db.execute(f"delete from {quoted(NAMES[0])} where key = ?", (f"k\0{n} ü" if n else "",))
        db.execute(f"create virtual table {quoted(NAMES[1])} using vec0(e float[4], long text)")
        for rowid in (HIGHEST - 1, 0, -1, -HIGHEST - 1, 17, HIGHEST):
            vector = np.arange(4, dtype=np.float32).tobytes()
            db.execute(f"insert into {quoted(NAMES[1])} (rowid, e, long) values (?, ?, ?)", (rowid, vector, "x" * 20))
        db.execute(f"create virtual table {quoted(NAMES[2])} using vec0(id integer primary key, e float[4])")
        db.execute("create table articles(id integer primary key, body text)")
        db.execute("insert into articles values (1, 'a secret in another table')")
        db.execute("create view titles as select * from articles")
        db.execute("create index by_body on articles(body)")
        db.commit()


def told(path: Path, names: dict[str, str] | None = None) -> dict[str, Any]:
    """All that sqlite-vec itself says of the vec0 tables."""
    found = {}
    with closing(connected(path)) as db:
        tables = db.execute("select name, sql from sqlite_master where sql like 'create virtual table%'").fetchall()
        for name, statement in tables:
            table = parsed(name, statement)
            assert table is not None
            columns = dict.fromkeys((table.key.name, *(one.name for one in table.columns)))
            listed = ", ".join(quoted(one) if one != "rowid" else one for one in columns)
            found[(names or {}).get(name, name)] = sorted(db.execute(f"select {listed} from {quoted(name)}").fetchall(), key=repr)
    return found


def ledger(snapshot: Any) -> dict[str, tuple[Status, str]]:
    return {one.item: (one.status, one.note) for one in snapshot.manifest.ledger}


# -- what comes back --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page_size", [512, 4096, 65536])
def test_all_that_vec0_tables_hold_comes_back(page_size: int, room: strongroom.Strongroom, tmp_path: Path) -> None:
    path = tmp_path / 'odd "näme" 100%#?.db'
    rich(path, page_size)
    snapshot = room.backup(url(path)).snapshot
    room.restore(snapshot.id, url(tmp_path / "exact.db"), require_exact=True)
    assert (tmp_path / "exact.db").read_bytes() == path.read_bytes()
    room.restore(snapshot.id, url(tmp_path / "built.db"), rung=strongroom.Rung.REBUILD)
    whole = told(path)
    assert [len(whole[name]) for name in NAMES] == [48, 6, 0]
    assert told(tmp_path / "built.db") == whole
    with closing(sqlite3.connect(tmp_path / "built.db")) as built:
        assert built.execute("select count(*) from sqlite_master where name = 'articles'").fetchone() == (0,)
        assert built.execute("pragma integrity_check").fetchone() == ("ok",)
    fields = {one.name: (one.dtype, one.dimension, one.metric) for one in snapshot.manifest.collections[0].catalog.fields}
    assert fields == {
        "e": ("float32", 8, "cosine"),
        "q": ("int8", 8, "l2"),
        "b": ("uint8", 2, "hamming"),
        "one": ("float32", 3, "l1"),
    }


def test_the_ledger_names_what_is_in_the_file_only(room: strongroom.Strongroom, tmp_path: Path) -> None:
    rich(tmp_path / "a.db")
    with closing(connected(tmp_path / "a.db")) as db:
        db.execute("create virtual table broken using vec0(e float[2])")
        db.execute("drop table broken_chunks")
        db.commit()
    found = ledger(room.backup(url(tmp_path / "a.db")).snapshot)
    assert found["rows of other tables"][0] is Status.NOT_CAPTURED
    assert found["rows of other tables"][1].startswith("articles, ")
    assert "titles" in found["rows of other tables"][1]
    assert "by_body" in found["indexes, triggers"][1]
    assert found["rows of broken"] == (Status.NOT_CAPTURED, "it lacks its table broken_chunks: it is in the file")
    assert f"{NAMES[0]}: right answers of b" in found
    assert f"{NAMES[0]}: right answers of one" in found


def test_a_row_whose_insert_failed_half_way_is_what_vec0_shows_of_it(room: strongroom.Strongroom, tmp_path: Path) -> None:
    """sqlite-vec 0.1.9 doesn't take it back."""
    with closing(connected(tmp_path / "a.db")) as db:
        db.execute("create virtual table t using vec0(id text primary key, e float[2], +n integer)")
        db.execute("insert into t values ('whole', '[1, 2]', 5)")
        with pytest.raises(Exception, match="type mismatch"):
            db.execute("insert into t values ('half', '[3, 4]', 'no number')")
        db.commit()
        assert db.execute("select id from t").fetchall() == [("whole",), ("half",)]
    snapshot = room.backup(url(tmp_path / "a.db")).snapshot
    assert snapshot.manifest.collections[0].count == 2
    assert ledger(snapshot)["t: auxiliary values of all rows"][1].startswith("1 have none: an INSERT failed")
    room.restore(snapshot.id, url(tmp_path / "b.db"), rung=strongroom.Rung.REBUILD)
    assert told(tmp_path / "b.db") == {
        "t": [("half", np.float32([3, 4]).tobytes(), None), ("whole", np.float32([1, 2]).tobytes(), 5)]
    }


def test_values_of_another_type_than_their_column_are_counted(room: strongroom.Strongroom, tmp_path: Path) -> None:
    """sqlite-vec 0.1.9 looks at the types of an INSERT, and not at those of an UPDATE."""
    names, given = "nxsb", (None, 5, 2.5, "text", b"\xff", (1 << 62) + 1)
    with closing(connected(tmp_path / "a.db")) as db:
        db.execute("create virtual table t using vec0(id integer primary key, e float[2], +n integer, +x float, +s text, +b blob)")
        for row, value in enumerate(given):
            db.execute("insert into t(id, e) values (?, '[1, 2]')", (row,))
            for name in names:
                db.execute(f"update t set {name} = ? where id = ?", (value, row))
        db.commit()
    snapshot = room.backup(url(tmp_path / "a.db")).snapshot
    status, note = ledger(snapshot)["t: values of another type than their column's"]
    assert (status, note.partition(":")[0]) == (Status.NOT_CAPTURED, "n (3), x (3), s (4), b (4)")
    with SqliteVecSource(tmp_path / "a.db").freeze(SILENT) as frozen:
        (block,) = frozen.rows("t")
    rows = block.live().select(list(names)).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        (None, None, None, None),
        (5, 5.0, None, None),
        (None, 2.5, None, None),
        (None, None, "text", None),
        (None, None, None, b"\xff"),
        ((1 << 62) + 1, None, None, None),
    ]
    room.restore(snapshot.id, url(tmp_path / "b.db"), require_exact=True)
    assert told(tmp_path / "b.db") == told(tmp_path / "a.db")
    assert room.restore(snapshot.id, url(tmp_path / "c.db"), rung=strongroom.Rung.REBUILD)


def test_chosen_tables_come_under_other_names_without_a_trace_of_the_others(room: strongroom.Strongroom, tmp_path: Path) -> None:
    rich(tmp_path / "a.db")
    whole = told(tmp_path / "a.db")
    snapshot = room.backup(url(tmp_path / "a.db")).snapshot
    swapped = {NAMES[0]: NAMES[1], NAMES[1]: NAMES[0], NAMES[2]: 'ne"w'}
    room.restore(snapshot.id, url(tmp_path / "swapped.db"), renames=swapped, require_exact=True)
    assert told(tmp_path / "swapped.db", {new: old for old, new in swapped.items()}) == whole
    with closing(connected(tmp_path / "swapped.db")) as db:
        assert db.execute("select body from titles").fetchone() == ("a secret in another table",)
        db.execute("""insert into "ne""w" values (4, '[1, 2, 3, 4]')""")
        assert db.execute("""select id from "ne""w" where e match '[1, 2, 3, 4]' and k = 1""").fetchall() == [(4,)]
    room.restore(snapshot.id, url(tmp_path / "one.db"), collections=[NAMES[1]], renames={NAMES[1]: "one"}, require_exact=True)
    assert told(tmp_path / "one.db") == {"one": whole[NAMES[1]]}
    assert b"a secret in another table" in (tmp_path / "a.db").read_bytes()
    assert b"a secret in another table" not in (tmp_path / "one.db").read_bytes()
    assert b"emoji" not in (tmp_path / "one.db").read_bytes()


@pytest.mark.parametrize(("page_size", "dimension", "chunk"), [(4096, 300, 1024), (512, 40, 64), (65536, 3000, 64), (1024, 7, 256)])
def test_pages_of_vectors_are_the_bytes_of_their_columns(page_size: int, dimension: int, chunk: int, tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    draw = np.random.default_rng(2)
    with closing(connected(path)) as db:
        db.execute(f"pragma page_size = {page_size}")
        for table in ("one", "two"):
            columns = f"a float[{dimension}], b int8[{dimension}], +t text, chunk_size={chunk}"
            db.execute(f"create virtual table {table} using vec0({columns})")
        for n in range(3 * chunk // 2):
            for table in ("one", "two"):
                values = draw.standard_normal(dimension).astype(np.float32).tobytes(), draw.bytes(dimension), "x" * (n % 3000)
                db.execute(f"insert into {table}(a, b, t) values (?, vec_int8(?), ?)", values)
        db.execute("delete from one where rowid % 7 = 3")
        db.commit()
    with SqliteVecSource(path).freeze(SILENT) as frozen:
        columns = {name: _bytes_of(frozen.rows(name)) for name in ("one", "two")}
        (file,) = frozen.artifacts()
        end = copied = 0
        for region in file.regions():
            assert region.offset == end
            end += region.length
            content = file.read(region.offset, region.length)
            for copy in region.copies:
                assert content[copy.place : copy.place + copy.length] == _part(columns[region.collection], copy)
                copied += copy.length
        assert end == file.size
        assert copied > 0.8 * sum(len(block) for blocks in columns.values() for block in blocks.values())


def _bytes_of(blocks: Iterator[RowBlock]) -> dict[tuple[str, int], bytes]:
    found = {}
    for number, block in enumerate(blocks):
        for name in ("a", "b"):
            found[name, number] = block.batch.column(name).flatten().to_numpy().tobytes()
    return found


def _part(columns: dict[tuple[str, int], bytes], copy: Any) -> bytes:
    return columns[copy.column, copy.block][copy.offset : copy.offset + copy.length]


def test_vectors_are_stored_once(room: strongroom.Strongroom, tmp_path: Path) -> None:
    """3 MB of them, in the rows and in the file; after a change a little more."""
    path = tmp_path / "a.db"
    vectors = np.random.default_rng(1).standard_normal((2048, 384)).astype(np.float32)
    with closing(connected(path)) as db:
        db.execute("create virtual table t using vec0(id text primary key, e float[384], +document text)")
        rows = [(f"thing-{n}", vectors[n].tobytes(), f"text {n}") for n in range(2048)]
        db.executemany("insert into t values (?, ?, ?)", rows)
        db.commit()
    first = room.backup(url(path)).snapshot.manifest
    assert first.stored_bytes < 1.05 * vectors.nbytes
    assert room.backup(url(path)).snapshot.manifest.stored_bytes < 20_000
    with closing(connected(path)) as db:
        for n in range(20):
            db.execute("update t set e = ? where id = ?", (vectors[2000 - n].tobytes(), f"thing-{n}"))
            db.execute("insert into t values (?, ?, ?)", (f"new-{n}", np.ones(384, np.float32).tobytes(), "new"))
        db.commit()
    second = room.backup(url(path)).snapshot
    assert second.manifest.stored_bytes < 0.1 * vectors.nbytes
    room.restore(second.id, url(tmp_path / "b.db"), require_exact=True)
    assert (tmp_path / "b.db").read_bytes() == path.read_bytes()


# -- writers ----------------------------------------------------------------------------------------------------------------------


WRITER = """
import os, sys, time
import numpy as np
from raw_engines import _vec0
db = _vec0(sys.argv[1])
db.isolation_level = None
db.execute("pragma journal_mode = " + sys.argv[2])
db.execute("pragma cache_size = 10")
db.execute("create virtual table if not exists t using vec0(id integer primary key, e float[64], batch integer, +text text)")
def batch(number):
    for n in range(10 * number, 10 * number + 10):
        db.execute("insert into t values (?, ?, ?, ?)", (n, np.full(64, n, np.float32).tobytes(), number, "x" * 500))
def commit(number):
    db.execute("begin"); batch(number); db.execute("commit")
"""


@contextmanager
def writer(path: Path, mode: str, doing: str) -> Iterator[Running]:
    """A process that writes as it is told, and says so."""
    code = WRITER + textwrap.dedent(doing)
    with program("-c", code, path, mode, stdin=PIPE, stdout=PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def beside(path: Path) -> dict[str, bytes]:
    """A database and its journals, byte for byte; not the shared memory, which is nothing after a crash."""
    return {one.name: one.read_bytes() for one in path.parent.glob(path.name + "*") if not one.name.endswith("-shm")}


@pytest.mark.parametrize("mode", ["delete", "wal", "persist"])
def test_a_killed_writer_is_neither_captured_half_nor_disturbed(mode: str, room: strongroom.Strongroom, tmp_path: Path) -> None:
    """Its last transaction has spilled into the file (or the log) already."""
    path = tmp_path / "source" / "a.db"
    path.parent.mkdir()
    with writer(path, mode, "commit(0); db.execute('begin'); [batch(n) for n in range(1, 80)]; print('now'); input()") as process:
        assert process.stdout.readline() == "now\n"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    before = beside(path)
    assert len(before) == 2
    snapshot = room.backup(url(path)).snapshot
    assert beside(path) == before
    assert snapshot.manifest.collections[0].count == 10
    room.restore(snapshot.id, url(tmp_path / "b.db"), require_exact=True)
    assert not beside(tmp_path / "b.db").keys() - {"b.db", "b.db.strongroom.json"}
    assert len(told(tmp_path / "b.db")["t"]) == 10
    assert told(path) == told(tmp_path / "b.db"), "and so does sqlite when it comes to it"


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_living_writer_goes_on_and_what_it_has_not_committed_is_not_captured(
    mode: str, room: strongroom.Strongroom, tmp_path: Path
) -> None:
    path = tmp_path / "a.db"
    doing = """
        db.execute("pragma cache_size = 1000")  # what spills keeps readers out
        commit(0); commit(1)
        db.execute("begin immediate"); batch(2)
        print("open"); input()
        db.execute("commit"); print("committed"); input()
    """
    with writer(path, mode, doing) as process:
        assert process.stdout.readline() == "open\n"
        assert room.backup(url(path)).snapshot.manifest.collections[0].count == 20
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "committed\n"
        snapshot = room.backup(url(path)).snapshot
        assert snapshot.manifest.collections[0].count == 30
    room.restore(snapshot.id, url(tmp_path / "b.db"), require_exact=True)
    assert told(tmp_path / "b.db") == told(path)


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_every_snapshot_under_a_writer_is_a_state_that_there_was(mode: str, room: strongroom.Strongroom, tmp_path: Path) -> None:
    """Transactions one after another, in WAL mode with checkpoints all the while."""
    path = tmp_path / "a.db"
    doing = """
        db.execute("pragma wal_autocheckpoint = 20"); db.execute("pragma synchronous = off")
        commit(0); print("begun", flush=True)
        for number in range(1, 1_000_000):
            commit(number)
            if number % 3 == 0:
                db.execute("begin"); db.execute("delete from t where batch = ?", (number - 3,)); db.execute("commit")
    """
    with writer(path, mode, doing) as process:
        assert process.stdout.readline() == "begun\n"
        for turn in range(4):
            with SqliteVecSource(path).freeze(SILENT) as frozen:
                rows = pa.Table.from_batches([block.live() for block in frozen.rows("t")])
                batches, counts = np.unique(rows["batch"].to_numpy(), return_counts=True)
                assert set(counts) == {10}
                gone = {number for number in range(batches.max() + 1) if number % 3 == 0} - set(batches.tolist())
                assert set(range(batches.max() + 1)) - set(batches.tolist()) == gone
                assert (rows["e"].combine_chunks().flatten().to_numpy().reshape(-1, 64)[:, 5] == rows["id"].to_numpy()).all()
                with closing(sqlite3.connect(next(tmp_path.glob(".strongroom-moment-*/a.db")))) as copy:
                    assert copy.execute("pragma integrity_check").fetchone() == ("ok",)
            assert process.poll() is None, f"the writer failed in turn {turn}"


def test_a_lock_that_is_never_let_go_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.db"
    for module in (moment, sqlite_file):
        monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.05)
    with writer(path, "delete", "commit(0); db.execute('begin exclusive'); print('locked'); input()") as process:
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(Locked, match="another process has had"):
            moment.capture(str(path), str(tmp_path / "copy.db"))


def test_what_was_committed_after_the_copy_ahead_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, ahead = tmp_path / "a.db", moment._ahead
    vec0_make(path, 0, 10)

    def late(*arguments: Any) -> object:
        before = ahead(*arguments)
        assert before is not None
        vec0_make(path, 10, 5)
        return before

    monkeypatch.setattr(moment, "_ahead", late)
    moment.capture(str(path), str(tmp_path / "copy.db"))
    assert len(vec0_read(tmp_path / "copy.db")) == 15


def test_a_log_begun_anew_while_it_is_copied_sets_nothing_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it is in the file already, so a commit may begin it anew although we read."""
    path, copy = tmp_path / "a.db", tmp_path / "copy.db"
    doing = """
        db.execute("pragma wal_autocheckpoint = 0")
        db.execute("create table early (n integer, pad)"); db.execute("create table late (n integer, pad)")
        db.execute("begin")
        for table in ("early", "late"):
            db.executemany(f"insert into {table} values (0, ?)", [("x" * 900,)] * 300)
        db.execute("commit")
        for n in range(1, 5):
            db.execute("update early set n = ?", (n,))
        db.execute("update late set n = 4")
        db.execute("pragma wal_checkpoint"); print("all in the file"); input()
        for n in range(5, 9):
            db.execute("update early set n = ?", (n,)); db.execute("update late set n = ?", (n,))
        print("begun anew"); input()
    """
    as_it_is, once = private_copy.copy_bytes, iter([True])
    with writer(path, "wal", doing) as process:
        assert process.stdout.readline() == "all in the file\n"

        def overtaken(source: int, target: Path, deadline: float = math.inf) -> None:
            as_it_is(source, target, deadline)
            if target.name.endswith("-wal") and next(once, False):
                process.stdin.write("\n")
                process.stdin.flush()
                assert process.stdout.readline() == "begun anew\n"
                half = target.stat().st_size // 2
                with target.open("r+b") as file:
                    file.seek(half)
                    file.write(os.pread(source, half, half))

        monkeypatch.setattr(sqlite_file, "copy_bytes", overtaken)
        moment.capture(str(path), str(copy))
    with closing(sqlite3.connect(copy)) as db:
        seen = [db.execute(f"select distinct n from {table}").fetchall() for table in ("early", "late")]
    assert seen[0] == seen[1] and seen[0][0][0] >= 4


def test_a_link_is_read_with_what_lies_beside_its_file(room: strongroom.Strongroom, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    path, link = tmp_path / "data" / "of 2024.db", tmp_path / "now.db"
    link.symlink_to(path)
    with writer(path, "wal", "commit(0); print('now'); input()") as process:
        assert process.stdout.readline() == "now\n"
        snapshot = room.backup(url(link)).snapshot
        assert snapshot.manifest.collections[0].count == 10
        assert not SqliteVec().source(url(link)).unchanged_since(snapshot.manifest.position, time.time() - 100)
    with closing(sqlite3.connect(link)) as db:
        db.execute("pragma wal_checkpoint(truncate)")
    assert room.backup(url(link)).snapshot.manifest.collections[0].count == 10


def test_who_holds_writers_up_for_long_lets_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.db"
    vec0_make(path, 0, 10)
    monkeypatch.setattr(moment, "_ahead", lambda *_: None)
    monkeypatch.setattr(private_copy, "_FICLONE", 0)
    with pytest.raises(SourceChanged, match="too busy") as found:
        moment.capture(str(path), str(tmp_path / "copy.db"), hold=-1)
    assert "WAL" in found.value.hint


def test_a_database_that_nobody_touched_is_not_read(room: strongroom.Strongroom, tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    vec0_make(path, 0, 10)
    with closing(sqlite3.connect(path)) as db:
        db.execute("pragma journal_mode = wal")
    os.utime(path, (1, 1))
    position = room.backup(url(path)).snapshot.manifest.position
    later = time.time() + 10
    assert SqliteVecSource(path).unchanged_since(position, later)
    assert [one.name for one in tmp_path.glob("a.db*")] == ["a.db"], "nothing is left beside it"
    with closing(connected(path)) as db:
        db.execute("delete from things where id = 'thing-3'")
        db.commit()
        assert not SqliteVecSource(path).unchanged_since(position, later)


# -- into place -------------------------------------------------------------------------------------------------------------------


def test_a_link_to_a_file_is_followed(room: strongroom.Strongroom, tmp_path: Path) -> None:
    """Whoever opens the database by its own name finds the new one, without the old one's log."""
    (tmp_path / "data").mkdir()
    path, link = tmp_path / "data" / "b.db", tmp_path / "link.db"
    vec0_make(tmp_path / "a.db", 0, 10)
    room.backup(url(tmp_path / "a.db"))
    with writer(path, "wal", "commit(0); print('now'); input()") as process:
        assert process.stdout.readline() == "now\n"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    link.symlink_to(path)
    room.restore("latest", url(link), overwrite=True)
    assert link.is_symlink()
    assert beside(path).keys() == {"b.db", "b.db.strongroom.json"}
    assert told(link) == told(tmp_path / "a.db")


def test_no_log_of_the_old_database_is_left_beside_the_new_one(room: strongroom.Strongroom, tmp_path: Path) -> None:
    vec0_make(tmp_path / "a.db", 0, 100)
    snapshot = room.backup(url(tmp_path / "a.db")).snapshot
    target = tmp_path / "target" / "b.db"
    target.parent.mkdir()
    with writer(target, "wal", "[commit(n) for n in range(20)]; print('now'); input()") as process:
        process.stdout.readline()
    assert (target.parent / "b.db-wal").stat().st_size > 10_000
    room.restore(snapshot.id, url(target), overwrite=True)
    assert sorted(one.name for one in target.parent.iterdir()) == ["b.db", "b.db.strongroom.json"]
    assert vec0_read(target) == vec0_read(tmp_path / "a.db")
    assert vec0_ask(target) == vec0_ask(tmp_path / "a.db")


def test_at_no_time_does_the_old_log_lie_beside_the_new_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sqlite would apply it: a log doesn't say of which database it is."""
    for name in ("b.db", "b.db-wal"):
        (tmp_path / name).write_text("old")
    stage = FileStage(tmp_path / "b.db", "token", ("-wal",))
    stage.artifact_path(FILE).write_text("new")
    rename, seen = os.rename, []

    def watched(source: Any, target: Any) -> None:
        rename(source, target)
        now = {name: (tmp_path / name).read_text() for name in ("b.db", "b.db-wal") if (tmp_path / name).exists()}
        seen.append(now)

    monkeypatch.setattr(os, "rename", watched)
    stage.publish(b"{}", overwrite=True)
    assert {"b.db": "new", "b.db-wal": "old"} not in seen
    assert seen[-1] == {"b.db": "new"}


def test_rows_of_other_shapes_find_their_columns(room: strongroom.Strongroom, tmp_path: Path) -> None:
    """From LanceDB and back to it: names that vec0 can't have, types that it lacks, nulls, bits."""
    rows = pa.table(
        {
            "id": pa.array([3, -1, HIGHEST], pa.int64()),
            "vector": pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.float16(), 2)),
            "bits": pa.array([[1, 255], [0, 7], [128, 3]], pa.list_(pa.uint8(), 2)),
            "document": ["ä\0", None, ""],
            "with space": [1, None, 3],
            "when": pa.array([0, 1, None], pa.timestamp("us")),
            "big": pa.array([(1 << 64) - 1, 0, None], pa.uint64()),
            "flag": [True, None, False],
            "list": [[1, 2], [], None],
            "raw": [b"\0\xff", None, b""],
            "ratio": [0.5, None, float("inf")],
            "distance": ["a", "b", None],
        }
    )
    lancedb.connect(tmp_path / "lance").create_table("t", rows)
    first = room.backup(f"lancedb://{tmp_path / 'lance'}").snapshot
    losses = " / ".join(room.plan_restore(first.id, url(tmp_path / "a.db")).losses)
    assert "strongroom_payload" in losses
    assert "with space" in losses
    room.restore(first.id, url(tmp_path / "a.db"))
    with closing(connected(tmp_path / "a.db")) as db:
        found = db.execute("select id, document, flag, raw, ratio, strongroom_payload from t order by id").fetchall()
        assert db.execute("select id from t where bits match vec_bit(x'0007') and k = 1").fetchall() == [(-1,)]
    assert found == [
        (-1, None, None, None, None, '{"big":0,"distance":"b","list":[],"when":"1970-01-01 00:00:00.000001"}'),
        (3, "ä\0", 1, b"\0\xff", 0.5, found[1][5]),
        (HIGHEST, "", 0, b"", np.inf, '{"with space":3}'),
    ]
    assert f'"big":{(1 << 64) - 1}' in found[1][5]
    room.restore(room.backup(url(tmp_path / "a.db")).snapshot.id, f"lancedb://{tmp_path / 'again'}")
    back = lancedb.connect(tmp_path / "again").open_table("t").to_arrow().sort_by("id")
    assert back["bits"].to_pylist() == [[0, 7], [1, 255], [128, 3]]
    assert back["document"].to_pylist() == [None, "ä\0", ""]


def test_what_vec0_cant_hold_is_refused(room: strongroom.Strongroom, tmp_path: Path) -> None:
    database = lancedb.connect(tmp_path / "lance")
    gaps = pa.table({"id": ["a", "b"], "vector": pa.array([[1.0], None], pa.list_(pa.float32(), 1))})
    database.create_table("gaps", gaps, on_bad_vectors="null")
    database.create_table("long", pa.table({"id": ["a"], "vector": pa.array([[1.0] * 8193], pa.list_(pa.float32(), 8193))}))
    database.create_table("low", pa.table({"id": ["a"], "vector": pa.array([[1.0]], pa.list_(pa.float32(), 1))}))
    database.create_table("LOW", pa.table({"id": ["a"], "vector": pa.array([[1.0]], pa.list_(pa.float32(), 1))}))
    snapshot = room.backup(f"lancedb://{tmp_path / 'lance'}").snapshot
    for names, problem in ((["gaps"], "has no vector"), (["long"], "8,192"), (["low", "LOW"], "beside")):
        with pytest.raises(WrongRequest, match=problem):
            room.restore(snapshot.id, url(tmp_path / "a.db"), collections=names)
        assert not (tmp_path / "a.db").exists()
    room.restore(snapshot.id, url(tmp_path / "b.db"), collections=["low"], renames={"low": "t_chunks"})
    assert list(told(tmp_path / "b.db")) == ["t_chunks"]


# -- what is no such database -----------------------------------------------------------------------------------------------------


def test_what_is_no_database_is_said_so(room: strongroom.Strongroom, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        room.backup(url(tmp_path / "nothing.db"))
    (tmp_path / "text.db").write_text("hello" * 100)
    (tmp_path / "folder.db").mkdir()
    os.mkfifo(tmp_path / "pipe.db")
    for name in ("text.db", "folder.db", "pipe.db"):
        with pytest.raises(Unreadable, match=r"not an sqlite database|can't be opened"):
            room.backup(url(tmp_path / name))
    for wrong in ("sqlite-vec:", "sqlite-vec://host/a.db", "sqlite-vec:///srv/"):
        with pytest.raises(WrongRequest):
            SqliteVec().source(wrong)


def test_a_damaged_database_is_no_short_backup(room: strongroom.Strongroom, tmp_path: Path) -> None:
    vec0_make(tmp_path / "a.db", 0, 2000)
    with closing(sqlite3.connect(tmp_path / "a.db")) as db:
        db.execute("delete from things_vector_chunks00 where rowid = 2")
        db.commit()
    with pytest.raises(Unreadable, match="has no chunk 2"):
        room.backup(url(tmp_path / "a.db"))
    with closing(connected(tmp_path / "b.db")) as db:
        db.execute("create virtual table t using vec0(e float[1])")
        db.executemany("insert into t(e) values (?)", [(bytes(4),), (bytes(4),)])
        db.execute("delete from t_rowids where rowid = 2")
        db.commit()
    with pytest.raises(Unreadable, match="its chunks hold 2 rows"):
        room.backup(url(tmp_path / "b.db"))
    content = bytearray((tmp_path / "a.db").read_bytes())
    content[8192:40_000] = bytes(40_000 - 8192)
    (tmp_path / "a.db").write_bytes(content)
    with pytest.raises(Unreadable):
        room.backup(url(tmp_path / "a.db"))
    assert not room.snapshots()


def test_a_python_that_loads_no_extensions_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pysqlite3", None)
    monkeypatch.setattr(library, "sqlite3", type("Bare", (), {"Connection": object}))
    with pytest.raises(WrongRequest, match="can't load extensions") as found:
        SqliteVec().version()
    assert "pysqlite3-binary" in found.value.hint


def test_the_artifact_is_the_file(tmp_path: Path) -> None:
    vec0_make(tmp_path / "a.db", 0, 10)
    with SqliteVecSource(tmp_path / "a.db").freeze(SILENT) as frozen:
        assert [(one.path, one.size) for one in frozen.artifacts()] == [(FILE, (tmp_path / "a.db").stat().st_size)]
