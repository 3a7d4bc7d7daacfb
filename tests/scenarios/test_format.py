"""Is docs/FORMAT.md enough to read a repository, and do old repositories still open?

`format_reader` was written from that page and doesn't import Strongroom. It must give the source's files byte for byte, its rows as
the engine's own client gives them, and the roots that the manifests state.

`golden/format-1` is a repository as format 1 was released, never to be made again: a FAISS Flat index of 50 vectors of 8 numbers
(numpy's default_rng(8).standard_normal as float32, index.faiss, no sidecar), backed up once with the model golden@1 into a
repository of the passphrase "golden" (Argon2id of 1 pass, 1 lane, 64 KiB, so that the test is quick), to which the key file
`golden/key` was added. It was made in Python, strongroom.init(..., cost=), add_key() and backup(), on a host called golden-host.
What it must give back stands below.

`golden/format-2` is a repository with manifests of format 2, made in the same way, of three states of index.faiss:
IndexHNSWFlat(8, 4) of 300 vectors, then twice 6 more, and vectors 40 to 42 of its storage overwritten in place; all of one
default_rng(9), for each state first the new vectors, then those that overwrite. The model is golden@2.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import format_sources as sources
import numpy as np
import pyarrow as pa
import pytest
from blake3 import blake3
from cryptography.exceptions import InvalidSignature, InvalidTag
from format_reader import Reader, role
from processes import apart

import strongroom
from strongroom.repository import Argon2Cost, Secret, new_key_file

PASSPHRASE = "pässphrase of two words"
CHEAP = Argon2Cost(1, 1, 64)
URLS = {"faiss": "faiss/things.faiss", "chroma": "chroma/db", "lancedb": "lancedb/db"}
GOLDEN = Path(__file__).parent / "golden"
GOLDEN_SNAPSHOT = "c18fdc2472922ae3da981ce749734c081ac17e8be7b1671cad0487ba1a108a6c"
GOLDEN_ROOT = "84731ae5dc656d38bee44374049e9baeb20be85be798086d828c0521a5188168"
GOLDEN_FILE = "ba41058723995ca2a199638c4b9b4712124f3b3f320f565f3be3e34d7dc181dd"

GOLDEN_CHAIN = (
    (
        "e8ed6664a6ae054a3a0690ff765807be5919d8648938e3dbce2eb9ba577d2151",
        "976cacde21b98073b85a30b6f84077c8a89617102a60be1282ac9c2b6669dab0",
        "29d1f547a43635e969550648cc390b350764a9eeeaed6dd39bb6a997e19cca7c",
    ),
    (
        "a4888a10f44dabcf661e5083db1e1c64ecd431e316735a37a50b3fa0a42003f7",
        "b1df30ad91bf67922bb9a75c17987c73ea0891a7e10d6baf84c8761e8e0e09d3",
        "691b420c7fc6134e3fa1691f8d5013688bf22070a508259c731f6aa645def6a0",
    ),
    (
        "dc43ef97e8ddfd6cf12ace8d470dd6217b3dd6c65ac8def3912a439933692110",
        "e6aa46166a2485d7b58c22ac22f4c9c369dcc9d0ca44d1bd200d9f28dc1e8910",
        "2896c91acfda74fa292188b1bea2285800fcaeee5cc4a9dbe7b70c455ffb5d42",
    ),
)
"""Id, root and BLAKE3 of the index file of each snapshot."""


@dataclass(frozen=True)
class World:
    """A repository with a snapshot of each engine: the sources' folders and the snapshots' ids, by engine."""

    folder: Path
    snapshots: dict[str, str]

    def read(self):
        return Reader(self.folder / "repository", passphrase=PASSPHRASE)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("format")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STRONGROOM_STATE_DIR", str(folder / "state"))
        patch.setenv("OMP_NUM_THREADS", "1")
        room = strongroom.init(str(folder / "repository"), password=PASSPHRASE, cost=CHEAP)
        (folder / "key").write_bytes(new_key_file())
        room.add_key(Secret.key_file((folder / "key").read_bytes()), "clé")
        made = {}
        for engine, leaf in URLS.items():
            (folder / engine).mkdir()
            apart(getattr(sources, f"{engine}_make"), folder / engine)
            made[engine] = room.backup(f"{engine}://{folder / leaf}", tags={"purpose": "forma†"}).snapshot.id
    return World(folder, made)


def one_collection(world, engine):
    """The reader, the manifest and its only collection."""
    reader = world.read()
    manifest = reader.snapshots()[world.snapshots[engine]]
    (collection,) = manifest["collections"]
    return reader, manifest, collection


def test_passphrase_and_key_file_open_the_same_repository(world):
    reader = world.read()
    assert Reader(world.folder / "repository", key_file=world.folder / "key").master == reader.master
    with pytest.raises(InvalidTag):
        Reader(world.folder / "repository", passphrase="another")
    assert list(reader.snapshots()) == list(world.snapshots.values()), "oldest first"


def test_all_codecs_were_read(world):
    reader = world.read()
    for name in reader.places:
        reader.blob(name)
    assert {codec for _, _, codec, *_ in reader.places.values()} == {0, 1, 2}


def test_a_signature_of_another_repository_is_not_taken(world, tmp_path):
    strongroom.init(str(tmp_path / "other"), password=PASSPHRASE, cost=CHEAP)
    reader = world.read()
    reader.signatures = Reader(tmp_path / "other", passphrase=PASSPHRASE).signatures
    with pytest.raises(InvalidSignature):
        reader.snapshots()


def test_faiss_files_come_back_byte_for_byte(world):
    reader, manifest, _ = one_collection(world, "faiss")
    assert {one["path"] for one in manifest["artifacts"]} == {"things.faiss", "things.parquet"}
    for artifact in manifest["artifacts"]:
        assert reader.artifact(manifest, artifact) == (world.folder / "faiss" / artifact["path"]).read_bytes()


def test_lance_files_come_back_byte_for_byte(world):
    reader, manifest, _ = one_collection(world, "lancedb")
    checked = 0
    for artifact in manifest["artifacts"]:
        place = world.folder / "lancedb" / "db" / artifact["path"]
        if place.suffix != ".json":  # a hint that Lance rewrites
            assert reader.artifact(manifest, artifact) == place.read_bytes()
            checked += 1
    assert checked >= 5


def test_chroma_files_come_back_byte_for_byte(world):
    reader, manifest, _ = one_collection(world, "chroma")
    strided, place = 0, world.folder / "chroma" / "db"
    for artifact in manifest["artifacts"]:
        content = reader.artifact(manifest, artifact)
        strided += sum(part.get("stride", 0) > 0 for part in artifact["parts"])
        if artifact["path"] != "chroma.sqlite3":  # read through sqlite: a copy of the moment, not of the file
            assert content == (place / artifact["path"]).read_bytes()
    assert strided, "vectors inside of records"


def test_chroma_opens_the_directory_that_the_reader_wrote(world, tmp_path):
    write_artifacts(*one_collection(world, "chroma")[:2], tmp_path / "db")
    assert apart(sources.chroma_read, tmp_path) == apart(sources.chroma_read, world.folder / "chroma")


def test_lance_opens_the_directory_that_the_reader_wrote(world, tmp_path):
    write_artifacts(*one_collection(world, "lancedb")[:2], tmp_path / "db")
    rows = apart(sources.lancedb_read, tmp_path)
    assert rows == apart(sources.lancedb_read, world.folder / "lancedb")
    assert len(rows) == sources.ROWS - 1


def write_artifacts(reader, manifest, folder):
    for artifact in manifest["artifacts"]:
        place = folder / artifact["path"]
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(reader.artifact(manifest, artifact))


def test_faiss_rows_are_those_of_the_index_and_its_sidecar(world):
    reader, manifest, collection = one_collection(world, "faiss")
    assert any(part.get("ranges") for artifact in manifest["artifacts"] for part in artifact["parts"])
    rows = reader.rows(collection)
    vectors, table = apart(sources.faiss_read, world.folder / "faiss")
    assert rows["vector"].combine_chunks().flatten().to_numpy().tobytes() == vectors
    assert "embedding" not in rows.column_names  # it repeats the index's vectors
    for name in rows.column_names:
        assert name == "vector" or rows[name].to_pylist() == table[name].to_pylist(), name
    assert {*rows.column_names, "embedding"} == {*table.column_names, "vector"}
    assert {role(field) for field in rows.schema} == {"id", "vector", "document", "column"}


def test_chroma_rows_are_the_live_slots_only(world):
    reader, _, collection = one_collection(world, "chroma")
    rows = {row["id"]: row for row in reader.rows(collection).to_pylist()}
    source = apart(sources.chroma_read, world.folder / "chroma")
    assert rows.keys() == source.keys()
    assert any(segment["dead"] for segment in collection["segments"])
    assert sum(segment["rows"] for segment in collection["segments"]) > collection["catalog"]["count"] == len(rows)
    for name, (vector, document, metadata) in source.items():
        assert np.asarray(rows[name]["embedding"], np.float32).tobytes() == vector
        assert rows[name]["document"] == document
        assert (json.loads(rows[name]["payload"]) if rows[name]["payload"] else None) == metadata


@pytest.mark.parametrize("engine", ["faiss", "chroma"])
def test_roots_are_those_of_the_rows(world, engine):
    reader, manifest, collection = one_collection(world, engine)
    rows = reader.rows(collection)
    assert reader.fingerprints.rows_root(rows) == collection["rows_root"]
    assert reader.fingerprints.rows_root(rows.take(list(reversed(range(rows.num_rows))))) == collection["rows_root"]
    assert reader.fingerprints.rows_root(rows.slice(1)) != collection["rows_root"]
    assert reader.root(manifest) == manifest["root"]


def test_the_root_of_rows_that_are_artifacts_is_that_of_the_engines_rows(world):
    reader, manifest, collection = one_collection(world, "lancedb")
    source = apart(sources.lancedb_read, world.folder / "lancedb")
    assert manifest["rows_plane"] == "artifacts"
    (segment,) = collection["segments"]
    ids = pa.ipc.open_stream(reader.blob(segment["rest"])).read_all()
    assert (ids.column_names, ids["id"].to_pylist()) == (["id"], list(source))
    schema = reader.schema(collection)
    values = np.frombuffer(b"".join(source.values()), np.float32)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(values), 16)
    rows = pa.table([pa.array(list(source)), vectors], schema=schema)
    assert reader.fingerprints.rows_root(rows) == collection["rows_root"]
    assert reader.root(manifest) == manifest["root"]


@pytest.mark.parametrize("engine", list(URLS))
def test_probes_hold_the_right_answers(world, engine):
    """Exact search over the rows that the reader read, except for LanceDB's, which are the engine's."""
    reader, _, collection = one_collection(world, engine)
    (probe_set,) = collection["probes"]
    table, settings = reader.probes(probe_set)
    assert (settings["k"], settings["integer_ids"], settings["live"]) == (str(probe_set["k"]), "0", "1")
    queries = np.asarray(table["query"].to_pylist(), np.float32)
    names, vectors = rows_to_search(world, engine)
    distances = ((queries[:, None, :].astype(np.float64) - vectors[None].astype(np.float64)) ** 2).sum(2)
    for row, exact in enumerate(table["exact_ids"].to_pylist()):
        found = distances[row, [names.index(name) for name in exact]]
        nearest = np.sort(distances[row])[: probe_set["k"]]
        np.testing.assert_allclose(found, nearest, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(table["exact_distances"][row].as_py(), nearest, rtol=1e-4, atol=1e-4)


def rows_to_search(world, engine):
    """Ids and vectors."""
    if engine == "lancedb":
        source = apart(sources.lancedb_read, world.folder / "lancedb")
        return list(source), np.frombuffer(b"".join(source.values()), np.float32).reshape(-1, 16)
    reader, _, collection = one_collection(world, engine)
    rows = reader.rows(collection)
    vector = next(field.name for field in rows.schema if role(field) == "vector")
    return rows["id"].to_pylist(), np.asarray(rows[vector].to_pylist(), np.float32)


def test_live_answers_are_what_the_index_says(world):
    reader, _, collection = one_collection(world, "faiss")
    table, settings = reader.probes(collection["probes"][0])
    queries = np.asarray(table["query"].to_pylist(), np.float32)
    ids, distances = apart(sources.faiss_ask, world.folder / "faiss", queries, int(settings["k"]))
    assert table["live_ids"].to_pylist() == ids
    assert settings["live_dtype"] == "float32"
    assert np.array_equal(np.asarray(table["live_distances"].to_pylist(), np.float32), np.asarray(distances, np.float32))


# -- a chain of incremental snapshots ---------------------------------------------------------------------------------------

STEPS = 3


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """{engine: [(copy of the source, snapshot)]} of databases that change a little between snapshots, and the repository."""
    folder, made = tmp_path_factory.mktemp("chain"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STRONGROOM_STATE_DIR", str(folder / "state"))
        patch.setenv("OMP_NUM_THREADS", "1")
        room = strongroom.init(str(folder / "repository"), password=PASSPHRASE, cost=CHEAP)
        for engine, leaf in URLS.items():
            (folder / engine).mkdir()
            for step in range(STEPS):
                change = [f"{engine}_change", folder / engine, step] if step else [f"{engine}_make", folder / engine]
                apart(getattr(sources, change[0]), *change[1:])
                snapshot = room.backup(f"{engine}://{folder / leaf}").snapshot.id
                made.setdefault(engine, []).append((shutil.copytree(folder / engine, folder / f"{engine}-{step}"), snapshot))
                if step == 1:
                    shutil.rmtree(folder / "state")  # what this machine knew of the rows is lost, and made again
    return folder / "repository", made


@pytest.mark.parametrize("engine", list(URLS))
def test_each_snapshot_of_a_chain_is_read(chain, engine, tmp_path):
    repository, made = chain
    reader = Reader(repository, passphrase=PASSPHRASE)
    for number, (source, snapshot) in enumerate(made[engine]):
        manifest = reader.snapshots()[snapshot]
        write_artifacts(reader, manifest, tmp_path / str(number) / "db")
        for artifact in manifest["artifacts"]:
            place = source / ("" if engine == "faiss" else "db") / artifact["path"]
            if artifact["path"] != "chroma.sqlite3" and place.suffix != ".json":
                assert (tmp_path / str(number) / "db" / artifact["path"]).read_bytes() == place.read_bytes()
        if engine != "faiss":
            read = getattr(sources, f"{engine}_read")
            assert apart(read, tmp_path / str(number)) == apart(read, source)
        (collection,) = manifest["collections"]
        if engine != "lancedb":
            rows = reader.rows(collection)
            assert rows.num_rows == collection["catalog"]["count"]
            assert reader.fingerprints.rows_root(rows) == collection["rows_root"]
        assert_fingerprints(reader, collection)


def assert_fingerprints(reader, collection):
    """Those of rows and vectors are what the page says."""
    for field, blocks in collection["vectors"].items():
        for block in blocks:
            content, prints = reader.blob(block["blob"]), reader.short_prints(block["prints"])
            width = len(content) // block["count"]
            vectors = [content[at : at + width] for at in range(0, len(content), width)]
            assert [reader.fingerprints.of_vector(one)[:12] for one in vectors] == prints, field
    for segment in collection["segments"]:
        assert len(reader.short_prints(segment["prints"])) == segment["rows"]


def test_a_chain_has_all_that_the_page_speaks_of(chain):
    """Else the tests above would read less than they say."""
    repository, made = chain
    reader = Reader(repository, passphrase=PASSPHRASE)
    manifests = [reader.snapshots()[snapshot] for those in made.values() for _, snapshot in those]
    collections = [one for manifest in manifests for one in manifest["collections"]]
    segments = [segment for one in collections for segment in one["segments"]]
    parts = [part for manifest in manifests for artifact in manifest["artifacts"] for part in artifact["parts"]]
    references = [part["vectors"] for part in parts if part.get("vectors")]
    found = {
        "several segments": any(len(one["segments"]) > 1 for one in collections),
        "an order": any(one["order"] for one in collections),
        "dead rows": any(segment["dead"] for segment in segments),
        "rows with vectors of others": any(segment["vectors"] for segment in segments),
        "differences": any(part.get("differences") for part in parts),
        "copies": any(part.get("ranges") for part in parts),
        "vectors by slots": any(one["by"] == "slots" for one in references),
        "records": any(part.get("stride") and part.get("rest") for part in parts),
        "other bytes": any(not part.get("stride") for part in parts),
    }
    assert [name for name, there in found.items() if not there] == []


# -- golden repositories ---------------------------------------------------------------------------------------------------


@pytest.fixture
def golden(tmp_path):
    return Path(shutil.copytree(GOLDEN / "format-1", tmp_path / "repository"))


@pytest.mark.parametrize("secret", [{"password": "golden"}, {"key_file": GOLDEN / "key"}])
def test_the_golden_repository_opens_verifies_and_restores(golden, tmp_path, secret):
    room = strongroom.open(str(golden), **secret)
    (snapshot,) = room.snapshots()
    assert (snapshot.id, snapshot.manifest.root) == (GOLDEN_SNAPSHOT, GOLDEN_ROOT)
    report = room.verify(level=strongroom.Level.DATA)
    assert report.passed
    assert report.findings == ()
    room.restore("latest", f"faiss://{tmp_path}/restored.faiss", require_exact=True)
    assert blake3((tmp_path / "restored.faiss").read_bytes()).hexdigest() == GOLDEN_FILE


@pytest.mark.parametrize("secret", [{"passphrase": "golden"}, {"key_file": GOLDEN / "key"}])
def test_the_independent_reader_reads_the_golden_repository(golden, secret):
    reader = Reader(golden, **secret)
    ((name, manifest),) = reader.snapshots().items()
    assert (name, manifest["root"], reader.root(manifest)) == (GOLDEN_SNAPSHOT, GOLDEN_ROOT, GOLDEN_ROOT)
    (artifact,) = manifest["artifacts"]
    assert blake3(reader.artifact(manifest, artifact)).hexdigest() == GOLDEN_FILE
    (collection,) = manifest["collections"]
    rows = reader.rows(collection)
    expected = np.random.default_rng(8).standard_normal((50, 8)).astype(np.float32)
    assert rows["vector"].combine_chunks().flatten().to_numpy().tobytes() == expected.tobytes()
    assert reader.fingerprints.rows_root(rows) == collection["rows_root"]


def test_a_snapshot_can_be_added_to_the_golden_repository(golden, tmp_path):
    room = strongroom.open(str(golden), password="golden")
    room.restore("latest", f"faiss://{tmp_path}/index.faiss")
    added = room.backup(f"faiss://{tmp_path}/index.faiss").snapshot.manifest
    assert (added.parents, added.root) == ((GOLDEN_SNAPSHOT,), GOLDEN_ROOT)


@pytest.fixture
def golden_chain(tmp_path):
    return Path(shutil.copytree(GOLDEN / "format-2", tmp_path / "repository"))


@pytest.mark.parametrize("secret", [{"password": "golden"}, {"key_file": GOLDEN / "key"}])
def test_the_golden_chain_opens_verifies_and_restores(golden_chain, tmp_path, secret):
    room = strongroom.open(str(golden_chain), **secret)
    assert [(one.id, one.manifest.root) for one in room.snapshots()] == [(name, root) for name, root, _ in GOLDEN_CHAIN]
    report = room.verify(level=strongroom.Level.DATA)
    assert (report.passed, report.findings) == (True, ())
    for number, (name, _, file) in enumerate(GOLDEN_CHAIN):
        room.restore(name, f"faiss://{tmp_path}/{number}.faiss", require_exact=True)
        assert blake3((tmp_path / f"{number}.faiss").read_bytes()).hexdigest() == file


@pytest.mark.parametrize("secret", [{"passphrase": "golden"}, {"key_file": GOLDEN / "key"}])
def test_the_independent_reader_reads_the_golden_chain(golden_chain, secret):
    reader, chance, vectors = Reader(golden_chain, **secret), np.random.default_rng(9), np.zeros((0, 8), np.float32)
    assert tuple(reader.snapshots()) == tuple(name for name, _, _ in GOLDEN_CHAIN)
    for (_, root, file), manifest in zip(GOLDEN_CHAIN, reader.snapshots().values(), strict=True):
        assert manifest["strongroom_manifest"] == 2
        assert (manifest["root"], reader.root(manifest)) == (root, root)
        (artifact,), (collection,) = manifest["artifacts"], manifest["collections"]
        assert blake3(reader.artifact(manifest, artifact)).hexdigest() == file
        vectors = np.vstack([vectors, chance.standard_normal((6 if len(vectors) else 300, 8)).astype(np.float32)])
        if len(vectors) > 300:
            vectors[40:43] = chance.standard_normal((3, 8)).astype(np.float32)
        rows = reader.rows(collection)
        found = {row["id"]: np.asarray(row["vector"], np.float32).tobytes() for row in rows.to_pylist()}
        assert [found[number] for number in sorted(found)] == [one.tobytes() for one in vectors]
        assert reader.fingerprints.rows_root(rows) == collection["rows_root"]
