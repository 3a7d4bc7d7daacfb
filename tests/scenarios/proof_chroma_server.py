"""A captured client of a Chroma server in the proof of the journal. PLACE is PORT,LOG FOLDER: with a folder the writer captures."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Any

import chromadb
import numpy as np

import strongroom
from strongroom.engines.oplog.calls import end_of
from strongroom.engines.oplog.folder import OplogFolder

DIMENSION, IDS, MOST_COLLECTIONS = 8, 1_500, 4
HOME = "default_tenant/default_database"


class ChromaServer:
    """What is read is asked of the bare client; threads share ids and collections."""

    def __init__(self, place: str) -> None:
        port, _, self.log = place.partition(",")
        self.client = chromadb.HttpClient(host="127.0.0.1", port=int(port))
        self.url = f"chroma+http://127.0.0.1:{port}/{HOME}?log={self.log}"
        self._opening = threading.Lock()
        self._captured: Any = None

    @property
    def captured(self) -> Any:
        """Opened by who writes first: a reader captures nothing."""
        with self._opening:
            if self._captured is None:
                self._captured = strongroom.capture(self.client, None, self.url, every_ms=20)
                self._captured.get_or_create_collection("docs", embedding_function=None)
        return self._captured

    def act(self, draw: random.Random, thread: int) -> int:
        count = draw.choice((1, 3, 10, 40, 100))
        ids = [f"r{one}" for one in draw.sample(range(IDS), count)]
        docs = self.captured.get_collection("docs", embedding_function=None)
        vectors = np.random.default_rng(draw.getrandbits(32)).standard_normal((count, DIMENSION)).astype(np.float32)
        texts, tags = [f"text {draw.getrandbits(30)}" for _ in ids], [{f"k{draw.randrange(3)}": draw.getrandbits(20)} for _ in ids]
        kind = draw.random()
        with self.captured.batch(f"thread {thread}"):
            if kind < 0.5:
                docs.upsert(ids=ids, embeddings=vectors, documents=texts, metadatas=tags)
            elif kind < 0.6:
                docs.add(ids=ids, embeddings=vectors, metadatas=tags)
            elif kind < 0.75:
                docs.update(ids=ids, metadatas=tags)
            elif kind < 0.95:
                docs.delete(ids=ids)
            else:
                docs.delete(where={f"k{draw.randrange(3)}": {"$gt": (1 << 20) - (1 << 16)}})
        return count

    def change_catalog(self, draw: random.Random) -> int:
        names = [one.name for one in self.client.list_collections() if one.name != "docs"]
        if names and draw.random() < 0.5:
            self.captured.delete_collection(draw.choice(names))
        elif len(names) < MOST_COLLECTIONS:
            made = self.captured.get_or_create_collection(f"more-{draw.getrandbits(20)}", embedding_function=None)
            made.add(ids=["a", "b"], embeddings=np.ones((2, DIMENSION), np.float32), metadatas=[{"n": draw.random()}] * 2)
        return 1

    def position(self) -> str:
        """Calls end when they are recorded: the log says exactly what has happened."""
        folder = OplogFolder(Path(self.log), "the proof")
        log = folder.log_id()
        assert log is not None
        return end_of(folder, log).place

    def read(self) -> dict[str, dict[str, Any]]:
        found = {}
        for one in self.client.list_collections():
            held = one.get(include=["embeddings", "documents", "metadatas"])
            vectors = [np.asarray(vector, np.float32).tobytes().hex() for vector in held["embeddings"]]
            columns = zip(held["ids"], vectors, held["documents"], held["metadatas"], strict=True)
            found[one.name] = {row: [vector, text, sorted((tags or {}).items())] for row, vector, text, tags in columns}
        return found


open_database = ChromaServer
