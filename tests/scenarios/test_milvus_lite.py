"""Does a folder of Milvus Lite come back, by its files and by its rows?"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from milvus_lite.server_manager import server_manager_instance
from processes import program
from pymilvus import CollectionSchema, DataType, FieldSchema, Function, FunctionType, MilvusClient, MilvusException

from strongroom.errors import Locked, Unreadable, WrongRequest
from strongroom.library import Strongroom, init_repository
from strongroom.model import Status
from strongroom.operations.restore.plan import Rung
from strongroom.repository import Argon2Cost

ROWS = 60
ID = FieldSchema("id", DataType.INT64, is_primary=True)
KILLED = """
import os, sys
from pymilvus import MilvusClient
client = MilvusClient(sys.argv[1])
client.insert("texts", [{"id": n, "text": f"late words of {n}", "v": [n] * 8} for n in range(20, 23)])
os._exit(0)
"""
"""These rows are in the log only."""
VECTOR = FieldSchema("v", DataType.FLOAT_VECTOR, dim=8)


@pytest.fixture
def room(tmp_path: Path) -> Strongroom:
    return init_repository(str(tmp_path / "repo"), password="x", cost=Argon2Cost(1, 1, 64))


def fill(path: Path) -> dict[str, Any]:
    """All that Milvus Lite has; gives what its users see."""
    client = MilvusClient(str(path))
    array = {"element_type": DataType.VARCHAR, "max_length": 20, "max_capacity": 4}
    fields = [
        ID, VECTOR, FieldSchema("w", DataType.SPARSE_FLOAT_VECTOR), FieldSchema("other", DataType.FLOAT_VECTOR, dim=3),
        FieldSchema("maybe", DataType.INT32, nullable=True), FieldSchema("at", DataType.TIMESTAMPTZ, nullable=True),
        FieldSchema("said", DataType.VARCHAR, max_length=50, default_value="nothing"),
        FieldSchema("j", DataType.JSON, nullable=True),
        FieldSchema("place", DataType.GEOMETRY, nullable=True), FieldSchema("words", DataType.ARRAY, nullable=True, **array),
    ]  # fmt: skip
    client.create_collection("things", schema=CollectionSchema(fields, enable_dynamic_field=True, description="é"))
    params = client.prepare_index_params()
    params.add_index("v", index_type="HNSW", metric_type="COSINE", params={"M": 4, "efConstruction": 30})
    params.add_index("w", index_type="SPARSE_INVERTED_INDEX", metric_type="IP")
    params.add_index("other", index_type="HNSW", metric_type="L2", params={"M": 4, "efConstruction": 30})
    client.create_index("things", params)
    client.create_partition("things", "old")
    client.create_alias("things", "current")
    draw = np.random.default_rng(1)
    for number in range(ROWS):
        row = {
            "id": (1 << 60) + number, "v": draw.standard_normal(8).astype(np.float32) * 3,
            "w": {number: 0.1, (1 << 31) + number: number / 3},
            "other": draw.standard_normal(3).astype(np.float32), "maybe": number if number % 2 else None,
            "at": "2026-01-02T03:04:05.678901Z" if number % 3 else None, "j": {"n": [number, None]} if number % 2 else None,
            "place": "POINT (1 2)" if number % 5 else None, "words": ["é", str(number)] if number % 4 else None, "loose": number,
            **({"said": f"ü'\"{number}"} if number % 2 else {}),
        }  # fmt: skip
        client.insert("things", [row], partition_name="old" if number % 3 == 0 else "_default")
    client.flush("things")
    text = FieldSchema("text", DataType.VARCHAR, max_length=100, enable_analyzer=True)
    bm25 = Function("bm", FunctionType.BM25, ["text"], ["s"])
    schema = CollectionSchema([ID, text, FieldSchema("s", DataType.SPARSE_FLOAT_VECTOR), VECTOR], functions=[bm25])
    client.create_collection("texts", schema=schema)
    client.insert("texts", [{"id": n, "text": f"words of {n}", "v": [n] * 8} for n in range(10)])
    words = FieldSchema("w", DataType.SPARSE_FLOAT_VECTOR)
    client.create_collection(
        "words", schema=CollectionSchema([FieldSchema("id", DataType.VARCHAR, is_primary=True, max_length=9), words])
    )
    params = client.prepare_index_params()
    params.add_index("w", index_type="SPARSE_INVERTED_INDEX", metric_type="IP", params={"drop_ratio_build": 0.1})
    client.create_index("words", params)
    client.insert("words", [{"id": f"é{n}", "w": {n: 0.5, (1 << 32) - 2: n / 3}} for n in range(7)])
    client.create_database("other")
    client.use_database("other")
    auto = FieldSchema("id", DataType.INT64, is_primary=True, auto_id=True)
    client.create_collection("things", schema=CollectionSchema([auto, VECTOR]))
    client.insert("things", [{"v": [n] * 8} for n in range(5)])
    client.create_collection("empty", schema=CollectionSchema([ID, VECTOR]))
    close(client, path)
    return state(path)


def state(path: Path) -> dict[str, Any]:
    client, found = MilvusClient(str(path)), {}
    for database in client.list_databases():
        client.use_database(database)
        for name in client.list_collections():
            client.load_collection(name)
            said = client.describe_collection(name)
            said["fields"] = [{key: str(value) for key, value in one.items()} for one in said["fields"]]
            parts = {}
            for partition in client.list_partitions(name):
                rows = client.query(name, "", ["*"], limit=9999, partition_names=[partition])
                parts[partition] = sorted(map(str, map(_plain, rows)))
            found[database, name] = (said, sorted(client.list_aliases(name)["aliases"]), parts)
    close(client, path)
    return found


def close(client: MilvusClient, path: Path) -> None:
    """A client leaves the folder open for as long as its process lives."""
    client.close()
    server_manager_instance.release_server(str(path))


def _plain(row: Any) -> dict[str, Any]:
    return {key: value.tolist() if hasattr(value, "tolist") else value for key, value in sorted(dict(row).items())}


def files(path: Path) -> dict[str, str]:
    found = (one for one in path.rglob("*") if one.is_file() and one.name != "strongroom.json")
    return {str(one.relative_to(path)): hashlib.sha256(one.read_bytes()).hexdigest() for one in found}


def test_everything_comes_back(room: Strongroom, tmp_path: Path) -> None:
    source = tmp_path / "notes.db"
    fill(source)
    assert program("-c", KILLED, source).wait() == 0
    shutil.copytree(source, tmp_path / "copy.db")
    before, there = state(tmp_path / "copy.db"), files(source)
    assert any("/wal/" in one for one in there)
    record = room.backup(f"milvus-lite://{source}").snapshot.manifest
    assert files(source) == there
    counts = {one.name: one.count for one in record.collections}
    assert counts == {"things": ROWS, "texts": 13, "words": 7, "other/things": 5, "other/empty": 0}
    fields = next(one for one in record.collections if one.name == "things").catalog.fields
    assert (fields[0].index["kind"], [one.name for one in fields]) == ("HNSW", ["v", "other"])
    missing = {item.item for item in record.ledger if item.status is Status.NOT_CAPTURED}
    assert missing == {"things: answers of w", "words: answers of w"}
    report = room.restore("latest", f"milvus-lite://{tmp_path}/exact.db", require_exact=True)
    assert any("bit for bit" in one for one in report.checks)
    assert files(tmp_path / "exact.db") == there
    assert state(tmp_path / "exact.db") == before
    report = room.restore("latest", f"milvus-lite://{tmp_path}/rows.db", rung=Rung.REBUILD)
    assert sum("all columns equal" in one for one in report.checks) == len(counts), report.checks
    assert state(tmp_path / "rows.db") == before


@pytest.mark.soak
def test_some_of_it_under_another_name(room: Strongroom, tmp_path: Path) -> None:
    before = fill(tmp_path / "notes.db")
    room.backup(f"milvus-lite://{tmp_path}/notes.db")
    url = f"milvus-lite://{tmp_path}/some.db"
    room.restore("latest", url, collections=["texts", "other/things"], renames={"texts": "notes"})
    some = state(tmp_path / "some.db")
    assert some.keys() == {("default", "notes"), ("other", "things")}
    assert json.loads((tmp_path / "some.db" / "aliases.json").read_bytes()) == {}
    assert some["default", "notes"][2] == before["default", "texts"][2]


@pytest.mark.parametrize("kind", ["FLOAT16_VECTOR", "BFLOAT16_VECTOR", "BINARY_VECTOR", "INT8_VECTOR"])
def test_it_has_no_vectors_but_float32_and_sparse_ones(kind: str, tmp_path: Path) -> None:
    """What is said of Milvus Lite in `creation.LITE`: where this fails, a release has more."""
    client = MilvusClient(str(tmp_path / "notes.db"))
    try:
        with pytest.raises(MilvusException, match="does not support"):
            client.create_collection("x", schema=CollectionSchema([ID, FieldSchema("v", DataType[kind], dim=8)]))
    finally:
        close(client, tmp_path / "notes.db")


def test_somebody_has_it_open(room: Strongroom, tmp_path: Path) -> None:
    client = MilvusClient(str(tmp_path / "notes.db"))
    client.create_collection("things", dimension=4)
    try:
        with pytest.raises(Locked, match="open"):
            room.backup(f"milvus-lite://{tmp_path}/notes.db")
    finally:
        close(client, tmp_path / "notes.db")


def test_what_is_none(room: Strongroom, tmp_path: Path) -> None:
    (tmp_path / "old.db").write_bytes(b"SQLite format 3")
    (tmp_path / "folder").mkdir()
    for name in ("old.db", "folder"):
        with pytest.raises(Unreadable):
            room.backup(f"milvus-lite://{tmp_path}/{name}")
    for url in ("milvus-lite:", "milvus-lite://host/x"):
        with pytest.raises(WrongRequest):
            room.backup(url)
