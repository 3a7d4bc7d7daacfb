"""How is a captured index file written to and read in the proof of the journal? The same for FAISS, hnswlib and USearch."""

from __future__ import annotations

import hashlib
import random
import threading
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

import strongroom

DIMENSION, IDS = 24, 3_000


class IndexDatabase(ABC):
    """Captured if it is the source: what was restored is only read. Threads share ids, so that their order matters."""

    engine: str

    def __init__(self, place: str) -> None:
        path = Path(place)
        there = path.exists()
        self.index = self.load(place) if there else self.make()
        self.captured: Any = None
        self._rows = threading.Lock()
        if not there or path.with_name(path.name + ".oplog").exists():
            self.captured = strongroom.capture(self.index, None, f"{self.engine}://{place}", every_ms=20)

    @abstractmethod
    def make(self) -> Any:
        """An empty index."""

    @abstractmethod
    def load(self, place: str) -> Any: ...

    @abstractmethod
    def present(self) -> list[int]:
        """The ids of all rows, by the library itself."""

    @abstractmethod
    def vector(self, one: int) -> Any:
        """Of a row that is there."""

    @abstractmethod
    def put(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        """Insert or replace."""

    @abstractmethod
    def delete(self, ids: np.ndarray) -> None: ...

    def act(self, draw: random.Random, thread: int) -> int:
        count = draw.choice((1, 1, 3, 10, 40))
        ids = np.array(draw.sample(range(IDS), count), np.int64)
        vectors = np.random.default_rng(draw.getrandbits(32)).standard_normal((count, DIMENSION)).astype(np.float32)
        if draw.random() < 0.02:
            self.captured.save()
        with self._rows:  # what a thread found out of the rows holds until it has changed them
            if draw.random() < 0.7:
                with self.captured.batch(f"thread {thread}"):
                    self.put(ids, vectors)
            else:
                self.delete(ids[np.isin(ids, self.present())])
        return count

    def change_catalog(self, draw: random.Random) -> int:
        self.captured.save()
        return 0

    def read(self) -> dict[str, dict[str, Any]]:
        return {"index": {str(one): _print(vector) for one, vector in self.rows().items()}}

    def rows(self) -> dict[int, Any]:
        return {one: self.vector(one) for one in self.present()}


def _print(vector: Any) -> str:
    return hashlib.sha256(np.ascontiguousarray(vector, np.float32).tobytes()).hexdigest()[:24]
