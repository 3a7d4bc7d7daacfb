"""How fast does a repository of many snapshots open, and in how much memory? Seconds and peak resident memory, by their number.

    python bench/many_snapshots.py [--counts 100 1000 35000] [--rounds 3] [--json FILE]

Each snapshot has a manifest, an index object and a pack of one small blob: a year of a small collection, every 15 minutes, is
35,000. `first` has nothing in the cache of this machine, `cached` all of it. What a backup asks before it stores a byte: open,
headlines, the newest snapshot of a source, and a writer. Each is a process of its own, so that its memory is.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

from rich.console import Console
from rich.table import Table

from strongroom.codecs import RAW
from strongroom.model import Position
from strongroom.repository import Argon2Cost, Repository, Secret, open_store
from strongroom.repository.packs import OpenPack
from strongroom.snapshots import history, manifest
from strongroom.snapshots.manifest import Manifest, Part, StoredArtifact

SECRET = Secret.passphrase("bench")
STEPS = ("open", "headlines", "newest_of", "writer")
SOURCES = 4


def make(folder: Path, count: int) -> None:
    """A repository of so many snapshots of four sources, one after another."""
    repository = Repository.create(open_store(str(folder)), SECRET, cost=Argon2Cost(1, 1, 64))
    parents: tuple[str, ...] = ()
    with mock.patch("os.fsync"):  # a disk would take minutes to make it last
        for number in range(count):
            parents = (_add(repository, number, parents),)


def _add(repository: Repository, number: int, parents: tuple[str, ...]) -> str:
    blob = _store_blob(repository, f"change number {number}".encode())
    day, minute = divmod(number, 96)
    record = Manifest(
        created=f"2026-01-01T00:00:00+00:00 {day:04d} {minute:02d}",
        source=f"chroma:///srv/chroma-{number % SOURCES}",
        host="bench",
        engine="chroma",
        engine_version="1",
        strongroom_version="0",
        position=Position("none", str(number)),
        rows_plane="segments",
        root="",
        parents=parents,
        tags={},
        catalog={},
        collections=(),
        artifacts=(StoredArtifact("index", 16, None, False, (Part(16, "bytes", blob),)),),
        ledger=(),
        source_bytes=16,
        stored_bytes=16,
    )
    return repository.add_manifest(manifest.encode(record))


def _store_blob(repository: Repository, plain: bytes) -> str:
    """In a pack of its own, without the listing of all packs with which a writer begins."""
    pack = OpenPack(repository.keys, bytearray(1 << 10))
    blob = pack.reserve(repository.keys.identify(plain), RAW, len(plain), len(plain))
    if blob is None:
        raise AssertionError("a new pack refused a blob")
    pack.fill(blob, plain)
    finished, content = pack.finish()
    repository.store.create(finished.name, content)
    repository.add_index([finished])
    return blob.id.hex()


def ask(folder: str) -> dict[str, float]:
    """Seconds of each step, and the peak resident bytes of this process."""
    seconds: dict[str, float] = {}
    clock = time.perf_counter
    start = clock()
    repository = Repository.open(open_store(folder), SECRET)
    seconds["open"], start = clock() - start, clock()
    known, damaged = history.headlines(repository)
    seconds["headlines"], start = clock() - start, clock()
    newest = history.newest_of(repository, known, "chroma:///srv/chroma-1")
    seconds["newest_of"], start = clock() - start, clock()
    with repository.writer():
        seconds["writer"] = clock() - start
    if newest is None or damaged or len(history.heads(known)) != 1:
        raise AssertionError("that is not the repository that was made")
    return {**seconds, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def measured(folder: Path, state: Path) -> dict[str, float]:
    environment = {**os.environ, "STRONGROOM_STATE_DIR": str(state)}
    command = [sys.executable, __file__, "--ask", str(folder)]
    answer: dict[str, float] = json.loads(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)
    return answer


def compare(count: int, rounds: int, place: Path) -> list[dict[str, float | str]]:
    """First and cached in turn, medians."""
    folder = place / f"repository-{count}"
    command = [sys.executable, __file__, "--make", str(folder), str(count)]
    subprocess.run(command, env={**os.environ, "STRONGROOM_STATE_DIR": os.devnull}, check=True)
    found: dict[str, list[dict[str, float]]] = {"first": [], "cached": []}
    for number in range(rounds):
        state = place / f"state-{count}-{number}"
        found["first"].append(measured(folder, state))
        found["cached"].append(measured(folder, state))
    return [
        {"snapshots": count, "what": what, **{key: statistics.median(one[key] for one in runs) for key in runs[0]}}
        for what, runs in found.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[100, 1_000, 35_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--make", nargs=2, metavar=("FOLDER", "COUNT"), help=argparse.SUPPRESS)
    parser.add_argument("--ask", metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        return make(Path(options.make[0]), int(options.make[1]))
    if options.ask:
        print(json.dumps(ask(options.ask)))
        return None
    with tempfile.TemporaryDirectory() as place:
        rows = [row for count in options.counts for row in compare(count, options.rounds, Path(place))]
    table = Table("snapshots", "", *(f"{step} s" for step in STEPS), "all s", "peak MB")
    for row in rows:
        steps = [float(row[step]) for step in STEPS]
        cells = [f"{seconds:.3f}" for seconds in (*steps, sum(steps))]
        table.add_row(f"{row['snapshots']:,}", str(row["what"]), *cells, f"{float(row['peak']) / 1e6:.0f}")
    Console(width=100).print(table)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    return None


if __name__ == "__main__":
    main()
