"""What does diff say of real databases, and does it leave the vectors where they are?"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import strongroom as command
from processes import apart

import strongroom
from strongroom.errors import Damaged, NotFound, WrongRequest
from strongroom.repository import Argon2Cost

CHEAP = Argon2Cost(1, 1, 64)
ROWS, DIMENSION = 1200, 16
GOLDEN = Path(__file__).parent / "golden"


def vectors(seed, count):
    return np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype(np.float32)


class Watched:
    """A repository that notes which blobs are read."""

    def __init__(self, folder):
        self.folder = folder
        self.room = strongroom.init(str(folder / "repository"), password="x", cost=CHEAP)
        self.read = []
        reading = self.room.repository.read_blob
        self.room.repository.read_blob = lambda blob: self.read.append(bytes(blob).hex()) or reading(blob)

    def backup(self, url):
        return self.room.backup(url, model="encoder@1").snapshot.id

    def diff(self, *arguments, **options):
        """The differences, once it is sure that only rows without vectors, fingerprints and runs were read."""
        self.read.clear()
        report = self.room.diff(*arguments, **options)
        collections = [one for side in (report.before, report.after) for one in side.manifest.collections]
        allowed = {
            blob
            for one in collections
            for blob in (
                *(blob for segment in one.segments for blob in segment.blobs()),
                *(block.prints for blocks in one.vectors.values() for block in blocks),
                *one.order,
            )
        }
        heavy = {block.blob for one in collections for blocks in one.vectors.values() for block in blocks}
        assert not set(self.read) & heavy
        assert set(self.read) <= allowed
        return report


@pytest.fixture
def watched(tmp_path):
    return Watched(tmp_path)


# -- Chroma ----------------------------------------------------------------------------------------------------------------


def chroma_make(path):
    import chromadb

    client = chromadb.PersistentClient(path)
    notes = client.create_collection("notes", embedding_function=None, metadata={"hnsw:space": "l2"})
    notes.add(
        ids=[f"n{at}" for at in range(ROWS)],
        embeddings=vectors(1, ROWS),
        documents=[f"note {at}" for at in range(ROWS)],
        metadatas=[{"number": at} for at in range(ROWS)],
    )
    client.create_collection("old", embedding_function=None).add(ids=["o1", "o2"], embeddings=vectors(2, 2))
    client.create_collection("still", embedding_function=None).add(ids=["s1", "s2", "s3"], embeddings=vectors(3, 3))


def chroma_change(path):
    import chromadb

    client = chromadb.PersistentClient(path)
    notes = client.get_collection("notes", embedding_function=None)
    notes.update(ids=["n1", "n2"], embeddings=vectors(1, ROWS)[1:3], documents=["other 1", "other 2"])
    notes.update(ids=["n2", "n700"], embeddings=vectors(4, 2))
    notes.update(ids=["n5"], metadatas=[{"number": -1}])
    notes.delete(ids=["n100", "n1100"])
    notes.add(ids=["m1", "m2", "m3"], embeddings=vectors(5, 3), documents=["a", "b", "c"])
    client.delete_collection("old")
    client.create_collection("new", embedding_function=None).add(ids=["w1"], embeddings=vectors(6, 1))


def test_chroma(watched, tmp_path):
    url = f"chroma://{tmp_path}/db"
    apart(chroma_make, f"{tmp_path}/db")
    first = watched.backup(url)
    apart(chroma_change, f"{tmp_path}/db")
    second = watched.backup(url)
    report = watched.diff(first, second, sample=100)
    found = {one.before or one.after: one for one in report.collections}
    notes = found["notes"].rows
    assert (found["notes"].rows_before, found["notes"].rows_after) == (ROWS, ROWS + 1)
    assert (notes.added, notes.changed, notes.removed, notes.untold) == (3, 4, 2, 0)
    assert sorted(notes.sample_added) == ["m1", "m2", "m3"]
    assert sorted(notes.sample_removed) == ["n100", "n1100"]
    changed = {row.id: set(row.columns) for row in notes.sample_changed}
    assert changed == {"n1": {"document"}, "n2": {"document", "embedding"}, "n700": {"embedding"}, "n5": {"payload"}}
    assert dict(notes.columns) == {"document": 2, "embedding": 2, "payload": 1}
    assert (found["old"].after, found["old"].rows.removed, set(found["old"].rows.sample_removed)) == (None, 2, {"o1", "o2"})
    assert (found["new"].before, found["new"].rows.added, found["new"].rows.sample_added) == (None, 1, ("w1",))
    assert not found["still"].rows.added + found["still"].rows.changed + found["still"].rows.removed
    assert {one.path for one in report.files} >= {"chroma.sqlite3"}
    back = {one.before or one.after: one for one in watched.diff(second, first).collections}
    assert (back["notes"].rows.added, back["notes"].rows.changed, back["notes"].rows.removed) == (2, 4, 3)
    assert watched.diff("latest~1", "latest").before.id == first


# -- FAISS -----------------------------------------------------------------------------------------------------------------


def faiss_write(path, kind, ids, values, documents=None):
    faiss.omp_set_num_threads(1)
    index = faiss.index_factory(DIMENSION, kind)
    index.train(vectors(77, 2000))
    index.add(values)
    faiss.write_index(index, str(path))
    if documents is not None:
        pq.write_table(pa.table({"id": ids, "document": documents}), path.with_suffix(".parquet"))


@pytest.mark.parametrize("kind", ["Flat", "HNSW16", "SQ8"])
def test_faiss(watched, tmp_path, kind):
    path, ids, values = tmp_path / "notes.faiss", [f"n{at}" for at in range(ROWS)], vectors(1, ROWS)
    faiss_write(path, kind, ids, values, [f"note {at}" for at in range(ROWS)])
    first = watched.backup(f"faiss://{path}")
    values[7] = vectors(2, 1)
    documents = [f"note {at}" for at in range(ROWS)]
    documents[9] = "other"
    faiss_write(path, kind, [*ids[1:], "m1"], np.concatenate([values[1:], vectors(3, 1)]), [*documents[1:], "new"])
    second = watched.backup(f"faiss://{path}")
    (one,) = watched.diff(first, second).collections
    assert (one.rows.added, one.rows.changed, one.rows.removed) == (1, 2, 1)
    assert (one.rows.sample_added, one.rows.sample_removed) == (("m1",), ("n0",))
    told = {row.id: row.columns for row in one.rows.sample_changed}
    if kind == "SQ8":
        assert told == {"n7": None, "n9": None}
        assert one.rows.untold == 2
    else:
        assert told == {"n7": ("vector",), "n9": ("document",)}
    assert any(file.path == "notes.faiss" and file.certain for file in watched.diff(first, second).files)
    (back,) = watched.diff(second, first).collections
    assert (back.rows.added, back.rows.changed, back.rows.removed) == (1, 2, 1)
    assert (back.rows.sample_added, back.rows.sample_removed) == (("n0",), ("m1",))


def test_a_lossy_index_alone_holds_nothing_but_vectors(watched, tmp_path):
    path, values = tmp_path / "notes.faiss", vectors(1, ROWS)
    faiss_write(path, "SQ8", None, values)
    first = watched.backup(f"faiss://{path}")
    values[7] = vectors(2, 1)
    faiss_write(path, "SQ8", None, values)
    second = watched.backup(f"faiss://{path}")
    (one,) = watched.diff(first, second).collections
    assert [(row.id, row.columns) for row in one.rows.sample_changed] == [(7, ("vector",))]
    assert dict(one.rows.columns) == {"vector": 1}


def test_rows_in_another_order_are_the_same_rows(watched, tmp_path):
    path, ids, values = tmp_path / "notes.faiss", [f"n{at}" for at in range(ROWS)], vectors(1, ROWS)
    faiss_write(path, "Flat", ids, values, ids)
    first = watched.backup(f"faiss://{path}")
    faiss_write(path, "Flat", ids[::-1], values[::-1].copy(), ids[::-1])
    second = watched.backup(f"faiss://{path}")
    report = watched.diff(first, second)
    assert not any(one.differs for one in report.collections)
    assert watched.read == []
    assert [file.path for file in report.files] == ["notes.faiss", "notes.parquet"]
    assert not watched.diff(first, first).differs


def test_neighbours_cost_what_changed(watched, tmp_path):
    """Of a row added, its own segment is read and not one of the others, whatever their number."""
    path, ids, values = tmp_path / "notes.faiss", [f"n{at}" for at in range(ROWS)], vectors(1, ROWS)
    faiss_write(path, "Flat", ids, values, ids)
    watched.backup(f"faiss://{path}")
    faiss_write(path, "Flat", [*ids, "m"], np.concatenate([values, vectors(2, 1)]), [*ids, "m"])
    watched.backup(f"faiss://{path}")
    (one,) = watched.diff().collections
    assert one.rows.sample_added == ("m",)
    after = watched.room.snapshot().manifest.collections[0]
    assert watched.read == [after.segments[-1].rest]
    watched.diff(sample=0)
    assert watched.read == []


# -- LanceDB ---------------------------------------------------------------------------------------------------------------


def lance_make(path):
    import lancedb

    values = pa.FixedSizeListArray.from_arrays(pa.array(vectors(1, ROWS).ravel()), DIMENSION)
    texts = [f"note {at}" for at in range(ROWS)]
    rows = pa.table({"id": [f"n{at}" for at in range(ROWS)], "vector": values, "document": texts})
    lancedb.connect(path).create_table("notes", rows)


def lance_change(path):
    import lancedb

    table = lancedb.connect(path).open_table("notes")
    table.update(where="id in ('n3', 'n800')", values={"document": "other"})
    table.delete("id = 'n5'")
    table.add([{"id": "m1", "vector": vectors(2, 1)[0], "document": "new"}])


def lance_optimize(path):
    import lancedb

    lancedb.connect(path).open_table("notes").optimize()


def test_lancedb(watched, tmp_path):
    url, path = f"lancedb://{tmp_path}/db", f"{tmp_path}/db"
    snapshots = []
    for step in (lance_make, lance_change, lance_optimize):
        apart(step, path)
        snapshots.append(watched.backup(url))
    (one,) = watched.diff(*snapshots[:2]).collections
    assert (one.rows.added, one.rows.changed, one.rows.removed, one.rows.untold) == (1, 2, 1, 2)
    assert (one.rows.sample_added, one.rows.sample_removed) == (("m1",), ("n5",))
    assert {(row.id, row.columns) for row in one.rows.sample_changed} == {("n3", None), ("n800", None)}
    rewritten = watched.diff(*snapshots[1:])
    (one,) = rewritten.collections
    assert (one.rows.added, one.rows.changed, one.rows.removed) == (0, 0, 0)
    assert rewritten.files
    assert watched.read == []


# -- across engines, sources and formats -------------------------------------------------------------------------------------


def test_the_same_rows_in_two_engines(watched, tmp_path):
    apart(lance_make, f"{tmp_path}/db")
    lance = watched.backup(f"lancedb://{tmp_path}/db")
    ids, values = [f"n{at}" for at in range(ROWS)], vectors(1, ROWS)
    documents = [f"note {at}" for at in range(ROWS)]
    faiss_write(tmp_path / "copy.faiss", "Flat", ids, values, documents)
    same = watched.backup(f"faiss://{tmp_path}/copy.faiss")
    report = watched.diff(lance, same)
    (one,) = report.collections
    assert (one.before, one.after) == ("notes", "copy")
    assert (one.rows.added, one.rows.changed, one.rows.removed) == (0, 0, 0)
    assert "engine" in {change.path for change in report.catalog}
    documents[4] = "other"
    faiss_write(tmp_path / "copy.faiss", "Flat", ids[:-1], values[:-1], documents[:-1])
    other = watched.backup(f"faiss://{tmp_path}/copy.faiss")
    (one,) = watched.diff(lance, other).collections
    assert (one.rows.added, one.rows.changed, one.rows.removed) == (0, 1, 1)
    assert [row.id for row in one.rows.sample_changed] == ["n4"]
    assert watched.diff(lance, other, collections=["notes=copy"]).collections == (one,)
    assert watched.room.snapshot("latest~1").id == same, "of the same source"
    with pytest.raises(NotFound, match="has not 1 snapshots before"):
        watched.room.snapshot(f"{lance[:12]}~1")


@pytest.fixture
def golden(tmp_path):
    shutil.copytree(GOLDEN / "format-1", tmp_path / "repository")
    return strongroom.open(str(tmp_path / "repository"), password="golden")


def test_format_1_keeps_no_fingerprints_and_is_read(golden, tmp_path):
    old = golden.snapshot().id
    values = np.random.default_rng(8).standard_normal((50, 8)).astype(np.float32)
    values[[3, 40]] += 1
    index = faiss.IndexFlatL2(8)
    index.add(np.concatenate([values, values[:2] + 5]))
    faiss.write_index(index, str(tmp_path / "index.faiss"))
    golden.backup(f"faiss://{tmp_path}/index.faiss", model="golden@2")
    report = golden.diff(old, "latest")
    (one,) = report.collections
    assert (one.rows.added, one.rows.changed, one.rows.removed) == (2, 2, 0)
    assert one.rows.sample_added == (50, 51)
    assert [(row.id, row.columns) for row in one.rows.sample_changed] == [(3, ("vector",)), (40, ("vector",))]
    assert ("lineage.version", "1", "2") in {(change.path, change.before, change.after) for change in one.catalog}
    assert not golden.diff(old, old).differs


# -- what can be asked for -------------------------------------------------------------------------------------------------


def test_names(watched, tmp_path):
    path = tmp_path / "notes.faiss"
    for seed in range(3):
        faiss_write(path, "Flat", None, vectors(seed, 20))
        watched.backup(f"faiss://{path}")
    newest = [one.id for one in watched.room.snapshots()]
    assert [watched.room.snapshot(f"latest~{steps}").id for steps in range(3)] == newest[::-1]
    assert watched.room.snapshot(f"{newest[2][:10]}~2").id == newest[0]
    for wrong in ("latest~3", "latest~", "latest~x", "latest~-1", "latest~1~1", "~1", "latest~99999999999999"):
        with pytest.raises(NotFound):
            watched.room.snapshot(wrong)
    for wrong in ("other", "notes=other", "other=notes", "=", "notes="):
        with pytest.raises(NotFound, match="no collection"):
            watched.room.diff(collections=[wrong])
    with pytest.raises(WrongRequest):
        watched.room.diff(sample=-1)
    place = tmp_path / "repository" / "snapshots" / newest[0]
    place.write_bytes(b"x" + place.read_bytes()[1:])
    with pytest.raises(Damaged):
        watched.room.diff("latest~2")


def test_the_command(tmp_path):
    env = {"STRONGROOM_REPOSITORY": str(tmp_path / "repository")}
    command("init", env=env).done()
    path, ids = tmp_path / "notes.faiss", [f"n{at}" for at in range(40)]
    faiss_write(path, "Flat", ids, vectors(1, 40), ids)
    command("backup", f"faiss://{path}", "--quiet", env=env).done()
    command("diff", env=env).failed(1, "has not 1 snapshots before")
    ids[39] = "\x1b[31mred"
    faiss_write(path, "Flat", ids, vectors(1, 40), ids)
    command("backup", f"faiss://{path}", "--quiet", env=env).done()
    shown = command("diff", "--quiet", env=env).done().out
    assert "n39" in shown
    assert "\x1b" not in shown
    said = command("diff", "latest~1", "latest", "--json", "--quiet", "--collection", "notes", env=env).done().json
    assert said["differs"] is True
    (one,) = said["collections"]
    assert one["rows"]["sample_added"] == ["\x1b[31mred"]
    assert (one["rows"]["added"], one["rows"]["changed"], one["rows"]["removed"]) == (1, 0, 1)
    assert [file["path"] for file in said["files"]] == ["notes.parquet"]
    assert "no difference" in command("diff", "latest", "--quiet", env=env).done().out
    assert json.loads(command("diff", "latest", "latest", "--json", env=env).done().out)["differs"] is False
