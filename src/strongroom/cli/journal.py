"""The commands of the journal: follow, status, batches, release."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, Annotated, Any

import typer

from strongroom.cli.app import AsJson, KeyFile, Quiet, Repo, _open, _require_command, _say, app
from strongroom.errors import NotFound

if TYPE_CHECKING:
    from strongroom.operations.follow.run import Event, FollowReport
    from strongroom.operations.journal.status import StreamStatus

journal = typer.Typer(rich_markup_mode=None)
app.add_typer(journal, name="journal")
Source = Annotated[str, typer.Argument(help="What is followed, for example chroma:///srv/chroma")]


@journal.callback(invoke_without_command=True)
def journal_(context: typer.Context) -> None:
    """Keep every change of a source, so that any moment can be restored."""
    _require_command(context)


@journal.command("follow")
def journal_follow(
    source: Source,
    repo: Repo,
    every: Annotated[
        float | None, typer.Option(min=0.6, help="Seal after so many seconds: the RPO (5); with --scan, scan so often (60).")
    ] = None,
    size: Annotated[int, typer.Option(min=1 << 16, help="Seal after so many bytes.")] = 8 << 20,
    poll: Annotated[float, typer.Option(min=0.01, help="Ask the engine every so many seconds.")] = 0.1,
    batch_key: Annotated[str | None, typer.Option(help="The payload key that names the ingest batch of a row.")] = None,
    scan: Annotated[
        bool, typer.Option("--scan", help="Compare the source with what it was, row by row: for engines without a log.")
    ] = False,
    once: Annotated[bool, typer.Option("--once", help="Stop when all that there is was sealed.")] = False,
    until_eof: Annotated[
        bool, typer.Option("--until-eof", help="Stop when standard input ends, too: with the process that started it.")
    ] = False,
    key_file: KeyFile = None,
    json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Follow a source until interrupted. What is pending is sealed on Ctrl-C or SIGTERM."""
    from strongroom.operations.follow.run import FollowOptions

    room = _open(repo, key_file)
    stop = threading.Event()
    _stop_on_signals(stop)
    if until_eof:
        threading.Thread(target=_stop_at_eof, args=(stop,), daemon=True).start()
    options = FollowOptions(every or (60.0 if scan else 5.0), size, poll, batch_key, once, scan=scan)
    report = room.follow(source, options, stop=stop, tell=(lambda _: None) if quiet else _tell)
    _say(json, report, lambda: _show_followed(report))


def _stop_on_signals(stop: threading.Event) -> None:
    """On Ctrl-C and SIGTERM. Another thread sets the event: a signal may come while this one, waiting for it, holds its lock."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: threading.Thread(target=stop.set).start())


def _stop_at_eof(stop: threading.Event) -> None:
    while os.read(0, 1024):
        pass
    stop.set()


@journal.command("status")
def journal_status(
    repo: Repo,
    source: Annotated[str | None, typer.Argument(help="Only this source's.")] = None,
    ask: Annotated[bool, typer.Option(help="Ask the sources what they have that isn't kept yet.")] = True,
    key_file: KeyFile = None,
    json: AsJson = False,
) -> None:
    """Show what each journal covers, how far behind it is, and its holes. Exit code 4 if a segment is missing or damaged."""
    found = _open(repo, key_file).journal_status(source, ask=ask)
    if source is not None and not found:
        raise NotFound(f"there is no journal of {source}", hint="'strongroom journal follow SOURCE' keeps one")
    _say(json, found, lambda: _show_status(found))
    if any(one.problems for one in found):
        raise typer.Exit(4)


@journal.command("batches")
def journal_batches(
    repo: Repo,
    source: Annotated[str | None, typer.Argument(help="Of which source, if there are journals of several.")] = None,
    key_file: KeyFile = None,
    json: AsJson = False,
) -> None:
    """List the ingest batches in a journal, by time: what 'restore --undo' can take back."""
    from strongroom.cli.undoing import show_batches

    found = _open(repo, key_file).journal_batches(source)
    _say(json, found, lambda: show_batches(found))


@journal.command("release")
def journal_release(source: Source, repo: Repo, key_file: KeyFile = None, json: AsJson = False) -> None:
    """Stop following for good: the engine need not hold its log back any more. What is kept stays."""
    from strongroom.cli import render

    held = _open(repo, key_file).release(source)
    _say(json, {"released": held}, lambda: render.show_done(f"{source} {'is released' if held else 'held nothing back'}"))


def _tell(event: Event) -> None:
    from strongroom.cli import render
    from strongroom.cli.bars import amount

    if event.what == "sealed":
        size = amount(event.bytes, "bytes")
        text = f"{event.text}: {event.operations:,} operations, {size}, kept {event.lag:.1f} s after the first"
        if not event.operations:
            return
    else:
        text = {"snapshot": "snapshot ", "gap": "GAP: "}.get(event.what, "") + event.text
    render.err.print(text, style="yellow" if event.what in ("gap", "unseen", "waiting") else None, highlight=False, soft_wrap=True)


def _show_followed(report: FollowReport) -> None:
    from strongroom.cli import render
    from strongroom.cli.bars import amount

    size = amount(report.bytes, "bytes")
    render.show_done(f"{report.operations:,} operations in {report.segments:,} segments kept, {size}; RPO {report.worst_lag:.1f} s")
    for gap in report.gaps:
        render.line(("  gap       ", "yellow"), gap)


def _show_status(found: list[StreamStatus]) -> None:
    from strongroom.cli import render
    from strongroom.cli.bars import amount

    if not found:
        render.line("nothing is followed: see 'strongroom journal follow'")
    for one in found:
        size = amount(one.bytes, "bytes")
        render.line((one.source, "bold"), f"  {one.operations:,} operations in {one.segments:,} segments, {size}")
        render.line(f"  covers    {one.since} to {one.until}")
        behind: Any = f"; {one.behind.operations:,} operations, {amount(one.behind.bytes, 'bytes')}" if one.behind else ""
        render.line(f"  lag       {one.lag:.1f} s{behind}")
        if one.kind == "scan":
            render.line("  moments   those of scans: what happened between two of them has the time of the later one")
        if one.rpo is not None:
            render.line(f"  RPO       {one.rpo:.1f} s achieved: the longest that an operation waited to be kept")
        for hole in one.holes:
            render.line(("  hole      ", "yellow"), f"{hole.since} to {hole.until}: {hole.reason}")
        for part in one.unseen:
            render.line(("  unseen    ", "yellow"), f"{part.since} to {part.until}: {part.reason}")
        for problem in one.problems:
            render.line(("  damaged   ", "red"), problem)
