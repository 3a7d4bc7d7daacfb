"""How much memory do a backup and a restore need, whatever the size of the source? Peak resident memory, own and children's.

    python bench/memory.py [--size 3e9 [3e8 ...]] [--engines faiss lancedb chroma] [--json FILE]

The children are the engine's own (a search that opens the index, in a process apart): what they need is the engine's. `anonymous`
leaves out pages of mapped files, which the system takes back when it wants them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from sources import changed_vectors, chroma_database, flat_index, lance_table

STRONGROOM = str(Path(sys.executable).parent / "strongroom")


@dataclass(frozen=True, slots=True)
class Peak:
    """Peak resident bytes of one command: its own, its own without mapped files, and the same of its children."""

    what: str
    source_bytes: int
    own: int
    own_anonymous: int
    children: int
    children_anonymous: int
    seconds: float


def watch(what: str, source_bytes: int, command: Sequence[str], environment: dict[str, str]) -> Peak:
    """Run a command and look at its memory every 10 ms."""
    started = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    seen = psutil.Process(process.pid)
    own = anonymous = children = children_anonymous = 0
    while process.poll() is None:
        try:
            memory = seen.memory_info()
            own, anonymous = max(own, memory.rss), max(anonymous, memory.rss - memory.shared)
            below = [child.memory_info() for child in seen.children(recursive=True)]
            children = max(children, sum(one.rss for one in below))
            children_anonymous = max(children_anonymous, sum(one.rss - one.shared for one in below))
        except psutil.Error:
            pass
        time.sleep(0.01)
    if process.returncode:
        raise AssertionError(f"{' '.join(command)} ended with {process.returncode}")
    return Peak(what, source_bytes, own, anonymous, children, children_anonymous, time.perf_counter() - started)


def _size(path: Path) -> int:
    return sum(one.stat().st_size for one in (path.rglob("*") if path.is_dir() else [path]) if one.is_file())


def _make(engine: str, source: Path, size: int) -> None:
    if engine == "faiss":
        flat_index(source, size)
    elif engine == "lancedb":
        lance_table(source, size)
    else:
        chroma_database(source, size)


def measure(engine: str, size: int, place: Path) -> list[Peak]:
    """Back up and restore one source of about `size` bytes. Chroma takes its time to be filled: about 6 MB/s here."""
    source = place / {"faiss": "big.faiss", "lancedb": "big-lancedb", "chroma": "big-chroma"}[engine]
    made = place / "made-of"
    if not source.exists() or not made.exists() or made.read_text() != f"{engine} {size}":
        shutil.rmtree(source) if source.is_dir() else source.unlink(missing_ok=True)
        _make(engine, source, size)
        made.write_text(f"{engine} {size}")
    repo, out = place / "memory-repo", place / f"memory-out{source.suffix}"
    for path in (repo, out):
        shutil.rmtree(path, ignore_errors=True)
        path.unlink(missing_ok=True)
    environment = {**os.environ, "STRONGROOM_PASSWORD": "bench", "STRONGROOM_STATE_DIR": str(place / "state")}
    environment["STRONGROOM_REPOSITORY"] = str(repo)
    subprocess.run([STRONGROOM, "init"], env=environment, check=True, stdout=subprocess.DEVNULL)
    bytes_in = _size(source)
    backup = [STRONGROOM, "backup", "-q", f"{engine}://{source}"]
    peaks = [watch(f"{engine} backup", bytes_in, backup, environment)]
    if engine == "faiss":
        changed_vectors(source)
        made.unlink()
        peaks.append(watch("faiss backup after 1 % of updates", bytes_in, backup, environment))
    restore = [STRONGROOM, "restore", "-q", "latest", f"{engine}://{out}"]
    peaks.append(watch(f"{engine} restore", bytes_in, restore, environment))
    for path in (repo, out):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return peaks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=float, nargs="+", default=[3e9])
    parser.add_argument("--engines", nargs="+", default=["faiss", "lancedb", "chroma"])
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()) / "strongroom-bench")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    asked.directory.mkdir(parents=True, exist_ok=True)
    table = Table(title="peak resident memory, MB", title_justify="left")
    for name in ("what", "source MB", "own", "own, anonymous", "engine's child", "child, anonymous", "seconds"):
        table.add_column(name, justify="left" if name == "what" else "right")
    sizes = [int(size) for size in asked.size]
    peaks = [peak for engine in asked.engines for size in sizes for peak in measure(engine, size, asked.directory)]
    for peak in peaks:
        megabytes = (peak.source_bytes, peak.own, peak.own_anonymous, peak.children, peak.children_anonymous)
        table.add_row(peak.what, *(f"{value / 1e6:,.0f}" for value in megabytes), f"{peak.seconds:.1f}")
    Console().print(table)
    if asked.json:
        asked.json.write_text(json.dumps([asdict(peak) for peak in peaks], indent=2))


if __name__ == "__main__":
    main()
