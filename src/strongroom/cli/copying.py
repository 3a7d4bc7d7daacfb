"""The commands that keep a repository in several places: copy and region."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from strongroom.cli.app import AsJson, KeyFile, Quiet, Repo, _open, _progress, _require_command, _say, app
from strongroom.cli.journal import _stop_on_signals
from strongroom.errors import WrongRequest

if TYPE_CHECKING:
    from strongroom.operations.copy import CopyReport
    from strongroom.operations.replicate import Lag

Region = Annotated[str | None, typer.Option("--region", help="Where the replica lies, if nobody has said so yet.")]
To = Annotated[list[str] | None, typer.Option("--to", help="Path or URL of a replica, new or present; repeatable.")]
LeaveOut = Annotated[bool, typer.Option("--leave-out", help="Leave out what residency forbids, instead of refusing all.")]
FollowForget = Annotated[bool, typer.Option("--follow-forget", help="Forget at the replica what was forgotten.")]
Sources = Annotated[list[str] | None, typer.Option("--source", help="Only snapshots of this source; repeatable.")]
Collections = Annotated[
    list[str] | None, typer.Option("--collection", help="Only snapshots that hold no other collections; repeatable.")
]
Memory = Annotated[str, typer.Option(help="Bytes of objects in memory at once.")]
Bandwidth = Annotated[str, typer.Option(help="Bytes a second, such as 20M; 0 is no limit.")]
region = typer.Typer(rich_markup_mode=None)
app.add_typer(region, name="region")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@app.command("copy")
def copy_command(
    repo: Repo,
    to: Annotated[str, typer.Option("--to", help="Path or URL of the replica, new or present.")],
    snapshots: Annotated[list[str] | None, typer.Argument(help="'latest' or beginnings of ids; all without any.")] = None,
    source: Sources = None,
    collection: Collections = None,
    region_: Region = None,
    leave_out: LeaveOut = False,
    follow_forget: FollowForget = False,
    read_back: Annotated[bool, typer.Option("--read-back", help="Read all that was stored there, and compare.")] = False,
    memory: Memory = "128M",
    bandwidth: Bandwidth = "0",
    key_file: KeyFile = None,
    json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Make or complete a replica in another store; only what is missing moves. Exit code 4 if something is damaged here."""
    from strongroom.operations.copy import CopyOptions, Selection

    chosen = Selection(tuple(snapshots or ()), tuple(source or ()), tuple(collection or ()))
    options = CopyOptions(chosen, region_, leave_out, follow_forget, size_of(memory), size_of(bandwidth), read_back)
    room = _open(repo, key_file)
    with _progress(quiet) as progress:
        report = room.copy(to, options, progress=progress)
    from strongroom.cli import render

    _say(json, {**render.plain(report), "whole": report.whole}, lambda: show_copy(report))
    if not report.whole:
        raise typer.Exit(4)


@app.command("replicate")
def replicate_command(
    repo: Repo,
    to: To = None,
    every: Annotated[float, typer.Option(min=0.05, help="Seconds between two looks.")] = 5.0,
    once: Annotated[bool, typer.Option("--once", help="Stop when each is complete, or has failed.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Only show how far behind each is.")] = False,
    metrics_file: Annotated[Path | None, typer.Option(help="Keep the lag here, as Prometheus reads it.")] = None,
    source: Sources = None,
    collection: Collections = None,
    leave_out: LeaveOut = False,
    follow_forget: FollowForget = False,
    memory: Memory = "128M",
    bandwidth: Bandwidth = "0",
    key_file: KeyFile = None,
    json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Keep replicas in step until interrupted, each at its own pace. Exit code 1 if one could not be completed at the end."""
    from strongroom.operations.copy import CopyOptions, Selection
    from strongroom.operations.replicate import Lag, ReplicateOptions, lags_of, write_metrics

    room, lags = _open(repo, key_file), dict[str, Lag]()

    def tell(lag: Lag) -> None:
        lags[lag.target] = lag
        if metrics_file is not None:
            write_metrics(metrics_file, lags.values())
        if not quiet and not status:
            from strongroom.cli import render

            render.err.print(_lag_line(lag), highlight=False)

    if status:
        for lag in lags_of(room.repository, to or ()):
            tell(lag)
    else:
        stop = threading.Event()
        _stop_on_signals(stop)
        chosen = Selection((), tuple(source or ()), tuple(collection or ()))
        copying = CopyOptions(chosen, None, leave_out, follow_forget, size_of(memory), size_of(bandwidth))
        room.replicate(to or (), ReplicateOptions(copying, every, once), stop=stop, tell=tell)
    from strongroom.cli import render

    _say(json, list(lags.values()), lambda: [*map(render.line, map(_lag_line, lags.values()))].clear())
    if any(lag.problem for lag in lags.values()):
        raise typer.Exit(1)


def _lag_line(lag: Lag) -> str:
    from strongroom.cli.bars import amount

    if lag.problem:
        return f"{lag.target}: {lag.seconds:,.0f} s behind; {lag.problem}"
    if not lag.objects:
        return f"{lag.target}: in step"
    what = f"{lag.snapshots} snapshots, {lag.segments} segments, {lag.objects:,} objects, {amount(lag.bytes, 'bytes')}"
    return f"{lag.target}: {lag.seconds:,.0f} s behind; it lacks {what}"


@region.callback(invoke_without_command=True)
def region_group(context: typer.Context) -> None:
    """Say in which region a repository's store lies, or show it."""
    _require_command(context)


@region.command("set")
def region_set(
    name: Annotated[str, typer.Argument(help="Such as eu-central-1.")], repo: Repo, key_file: KeyFile = None, json: AsJson = False
) -> None:
    """Say where the store lies: signed, and what residency rules look at."""
    from strongroom.cli import render

    said = _open(repo, key_file).name_region(name)
    _say(json, {"region": name, "version": said.version}, lambda: render.show_done(f"the store is in {name}"))


@region.command("show")
def region_show(repo: Repo, key_file: KeyFile = None, json: AsJson = False) -> None:
    """Show where the store lies."""
    from strongroom.cli import render
    from strongroom.repository.region import region_of

    found = _open(repo, key_file).repository
    name = region_of(found)
    text = f"{found.store.url} is in {name}" if name else f"nobody has said in which region {found.store.url} lies"
    _say(json, {"region": name}, lambda: render.line(text))


def size_of(text: str) -> int:
    """'20M' as bytes. Raises WrongRequest."""
    number, unit = (text[:-1], text[-1:].upper()) if text[-1:].isalpha() else (text, "")
    if not number.isdecimal() or unit not in _UNITS:
        raise WrongRequest(f"{text!r} is no number of bytes", hint="write it as 512K, 20M or 1G")
    return int(number) * _UNITS[unit]


def show_copy(report: CopyReport) -> None:
    from strongroom.cli import render
    from strongroom.cli.bars import amount

    for problem in (*report.damaged, *(f"{name}: other bytes are at the replica under this name" for name in report.different)):
        render.show_problem(problem)
    for snapshot in report.incomplete:
        render.show_problem(f"snapshot {snapshot[:12]} was not copied: a blob of it is nowhere whole")
    for left in report.left_out:
        render.line(("  left out  ", "yellow"), left)
    if report.forgotten:
        render.line(f"  forgotten {len(report.forgotten)} at the replica, as here")
    render.line(("✓", "green") if report.whole else ("✗", "red"), f" {report.snapshots} snapshots copied to {report.target}")
    render.line(f"  moved     {report.objects:,} objects, {amount(report.bytes, 'bytes')}")
