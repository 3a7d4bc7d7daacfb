"""The command that tells how much was proven, and when: coverage."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from strongroom.cli.app import AsJson, KeyFile, Repo, _open, _say, app
from strongroom.errors import WrongRequest, from_os_error

if TYPE_CHECKING:
    from strongroom.operations.coverage import CoverageReport, Covered


@app.command()
def coverage(
    repo: Repo,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print a table as CSV: all, each snapshot, each collection.")] = False,
    metrics_file: Annotated[
        Path | None, typer.Option("--metrics-file", help="Write it for Prometheus here, in one step; for a textfile collector.")
    ] = None,
    key_file: KeyFile = None,
    json: AsJson = False,
) -> None:
    """Show how much of what the snapshots need was proven lately, and what never was. Exit code 4 if a note of that is no good."""
    from strongroom.operations.coverage import as_lines, as_metrics

    if as_csv and json:
        raise WrongRequest("--csv and --json are two ways to print the same", hint="give one of them")
    report = _open(repo, key_file).coverage()
    if metrics_file:
        _write(metrics_file, as_metrics(report))
    if as_csv:
        table = io.StringIO()
        lines = as_lines(report)
        writer = csv.DictWriter(table, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
        sys.stdout.write(table.getvalue())
    else:
        _say(json, report, lambda: _show(report))
    if report.problems:
        raise typer.Exit(4)


def _write(path: Path, text: str) -> None:
    """A collector that reads meanwhile sees the old file or the new one."""
    fresh = path.with_name(f".{path.name}.fresh")
    try:
        fresh.write_text(text)
        fresh.replace(path)
    except OSError as error:
        raise from_os_error(error, str(path)) from error


def _show(report: CoverageReport) -> None:
    from strongroom.cli import render

    render.line(("all live snapshots", "bold"))
    _show_covered(report.covered, "  ")
    if report.oldest_unproven:
        render.line(
            ("  unproven  ", "yellow"), f"the oldest snapshot that needs some of it is of {_time(report.oldest_unproven)} UTC"
        )
    for one in report.collections:
        name = one.collection or "(files of no collection)"
        days = "  ".join(f"{d} d {one.covered.share(d):>4.0%}" for d in one.covered.within)
        never = f"  never {one.covered.never.blobs:,} blobs" if one.covered.never.blobs else ""
        render.line((one.snapshot[:12], "bold"), f"  {_time(one.created)}  {name:<24}  {days}{never}")
    for problem in report.problems:
        render.show_problem(problem)


def _show_covered(covered: Covered, indent: str) -> None:
    from strongroom.cli import render

    for days, share in covered.within.items():
        told = f"{covered.share(days):>6.1%}  {share.blobs:,} of {covered.total.blobs:,} blobs, {_bytes(share.bytes)}"
        render.line(f"{indent}proven within {days:>2} {'day ' if days == 1 else 'days'}  {told}")
    never = covered.never
    damaged = f", {covered.damaged.blobs:,} of them found damaged" if covered.damaged.blobs else ""
    style = "yellow" if never.blobs else "green"
    render.line((f"{indent}never proven           ", style), f"{never.blobs:,} blobs, {_bytes(never.bytes)}{damaged}")
    oldest = _time(covered.oldest) + " UTC" if covered.oldest else "none"
    render.line(f"{indent}least recent proof     {oldest}")


def _time(text: str) -> str:
    return text[:19].replace("T", " ")


def _bytes(count: int) -> str:
    from strongroom.cli.bars import amount

    return amount(count, "bytes")
