"""What does LanceDB's own account of what changed save? A backup after 1 % of rows was appended, with it and with every row read.

    python bench/change_feed.py [--rows 200000] [--runs 3]

One table, one repository; appends and backups of both kinds take turns. Times are of whole processes, medians; `rows` is the part
that reads and compares rows, as the snapshot says. The source is in the page cache.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
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


def timed(place: Path, *arguments: str) -> tuple[float, dict[str, float]]:
    """Seconds of a backup, and what the snapshot says of them."""
    environment = {**ENVIRONMENT, "STRONGROOM_STATE_DIR": str(place / "state")}
    at = ["--json", "-r", str(place / "repo")]
    os.sync()
    started = time.perf_counter()
    command = [STRONGROOM, "backup", *at, f"lancedb://{place / 'db'}", *arguments]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    taken = time.perf_counter() - started
    shown = subprocess.run([STRONGROOM, "show", *at, "latest"], env=environment, check=True, capture_output=True)
    return taken, json.loads(shown.stdout)["seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="strongroom-feed-"))
    table, following, step = str(place / "db" / "rows.lance"), options.rows, options.rows // 100
    try:
        for first in range(0, options.rows, 20_000):
            lance.write_dataset(batch(first, min(20_000, options.rows - first)), table, mode="append" if first else "create")
        environment = {**ENVIRONMENT, "STRONGROOM_STATE_DIR": str(place / "state")}
        subprocess.run([STRONGROOM, "init", "-r", str(place / "repo")], env=environment, check=True, stdout=subprocess.DEVNULL)
        timed(place)
        results: dict[str, list[tuple[float, float]]] = {}
        for _ in range(options.runs):
            for name, arguments in (("change feed", ()), ("every row read", ("--reread",))):
                lance.write_dataset(batch(following, step), table, mode="append")
                following += step
                total, seconds = timed(place, *arguments)
                results.setdefault(name, []).append((total, seconds["rows"]))
    finally:
        shutil.rmtree(place)
    shown = Table("", "seconds", "of them rows", title=f"{options.rows:,} x {DIMENSION} float32, 1 % appended")
    for name, runs in results.items():
        shown.add_row(name, *(f"{statistics.median(column):.2f}" for column in zip(*runs, strict=True)))
    Console().print(shown)


if __name__ == "__main__":
    main()
