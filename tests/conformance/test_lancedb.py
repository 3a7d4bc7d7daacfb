"""Does the LanceDB engine give back what LanceDB itself holds? Seeded and inspected with lance and lancedb, not with our code."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from forks import PIPE
from processes import program

import strongroom
from strongroom import engines
from strongroom.engines.lancedb import LanceDB, versions
from strongroom.engines.lancedb.differences import Difference, read_difference
from strongroom.engines.lancedb.freeze import FrozenLance, LanceFile
from strongroom.engines.lancedb.manifest import read_manifest
from strongroom.engines.lancedb.pins import PREFIX
from strongroom.engines.lancedb.target import RECEIPT
from strongroom.errors import Damaged, NotFound, Refused, SourceChanged, Unreadable, WrongRequest
from strongroom.model import ROLE, Answers, Collection, Field, Role, Selection, Status
from strongroom.progress import SILENT
from strongroom.repository import Argon2Cost

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "summaries-minilm.parquet"
DIMENSION = 384
K = 10


def sentences(rows: int) -> pa.Table:
    """Real embeddings where they are at hand, else vectors around random centres: id, summary, rank, vector."""
    if DATA.exists():
        return pq.read_table(DATA, columns=["id", "summary", "rank", "vector"]).slice(0, rows)
    random = np.random.default_rng(7)
    centres = random.standard_normal((40, DIMENSION))
    vectors = (centres[random.integers(0, 40, rows)] + 0.6 * random.standard_normal((rows, DIMENSION))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    columns = {"id": [f"package-{i}" for i in range(rows)], "summary": [f"a library for task {i % 97}" for i in range(rows)]}
    return pa.table(columns | {"rank": pa.array(range(rows)), "vector": as_vectors(vectors)})


def as_vectors(values: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def numbered(first: int, last: int, generation: int) -> pa.Table:
    vectors = np.random.default_rng(first).standard_normal((last - first, 64)).astype(np.float32)
    generations = pa.array([generation] * (last - first), pa.int64())
    return pa.table({"id": pa.array(range(first, last)), "generation": generations, "vector": as_vectors(vectors)})


def queries(table: pa.Table, count: int = 50) -> np.ndarray:
    vectors = table.column("vector").combine_chunks().flatten().to_numpy().reshape(-1, DIMENSION)
    step = len(vectors) // count
    return vectors[::step][:count] + 0.05 * np.random.default_rng(3).standard_normal((count, DIMENSION)).astype(np.float32)


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of three tables with all that Lance offers; never written to by a test."""
    root = tmp_path_factory.mktemp("seeded")
    rows = sentences(6000)
    seed_packages(root, rows)
    seed_graph(root, rows.slice(0, 3000))
    plain = pa.table(
        {"name": ["a", "b", "b"], "point": as_vectors(np.eye(3, dtype=np.float32)), "extra": [{"x": [1]}, None, {"x": []}]}
    )
    lance.write_dataset(plain, str(root / "plain.lance"))
    lance.write_dataset(plain, str(root / "plain.lance"), mode="overwrite")
    return root


def seed_packages(root: Path, rows: pa.Table) -> None:
    import lancedb

    table = lancedb.connect(root).create_table("packages", rows.slice(0, 4000))
    table.add(rows.slice(4000, 1000))
    lance.dataset(str(root / "packages.lance")).tags.create("first", 2)
    table.delete("rank % 11 = 0")
    table.update(where="rank % 13 = 0", values={"summary": "changed"})
    data = lance.dataset(str(root / "packages.lance"))
    data.create_index("vector", "IVF_PQ", metric="cosine", num_partitions=8, num_sub_vectors=48)
    data.create_scalar_index("id", "BTREE")
    data.create_scalar_index("summary", "INVERTED")
    data.add_columns({"double": "rank * 2"})
    lance.dataset(str(root / "packages.lance")).tags.create("wide", lance.dataset(str(root / "packages.lance")).version)
    late = rows.slice(5000, 1000)
    lance.write_dataset(late.append_column("double", late["rank"]), str(root / "packages.lance"), mode="append")


def seed_graph(root: Path, rows: pa.Table) -> None:
    function = {"name": "sentence-transformers", "model": {"name": "all-MiniLM-L6-v2"}, "vector_column": "vector"}
    rows = rows.replace_schema_metadata({"embedding_functions": json.dumps([function])})
    path = str(root / "graph.lance")
    data = lance.write_dataset(rows, path, enable_stable_row_ids=True)
    data.create_index("vector", "IVF_HNSW_SQ", metric="l2", num_partitions=2)
    lance.dataset(path).update_config({"owner": "search team"})
    lance.dataset(path).create_branch("experiment")


@pytest.fixture
def database(seeded: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(seeded, tmp_path / "database"))


def source(path: Path):
    return LanceDB().source(f"lancedb://{path}")


def target(path: Path):
    return LanceDB().target(f"lancedb://{path}")


def rows_of(frozen: FrozenLance, name: str) -> pa.Table:
    return pa.Table.from_batches([block.live() for block in frozen.rows(name)])


def bare(table: pa.Table) -> pa.Table:
    """Without metadata of fields and schema."""
    return table.cast(pa.schema([field.remove_metadata() for field in table.schema]))


def content(file: LanceFile) -> bytes:
    """Read region by region, as a backup does."""
    end, parts = 0, []
    for region in file.regions():
        assert region.offset == end
        assert 0 < region.length <= 8 << 20
        parts.append(file.read(region.offset, region.length))
        end += region.length
    assert end == file.size
    return b"".join(parts)


def write_out(frozen: FrozenLance, root: Path) -> None:
    for file in frozen.artifacts():
        path = root / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(file))


def raw_answers(path: Path, vectors: np.ndarray, identifier: str = "id", **options: object) -> list[tuple[list, bytes]]:
    data = lance.dataset(str(path))
    answers = []
    for vector in vectors:
        found = data.to_table(columns=[identifier, "_distance"], nearest={"column": "vector", "q": vector, "k": K, **options})
        # Equal distances come in no promised order.
        found = found.sort_by([("_distance", "ascending"), (identifier, "ascending")])
        answers.append((found[identifier].to_pylist(), found["_distance"].to_numpy().tobytes()))
    return answers


def as_raw(answers: Answers) -> list[tuple[list, bytes]]:
    return [(list(ids), lengths.tobytes()) for ids, lengths in zip(answers.ids, answers.distances, strict=True)]


def strays(root: Path) -> list[str]:
    """What of ours was left in a database."""
    ours = [path.name for path in root.iterdir() if path.name.startswith(".strongroom")]
    return ours + [str(tag) for tag in root.glob("*.lance/_refs/tags/strongroom-*")]


# What is read


def test_rows_are_those_that_lance_reads(seeded: Path) -> None:
    import lancedb

    with source(seeded).freeze(SILENT) as frozen:
        for name in ("packages", "graph", "plain"):
            expected = lance.dataset(str(seeded / f"{name}.lance")).to_table()
            assert expected.num_rows == frozen.description.collection(name).count > 0
            assert bare(rows_of(frozen, name)).select(expected.schema.names).equals(bare(expected))
        assert sorted(lancedb.connect(seeded).list_tables().tables) == ["graph", "packages", "plain"]  # the pin isn't one
        frozen.check()
    assert strays(seeded) == []


def test_columns_have_roles(seeded: Path) -> None:
    with source(seeded).freeze(SILENT) as frozen:
        blocks = [block.batch.schema for block in frozen.rows("packages")]
        assert all(schema.equals(blocks[0], check_metadata=True) for schema in blocks)
        roles = {field.name: field.metadata[ROLE].decode() for field in blocks[0]}
        assert roles == {"id": Role.ID, "summary": Role.COLUMN, "rank": Role.COLUMN, "vector": Role.VECTOR, "double": Role.COLUMN}
        plain = rows_of(frozen, "plain")
        assert plain.schema.field("strongroom_row").metadata[ROLE] == Role.ID.encode()
        assert len(set(plain["strongroom_row"].to_pylist())) == 3


def test_description_tells_the_catalog(seeded: Path) -> None:
    with source(seeded).freeze(SILENT) as frozen:
        description = frozen.description
    packages, graph = description.collection("packages"), description.collection("graph")
    assert packages.catalog["version"] == lance.dataset(str(seeded / "packages.lance")).version
    assert packages.catalog["tags"] == {"first": 2, "wide": packages.catalog["version"] - 1}
    assert {index["kind"] for index in packages.catalog["indices"]} == {"IVF_PQ", "BTree", "Inverted"}
    field = packages.vector_field("vector")
    assert (field.dtype, field.dimension, field.metric, field.index["kind"]) == ("float32", DIMENSION, "cosine", "IVF_PQ")
    assert (field.index["num_partitions"], field.index["num_sub_vectors"]) == (8, 48)
    assert graph.vector_field("vector").index["kind"] == "IVF_HNSW_SQ"
    assert (graph.lineage.model, graph.lineage.origin) == ("all-MiniLM-L6-v2", "engine")
    assert graph.catalog["stable_row_ids"] is True
    assert graph.catalog["config"]["owner"] == "search team"
    assert json.loads(json.dumps(packages.catalog)) == packages.catalog
    missing = {item.item for item in description.ledger if item.status is not Status.CAPTURED}
    assert {"branch experiment of table graph", "older versions that no tag names", "one moment for all tables"} <= missing


def test_artifacts_copied_elsewhere_are_the_same_database(seeded: Path, tmp_path: Path) -> None:
    import lancedb

    with source(seeded).freeze(SILENT) as frozen:
        write_out(frozen, tmp_path)
    assert sorted(lancedb.connect(tmp_path).list_tables().tables) == ["graph", "packages", "plain"]
    for name in ("packages", "graph", "plain"):
        old, new = (lance.dataset(str(root / f"{name}.lance")) for root in (seeded, tmp_path))
        assert new.version == old.version == new.latest_version
        hint = tmp_path / f"{name}.lance" / "_versions" / "latest_version_hint.json"
        assert json.loads(hint.read_bytes()) == {"version": new.version}
        assert new.to_table().equals(old.to_table())
        assert [(index.name, index.index_type) for index in new.describe_indices()] == [
            (index.name, index.index_type) for index in old.describe_indices()
        ]
        assert {name: tag["version"] for name, tag in new.tags.list().items()} == {
            name: tag["version"] for name, tag in old.tags.list().items()
        }
        new.validate()
    for tag in ("first", "wide"):
        old, new = (lance.dataset(str(root / "packages.lance"), version=tag) for root in (seeded, tmp_path))
        assert new.to_table().equals(old.to_table())
    assert lance.dataset(str(tmp_path / "packages.lance"), version="first").schema.names[-1] == "vector"
    matches = [
        lance.dataset(str(root / "packages.lance")).to_table(full_text_query="library", columns=["id"])
        for root in (seeded, tmp_path)
    ]
    in_order = [
        match.sort_by([("_score", "descending"), ("id", "ascending")]) for match in matches
    ]  # Lance leaves equals as they come
    assert in_order[0].equals(in_order[1])
    assert matches[0].num_rows > 0
    lance.write_dataset(sentences(5), str(tmp_path / "graph.lance"), mode="append")  # it can be written to


@pytest.mark.parametrize("name", ["packages", "graph"])
def test_answers_are_those_of_lance_bit_for_bit(seeded: Path, tmp_path: Path, name: str) -> None:
    vectors = queries(sentences(6000))
    expected = raw_answers(seeded / f"{name}.lance", vectors)
    assert expected != raw_answers(seeded / f"{name}.lance", vectors, use_index=False)
    with source(seeded).freeze(SILENT) as frozen:
        assert as_raw(frozen.search(name, "vector", vectors, K)) == expected
        write_out(frozen, tmp_path)
    assert raw_answers(tmp_path / f"{name}.lance", vectors) == expected
    with source(tmp_path).freeze(SILENT) as restored:
        assert as_raw(restored.search(name, "vector", vectors, K)) == expected


def test_rows_without_an_id_are_found_by_position(seeded: Path) -> None:
    with source(seeded).freeze(SILENT) as frozen:
        positions = rows_of(frozen, "plain")["strongroom_row"].to_pylist()
        answers = frozen.search("plain", "point", np.eye(3, dtype=np.float32), 1)
        assert [ids[0] for ids in answers.ids] == positions
        with pytest.raises(NotFound):
            frozen.search("plain", "nonsense", np.eye(3, dtype=np.float32), 1)


def test_an_id_that_is_not_unique_is_no_id(tmp_path: Path) -> None:
    twice = pa.concat_tables([numbered(0, 10, 1), numbered(0, 10, 2)])
    lance.write_dataset(twice, str(tmp_path / "twice.lance"))
    with_null = pa.table({"id": ["a", None], "key": pa.array([1, 2], pa.int64())})
    lance.write_dataset(with_null, str(tmp_path / "null.lance"))
    with source(tmp_path).freeze(SILENT) as frozen:
        assert frozen.description.collection("twice").catalog["id_column"] is None
        assert len(set(rows_of(frozen, "twice")["strongroom_row"].to_pylist())) == 20
        assert frozen.description.collection("null").catalog["id_column"] == "key"


def test_what_is_not_captured_is_in_the_ledger(database: Path) -> None:
    import lancedb

    connection = lancedb.connect(database)
    connection.create_namespace(["team"])
    connection.create_table("inner", numbered(0, 5, 1), namespace_path=["team"])
    graph = lance.dataset(str(database / "graph.lance"))
    graph.tags.create("on-branch", ("experiment", None))
    (database / "half.lance").mkdir()
    with source(database).freeze(SILENT) as frozen:
        missing = {item.item for item in frozen.description.ledger if item.status is Status.NOT_CAPTURED}
        assert frozen.description.collection("graph").catalog["tags"] == {}
    assert {"tables in child namespaces", "tag on-branch of table graph", "table half"} <= missing


def test_vector_pages_are_regions_of_their_own(seeded: Path) -> None:
    with source(seeded).freeze(SILENT) as frozen:
        vectors = b"".join(
            file.read(region.offset, region.length)
            for file in frozen.artifacts()
            for region in file.regions()
            if file.path.startswith("graph.lance/data/") and region.kind == "float32"
        )
        assert vectors == rows_of(frozen, "graph")["vector"].combine_chunks().flatten().to_numpy().tobytes()


def test_appending_adds_files_and_changes_none_that_is_immutable(database: Path) -> None:
    with source(database).freeze(SILENT) as frozen:
        before = {file.path: (file.size, content(file)) for file in frozen.artifacts() if file.immutable}
        position = frozen.position
    with source(database).freeze(SILENT) as frozen:
        assert frozen.position == position
    late = sentences(100)
    lance.write_dataset(late.append_column("double", late["rank"]), str(database / "packages.lance"), mode="append")
    with source(database).freeze(SILENT) as frozen:
        after = {file.path: (file.size, content(file)) for file in frozen.artifacts() if file.immutable}
        assert frozen.position != position
    gone = set(before) - set(after)
    assert {path.split("/")[1] for path in gone} <= {"_transactions"}
    assert sorted(path.split("/")[1] for path in set(after) - set(before)) == ["_transactions", "data"]
    assert all(after[path] == before[path] for path in before if path not in gone)


def test_large_blobs_travel(tmp_path: Path) -> None:
    import lance.blob as blob

    values = [b"small", b"m" * 200_000, b"l" * 9_000_000]
    table = pa.table({"id": [1, 2, 3], "media": blob.blob_array(values)})
    lance.write_dataset(table, str(tmp_path / "one" / "blobs.lance"), data_storage_version="2.2")
    with source(tmp_path / "one").freeze(SILENT) as frozen:
        assert rows_of(frozen, "blobs")["media"].to_pylist() == values
        write_out(frozen, tmp_path / "two")
    read = lance.dataset(str(tmp_path / "two" / "blobs.lance")).scanner(blob_handling="all_binary").to_table()
    assert read["media"].to_pylist() == values


@pytest.mark.parametrize("storage", ["2.0", "2.1", "2.2"])
def test_blobs_of_each_format_are_bytes_in_rows_and_blobs_again(storage: str, tmp_path: Path) -> None:
    """Asked for rows, Lance gives places of blobs, which mean nothing elsewhere."""
    values = [b"ten bytes.", None, b""]
    fields = [pa.field("id", pa.int64()), pa.field("v", pa.list_(pa.float32(), 2))]
    fields.append(pa.field("media", pa.large_binary(), metadata={"lance-encoding:blob": "true"}))
    table = pa.table([[1, 2, 3], pa.array([[1, 2], [3, 4], [5, 6]], fields[1].type), values], schema=pa.schema(fields))
    made = lance.write_dataset(table, str(tmp_path / "one" / "blobs.lance"), data_storage_version=storage)
    room = strongroom.init(str(tmp_path / "repository"), password="x", cost=Argon2Cost(1, 1, 64))
    room.backup(f"lancedb://{tmp_path}/one")
    room.restore("latest", f"lancedb://{tmp_path}/two", rung=strongroom.Rung.REBUILD)
    again = lance.dataset(str(tmp_path / "two" / "blobs.lance"))
    assert (again.schema.types, again.data_storage_version) == (made.schema.types, storage)
    assert [one.readall() for one in again.take_blobs("media", indices=[0, 2])] == [b"ten bytes.", b""]
    room.restore("latest", f"sqlite-vec://{tmp_path}/three.db")
    for url in (f"lancedb://{tmp_path}/two", f"sqlite-vec://{tmp_path}/three.db"):
        with engines.source_of(url).freeze(SILENT) as frozen:
            assert rows_of(frozen, "blobs")["media"].to_pylist() == values
    (path,) = versions.manifests(tmp_path / "one" / "blobs.lance").values()
    manifest = read_manifest(tmp_path / "one" / "blobs.lance" / path)
    with pytest.raises(Unreadable, match="can't be followed"):
        read_difference(tmp_path / "one" / "blobs.lance", None, manifest, Difference(), None)


def test_what_is_said_of_a_table_is_said_again_where_its_rows_are_loaded(tmp_path: Path) -> None:
    made = lance.write_dataset(numbered(0, 5, 1), str(tmp_path / "one" / "told.lance"))
    made.update_metadata({"owner": "me"})
    made.update_config({"a": "b"})
    room = strongroom.init(str(tmp_path / "repository"), password="x", cost=Argon2Cost(1, 1, 64))
    room.backup(f"lancedb://{tmp_path}/one")
    room.restore("latest", f"lancedb://{tmp_path}/two", rung=strongroom.Rung.REBUILD)
    again = lance.dataset(str(tmp_path / "two" / "told.lance"))
    assert (again.metadata, again.config()) == ({"owner": "me"}, {"a": "b"})


def test_old_formats_are_read(tmp_path: Path) -> None:
    for format_version in ("legacy", "2.0", "2.1"):
        path = tmp_path / "old" / f"v{format_version.replace('.', '_')}.lance"
        lance.write_dataset(numbered(0, 500, 1), str(path), data_storage_version=format_version)
    with source(tmp_path / "old").freeze(SILENT) as frozen:
        assert len(frozen.description.collections) == 3
        write_out(frozen, tmp_path / "copy")
    for copy in (tmp_path / "copy").iterdir():
        assert lance.dataset(str(copy)).to_table().equals(numbered(0, 500, 1))


# Under a writer, or with the source taken away

WRITER = """
import sys, threading, lance, lancedb, pyarrow as pa, numpy as np
from datetime import timedelta
sys.path.insert(0, sys.argv[2])
from test_lancedb import numbered
table = lancedb.connect(sys.argv[1]).open_table("busy")
stop, generation = threading.Event(), 1
threading.Thread(target=lambda: (sys.stdin.read(), stop.set())).start()
print(flush=True)
while not stop.is_set():
    generation += 1
    table.add(numbered(1000 * generation, 1000 * generation + 50, generation))
    generation += 1
    table.update(values={"generation": generation})
    table.delete(f"id % 7 = {generation % 7} and id > 2000")
    if generation % 3 == 0:
        table.optimize(cleanup_older_than=timedelta(0), delete_unverified=True)
    if generation % 4 == 0:
        lance.dataset(sys.argv[1] + "/busy.lance").cleanup_old_versions(timedelta(0))
print("generations", generation)
"""


def test_a_busy_writer_neither_fails_nor_is_seen(tmp_path: Path) -> None:
    root = tmp_path / "database"
    lance.write_dataset(numbered(0, 2000, 1), str(root / "busy.lance"))
    data = lance.dataset(str(root / "busy.lance"))
    data.create_index("vector", "IVF_PQ", num_partitions=2, num_sub_vectors=8)
    writer = program("-c", WRITER, root, Path(__file__).parent, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    assert writer.stdout is not None
    writer.stdout.readline()
    captured, captures = set(), 0
    while writer.poll() is None and (captures < 10 or len(captured) < 8):
        with source(root).freeze(SILENT) as frozen:
            copy = tmp_path / f"copy-{captures}"
            write_out(frozen, copy)
            frozen.check()
            seen = rows_of(frozen, "busy")
            version = frozen.description.collection("busy").catalog["version"]
        restored = lance.dataset(str(copy / "busy.lance"))
        assert restored.version == version
        assert restored.to_table().equals(seen.cast(restored.schema))
        assert_one_generation(restored.to_table())
        restored.to_table(nearest={"column": "vector", "q": np.zeros(64, np.float32), "k": 3})
        shutil.rmtree(copy)
        captured.add(version)
        captures += 1
    output, errors = writer.communicate()
    assert writer.returncode == 0, errors
    assert captures >= 10
    assert strays(root) == []
    print(f"{captures} captures of {len(captured)} versions against {output.strip()}")


def test_an_index_cleaned_up_before_it_was_listed_is_not_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "one" / "t.lance")
    lance.write_dataset(numbered(0, 500, 1), path).create_scalar_index("id", "BTREE")
    real, calls = versions._list, []

    def racing(directory: Path, table: Path) -> object:
        calls.append(directory)
        if len(calls) == 1:
            lance.dataset(path).create_scalar_index("id", "BTREE", replace=True)
            kept = shutil.copytree(table / "_transactions", tmp_path / "kept")
            lance.dataset(path).cleanup_old_versions(timedelta(0), delete_unverified=True)
            shutil.copytree(kept, table / "_transactions", dirs_exist_ok=True)  # a cleanup that only got as far as the index
        return real(directory, table)

    monkeypatch.setattr(versions, "_list", racing)
    with source(tmp_path / "one").freeze(SILENT) as frozen:
        write_out(frozen, tmp_path / "two")
    assert len(calls) == 2
    copy = lance.dataset(str(tmp_path / "two" / "t.lance"))
    assert copy.version == lance.dataset(path).version
    assert copy.stats.index_stats("id_idx")["num_indexed_rows"] == 500
    assert copy.to_table(filter="id = 77")["id"].to_pylist() == [77]


def test_damaged_files_are_unreadable(database: Path) -> None:
    for file in (database / "graph.lance" / "data").iterdir():
        content = bytearray(file.read_bytes())
        content[-4000:-40] = bytes(3960)
        file.write_bytes(content)
    with pytest.raises(Unreadable, match="graph"), source(database).freeze(SILENT) as frozen:
        list(frozen.rows("graph"))
    assert strays(database) == []


def assert_one_generation(table: pa.Table) -> None:
    """Each commit leaves one of two pictures: all rows of one generation, or one new batch of 50 beside them."""
    counts = {entry["values"]: entry["counts"] for entry in table["generation"].value_counts().to_pylist()}
    newest = max(counts)
    assert len(counts) == 1 or (len(counts) == 2 and counts[newest] == 50 and newest - 1 in counts)


def test_a_source_deleted_after_the_freeze_is_captured_all_the_same(database: Path, tmp_path: Path) -> None:
    expected = lance.dataset(str(database / "packages.lance")).to_table()
    with source(database).freeze(SILENT) as frozen:
        for table in database.glob("*.lance"):
            shutil.rmtree(table)
        write_out(frozen, tmp_path / "copy")
        assert bare(rows_of(frozen, "packages")).equals(bare(expected))
        frozen.check()
    assert lance.dataset(str(tmp_path / "copy" / "packages.lance")).to_table().equals(expected)


@pytest.fixture
def without_hard_links(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "hard links aren't allowed here")

    monkeypatch.setattr(os, "link", refuse)
    return


@pytest.mark.usefixtures("without_hard_links")
def test_without_hard_links_a_deleted_source_is_noticed(database: Path, tmp_path: Path) -> None:
    expected = lance.dataset(str(database / "graph.lance")).to_table()
    with source(database).freeze(SILENT) as frozen:
        assert frozen.description.catalog["pinned_by"] == "names only"
        write_out(frozen, tmp_path / "copy")
        frozen.check()
        data = next(file for file in frozen.artifacts() if "/data/" in file.path)
        (database / data.path).unlink()
        with pytest.raises(SourceChanged):
            frozen.check()
        with pytest.raises(SourceChanged):
            data.read(0, 10)
    assert lance.dataset(str(tmp_path / "copy" / "graph.lance")).to_table().equals(expected)


def test_the_pin_of_a_killed_backup_is_swept(database: Path) -> None:
    code = (
        "import sys, time; from strongroom.engines.lancedb import LanceDB; from strongroom.progress import SILENT\n"
        "with LanceDB().source(sys.argv[1]).freeze(SILENT):\n    print('frozen', flush=True); time.sleep(60)"
    )
    child = program("-c", code, f"lancedb://{database}", stdout=PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    with source(database).freeze(SILENT):
        assert len(list(database.glob(f"{PREFIX}*"))) == 2  # the living one's stays
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert len(strays(database)) == 1
    with source(database).freeze(SILENT):
        assert len(list(database.glob(f"{PREFIX}*"))) == 1
    assert strays(database) == []


def test_what_is_no_database_is_refused(database: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "hollow" / "t.lance").mkdir(parents=True)
    for name, error in (("nowhere", NotFound), ("empty", Unreadable), ("file", Unreadable), ("hollow", Unreadable)):
        with pytest.raises(error), source(tmp_path / name).freeze(SILENT):
            pass
    for manifest in (database / "plain.lance" / "_versions").glob("*.manifest"):
        manifest.write_bytes(b"nonsense")
    with pytest.raises(Unreadable, match="plain"), source(database).freeze(SILENT):
        pass
    assert strays(database) == []


def test_a_missing_file_and_a_shallow_clone_are_refused(database: Path) -> None:
    lance.dataset(str(database / "graph.lance")).shallow_clone(str(database / "clone.lance"), 1)
    with pytest.raises(Unreadable, match="outside"), source(database).freeze(SILENT):
        pass
    shutil.rmtree(database / "clone.lance")
    next((database / "plain.lance" / "data").iterdir()).unlink()
    for file in (database / "plain.lance" / "data").iterdir():
        file.unlink()
    with pytest.raises(Unreadable, match="lacks a file"), source(database).freeze(SILENT):
        pass


def test_urls() -> None:
    assert LanceDB().source("lancedb:relative/path").directory == Path("relative/path")
    assert LanceDB().source("lancedb:///srv/x").directory == Path("/srv/x")
    for url in ("lancedb:", "chroma:///x", "lancedb:s3://bucket/x", "lancedb:///x/table.lance"):
        with pytest.raises(WrongRequest):
            LanceDB().source(url)


def test_later_releases_read_what_earlier_ones_wrote() -> None:
    engine = LanceDB()
    assert engine.compatible(engine.version())
    assert engine.compatible("0.20.0")
    assert not engine.compatible("999.0.0")
    assert not engine.compatible("unknown")


# What is written


def install(frozen: FrozenLance, root: Path, selection: Selection, *, overwrite: bool = False, receipt: bytes = b"{}") -> None:
    stage = target(root).stage("test", selection)
    for file in frozen.artifacts():
        if selection.wants(file.collection):
            path = stage.artifact_path(file.path)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content(file))
    stage.adopt(frozen.description, selection)
    stage.adopt(frozen.description, selection)
    stage.seal()
    with stage.source().freeze(SILENT) as staged:
        names = {selection.target_name(each.name) for each in selection.chosen(frozen.description.collections)}
        assert {each.name for each in staged.description.collections} == names
    try:
        stage.publish(receipt, overwrite=overwrite)
    finally:
        stage.close()


def test_one_table_is_restored_beside_others(seeded: Path, tmp_path: Path) -> None:
    import lancedb

    root = tmp_path / "there"
    mine = lancedb.connect(root).create_table("mine", numbered(0, 10, 1))
    selection = Selection(("packages",), {"packages": "copy.of-packages"})
    assert target(root).occupied(["copy.of-packages"]) == []
    with source(seeded).freeze(SILENT) as frozen:
        install(frozen, root, selection, receipt=b"one")
        assert target(root).receipt() == b"one"
        install(frozen, root, Selection(("plain",)), receipt=b"two")  # an older receipt isn't in the way
    assert target(root).receipt() == b"two"
    assert target(root).occupied(["copy.of-packages", "other"]) == [str(root / "copy.of-packages.lance")]
    assert sorted(lancedb.connect(root).list_tables().tables) == ["copy.of-packages", "mine", "plain"]
    assert mine.to_arrow().equals(numbered(0, 10, 1))
    restored = lance.dataset(str(root / "copy.of-packages.lance"))
    assert restored.version == lance.dataset(str(seeded / "packages.lance")).version
    vectors = queries(sentences(6000), 10)
    assert raw_answers(root / "copy.of-packages.lance", vectors) == raw_answers(seeded / "packages.lance", vectors)
    assert strays(root) == []


def test_a_taken_name_is_refused_or_replaced(seeded: Path, tmp_path: Path) -> None:
    root = tmp_path / "there"
    lance.write_dataset(numbered(0, 10, 1), str(root / "graph.lance"))
    lance.write_dataset(numbered(0, 10, 1), str(root / "other.lance"))
    with source(seeded).freeze(SILENT) as frozen:
        install(frozen, root, Selection(("plain",)), receipt=b"one")
        with pytest.raises(Refused):
            install(frozen, root, Selection(("graph",)))
        assert lance.dataset(str(root / "graph.lance")).count_rows() == 10
        install(frozen, root, Selection(("graph",)), overwrite=True, receipt=b"two")
    assert target(root).receipt() == b"two"
    assert (root / RECEIPT).exists()
    assert lance.dataset(str(root / "graph.lance")).count_rows() == 3000
    assert lance.dataset(str(root / "other.lance")).count_rows() == 10
    assert strays(root) == []


def test_paths_that_lead_outside_are_refused(tmp_path: Path) -> None:
    stage = target(tmp_path / "there").stage("test", Selection())
    for path in ("t.lance/../../x", "/t.lance/x", "x", "../t.lance/x", "t.lance/a\0b"):
        with pytest.raises(Damaged):
            stage.artifact_path(path)
    stage.discard()
    with pytest.raises(WrongRequest):
        target(tmp_path).stage("test", Selection(("a", "b"), {"a": "b"}))
    with pytest.raises(WrongRequest):
        target(tmp_path).stage("test", Selection(("a",), {"a": "b/c"}))


@pytest.mark.parametrize("name", ["packages", "graph", "plain"])
def test_rows_loaded_from_lance_are_read_back_alike(seeded: Path, tmp_path: Path, name: str) -> None:
    stage = target(tmp_path / "there").stage("test", Selection())
    with source(seeded).freeze(SILENT) as frozen:
        collection = frozen.description.collection(name)
        schema = next(frozen.rows(name)).batch.schema
        assert target(tmp_path / "there").objections(collection, schema) == []
        assert target(tmp_path / "there").losses(collection, schema)
        stage.load(collection, (block.live() for block in frozen.rows(name)))
        stage.load(collection, (block.live() for block in frozen.rows(name)))  # a repeated load starts anew
        expected = rows_of(frozen, name)
    stage.seal()
    with stage.source().freeze(SILENT) as staged:
        loaded = rows_of(staged, name)
        assert loaded.equals(expected)
        assert {f.name: f.metadata[ROLE] for f in loaded.schema} == {f.name: f.metadata[ROLE] for f in expected.schema}
        again = staged.description.collection(name)
        assert [(f.name, f.metric, f.index.get("kind")) for f in again.fields] == [
            (f.name, f.metric, f.index.get("kind")) for f in collection.fields
        ]
        assert {i["kind"] for i in again.catalog["indices"]} == {i["kind"] for i in collection.catalog["indices"]}
        assert again.lineage == collection.lineage
    stage.publish(b"{}", overwrite=False)
    assert lance.dataset(str(tmp_path / "there" / f"{name}.lance")).count_rows() == collection.count


def test_rows_of_another_engine_keep_their_roles_and_metric(tmp_path: Path) -> None:
    vectors = np.random.default_rng(1).standard_normal((300, 16)).astype(np.float32)
    roles = {"id": Role.ID, "document": Role.DOCUMENT, "uri": Role.URI, "payload": Role.PAYLOAD, "embedding": Role.VECTOR}
    columns = [pa.array([f"k{i}" for i in range(300)]), *(pa.array([None, "x"] * 150) for _ in range(3)), as_vectors(vectors)]
    fields = [pa.field(n, c.type, metadata={ROLE: r.encode()}) for (n, r), c in zip(roles.items(), columns, strict=True)]
    batch = pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields))
    collection = Collection("notes", 300, (Field("embedding", "float32", 16, "cosine", {"kind": "hnsw"}),))
    stage = target(tmp_path / "there").stage("test", Selection())
    stage.load(collection, [batch.slice(0, 100), batch.slice(100)])
    with stage.source().freeze(SILENT) as staged:
        assert rows_of(staged, "notes").equals(pa.Table.from_batches([batch]))
        assert {f.name: f.metadata[ROLE].decode() for f in rows_of(staged, "notes").schema} == roles
        assert staged.description.collection("notes").vector_field("embedding").metric == "cosine"
        answers = staged.search("notes", "embedding", vectors[:20], 1)
    assert [ids[0] for ids in answers.ids] == [f"k{i}" for i in range(20)]
    parts = {one.part: one.becomes for one in target(tmp_path).conversions(collection, batch.schema)}
    assert parts["payload payload: lists"] == "column payload of JSON as text"
    odd = Collection("a/b", 1, (Field("v", "bfloat16", 2, "jaccard"),))
    assert len(target(tmp_path).objections(odd, batch.schema)) == 3
    stage.discard()


def test_an_empty_table_is_captured_and_loaded(tmp_path: Path) -> None:
    lance.write_dataset(numbered(0, 0, 1), str(tmp_path / "one" / "empty.lance"))
    stage = target(tmp_path / "there").stage("test", Selection())
    with source(tmp_path / "one").freeze(SILENT) as frozen:
        assert frozen.description.collection("empty").count == 0
        stage.load(frozen.description.collection("empty"), (block.live() for block in frozen.rows("empty")))
        install(frozen, tmp_path / "two", Selection())
    assert lance.dataset(str(tmp_path / "two" / "empty.lance")).schema.names == ["id", "generation", "vector"]
    assert lance.dataset(str(stage.new / "empty.lance")).schema.names == ["id", "generation", "vector"]
    stage.discard()


def test_an_interrupted_publish_is_finished(seeded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "there"
    lance.write_dataset(numbered(0, 10, 1), str(root / "graph.lance"))
    with source(seeded).freeze(SILENT) as frozen:
        for crash in range(1, 5):
            with monkeypatch.context() as patch:
                real, left = os.rename, [crash]

                def failing(old: object, new: object, real=real, left=left) -> None:
                    left[0] -= 1
                    if left[0] == 0:
                        raise KeyboardInterrupt
                    real(old, new)

                patch.setattr(os, "rename", failing)
                with pytest.raises(KeyboardInterrupt):
                    install(frozen, root, Selection(("graph", "plain")), overwrite=True, receipt=b"%d" % crash)
            stage = target(root).stage("test", Selection(("graph", "plain")))
            stage.publish(b"%d" % crash, overwrite=True)
            assert target(root).receipt() == b"%d" % crash
            assert lance.dataset(str(root / "graph.lance")).count_rows() == 3000
            assert strays(root) == []
