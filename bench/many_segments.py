"""What does a journal of many segments cost those whose question concerns its end? Seconds, requests and memory, by their number.

    python bench/many_segments.py [--counts 1000 10000 50000] [--rounds 1] [--json FILE]

A follower that seals every 5 s stores 17,280 segments a day. These are real ones, of a captured index of which a row changes each
time, with ten snapshots among them, the last of them 60 segments before the end (5 minutes). `first` has nothing in this machine's
cache, `cached` all of it. Each question is a process of its own, so that its memory is. `list` are requests for up to 1,000 names
each, as an object store counts them; the store is a local directory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import faiss
import numpy as np
from rich.console import Console
from rich.table import Table

import strongroom
from strongroom import engines
from strongroom.journal.ends import read_tail
from strongroom.journal.sealing import Sealer, Writer
from strongroom.journal.stream import claim_epoch, stream_of
from strongroom.operations.backup.run import BackupOptions, backup
from strongroom.operations.follow.run import FollowOptions, follow
from strongroom.operations.journal.moment import changes_of, plan_moment
from strongroom.operations.journal.status import iso, journal_status
from strongroom.operations.prune.run import PruneOptions, prune
from strongroom.repository import Argon2Cost, Repository, Secret, open_store
from strongroom.repository.store import Listed, Store
from strongroom.snapshots import history

SECRET = Secret.passphrase("bench")
SNAPSHOTS, TAIL, DIMENSION, ROWS, PAGE = 10, 60, 8, 500, 1_000
Question = Callable[[Repository, str, Path], object]


class Counting:
    """A store that counts requests."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner
        self.lists = self.names = self.reads = self.others = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        self.reads += 1
        return self._inner.read(name, offset, length)

    def size(self, name: str) -> int:
        self.others += 1
        return self._inner.size(name)

    def create(self, name: str, data: bytes | memoryview) -> None:
        self.others += 1
        self._inner.create(name, data)

    def delete(self, name: str) -> None:
        self.others += 1
        self._inner.delete(name)

    def list(self, prefix: str, *after: str) -> Iterator[Listed]:
        self.lists += 1
        for number, listed in enumerate(self._inner.list(prefix, *after), 1):
            self.names += 1
            self.lists += number % PAGE == 0
            yield listed


def make(folder: Path, count: int) -> None:
    """A repository with a stream of so many segments."""
    source = f"faiss://{folder}/x.index"
    repository = Repository.create(open_store(f"{folder}/repo"), SECRET, cost=Argon2Cost(1, 1, 64))
    index = faiss.IndexIDMap2(faiss.IndexFlatL2(DIMENSION))
    vectors = np.random.default_rng(1).standard_normal((ROWS, DIMENSION)).astype(np.float32)
    index.add_with_ids(vectors, np.arange(ROWS))
    with mock.patch("os.fsync"), mock.patch("os.fdatasync"):  # a disk would take minutes to make it last
        captured = strongroom.capture(index, None, source, every_ms=1_000)
        captured.save()
        backed_up = {count - TAIL - step * (count // SNAPSHOTS) for step in range(SNAPSHOTS)}
        follow(repository, source, FollowOptions(once=True, probes=1))
        stream = stream_of(repository, source)
        opened: Any = engines.source_of(source)
        with opened.feed(stream, None) as feed:
            tail = read_tail(repository, stream)
            assert tail is not None  # noqa: S101 - it was just followed
            feed.resume(tail.head.ends)
            epoch = claim_epoch(repository, stream)
            writer = Writer(stream, source, tail.head.engine, tail.head.host, epoch, feed.kind)
            sealer = Sealer(repository, writer, tail, tail.head.ends)
            for number in range(tail.head.sequence + 1, count):
                if number in backed_up:
                    captured.save()
                    backup(repository, source, BackupOptions(None, {}, 1))
                _change(captured, vectors, number)
                changes, marks, _ = feed.read()
                sealer.add(list(changes), marks, int(time.time() * 1e6))
                sealer.seal()
                if number % 1_000 == 0:
                    feed.shipped(marks)
            feed.shipped(sealer.ends)
        captured.save()
        captured.close()


def _change(captured: Any, vectors: Any, number: int) -> None:
    row = number % ROWS
    captured.remove_ids(np.array([row], np.int64))
    captured.add_with_ids(vectors[row : row + 1] + number, np.array([row], np.int64))


def status(repository: Repository, source: str, folder: Path) -> object:
    (found,) = journal_status(repository)
    return found.segments, found.operations


def listing(repository: Repository, source: str, folder: Path) -> object:
    return len(history.read_all(repository)[0]), len(journal_status(repository))


def following(repository: Repository, source: str, folder: Path) -> object:
    return follow(repository, source, FollowOptions(once=True, probes=1)).segments


def moment(repository: Repository, source: str, folder: Path) -> object:
    """`restore --at` until the first operation could be applied: the rest depends on the snapshot alone."""
    tail = read_tail(repository, stream_of(repository, source))
    assert tail is not None  # noqa: S101 - made by `make`
    plan = plan_moment(repository, iso(tail.head.seen))
    return plan.operations, sum(len(one) for one in changes_of(repository, plan)), len(plan.segments)


def backing(repository: Repository, source: str, folder: Path) -> object:
    return backup(repository, source, BackupOptions(None, {}, 1)).snapshot.manifest.rows


def pruning(repository: Repository, source: str, folder: Path) -> object:
    return prune(repository, PruneOptions(dry_run=True)).trimmed.packs


QUESTIONS: dict[str, Question] = {
    "journal status": status,
    "snapshots": listing,
    "journal follow, start": following,
    "restore --at, plan and read": moment,
    "backup": backing,
    "prune, dry run": pruning,
}


def ask(folder: Path, question: str) -> dict[str, float | str]:
    """Seconds, requests and the peak resident bytes of this process."""
    store = Counting(open_store(f"{folder}/repo"))
    repository = Repository.open(store, SECRET)
    source = f"faiss://{folder}/x.index"
    store.lists = store.names = store.reads = store.others = 0
    start, used = time.perf_counter(), time.process_time()
    answer = QUESTIONS[question](repository, source, folder)
    taken, worked = time.perf_counter() - start, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    counted = {"list": store.lists, "names": store.names, "read": store.reads, "other": store.others}
    return {"seconds": taken, "cpu": worked, **counted, "peak": peak, "answer": str(answer)}


def measured(folder: Path, question: str, state: Path) -> dict[str, Any]:
    environment = {**os.environ, "STRONGROOM_STATE_DIR": str(state)}
    command = [sys.executable, __file__, "--ask", str(folder), question]
    answer: dict[str, Any] = json.loads(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)
    return answer


def compare(count: int, place: Path) -> list[dict[str, Any]]:
    folder = place / f"stream-{count}"
    folder.mkdir(exist_ok=True)
    if not (folder / "made").exists():
        command = [sys.executable, __file__, "--make", str(folder), str(count)]
        subprocess.run(command, env={**os.environ, "STRONGROOM_STATE_DIR": f"{folder}/writer-state"}, check=True)
        (folder / "made").touch()
    rows = []
    for question in QUESTIONS:
        state = place / "state"
        shutil.rmtree(state, ignore_errors=True)
        for what in ("first", "cached"):
            rows.append({"segments": count, "question": question, "what": what, **measured(folder, question, state)})
            print(rows[-1], file=sys.stderr, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[1_000, 10_000, 50_000])
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where the repositories are made, and stay")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--make", nargs=2, metavar=("FOLDER", "COUNT"), help=argparse.SUPPRESS)
    parser.add_argument("--ask", nargs=2, metavar=("FOLDER", "QUESTION"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        return make(Path(options.make[0]), int(options.make[1]))
    if options.ask:
        print(json.dumps(ask(Path(options.ask[0]), options.ask[1])))
        return None
    with tempfile.TemporaryDirectory() as place:
        rows = [row for count in options.counts for row in compare(count, options.keep or Path(place))]
    table = Table("segments", "question", "", "s", "CPU s", "list", "read", "other", "peak MB", "answer")
    for row in rows:
        cells = [f"{row['seconds']:.2f}", f"{row['cpu']:.2f}", *(f"{row[key]:,}" for key in ("list", "read", "other"))]
        table.add_row(f"{row['segments']:,}", row["question"], row["what"], *cells, f"{row['peak'] / 1e6:.0f}", row["answer"])
    Console(width=140).print(table)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    return None


if __name__ == "__main__":
    main()
