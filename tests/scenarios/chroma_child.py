"""A process that has Chroma open: reads a JSON line {"run": statements} each and answers with {"value": what `answer` then is}.

`client` is there, and `write(name, ids, batch, seed)`, `rows()`. Nobody else may have chromadb in the process that follows.
"""

from __future__ import annotations

import json
import sys
import time

import chromadb
import numpy as np
from chromadb.config import Settings
from proof_chroma_purging import open_database

DIMENSION = 16


def main(place: str) -> None:
    client = chromadb.PersistentClient(place, Settings(anonymized_telemetry=False))
    reader = open_database(place)

    def write(name: str, ids: list[str], batch: str, seed: int = 0) -> None:
        vectors = np.random.default_rng([seed, len(ids)]).standard_normal((len(ids), DIMENSION)).astype(np.float32)
        documents, notes = [f"{batch} wrote {one}" for one in ids], [{"batch": batch}] * len(ids)
        client.get_collection(name, embedding_function=None).upsert(ids, vectors, notes, documents)

    scope = {"client": client, "write": write, "rows": reader.read, "time": time, "np": np}
    for line in sys.stdin:
        scope["answer"] = None
        exec(json.loads(line)["run"], scope)  # noqa: S102 - the test's own words
        print(json.dumps({"value": scope["answer"]}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
