"""How long and how large is a full backup of a FAISS HNSW index, beside restic, borg and cp? One run, interleaved, medians.

    python bench/backup.py [--rows 355000] [--runs 3] [--json FILE] [--plot FILE.png]

Every tool starts with a fresh repository on the same disk, the source in the page cache; times are of whole processes. Restores are
compared byte for byte. restic and borg are measured if they are installed (Debian's packages).
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
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sources import hnsw_index, real_vectors

STRONGROOM = str(Path(sys.executable).parent / "strongroom")
ENVIRONMENT = {**os.environ, "STRONGROOM_PASSWORD": "bench", "RESTIC_PASSWORD": "bench", "BORG_PASSPHRASE": "bench"}


@dataclass(frozen=True, slots=True)
class Measured:
    """One tool in one run: seconds and stored bytes."""

    tool: str
    backup: float
    restore: float
    stored: int


@dataclass(frozen=True, slots=True)
class Tool:
    """How to use a backup tool: the commands to make a repository, back up and restore."""

    name: str
    prepare: Callable[[Path], Sequence[str]] | None
    backup: Callable[[Path, Path], Sequence[str]]
    restore: Callable[[Path, Path, Path], Sequence[str]]


def tools() -> list[Tool]:
    """Those that are installed."""
    known = [
        Tool(
            "strongroom",
            lambda repo: [STRONGROOM, "init", "-r", str(repo)],
            lambda repo, source: [STRONGROOM, "backup", "-q", "-r", str(repo), f"faiss://{source}"],
            lambda repo, source, out: [STRONGROOM, "restore", "-q", "-r", str(repo), "latest", f"faiss://{out / source.name}"],
        ),
        Tool(
            "restic",
            lambda repo: ["restic", "init", "-q", "-r", str(repo)],
            lambda repo, source: ["restic", "backup", "-q", "-r", str(repo), str(source)],
            lambda repo, _source, out: ["restic", "restore", "-q", "-r", str(repo), "latest", "--target", str(out)],
        ),
        Tool(
            "borg",
            lambda repo: ["borg", "init", "-e", "repokey-blake2", str(repo)],
            lambda repo, source: ["borg", "create", f"{repo}::one", str(source)],
            lambda repo, _source, _out: ["borg", "extract", f"{repo}::one"],
        ),
        Tool(
            "cp",
            None,
            lambda repo, source: ["cp", str(source), str(repo)],
            lambda repo, source, out: ["cp", str(repo), str(out / source.name)],
        ),
    ]
    return [tool for tool in known if tool.name == "strongroom" or shutil.which(tool.name)]


def measure(tool: Tool, source: Path, place: Path) -> Measured:
    """One fresh repository, one backup, one restore."""
    repo, out = place / f"{tool.name}-repo", place / f"{tool.name}-out"
    for path in (repo, out):
        shutil.rmtree(path, ignore_errors=True)
        path.unlink(missing_ok=True)
    out.mkdir()
    environment = {**ENVIRONMENT, "STRONGROOM_STATE_DIR": str(place / "state"), "BORG_BASE_DIR": str(place / "borg")}
    if tool.prepare is not None:
        _run(tool.prepare(repo), out, environment)
    os.sync()
    backup = _run(tool.backup(repo, source), out, environment)
    os.sync()
    restore = _run(tool.restore(repo, source, out), out, environment)
    restored = next(path for path in out.rglob(source.name) if path.is_file())
    if not filecmp.cmp(restored, source, shallow=False):
        raise AssertionError(f"{tool.name} gave back other bytes")
    stored = sum(path.stat().st_size for path in (repo.rglob("*") if repo.is_dir() else [repo]) if path.is_file())
    shutil.rmtree(out)
    shutil.rmtree(repo) if repo.is_dir() else repo.unlink()
    return Measured(tool.name, backup, restore, stored)


def _run(command: Sequence[str], directory: Path, environment: dict[str, str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, cwd=directory, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    return time.perf_counter() - started


def medians(results: Sequence[Measured]) -> list[Measured]:
    """One line a tool, in order of appearance."""
    names = dict.fromkeys(one.tool for one in results)
    return [
        Measured(
            name,
            statistics.median(one.backup for one in results if one.tool == name),
            statistics.median(one.restore for one in results if one.tool == name),
            int(statistics.median(one.stored for one in results if one.tool == name)),
        )
        for name in names
    ]


def show(console: Console, source: Path, lines: Sequence[Measured], runs: int) -> None:
    restic = next((line for line in lines if line.tool == "restic"), None)
    table = Table(
        title=f"{source.name}, {source.stat().st_size / 1e6:,.0f} MB, medians of {runs} interleaved runs", title_justify="left"
    )
    for name in ("tool", "backup s", "restore s", "stored MB", "time / restic", "bytes / restic", "restore / restic"):
        table.add_column(name, justify="left" if name == "tool" else "right")
    for line in lines:
        ratios = (
            [line.backup / restic.backup, line.stored / restic.stored, line.restore / restic.restore] if restic is not None else []
        )
        cells = [line.tool, f"{line.backup:.2f}", f"{line.restore:.2f}", f"{line.stored / 1e6:,.1f}"]
        table.add_row(*cells, *(f"{ratio:.2f}" for ratio in ratios))
    console.print(table)


def plot(path: Path, lines: Sequence[Measured]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(10, 3))
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=355_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()) / "strongroom-bench")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    asked = parser.parse_args()
    console = Console()
    source = asked.directory / f"hnsw-{asked.rows}.faiss"
    if not source.exists():
        console.print(f"building an HNSW index of {asked.rows:,} vectors ({real_vectors()[1]}) …")
        console.print(f"  built in {hnsw_index(source, asked.rows):.1f} s")
    results: list[Measured] = []
    for number in range(asked.runs):
        for tool in tools():
            results.append(measure(tool, source, asked.directory))
            console.print(f"run {number + 1}: {results[-1]}", highlight=False, soft_wrap=True)
    lines = medians(results)
    show(console, source, lines, asked.runs)
    if asked.json:
        asked.json.write_text(json.dumps([asdict(line) for line in lines], indent=2))
    if asked.plot:
        plot(asked.plot, lines)


if __name__ == "__main__":
    main()
