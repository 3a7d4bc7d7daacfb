"""What did first users meet? One test each: what they did with real databases, and what must come of it."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import chromadb
import lancedb
import numpy as np
import pyarrow as pa
import pytest
from commands import COMMAND, Place, environment
from processes import program

from strongroom.engines.indexfile.order import unique

RNG = np.random.default_rng(5)


def vectors(rows: int, dimension: int, kind: type = np.float32) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(
        pa.array((RNG.standard_normal((rows, dimension)) * 40).astype(kind).ravel()), dimension
    )


def table(folder: Path, **columns: pa.Array | list[str]) -> str:
    """A LanceDB database with one table `notes`, as the URL of a source."""
    lancedb.connect(str(folder)).create_table("notes", pa.table(columns), on_bad_vectors="null")
    return f"lancedb://{folder}"


@pytest.fixture
def tenants(tmp_path: Path) -> str:
    """A Chroma database with a collection that never had a vector, and one under a tenant with a slash in its name."""
    folder = str(tmp_path / "chroma")
    admin = chromadb.AdminClient(chromadb.Settings(is_persistent=True, persist_directory=folder))
    admin.create_tenant("acme/eu")
    admin.create_database("main", tenant="acme/eu")
    there = chromadb.PersistentClient(folder, tenant="acme/eu", database="main").create_collection("notes", embedding_function=None)
    there.add(ids=["a", "b", "c"], embeddings=RNG.standard_normal((3, 4)))
    here = chromadb.PersistentClient(folder)
    here.create_collection("hollow", embedding_function=None)
    here.create_collection("people", embedding_function=None).add(ids=["a"], embeddings=[[1.0, 2.0]])
    return f"chroma://{folder}"


# -- names -----------------------------------------------------------------------------------------------------------------


def test_a_rename_makes_a_name_fit_another_engine(place: Place, tenants: str, tmp_path: Path) -> None:
    place.run("backup", tenants, "-q").done()
    chosen = ("--collection", "acme/eu/main/notes", "-q")
    place.run("restore", "latest", f"lancedb://{tmp_path}/lance", *chosen).failed(2, "--rename")
    place.run("restore", "latest", f"lancedb://{tmp_path}/lance", *chosen, "--rename", "acme/eu/main/notes=notes").done()
    assert lancedb.connect(str(tmp_path / "lance")).open_table("notes").count_rows() == 3


def test_a_rename_of_what_is_not_restored_is_refused(place: Place, tenants: str, tmp_path: Path) -> None:
    place.run("backup", tenants, "-q").done()
    asked = ("--collection", "people", "--rename", "hollow=full")
    place.run("restore", "latest", f"chroma://{tmp_path}/out", *asked).failed(2, "'hollow'", "--collection")


def test_an_empty_collection_is_refused_before_anything_is_built(place: Place, tenants: str, tmp_path: Path) -> None:
    place.run("backup", tenants, "-q").done()
    for target in (f"lancedb://{tmp_path}/lance", f"faiss://{tmp_path}/x.faiss"):
        place.run("restore", "latest", target, "--collection", "hollow").failed(2, "hollow", "dimension", "--collection")


def test_two_slashes_do_not_make_a_relative_directory(pristine: Place) -> None:
    pristine.run("restore", "latest", "lancedb://srv/lance", "--dry-run").failed(2, "host", "lancedb:///")


# -- vectors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.int8, np.float16])
def test_narrow_vectors_go_into_chroma(kind: type, place: Place, tmp_path: Path) -> None:
    source = table(tmp_path / "lance", id=[str(row) for row in range(300)], vector=vectors(300, 8, kind))
    assert place.run("backup", source, "-q").code in (0, 3)
    place.run("restore", "latest", f"chroma://{tmp_path}/out", "-q").done()
    found = chromadb.PersistentClient(str(tmp_path / "out")).get_collection("notes").get(include=["embeddings"])
    held = lancedb.connect(str(tmp_path / "lance")).open_table("notes").to_arrow().column("vector").to_pylist()
    given = dict(zip(found["ids"], np.asarray(found["embeddings"]).tolist(), strict=True))
    assert [given[str(row)] for row in range(300)] == held


def test_a_field_that_its_engine_cannot_search_does_not_stop_a_restore(place: Place, tmp_path: Path) -> None:
    source = table(tmp_path / "lance", id=["a", "b"], vector=vectors(2, 8, np.int8))
    assert place.run("backup", source, "-q").code == 3
    for folder, more in (("exact", ()), ("rebuilt", ("--rung", "rebuild"))):
        place.run("restore", "latest", f"lancedb://{tmp_path}/{folder}", "-q", *more).done()
        assert lancedb.connect(str(tmp_path / folder)).open_table("notes").count_rows() == 2


def test_a_row_without_a_vector_is_refused_in_words(place: Place, tmp_path: Path) -> None:
    column = pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float32(), 2))
    place.run("backup", table(tmp_path / "lance", id=["a", "b", "c"], vector=column), "-q").done()
    place.run("restore", "latest", f"chroma://{tmp_path}/out", "-q").failed(2, "no vector")


def test_each_field_has_its_own_recall(place: Place, tmp_path: Path) -> None:
    source = table(tmp_path / "lance", id=["a", "b"], left=vectors(2, 4), right=vectors(2, 8))
    place.run("backup", source, "-q").done()
    looked = place.run("verify", "latest", "--level", "answers", "-q", "--json").done().json
    assert sorted(name.partition("/")[2] for name in looked["recall"]) == ["notes, left", "notes, right"]
    report = place.run("restore", "latest", f"lancedb://{tmp_path}/out", "-q", "--json").done().json
    assert sorted(report["recall"]) == ["notes, left", "notes, right"]


# -- places ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["chroma:{0}/repo", "faiss:{0}/repo", "chroma:{0}", "faiss:{0}/repo/index/x.faiss"])
def test_a_repository_is_never_restored_over_or_into(target: str, pristine: Place, tmp_path: Path) -> None:
    home = tmp_path / "home"
    place = Place(Path(shutil.copytree(pristine.repo, home / "repo")), pristine.index)

    def things() -> list[Path]:
        """All but the audit log, which tells of the refusal."""
        return sorted(path for path in home.rglob("*") if "audit" not in path.relative_to(home).parts)

    before = things()
    place.run("restore", "latest", target.format(home), "--overwrite", "--rename", "x=xxx").failed(5, "repository", "outside")
    assert things() == before
    place.assert_whole(tmp_path)


def test_what_was_added_since_a_restore_is_seen(place: Place, tenants: str, tmp_path: Path) -> None:
    place.run("backup", tenants, "-q").done()
    again = ("restore", "latest", f"chroma://{tmp_path}/out", "-q", "--collection", "people")
    place.run(*again).done()
    assert "already" in place.run(*again).done().out
    added = "import chromadb, sys; chromadb.PersistentClient(sys.argv[1]).create_collection('extra', embedding_function=None)"
    assert program("-c", added, tmp_path / "out").wait() == 0
    place.run(*again).failed(5, "--overwrite")
    place.run(*again, "--overwrite").done()
    assert [one.name for one in chromadb.PersistentClient(str(tmp_path / "out")).list_collections()] == ["people"]


@pytest.mark.parametrize("arguments", [["show", "latest"], ["show", "latest", "--json"], ["backup", "{source}", "-q"]])
def test_a_reader_that_stops_early_changes_no_exit_code(arguments: list[str], place: Place) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    given = [COMMAND, *(one.format(source=place.source) for one in arguments)]
    ended = subprocess.run(given, stdout=writing, stderr=subprocess.PIPE, env=environment(**place.env), check=False)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_what_is_one_is_not_many(place: Place) -> None:
    said = place.run("verify", "latest", "-q").done().out
    assert "1 snapshot," in said
    assert json.loads(place.run("verify", "-q", "--json").done().out)["looked_at"]["snapshots"] == 1


# -- what a target holds ---------------------------------------------------------------------------------------------------


def test_a_changed_catalog_is_not_taken_for_the_restored_one(place: Place, tmp_path: Path) -> None:
    folder = str(tmp_path / "chroma")
    notes = chromadb.PersistentClient(folder).create_collection("notes", metadata={"owner": "ann"}, embedding_function=None)
    notes.add(ids=["a", "b"], embeddings=RNG.standard_normal((2, 4)))
    place.run("backup", f"chroma://{folder}", "-q").done()
    target = f"chroma://{tmp_path}/out"
    place.run("restore", "latest", target, "-q").done()
    assert "already" in place.run("restore", "latest", target, "-q").done().out
    chromadb.PersistentClient(str(tmp_path / "out")).get_collection("notes").modify(metadata={"owner": "bob"})
    place.run("restore", "latest", target, "-q").failed(5, "--overwrite")


def test_an_index_has_room_for_one_collection(place: Place, tmp_path: Path) -> None:
    client = chromadb.PersistentClient(str(tmp_path / "chroma"))
    for name in ("left", "right"):
        client.create_collection(name, embedding_function=None).add(ids=["a", "b"], embeddings=RNG.standard_normal((2, 4)))
    place.run("backup", f"chroma://{tmp_path}/chroma", "-q").done()
    place.run("restore", "latest", f"faiss://{tmp_path}/x.faiss", "-q").failed(2, "one collection", "--collection")
    place.run("restore", "latest", f"faiss://{tmp_path}/x.faiss", "-q", "--collection", "left").done()


def test_a_backup_of_nothing_says_so(place: Place, tmp_path: Path) -> None:
    """What looked at nothing is no success: a wrong path to an empty database would pass for a backup for months."""
    chromadb.PersistentClient(str(tmp_path / "chroma"))
    ended = place.run("backup", f"chroma://{tmp_path}/chroma", "-q")
    assert ended.code == 3
    assert "not one row" in ended.out + ended.err


@pytest.mark.parametrize(
    ("ids", "distinct"),
    [
        ([-(2**63) + 5, 2**62], True),
        ([2**62, -(2**63) + 5], True),
        ([0, 2**62, -(2**63) + 1, -(2**62) - 2**61, 0], False),
        ([5, 5], False),
        ([], True),
    ],
)
def test_ids_that_lie_far_apart_are_told_apart(ids: list[int], distinct: bool) -> None:
    assert unique(np.array(ids, np.int64)) is distinct


def test_nanoseconds_go_where_there_are_none(place: Place, tmp_path: Path) -> None:
    """By the command itself, whose Arrow has no pandas."""
    moments = pa.array([1_709_209_815_000_000_001, None, 1_709_209_815_000_000_000], pa.timestamp("ns"))
    lists = pa.array([[1], None, []], pa.list_(pa.timestamp("ns")))
    source = table(tmp_path / "db", id=["a", "b", "c"], vector=vectors(3, 4), moment=moments, lists=lists)
    place.run("backup", source, "-q").done()
    given = [COMMAND, "restore", "latest", f"sqlite-vec://{tmp_path}/notes.db", "-q"]
    ended = subprocess.run(given, capture_output=True, text=True, env=environment(**place.env), check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    with closing(sqlite3.connect(tmp_path / "notes.db")) as connection:
        texts = [json.loads(row[0] or "{}") for row in connection.execute("SELECT value00 FROM notes_auxiliary ORDER BY rowid")]
    assert [one.get("moment") for one in texts] == ["2024-02-29 12:30:15.000000001", None, "2024-02-29 12:30:15"]
    assert [one.get("lists") for one in texts] == [["1970-01-01 00:00:00.000000001"], None, []]
