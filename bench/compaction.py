"""Does a long line of snapshots stay quick to restore? Simulated: a year of 15-minute snapshots of a small collection, and a
thousand of a larger one, each after some updates, inserts and deletes. What is plotted: segments, dead rows, seconds of a snapshot
and of reading all rows back.

    python bench/compaction.py [--small 35000] [--large 1000] [--json FILE] [--plot FILE.png]

Only the rows plane, in one process, with the repository in memory: no engine, no index files, no probes, and one session of writing
for a hundred snapshots (what opening one costs with any number of snapshots is for bench/many_snapshots.py to say). Every hundredth
snapshot is read back whole and compared.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.progress import track
from rich.table import Table

from strongroom.model import ROLE, Collection, Field, Role, RowBlock
from strongroom.operations.restore.rows import stored_rows
from strongroom.repository import Argon2Cost, Repository, Secret, open_store
from strongroom.snapshots.fingerprints import Fingerprinter
from strongroom.snapshots.known import KnownRows, KnownWriter
from strongroom.snapshots.manifest import StoredCollection, encode_schema
from strongroom.snapshots.rows_writer import RowsWriter

BLOCK_ROWS = 4096
LOOKED_AT = 100


@dataclass(frozen=True, slots=True)
class Workload:
    """A collection and what happens to it between two snapshots."""

    name: str
    rows: int
    dimension: int
    updated: int
    moved: int  # as many are inserted as are deleted


@dataclass(frozen=True, slots=True)
class Point:
    """One snapshot: what it consists of, and what it took."""

    snapshot: int
    segments: int
    blocks: int
    dead: int
    written_bytes: int
    backup: float
    read: float


class Rows:
    """The collection as its engine holds it: a slot a row, deleted rows' slots are used again by the last rows."""

    def __init__(self, workload: Workload) -> None:
        self._draw = np.random.default_rng(5)
        self._workload = workload
        self.ids = np.arange(workload.rows)
        self.vectors = self._fresh(workload.rows)
        self.texts = np.array([f"document {one}, version 0" for one in self.ids], object)
        self._next = workload.rows

    def change(self, version: int) -> None:
        """Updates, deletes and inserts."""
        load = self._workload
        at = self._draw.choice(len(self.ids), load.updated, replace=False)
        self.vectors[at] = self._fresh(load.updated)
        self.texts[at] = [f"document {self.ids[one]}, version {version}" for one in at]
        gone = self._draw.choice(len(self.ids), load.moved, replace=False)
        kept = np.setdiff1d(np.arange(len(self.ids)), gone)
        last = kept[len(kept) - len(gone) :] if len(gone) else kept[:0]
        order = np.arange(len(self.ids))
        free = np.sort(gone)[: len(last)]
        order[free] = last[: len(free)]
        order = order[: len(kept)] if len(np.unique(order[: len(kept)])) == len(kept) else kept
        fresh = np.arange(self._next, self._next + load.moved)
        self._next += load.moved
        self.ids = np.concatenate([self.ids[order], fresh])
        self.vectors = np.concatenate([self.vectors[order], self._fresh(load.moved)])
        self.texts = np.concatenate([self.texts[order], np.array([f"document {one}, version {version}" for one in fresh], object)])

    def blocks(self) -> Iterator[RowBlock]:
        """In storage order."""
        for start in range(0, len(self.ids), BLOCK_ROWS):
            part = slice(start, start + BLOCK_ROWS)
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(self.vectors[part].ravel()), self._workload.dimension)
            fields = [
                pa.field("id", pa.int64(), metadata={ROLE: Role.ID.encode()}),
                pa.field("vector", vectors.type, metadata={ROLE: Role.VECTOR.encode()}),
                pa.field("document", pa.string(), metadata={ROLE: Role.DOCUMENT.encode()}),
            ]
            columns = [pa.array(self.ids[part]), vectors, pa.array(self.texts[part].tolist(), pa.string())]
            yield RowBlock(pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields)))

    def _fresh(self, count: int) -> np.ndarray:
        return self._draw.standard_normal((count, self._workload.dimension), np.float32)


class Line:
    """Snapshots of one collection, one after another."""

    def __init__(self, workload: Workload) -> None:
        self.rows = Rows(workload)
        self._workload = workload
        secret = Secret.passphrase("bench")
        self._repository = Repository.create(open_store(f"memory://{workload.name}"), secret, cost=Argon2Cost(1, 1, 64))
        self._fingerprinter = Fingerprinter(self._repository.keys.fingerprint)
        self._known: KnownRows | None = None
        self._writer = self._repository.writer()
        self._points: list[Point] = []

    def snapshot(self, number: int) -> list[Point]:
        """One more. Gives those of a session once that is over: a hundred of them, whose bytes are the session's shared out."""
        field = Field("vector", "float32", self._workload.dimension, "l2")
        started = time.perf_counter()
        table = KnownWriter(None, ["vector"], complete=True)
        collection = Collection("rows", len(self.rows.ids), (field,))
        keys = self._repository.keys
        submit = self._writer.submit
        new = RowsWriter(collection, self._fingerprinter, submit, keys.identify, table, known=self._known)
        schema = ""
        for block in self.rows.blocks():
            schema = schema or encode_schema(block.batch.schema)
            new.add(block, self._fingerprinter.prints(block.batch))
        new.end_of_rows()
        found = new.finish()()
        stored = StoredCollection(collection, schema, "", found.segments, (), found.vectors, found.order, found.slots)
        self._known = table.finish(stored, keys.identify)
        seconds = time.perf_counter() - started
        dead = sum(one.dead_count() for one in stored.segments)
        self._points.append(Point(number, len(stored.segments), len(stored.vectors["vector"]), dead, 0, seconds, float("nan")))
        return self._session_ends(stored) if number % LOOKED_AT == 0 else []

    def _session_ends(self, stored: StoredCollection) -> list[Point]:
        self._repository.add_index(self._writer.close())
        points, self._points = self._points, []
        points[-1] = replace(points[-1], read=self._read(stored))
        shared = self._writer.stored_bytes // len(points)
        self._writer = self._repository.writer()
        return [replace(one, written_bytes=shared) for one in points]

    def _read(self, stored: StoredCollection) -> float:
        """Seconds to read all rows back. Raises AssertionError if they are not those that are there now."""
        started = time.perf_counter()
        batches = [block.live() for block in stored_rows(self._repository.read_blob, stored)]
        seconds = time.perf_counter() - started
        table = pa.Table.from_batches(batches)
        order, wanted = np.argsort(table["id"].to_numpy()), np.argsort(self.rows.ids)
        vectors = np.asarray(table["vector"].combine_chunks().values).reshape(-1, self._workload.dimension)
        same = np.array_equal(vectors[order], self.rows.vectors[wanted])
        if not same or table["document"].take(pa.array(order)).to_pylist() != self.rows.texts[wanted].tolist():
            raise AssertionError("the rows that come back are not those that were backed up")
        return seconds


def plot(path: Path, lines: dict[str, list[Point]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [("segments", "segments"), ("dead rows", "dead"), ("snapshot, s", "backup"), ("reading all rows, s", "read")]
    figure, axes = pyplot.subplots(len(lines), len(shown), figsize=(13, 3 * len(lines)), squeeze=False)
    for row, (name, points) in zip(axes, lines.items(), strict=True):
        for axis, (title, attribute) in zip(row, shown, strict=True):
            known = [
                (one.snapshot, getattr(one, attribute)) for one in points if getattr(one, attribute) == getattr(one, attribute)
            ]
            step = max(1, len(known) // 2000)
            axis.plot(*zip(*known[::step], strict=True), linewidth=0.7, color="#2a6f97")
            axis.set_title(f"{name}: {title}", fontsize=9)
            axis.set_xlabel("snapshot", fontsize=8)
            axis.set_ylim(bottom=0)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def show(console: Console, lines: dict[str, list[Point]]) -> None:
    table = Table(title="at the beginning, in the middle, at the end: medians of a hundred snapshots", title_justify="left")
    for name in ("collection", "snapshot", "segments", "blocks", "dead rows", "written kB", "snapshot ms", "read ms"):
        table.add_column(name, justify="left" if name == "collection" else "right")
    for name, points in lines.items():
        for part in (points[1:101], points[len(points) // 2 - 50 : len(points) // 2 + 50], points[-100:]):
            if not part:
                continue
            middle = {
                key: float(np.nanmedian([getattr(one, key) for one in part]))
                for key in ("segments", "blocks", "dead", "written_bytes", "backup")
            }
            reads = [one.read for one in points if abs(one.snapshot - part[len(part) // 2].snapshot) <= LOOKED_AT]
            table.add_row(
                name,
                str(part[-1].snapshot),
                *(f"{middle[key]:,.0f}" for key in ("segments", "blocks", "dead")),
                f"{middle['written_bytes'] / 1e3:,.1f}",
                f"{middle['backup'] * 1e3:.1f}",
                f"{np.nanmedian(reads) * 1e3:.1f}",
            )
    console.print(table)


def simulated(workload: Workload, count: int) -> list[Point]:
    """So many snapshots, after a first one."""
    line, points = Line(workload), list[Point]()
    for number in track(range(count + 1), workload.name, console=Console(stderr=True)):
        if number:
            line.rows.change(number)
        points += line.snapshot(number)
    return points


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", type=int, default=35_000)
    parser.add_argument("--large", type=int, default=1_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    asked = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 150)
    with tempfile.TemporaryDirectory(prefix="strongroom-bench-state-") as state:
        os.environ["STRONGROOM_STATE_DIR"] = state
        lines = {
            "1,000 rows": simulated(Workload("1,000 rows", 1_000, 64, updated=10, moved=2), asked.small),
            "100,000 rows": simulated(Workload("100,000 rows", 100_000, 128, updated=900, moved=100), asked.large),
        }
    show(console, lines)
    if asked.json:
        asked.json.write_text(json.dumps({name: [asdict(one) for one in points] for name, points in lines.items()}))
    if asked.plot:
        plot(asked.plot, lines)


if __name__ == "__main__":
    main()
