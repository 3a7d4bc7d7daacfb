"""Does the FAISS engine keep and give back what FAISS itself says is in an index? Seeded and inspected with raw FAISS."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from strongroom.engines.faiss import Faiss
from strongroom.engines.faiss.headers import Truncated, UnknownFormat, parse
from strongroom.engines.protocol import BLOCK_BYTES, rows_per_block
from strongroom.errors import Damaged, Locked, NotFound, Refused, SourceChanged, StrongroomError, Unreadable, WrongRequest
from strongroom.model import ROLE, Collection, Field, Role, Selection, Status
from strongroom.progress import SILENT

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "summaries-minilm.parquet"
ROWS = 5_200  # more than one block of 384 float32
KINDS = ["Flat", "HNSW8,Flat", "HNSW8,SQ8", "IVF20,Flat", "IVF20,PQ8x4", "IVF20,SQfp16", "IVF20_HNSW8,Flat", "SQ8", "PQ8x4"]
MORE_KINDS = ["RR32,PQ8x4", "L2norm,Flat", "PCA32,IVF20,Flat", "IVF20,PQ8x4,RFlat", "SQbf16", "LSH", "NSG16", "PQ8x4fs"]
EXACT = {"Flat", "HNSW8,Flat", "IVF20,Flat", "IVF20_HNSW8,Flat", "IVF20,PQ8x4,RFlat", "NSG16"}


@pytest.fixture(scope="session")
def vectors() -> np.ndarray:
    if SHARED.exists():
        column = pq.read_table(SHARED, columns=["vector"]).column("vector").slice(0, ROWS).combine_chunks()
        return np.asarray(column.flatten(), np.float32).reshape(ROWS, -1).copy()
    rng = np.random.default_rng(7)
    centres = rng.standard_normal((30, 384))
    found = (centres[rng.integers(0, 30, ROWS)] + 0.4 * rng.standard_normal((ROWS, 384))).astype(np.float32)
    faiss.normalize_L2(found)
    return found


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers don't depend on the number of threads, but tests side by side would wait for each other's."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    faiss.omp_set_num_threads(1)


@pytest.fixture(scope="session")
def built(vectors: np.ndarray, tmp_path_factory: pytest.TempPathFactory):
    """A function that returns the path of an index of a kind, built once."""
    folder = tmp_path_factory.mktemp("built")
    made: dict[tuple[str, str], Path] = {}

    def build(kind: str, id_map: str = "") -> Path:
        if (kind, id_map) not in made:
            index = index_of(kind, vectors, id_map)
            made[kind, id_map] = folder / f"{len(made)}.faiss"
            faiss.write_index(index, str(made[kind, id_map]))
        return made[kind, id_map]

    return build


def index_of(kind: str, vectors: np.ndarray, id_map: str = "", metric: int = faiss.METRIC_INNER_PRODUCT):
    metric = faiss.METRIC_L2 if kind == "LSH" else metric  # the only one that the factory allows
    index = faiss.index_factory(vectors.shape[1], kind, metric)
    index.train(vectors[:1500])
    if not id_map:
        index.add(vectors)
        return index
    mapped = getattr(faiss, id_map)(index)
    mapped.add_with_ids(vectors, own_ids(len(vectors)))
    return mapped


def own_ids(count: int) -> np.ndarray:
    return np.random.default_rng(3).permutation(count).astype(np.int64) * 7 + 100_000_000_000


def place(source: Path, folder: Path, name: str = "index.faiss") -> Path:
    path = folder / name
    path.write_bytes(source.read_bytes())
    os.utime(path, (1, 1))  # long at rest
    return path


def records(count: int) -> pa.Table:
    return pa.table(
        {
            "document": [f"text of {i}" if i % 5 else None for i in range(count)],
            "rank": pa.array(range(count), pa.int64()),
            "score": pa.array(np.arange(count) / 3),
            "payload": [json.dumps({"z": i, "a": ["x", i % 3]}) for i in range(count)],
        }
    )


def write_sidecar(path: Path, form: str, table: pa.Table) -> Path:
    place = path.with_suffix(f".{form}")
    if form == "parquet":
        pq.write_table(table, place, row_group_size=700)
    else:
        rows = table.to_pylist()
        for row in rows:
            if isinstance(row.get("payload"), str):
                row["payload"] = json.loads(row["payload"])
        place.write_text("".join(json.dumps(row) + "\n" for row in rows))
    os.utime(place, (1, 1))
    return place


def freeze(path: Path):
    return Faiss().source(f"faiss://{path}").freeze(SILENT)


def table_of(frozen) -> pa.Table:
    name = frozen.description.collections[0].name
    return pa.Table.from_batches([block.batch for block in frozen.rows(name)], frozen.schema)


def matrix(table: pa.Table, column: str = "vector") -> np.ndarray:
    return np.asarray(table.column(column).combine_chunks().flatten(), np.float32).reshape(table.num_rows, -1)


def queries_of(vectors: np.ndarray) -> np.ndarray:
    return vectors[::400] + np.random.default_rng(1).standard_normal((len(vectors[::400]), vectors.shape[1])).astype("f4") / 50


def truth(path: Path) -> tuple[dict[int, int], np.ndarray, np.ndarray]:
    """Position of each id that raw FAISS knows, the vectors that it reconstructs by position, and the ids by position."""
    index = faiss.read_index(str(path))
    if isinstance(index, faiss.IndexIDMap):
        ids = faiss.vector_to_array(index.id_map)
        found = faiss.downcast_index(index.index).reconstruct_n(0, index.ntotal)
    else:
        ids = np.arange(index.ntotal)
        found = index.reconstruct_n(0, index.ntotal)
    return {int(value): position for position, value in enumerate(ids)}, found, ids


def assert_covers(artifact, path: Path) -> None:
    position = 0
    with path.open("rb") as file:
        for region in artifact.regions():
            assert region.offset == position
            assert 0 < region.length <= BLOCK_BYTES
            assert artifact.read(region.offset, region.length) == file.read(region.length)
            position += region.length
    assert position == artifact.size == path.stat().st_size


@pytest.mark.parametrize("id_map", ["", "IndexIDMap2"])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_files_and_answers_are_those_of_faiss(built, vectors, tmp_path, kind, id_map) -> None:
    path = place(built(kind, id_map), tmp_path)
    place_of, raw, _ = truth(path)
    with freeze(path) as frozen:
        table = table_of(frozen)
        field = frozen.description.collections[0].fields[0]
        assert_covers(frozen.artifacts()[0], path)
        asked = queries_of(vectors)
        assert_searches_like(frozen.search("index", "vector", asked, 10), path, asked)
        frozen.check()
    assert field.decoded == (kind not in EXACT)
    assert field.metric == "ip"
    positions = [place_of[i] for i in table.column("id").to_pylist()]
    assert sorted(positions) == list(range(ROWS))
    assert matrix(table).tobytes() == raw[positions].tobytes()
    forms = ("parquet", "jsonl") if kind in EXACT else (("parquet",) if id_map else ("jsonl",))  # each decoding starts a process
    for form in forms:
        sidecar = write_sidecar(path, form, records(ROWS))
        assert_sidecar_follows(path, sidecar, table, records(ROWS).take(positions))
        sidecar.unlink()


def assert_sidecar_follows(path: Path, sidecar: Path, bare: pa.Table, expected: pa.Table) -> None:
    with freeze(path) as frozen:
        index, beside = frozen.artifacts()
        assert index.path == path.name
        assert_covers(beside, sidecar)
        table = table_of(frozen)
        frozen.check()
    assert table.select(["id", "vector"]).equals(bare)
    for column in ("rank", "document", "score"):
        assert table.column(column).to_pylist() == expected.column(column).to_pylist()
    payload = [json.loads(text) for text in expected.column("payload").to_pylist()]
    assert table.column("payload").to_pylist() == [json.dumps(p, sort_keys=True, separators=(",", ":")) for p in payload]
    roles = {name: table.schema.field(name).metadata[ROLE] for name in ("payload", "document", "rank")}
    assert roles == {"payload": b"payload", "document": b"document", "rank": b"column"}


def assert_searches_like(answers, path: Path, asked: np.ndarray, names: dict[int, object] | None = None) -> None:
    distances, labels = faiss.read_index(str(path)).search(asked, 10)
    for i in range(len(asked)):
        kept = labels[i][labels[i] >= 0].tolist()
        assert answers.ids[i] == tuple(names[label] if names else label for label in kept)
        assert answers.distances[i].tobytes() == distances[i][labels[i] >= 0].tobytes()


@pytest.mark.parametrize("kind", MORE_KINDS)
def test_other_kinds_are_kept_with_the_vectors_that_faiss_gives(built, vectors, tmp_path, kind) -> None:
    path = place(built(kind), tmp_path)
    place_of, raw, _ = truth(path)
    with freeze(path) as frozen:
        table = table_of(frozen)
        assert_covers(frozen.artifacts()[0], path)
        assert frozen.description.collections[0].fields[0].decoded == (kind not in EXACT)
        asked = queries_of(vectors)
        assert_searches_like(frozen.search("index", "vector", asked, 10), path, asked)
        items = {item.item: item for item in frozen.description.ledger}
    positions = [place_of[i] for i in table.column("id").to_pylist()]
    if kind.startswith("PCA"):  # turned back by matrix products, which round by the number of rows at once
        assert np.allclose(matrix(table), raw[positions], rtol=1e-4, atol=1e-6)
    else:
        assert matrix(table).tobytes() == raw[positions].tobytes()
    unknown = kind in ("LSH", "NSG16", "PQ8x4fs")
    assert ("plain bytes" in items["index"].note) == unknown
    assert ("original vectors" in items) == (kind not in EXACT)


@pytest.mark.parametrize("id_map", ["", "IndexIDMap", "IndexIDMap2"])
@pytest.mark.parametrize("kind", ["Flat", "HNSW8,Flat", "IVF20,Flat"])
def test_vector_regions_are_the_blocks_of_the_vector_column(built, tmp_path, kind, id_map) -> None:
    path = place(built(kind, id_map), tmp_path)
    with freeze(path) as frozen:
        artifact = frozen.artifacts()[0]
        regions = [artifact.read(r.offset, r.length) for r in artifact.regions() if r.kind == "float32"]
        blocks = [np.asarray(b.batch.column("vector").flatten()).tobytes() for b in frozen.rows("index")]
    if kind.startswith("IVF"):
        regions = regions[1:]  # the centroids
    else:
        assert len(blocks[0]) == rows_per_block(4 * 384) * 4 * 384
    assert regions == blocks


@pytest.mark.parametrize("kind", ["Flat", "HNSW8,Flat", "HNSW8,SQ8", "IVF20,PQ8x4", "IVF20,SQfp16", "PCA32,PQ8x4"])
def test_regions_are_typed(built, kind) -> None:
    content = built(kind, "IndexIDMap2").read_bytes()
    layout = parse(lambda offset, length: content[offset : offset + length], len(content))
    kinds = {region.kind: 0 for region in layout.regions()}
    for region in layout.regions():
        kinds[region.kind] += region.length
    short_lists = 12 * ROWS if kind == "IVF20,PQ8x4" else 0  # codes and ids lie side by side in one region
    assert kinds["bytes"] < 2_500 + short_lists
    assert kinds["int64"] >= 8 * ROWS
    if kind.startswith("HNSW"):
        assert kinds["int32"] > 16 * 4 * ROWS
    if "fp16" in kind:
        assert kinds["float16"] == 2 * 384 * ROWS


def test_inverted_lists_with_ids_of_their_own_and_empty_lists(vectors, tmp_path) -> None:
    index = faiss.index_factory(384, "IVF64,Flat")
    index.train(vectors)
    ids = own_ids(40)
    index.add_with_ids(np.repeat(vectors[:2], 20, axis=0), ids)  # two lists of 64: the sparse form
    path = tmp_path / "index.faiss"
    faiss.write_index(index, str(path))
    write_sidecar(path, "parquet", records(40).append_column("id", pa.array(ids[::-1])))
    with freeze(path) as frozen:
        table = table_of(frozen)
        assert_covers(frozen.artifacts()[0], path)
    by_id = {int(i): 39 - n for n, i in enumerate(ids)}
    assert table.column("rank").to_pylist() == [by_id[i] for i in table.column("id").to_pylist()]
    assert sorted(table.column("id").to_pylist()) == sorted(ids.tolist())


def test_sidecar_ids_become_row_ids_and_answers(built, vectors, tmp_path) -> None:
    path = place(built("IVF20,Flat"), tmp_path)
    names = [f"doc-{i:05d}" for i in range(ROWS)]
    write_sidecar(path, "jsonl", records(ROWS).append_column("id", pa.array(names)))
    with freeze(path) as frozen:
        table = table_of(frozen)
        asked = queries_of(vectors)
        answers = frozen.search("index", "vector", asked, 10)
    assert table.schema.field("id").metadata[ROLE] == Role.ID.encode()
    assert table.column("rank").to_pylist() == [int(name[4:]) for name in table.column("id").to_pylist()]
    assert_searches_like(answers, path, asked, dict(enumerate(names)))


def test_sidecar_is_joined_by_id_under_an_id_map(built, tmp_path) -> None:
    path = place(built("HNSW8,Flat", "IndexIDMap2"), tmp_path)
    ids = own_ids(ROWS)
    order = np.random.default_rng(9).permutation(ROWS)
    table = records(ROWS).append_column("id", pa.array(ids)).take(order)
    write_sidecar(path, "parquet", table)
    with freeze(path) as frozen:
        found = table_of(frozen)
    assert found.column("id").to_pylist() == ids.tolist()
    assert found.column("rank").to_pylist() == list(range(ROWS))
    assert found.column_names.count("id") == 1


def test_ids_that_contradict_the_id_map_are_not_one_moment(built, tmp_path) -> None:
    path = place(built("Flat", "IndexIDMap2"), tmp_path)
    write_sidecar(path, "parquet", records(ROWS).append_column("id", pa.array(own_ids(ROWS) + 1)))
    with pytest.raises(SourceChanged, match="ids"), freeze(path):
        pass


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_sidecar_of_another_length_is_refused(built, tmp_path, form) -> None:
    path = place(built("Flat"), tmp_path)
    write_sidecar(path, form, records(ROWS - 1))
    with pytest.raises(SourceChanged, match="5,199 records and the index 5,200"), freeze(path):
        pass


@pytest.mark.parametrize("kind", ["Flat", "IVF20,Flat"])
@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_vectors_that_the_sidecar_repeats_appear_once(built, vectors, tmp_path, kind, form) -> None:
    path = place(built(kind), tmp_path)
    column = pa.array(list(vectors), pa.list_(pa.float32()))
    write_sidecar(path, form, records(ROWS).append_column("embedding", column))
    with freeze(path) as frozen:
        assert "embedding" not in frozen.schema.names
        assert len(frozen.description.collections[0].fields) == 1
        assert any("embedding repeats" in item.note for item in frozen.description.ledger)
        assert_covers(frozen.artifacts()[1], tmp_path / f"index.{form}")


def test_other_vectors_in_the_sidecar_are_a_field_of_their_own(built, vectors, tmp_path) -> None:
    path = place(built("IVF20,PQ8x4"), tmp_path)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), 384)
    write_sidecar(path, "parquet", records(ROWS).append_column("vector", column))
    with freeze(path) as frozen:
        table = table_of(frozen)
        fields = frozen.description.collections[0].fields
        answers = frozen.search("index", "sidecar_vector", vectors[:4], 3)
    assert [found[0] for found in answers.ids] == [0, 1, 2, 3]
    products = np.sort(vectors[:4].astype("f8") @ vectors.astype("f8").T, axis=1)[:, :-4:-1]
    assert np.allclose(np.array(answers.distances), products)
    assert [field.name for field in fields] == ["vector", "sidecar_vector"]
    assert matrix(table, "sidecar_vector").tobytes() == vectors[table.column("id").to_numpy()].tobytes()
    assert table.schema.field("sidecar_vector").metadata[ROLE] == b"vector"


def test_ids_that_occur_twice_number_the_rows(vectors, tmp_path) -> None:
    index = faiss.IndexIDMap(faiss.IndexFlatL2(384))
    index.add_with_ids(vectors[:6], np.array([5, 5, 7, 8, 9, 9]))
    faiss.write_index(index, str(tmp_path / "index.faiss"))
    with freeze(tmp_path / "index.faiss") as frozen:
        assert table_of(frozen).column("id").to_pylist() == list(range(6))
        assert frozen.search("index", "vector", vectors[3:4], 1).ids == ((3,),)
        assert any("more than once" in item.note for item in frozen.description.ledger)


@pytest.mark.parametrize("kind", ["Flat", "IVF2,Flat"])
def test_a_sidecar_has_ids_as_often_as_the_id_map(vectors, tmp_path, kind) -> None:
    """As the pieces of one document have its id."""
    ids = [5, 5, 7, 8, 9, 9]
    inner = faiss.index_factory(384, kind)
    inner.train(vectors[:200])
    index = faiss.IndexIDMap2(inner)
    index.add_with_ids(vectors[:6], np.array(ids))
    path = tmp_path / "index.faiss"
    faiss.write_index(index, str(path))
    beside = pa.table({"id": ids, "document": [f"piece {n}" for n in range(6)]})
    write_sidecar(path, "parquet", beside)
    with freeze(path) as frozen:
        found = table_of(frozen)
    order = found.column("id").to_pylist()
    assert sorted(order) == list(range(6))
    assert found.column("document").to_pylist() == [f"piece {n}" for n in order]
    assert found.column("sidecar_id").to_pylist() == [ids[n] for n in order]
    assert matrix(found).tobytes() == vectors[order].tobytes()
    write_sidecar(path, "parquet", beside.set_column(0, "id", pa.array([5, 7, 5, 8, 9, 9])))
    with pytest.raises(SourceChanged, match="not those in the index"), freeze(path):
        pass


def test_description_names_kind_parameters_and_model(built, tmp_path) -> None:
    path = place(built("HNSW8,Flat"), tmp_path)
    table = records(ROWS).replace_schema_metadata({"model": "all-MiniLM-L6-v2", "model_version": "1"})
    write_sidecar(path, "parquet", table)
    with freeze(path) as frozen:
        (collection,) = frozen.description.collections
    assert (collection.name, collection.count, collection.fields[0].dimension) == ("index", ROWS, 384)
    index = collection.fields[0].index
    assert {k: index[k] for k in ("kind", "M", "efConstruction", "efSearch")} == {
        "kind": "HNSWFlat", "M": 8, "efConstruction": 40, "efSearch": 16,
    }  # fmt: skip
    assert (collection.lineage.model, collection.lineage.version) == ("all-MiniLM-L6-v2", "1")
    assert any(item.status is Status.NOT_OFFERED and item.item == "training data" for item in frozen.description.ledger)
    json.dumps([dict(field.index) for field in collection.fields] + [dict(collection.catalog)])


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("kind", ["Flat", "HNSW8,Flat", "SQfp16"])
def test_empty_and_tiny_indexes(vectors, tmp_path, kind, count) -> None:
    index = faiss.index_factory(384, kind)
    index.train(vectors)
    if count:
        index.add(vectors[:count])
    faiss.write_index(index, str(tmp_path / "index.faiss"))
    with freeze(tmp_path / "index.faiss") as frozen:
        assert table_of(frozen).num_rows == count
        assert_covers(frozen.artifacts()[0], tmp_path / "index.faiss")
        assert frozen.search("index", "vector", vectors[:1], 3).ids == (((0,) if count else ()),)


# Restore


@pytest.mark.parametrize("kind", ["HNSW8,Flat", "IVF20,PQ8x4", "LSH"])
def test_installed_files_answer_identically_under_another_name(built, vectors, tmp_path, kind) -> None:
    path = place(built(kind), tmp_path)
    write_sidecar(path, "parquet", records(ROWS).append_column("id", pa.array([f"n{i}" for i in range(ROWS)])))
    asked = queries_of(vectors)
    target = Faiss().target(f"faiss://{tmp_path}/restored/other.idx")
    assert list(target.occupied(["index"])) == []
    stage = target.stage("t1", Selection())
    with freeze(path) as frozen:
        before = frozen.search("index", "vector", asked, 10)
        for artifact in frozen.artifacts():
            stage.artifact_path(artifact.path).write_bytes(artifact.read(0, artifact.size))
        stage.adopt(frozen.description, Selection())
    stage.seal()
    with stage.source().freeze(SILENT) as staged:
        assert staged.description.collections[0].name == "index"
    stage.publish(b"{}", overwrite=False)
    assert sorted(p.name for p in (tmp_path / "restored").iterdir()) == ["other.idx", "other.idx.strongroom.json", "other.parquet"]
    assert target.receipt() == b"{}"
    assert list(target.occupied(["index"])) == ["other.idx", "other.parquet"]
    with freeze(tmp_path / "restored" / "other.idx") as frozen:
        after = frozen.search("other", "vector", asked, 10)
    assert before.ids == after.ids
    assert [d.tobytes() for d in before.distances] == [d.tobytes() for d in after.distances]


@pytest.mark.parametrize(
    ("kind", "id_map"),
    [
        *((kind, "") for kind in [*KINDS, "RR32,PQ8x4", "IVF20,PQ8x4,RFlat"]),
        *((kind, "IndexIDMap2") for kind in ["Flat", "HNSW8,SQ8", "IVF20,Flat", "IVF20,PQ8x4,RFlat"]),
    ],
)
def test_rebuild_from_rows_gives_the_same_kind_ids_and_vectors(built, tmp_path, kind, id_map) -> None:
    path = place(built(kind, id_map), tmp_path)
    target = Faiss().target(f"faiss://{tmp_path}/new/index.faiss")
    stage = target.stage("t", Selection())
    with freeze(path) as frozen:
        (collection,) = frozen.description.collections
        assert not target.objections(collection, frozen.schema)
        losses = " ".join(target.losses(collection, frozen.schema))
        before = table_of(frozen)
        stage.load(collection, before.to_batches())
    stage.seal()
    stage.publish(b"{}", overwrite=False)
    with freeze(tmp_path / "new" / "index.faiss") as frozen:
        after = table_of(frozen)
        again = frozen.description.collections[0].fields[0].index
    assert again["factory"] == collection.fields[0].index["factory"]
    assert again.get("id_map") == collection.fields[0].index.get("id_map")
    assert again.get("nprobe") == collection.fields[0].index.get("nprobe")
    assert ("reconstructions" in losses) == (kind not in EXACT)
    first, second = before.sort_by("id"), after.sort_by("id")
    assert first.column("id").equals(second.column("id"))
    if kind in EXACT:
        assert matrix(first).tobytes() == matrix(second).tobytes()
    assert [p.name for p in (tmp_path / "new").iterdir() if "parquet" in p.name] == []


def test_rows_of_another_engine_become_a_graph_and_a_sidecar(vectors, tmp_path) -> None:
    schema = pa.schema(
        [
            pa.field("key", pa.string(), metadata={ROLE: b"id"}),
            pa.field("dense", pa.list_(pa.float32(), 384), metadata={ROLE: b"vector"}),
            pa.field("body", pa.string(), metadata={ROLE: b"document"}),
            pa.field("payload", pa.string(), metadata={ROLE: b"payload"}),
        ]
    )

    def batches():
        for start in range(0, 1000, 300):
            part = vectors[start : min(1000, start + 300)]
            names = [f"k{start + i}" for i in range(len(part))]
            dense = pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), 384)
            yield pa.record_batch([pa.array(names), dense, pa.array(names), pa.array(['{"a":1}'] * len(part))], schema=schema)

    target = Faiss().target(f"faiss://{tmp_path}/index.faiss")
    collection = Collection("docs", 1000, (Field("dense", "float32", 384, "cosine", {"kind": "hnsw"}),))
    assert not target.objections(collection, schema)
    assert any("unit length" in loss for loss in target.losses(collection, schema))
    stage = target.stage("t", Selection())
    stage.load(collection, batches())
    stage.load(collection, batches())  # a repeated load starts anew
    with stage.source().freeze(SILENT) as staged:
        assert staged.description.collections[0].name == "docs"
    stage.seal()
    stage.publish(b"{}", overwrite=False)
    with freeze(tmp_path / "index.faiss") as frozen:
        table = table_of(frozen)
        assert frozen.search("index", "vector", vectors[:3], 1).ids == (("k0",), ("k1",), ("k2",))
        assert frozen.description.collections[0].fields[0].index["kind"] == "HNSWFlat"
    assert matrix(table).tobytes() == vectors[:1000].tobytes()
    assert table.column("id").to_pylist() == [f"k{i}" for i in range(1000)] == table.column("body").to_pylist()
    assert table.schema.field("body").metadata[ROLE] == b"document"
    assert table.column("payload").to_pylist()[0] == '{"a":1}'


def test_rebuilt_sidecar_follows_the_order_of_inverted_lists(built, tmp_path) -> None:
    path = place(built("IVF20,Flat"), tmp_path)
    write_sidecar(path, "parquet", records(ROWS))
    stage = Faiss().target(f"faiss://{tmp_path}/new/index.faiss").stage("t", Selection())
    with freeze(path) as frozen:
        stage.load(frozen.description.collections[0], (block.live() for block in frozen.rows("index")))
        before = table_of(frozen).sort_by("id")
    stage.publish(b"{}", overwrite=False)
    with freeze(tmp_path / "new" / "index.faiss") as frozen:
        assert table_of(frozen).sort_by("id").equals(before)


def test_objections_are_raised_before_any_work() -> None:
    target = Faiss().target("faiss:///nowhere/index.faiss")
    schema = pa.schema([pa.field("id", pa.string(), metadata={ROLE: b"id"})])
    two = Collection("c", 1, (Field("a", "float32", 3, "l2"), Field("b", "int8", 3, "l2")))
    found = " ".join(target.objections(two, schema))
    assert "2 vector fields" in found
    assert "int8" in found


def test_a_stage_guards_its_target(built, tmp_path) -> None:
    place(built("Flat"), tmp_path)
    target = Faiss().target(f"faiss://{tmp_path}/index.faiss")
    stage = target.stage("t", Selection())
    with pytest.raises(Locked):
        target.stage("t", Selection())
    for bad in ("../x", "/etc/passwd", "sub/index.faiss"):
        with pytest.raises(Damaged):
            stage.artifact_path(bad)
    stage.artifact_path("a.faiss").write_bytes(b"x")
    assert stage.directory.stat().st_mode & 0o777 == 0o700
    with pytest.raises(Refused):
        stage.publish(b"{}", overwrite=False)
    stage.publish(b"{}", overwrite=True)
    assert (tmp_path / "index.faiss").read_bytes() == b"x"
    assert not stage.directory.exists()


# Damage


@pytest.mark.parametrize("kind", ["Flat", "HNSW8,Flat", "IVF20,PQ8x4", "IVF20,Flat", "SQ8", "LSH", "RR32,PQ8x4"])
def test_truncated_files_are_unreadable(built, tmp_path, kind) -> None:
    content = built(kind, "IndexIDMap2").read_bytes()
    path = tmp_path / "index.faiss"
    for length in (20, len(content) - 1) if kind == "LSH" else (3, 20, len(content) // 1000, len(content) // 3, len(content) - 1):
        path.write_bytes(content[:length])
        os.utime(path, (1, 1))
        with pytest.raises(Unreadable) as caught, freeze(path):
            pass
        assert "\n" not in str(caught.value)
        assert caught.value.hint


@pytest.mark.parametrize("kind", ["Flat", "HNSW8,Flat", "IVF20,PQ8x4", "IVF20,SQfp16", "PCA32,PQ8x4", "IVF20,PQ8x4,RFlat"])
def test_damaged_headers_never_mislead_the_parser(vectors, kind) -> None:
    small = index_of(kind, vectors[:1600], "IndexIDMap2")
    content = faiss.serialize_index(small).tobytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(content)
        at = int(rng.integers(0, 300)) if rng.random() < 0.7 else int(rng.integers(0, len(content)))
        damaged[at : at + 8] = rng.bytes(8) if rng.random() < 0.5 else b"\xff" * 8
        damaged = damaged[: len(content)]
        try:
            layout = parse(lambda offset, length, held=damaged: bytes(held[offset : offset + length]), len(damaged))
        except (Truncated, UnknownFormat):
            continue
        regions = list(layout.regions())
        assert [r.offset for r in regions[1:]] == [r.offset + r.length for r in regions[:-1]]
        assert regions[-1].offset + regions[-1].length == len(damaged)


@pytest.mark.parametrize("content", [b"", b"IxF", b"not an index at all", b"IBxF" + bytes(60), b"IxMp" * 500, b"\xff" * 100])
def test_what_is_no_index_is_said_in_one_line(tmp_path, content) -> None:
    (tmp_path / "index.faiss").write_bytes(content)
    with pytest.raises(Unreadable) as caught, freeze(tmp_path / "index.faiss"):
        pass
    assert "index.faiss" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numbers_of_a_jsonl_sidecar_keep_their_digits(tmp_path) -> None:
    """A column of doubles would round some of these, and a list of floats most."""
    index, path = faiss.IndexFlatL2(4), tmp_path / "few.faiss"
    index.add(np.eye(3, 4, dtype=np.float32))
    faiss.write_index(index, str(path))
    lines = [
        '{"a":0.1234567890123456789,"b":9007199254740993,"c":[0.1,16777217],"payload":{"x":1E400},"d":[9007199254740993],"e":0.1}',
        '{"a":0.5,"b":0.5,"c":[0.123456789012,1],"payload":{"x":0.1},"d":[1],"e":1}',
        '{"a":1,"b":1,"c":[3,4],"payload":{"x":12345678901234567890123},"d":[1],"e":9007199254740992}',
    ]
    path.with_suffix(".jsonl").write_text("\n".join(lines))
    with freeze(path) as frozen:
        rows = table_of(frozen)
    assert rows.column("a").to_pylist() == ["0.1234567890123456789", "0.5", "1"]
    assert rows.column("b").to_pylist() == ["9007199254740993", "0.5", "1"]
    assert rows.column("c").to_pylist() == [[0.1, 16777217], [0.123456789012, 1], [3, 4]]
    assert rows.column("d").to_pylist() == ["[9007199254740993]", "[1]", "[1]"]
    assert rows.column("e").to_pylist() == [0.1, 1.0, 9007199254740992.0]
    assert rows.column("payload").to_pylist() == ['{"x":1E400}', '{"x":0.1}', '{"x":12345678901234567890123}']


def test_halves_of_characters_in_a_jsonl_sidecar_are_told(tmp_path) -> None:
    """Texts that were cut within an emoji, as programs in JavaScript and Java do."""
    index, path = faiss.IndexFlatL2(4), tmp_path / "few.faiss"
    index.add(np.eye(3, 4, dtype=np.float32))
    faiss.write_index(index, str(path))
    lines = [
        rb'{"document":"cut \ud83d","payload":{"a\uDE00":"\ud83d\ud83d\ude00"}}',
        rb'{"document":"\\ud83d \ud83d\ude00","payload":{}}',
        b'{"document":"raw \xed\xa0\xbd","payload":{}}',
    ]
    path.with_suffix(".jsonl").write_bytes(b"\n".join(lines))
    with freeze(path) as frozen:
        rows, ledger = table_of(frozen), frozen.description.ledger
    assert rows.column("document").to_pylist() == ["cut \ufffd", "\\ud83d \U0001f600", "raw \ufffd"]
    assert json.loads(rows.column("payload").to_pylist()[0]) == {"a\ufffd": "\ufffd\U0001f600"}
    assert any("lone surrogates" in item.note for item in ledger)
    path.with_suffix(".jsonl").write_bytes(b"\n".join([lines[1]] * 3))
    with freeze(path) as frozen:
        assert not any("lone surrogates" in item.note for item in frozen.description.ledger)


@pytest.mark.parametrize("content", [b"{]\n", b"[1]\n", b'{"a": 1}\nnope\n', b"\xff\xfe\n"])
def test_a_broken_jsonl_sidecar_is_unreadable(built, tmp_path, content) -> None:
    path = place(built("Flat"), tmp_path)
    path.with_suffix(".jsonl").write_bytes(content)
    with pytest.raises(Unreadable, match="line"), freeze(path):
        pass


def test_a_broken_parquet_sidecar_is_unreadable(built, tmp_path) -> None:
    path = place(built("Flat"), tmp_path)
    sidecar = write_sidecar(path, "parquet", records(ROWS))
    sidecar.write_bytes(sidecar.read_bytes()[:-30])
    with pytest.raises(Unreadable, match=r"index\.parquet"), freeze(path):
        pass


def test_missing_and_foreign_paths(tmp_path) -> None:
    with pytest.raises(NotFound), freeze(tmp_path / "nothing.faiss"):
        pass
    with pytest.raises(Unreadable, match="not a file"), freeze(tmp_path):
        pass
    os.mkfifo(tmp_path / "pipe.faiss")
    with pytest.raises(Unreadable, match="not a file"), freeze(tmp_path / "pipe.faiss"):
        pass
    for url in ("faiss:", "faiss://host/index.faiss", "faiss:///", "faiss:///a/", "faiss:///a/b.parquet", "chroma:///x"):
        with pytest.raises(WrongRequest):
            Faiss().source(url)
    assert Faiss().source("faiss:a/index.faiss").path == Path.cwd() / "a" / "index.faiss"


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "index.faiss").write_bytes(b"x")
    monkeypatch.setattr("strongroom.engines.indexfile.held.os.open", refuse)
    with pytest.raises(Unreadable) as caught, freeze(tmp_path / "index.faiss"):
        pass
    assert caught.value.hint


def test_compatibility_follows_the_minor_version(monkeypatch) -> None:
    engine = Faiss()
    monkeypatch.setattr(Faiss, "version", lambda self: "1.15.1")
    assert [engine.compatible(v) for v in ("1.15.1", "1.15.9", "1.7.4", "1.16.0", "2.0.0", "?")] == [
        True,
        True,
        True,
        False,
        False,
        False,
    ]


# Writers at work


def generation(number: int, rows: int = 3000) -> np.ndarray:
    return np.full((rows, 64), number, np.float32) + np.arange(64, dtype=np.float32) / 1000


def flat(number: int) -> bytes:
    index = faiss.IndexFlatL2(64)
    index.add(generation(number))
    return faiss.serialize_index(index).tobytes()


class Writing:
    """Runs `save(number)` for number 0, 1, 2 ... in a thread until the end of the block."""

    def __init__(self, save, pause: float) -> None:
        self._save, self._pause, self._stop = save, pause, threading.Event()
        self.written = 0

    def __enter__(self) -> Writing:
        self._save(0)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def _run(self) -> None:
        while not self._stop.wait(self._pause):
            self.written += 1
            self._save(self.written % 7)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def capture(path: Path) -> tuple[np.ndarray, pa.Table, list[bytes]]:
    with freeze(path) as frozen:
        table = table_of(frozen)
        time.sleep(0.03)
        files = [b"".join(a.read(r.offset, r.length) for r in a.regions()) for a in frozen.artifacts()]
        frozen.check()
    return matrix(table), table, files


def test_a_writer_that_saves_by_rename_is_always_seen_whole(tmp_path) -> None:
    path = tmp_path / "index.faiss"
    contents = [flat(number) for number in range(7)]

    def save(number: int) -> None:
        fresh = tmp_path / "fresh"
        fresh.write_bytes(contents[number])
        fresh.rename(path)

    seen: list[int] = []
    with Writing(save, 0.005) as writer:
        while len(seen) < 12 or writer.written < 50 or len(set(seen)) < 3:
            found, _, files = capture(path)
            seen.append(int(found[0, 0]))
            assert found.tobytes() == generation(seen[-1]).tobytes()
            assert files == [contents[seen[-1]]]


def test_a_pair_saved_under_the_lock_is_always_of_one_generation(tmp_path) -> None:
    path = tmp_path / "index.faiss"
    lock = tmp_path / "index.faiss.lock"
    lock.touch()

    def save(number: int) -> None:
        with lock.open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            path.write_bytes(flat(number))  # in place, as faiss.write_index does
            time.sleep(0.005)
            pq.write_table(pa.table({"generation": pa.array([number] * 3000)}), path.with_suffix(".parquet"))

    seen: list[int] = []
    with Writing(save, 0.02):
        while len(seen) < 12 or len(set(seen)) < 3:
            found, table, _ = capture(path)
            seen.append(int(found[0, 0]))
            assert found.tobytes() == generation(seen[-1]).tobytes()
            assert set(table.column("generation").to_pylist()) == {seen[-1]}


def test_a_pair_replaced_by_rename_without_a_lock_is_one_generation_or_refused(tmp_path) -> None:
    path = tmp_path / "index.faiss"

    def save(number: int) -> None:
        pq.write_table(pa.table({"generation": pa.array([number] * 3000)}), tmp_path / "fresh.table")
        (tmp_path / "fresh").write_bytes(flat(number))
        (tmp_path / "fresh").rename(path)
        time.sleep(0.01)
        (tmp_path / "fresh.table").rename(path.with_suffix(".parquet"))

    whole = tries = 0
    with Writing(save, 0.25):
        while tries < 10 or not whole:
            tries += 1
            try:
                found, table, _ = capture(path)
            except SourceChanged:
                continue
            whole += 1
            assert set(table.column("generation").to_pylist()) == {int(found[0, 0])}


def test_a_file_just_written_must_first_come_to_rest(tmp_path) -> None:
    path = tmp_path / "index.faiss"
    path.write_bytes(flat(1))
    with freeze(path):
        assert time.time() - path.stat().st_mtime > 0.09


def test_the_instant_between_two_renames_is_waited_out(tmp_path, monkeypatch) -> None:
    path = tmp_path / "index.faiss"
    path.write_bytes(flat(2))
    for number in (1, 2):
        pq.write_table(pa.table({"generation": pa.array([number] * 3000)}), tmp_path / f"{number}.table")
        os.utime(tmp_path / f"{number}.table", (1, 1))
    (tmp_path / "1.table").rename(path.with_suffix(".parquet"))
    os.utime(path, (1, 1))
    sleep = time.sleep

    def meanwhile(seconds: float) -> None:
        if (tmp_path / "2.table").exists():
            (tmp_path / "2.table").rename(path.with_suffix(".parquet"))
        sleep(seconds)

    monkeypatch.setattr("strongroom.engines.indexfile.held.QUIET_SECONDS", 1.5)  # it must be younger when it is looked at
    monkeypatch.setattr("strongroom.engines.indexfile.held.time.sleep", meanwhile)
    _, table, _ = capture(path)
    assert set(table.column("generation").to_pylist()) == {2}


@pytest.mark.parametrize("truncating", [True, False])
def test_a_naive_writer_is_noticed_or_not_in_the_way(tmp_path, truncating) -> None:
    path = tmp_path / "index.faiss"
    contents = [flat(number) for number in range(7)]

    def save(number: int) -> None:
        with path.open("wb" if truncating or not path.exists() else "r+b", buffering=0) as file:
            for start in range(0, len(contents[number]), 100_000):
                file.write(contents[number][start : start + 100_000])
                time.sleep(0.004)

    outcomes = {"whole": 0, "noticed": 0}
    tries = 0
    with Writing(save, 0.16):
        while tries < 20 or not outcomes["noticed"]:
            tries += 1
            time.sleep(0.017)
            try:
                found, _, files = capture(path)
            except (SourceChanged, Unreadable):
                outcomes["noticed"] += 1
                continue
            outcomes["whole"] += 1
            number = int(found[0, 0])
            assert found.tobytes() == generation(number).tobytes()
            assert files == [contents[number]]


def test_writes_after_the_freeze_are_noticed_and_removal_is_no_matter(built, tmp_path) -> None:
    path = place(built("Flat"), tmp_path)
    with freeze(path) as frozen:
        path.unlink()
        assert table_of(frozen).num_rows == ROWS
        assert frozen.search("index", "vector", np.zeros((1, 384), np.float32), 1).ids
        frozen.check()
    path = place(built("Flat"), tmp_path)
    with freeze(path) as frozen:
        with path.open("r+b") as file:
            file.truncate(1000)
        with pytest.raises(SourceChanged):
            table_of(frozen)
        with pytest.raises(SourceChanged):
            frozen.check()
    path = place(built("Flat"), tmp_path)
    with freeze(path) as frozen:
        with path.open("r+b") as file:
            file.seek(5000)
            file.write(b"1234")
        os.utime(path, (1, 1))  # a writer that hides its traces is betrayed by st_ctime
        with pytest.raises(SourceChanged):
            frozen.check()


# Memory


def test_a_large_index_is_streamed(tmp_path) -> None:
    index = faiss.IndexFlatL2(256)
    block = np.random.default_rng(0).standard_normal((50_000, 256)).astype(np.float32)
    for _ in range(6):
        index.add(block)
    path = tmp_path / "index.faiss"
    faiss.write_index(index, str(path))
    pq.write_table(pa.table({"rank": pa.array(range(300_000))}), path.with_suffix(".parquet"))
    del index
    program = textwrap.dedent(f"""
        import resource, time
        from strongroom.engines.faiss import Faiss
        from strongroom.progress import SILENT
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.perf_counter()
        with Faiss().source("faiss://{path}").freeze(SILENT) as frozen:
            rows = sum(block.batch.num_rows for block in frozen.rows("index"))
            size = sum(len(a.read(r.offset, r.length)) for a in frozen.artifacts() for r in a.regions())
            frozen.check()
        print(rows, size, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10, time.perf_counter() - began)
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    rows, size, grown, _ = done.stdout.split()
    assert int(rows) == 300_000
    assert int(size) > 300_000_000
    assert int(grown) < 100


def test_errors_are_of_the_project(tmp_path) -> None:
    (tmp_path / "index.faiss").write_bytes(b"LxYz" + bytes(100))
    with pytest.raises(StrongroomError), freeze(tmp_path / "index.faiss"):
        pass
