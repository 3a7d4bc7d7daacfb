"""Can a batch be taken back on the other engines that have a journal, and is it said where it can't?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from commands import PASSWORD
from postgres import Postgres

from strongroom import capture
from strongroom.errors import WrongRequest
from strongroom.library import Strongroom, init_repository
from strongroom.operations.follow.run import FollowOptions
from strongroom.repository import Argon2Cost

KEYED = FollowOptions(once=True, probes=4, batch_key="batch")


@pytest.fixture
def room(tmp_path: Path) -> Strongroom:
    return init_repository(str(tmp_path / "repo"), password=PASSWORD, cost=Argon2Cost(1, 1, 64))


def test_postgresql(postgres: Postgres, room: Strongroom) -> None:
    """A row that the batch changed, and a good write changed after it, keeps the good write: each names whole rows."""
    name = postgres.database()
    url = postgres.url(name)

    def run(*statements: str) -> None:
        with postgres.connect(name) as connection:
            for one in statements:
                connection.execute(one)
        room.follow(url, KEYED)

    run("CREATE TABLE items (id int PRIMARY KEY, v vector(3), batch text, n int)",
        "INSERT INTO items SELECT i, '[1,2,3]', 'seed', i FROM generate_series(1, 50) i")  # fmt: skip
    run("UPDATE items SET batch = 'bad', n = -1 WHERE id <= 20",
        "INSERT INTO items SELECT i, '[9,9,9]', 'bad', -1 FROM generate_series(100, 109) i")  # fmt: skip
    run("UPDATE items SET batch = 'good', n = 7 WHERE id <= 5", "DELETE FROM items WHERE id IN (6, 50, 100)")
    target = postgres.database()
    undo = room.restore("latest", postgres.url(target), undo="bad").plan.moment
    assert undo is not None
    assert undo.undo is not None
    assert undo.undo.rows == {"removed": 9, "put back": 14, "kept": 7}
    with postgres.connect(target) as connection:
        found = connection.execute("SELECT id, batch, n FROM items ORDER BY id").fetchall()
    assert found == [(i, "good", 7) if i <= 5 else (i, "seed", i) for i in range(1, 50) if i != 6]


def test_a_captured_index(room: Strongroom, tmp_path: Path) -> None:
    import faiss

    vectors = np.random.default_rng(5).standard_normal((60, 8)).astype(np.float32)
    index = faiss.IndexIDMap2(faiss.IndexFlatL2(8))
    path = tmp_path / "srv" / "notes.faiss"
    path.parent.mkdir()
    with capture(index, None, f"faiss://{path}") as captured:
        captured.add_with_ids(vectors[:40], np.arange(40))
        captured.save()
        room.follow(f"faiss://{path}", KEYED)
        with captured.batch("bad"):
            captured.remove_ids(np.arange(5))
            captured.add_with_ids(vectors[40:50], np.arange(100, 110))
        captured.add_with_ids(vectors[50:], np.arange(200, 210))
        room.follow(f"faiss://{path}", KEYED)
    report = room.restore("latest", f"faiss://{tmp_path}/back/notes.faiss", undo="bad")
    found = faiss.read_index(str(tmp_path / "back" / "notes.faiss"))
    ids = faiss.vector_to_array(found.id_map).tolist()
    assert sorted(ids) == [*range(40), *range(200, 210)]
    assert report.plan.moment is not None
    assert report.plan.moment.undo is not None
    assert report.plan.moment.undo.rows == {"removed": 10, "brought back": 5}
    places = [ids.index(one) for one in (*range(40), *range(200, 210))]
    kept = np.concatenate([vectors[:40], vectors[50:]])
    assert np.array_equal(found.index.reconstruct_n(0, found.ntotal)[places], kept)


def test_lancedb_by_its_ids_while_they_are_unique(room: Strongroom, tmp_path: Path) -> None:
    """Rows of a table in which an id is there twice are known by what is in them: single ones can't be followed."""
    import lancedb

    rows = [{"id": f"r{n}", "vector": [float(n), 1.0, 2.0], "batch": "seed"} for n in range(30)]
    sources = []
    for name, more in (("unique", []), ("twice", rows[:1])):
        table = lancedb.connect(tmp_path / name).create_table("things", rows + more)
        sources.append(f"lancedb://{tmp_path}/{name}")
        room.follow(sources[-1], KEYED)
        table.update(where="id = 'r3'", values={"batch": "bad"})
        table.update(where="id = 'r4'", values={"batch": "good"})
        table.update(where="id = 'r3'", values={"vector": [7.0, 8.0, 9.0]})
        room.follow(sources[-1], KEYED)
    report = room.restore("latest", f"lancedb://{tmp_path}/back", undo="bad", source=sources[0])
    assert report.plan.moment is not None
    assert report.plan.moment.undo is not None
    assert (report.plan.moment.undo.operations, report.plan.moment.undo.again) == (2, 1), "a row that keeps the batch's name"
    back = {row["id"]: row["batch"] for row in lancedb.connect(tmp_path / "back").open_table("things").to_arrow().to_pylist()}
    assert back == {f"r{n}": "good" if n == 4 else "seed" for n in range(30)}
    with pytest.raises(WrongRequest, match="no id that is theirs alone"):
        room.restore("latest", f"lancedb://{tmp_path}/other", undo="bad", source=sources[1])
    until = next(one.until for one in room.journal_status() if one.source == sources[1])
    with pytest.raises(WrongRequest, match="no id that is theirs alone"):
        room.restore("latest", f"faiss://{tmp_path}/back.faiss", at=until, source=sources[1])


def test_lancedb_by_scans(room: Strongroom, tmp_path: Path) -> None:
    import lancedb

    rows = [{"id": f"r{n}", "vector": [float(n), 1.0, 2.0], "batch": "seed"} for n in range(30)]
    table = lancedb.connect(tmp_path / "tables").create_table("things", rows)
    source = f"lancedb://{tmp_path}/tables"
    scans = FollowOptions(every=5, once=True, scan=True, batch_key="batch", probes=4)
    room.follow(source, scans)
    table.update(where="id = 'r4'", values={"batch": "worse"})
    table.delete("id = 'r5'")
    room.follow(source, scans)
    report = room.restore("latest", f"lancedb://{tmp_path}/back", undo="worse")
    assert report.plan.moment is not None
    back = {row["id"]: row["batch"] for row in lancedb.connect(tmp_path / "back").open_table("things").to_arrow().to_pylist()}
    assert back == {f"r{n}": "seed" for n in range(30) if n != 5}
