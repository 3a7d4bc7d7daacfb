"""How is a Redis server written to and read in the proof of the journal? Hashes below a search index, by commands that say all.

What other commands leave is read back, and where nobody followed no moment lies in between: see `test_redis_journal.py`.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import redis

DIMENSION, IDS = 8, 2_000
PREFIX = "doc:"


class Redis:
    """`place` is host:port."""

    def __init__(self, place: str) -> None:
        host, _, port = place.rpartition(":")
        self.client: Any = redis.Redis(host=host, port=int(port), protocol=2)

    def prepare(self) -> None:
        """An index must be there before anybody follows."""
        vectors = f"VECTOR HNSW 6 TYPE FLOAT32 DIM {DIMENSION} DISTANCE_METRIC L2"
        self.client.execute_command(*f"FT.CREATE docs ON HASH PREFIX 1 {PREFIX} SCHEMA v {vectors} t TEXT".split())
        self.client.hset(f"{PREFIX}0", mapping={"v": np.zeros(DIMENSION, np.float32).tobytes(), "t": "first"})

    def act(self, draw: random.Random, thread: int) -> int:
        ids = draw.sample(range(IDS), draw.choice((1, 1, 3, 10, 40)))
        kind = draw.random()
        with self.client.pipeline(transaction=draw.random() < 0.5) as pipe:
            for one in ids:
                key = f"{PREFIX}{one}"
                if kind < 0.75:
                    text, colour = f"text {draw.getrandbits(30)}", f"c{draw.getrandbits(20)}"
                    pipe.hset(key, mapping={"v": _vector(draw).tobytes(), "t": text, "colour": colour})
                else:
                    pipe.delete(key)
            pipe.execute()
        return len(ids)

    def change_catalog(self, draw: random.Random) -> int:
        """What happens to indexes is a hole, tested elsewhere."""
        return self.act(draw, 0)

    def position(self) -> str:
        """Redis's stream has no times; where nobody follows, only its offsets tell when something was."""
        return str(self.client.info("replication")["master_repl_offset"])

    def read(self) -> dict[str, dict[str, Any]]:
        rows = {}
        for key in self.client.scan_iter(f"{PREFIX}*", count=1000):
            rows[key.decode()] = {name.decode(): value.hex() for name, value in self.client.hgetall(key).items()}
        return {"docs": {name: dict(sorted(row.items())) for name, row in rows.items()}}


def _vector(draw: random.Random) -> np.ndarray:
    return np.array([draw.uniform(-1, 1) for _ in range(DIMENSION)], np.float32)


def open_database(place: str) -> Redis:
    return Redis(place)
