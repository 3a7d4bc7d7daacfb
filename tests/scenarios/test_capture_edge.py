"""Is what is done to a captured shard of Qdrant Edge recorded, followed and restored, point by point, whoever is killed when?"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import qdrant_edge as qdrant
from commands import PASSWORD

from strongroom import capture
from strongroom.library import Strongroom, init_repository
from strongroom.operations.follow import FollowOptions
from strongroom.repository import Argon2Cost

ONCE = FollowOptions(once=True, probes=5)
UUIDS = [str(uuid.UUID(int=number << 64 | 7)) for number in range(1, 4)]


@pytest.fixture
def room(tmp_path: Path) -> Strongroom:
    return init_repository(str(tmp_path / "repo"), password=PASSWORD, cost=Argon2Cost(1, 1, 64))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shard"


def made(path: Path) -> Any:
    """A new shard with a dense vector that is scaled, another, and a sparse one."""
    path.mkdir()
    vectors = {
        "": qdrant.EdgeVectorParams(size=3, distance=qdrant.Distance.Cosine),
        "image": qdrant.EdgeVectorParams(size=2, distance=qdrant.Distance.Euclid),
    }
    return qdrant.EdgeShard.create(
        str(path), qdrant.EdgeConfig(vectors=vectors, sparse_vectors={"words": qdrant.EdgeSparseVectorParams()})
    )


def captured(path: Path, **options: Any) -> Any:
    shard = qdrant.EdgeShard.load(str(path)) if path.exists() else made(path)
    return capture(shard, None, f"qdrant-edge://{path}", **options)


def rows(shard: Any) -> dict[str, Any]:
    """All points, as the shard tells them."""
    found, _ = shard.scroll(qdrant.ScrollRequest(limit=10_000, with_payload=True, with_vector=True))
    return {str(one.id): (one.payload, {name: repr(vector) for name, vector in sorted(named(one.vector).items())}) for one in found}


def named(vector: Any) -> dict[str, Any]:
    """The default vector of a point that has no other is told without its name."""
    return vector if isinstance(vector, dict) else {"": vector}


def rows_at(path: Path) -> dict[str, Any]:
    shard = qdrant.EdgeShard.load(str(path))
    try:
        return rows(shard)
    finally:
        shard.close()


def point(one: Any, seed: int = 0, **payload: Any) -> Any:
    vectors = {"": [1.0, seed + 2.0, 3.0], "image": [seed, 0.5], "words": qdrant.SparseVector([seed], [1.5])}
    return qdrant.Point(one, vectors, payload or {"n": seed})


def number(value: int) -> Any:
    return qdrant.Filter(must=[qdrant.FieldCondition(key="n", match=qdrant.MatchValue(value))])


CALLS: dict[str, Callable[[Any], Any]] = {
    "new points": lambda shard: shard.upsert_points([point(7, 7), point((1 << 64) - 1, 8), point(UUIDS[0], 9)]),
    "one point twice in a call": lambda shard: shard.upsert_points([point(7, 1), point(7, 2)]),
    "points replaced": lambda shard: shard.upsert_points([qdrant.Point(1, {"image": [5, 5]}, None)]),
    "only where a filter says": lambda shard: shard.upsert_points([point(1, 5), point(2, 5)], condition=number(2)),
    "only new ones": lambda shard: shard.upsert_points(points=[point(1, 5), point(9, 5)], update_mode=qdrant.UpdateMode.InsertOnly),
    "deleted": lambda shard: shard.delete_points([1, 2, 99]),
    "deleted by filter": lambda shard: shard.delete_points_by_filter(number(2)),
    "vectors updated": lambda shard: shard.update_vectors([qdrant.PointVectors(1, {"image": [7, 7]})]),
    "vectors deleted": lambda shard: shard.delete_vectors([1, 2], ["image"]),
    "vectors deleted by filter": lambda shard: shard.delete_vectors_by_filter(number(1), [""]),
    "payload set": lambda shard: shard.set_payload([1, 2], {"a": {"b": [1, None]}}),
    "payload set at a key": lambda shard: shard.set_payload(point_ids=[1], payload={"x": 1}, key="deep"),
    "payload set by filter": lambda shard: shard.set_payload_by_filter(number(1), {"n": 2, "document": "text"}),
    "payload overwritten": lambda shard: shard.overwrite_payload([1], {"only": "ü\0"}),
    "payload overwritten by filter": lambda shard: shard.overwrite_payload_by_filter(number(2), {}),
    "payload deleted": lambda shard: shard.delete_payload([1], ["n"]),
    "payload deleted by filter": lambda shard: shard.delete_payload_by_filter(number(1), ["n"]),
    "payload cleared": lambda shard: shard.clear_payload([1, 2]),
    "payload cleared by filter": lambda shard: shard.clear_payload_by_filter(number(1)),
    "indexes made": lambda shard: (
        shard.create_field_index("n", qdrant.PayloadSchemaType.Integer),
        shard.create_field_index("text", qdrant.TextIndexParams(tokenizer=qdrant.TokenizerType.Word)),
        shard.delete_field_index("text"),
    ),
    "a text for an id": lambda shard: (
        shard.upsert_points([point("2c5ea4c0-4067-11e9-8bad-9b1deb4d3b7d", 4, strongroom_id="not its own")]),
        shard.set_payload([1], {"strongroom_id": "nor this"}),
    ),
}


def test_each_call_is_restored_as_it_was_before_and_after(room: Strongroom, path: Path, tmp_path: Path) -> None:
    """One stream, with a batch a call: the state before it and after it, as the shard itself told it."""
    shard = captured(path)
    url = f"qdrant-edge://{path}"
    room.follow(url, ONCE)
    states, expected = {}, {}
    for turn, (name, call) in enumerate(CALLS.items()):
        shard.delete_points([7, 9])
        shard.upsert_points([point(1, 1), point(2, 2), point(3, 3)])
        states[name] = rows(shard)
        with shard.batch(name):
            call(shard)
        expected[name] = rows(shard)
        assert expected[name] != states[name] or name == "indexes made", name
        if turn % 5 == 0:
            shard.flush()
    room.follow(url, ONCE)
    shard.close()
    names = list(CALLS)
    for place, name in enumerate(names[::3]):
        room.restore("latest", f"qdrant-edge://{tmp_path / f'before-{place}'}", at=f"before:{name}")
        assert rows_at(tmp_path / f"before-{place}") == states[name], name
    room.restore("latest", f"qdrant-edge://{tmp_path / 'last'}")
    assert rows_at(tmp_path / "last").keys() <= expected[names[-1]].keys() | states[names[0]].keys()
    status = room.journal_status(url)[0]
    assert (status.holes, status.problems, status.behind) == ((), (), 0) or not status.holes
