"""The commands that drill: drill, drill history, drill verify."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from strongroom.cli.app import AsJson, KeyFile, Quiet, Repo, _open, _progress, _say, app
from strongroom.errors import WrongRequest, from_os_error

if TYPE_CHECKING:
    from strongroom.operations.drill import DrillHistory, DrillReport

drills = typer.Typer(rich_markup_mode=None)
app.add_typer(drills, name="drill")


@drills.callback(invoke_without_command=True)
def drill(
    context: typer.Context,
    repo: Annotated[
        str | None, typer.Option("--repo", "-r", envvar="STRONGROOM_REPOSITORY", help="Path or URL of the repository.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Of this source; else of the newest snapshot's.")] = None,
    moment: Annotated[str, typer.Option(help="newest, random (a snapshot), or at=TIME (by the journal).")] = "newest",
    seed: Annotated[int | None, typer.Option(min=0, help="Draw the same random snapshot again.")] = None,
    objectives: Annotated[str, typer.Option(help="Such as rpo=5m,rto=30m,recall=0.95,p95=50ms.")] = "",
    scratch: Annotated[Path | None, typer.Option(help="Restore below this directory, and remove it.")] = None,
    target: Annotated[str | None, typer.Option(help="Restore to this URL, which must be free, and leave it there.")] = None,
    budget: Annotated[int | None, typer.Option(min=1, help="Level data reads at most this many bytes more.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write report.json, report.html and junit.xml into this directory.")] = None,
    key_file: KeyFile = None,
    json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Restore a recovery point to a scratch target, restart it, verify and measure it. Exit code 4 if it failed."""
    if context.invoked_subcommand is not None:
        return
    from strongroom.operations.drill.objectives import parse

    if repo is None:
        raise WrongRequest("no repository was named", hint="give --repo, or set STRONGROOM_REPOSITORY")
    if scratch is not None and target is not None:
        raise WrongRequest("--scratch and --target are two places to restore to", hint="give one of them")
    wanted = parse(objectives)
    room = _open(repo, key_file)
    wish: dict[str, Any] = {"moment": moment, "seed": seed, "objectives": wanted, "scratch": scratch, "budget": budget}
    with _progress(quiet) as progress:
        report = room.drill(target, source=source, out=out, progress=progress, **wish)
    _say(json, _summary(report), lambda: _show(report, out))
    if not report.passed:
        raise typer.Exit(4)


@drills.command()
def history(
    repo: Repo,
    source: Annotated[str | None, typer.Option(help="Only drills of this source.")] = None,
    key_file: KeyFile = None,
    json: AsJson = False,
) -> None:
    """List the drills, oldest first. Exit code 4 if a report can't be believed."""
    found = _open(repo, key_file).drill_history(source)
    reports = [_summary(one) for one in found.reports]
    told = {"public_key": found.public_key, "public_keys": found.public_keys, "drills": reports, "problems": found.problems}
    _say(json, told, lambda: _show_history(found))
    if found.problems:
        raise typer.Exit(4)


@drills.command()
def verify(
    report: Annotated[Path, typer.Argument(help="A report.json that 'drill --out' wrote.")],
    public_key: Annotated[
        str | None, typer.Option("--public-key", help="Whose signature it must be: 64 hexadecimal digits.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Check the signature of a report, without the repository. Exit code 4 if it isn't the key's, or the report was altered."""
    from strongroom.operations.drill.signing import check

    try:
        content = report.read_bytes()
    except OSError as error:
        raise from_os_error(error, str(report)) from error
    found = check(str(report), content, public_key)
    _say(json, {"signed": True, **_summary(found)}, lambda: _show_signed(found))


def _summary(report: DrillReport) -> dict[str, Any]:
    from strongroom.operations.drill.report import as_body

    return {**as_body(report), "id": report.id, "unkept": report.unkept, "failures": list(report.failures)}


def _show(report: DrillReport, out: Path | None) -> None:
    from strongroom.cli import render
    from strongroom.operations.drill.objectives import duration

    point = report.point
    if point:
        journal = f" and {point.operations:,} operations" if point.journal else ""
        seed = f", seed {point.seed}" if point.seed is not None else ""
        render.line(
            (point.source, "bold"), f"  as of {_time(point.at)} UTC ({point.choice}{seed}): snapshot {point.snapshot[:12]}{journal}"
        )
    if report.rung:
        render.line(f"  {report.rung} restore to {report.target_engine}; {report.restart or 'it did not open again'}")
    for step in report.steps:
        mark = ("✓", "green") if step.passed else ("✗", "red") if step.reached else ("–", "red")
        render.line("  ", mark, f" {step.name:<15} {step.looked if step.reached else 'not reached'}")
        for finding in step.findings:
            render.line(("      " + finding, "red"))
    times = "  ".join(f"{name} {duration(seconds)}" for name, seconds in report.stages.items())
    render.line(f"  took     {times}")
    met = {one.name: one for one in report.objectives}
    for name, value in _measured(report):
        one = met.get(name)
        told = "" if one is None else f"   {one.verdict}: {one.limit}"
        render.line(f"  {name:<8} {value}", (told, "" if one is None else "green" if one.passed else "red"))
    if report.unkept:
        render.show_problem(f"the report could not be kept in the repository: {report.unkept}")
    kept = f"  report drills/{report.id[:12]}" if report.id else ""
    render.line(("✓ passed", "green") if report.passed else ("✗ failed", "red"), f"{kept}{f'; written to {out}' if out else ''}")


def _measured(report: DrillReport) -> list[tuple[str, str]]:
    from strongroom.operations.drill.objectives import duration

    def told(seconds: float | None) -> str:
        return "was not measured" if seconds is None else duration(seconds)

    recall = report.lowest_recall
    found = [("rto", told(report.rto)), ("rpo", told(report.rpo))]
    found.append(("recall", "was not measured" if recall is None else f"{recall:.4f}"))
    recorded = max((one.recorded_p95 for one in report.latency.values() if one.recorded_p95), default=None)
    beside = f" ({duration(recorded)} at backup)" if recorded else ""
    p50 = max((one.p50 for one in report.latency.values()), default=None)
    found += [("p50", told(p50)), ("p95", told(report.highest_p95) + beside)]
    envelope = next((one for one in report.objectives if one.name == "envelope"), None)
    if envelope is not None:
        found.append(("envelope", "was not measured" if envelope.measured is None else f"{envelope.measured:.2f}x"))
    return found


def _show_history(found: DrillHistory) -> None:
    from strongroom.cli import render

    if not found.reports:
        render.line("there was no drill yet")
    else:
        render.line((f"{'drilled (UTC)':<19}  {'verdict':<7}  {'RTO':>12}  {'RPO':>12}  {'recall':>7}  {'p95':>9}  source", "bold"))
    for one in found.reports:
        measured = dict(_measured(one))
        p95 = measured["p95"].partition(" (")[0]
        shown = [
            ("–" if value.startswith("was not") else value) for value in (measured["rto"], measured["rpo"], measured["recall"], p95)
        ]
        numbers = f"{shown[0]:>12}  {shown[1]:>12}  {shown[2]:>7}  {shown[3]:>9}"
        verdict = ("passed ", "green") if one.passed else ("failed ", "red")
        render.line(f"{_time(one.started)}  ", verdict, f"  {numbers}  {one.point.source if one.point else ''}")
    for problem in found.problems:
        render.show_problem(problem)


def _show_signed(report: DrillReport) -> None:
    from strongroom.cli import render

    word = "passed" if report.passed else "failed"
    source = report.point.source if report.point else report.repository
    render.line(("✓", "green"), f" signed as it is: the drill of {source} at {_time(report.started)} UTC {word}")
    for one in report.failures:
        render.line(f"  {one}")


def _time(text: str) -> str:
    return text[:19].replace("T", " ")
