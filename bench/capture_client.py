"""What does write-through capture cost the writer of a Chroma server? Rows a second through chromadb's HTTP client, bare and
captured, durable before each call returns and every 50 ms, while another process follows.

    python bench/capture_client.py [--rows 3000] [--runs 3] [--no-follow]

384 float32 a row with a document, 1 and 100 rows an upsert, half of them new, one thread that writes. A server of its own on this
machine (`chroma run`); bare and captured runs take turns, each into a new collection; medians.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
from rich.console import Console
from rich.table import Table

import strongroom
from backup import ENVIRONMENT, STRONGROOM
from capture import MODES
from sources import DIMENSION, Matrix

HOME = "default_tenant/default_database"


@contextmanager
def server(folder: str) -> Iterator[int]:
    """The port of a new server."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = int(taken.getsockname()[1])
    words = [str(Path(sys.executable).with_name("chroma"))]
    if not Path(words[0]).exists():
        words = [sys.executable, "-c", "from chromadb.cli.cli import app; app()"]
    words += ["run", "--path", f"{folder}/data", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with suppress(ValueError, OSError):
                chromadb.HttpClient(host="127.0.0.1", port=port).heartbeat()
                break
            time.sleep(0.1)
        yield port
    finally:
        process.kill()
        process.wait()


def run(mode: str, vectors: Matrix, step: int, *, follow: bool) -> float:
    """Rows a second."""
    every = MODES[mode]
    with tempfile.TemporaryDirectory() as place, server(place) as port:
        os.environ["STRONGROOM_STATE_DIR"] = f"{place}/state"
        client: Any = chromadb.HttpClient(host="127.0.0.1", port=port)
        if every is None:
            return timed(client, vectors, step)
        source = f"chroma+http://127.0.0.1:{port}/{HOME}"
        captured = strongroom.capture(client, None, source, every_ms=every)
        follower = _follower(captured, source, place) if follow else None
        try:
            return timed(captured, vectors, step)
        finally:
            captured.close()
            if follower is not None:
                follower.terminate()
                follower.wait()


def _follower(captured: Any, source: str, place: str) -> subprocess.Popen[bytes]:
    environment = {**ENVIRONMENT, "STRONGROOM_REPOSITORY": f"{place}/repo", "STRONGROOM_STATE_DIR": f"{place}/state"}
    first = captured.create_collection("first", embedding_function=None)
    first.add(ids=["a"], embeddings=[[1.0, 2.0]])  # a snapshot must have a row
    subprocess.run([STRONGROOM, "init"], env=environment, check=True, stdout=subprocess.DEVNULL)
    follower = subprocess.Popen(
        [STRONGROOM, "journal", "follow", source, "--json"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert follower.stderr is not None  # noqa: S101 - a pipe
    while not follower.stderr.readline().startswith(b"stream"):
        pass
    return follower


def timed(client: Any, vectors: Matrix, step: int) -> float:
    collection = client.create_collection("docs", embedding_function=None)
    count, half = len(vectors), len(vectors) // 2
    began = time.perf_counter()
    for first in range(0, count, step):
        numbers = [number % half for number in range(first, min(first + step, count))]
        some = vectors[first : first + step]
        collection.upsert(
            ids=[f"row {number}" for number in numbers], embeddings=some, documents=[f"some text {number}" for number in numbers]
        )
    return count / (time.perf_counter() - began)


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--rows", type=int, default=3_000)
    asked.add_argument("--runs", type=int, default=3)
    asked.add_argument("--no-follow", action="store_true")
    options = asked.parse_args()
    vectors = np.random.default_rng(1).standard_normal((options.rows, DIMENSION)).astype(np.float32)
    shown = Table(title=f"rows a second into a Chroma server, {os.cpu_count()} cores, follower: {not options.no_follow}")
    for column in ("rows a call", *MODES, "each call / bare", "every 50 ms / bare"):
        shown.add_column(column, justify="right")
    for step in (1, 100):
        rows = vectors[: max(step, len(vectors) // 10)] if step == 1 else vectors
        rates: dict[str, list[float]] = {mode: [] for mode in MODES}
        for _ in range(options.runs):
            for mode in MODES:
                rates[mode].append(run(mode, rows, step, follow=not options.no_follow))
        median = {mode: statistics.median(found) for mode, found in rates.items()}
        shares = [median[mode] / median["bare"] for mode in ("each call", "every 50 ms")]
        shown.add_row(str(step), *(f"{median[mode]:,.0f}" for mode in MODES), *(f"{one:.2f}" for one in shares))
    Console(width=140).print(shown)


if __name__ == "__main__":
    main()
