"""What do LanceDB's and Chroma's own accounts of what changed save? A backup after 1 % of rows was appended, with it and with
every row read.

    python bench/change_feed.py [--rows 200000] [--chroma-rows 20000] [--runs 3]

One table or collection, one repository; appends and backups of both kinds take turns. Times are of whole processes, medians; `rows`
is the part that reads and compares rows, as the snapshot says. The source is in the page cache. Chroma keeps its log here, as its
users do who switch purging off; else it tells of what came since its index was last written.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
from chromadb.api.shared_system_client import SharedSystemClient
from rich.console import Console
from rich.table import Table

from backup import ENVIRONMENT, STRONGROOM
from sources import DIMENSION, more_vectors, real_vectors


def batch(first: int, count: int) -> pa.Table:
    """Rows of an id, a text and a vector of 384 float32."""
    vectors = more_vectors(real_vectors()[0], count, first).ravel()
    numbers = np.arange(first, first + count)
    columns = {"id": pa.array(numbers), "text": pa.array([f"document number {number}" for number in numbers])}
    return pa.table({**columns, "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors), DIMENSION)})


def append_lance(place: Path, first: int, count: int) -> None:
    table = str(place / "db" / "rows.lance")
    lance.write_dataset(batch(first, count), table, mode="append" if first else "create")


def append_chroma(place: Path, first: int, count: int) -> None:
    import chromadb

    directory = place / "db"
    collection = chromadb.PersistentClient(str(directory)).get_or_create_collection("rows", embedding_function=None)
    if not first:
        config = json.dumps({"automatically_purge": False, "_type": "EmbeddingsQueueConfigurationInternal"})
        with sqlite3.connect(directory / "chroma.sqlite3") as connection:
            connection.execute("UPDATE embeddings_queue_config SET config_json_str = ?", (config,))
        SharedSystemClient.clear_system_cache()
        collection = chromadb.PersistentClient(str(directory)).get_collection("rows", embedding_function=None)
    for start in range(first, first + count, 2_000):
        numbers = range(start, min(start + 2_000, first + count))
        vectors = more_vectors(real_vectors()[0], len(numbers), start)
        texts = [f"document number {number}: " + "words " * 40 for number in numbers]
        notes = [{"number": number, "even": number % 2 == 0} for number in numbers]
        collection.add([f"row-{number}" for number in numbers], vectors, notes, texts)


def timed(place: Path, engine: str, *arguments: str) -> tuple[float, dict[str, float]]:
    """Seconds of a backup, and what the snapshot says of them."""
    environment = {**ENVIRONMENT, "STRONGROOM_STATE_DIR": str(place / "state")}
    at = ["--json", "-r", str(place / "repo")]
    os.sync()
    started = time.perf_counter()
    command = [STRONGROOM, "backup", *at, f"{engine}://{place / 'db'}", *arguments]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    taken = time.perf_counter() - started
    shown = subprocess.run([STRONGROOM, "show", *at, "latest"], env=environment, check=True, capture_output=True)
    return taken, json.loads(shown.stdout)["seconds"]


def compare(engine: str, append: Callable[[Path, int, int], None], rows: int, runs: int) -> Table:
    """Backups of both kinds in turns."""
    place = Path(tempfile.mkdtemp(prefix="strongroom-feed-"))
    following, step = rows, rows // 100
    try:
        for first in range(0, rows, 20_000):
            append(place, first, min(20_000, rows - first))
        environment = {**ENVIRONMENT, "STRONGROOM_STATE_DIR": str(place / "state")}
        subprocess.run([STRONGROOM, "init", "-r", str(place / "repo")], env=environment, check=True, stdout=subprocess.DEVNULL)
        timed(place, engine)
        results: dict[str, list[tuple[float, float]]] = {}
        for _ in range(runs):
            for name, arguments in (("change feed", ()), ("every row read", ("--reread",))):
                append(place, following, step)
                following += step
                total, seconds = timed(place, engine, *arguments)
                results.setdefault(name, []).append((total, seconds["rows"]))
    finally:
        shutil.rmtree(place)
    shown = Table("", "seconds", "of them rows", title=f"{engine}: {rows:,} x {DIMENSION} float32, 1 % appended")
    for name, measured in results.items():
        shown.add_row(name, *(f"{statistics.median(column):.2f}" for column in zip(*measured, strict=True)))
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--chroma-rows", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    Console().print(compare("lancedb", append_lance, options.rows, options.runs))
    Console().print(compare("chroma", append_chroma, options.chroma_rows, options.runs))


if __name__ == "__main__":
    main()
