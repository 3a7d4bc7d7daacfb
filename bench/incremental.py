"""What does a change cost? A full backup of an hnswlib index and its vectors, one when nothing changed, one after 1 % of the rows
was updated at random and 1 % inserted, and a restore: beside restic and borg. Interleaved runs, medians.

    python bench/incremental.py [--rows 200000] [--runs 3] [--beside STRONGROOM] [--json FILE] [--plot FILE.png]

Each tool starts with a fresh repository on the same disk, the source in the page cache; times are of whole processes. `limit` is
bench/limit.py (read, hash, encrypt and write durably what Strongroom stored, and nothing else) and one read of the source (`cat`);
`cold` is that read where the source isn't in the page cache.
Restores are of the last state and compared byte for byte; `durable` adds the time until all of it is on the disk. CPU seconds are
those of the process and its children, user and system: they depend less on what else the machine does. restic and borg are
measured if they are installed (Debian's packages); `--beside` is the program of another commit, measured in the same run.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from backup import ENVIRONMENT, LIMIT, STRONGROOM, Tool, run
from sources import hnswlib_states, real_vectors

_CPU = ("CPU: full", "unchanged", "1 % + 1 %", "restore")
SETTLED_SECONDS = 3
"""Files that were written a moment ago are read again, whatever their stamps say."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One tool in one run: seconds, bytes stored and CPU seconds of each kind of backup, the same of the restore."""

    tool: str
    full: float
    full_bytes: float
    unchanged: float
    unchanged_bytes: float
    incremental: float
    incremental_bytes: float
    restore: float
    restore_durable: float
    full_cpu: float
    unchanged_cpu: float
    incremental_cpu: float
    restore_cpu: float


def strongroom(name: str, program: str) -> Tool:
    """Our program, this commit's or another's."""
    return Tool(
        name,
        lambda repo: [program, "init", "-r", str(repo)],
        lambda repo, files: [program, "backup", "-q", "-r", str(repo), f"hnswlib://{files[0]}?space=l2"],
        lambda repo, name, out: [program, "restore", "-q", "-r", str(repo), "latest", f"hnswlib://{out / name}"],
    )


def tools(beside: Path | None) -> list[Tool]:
    """Those that are installed."""
    known = [
        strongroom("strongroom", STRONGROOM),
        *([strongroom("strongroom, other commit", str(beside))] if beside else []),
        Tool(
            "restic",
            lambda repo: ["restic", "init", "-q", "-r", str(repo)],
            lambda repo, files: ["restic", "backup", "-q", "-r", str(repo), *files],
            lambda repo, _name, out: ["restic", "restore", "-q", "-r", str(repo), "latest", "--target", str(out)],
        ),
        Tool(
            "borg",
            lambda repo: ["borg", "init", "-e", "repokey-blake2", str(repo)],
            lambda repo, files: ["borg", "create", f"{repo}::{time.time_ns()}", *files],
            None,
        ),
    ]
    return [tool for tool in known if tool.name.startswith("strongroom") or shutil.which(tool.name)]


def measure(tool: Tool, states: Sequence[Sequence[Path]], place: Path) -> Measured:
    """A fresh repository: the first state, the same again, the second, and the second restored."""
    repo, out, source = place / f"{tool.name}-repo", place / f"{tool.name}-out", place / "source"
    for path in (repo, out, source, place / "state", place / "borg"):
        shutil.rmtree(path, ignore_errors=True)
    out.mkdir()
    environment = {**ENVIRONMENT, "STRONGROOM_STATE_DIR": str(place / "state"), "BORG_BASE_DIR": str(place / "borg")}
    files = _put(states[0], source)
    assert tool.prepare is not None  # noqa: S101 - both have one
    run(tool.prepare(repo), out, environment)
    costs: list[tuple[float, int, float]] = []
    for state in (None, None, states[1]):
        if state is not None:
            files = _put(state, source)
        before, cpu = _size(repo), _cpu_seconds()
        seconds, _ = run(tool.backup(repo, [str(file) for file in files]), out, environment)
        costs.append((seconds, _size(repo) - before, _cpu_seconds() - cpu))
    restore = durable = restore_cpu = float("nan")
    if tool.restore is not None:
        cpu = _cpu_seconds()
        restore, durable = run(tool.restore(repo, files[0].name, out), out, environment)
        restore_cpu = _cpu_seconds() - cpu
        for file in files:
            restored = next(path for path in out.rglob(file.name) if path.is_file())
            if not filecmp.cmp(restored, file, shallow=False):
                raise AssertionError(f"{tool.name} gave back other bytes of {file.name}")
    shutil.rmtree(out)
    shutil.rmtree(repo)
    full, unchanged, incremental = costs
    cpus = (full[2], unchanged[2], incremental[2], restore_cpu)
    return Measured(tool.name, *full[:2], *unchanged[:2], *incremental[:2], restore, durable, *cpus)


def limits(states: Sequence[Sequence[Path]], stored: Measured, place: Path) -> list[Measured]:
    """What reading, hashing, encrypting and writing takes at least, and what one read of the source takes: from the page cache, and
    from the disk."""
    out = place / "limit-out"
    shutil.rmtree(out, ignore_errors=True)
    files = [str(file) for file in states[0]]
    share = stored.full_bytes / sum(file.stat().st_size for file in states[0])
    began = _cpu_seconds()
    full, _ = run([sys.executable, LIMIT, *files, str(out), "--share", f"{share:.3f}"], place, ENVIRONMENT)
    wrote = _cpu_seconds()
    read, _ = run(["cat", *files], place, ENVIRONMENT)
    reading, nothing = _cpu_seconds() - wrote, float("nan")
    shutil.rmtree(out)
    known = (full, stored.full_bytes, read, nothing, read, nothing, nothing, nothing)
    limit = Measured("limit", *known, wrote - began, reading, reading, nothing)
    _let_go(states[0])
    cold, _ = run(["cat", *files], place, ENVIRONMENT)
    return [limit, Measured("cold", nothing, nothing, cold, nothing, cold, *[nothing] * 7)]


def _let_go(files: Sequence[Path]) -> None:
    """Have the system forget what it read of them."""
    for file in files:
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _put(state: Sequence[Path], source: Path) -> list[Path]:
    """Copy a state to where the source lies, as a writer would that saves over its files, and let it settle."""
    source.mkdir(exist_ok=True)
    files = [Path(shutil.copyfile(file, source / file.name)) for file in state]
    for file in files:
        file.read_bytes()
    os.sync()
    time.sleep(SETTLED_SECONDS)
    return files


def _cpu_seconds() -> float:
    """Of all commands so far and their children."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _size(repo: Path) -> int:
    return sum(path.stat().st_size for path in repo.rglob("*") if path.is_file())


def medians(results: Sequence[Measured]) -> list[Measured]:
    """One line a tool, in order of appearance."""
    lines = []
    for name in dict.fromkeys(one.tool for one in results):
        runs = [astuple(one)[1:] for one in results if one.tool == name]
        lines.append(Measured(name, *map(statistics.median, zip(*runs, strict=True))))
    return lines


def show(console: Console, lines: Sequence[Measured], title: str) -> None:
    table = Table(title=title, title_justify="left")
    for name in ("tool", "full s", "MB", "unchanged s", "kB", "1 % + 1 % s", "MB", "restore s", "durable", *_CPU):
        table.add_column(name, justify="left" if name == "tool" else "right")
    for line in lines:
        sizes = (line.full_bytes / 1e6, line.unchanged_bytes / 1e3, line.incremental_bytes / 1e6)
        cells = [f"{line.full:.2f}", f"{sizes[0]:.1f}", f"{line.unchanged:.2f}", f"{sizes[1]:.1f}"]
        cells += [f"{line.incremental:.2f}", f"{sizes[2]:.2f}", f"{line.restore:.2f}", f"{line.restore_durable:.2f}"]
        cells += [f"{one:.2f}" for one in (line.full_cpu, line.unchanged_cpu, line.incremental_cpu, line.restore_cpu)]
        table.add_row(line.tool, *(cell.replace("nan", "") for cell in cells))
    restic = next((line for line in lines if line.tool == "restic"), None)
    if restic is not None:
        ratios = [mine / its if its else float("nan") for mine, its in zip(astuple(lines[0])[1:], astuple(restic)[1:], strict=True)]
        table.add_row("strongroom / restic", *(f"{ratio:.3f}".replace("nan", "") for ratio in ratios))
    console.print(table)


def plot(path: Path, lines: Sequence[Measured]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [
        ("full, s", "full"),
        ("1 % + 1 %, s", "incremental"),
        ("restore, s", "restore"),
        ("full, MB", "full_bytes"),
        ("1 % + 1 %, MB", "incremental_bytes"),
        ("unchanged, kB", "unchanged_bytes"),
    ]
    lines = [line for line in lines if line.tool not in ("limit", "cold")]
    figure, axes = pyplot.subplots(2, 3, figsize=(10, 5))
    for axis, (title, name) in zip(axes.flat, shown, strict=True):
        scale = 1e6 if "MB" in title else 1e3 if "kB" in title else 1
        bars = axis.bar([line.tool for line in lines], [getattr(line, name) / scale for line in lines])
        bars[0].set_color("#2a6f97")
        for other in bars[1:]:
            other.set_color("#adb5bd")
        axis.bar_label(bars, fmt="%.3g")
        axis.margins(y=0.15)
        axis.set_title(title)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()) / "strongroom-bench")
    parser.add_argument("--beside", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    asked = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(f"two states of an hnswlib index of {asked.rows:,} vectors ({real_vectors()[1]}), made if they aren't there …")
    states = hnswlib_states(asked.directory / f"hnswlib-{asked.rows}", asked.rows)
    results: list[Measured] = []
    for number in range(asked.runs):
        for tool in tools(asked.beside):
            results.append(measure(tool, states, asked.directory))
            console.print(f"run {number + 1}: {results[-1]}", highlight=False, soft_wrap=True)
        mine = next(one for one in reversed(results) if one.tool == "strongroom")
        results += limits(states, mine, asked.directory)
    lines = medians(results)
    size = sum(file.stat().st_size for file in states[0]) / 1e6
    show(
        console, lines, f"an hnswlib index of {asked.rows:,} vectors and the vectors, {size:,.0f} MB, medians of {asked.runs} runs"
    )
    if asked.json:
        asked.json.write_text(json.dumps([asdict(line) for line in lines], indent=2))
    if asked.plot:
        plot(asked.plot, lines)


if __name__ == "__main__":
    main()
