"""USearch in the proof of the journal."""

from __future__ import annotations

from typing import Any

import numpy as np
from proof_index import DIMENSION, IndexDatabase
from usearch.index import Index


class Database(IndexDatabase):
    engine = "usearch"

    def make(self) -> Any:
        return Index(ndim=DIMENSION, metric="l2sq", connectivity=8)

    def load(self, place: str) -> Any:
        return Index.restore(place)

    def present(self) -> list[int]:
        return [int(one) for one in self.index.keys]

    def vector(self, one: int) -> Any:
        return self.index.get(one)

    def put(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        self.delete(ids[np.isin(ids, self.present())])
        self.captured.add(ids, vectors)

    def delete(self, ids: np.ndarray) -> None:
        if len(ids):
            self.captured.remove(ids)


open_database = Database
