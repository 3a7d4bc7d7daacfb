"""How long and how large is a full backup of a FAISS HNSW index, beside restic, borg and cp? One run, interleaved, medians.

    python bench/backup.py [--rows 355000] [--sidecar] [--runs 3] [--json FILE] [--plot FILE.png]

With `--sidecar` the index has half as many rows, and beside it lies a Parquet file, as pandas or Arrow write it by default, with
ids, texts and the same vectors: about as many bytes in all.

Every tool starts with a fresh repository on the same disk, the source in the page cache; times are of whole processes. `durable`
adds the time until everything is on the disk: Strongroom has waited for that already, others may not have. `limit` is
bench/limit.py: only reading, hashing, encrypting and writing. Restores are compared byte for byte. restic and borg are measured if
they are installed (Debian's packages).
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sources import hnsw_index, real_vectors, vectors_sidecar

STRONGROOM = str(Path(sys.executable).parent / "strongroom")
LIMIT = str(Path(__file__).with_name("limit.py"))
ENVIRONMENT = {**os.environ, "STRONGROOM_PASSWORD": "bench", "RESTIC_PASSWORD": "bench", "BORG_PASSPHRASE": "bench"}
ENVIRONMENT.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package is compiled


@dataclass(frozen=True, slots=True)
class Measured:
    """One tool in one run: seconds (of the command, and until all of it is on the disk) and stored bytes."""

    tool: str
    backup: float
    backup_durable: float
    restore: float
    restore_durable: float
    stored: float


@dataclass(frozen=True, slots=True)
class Tool:
    """How to use a backup tool: the commands to make a repository, back up and restore."""

    name: str
    prepare: Callable[[Path], Sequence[str]] | None
    backup: Callable[[Path, Sequence[str]], Sequence[str]]
    restore: Callable[[Path, str, Path], Sequence[str]] | None


def tools() -> list[Tool]:
    """Those that are installed."""
    known = [
        Tool(
            "strongroom",
            lambda repo: [STRONGROOM, "init", "-r", str(repo)],
            lambda repo, files: [STRONGROOM, "backup", "-q", "-r", str(repo), f"faiss://{files[0]}"],
            lambda repo, name, out: [STRONGROOM, "restore", "-q", "-r", str(repo), "latest", f"faiss://{out / name}"],
        ),
        Tool(
            "restic",
            lambda repo: ["restic", "init", "-q", "-r", str(repo)],
            lambda repo, files: ["restic", "backup", "-q", "-r", str(repo), *files],
            lambda repo, _name, out: ["restic", "restore", "-q", "-r", str(repo), "latest", "--target", str(out)],
        ),
        Tool(
            "borg",
            lambda repo: ["borg", "init", "-e", "repokey-blake2", str(repo)],
            lambda repo, files: ["borg", "create", f"{repo}::one", *files],
            lambda repo, _name, _out: ["borg", "extract", f"{repo}::one"],
        ),
        Tool(
            "cp",
            lambda repo: ["mkdir", str(repo)],
            lambda repo, files: ["cp", *files, str(repo)],
            lambda repo, _name, out: ["cp", "-r", f"{repo}/.", str(out)],
        ),
        Tool("limit", None, lambda repo, files: [sys.executable, LIMIT, *files, str(repo)], None),
    ]
    return [tool for tool in known if tool.name in ("strongroom", "limit") or shutil.which(tool.name)]


def measure(tool: Tool, files: Sequence[Path], place: Path) -> Measured:
    """One fresh repository, one backup, one restore."""
    repo, out = place / f"{tool.name}-repo", place / f"{tool.name}-out"
    for path in (repo, out):
        shutil.rmtree(path, ignore_errors=True)
    out.mkdir()
    environment = {**ENVIRONMENT, "STRONGROOM_STATE_DIR": str(place / "state"), "BORG_BASE_DIR": str(place / "borg")}
    if tool.prepare is not None:
        run(tool.prepare(repo), out, environment)
    backup, backup_durable = run(tool.backup(repo, [str(file) for file in files]), out, environment)
    restore = restore_durable = float("nan")
    if tool.restore is not None:
        restore, restore_durable = run(tool.restore(repo, files[0].name, out), out, environment)
        for file in files:
            restored = next(path for path in out.rglob(file.name) if path.is_file())
            if not filecmp.cmp(restored, file, shallow=False):
                raise AssertionError(f"{tool.name} gave back other bytes of {file.name}")
    stored = sum(path.stat().st_size for path in repo.rglob("*") if path.is_file())
    shutil.rmtree(out)
    shutil.rmtree(repo)
    return Measured(tool.name, backup, backup_durable, restore, restore_durable, stored)


def run(command: Sequence[str], directory: Path, environment: dict[str, str]) -> tuple[float, float]:
    """Seconds of the command, and until everything that it wrote is on the disk."""
    os.sync()
    started = time.perf_counter()
    subprocess.run(command, cwd=directory, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    ended = time.perf_counter()
    os.sync()
    return ended - started, time.perf_counter() - started


def medians(results: Sequence[Measured]) -> list[Measured]:
    """One line a tool, in order of appearance."""
    lines = []
    for name in dict.fromkeys(one.tool for one in results):
        runs = [astuple(one)[1:] for one in results if one.tool == name]
        lines.append(Measured(name, *map(statistics.median, zip(*runs, strict=True))))
    return lines


def show(console: Console, files: Sequence[Path], lines: Sequence[Measured], runs: int) -> None:
    restic = next((line for line in lines if line.tool == "restic"), None)
    what = " and ".join(f"{file.name} ({file.stat().st_size / 1e6:,.0f} MB)" for file in files)
    table = Table(title=f"{what}, medians of {runs} interleaved runs", title_justify="left")
    for name in ("tool", "backup s", "durable", "restore s", "durable", "stored MB"):
        table.add_column(name, justify="left" if name == "tool" else "right")
    for name in ("backup / restic", "durable", "restore / restic", "durable", "bytes / restic"):
        table.add_column(name, justify="right")
    for line in lines:
        own = astuple(line)[1:]
        cells = [line.tool, *(f"{seconds:.2f}" for seconds in own[:-1]), f"{line.stored / 1e6:,.1f}"]
        ratios = [] if restic is None else [mine / its for mine, its in zip(own, astuple(restic)[1:], strict=True)]
        table.add_row(*(cell.replace("nan", "") for cell in (*cells, *(f"{ratio:.2f}" for ratio in ratios))))
    console.print(table)


def plot(path: Path, lines: Sequence[Measured]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(10, 3))
    lines = [line for line in lines if line.tool != "limit"]
    names = [line.tool for line in lines]
    for axis, title, values in zip(
        axes,
        ("backup, seconds", "restore, seconds", "stored, MB"),
        ([line.backup for line in lines], [line.restore for line in lines], [line.stored / 1e6 for line in lines]),
        strict=True,
    ):
        axis.bar(names, values, color=["#2a6f97" if name == "strongroom" else "#adb5bd" for name in names])
        axis.set_title(title)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def sources(directory: Path, rows: int, console: Console, *, sidecar: bool) -> list[Path]:
    """The index, and its sidecar if it shall have one; made if they aren't there."""
    rows = rows // 2 if sidecar else rows
    index = directory / f"hnsw-{rows}{'-pair' * sidecar}.faiss"
    if not index.exists():
        console.print(f"building an HNSW index of {rows:,} vectors ({real_vectors()[1]}) …")
        console.print(f"  built in {hnsw_index(index, rows):.1f} s")
    files = [index, index.with_suffix(".parquet")][: 1 + sidecar]
    if sidecar and not files[1].exists():
        vectors_sidecar(files[1], rows)
    for file in files:
        file.read_bytes()  # into the page cache
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=355_000)
    parser.add_argument("--sidecar", action="store_true")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()) / "strongroom-bench")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    asked = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 150)
    files = sources(asked.directory, asked.rows, console, sidecar=asked.sidecar)
    results: list[Measured] = []
    for number in range(asked.runs):
        for tool in tools():
            results.append(measure(tool, files, asked.directory))
            console.print(f"run {number + 1}: {results[-1]}", highlight=False, soft_wrap=True)
    lines = medians(results)
    show(console, files, lines, asked.runs)
    if asked.json:
        asked.json.write_text(json.dumps([asdict(line) for line in lines], indent=2))
    if asked.plot:
        plot(asked.plot, lines)


if __name__ == "__main__":
    main()
