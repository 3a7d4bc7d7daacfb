"""The main job, on a real engine, for someone who sees Strongroom for the first time: back up, lose, restore, prove."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from strongroom.cli.bars import Bars, amount
from strongroom.cli.demo.data import load, queries_of
from strongroom.cli.demo.database import K, Rows, Seen
from strongroom.cli.demo.mistake import TakenBack, take_back
from strongroom.engines.isolation import call
from strongroom.errors import VerificationFailed, WrongRequest
from strongroom.library import Strongroom, init_repository
from strongroom.operations.backup.run import BackupReport

QUERIES = 200
MODEL = "all-MiniLM-L6-v2@1"
_PROGRAM = "strongroom.cli.demo.database"


@dataclass(frozen=True, slots=True)
class Proof:
    """How one restored state compares with the one that was backed up."""

    snapshot: str
    rows: int
    rows_equal: int
    answers_equal: int
    recall: float
    backup_seconds: float
    restore_seconds: float
    source_bytes: int
    stored_bytes: int

    @property
    def whole(self) -> bool:
        return self.rows == self.rows_equal > 0 and self.answers_equal == QUERIES


@dataclass(frozen=True, slots=True)
class DemoReport:
    """What the demo measured. `rebuilt_answers` are the queries that a database rebuilt from the same rows answers as before."""

    data: str
    states: tuple[Proof, ...]
    files: int
    files_identical: int
    rebuild_seconds: float
    rebuilt_answers: int
    taken_back: TakenBack


def run(directory: Path | None, rows: int, console: Console) -> DemoReport:
    """Run the demo in `directory` or in a temporary one, which is removed. Raises VerificationFailed if anything came back
    otherwise than it was."""
    if rows < 1000:
        raise WrongRequest("the demo needs at least 1,000 rows")
    if directory is not None and directory.exists() and any(directory.iterdir()):
        raise WrongRequest(f"{directory} is not empty", hint="give a new or empty directory")
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
        return _Demo(directory.absolute(), rows, console).run()
    with tempfile.TemporaryDirectory(prefix="strongroom-demo-") as made:
        return _Demo(Path(made), rows, console).run()


class _Demo:
    def __init__(self, directory: Path, rows: int, console: Console) -> None:
        self._directory = directory
        self._database = directory / "chroma"
        self._console = console
        self._count = rows
        self._data, self._origin = load(rows + rows // 100)
        self._queries = queries_of(self._data.vectors, QUERIES)

    def run(self) -> DemoReport:
        self._console.print(f"[bold]Strongroom demo[/]  {self._count:,} rows: {self._origin}\n", highlight=False, soft_wrap=True)
        started = time.perf_counter()
        with self._step("make a Chroma database"):
            call(f"{_PROGRAM}:fill", str(self._database), self._data.part(0, self._count))
        rebuild_seconds = time.perf_counter() - started
        room = self._init()
        first = self._back_up(room)
        before = self._look(self._database)
        with self._step(f"change {self._count // 100} rows, add {self._count // 100}"):
            call(f"{_PROGRAM}:change", str(self._database), self._changes())
        second = self._back_up(room)
        files = _files(self._database)
        after = self._look(self._database)
        undone = take_back(room, self._database, after, self._directory / "undone", self._look, self._step)
        with self._step("destroy the database"):
            shutil.rmtree(self._database)
        proofs = (self._prove(room, first, before), self._prove(room, second, after))
        with self._step("rebuild from the rows instead, to compare"):
            call(f"{_PROGRAM}:fill", str(self._directory / "rebuilt"), _rows_of(after))
        rebuilt = self._look(self._directory / "rebuilt")
        identical = self._identical_files(room, second, files)
        report = DemoReport(self._origin, proofs, len(files), identical, rebuild_seconds, _equal_answers(after, rebuilt), undone)
        self._tell(report)
        if not all(proof.whole for proof in proofs) or identical != len(files) or undone.rows_equal != undone.rows:
            raise VerificationFailed("what came back is not what was backed up")
        return report

    def _init(self) -> Strongroom:
        with self._step("init an encrypted repository"):
            return init_repository(str(self._directory / "repository"), password=secrets.token_urlsafe(24))

    def _back_up(self, room: Strongroom) -> BackupReport:
        with self._step("back up"), Bars(self._console) as bars:
            return room.backup(f"chroma://{self._database}", model=MODEL, tags={"demo": "yes"}, progress=bars)

    def _changes(self) -> Rows:
        """1 % of the rows get another's vector, turned a little, and a new document; 1 % are new."""
        draw = np.random.default_rng(22)
        few = self._count // 100
        chosen = draw.choice(self._count, few, replace=False)
        turned = np.roll(self._data.vectors[chosen], 1, axis=1)
        fresh = self._data.part(self._count, self._count + few)
        return Rows(
            [self._data.ids[place] for place in chosen] + fresh.ids,
            np.concatenate([turned, fresh.vectors]),
            [f"{self._data.documents[place]} (revised)" for place in chosen] + fresh.documents,
            [self._data.metadata[place] for place in chosen] + fresh.metadata,
        )

    def _prove(self, room: Strongroom, report: BackupReport, was: Seen) -> Proof:
        """Restore a snapshot, look at it in a fresh process, and compare."""
        target = self._directory / f"restored-{report.snapshot.id[:8]}"
        with self._step(f"restore snapshot {report.snapshot.id[:8]}"), Bars(self._console) as bars:
            restored = room.restore(report.snapshot.id, f"chroma://{target}", require_exact=True, progress=bars)
        now = self._look(target)
        record = report.snapshot.manifest
        return Proof(
            snapshot=report.snapshot.id,
            rows=len(was.rows),
            rows_equal=sum(now.rows.get(name) == row for name, row in was.rows.items()) if len(now.rows) == len(was.rows) else 0,
            answers_equal=_equal_answers(was, now),
            recall=_recall(now, self._queries),
            backup_seconds=record.seconds["total"],
            restore_seconds=restored.seconds,
            source_bytes=record.source_bytes,
            stored_bytes=record.stored_bytes,
        )

    def _look(self, database: Path) -> Seen:
        """Open a database in a fresh process, as a program does that starts after the loss, and ask it everything."""
        with self._step(f"open {database.name}, ask {QUERIES} queries, read every row"):
            seen: Seen = call(f"{_PROGRAM}:see", str(database), self._queries)
        return seen

    def _identical_files(self, room: Strongroom, report: BackupReport, files: dict[str, bytes]) -> int:
        """Restore once more where the database was, and compare every file with what was destroyed."""
        with self._step("restore in its old place, compare files"), Bars(self._console) as bars:
            room.restore(report.snapshot.id, f"chroma://{self._database}", require_exact=True, progress=bars)
        now = _files(self._database)
        return sum(now.get(name) == content for name, content in files.items())

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        self._console.print(f"[dim]·[/] {name} …", highlight=False)
        yield
        self._console.print(f"  [green]✓[/] {time.perf_counter() - started:.1f} s", highlight=False)

    def _tell(self, report: DemoReport) -> None:
        table = Table(title="\nwhat came back", title_justify="left", title_style="bold", box=None, header_style="bold")
        table.add_column("")
        for name in ("first snapshot", "second snapshot"):
            table.add_column(name, justify="right")
        lines: list[tuple[str, list[str]]] = [
            ("rows equal (vector, document, metadata)", [f"{p.rows_equal:,} of {p.rows:,}" for p in report.states]),
            ("answers equal bit for bit", [f"{p.answers_equal} of {QUERIES}" for p in report.states]),
            (f"recall@{K} against exact search", [f"{p.recall:.4f}" for p in report.states]),
            ("database", [amount(p.source_bytes, "bytes") for p in report.states]),
            ("stored, encrypted", [amount(p.stored_bytes, "bytes") for p in report.states]),
            ("backup", [f"{p.backup_seconds:.2f} s" for p in report.states]),
            ("restore, with verification", [f"{p.restore_seconds:.2f} s" for p in report.states]),
        ]
        for title, cells in lines:
            table.add_row(title, *cells)
        self._console.print(table)
        undone = report.taken_back
        self._console.print(
            f"\nfiles identical to the destroyed ones: {report.files_identical} of {report.files}"
            f"\na rebuild took {report.rebuild_seconds:.1f} s, even with the embeddings at hand, "
            f"and answers {report.rebuilt_answers} of {QUERIES} queries as before",
            f"\na bad batch of {undone.bad} rows was taken back in {undone.seconds:.1f} s, while {undone.good} later writes "
            f"stayed: {undone.rows_equal:,} of {undone.rows:,} rows as must be",
            highlight=False,
            soft_wrap=True,
        )


def _files(directory: Path) -> dict[str, bytes]:
    found = (Path(folder, name) for folder, _, names in os.walk(directory) for name in names)
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in found}


def _rows_of(seen: Seen) -> Rows:
    vectors = np.stack([np.frombuffer(vector, np.float32) for vector, _, _ in seen.rows.values()])
    return Rows(list(seen.rows), vectors, [row[1] for row in seen.rows.values()], [row[2] for row in seen.rows.values()])


def _equal_answers(one: Seen, other: Seen) -> int:
    pairs = zip(one.ids, one.distances, other.ids, other.distances, strict=True)
    return sum(bool(a) and a == c and b == d for a, b, c, d in pairs)


def _recall(seen: Seen, queries: np.ndarray) -> float:
    """Against exact cosine search over all rows."""
    rows = _rows_of(seen)
    unit = rows.vectors / np.linalg.norm(rows.vectors, axis=1, keepdims=True)
    best = np.argsort(-(queries @ unit.T), axis=1)[:, :K]
    hits = sum(len({rows.ids[place] for place in right} & set(given)) for right, given in zip(best, seen.ids, strict=True))
    return hits / (K * len(queries))
