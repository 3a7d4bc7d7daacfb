"""What does write-through capture cost a writer? Rows a second into FAISS, hnswlib, USearch and Qdrant Edge, bare and captured,
durable before each call returns and every 50 ms, while another process follows.

    python bench/capture.py [--rows 4000] [--flat-rows 30000] [--runs 3] [--no-follow | --paired] [--held N] [--only LIBRARY]

384 float32 a row, 1 and 100 rows a call, one thread that writes. Bare and captured runs take turns; medians. The follower ships
into a repository on the same disk, and shares the machine's cores with the writer. CPU is that of the whole writing process, which
other load on the machine doesn't change.

With `--paired` nobody follows, and blocks of 25 calls into a bare and a captured index (every 50 ms) take turns in one process: CPU
microseconds a call of the thread that writes, and of all the others together. That can be told on the busiest machine.

With `--held N` the index of a graph (hnswlib, USearch) has N rows before it is captured: an insert costs the more the larger it is.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
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


def loaded(library: str, held: Path, room: int) -> Any:
    """An index with the rows of a file."""
    if library == "hnswlib":
        index = hnswlib.Index("l2", DIMENSION)
        index.load_index(str(held), max_elements=room)
        return index
    return Index.restore(held)


LIBRARIES: dict[str, tuple[Callable[[int, str], Any], Add]] = {
    "faiss": (flat, lambda index, block, first: index.add(block)),
    "hnswlib": (graph, lambda index, block, first: index.add_items(block, np.arange(first, first + len(block)))),
    "usearch": (dense, lambda index, block, first: index.add(np.arange(first, first + len(block)), block)),
    "qdrant-edge": (shard, upsert),
}


GRAPHS = ("hnswlib", "usearch")


def hold(library: str, rows: Matrix, place: Path) -> Path:
    """A file of an index of these rows."""
    make, _ = LIBRARIES[library]
    index, path = make(len(rows), ""), place / f"{library}.held"
    if library == "hnswlib":
        index.add_items(rows, np.arange(len(rows)))
        index.save_index(str(path))
    else:
        index.add(np.arange(len(rows)), rows)
        index.save(path)
    return path


def run(library: str, mode: str, vectors: Matrix, step: int, *, follow: bool, held: Path | None, first: int) -> tuple[float, float]:
    """Rows a second, and a second of CPU. The index has the rows of `held` already, which are `first`."""
    make, add = LIBRARIES[library]
    every = MODES[mode]
    with tempfile.TemporaryDirectory() as place:
        if held is not None:
            shutil.copyfile(held, f"{place}/x.index")
        index = loaded(library, held, first + len(vectors)) if held is not None else make(len(vectors), f"{place}/x.index")
        if every is None:
            return timed(index, add, vectors, step, first)
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
            return timed(captured, add, vectors, step, first)
        finally:
            captured.close()
            if follower is not None:
                follower.terminate()
                follower.wait()


def timed(index: Any, add: Add, vectors: Matrix, step: int, following: int) -> tuple[float, float]:
    began, used = time.perf_counter(), time.process_time()
    for first in range(0, len(vectors), step):
        add(index, vectors[first : first + step], following + first)
    return len(vectors) / (time.perf_counter() - began), len(vectors) / (time.process_time() - used)


def paired(library: str, vectors: Matrix, step: int, held: Path | None, following: int) -> tuple[float, float, float]:
    """CPU microseconds of a call: bare, captured, and what other threads need for a captured one."""
    make, add = LIBRARIES[library]
    block, spent = 25 * step, [0.0, 0.0]
    with tempfile.TemporaryDirectory() as place:
        if held is not None:
            shutil.copyfile(held, f"{place}/x.index")
            bare, inner = (loaded(library, held, following + len(vectors)) for _ in range(2))
        else:
            bare, inner = make(len(vectors), f"{place}/bare.index"), make(len(vectors), f"{place}/x.index")
        began = time.thread_time(), time.process_time()
        with strongroom.capture(inner, None, f"{library}://{place}/x.index", every_ms=50.0) as captured:
            for number, first in enumerate(range(0, len(vectors), block)):
                for which in (number % 2, 1 - number % 2):
                    start = time.thread_time()
                    for at in range(first, min(first + block, len(vectors)), step):
                        add((bare, captured)[which], vectors[at : at + step], following + at)
                    spent[which] += time.thread_time() - start
        others = (time.process_time() - began[1]) - (time.thread_time() - began[0])
    calls = len(vectors) / step / 1e6
    return spent[0] / calls, spent[1] / calls, others / calls


def measured(options: argparse.Namespace, known: Collection[str]) -> list[str]:
    """The libraries that are asked for."""
    chosen = [options.only] if options.only else [library for library in LIBRARIES if library in known]
    return [library for library in chosen if not options.held or library in GRAPHS]


def shared_out(library: str, vectors: Matrix, options: argparse.Namespace, place: Path) -> tuple[Matrix, Path | None]:
    """The rows to insert, and a file of an index with those before them."""
    rows = vectors[options.held :][: options.flat_rows if library == "faiss" else options.rows]
    return rows, hold(library, vectors[: options.held], place) if options.held else None


def show_paired(vectors: Matrix, options: argparse.Namespace) -> None:
    """One row a call: with more, some libraries insert by threads of their own, whose CPU is nobody's."""
    shown = Table(title=f"CPU µs a call of one row, {os.cpu_count()} cores, medians of {options.runs}")
    for column in ("library", "bare", "captured", "other threads", "bare / captured", "with other threads"):
        shown.add_column(column, justify="right")
    for library in measured(options, {"faiss", "hnswlib", "usearch"}):
        with tempfile.TemporaryDirectory() as place:
            rows, held = shared_out(library, vectors, options, Path(place))
            found = [paired(library, rows, 1, held, options.held) for _ in range(options.runs)]
        bare, captured, others = (statistics.median(values) for values in zip(*found, strict=True))
        shares = bare / captured, bare / (captured + others)
        shown.add_row(library, *(f"{one:.1f}" for one in (bare, captured, others)), *(f"{one:.2f}" for one in shares))
    Console(width=140).print(shown)


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--rows", type=int, default=4_000)
    asked.add_argument("--flat-rows", type=int, default=30_000)
    asked.add_argument("--runs", type=int, default=3)
    asked.add_argument("--held", type=int, default=0)
    asked.add_argument("--no-follow", action="store_true")
    asked.add_argument("--paired", action="store_true")
    asked.add_argument("--only", choices=LIBRARIES)
    options = asked.parse_args()
    base, named = real_vectors()
    everything = more_vectors(base, options.held + max(options.rows, options.flat_rows), 1)
    if options.paired:
        show_paired(everything, options)
        return
    shown = Table(title=f"rows a second, {named}, {os.cpu_count()} cores, follower: {not options.no_follow}")
    for column in ("library", "rows a call", *MODES, "each call / bare", "every 50 ms / bare", "the same, of CPU"):
        shown.add_column(column, justify="right")
    for library in measured(options, LIBRARIES):
        with tempfile.TemporaryDirectory() as place:
            vectors, held = shared_out(library, everything, options, Path(place))
            for step in (1, 100):
                shown.add_row(library, str(step), *compared(library, vectors, step, held, options))
    Console(width=140).print(shown)


def compared(library: str, vectors: Matrix, step: int, held: Path | None, options: argparse.Namespace) -> Iterator[str]:
    """Rows a second of each mode, and their shares of the bare rate."""
    rates: dict[str, list[tuple[float, float]]] = {mode: [] for mode in MODES}
    for _ in range(options.runs):
        for mode in MODES:
            rates[mode].append(run(library, mode, vectors, step, follow=not options.no_follow, held=held, first=options.held))
    median = {mode: statistics.median(rate for rate, _ in found) for mode, found in rates.items()}
    worked = {mode: statistics.median(rate for _, rate in found) for mode, found in rates.items()}
    yield from (f"{median[mode]:,.0f}" for mode in MODES)
    yield from (f"{median[mode] / median['bare']:.2f}" for mode in ("each call", "every 50 ms"))
    yield f"{worked['every 50 ms'] / worked['bare']:.2f}"


if __name__ == "__main__":
    main()
