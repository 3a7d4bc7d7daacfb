"""How is a Chroma database written and read? In a process of its own: no journal can be followed from one that uses chromadb."""

from __future__ import annotations

from typing import Any

import numpy as np


def client(directory: str) -> Any:
    import chromadb
    from chromadb.config import Settings

    return chromadb.PersistentClient(directory, Settings(anonymized_telemetry=False))


def write(directory: str, steps: list[dict[str, Any]]) -> None:
    """Each step: `do` (create, drop, add, update, upsert, delete), `name`, and the arguments of the call."""
    opened = client(directory)
    for step in steps:
        do, name = step.pop("do"), step.pop("name", "docs")
        if do == "create":
            configuration = {"hnsw": {"space": step.get("space", "l2"), "sync_threshold": 100, "batch_size": 20}}
            opened.create_collection(name, configuration=configuration, embedding_function=None)
        elif do == "drop":
            opened.delete_collection(name)
        else:
            if "embeddings" in step:
                step["embeddings"] = np.array(step["embeddings"], np.float32)
            getattr(opened.get_collection(name, embedding_function=None), do)(**step)


def modify(directory: str, name: str, configuration: dict[str, Any]) -> None:
    client(directory).get_collection(name, embedding_function=None).modify(configuration=configuration)


def read(directory: str) -> dict[str, Any]:
    """Of each collection: vector, document and metadata by id."""
    found = {}
    opened = client(directory)
    for one in opened.list_collections():
        rows = opened.get_collection(one.name, embedding_function=None).get(include=["embeddings", "documents", "metadatas"])
        parts = zip(rows["embeddings"], rows["documents"], rows["metadatas"], strict=True)
        values = [(np.asarray(vector, np.float32).tolist(), document, payload) for vector, document, payload in parts]
        found[one.name] = dict(zip(rows["ids"], values, strict=True))
    return found
