"""What only a shard of Qdrant Edge has: all kinds of vectors and ids, a log of its own, payload indexes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import qdrant_edge as qdrant

import strongroom
from strongroom.engines.qdrant.conversion import point_id, row_id
from strongroom.errors import Locked, NotFound, Unreadable
from strongroom.model import Status
from strongroom.repository import Argon2Cost

MAX = (1 << 64) - 1
UUIDS = [str(uuid.UUID(int=number << 64 | 7)) for number in (1, 2)]


@pytest.fixture
def room(tmp_path: Path) -> strongroom.Strongroom:
    return strongroom.init(str(tmp_path / "repository"), password="x", cost=Argon2Cost(1, 1, 64))


def rich(path: Path) -> Any:
    """A shard with each kind of vector, index and id."""
    path.mkdir()
    multi = qdrant.MultiVectorConfig(qdrant.MultiVectorComparator.MaxSim)
    size = qdrant.EdgeVectorParams
    config = qdrant.EdgeConfig(
        vectors={
            "": size(size=4, distance=qdrant.Distance.Cosine),
            "half": size(size=3, distance=qdrant.Distance.Dot, datatype=qdrant.VectorStorageDatatype.Float16),
            "bytes": size(size=2, distance=qdrant.Distance.Euclid, datatype=qdrant.VectorStorageDatatype.Uint8),
            "id": size(size=2, distance=qdrant.Distance.Manhattan),
            "many": size(size=2, distance=qdrant.Distance.Dot, multivector_config=multi),
        },
        sparse_vectors={"words": qdrant.EdgeSparseVectorParams(modifier=qdrant.Modifier.Idf)},
        hnsw_config=qdrant.HnswIndexConfig(m=8, ef_construct=50, full_scan_threshold=10),
        quantization_config=qdrant.ScalarQuantizationConfig(qdrant.ScalarType.Int8),
    )
    shard = qdrant.EdgeShard.create(str(path), config)
    operations = qdrant.UpdateOperation
    text = qdrant.TextIndexParams(tokenizer=qdrant.TokenizerType.Word, lowercase=True)
    shard.update(operations.create_field_index("text", text))
    shard.update(operations.create_field_index("place.x", qdrant.PayloadSchemaType.Float))
    shard.update(operations.create_field_index("tenant", qdrant.KeywordIndexParams(is_tenant=True)))
    every = {"": [1, 2, 3, 4], "half": [0.1, 2, 3], "bytes": [1, 255], "id": [1, 2], "many": [[1, 2], [3, 4]]}
    every["words"] = qdrant.SparseVector([1, 70_000], [0.5, -0.25])
    payload = {"text": "Ünïcode\0 text", "place": {"x": 1.5}, "n": [1, None, {"deep": MAX}], "document": "a text", "uri": 7}
    points = [
        qdrant.Point(MAX, every, payload),
        qdrant.Point(0, {"half": [1, 1, 1]}, {"document": ["no text"]}),
        qdrant.Point(UUIDS[0], {}, {"tenant": "t"}),
        qdrant.Point(UUIDS[1], {"words": qdrant.SparseVector([], [])}, None),
    ]
    shard.update(operations.upsert_points(points))
    return shard


def told(path: Path) -> dict[str, Any]:
    """All that the engine itself says of a shard."""
    shard = qdrant.EdgeShard.load(str(path))
    found, _ = shard.scroll(qdrant.ScrollRequest(limit=1_000, with_payload=True, with_vector=True))
    points = {str(one.id): (repr(one), one.payload) for one in found}
    schema = {key: (str(one.data_type), one.points) for key, one in shard.info().payload_schema.items()}
    shard.close()
    return {"points": points, "schema": schema, "config": json.loads((path / "edge_config.json").read_bytes())}


def named(vector: Any) -> dict[str, Any]:
    """The default vector of a point that has no other is told without its name."""
    return vector if isinstance(vector, dict) else {"": vector}


def sorted_vectors(path: Path) -> dict[str, dict[str, Any]]:
    shard = qdrant.EdgeShard.load(str(path))
    found, _ = shard.scroll(qdrant.ScrollRequest(limit=1_000, with_payload=True, with_vector=True))
    shard.close()
    return {
        str(one.id): {
            "payload": one.payload,
            **{name: repr(vector) for name, vector in sorted(named(one.vector).items())},
        }
        for one in found
    }


def test_all_that_a_shard_has_comes_back(room: strongroom.Strongroom, tmp_path: Path) -> None:
    shard = rich(tmp_path / "shard")
    shard.flush()
    shard.close()
    snapshot = room.backup(f"qdrant-edge://{tmp_path / 'shard'}").snapshot
    for rung in (strongroom.Rung.EXACT, strongroom.Rung.REBUILD):
        room.restore(snapshot.id, f"qdrant-edge://{tmp_path / rung.name}", rung=rung)
        files = [one.stat() for one in (tmp_path / rung.name).rglob("*") if one.is_file()]
        assert sum(512 * one.st_blocks for one in files) < sum(one.st_size for one in files) / 4, "holes are holes again"
        assert sorted_vectors(tmp_path / rung.name) == sorted_vectors(tmp_path / "shard")
        assert told(tmp_path / rung.name)["schema"] == told(tmp_path / "shard")["schema"]
    assert told(tmp_path / "EXACT")["config"] == told(tmp_path / "shard")["config"]
    (record,) = snapshot.manifest.collections
    fields = {one.name: (one.dtype, one.dimension, one.metric) for one in record.catalog.fields}
    assert fields == {
        "vector": ("float32", 4, "cosine"),
        "half": ("float16", 3, "ip"),
        "bytes": ("uint8", 2, "l2"),
        "id": ("float32", 2, "l1"),
    }
    assert record.catalog.fields[0].index["m"] == 8
    missing = [item for item in snapshot.manifest.ledger if item.status is Status.NOT_CAPTURED]
    assert "many, words" in missing[0].note


def test_what_a_killed_process_had_not_flushed_is_in_the_snapshot(room: strongroom.Strongroom, tmp_path: Path) -> None:
    code = f"""
        import os, signal, qdrant_edge as qdrant
        vectors = {{"": qdrant.EdgeVectorParams(size=4, distance=qdrant.Distance.Dot)}}
        os.mkdir({str(tmp_path / "shard")!r})
        shard = qdrant.EdgeShard.create({str(tmp_path / "shard")!r}, qdrant.EdgeConfig(vectors=vectors))
        for one in range(50):
            shard.update(qdrant.UpdateOperation.upsert_points([qdrant.Point(one, [one, 1, 2, 3], {{"n": one}})]))
        shard.update(qdrant.UpdateOperation.delete_points([7]))
        os.kill(os.getpid(), signal.SIGKILL)
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False).returncode == -signal.SIGKILL
    snapshot = room.backup(f"qdrant-edge://{tmp_path / 'shard'}").snapshot
    assert snapshot.manifest.collections[0].count == 49
    room.restore(snapshot.id, f"qdrant-edge://{tmp_path / 'back'}", require_exact=True)
    assert told(tmp_path / "back") == told(tmp_path / "shard")


def test_a_shard_that_somebody_has_open_is_said_so(room: strongroom.Strongroom, tmp_path: Path) -> None:
    shard = rich(tmp_path / "shard")
    with pytest.raises(Locked, match="another process"):
        room.backup(f"qdrant-edge://{tmp_path / 'shard'}")
    shard.close()
    room.backup(f"qdrant-edge://{tmp_path / 'shard'}")
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith(".")] == []


def test_what_is_no_shard_is_said_so(room: strongroom.Strongroom, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        room.backup(f"qdrant-edge://{tmp_path / 'nothing'}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(Unreadable):
        room.backup(f"qdrant-edge://{tmp_path / 'empty'}")
    shard = rich(tmp_path / "shard")
    shard.close()
    for config in (tmp_path / "shard" / "segments").glob("*/segment.json"):
        config.write_bytes(b"{")
    with pytest.raises(Unreadable, match="can't open"):
        room.backup(f"qdrant-edge://{tmp_path / 'shard'}")


def test_vectors_of_a_large_shard_are_stored_once(room: strongroom.Strongroom, tmp_path: Path) -> None:
    """2.6 MB of vectors, which lie in the rows and in the files of the segments, and as text in the shard's log."""
    path = tmp_path / "shard"
    path.mkdir()
    vectors = {"": qdrant.EdgeVectorParams(size=128, distance=qdrant.Distance.Euclid)}
    shard = qdrant.EdgeShard.create(str(path), qdrant.EdgeConfig(vectors=vectors))
    numbers = np.random.default_rng(1).standard_normal((5_000, 128)).astype(np.float32)
    for start in range(0, 5_000, 500):
        points = [qdrant.Point(one, numbers[one].tolist(), {}) for one in range(start, start + 500)]
        shard.update(qdrant.UpdateOperation.upsert_points(points))
    shard.optimize()
    shard.flush()
    shard.close()
    snapshot = room.backup(f"qdrant-edge://{path}").snapshot.manifest
    assert snapshot.stored_bytes < 2 * numbers.nbytes


@pytest.mark.parametrize("text", ["0", str(MAX), UUIDS[0], "thing-1", "", "007", "+5", str(MAX + 1), UUIDS[0].upper(), "ü\0", "٣"])
def test_any_text_is_an_id(text: str) -> None:
    point = point_id(text)
    payload = {} if str(point) == text else {"strongroom_id": text}
    assert qdrant.Point(point, [1.0], payload).id is not None
    assert row_id(point, payload) == text
    assert payload == {}


def test_rows_of_a_crowd_of_ids_go_there_and_back(room: strongroom.Strongroom, tmp_path: Path) -> None:
    """Into an index file and back: numbers, UUIDs and documents are what they were."""
    path = tmp_path / "shard"
    path.mkdir()
    config = qdrant.EdgeConfig(vectors={"image": qdrant.EdgeVectorParams(size=4, distance=qdrant.Distance.Euclid)})
    shard = qdrant.EdgeShard.create(str(path), config)
    ids: list[Any] = [MAX, 3, *UUIDS]
    points = [qdrant.Point(one, {"image": [n, 1, 2, 3]}, {"document": f"d{n}", "k": {"n": n}}) for n, one in enumerate(ids)]
    shard.update(qdrant.UpdateOperation.upsert_points(points))
    shard.close()
    first = room.backup(f"qdrant-edge://{path}").snapshot
    room.restore(first.id, f"lancedb://{tmp_path / 'lance'}")
    second = room.backup(f"lancedb://{tmp_path / 'lance'}").snapshot
    room.restore(second.id, f"qdrant-edge://{tmp_path / 'back'}")
    assert sorted_vectors(tmp_path / "back") == sorted_vectors(path)
