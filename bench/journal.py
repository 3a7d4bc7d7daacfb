"""What does following cost the writer, how much would be lost, and how long does it take to come back?

    python bench/journal.py [chroma|lancedb|pgvector|redis ...] [--seconds 20] [--runs 3] [--rate 2000] [--plot FILE]

Three questions for each engine, on one machine. The engine runs as its users run it: embedded ones in the writer's process, servers
on a free port of 127.0.0.1. Rows are 384 float32, a text and a number, 100 a call.
- *Write path*: rows a second of a writer that goes as fast as it can, without and with a follower; runs take turns, medians.
- *RPO*: at `--rate` rows a second, the longest time from an operation to when it was kept (`journal follow` says it).
- *RTO*: `restore --at` the last second, from a snapshot of the first third of the rows, against inserting all rows anew with the
  vectors at hand: a rebuild that has no encoder to run and no documents to read. Rebuilding from documents takes longer.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from backup import ENVIRONMENT, STRONGROOM
from journal_writers import ENGINES, Place

WRITER = str(Path(__file__).with_name("journal_writers.py"))


@dataclass
class Measured:
    """Of one engine. Rows a second, seconds."""

    bare: list[float] = field(default_factory=list)
    followed: list[float] = field(default_factory=list)
    rate: float = 0.0
    rpo: float = 0.0
    rto: float = 0.0
    rebuild: float = 0.0
    rows: int = 0
    operations: int = 0

    @property
    def share(self) -> float:
        return statistics.median(self.followed) / statistics.median(self.bare)


def write(place: Place, *, rows: int = 0, seconds: float = 0.0, rate: float = 0.0, first: int = 0) -> tuple[int, float]:
    """Rows that a process of its own wrote, and in how many seconds."""
    command = [sys.executable, WRITER, place.engine, place.address, str(first), str(rows), str(seconds), str(rate)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    count, taken = done.stdout.split()[-2:]
    return int(count), float(taken)


def strongroom(folder: Path, *arguments: str) -> list[str]:
    return [STRONGROOM, *arguments, "--repo", str(folder / "repo")]


def surroundings(folder: Path) -> dict[str, str]:
    return {**ENVIRONMENT, "STRONGROOM_STATE_DIR": str(folder / "state")}


def follow(folder: Path, place: Place) -> subprocess.Popen[str]:
    """A follower at work: its first snapshot is made."""
    command = strongroom(folder, "journal", "follow", place.url, "--json")
    process = subprocess.Popen(command, env=surroundings(folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stderr or ():
        if line.startswith("stream "):
            return process
    raise RuntimeError("the follower ended")


def stop(process: subprocess.Popen[str]) -> dict[str, float]:
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=300)
    if process.returncode:
        raise RuntimeError(err)
    report: dict[str, float] = json.loads(out)
    return report


def measure(engine: str, seconds: float, runs: int, rate: float) -> Measured:
    found = Measured()
    with ExitStack() as stack:
        open_place = stack.enter_context(ENGINES[engine].server())
        for number in range(runs):
            for followed in (False, True) if number % 2 else (True, False):
                with tempfile.TemporaryDirectory() as name:
                    folder = Path(name)
                    place = open_place(folder, f"run{number}{'with' if followed else 'bare'}")
                    write(place, rows=2_000)
                    subprocess.run(strongroom(folder, "init"), env=surroundings(folder), check=True, capture_output=True)
                    follower = follow(folder, place) if followed else None
                    count, taken = write(place, seconds=seconds, first=2_000)
                    (found.followed if followed else found.bare).append(count / taken)
                    if follower is not None:
                        stop(follower)
        with tempfile.TemporaryDirectory() as name:
            paced(Path(name), open_place(Path(name), "paced"), found, rate, seconds)
            source, target, anew = (open_place(Path(name), one) for one in ("paced", "back", "anew"))
            back(Path(name), source, target, anew, found)
    return found


def paced(folder: Path, place: Place, found: Measured, rate: float, seconds: float) -> None:
    """RPO at a given rate."""
    subprocess.run(strongroom(folder, "init"), env=surroundings(folder), check=True, capture_output=True)
    write(place, rows=int(rate * seconds / 2))
    follower = follow(folder, place)
    count, taken = write(place, seconds=seconds, rate=rate, first=int(rate * seconds / 2))
    report = stop(follower)
    found.rate, found.rpo = count / taken, report["worst_lag"]
    found.operations = int(report["operations"])
    found.rows = count + int(rate * seconds / 2)


def back(folder: Path, place: Place, target: Place, anew: Place, found: Measured) -> None:
    """RTO at the last second, and a rebuild."""
    status = subprocess.run(
        strongroom(folder, "journal", "status", "--no-ask", "--json"), env=surroundings(folder), check=True, capture_output=True
    )
    until = json.loads(status.stdout)[0]["until"]
    os.sync()
    started = time.perf_counter()
    command = strongroom(folder, "restore", "--at", until, target.url, "--source", place.url, "--quiet", "--json")
    subprocess.run(command, env=surroundings(folder), check=True, capture_output=True)
    found.rto = time.perf_counter() - started
    os.sync()
    started = time.perf_counter()
    write(anew, rows=found.rows)
    found.rebuild = time.perf_counter() - started


def plot(results: dict[str, Measured], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6))
    names = list(results)
    left.bar(names, [one.share for one in results.values()], color="#3b6ea5")
    left.axhline(0.95, color="#b3402a", linewidth=1)
    left.set(title="write path while followed (1 = not followed)", ylim=(0, 1.15))
    places = range(len(names))
    right.bar([one - 0.2 for one in places], [one.rto for one in results.values()], 0.4, label="restore --at", color="#3b6ea5")
    right.bar([one + 0.2 for one in places], [one.rebuild for one in results.values()], 0.4, label="rebuild", color="#b9b9b9")
    right.set(title="back after a loss, seconds", xticks=list(places), xticklabels=names)
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engines", nargs="*", metavar="engine")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--rate", type=float, default=2_000.0)
    parser.add_argument("--plot", type=Path)
    chosen = parser.parse_args()
    results = {}
    for engine in chosen.engines or ENGINES:
        results[engine] = measure(engine, chosen.seconds, chosen.runs, chosen.rate)
    table = Table(title=f"journal: {chosen.runs} interleaved runs of {chosen.seconds:.0f} s, {os.cpu_count()} cores")
    for column in (
        "engine",
        "rows/s bare",
        "rows/s followed",
        "share",
        "at rows/s",
        "RPO s",
        "rows",
        "operations",
        "RTO s",
        "rebuild s",
    ):
        table.add_column(column, justify="left" if column == "engine" else "right")
    for engine, one in results.items():
        speeds = [f"{statistics.median(one.bare):,.0f}", f"{statistics.median(one.followed):,.0f}", f"{one.share:.2f}"]
        rest = [
            f"{one.rate:,.0f}",
            f"{one.rpo:.1f}",
            f"{one.rows:,}",
            f"{one.operations:,}",
            f"{one.rto:.1f}",
            f"{one.rebuild:.1f}",
        ]
        table.add_row(engine, *speeds, *rest)
    Console(width=140).print(table)
    if chosen.plot:
        plot(results, chosen.plot)


if __name__ == "__main__":
    main()
