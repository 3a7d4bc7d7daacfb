"""hnswlib in the proof of the journal: deleted labels come back, and their slots are given to others."""

from __future__ import annotations

from typing import Any

import hnswlib
import numpy as np
from proof_index import DIMENSION, IDS, IndexDatabase


class Database(IndexDatabase):
    engine = "hnswlib"

    def make(self) -> Any:
        index = hnswlib.Index("l2", DIMENSION)
        index.init_index(IDS, M=8, ef_construction=40, allow_replace_deleted=True)
        return index

    def load(self, place: str) -> Any:
        index = hnswlib.Index("l2", DIMENSION)
        index.load_index(place, max_elements=2 * IDS, allow_replace_deleted=True)
        return index

    def present(self) -> list[int]:
        return [one for one in self.index.get_ids_list() if self._lives(one)]

    def _lives(self, one: int) -> bool:
        try:
            self.index.get_items([one])
        except RuntimeError:
            return False
        return True

    def vector(self, one: int) -> Any:
        return self.index.get_items([one])[0]

    def put(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        known = set(self.index.get_ids_list())
        for one in known & set(ids.tolist()):
            if not self._lives(one):
                self.captured.unmark_deleted(one)
        fresh = np.array([one not in known for one in ids.tolist()])
        if fresh.any():
            self.captured.add_items(vectors[fresh], ids[fresh], replace_deleted=bool(ids[0] % 2))
        if not fresh.all():
            self.captured.add_items(vectors[~fresh], ids[~fresh])

    def delete(self, ids: np.ndarray) -> None:
        for one in ids.tolist():
            self.captured.mark_deleted(one)


open_database = Database
