"""What does write-through capture cost a writer? Rows a second into FAISS, hnswlib, USearch and Qdrant Edge, bare and captured,
durable before each call returns and every 50 ms, while another process follows.

    python bench/capture.py [--rows 4000] [--flat-rows 30000] [--runs 3] [--no-follow | --paired] [--only LIBRARY]

384 float32 a row, 1 and 100 rows a call, one thread that writes. Bare and captured runs take turns; medians. The follower ships
into a repository on the same disk, and shares the machine's cores with the writer. CPU is that of the whole writing process, which
other load on the machine doesn't change.

With `--paired` nobody follows, and blocks of 25 calls into a bare and a captured index (every 50 ms) take turns in one process: CPU
microseconds a call of the thread that writes, and of all the others together. That can be told on the busiest machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import hnswlib
import numpy as np
import qdrant_edge
from rich.console import Console
from rich.table import Table
from usearch.index import Index

import strongroom
from backup import ENVIRONMENT, STRONGROOM
from sources import DIMENSION, Matrix, more_vectors, real_vectors

MODES = {"bare": None, "each call": 0.0, "every 50 ms": 50.0}
Add = Callable[[Any, Matrix, int], Any]


def flat(rows: int, place: str) -> Any:
    return faiss.IndexFlatL2(DIMENSION)


def graph(rows: int, place: str) -> Any:
    index = hnswlib.Index("l2", DIMENSION)
    index.init_index(rows, M=16, ef_construction=200)
    return index


def dense(rows: int, place: str) -> Any:
    return Index(ndim=DIMENSION, metric="l2sq", dtype="f32")


def shard(rows: int, place: str) -> Any:
    Path(place).mkdir()
    vectors = {"": qdrant_edge.EdgeVectorParams(size=DIMENSION, distance=qdrant_edge.Distance.Euclid)}
    return qdrant_edge.EdgeShard.create(place, qdrant_edge.EdgeConfig(vectors=vectors))


def upsert(index: Any, block: Matrix, first: int) -> None:
    """By the shard's own call, or by the one of its capture."""
    points = [qdrant_edge.Point(first + row, vector.tolist(), {"row": row}) for row, vector in enumerate(block)]
    if isinstance(index, qdrant_edge.EdgeShard):
        index.update(qdrant_edge.UpdateOperation.upsert_points(points))
    else:
        index.upsert_points(points)


LIBRARIES: dict[str, tuple[Callable[[int, str], Any], Add]] = {
    "faiss": (flat, lambda index, block, first: index.add(block)),
    "hnswlib": (graph, lambda index, block, first: index.add_items(block, np.arange(first, first + len(block)))),
    "usearch": (dense, lambda index, block, first: index.add(np.arange(first, first + len(block)), block)),
    "qdrant-edge": (shard, upsert),
}


def run(library: str, mode: str, vectors: Matrix, step: int, *, follow: bool) -> tuple[float, float]:
    """Rows a second, and a second of CPU."""
    make, add = LIBRARIES[library]
    every = MODES[mode]
    with tempfile.TemporaryDirectory() as place:
        index = make(len(vectors), f"{place}/x.index")
        if every is None:
            return timed(index, add, vectors, step)
        source, repo = f"{library}://{place}/x.index", f"{place}/repo"
        environment = {**ENVIRONMENT, "STRONGROOM_REPOSITORY": repo, "STRONGROOM_STATE_DIR": f"{place}/state"}
        captured = strongroom.capture(index, None, source, every_ms=every)
        follower = None
        if follow:
            subprocess.run([STRONGROOM, "init"], env=environment, check=True, stdout=subprocess.DEVNULL)
            command = [STRONGROOM, "journal", "follow", source, "--json"]
            follower = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            assert follower.stderr is not None  # noqa: S101 - a pipe
            while not follower.stderr.readline().startswith(b"stream"):
                pass
        try:
            return timed(captured, add, vectors, step)
        finally:
            captured.close()
            if follower is not None:
                follower.terminate()
                follower.wait()


def timed(index: Any, add: Add, vectors: Matrix, step: int) -> tuple[float, float]:
    began, used = time.perf_counter(), time.process_time()
    for first in range(0, len(vectors), step):
        add(index, vectors[first : first + step], first)
    return len(vectors) / (time.perf_counter() - began), len(vectors) / (time.process_time() - used)


def paired(library: str, vectors: Matrix, step: int) -> tuple[float, float, float]:
    """CPU microseconds of a call: bare, captured, and what other threads need for a captured one."""
    make, add = LIBRARIES[library]
    block, spent, began = 25 * step, [0.0, 0.0], (time.thread_time(), time.process_time())
    with tempfile.TemporaryDirectory() as place:
        bare, inner = make(len(vectors), f"{place}/bare.index"), make(len(vectors), f"{place}/x.index")
        with strongroom.capture(inner, None, f"{library}://{place}/x.index", every_ms=50.0) as captured:
            for number, first in enumerate(range(0, len(vectors), block)):
                for which in (number % 2, 1 - number % 2):
                    start = time.thread_time()
                    for at in range(first, min(first + block, len(vectors)), step):
                        add((bare, captured)[which], vectors[at : at + step], at)
                    spent[which] += time.thread_time() - start
    others = (time.process_time() - began[1]) - (time.thread_time() - began[0])
    calls = len(vectors) / step / 1e6
    return spent[0] / calls, spent[1] / calls, others / calls


def show_paired(vectors: Matrix, options: argparse.Namespace) -> None:
    """One row a call: with more, some libraries insert by threads of their own, whose CPU is nobody's."""
    shown = Table(title=f"CPU µs a call of one row, {os.cpu_count()} cores, medians of {options.runs}")
    for column in ("library", "bare", "captured", "other threads", "bare / captured", "with other threads"):
        shown.add_column(column, justify="right")
    for library in [options.only] if options.only else ("faiss", "hnswlib", "usearch"):
        rows = vectors[: options.flat_rows if library == "faiss" else options.rows]
        found = [paired(library, rows, 1) for _ in range(options.runs)]
        bare, captured, others = (statistics.median(values) for values in zip(*found, strict=True))
        shares = bare / captured, bare / (captured + others)
        shown.add_row(library, *(f"{one:.1f}" for one in (bare, captured, others)), *(f"{one:.2f}" for one in shares))
    Console(width=140).print(shown)


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--rows", type=int, default=4_000)
    asked.add_argument("--flat-rows", type=int, default=30_000)
    asked.add_argument("--runs", type=int, default=3)
    asked.add_argument("--no-follow", action="store_true")
    asked.add_argument("--paired", action="store_true")
    asked.add_argument("--only", choices=LIBRARIES)
    options = asked.parse_args()
    base, named = real_vectors()
    everything = more_vectors(base, max(options.rows, options.flat_rows), 1)
    if options.paired:
        show_paired(everything, options)
        return
    shown = Table(title=f"rows a second, {named}, {os.cpu_count()} cores, follower: {not options.no_follow}")
    for column in ("library", "rows a call", *MODES, "each call / bare", "every 50 ms / bare", "the same, of CPU"):
        shown.add_column(column, justify="right")
    for library in [options.only] if options.only else LIBRARIES:
        vectors = everything[: options.flat_rows if library == "faiss" else options.rows]
        for step in (1, 100):
            rates: dict[str, list[tuple[float, float]]] = {mode: [] for mode in MODES}
            for _ in range(options.runs):
                for mode in MODES:
                    rates[mode].append(run(library, mode, vectors, step, follow=not options.no_follow))
            median = {mode: statistics.median(rate for rate, _ in found) for mode, found in rates.items()}
            worked = {mode: statistics.median(rate for _, rate in found) for mode, found in rates.items()}
            shares = [median[mode] / median["bare"] for mode in ("each call", "every 50 ms")]
            shares.append(worked["every 50 ms"] / worked["bare"])
            shown.add_row(library, str(step), *(f"{median[mode]:,.0f}" for mode in MODES), *(f"{one:.2f}" for one in shares))
    Console(width=140).print(shown)


if __name__ == "__main__":
    main()
