"""What does following LanceDB cost its writer, on a machine that does other things too?

    python bench/journal_lancedb.py [--slices 12] [--seconds 2] [--rate 2000]

Two tables of the same shape in two databases, of which one is followed all the time. One writer adds 100 rows of 384 float32 a
call, as fast as it can, to one and the other in turns of a few seconds, so that both meet the same load of the machine; each pair
of turns gives a share, told is their median. Then, by a new follower, the paced writer: rows a second as asked, and how late the
latest segment was stored. The follower's own CPU seconds are told beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa

from backup import ENVIRONMENT, STRONGROOM

DIMENSION, STEP = 384, 100
REST_SECONDS = 1.5
"""After each turn, so that what the follower has left to do falls into nobody's turn."""


class Writer:
    def __init__(self, folder: Path) -> None:
        self._table, self._count = f"{folder}/rows.lance", 0
        self._draw = np.random.default_rng(1)
        self.add()

    def add(self) -> None:
        numbers = range(self._count, self._count + STEP)
        vectors = pa.array(self._draw.standard_normal(STEP * DIMENSION, np.float32))
        rows = {
            "id": pa.array(numbers, pa.int64()),
            "vector": pa.FixedSizeListArray.from_arrays(vectors, DIMENSION),
            "text": [f"document number {number}" for number in numbers],
        }
        lance.write_dataset(pa.table(rows), self._table, mode="append" if self._count else "create")
        self._count += STEP

    def turn(self, seconds: float, rate: float = 0.0) -> float:
        """Rows a second."""
        began, first = time.perf_counter(), self._count
        while time.perf_counter() - began < seconds:
            self.add()
            if rate:
                time.sleep(max(0.0, began + (self._count - first) / rate - time.perf_counter()))
        return (self._count - first) / (time.perf_counter() - began)


def follow(folder: Path, database: Path) -> subprocess.Popen[str]:
    variables = {**ENVIRONMENT, "STRONGROOM_STATE_DIR": str(folder / "state"), "STRONGROOM_REPOSITORY": str(folder / "repo")}
    if not (folder / "repo").exists():
        subprocess.run([STRONGROOM, "init"], env=variables, check=True, capture_output=True)
    command = [STRONGROOM, "journal", "follow", f"lancedb://{database}", "--json"]
    process = subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stderr or ():
        if line.startswith("stream "):
            return process
    raise RuntimeError("the follower ended")


def cpu_seconds(process: subprocess.Popen[str]) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rate", type=float, default=2_000.0)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bare, followed = Writer(folder / "bare"), Writer(folder / "followed")
        follower = follow(folder, folder / "followed")
        shares, speeds = [], []
        for number in range(chosen.slices):
            pair = {}
            for writer in (bare, followed) if number % 2 else (followed, bare):
                pair[writer] = writer.turn(chosen.seconds)
                time.sleep(REST_SECONDS)
            shares.append(pair[followed] / pair[bare])
            speeds.append(pair[bare])
        follower.send_signal(signal.SIGTERM)
        follower.communicate(timeout=300)
        follower = follow(folder, folder / "followed")
        before = cpu_seconds(follower)
        rate = followed.turn(10 * chosen.seconds, chosen.rate)
        time.sleep(2 * REST_SECONDS)
        spent = cpu_seconds(follower) - before
        follower.send_signal(signal.SIGTERM)
        report = json.loads(follower.communicate(timeout=300)[0])
        low, middle, high = np.percentile(shares, [25, 50, 75])
        print(f"bare {statistics.median(speeds):,.0f} rows/s; followed {middle:.2f} of it (quartiles {low:.2f} to {high:.2f})")
        print(
            f"at {rate:,.0f} rows/s: the follower took {spent:.1f} s of CPU in {10 * chosen.seconds:.0f} s;"
            f" worst lag of {report['segments']} segments {report['worst_lag']:.1f} s, gaps {report['gaps']}"
        )


if __name__ == "__main__":
    main()
