"""Do erased rows stay away, by every road back? What does a certificate prove, and what does a hold refuse?"""

from __future__ import annotations

import json
from pathlib import Path

import faiss
import lancedb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import DIMENSION, Place

from strongroom import engines
from strongroom.engines.indexfile.stage import IndexStage
from strongroom.errors import Refused
from strongroom.operations.follow.run import FollowOptions
from strongroom.operations.restore.plan import Rung
from strongroom.progress import SILENT
from strongroom.repository import erasures
from strongroom.snapshots.fingerprints import role_of

USAGE, DAMAGED, REFUSED = 2, 4, 5
WHY = ("--reason", "Art. 17 request 2026-118")
ROWS = 300


def people(rows: int = ROWS) -> pa.Table:
    return pa.table({"document": [f"letter of user {n % 10}" for n in range(rows)], "user": [f"u{n % 10}" for n in range(rows)]})


def write_source(index: Path, seed: int) -> None:
    vectors = np.random.default_rng(seed).standard_normal((ROWS, DIMENSION)).astype(np.float32)
    made = faiss.IndexHNSWFlat(DIMENSION, 8)
    faiss.omp_set_num_threads(1)
    made.add(vectors)
    faiss.write_index(made, str(index))
    pq.write_table(people(), index.with_suffix(".parquet"))


@pytest.fixture
def letters(place: Place, tmp_path) -> Place:
    """Two snapshots more, of 300 letters of ten users."""
    mine = Place(place.repo, tmp_path / "src" / "y.faiss")
    mine.index.parent.mkdir()
    for seed in (5, 6):
        write_source(mine.index, seed)
        mine.open().backup(mine.source)
    return mine


def rows_of(url: str) -> dict[str, str]:
    """Id to all that is told of a row."""
    found = {}
    with engines.source_of(url).freeze(SILENT) as frozen:
        for collection in frozen.description.collections:
            for block in frozen.rows(collection.name):
                batch = block.live()
                plain = [one.name for one in batch.schema if role_of(one) != "vector"]
                found |= {str(row["id"]): str(row) for row in batch.select(plain).to_pylist()}
    return found


def test_rows_by_a_filter_come_back_no_more(letters: Place, tmp_path) -> None:
    said = letters.run("erase", "--where", "user=u3", *WHY, "--dry-run", "--json", "--quiet").done().json
    assert [one["rows"] for one in said["still_in"]] == [30, 30]
    assert letters.run("certificate", "list", "--json").done().json == []
    done = letters.run("erase", "--where", "user=u3", *WHY, "--json", "--quiet").done().json
    assert done["still_in"] == said["still_in"]
    for name in letters.snapshots()[1:]:
        target = f"faiss://{tmp_path}/{name[:6]}/x.faiss"
        plan = letters.open().plan_restore(name, target)
        assert plan.rung is Rung.REBUILD
        assert "30 rows were erased" in plan.reasons[0]
        letters.run("restore", name, target, "--quiet").done()
        found = rows_of(target)
        assert len(found) == ROWS - 30
        assert not [row for row in found.values() if "user 3" in row]
        with pytest.raises(Refused, match="would not be exact"):
            letters.open().plan_restore(name, f"{target}2", require_exact=True)
    assert b"user 3" not in b"".join(path.read_bytes() for path in tmp_path.glob("*/x.parquet"))
    assert letters.run("verify", "--level", "answers", "--json", "--quiet").done().json["passed"]


def test_rows_by_id_come_back_no_more_in_another_engine(letters: Place, tmp_path) -> None:
    letters.run("erase", "--id", "7", "--id", "11", *WHY, "--quiet").done()
    letters.run("restore", "latest", f"lancedb://{tmp_path}/lake", "--quiet").done()
    database = lancedb.connect(str(tmp_path / "lake"))
    table = database.open_table(database.table_names()[0])
    ids = set(table.to_arrow().column("id").to_pylist())
    assert len(ids) == ROWS - 2
    assert not {7, 11} & ids


def test_what_was_backed_up_later_is_erased_too(letters: Place, tmp_path) -> None:
    """The filter is asked again of whatever is restored."""
    letters.run("erase", "--where", "user=u3", *WHY, "--quiet").done()
    write_source(letters.index, 9)
    letters.run("backup", letters.source, "--quiet").done()
    letters.run("restore", "latest", f"faiss://{tmp_path}/y/x.faiss", "--quiet").done()
    assert len(rows_of(f"faiss://{tmp_path}/y/x.faiss")) == ROWS - 30


def test_what_holds_no_erased_row_is_restored_exactly(letters: Place, tmp_path) -> None:
    letters.run("erase", "--where", "user=u3", *WHY, "--quiet").done()
    first = letters.snapshots()[0]  # has no users
    letters.run("restore", first, f"faiss://{tmp_path}/z/x.faiss", "--quiet", "--require", "exact").done()


def test_what_was_loaded_before_another_erasure_is_not_gone_on_from(
    letters: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a moment the plan tells nothing that would differ between the two."""
    room, target = letters.open(), f"faiss://{tmp_path}/y/x.faiss"
    once = FollowOptions(once=True, scan=True)
    room.follow(letters.source, once)
    write_source(letters.index, 7)
    room.follow(letters.source, once)
    at = room.journal_status()[0].until
    letters.run("erase", "--id", "7", *WHY, "--quiet").done()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(IndexStage, "seal", interrupted)
        room.restore("latest", target, at=at)
    letters.run("erase", "--id", "11", *WHY, "--quiet").done()
    room.restore("latest", target, at=at)
    assert len(rows_of(target)) == ROWS - 2
    assert not {"7", "11"} & rows_of(target).keys()
    assert room.restore("latest", target, at=at).already_there
    letters.run("erase", "--id", "12", *WHY, "--quiet").done()
    with pytest.raises(Refused, match="not empty"):
        room.restore("latest", target, at=at)


def interrupted(_stage: IndexStage) -> None:
    raise KeyboardInterrupt


def test_the_ledger_names_nobody(letters: Place) -> None:
    letters.run("erase", "--id", "7", *WHY, "--quiet").done()
    (entry,) = erasures.erasures(letters.open().repository)
    assert entry.what.has_id("7")
    assert not entry.what.has_id("8")
    assert "7" not in entry.what.ids
    (path,) = (letters.repo / "erasures").iterdir()
    assert b"118" not in path.read_bytes()


def test_a_certificate_proves_itself(letters: Place, tmp_path) -> None:
    done = letters.run("erase", "--where", "user=u3", *WHY, "--json", "--quiet").done().json
    file = tmp_path / "certificate.json"
    letters.run("certificate", "show", done["erasure"][:12], "--out", str(file)).done()
    letters.run("certificate", "show", done["erasure"][:12], "--out", str(file)).failed(1, "already there")
    without = {"STRONGROOM_REPOSITORY": None, "STRONGROOM_PASSWORD": None}
    said = letters.run("certificate", "verify", str(file), "--json", env=without).done().json
    assert said["reason"] == WHY[1]
    assert sorted(said["still_encrypted_in"].values()) == [30, 30]
    assert "u3" not in file.read_text()
    key = said["public_key"]
    letters.run("certificate", "verify", str(file), "--public-key", key, env=without).done()
    letters.run("certificate", "verify", str(file), "--public-key", "00" * 32, env=without).failed(DAMAGED, "signed by")
    document = json.loads(file.read_text())
    document["certificate"]["reason"] = "another"
    file.write_text(json.dumps(document))
    letters.run("certificate", "verify", str(file), env=without).failed(DAMAGED, "altered, or forged")


def test_a_hold_refuses_the_erasure_and_an_erasure_the_hold(letters: Place) -> None:
    court = ("--reason", "discovery", "--authority", "CASE-114")
    held = letters.run("hold", "place", "latest", *court, "--json").done().json["hold"]["id"]
    letters.run("erase", "--where", "user=u3", *WHY, "--quiet").failed(REFUSED, "held", "CASE-114", "nothing was erased")
    letters.run("erase", "--where", "user=u3", *WHY, "--dry-run", "--quiet").failed(REFUSED, "CASE-114")
    assert letters.run("certificate", "list", "--json").done().json == []
    letters.run("hold", "release", held, *court).done()
    letters.run("erase", "--where", "user=u3", *WHY, "--quiet").done()
    letters.run("hold", "place", "latest", *court).failed(REFUSED, "were erased", WHY[1])
    letters.run("hold", "place", letters.snapshots()[0], *court).done()  # there is nothing erased in it


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (WHY, "nothing says what to erase"),
        (("--id", "1", "--where", "a=b", *WHY), "two erasures"),
        (("--where", "a ~ b", *WHY), "can't be understood"),
        (("--id", "1", "--reason", " "), "--reason is empty"),
    ],
)
def test_an_erasure_says_what_and_why(arguments: tuple[str, ...], words: str, place: Place) -> None:
    place.run("erase", *arguments, "--quiet").failed(USAGE, words)
