"""Qdrant Edge in the proof of the journal: a captured shard. Threads share ids, so that their order matters."""

from __future__ import annotations

import random
import time
import uuid
from pathlib import Path
from typing import Any

import qdrant_edge as qdrant

import strongroom

DIMENSION, IDS = 16, 2_000
WAIT_SECONDS = 60


class Database:
    """Captured if it is the source: what was restored is only read."""

    def __init__(self, place: str) -> None:
        path = Path(place)
        there = path.exists()
        self.shard = opened(place) if there else made(path)
        self.captured: Any = None
        if not there or path.with_name(path.name + ".oplog").exists():
            self.captured = strongroom.capture(self.shard, None, f"qdrant-edge://{place}", every_ms=20)

    def act(self, draw: random.Random, thread: int) -> int:
        ids = [identity(one) for one in draw.sample(range(IDS), draw.choice((1, 1, 3, 10, 40)))]
        try:
            self._call(draw, ids, thread)
        except Exception as error:
            if "No point with id" not in str(error):  # it was changed as far as the first one that isn't there
                raise
        return len(ids)

    def _call(self, draw: random.Random, ids: list[Any], thread: int) -> None:
        chance = draw.random()
        with self.captured.batch(f"thread {thread}"):
            if chance < 0.55:
                self.captured.upsert_points([point(one, draw) for one in ids])
            elif chance < 0.7:
                self.captured.delete_points(ids)
            elif chance < 0.85:
                self.captured.set_payload(ids, {"seen": draw.getrandbits(20)})
            elif chance < 0.9:
                self.captured.delete_vectors(ids, ["image"])
            elif chance < 0.95:
                self.captured.clear_payload(ids)
            else:
                condition = qdrant.FieldCondition(key="n", match=qdrant.MatchValue(draw.randrange(50)))
                self.captured.set_payload_by_filter(qdrant.Filter(must=[condition]), {"n": draw.randrange(50)})

    def change_catalog(self, draw: random.Random) -> int:
        if draw.random() < 0.5:
            self.captured.optimize()
        self.captured.flush()
        return 0

    def read(self) -> dict[str, dict[str, Any]]:
        found: dict[str, Any] = {}
        offset = None
        while True:
            some, offset = self.shard.scroll(qdrant.ScrollRequest(limit=1_000, offset=offset, with_payload=True, with_vector=True))
            for one in some:
                vectors = one.vector if isinstance(one.vector, dict) else {"": one.vector}  # so it is where that is the only one
                found[str(one.id)] = [dict(sorted(one.payload.items())), dict(sorted(vectors.items()))]
            if offset is None:
                return {"shard": found}


def identity(number: int) -> Any:
    """Numbers to the highest, and UUIDs."""
    return (1 << 64) - 1 - number if number % 2 else str(uuid.UUID(int=number))


def point(one: Any, draw: random.Random) -> Any:
    vectors = {"": [draw.uniform(-1, 1) for _ in range(DIMENSION)], "image": [draw.uniform(-1, 1) for _ in range(4)]}
    return qdrant.Point(one, vectors, {"n": draw.randrange(50), "document": f"text {draw.getrandbits(30)}"})


def made(path: Path) -> Any:
    path.mkdir()
    vectors = {
        "": qdrant.EdgeVectorParams(size=DIMENSION, distance=qdrant.Distance.Cosine),
        "image": qdrant.EdgeVectorParams(size=4, distance=qdrant.Distance.Euclid),
    }
    return qdrant.EdgeShard.create(str(path), qdrant.EdgeConfig(vectors=vectors))


def opened(place: str) -> Any:
    """A backup may be copying the shard, whose owner was killed."""
    until = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            return qdrant.EdgeShard.load(place)
        except Exception as error:
            if "WouldBlock" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.05)


open_database = Database
