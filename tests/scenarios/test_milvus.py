"""Does what a Milvus server holds come back, whoever writes meanwhile, and safely into place?"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from milvus_server import Milvus
from pymilvus import CollectionSchema, DataType, FieldSchema, MilvusClient

from strongroom.engines.milvus import cutover
from strongroom.engines.milvus.loading import Loading
from strongroom.engines.milvus.stage import ServerStage
from strongroom.errors import NotFound, Refused, SourceChanged, Unreachable, Unreadable, WrongRequest
from strongroom.library import Strongroom, init_repository
from strongroom.model import Status
from strongroom.operations.restore_plan import Rung
from strongroom.operations.verify import Level
from strongroom.repository import Argon2Cost

DIMENSION, ROWS = 16, 300
ODD = ['a"b', "a'b", "a\\b", "ü€😀", "a\nb", "a\tb", "%", "_", "a\x01b", "\u2028", 'a\\"b', "{x}", "", " ", "\\", '"', "z" * 200]
ID = FieldSchema("id", DataType.INT64, is_primary=True)
VECTOR = FieldSchema("v", DataType.FLOAT_VECTOR, dim=DIMENSION)
HNSW = {"index_type": "HNSW", "metric_type": "COSINE", "params": {"M": 8, "efConstruction": 64}}
FLAT = {"index_type": "FLAT", "metric_type": "L2", "params": {}}


class Database:
    """A database of the test's own, as its users know it."""

    made = 0

    def __init__(self, server: Milvus) -> None:
        Database.made += 1
        self.name = f"db{Database.made}"
        MilvusClient(uri=server.uri).create_database(self.name)
        self.client = MilvusClient(uri=server.uri, db_name=self.name)
        self.url = f"{server.url}/{self.name}"

    def make(self, name: str, fields: list[FieldSchema], index: dict[str, Any] | None, on: str = "v", **more: Any) -> None:
        shards = {key: more.pop(key) for key in ("num_partitions", "consistency_level") if key in more}
        self.client.create_collection(name, schema=CollectionSchema(fields, **more), **shards)
        if index is not None:
            params = self.client.prepare_index_params()
            params.add_index(on, index_name=f"of_{on}", **index)
            self.client.create_index(name, params)
            self.client.load_collection(name)

    def rows(self, name: str, partition: str) -> list[dict[str, Any]]:
        found = self.client.query(
            name, "", ["*"], limit=16_384, partition_names=[partition] if partition else None, consistency_level="Strong"
        )
        return [dict(one) for one in found]

    def state(self) -> dict[str, Any]:
        """Everything that a user sees."""
        found = {}
        for name in self.client.list_collections():
            said = self.client.describe_collection(name)
            gone = ("collection_id", "created_timestamp", "collection_name", "auto_id")
            kept = {key: value for key, value in said.items() if key not in gone}
            kept["fields"] = [{k: v for k, v in one.items() if k not in ("field_id", "auto_id")} for one in said["fields"]]
            counts = ("total_rows", "indexed_rows", "pending_index_rows")
            indexes = [self.client.describe_index(name, one) for one in self.client.list_indexes(name)]
            kept["indexes"] = [{k: v for k, v in one.items() if k not in counts} for one in indexes]
            kept["load"] = str(self.client.get_load_state(name)["state"])
            readable = bool(indexes) and "NotLoad" not in kept["load"]
            kept["partitions"] = partitions = sorted(self.client.list_partitions(name))
            named = ("",) if len(partitions) > 3 else partitions
            found[name] = (kept, {one: self.rows(name, one) if readable else None for one in named})
        return found


@pytest.fixture
def source(milvus: Milvus) -> Database:
    return Database(milvus)


@pytest.fixture
def target(milvus: Milvus) -> Database:
    return Database(milvus)


@pytest.fixture
def room(tmp_path: Path) -> Strongroom:
    return init_repository(str(tmp_path / "repo"), password="x", cost=Argon2Cost(1, 1, 64))


def vectors(count: int, seed: int = 1) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return (draw.standard_normal((count, DIMENSION)) * draw.lognormal(0, 2, (count, 1))).astype(np.float32)


def fill(database: Database) -> None:
    client = database.client
    every = [
        ID, VECTOR,
        FieldSchema("text", DataType.VARCHAR, max_length=500, description="what was said"),
        FieldSchema("flag", DataType.BOOL), FieldSchema("tiny", DataType.INT8), FieldSchema("small", DataType.INT16),
        FieldSchema("whole", DataType.INT32), FieldSchema("long", DataType.INT64), FieldSchema("single", DataType.FLOAT),
        FieldSchema("exact", DataType.DOUBLE), FieldSchema("said", DataType.JSON),
        FieldSchema("list", DataType.ARRAY, element_type=DataType.INT64, max_capacity=8),
        FieldSchema("words", DataType.ARRAY, element_type=DataType.VARCHAR, max_length=40, max_capacity=8),
        FieldSchema("parts", DataType.ARRAY, element_type=DataType.FLOAT, max_capacity=8),
    ]  # fmt: skip
    database.make("docs", every, HNSW, enable_dynamic_field=True, description="all kinds", consistency_level="Strong")
    client.alter_collection_properties("docs", {"collection.ttl.seconds": "864000000"})
    client.create_partition("docs", "old")
    client.create_partition("docs", "unused")
    client.create_alias("docs", "current")
    for start, partition in ((0, "_default"), (ROWS // 2, "old")):
        found = zip(range(start, start + ROWS // 2), vectors(ROWS)[start : start + ROWS // 2], strict=True)
        client.insert("docs", [row(number, vector) for number, vector in found], partition_name=partition)
    client.delete("docs", ids=[key(3), key(ROWS - 3)])
    client.upsert("docs", [row(5, vectors(1, 9)[0])])
    text_key = FieldSchema("name", DataType.VARCHAR, is_primary=True, max_length=400)
    tuned = {"index_type": "IVF_FLAT", "metric_type": "L2", "params": {"nlist": 4}}
    database.make("names", [text_key, FieldSchema("v", DataType.FLOAT_VECTOR, dim=2)], tuned)
    client.insert("names", [{"name": one, "v": [number, 1]} for number, one in enumerate(ODD)])
    bits = {"index_type": "BIN_IVF_FLAT", "metric_type": "JACCARD", "params": {"nlist": 4}}
    database.make("bits", [ID, FieldSchema("b", DataType.BINARY_VECTOR, dim=24)], bits, "b")
    client.insert("bits", [{"id": number, "b": bytes([number, 255 - number, 7])} for number in range(50)])
    place = FieldSchema("town", DataType.VARCHAR, max_length=40, is_partition_key=True)
    database.make("keyed", [ID, VECTOR, place], FLAT, num_partitions=4)
    client.insert("keyed", [{"id": i, "v": one, "town": f"town {i % 7}"} for i, one in enumerate(vectors(60, 3))])
    database.make("auto", [FieldSchema("id", DataType.INT64, is_primary=True, auto_id=True), VECTOR], FLAT)
    client.insert("auto", [{"v": one} for one in vectors(20, 4)])
    client.release_collection("auto")
    database.make("empty", [ID, VECTOR], None)


def key(number: int) -> int:
    """Beyond what a float64 tells apart; some are negative, one the least there is."""
    return -(1 << 63) if number == 0 else ((1 << 60) + number) * (-1 if number % 5 == 0 else 1)


def row(number: int, vector: np.ndarray) -> dict[str, Any]:
    return {
        "id": key(number), "v": vector, "text": f"text {number} “☃”\n'\"\\", "flag": number % 3 == 0,
        "tiny": number % 256 - 128, "small": -number, "whole": number * 1000, "long": (1 << 62) + number, "single": number / 3,
        "exact": number / 7, "said": {"n": number, "deep": [1, {"x": None, "é": 0.1}]}, "list": list(range(number % 4)),
        "words": [f"é{number}", ""], "parts": [number / 3], "loose": number if number % 2 else f"é {number}", "uri": f"file:///{number}",
        **({"document": f"document {number}"} if number % 3 else {}),
    }  # fmt: skip


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name, (said, held) in one.items():
        assert said == other[name][0], name
        assert held.keys() == other[name][1].keys()
        for partition, rows in held.items():
            assert rows == other[name][1][partition], (name, partition)


def test_everything_comes_back(source: Database, target: Database, room: Strongroom, milvus: Milvus, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(source)
    before = source.state()
    record = room.backup(source.url, model="encoder@2").snapshot.manifest
    assert source.state() == before, "what wasn't loaded isn't loaded now"
    counts = {one.name: one.count for one in record.collections}
    assert counts == {"docs": ROWS - 2, "names": len(ODD), "bits": 50, "keyed": 60, "auto": 20, "empty": 0}
    assert all(probe.live and probe.recall > 0.5 for one in record.collections for probe in one.probes)
    ledger = {item.item: item for item in record.ledger}
    missing = {name for name, item in ledger.items() if item.status is Status.NOT_CAPTURED}
    assert missing == {"replicas, resource groups, quotas", "bits: answers of b"}
    assert ledger["passwords"].status is ledger["index files"].status is Status.NOT_OFFERED
    report = room.restore("latest", target.url)
    assert report.plan.rung is Rung.REBUILD
    assert "auto: ids stay what they are, so Milvus won't make them any more (auto_id is off)" in report.plan.losses
    assert sum("all columns equal" in check for check in report.checks) == len(counts), report.checks
    assert min(report.recall.values()) > 0.5
    after = target.state()
    target.client.load_collection("auto")
    source.client.load_collection("auto")
    assert target.rows("auto", "_default") == source.rows("auto", "_default")
    same(after, before)
    given = {key(number): vector.tobytes() for number, vector in enumerate(vectors(ROWS)) if number not in (3, 5, ROWS - 3)}
    came = {one["id"]: np.asarray(one["v"], np.float32).tobytes() for part in after["docs"][1].values() for one in part}
    assert {one: came[one] for one in given} == given  # as they were given, not only as they came back
    assert room.restore("latest", target.url).already_there
    monkeypatch.setenv("STRONGROOM_MILVUS_SCRATCH", milvus.url)
    verified = room.verify("latest", level=Level.ANSWERS)
    assert not verified.findings, verified.findings
    assert verified.looked_at["rows"] == sum(counts.values())
    assert not [one for one in target.client.list_databases() if one.startswith("strongroom")]
