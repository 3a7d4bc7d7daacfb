"""Does the Chroma engine capture one moment, row for row and byte for byte, and build it again?"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import math
import os
import pickle
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import chroma_fixture as raw
import numpy as np
import pyarrow as pa
import pytest
from processes import apart, program

from strongroom.engines.chroma import Chroma
from strongroom.engines.chroma.capture import _Copy, capture
from strongroom.engines.protocol import Engine
from strongroom.engines.sqlite_file import try_lock
from strongroom.errors import Damaged, Locked, NotFound, Refused, SourceChanged, StrongroomError, Unreadable, WrongRequest
from strongroom.model import ROLE, Collection, Field, Role, Selection, Status
from strongroom.progress import SILENT

REAL = "acme/prod/by-l2"


@pytest.fixture(scope="module")
def seeded(tmp_path_factory):
    path = tmp_path_factory.mktemp("chroma") / "db"
    apart(raw.seed, path)
    return path


@pytest.fixture(scope="module")
def truth(seeded, tmp_path_factory):
    """What the raw client reads, from a copy: reading takes the tail of the log in."""
    copy = tmp_path_factory.mktemp("truth") / "db"
    shutil.copytree(seeded, copy)
    return apart(raw.contents, copy)


@pytest.fixture
def db(seeded, tmp_path):
    path = tmp_path / "source" / "db"
    shutil.copytree(seeded, path)
    return path


def freeze(path):
    return Chroma().source(f"chroma://{path}").freeze(SILENT)


def rows_of(frozen, name):
    return [row for block in frozen.rows(name) for row in block.live().to_pylist()]


def rejoined(artifact):
    """A file put together from its regions, strided ones after a split in vectors and remainder."""
    parts = []
    position = 0
    for region in artifact.regions():
        assert region.offset == position
        position += region.length
        content = artifact.read(region.offset, region.length)
        if region.stride:
            records = np.frombuffer(content, np.uint8).reshape(-1, region.stride)
            cut = slice(region.vector_offset, region.vector_offset + region.vector_length)
            vectors, rest = records[:, cut].copy(), np.delete(records, cut, axis=1)
            joined = np.insert(rest, [region.vector_offset] * region.vector_length, vectors, axis=1)
            content = joined.tobytes()
        parts.append(content)
    assert position == artifact.size
    return b"".join(parts)


def install(frozen, place):
    for artifact in frozen.artifacts():
        file = place / artifact.path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(rejoined(artifact))


def queries(dimension, count=50):
    return np.random.default_rng(77).normal(size=(count, dimension)).astype(np.float32)


def test_is_an_engine():
    engine: Engine = Chroma()
    assert engine.name == "chroma"
    assert engine.compatible(engine.version())
    assert not engine.compatible("0.5.23")
    for url in ("chroma:", "chroma://host:8000", "lancedb:///x"):
        with pytest.raises(WrongRequest):
            engine.source(url)


def test_describes_everything(seeded, truth):
    with freeze(seeded) as frozen:
        description = frozen.description
    assert {c.name: c.count for c in description.collections} == {name: len(rows) for name, rows in truth.items()}
    assert {(d["tenant"], d["name"]) for d in description.catalog["databases"]} >= {("acme", "vacant"), ("acme", "prod")}
    by = {c.name: c for c in description.collections}
    assert [by[f"by-{space}"].fields[0].metric for space in ("l2", "cosine", "ip")] == ["l2", "cosine", "ip"]
    assert by["by-l2"].fields[0].index["sync_threshold"] == 90
    assert by["by-l2"].lineage.model == "test-encoder"
    assert by["by-l2"].catalog["metadata"] == {"embedding_model": "test-encoder", "n": 1, "f": 1.0, "b": True}
    assert by["empty"].fields[0].dimension == 0
    assert by[REAL].catalog["embedding_function"] is not None
    assert {item.status for item in description.ledger} == set(Status)
    unsettled = [item.item for item in description.ledger if item.item.startswith("identical answers")]
    assert unsettled == [
        f"identical answers of collection {name}" for name in ("by-cosine", "by-ip", "by-l2", "only-log", REAL)[: len(unsettled)]
    ]
    json.dumps([c.catalog for c in description.collections], allow_nan=False)


def test_rows_are_those_that_the_client_reads(seeded, truth):
    with freeze(seeded) as frozen:
        for name, expected in truth.items():
            found = rows_of(frozen, name)
            assert len(found) == len(expected) == len({row["id"] for row in found})
            cosine = frozen.description.collection(name).fields[0].metric == "cosine"
            for row in found:
                vector, document, uri, metadata = expected[row["id"]]
                mine = np.array(row["embedding"], np.float32)
                if cosine:
                    mine = mine / np.linalg.norm(mine)
                    assert np.allclose(mine, vector / np.linalg.norm(vector), atol=1e-6)
                else:
                    assert mine.tobytes() == vector.tobytes()
                assert (row["document"], row["uri"]) == (document, uri)
                payload = json.loads(row["payload"]) if row["payload"] else None
                assert payload == (metadata or None)  # Chroma says {} where there is a document and no metadata
                assert types(payload) == types(metadata)
                if row["payload"]:
                    canonical = json.dumps(metadata, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
                    assert row["payload"] == canonical


def types(metadata):
    return {
        key: [type(item) for item in value] if isinstance(value, list) else type(value) for key, value in (metadata or {}).items()
    }


def test_vector_columns_are_the_index_files_regions(seeded):
    with freeze(seeded) as frozen:
        files = {artifact.path: artifact for artifact in frozen.artifacts()}
        for name in ("by-l2", "by-cosine", REAL):
            segment = frozen.description.collection(name).catalog["segments"]["VECTOR"]
            strided = [region for region in files[f"{segment}/data_level0.bin"].regions() if region.stride]
            blocks = list(frozen.rows(name))
            assert strided
            for region, block in zip(strided, blocks, strict=False):
                records = np.frombuffer(files[f"{segment}/data_level0.bin"].read(region.offset, region.length), np.uint8)
                vectors = records.reshape(-1, region.stride)[:, region.vector_offset : region.vector_offset + region.vector_length]
                assert block.batch.column("embedding").flatten().to_numpy().tobytes() == vectors.tobytes()
                cut = slice(region.vector_offset, region.vector_offset + region.vector_length)
                rest = np.delete(records.reshape(-1, region.stride), cut, axis=1)
                place = (f"{segment}/data_level0.bin", region)
                assert (block.records.path, block.records.region, bytes(block.records.rest)) == (*place, rest.tobytes())
            if name == "by-l2":
                assert blocks[0].dead is not None
                assert blocks[0].dead.any()
                assert len(blocks) == len(strided) + 1  # the tail of the log


def test_blocks_have_one_schema_with_roles(seeded):
    with freeze(seeded) as frozen:
        schemas = {block.batch.schema for block in frozen.rows("by-l2")}
    (schema,) = schemas
    roles = [field.metadata[ROLE].decode() for field in schema]
    assert roles == [Role.ID, Role.VECTOR, Role.DOCUMENT, Role.URI, Role.PAYLOAD]


def test_artifacts_give_the_same_answers(seeded, tmp_path):
    with freeze(seeded) as frozen:
        install(frozen, tmp_path / "copy")
        for artifact in frozen.artifacts():
            assert (tmp_path / "copy" / artifact.path).read_bytes() == (seeded / artifact.path).read_bytes()
        shutil.copytree(tmp_path / "copy", tmp_path / "twin")
        answers = frozen.search(REAL, "embedding", queries(384), 10)
    ids, distances = apart(raw.answers, tmp_path / "copy", "by-l2", queries(384), 10, "acme", "prod")
    again = apart(raw.answers, tmp_path / "twin", "by-l2", queries(384), 10, "acme", "prod")
    assert (ids, distances) == again
    assert [list(found) for found in answers.ids] == ids
    assert [list(map(float, found)) for found in answers.distances] == distances


def test_every_freeze_is_the_state_after_a_whole_call(tmp_path):
    path, journal, stop = tmp_path / "busy" / "db", tmp_path / "journal", tmp_path / "stop"
    text = f"import sys, pathlib, {raw.__name__} as raw; raw.write(*map(pathlib.Path, sys.argv[1:]))"
    writer = program("-c", text, path, journal, stop)
    try:
        wait_for(lambda: done(journal) > 60)
        seen = []
        for number in range(12):
            before = done(journal)
            wait_for(lambda written=before: done(journal) > written)
            with freeze(path) as frozen:
                after = done(journal) + 1
                if frozen.description.collection("busy").count == 0:
                    continue
                seen.append(whole_state(frozen, before, after))
                if number % 4 == 0:
                    check_copy(frozen, tmp_path / f"copy-{number}", seen[-1])
            assert writer.poll() is None
    finally:
        stop.touch()
        assert writer.wait(120) == 0
    assert "failed" not in journal.read_text()
    assert len({n for n, _ in seen}) >= 10


def done(journal):
    return len(journal.read_text().splitlines()) if journal.exists() else 0


def wait_for(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def whole_state(frozen, before, after):
    """Which call of the writer the frozen rows are the state of; every vector, document and metadata must fit it."""
    state = {}
    for row in rows_of(frozen, "busy"):
        generation = json.loads(row["payload"])["generation"]
        assert row["document"] == f"{row['id']}@{generation}"
        assert np.array(row["embedding"], np.float32).tobytes() == raw.vector_of(row["id"], generation).tobytes()
        state[row["id"]] = generation
    candidates = [n for n, expected in itertools.islice(raw.states(), after + 1) if expected == state]
    assert candidates, "rows of no single moment"
    assert candidates[-1] >= before
    return candidates[-1], state


def check_copy(frozen, place, moment):
    """The installed files, opened by Chroma, hold the same state; what it finds is of that state too."""
    _, state = moment
    install(frozen, place)
    content = apart(raw.contents, place)["busy"]
    assert {identity: metadata["generation"] for identity, (_, _, _, metadata) in content.items()} == state
    assert all(row[0].tobytes() == raw.vector_of(identity, state[identity]).tobytes() for identity, row in content.items())
    asked = sorted(state)[:60]
    vectors = np.stack([raw.vector_of(identity, state[identity]) for identity in asked])
    answers = frozen.search("busy", "embedding", vectors, 1)
    found = [ids[0] for ids in answers.ids]
    true = np.stack([raw.vector_of(identity, state[identity]) for identity in found])
    assert np.allclose([distances[0] for distances in answers.distances], ((vectors - true) ** 2).sum(axis=1), rtol=1e-5)
    # Undisturbed and never copied, Chroma too loses sight of some vectors that were overwritten often.
    assert np.mean([mine == asked_for for mine, asked_for in zip(found, asked, strict=True)]) > 0.9


def test_crashed_writers_journal_is_rolled_back_in_the_copy_alone(db, truth):
    script = (
        "import os, sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('PRAGMA cache_size = 5'); c.execute('BEGIN IMMEDIATE')\n"
        "c.execute(\"UPDATE embedding_metadata SET string_value = 'half done' || hex(randomblob(900))\")\n"
        "os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", script, str(db / "chroma.sqlite3")], check=False)
    journal = db / "chroma.sqlite3-journal"
    before = journal.read_bytes(), (db / "chroma.sqlite3").read_bytes()
    assert b"half done" in before[1]
    with freeze(db) as frozen:
        assert {row["id"]: row["document"] for row in rows_of(frozen, "by-l2")} == {
            identity: document for identity, (_, document, _, _) in truth["by-l2"].items()
        }
    assert (journal.read_bytes(), (db / "chroma.sqlite3").read_bytes()) == before


def test_wal_mode_is_read_with_its_log(db):
    connection = sqlite3.connect(db / "chroma.sqlite3", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("UPDATE embedding_metadata SET string_value = 'in the log' WHERE key = 'chroma:document'")
    with freeze(db) as frozen:
        assert {row["document"] for row in rows_of(frozen, "by-l2")} == {None, "in the log"} | {
            row["document"] for row in rows_of(frozen, "by-l2") if row["document"] in ("back again", "changed")
        }
    connection.close()


def test_database_that_is_a_link_is_read_with_the_log_beside_its_file(db, tmp_path):
    elsewhere = tmp_path / "elsewhere" / "other.db"
    elsewhere.parent.mkdir()
    (db / "chroma.sqlite3").rename(elsewhere)
    (db / "chroma.sqlite3").symlink_to(elsewhere)
    connection = sqlite3.connect(db / "chroma.sqlite3", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("UPDATE embedding_metadata SET string_value = 'in the log' WHERE key = 'chroma:document'")
    with freeze(db) as frozen:
        assert "in the log" in {row["document"] for row in rows_of(frozen, "by-l2")}
    connection.close()


def test_readers_lock_is_enough_where_the_source_cannot_be_written(db):
    read_only = os.open(db / "chroma.sqlite3", os.O_RDONLY)
    try:
        assert try_lock(read_only, False)
        script = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0.1).execute('DELETE FROM tenants').connection.commit()"
        stopped = subprocess.run([sys.executable, "-c", script, str(db / "chroma.sqlite3")], capture_output=True, text=True)
        assert "database is locked" in stopped.stderr
    finally:
        os.close(read_only)


def test_says_what_is_wrong_with_a_source(db, tmp_path):
    with pytest.raises(NotFound), freeze(tmp_path / "nothing"):
        pass
    (tmp_path / "other").mkdir()
    with pytest.raises(Unreadable, match="not a Chroma database"), freeze(tmp_path / "other"):
        pass
    (tmp_path / "other" / "chroma.sqlite3").write_bytes(b"no database at all")
    with pytest.raises(Unreadable, match="not an sqlite database"), freeze(tmp_path / "other"):
        pass
    with sqlite3.connect(db / "chroma.sqlite3") as connection:
        connection.execute("INSERT INTO migrations VALUES ('metadb', 99, 'x', 'x', 'x')")
    with pytest.raises(Unreadable, match="newer Chroma"), freeze(db):
        pass
    with sqlite3.connect(db / "chroma.sqlite3") as connection:
        connection.execute("DELETE FROM migrations WHERE dir = 'sysdb' AND version > 5")
        connection.execute("DELETE FROM migrations WHERE version = 99")
    with pytest.raises(Unreadable, match="older Chroma"), freeze(db):
        pass


def test_refuses_a_pickle_that_names_code(db):
    (pickled, *_) = db.glob("*/index_metadata.pickle")
    pickled.write_bytes(pickle.dumps({"id_to_label": os.system, "label_to_id": {}}))
    with pytest.raises(Damaged, match="names"), freeze(db):
        pass


def test_missing_index_and_torn_index_are_damage(db):
    with freeze(db) as frozen:
        segment = frozen.description.collection("by-l2").catalog["segments"]["VECTOR"]
    level0 = db / segment / "data_level0.bin"
    content = bytearray(level0.read_bytes())
    with freeze(db) as frozen:
        stride = next(a for a in frozen.artifacts() if a.path.endswith(f"{segment}/data_level0.bin")).regions()
        step = next(iter(stride)).stride
    content[10 * step + 2] ^= 1  # an element's deletion mark
    level0.write_bytes(content)
    with freeze(db) as frozen, pytest.raises(Damaged, match="contradict"):
        list(frozen.rows("by-l2"))
    shutil.rmtree(db / segment)
    with pytest.raises(Damaged, match="index is gone"), freeze(db):
        pass


def test_metadata_without_vector_is_in_the_ledger(db):
    with sqlite3.connect(db / "chroma.sqlite3") as connection:
        connection.execute(
            "INSERT INTO embeddings (segment_id, embedding_id, seq_id) SELECT segment_id, 'ghost', 1 FROM embeddings LIMIT 1"
        )
    with freeze(db) as frozen:
        lost = [item for item in frozen.description.ledger if item.item.startswith("rows of")]
    assert [item.status for item in lost] == [Status.NOT_CAPTURED]


def test_leaves_nothing_behind_and_removes_what_the_killed_left(db):
    dead = db.parent / ".strongroom-moment-dead"
    alive = db.parent / ".strongroom-moment-alive"
    for stage in (dead, alive):
        stage.mkdir()
        (stage / "lock").touch()
    held = os.open(alive / "lock", os.O_RDWR)
    fcntl.flock(held, fcntl.LOCK_EX)
    with freeze(db):
        (mine,) = (stage for stage in db.parent.glob(".strongroom-moment-*") if stage != alive)
        assert mine.stat().st_mode & 0o777 == 0o700
    assert sorted(entry.name for entry in db.parent.iterdir()) == [alive.name, "db"]
    os.close(held)


def test_unsettled_index_is_waited_for(db, tmp_path):
    """A folder whose pickle is not the youngest file is being written: the copy is taken only when it is old enough."""
    (pickled, *_) = db.glob("*/index_metadata.pickle")
    time.sleep(0.05)
    header = pickled.with_name("header.bin")
    header.write_bytes(header.read_bytes())
    (tmp_path / "copy").mkdir()
    capture(str(db), str(tmp_path / "copy"))
    assert time.time() - header.stat().st_mtime > 1


def test_metadata_segment_that_lags_is_made_up_from_the_log(db, truth):
    """As after a crash between the log and the segment: the segment has nothing yet, or more than its position says."""
    collection = "(SELECT id FROM collections WHERE name = 'only-log')"
    segment = f"(SELECT id FROM segments WHERE scope = 'METADATA' AND collection = {collection})"
    for tables in ((), ("embedding_metadata", "embedding_metadata_array", "embeddings")):
        with sqlite3.connect(db / "chroma.sqlite3") as connection:
            for table in tables:
                rows = f"(SELECT id FROM embeddings WHERE segment_id = {segment})"
                connection.execute(f"DELETE FROM {table} WHERE id IN {rows}")
            connection.execute(f"UPDATE max_seq_id SET seq_id = 0 WHERE segment_id = {segment}")
        with freeze(db) as frozen:
            assert frozen.description.collection("only-log").count == len(truth["only-log"])
            for row in rows_of(frozen, "only-log"):
                _, document, uri, metadata = truth["only-log"][row["id"]]
                assert (row["document"], row["uri"]) == (document, uri)
                assert (json.loads(row["payload"]) if row["payload"] else None) == (metadata or None)


def test_waits_for_a_writers_transaction(db, tmp_path):
    script = (
        "import sqlite3, sys, time\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('BEGIN IMMEDIATE'); c.execute(\"INSERT INTO tenants VALUES ('late')\"); print(flush=True)\n"
        "time.sleep(1); c.execute('COMMIT')"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(db / "chroma.sqlite3")], stdout=subprocess.PIPE) as writer:
        writer.stdout.readline()
        with freeze(db) as frozen:
            assert "late" in frozen.description.catalog["tenants"]
        assert writer.wait() == 0


def test_index_written_while_it_is_copied_is_copied_again(db, tmp_path, monkeypatch):
    (changing, *_) = sorted(db.glob("*/length.bin"))
    take, times = _Copy._take, []

    def meddling(copy, name, deadline=math.inf):
        take(copy, name, deadline)
        if deadline < math.inf and name.endswith("link_lists.bin") and len(times) < 3:  # under the lock, behind the copy's back
            times.append(name)
            time.sleep(0.03)
            changing.write_bytes(bytes([len(times)]) * changing.stat().st_size)
            changing.with_name("index_metadata.pickle").touch()

    monkeypatch.setattr(_Copy, "_take", meddling)
    (tmp_path / "copy").mkdir()
    capture(str(db), str(tmp_path / "copy"))
    assert len(times) == 3
    assert (tmp_path / "copy" / changing.relative_to(db)).read_bytes() == changing.read_bytes()


def test_source_deleted_while_it_is_copied(db, tmp_path, monkeypatch):
    take = _Copy._take

    def deleting(copy, name, deadline=math.inf):
        take(copy, name, deadline)
        if deadline < math.inf:
            shutil.rmtree(db, ignore_errors=True)

    monkeypatch.setattr(_Copy, "_take", deleting)
    (tmp_path / "copy").mkdir()
    with pytest.raises(SourceChanged, match="vanished"):
        capture(str(db), str(tmp_path / "copy"))


@contextlib.contextmanager
def stage_of(path, selection=Selection()):  # noqa: B008 - frozen
    stage = Chroma().target(f"chroma://{path}").stage("t", selection)
    try:
        yield stage
    finally:
        stage.close()


def test_adopt_drops_and_renames_and_keeps_answers(seeded, tmp_path):
    target = tmp_path / "restored"
    selection = Selection(("by-cosine", REAL), {"by-cosine": "acme/prod/moved", REAL: "summaries"})
    with freeze(seeded) as frozen, stage_of(target, selection=selection) as stage:
        for artifact in frozen.artifacts():
            stage.artifact_path(artifact.path).write_bytes(rejoined(artifact))
        for _ in range(2):
            stage.adopt(frozen.description, selection)
        stage.seal()
        with stage.source().freeze(SILENT) as again:
            names = [collection.name for collection in again.description.collections]
            assert names == ["acme/prod/moved", "summaries"]
            for name, old in zip(names, selection.collections, strict=True):
                mine = {row["id"]: row for row in rows_of(again, name)}
                assert mine == {row["id"]: row for row in rows_of(frozen, old)}
        stage.publish(b"receipt", overwrite=False)
        old = frozen.search(REAL, "embedding", queries(384), 10)
    assert sum(entry.is_dir() for entry in target.iterdir()) == 2
    assert frozen_id(frozen, "by-ip") not in (target / "chroma.sqlite3").read_bytes()
    assert frozen_id(frozen, "by-cosine") in (target / "chroma.sqlite3").read_bytes()
    assert b"Dokument 30" in (target / "chroma.sqlite3").read_bytes()
    with sqlite3.connect(target / "chroma.sqlite3") as connection:
        assert connection.execute("PRAGMA freelist_count").fetchone() == (0,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT count(DISTINCT segment_id) FROM embeddings").fetchone() == (2,)
        assert connection.execute("SELECT count(*) FROM databases").fetchone() == (2,)
    ids, distances = apart(raw.answers, target, "summaries", queries(384))
    assert ids == [list(found) for found in old.ids]
    assert distances == [list(map(float, found)) for found in old.distances]
    assert Chroma().target(f"chroma://{target}").receipt() == b"receipt"


def frozen_id(frozen, name):
    return frozen.description.collection(name).catalog["id"].encode()


def test_load_from_own_rows(seeded, truth, tmp_path):
    target = tmp_path / "rebuilt"
    names = ["by-l2", "empty", REAL]
    with freeze(seeded) as frozen, stage_of(target) as stage:
        description = frozen.description
        for name in ["empty", *names]:  # one twice: a leftover is replaced
            stage.load(description.collection(name), (block.live() for block in frozen.rows(name)))
        stage.seal()
        stage.publish(b"r", overwrite=False)
    content = apart(raw.contents, target)
    assert content.keys() == set(names)
    for identity, (vector, document, uri, metadata) in truth["by-l2"].items():
        mine = content["by-l2"][identity]
        assert (mine[0].tobytes(), *mine[1:]) == (vector.tobytes(), document, uri, metadata)
    with freeze(target) as again:
        mine, original = again.description.collection("by-l2").catalog, description.collection("by-l2").catalog
        assert mine["metadata"] == original["metadata"]
        assert (
            again.description.collection(REAL).catalog["embedding_function"]
            == description.collection(REAL).catalog["embedding_function"]
        )
        assert again.description.collection("by-l2").fields == description.collection("by-l2").fields
    assert sum(entry.is_dir() for entry in target.iterdir()) <= 2


def foreign():
    def column(name, kind, role):
        return pa.field(name, kind, metadata={ROLE: role.encode()})

    schema = pa.schema(
        [
            column("key", pa.int64(), Role.ID),
            column("v", pa.list_(pa.float16(), 4), Role.VECTOR),
            column("p", pa.utf8(), Role.PAYLOAD),
            column("price", pa.float64(), Role.COLUMN),
            pa.field("bare", pa.int32()),
        ]
    )
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(12, dtype=np.float16)), 4)
    payloads = ['{"a":{"b":1},"n":null,"l":[1,"x"],"chroma:document":"x"}', None, '{"big":1180591620717411303424}']
    arrays = [pa.array([1, 2, 3]), vectors, pa.array(payloads), pa.array([1.5, None, 2.0]), pa.array([1, 2, 3], pa.int32())]
    return Collection("docs", 3, (Field("v", "float16", 4, "ip", {"M": 24}),)), pa.record_batch(arrays, schema=schema)


def test_load_of_another_engines_rows(tmp_path):
    collection, batch = foreign()
    target = Chroma().target(f"chroma://{tmp_path / 'new'}")
    assert list(target.objections(collection, batch.schema)) == []
    becomes = {one.part: one.becomes for one in target.conversions(collection, batch.schema)}
    assert (becomes["id key"], becomes["vector v"], becomes["payload p: nested objects"]) == ("text", "4 x float32", "text")
    with stage_of(tmp_path / "new") as stage:
        stage.load(collection, [batch])
        stage.seal()
        stage.publish(b"", overwrite=False)
    content = apart(raw.contents, tmp_path / "new")["docs"]
    assert content["1"][3] == {"a": '{"b": 1}', "l": '[1, "x"]', "_chroma:document": "x", "price": 1.5, "bare": 1}
    assert content["2"][3] == {"bare": 2}
    assert content["3"][3] == {"big": "1180591620717411303424", "price": 2.0, "bare": 3}
    assert content["2"][0].tolist() == [4, 5, 6, 7]
    with freeze(tmp_path / "new") as frozen:
        (field,) = frozen.description.collections[0].fields
    assert (field.metric, field.index["max_neighbors"]) == ("ip", 24)


def test_objections():
    target = Chroma().target("chroma:///nowhere")
    collection, batch = foreign()
    two = batch.schema.append(pa.field("w", pa.list_(pa.float32(), 2), metadata={ROLE: b"vector"}))
    assert "one vector" in target.objections(collection, two)[0]
    short = Collection("x", 0, collection.fields)
    assert "3 to 512" in target.objections(short, batch.schema)[0]
    assert "names no Chroma collection" in target.objections(Collection("a/b", 0, collection.fields), batch.schema)[0]
    assert "no id" in target.objections(collection, batch.schema.remove(0))[0]


def test_publish_refuses_overwrites_and_repeats(db, tmp_path):
    target = tmp_path / "place"
    (target / "sub").mkdir(parents=True)
    engine = Chroma().target(f"chroma://{target}")
    assert list(engine.occupied()) == [str(target)]
    with freeze(db) as frozen, stage_of(target) as stage:
        for artifact in frozen.artifacts():
            stage.artifact_path(artifact.path).write_bytes(artifact.read(0, artifact.size))
        with pytest.raises(Locked):
            engine.stage("t", Selection())
        for path in ("../x", "/x", "a/../../x", ""):
            with pytest.raises(Damaged):
                stage.artifact_path(f"{path}" if path else "..")
        stage.seal()
        with pytest.raises(Refused):
            stage.publish(b"r", overwrite=False)
        assert (target / "sub").exists()
        stage.publish(b"r", overwrite=True)
    assert not (target / "sub").exists()
    with stage_of(target) as stage:
        stage.publish(b"r", overwrite=True)  # the answer was lost: nothing changes
    with stage_of(target) as stage, pytest.raises(StrongroomError):
        stage.publish(b"another", overwrite=True)
    assert engine.receipt() == b"r"
    assert (target / "chroma.sqlite3").read_bytes() == (db / "chroma.sqlite3").read_bytes()
    (tmp_path / "hollow").mkdir()
    assert list(Chroma().target(f"chroma://{tmp_path / 'hollow'}").occupied()) == []


def test_a_link_to_a_directory_is_followed(tmp_path):
    """Whoever has the database open by its own name would find the old one."""
    place, link = tmp_path / "disk" / "chroma", tmp_path / "link"
    place.mkdir(parents=True)
    (place / "old").touch()
    link.symlink_to(place)
    with stage_of(link) as stage:
        stage.seal()
        assert stage.directory.parent == place.parent, "the stage is on the same disk"
        stage.publish(b"r", overwrite=True)
    assert link.is_symlink()
    assert sorted(one.name for one in place.iterdir()) == ["chroma.sqlite3", "strongroom.json"]
    assert [one.name for one in place.parent.iterdir()] == ["chroma"]


def test_where_a_disk_is_mounted_is_refused_before_anything_is_built(tmp_path, monkeypatch):
    monkeypatch.setattr(os.path, "ismount", lambda place: Path(place) == tmp_path / "volume")
    (tmp_path / "volume").mkdir()
    with pytest.raises(Refused, match="mounted") as refused:
        Chroma().target(f"chroma://{tmp_path / 'volume'}").occupied()
    assert "inside" in refused.value.hint
    assert list(Chroma().target(f"chroma://{tmp_path / 'volume' / 'chroma'}").occupied()) == []


def test_empty_snapshot_becomes_an_empty_database(tmp_path):
    with stage_of(tmp_path / "none") as stage:
        stage.seal()
        stage.publish(b"", overwrite=False)
    assert apart(raw.contents, tmp_path / "none") == {}
    assert Path(tmp_path / "none" / "strongroom.json").exists()
