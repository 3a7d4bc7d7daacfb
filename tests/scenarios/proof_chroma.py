"""How is Chroma written to and read in the proof of the journal?"""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
import proof_reader
from chromadb.config import Settings
from processes import apart

DIMENSION, IDS = 16, 2_000
NAMES = ("notes", "people")


class Chroma:
    def __init__(self, place: str, sync: int = 1_000_000) -> None:
        """The index is written every `sync` changes."""
        self._place, self._sync = place, sync
        self._client = chromadb.PersistentClient(place, Settings(anonymized_telemetry=False))
        self._catalog = threading.Lock()

    def prepare(self) -> None:
        for name in NAMES:
            configuration = {"hnsw": {"space": "l2", "sync_threshold": self._sync, "batch_size": 100}}
            self._client.get_or_create_collection(name, configuration=configuration, embedding_function=None)

    def act(self, draw: random.Random, thread: int) -> int:
        collection = self._client.get_collection(draw.choice(NAMES), embedding_function=None)
        count = draw.choice((1, 1, 3, 10, 40))
        ids = draw.sample([f"row {number}" for number in range(IDS)], count)
        vectors = np.random.default_rng(draw.getrandbits(32)).standard_normal((count, DIMENSION)).astype(np.float32)
        texts = [f"text {draw.getrandbits(30)} of {one}" for one in ids]
        notes = [{draw.choice(("colour", "size", "shape")): draw.choice((1, 2.5, "red", True))} for _ in ids]
        kind = draw.random()
        if kind < 0.55:
            collection.upsert(ids=ids, embeddings=vectors, documents=texts, metadatas=notes)
        elif kind < 0.65:
            collection.add(ids=ids, embeddings=vectors, documents=texts)
        elif kind < 0.75:
            collection.update(ids=ids, metadatas=notes)
        elif kind < 0.8:
            collection.update(ids=ids, documents=texts, embeddings=vectors)
        elif kind < 0.85:
            collection.update(ids=ids, embeddings=vectors)
        else:
            collection.delete(ids=ids)
        return count

    def change_catalog(self, draw: random.Random) -> int:
        """Never of the collections that others write to, but for their metadata."""
        with self._catalog:
            extras = [one for one in self._client.list_collections() if one.name not in NAMES]
            if len(extras) > 3:
                self._client.delete_collection(draw.choice(extras).name)
                return 1
            made = self._client.create_collection(f"extra-{draw.getrandbits(40)}", embedding_function=None)
            made.add(ids=["a", "b"], embeddings=np.eye(2, 4, dtype=np.float32), documents=["x", "y"])
            if extras and draw.random() < 0.5:
                extras[0].modify(name=f"renamed-{draw.getrandbits(40)}")
            return 3

    def settled(self) -> dict[str, dict[str, Any]]:
        """What Chroma reads when it opens the files as they are: what a process that writes from several threads has in memory was
        once seen to lack an update of a vector that its log and its later self have."""
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "db"
            subprocess.run([sys.executable, "-c", _COPYING, str(self._place), str(copy)], check=True)
            return apart(proof_reader.read, "chroma", str(copy))

    def read(self) -> dict[str, dict[str, Any]]:
        found = {}
        for collection in self._client.list_collections():
            opened = self._client.get_collection(collection.name, embedding_function=None)
            got = opened.get(include=["embeddings", "documents", "metadatas"])
            rows = zip(got["embeddings"], got["documents"], got["metadatas"], strict=True)
            prints = [[_print(vector), document, json.dumps(notes, sort_keys=True)] for vector, document, notes in rows]
            found[collection.name] = dict(zip(got["ids"], prints, strict=True))
        return found


_COPYING = """import sqlite3, subprocess, sys
with sqlite3.connect(f"{sys.argv[1]}/chroma.sqlite3", timeout=60) as connection:
    connection.execute("BEGIN IMMEDIATE")
    subprocess.run(["cp", "-r", *sys.argv[1:]], check=True)
    connection.rollback()"""
"""Under the lock, since a follower writes, too, and by processes of their own: whoever closes a file lets all its locks go."""


def _print(vector: Any) -> str:
    return hashlib.sha256(np.asarray(vector, np.float32).tobytes()).hexdigest()[:24]


def open_database(place: str) -> Chroma:
    opened = Chroma(place)
    opened.prepare()
    return opened
