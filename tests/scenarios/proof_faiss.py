"""FAISS in the proof of the journal: inverted lists with ids of their own."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
from proof_index import DIMENSION, IndexDatabase


class Database(IndexDatabase):
    engine = "faiss"

    def make(self) -> Any:
        index = faiss.index_factory(DIMENSION, "IVF8,Flat")
        index.train(np.random.default_rng(0).standard_normal((1_000, DIMENSION)).astype(np.float32))
        return index

    def load(self, place: str) -> Any:
        return faiss.read_index(place)

    def present(self) -> list[int]:
        return list(self.rows())

    def vector(self, one: int) -> Any:
        return self.rows()[one]

    def rows(self) -> dict[int, Any]:
        found = {}
        lists = self.index.invlists
        for number in range(lists.nlist):
            if size := lists.list_size(number):
                ids = faiss.rev_swig_ptr(lists.get_ids(number), size)
                codes = faiss.rev_swig_ptr(lists.get_codes(number), size * lists.code_size)
                found.update(zip(ids.tolist(), codes.copy().view(np.float32).reshape(size, -1), strict=True))
        return found

    def put(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        self.delete(ids[np.isin(ids, self.present())])
        self.captured.add_with_ids(vectors, ids)

    def delete(self, ids: np.ndarray) -> None:
        self.captured.remove_ids(ids)


open_database = Database
