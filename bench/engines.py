"""What does each engine cost: rows a second out and in, memory, and an exact restore beside a rebuild?

    python bench/engines.py [ENGINE ...] [--rows 20000] [--dimension 384] [--runs 3] [--json FILE] [--plot FILE]

Every engine of the conformance suite, filled as its own users do it: float32 vectors near 8 centres, a text and a number a row.
Servers run on free ports of 127.0.0.1. Runs take turns over the engines; medians, the command's whole time.
- *filled*: the engine's own client inserts all rows, vectors at hand: what a rebuild without Strongroom costs at least.
- *out*: a first backup into a new repository on this disk, encrypted; MB/s are those of the vectors. *again*: nothing has changed.
- *in*: the best restore that there is, verified; *rebuilt*: from the rows, where the best one is exact.
- *memory*: the most that the backup or the restore had resident, and its children (an embedded engine itself) beside it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from backup import ENVIRONMENT, STRONGROOM
from memory import Peak, watch

TESTS = Path(__file__).parent.parent / "tests"
AT_ONCE = 5_000


@dataclass(frozen=True, slots=True)
class Run:
    """One engine once. Seconds, and bytes of memory; `rebuilt` is 0 where the best restore is a rebuild."""

    engine: str
    filled: float
    out: float
    again: float
    into: float
    rebuilt: float
    exact: bool
    own: int
    children: int


def engines_of_the_suite() -> dict[str, Any]:
    """By name: how the engine's own client works. Needs RAW_ROWS and RAW_DIMENSION."""
    for folder in ("conformance", "servers"):
        sys.path.append(str(TESTS / folder))
    raw, servers = importlib.import_module("raw_engines"), importlib.import_module("raw_servers")
    return {**raw.RAW, **servers.SERVERS}


def fill(raw: Any, place: Path, rows: int) -> float:
    """Seconds in which the engine's own client inserts the rows."""
    apart = importlib.import_module("processes").apart
    began = time.perf_counter()
    for start in range(0, rows, AT_ONCE):
        apart(raw.make, raw.path(place), start, min(AT_ONCE, rows - start))
    return time.perf_counter() - began


def once(raw: Any, place: Path, rows: int, environment: dict[str, str]) -> Run:
    """Fill, back up twice, restore."""
    for name in ("source", "back", "anew"):
        (place / name).mkdir(parents=True)
    filled = fill(raw, place / "source", rows)
    subprocess.run([STRONGROOM, "init"], env=environment, check=True, stdout=subprocess.DEVNULL)

    def command(what: str, *words: str) -> Peak:
        return watch(what, 0, [STRONGROOM, *words, "--quiet"], environment)

    source = raw.url(place / "source")
    first, again = command("out", "backup", source), command("again", "backup", source)
    best = command("in", "restore", "latest", raw.url(place / "back"))
    anew = raw.url(place / "anew")
    rebuilt = command("rebuilt", "restore", "latest", anew, "--rung", "rebuild").seconds if raw.exact else 0.0
    own, children = max(first.own, best.own), max(first.children, best.children)
    return Run(
        raw.name,
        filled,
        first.seconds,
        again.seconds,
        best.seconds,
        rebuilt,
        raw.exact,
        own,
        children,
    )


def median(runs: Sequence[Run], name: str) -> float:
    return float(statistics.median(getattr(one, name) for one in runs))


def table(measured: dict[str, list[Run]], rows: int, dimension: int) -> Table:
    found = Table(title=f"{rows:,} rows x {dimension} float32, medians")
    for column in ("engine", "filled", "out", "rows/s", "MB/s", "again", "in", "rows/s", "rebuilt", "memory, children"):
        found.add_column(column, justify="left" if column == "engine" else "right")
    for engine, runs in measured.items():
        seconds = {name: median(runs, name) for name in ("filled", "out", "again", "into", "rebuilt")}
        found.add_row(
            engine,
            f"{seconds['filled']:.1f} s",
            f"{seconds['out']:.2f} s",
            f"{rows / seconds['out']:,.0f}",
            f"{rows * dimension * 4 / seconds['out'] / 1e6:.0f}",
            f"{seconds['again']:.2f} s",
            f"{seconds['into']:.2f} s{' exact' if runs[0].exact else ''}",
            f"{rows / seconds['into']:,.0f}",
            f"{seconds['rebuilt']:.2f} s" if seconds["rebuilt"] else "–",
            f"{median(runs, 'own') / 1e6:.0f} MB, {median(runs, 'children') / 1e6:.0f} MB",
        )
    return found


def plot(measured: dict[str, list[Run]], file: Path) -> None:
    """Seconds to have the rows back, on a logarithmic axis."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 0.55 * len(measured) + 1.6))
    for shift, name, label in (
        (0.27, "into", "restore"),
        (0, "rebuilt", "restore that rebuilds the index"),
        (-0.27, "filled", "own client, vectors at hand"),
    ):
        seconds = [median(runs, name) or float("nan") for runs in measured.values()]
        axes.barh([place + shift for place in range(len(measured))], seconds, 0.25, label=label)
    axes.set_yticks(range(len(measured)), [f"{engine}{' (exact)' if runs[0].exact else ''}" for engine, runs in measured.items()])
    axes.set_xscale("log")
    axes.set_xlabel("seconds until all rows are back")
    axes.legend()
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engines", nargs="*")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    asked = parser.parse_args()
    os.environ |= {"RAW_ROWS": str(asked.rows), "RAW_DIMENSION": str(asked.dimension), "OMP_NUM_THREADS": "1"}
    known = engines_of_the_suite()
    measured: dict[str, list[Run]] = {name: [] for name in asked.engines or known}
    running = importlib.import_module("raw_servers").RUNNING
    for number in range(asked.runs):
        for name, runs in measured.items():
            with tempfile.TemporaryDirectory(prefix="bench-engines-") as folder:
                place = Path(folder)
                repository = {"STRONGROOM_REPOSITORY": str(place / "repo"), "STRONGROOM_STATE_DIR": str(place / "state")}
                try:
                    runs.append(once(known[name], place / "places", asked.rows, {**ENVIRONMENT, **repository}))
                finally:
                    running.stop()
            Console(stderr=True).print(f"run {number + 1}: {runs[-1]}")
    Console(width=140).print(table(measured, asked.rows, asked.dimension))
    if asked.json:
        asked.json.write_text(json.dumps([asdict(one) for runs in measured.values() for one in runs], indent=1))
    if asked.plot:
        plot(measured, asked.plot)


if __name__ == "__main__":
    main()
