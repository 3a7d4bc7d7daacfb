"""What does a database of very many small collections cost? `python bench/many_collections.py chroma|lancedb COUNT PLACE`

Each collection has 1 to 3 rows. They are made 500 at a time, since the client of Chroma takes 1 MB of memory for each of them; a
database that lies in PLACE/db is taken as it is. Prints the seconds and the peak memory (of this process and of its largest child)
of a backup, one more without a change, one after ten collections changed, an exact restore, and a verify of data."""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

DIMENSION = 8


def chroma(place: str, names: list[str], turn: int) -> None:
    import chromadb
    from chromadb.config import Settings

    client = chromadb.PersistentClient(place, Settings(anonymized_telemetry=False))
    for number, name in enumerate(names):
        rows = 1 + number % 3
        found = client.get_or_create_collection(name, embedding_function=None)
        vectors = np.eye(rows, DIMENSION, dtype=np.float32) + turn
        found.add(ids=[f"{turn}-{n}" for n in range(rows)], embeddings=vectors, documents=[name] * rows)


def lancedb(place: str, names: list[str], turn: int) -> None:
    import lancedb as lance
    import pyarrow as pa

    database = lance.connect(place)
    for number, name in enumerate(names):
        rows = 1 + number % 3
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.eye(rows, DIMENSION, dtype=np.float32).ravel() + turn), DIMENSION)
        data = pa.table({"id": [f"{turn}-{n}" for n in range(rows)], "vector": vectors, "document": [name] * rows})
        if turn:
            database.open_table(name).add(data)
        else:
            database.create_table(name, data)


def apart(function: Callable[..., Any], *arguments: Any) -> None:
    """In a process of its own."""
    child = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    child.start()
    child.join()
    if child.exitcode:
        raise SystemExit(f"{function.__name__} ended with {child.exitcode}")


def made(make: Callable[..., None], place: str, names: list[str]) -> int:
    for at in range(0, len(names), 500):
        apart(make, place, names[at : at + 500], 0)
    return len(names)


def measured(what: str, function: Callable[[], Any]) -> None:
    began, worked = time.monotonic(), time.process_time()
    found = function()
    peak = [resource.getrusage(who).ru_maxrss // 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    seconds, own = time.monotonic() - began, time.process_time() - worked
    print(
        f"{what:<12} {seconds:8.1f} s, {own:7.1f} s of it this process's; peak {peak[0]} MB, a child {peak[1]} MB  {found}",
        flush=True,
    )


def main(kind: str, count: int, place: Path) -> None:
    import strongroom
    from strongroom.repository import Argon2Cost

    names = [f"tenant-{number}" for number in range(count)]
    make = {"chroma": chroma, "lancedb": lancedb}[kind]
    room = strongroom.init(str(place / "repository"), password="x", cost=Argon2Cost(1, 1, 64))
    source = f"{kind}://{place}/db"
    if not (place / "db").exists():
        measured("making", lambda: made(make, str(place / "db"), names))
    measured("backup", lambda: room.backup(source).snapshot.manifest.rows)
    measured("unchanged", lambda: room.backup(source).snapshot.manifest.rows)
    apart(make, str(place / "db"), names[:: max(1, count // 10)], 1)
    measured("incremental", lambda: room.backup(source).snapshot.manifest.rows)
    measured("restore", lambda: len(room.restore("latest", f"{kind}://{place}/back", require_exact=True).checks))
    measured("verify", lambda: (len((report := room.verify("latest")).findings), report.looked_at))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
