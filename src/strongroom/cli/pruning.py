"""The commands that take away: forget and prune."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from strongroom.cli.app import AsJson, KeyFile, Quiet, Repo, _open, _progress, _say, app
from strongroom.errors import WrongRequest

if TYPE_CHECKING:
    from strongroom.operations.forget import Fate, ForgetReport
    from strongroom.operations.prune.run import Amount, PruneReport

Count = Annotated[int | None, typer.Option(min=1, help="How many to keep.")]


@app.command()
def forget(
    repo: Repo,
    snapshots: Annotated[list[str] | None, typer.Argument(help="'latest' or the beginnings of ids; or rules.")] = None,
    keep_last: Count = None,
    keep_hourly: Count = None,
    keep_daily: Count = None,
    keep_weekly: Count = None,
    keep_monthly: Count = None,
    keep_yearly: Count = None,
    keep_within: Annotated[str | None, typer.Option(help="As long before the newest, such as 14d or 2y5m7d3h.")] = None,
    keep_tag: Annotated[list[str] | None, typer.Option(help="KEY=VALUE or KEY, any number of times.")] = None,
    source: Annotated[str | None, typer.Option(help="Only snapshots of this source.")] = None,
    any_host: Annotated[bool, typer.Option("--any-host", help="A path is the same source on all hosts.")] = False,
    a_day: Annotated[
        int | None, typer.Option(min=1, help="No more than so many a day are genuine; those of a fuller day count for no rule.")
    ] = None,
    trust_created: Annotated[
        bool, typer.Option("--trust-created", help="They were made when they say, whenever they were stored: true of a copy.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go, and why.")] = False,
    key_file: KeyFile = None,
    json: AsJson = False,
) -> None:
    """Forget snapshots: those named, or those that no rule keeps. Rules count for each source by itself, in UTC."""
    from strongroom.operations.forget import ForgetOptions
    from strongroom.policy.retention import Duration, Rules, Trust

    rules = Rules(
        last=keep_last or 0,
        hourly=keep_hourly or 0,
        daily=keep_daily or 0,
        weekly=keep_weekly or 0,
        monthly=keep_monthly or 0,
        yearly=keep_yearly or 0,
        within=None if keep_within is None else Duration.parse(keep_within),
        tags=tuple(_tag(text) for text in keep_tag or []),
    )
    options = ForgetOptions(tuple(snapshots or ()), rules, source, any_host, dry_run, Trust(a_day or 0, trust_created))
    report = _open(repo, key_file).forget(options)
    _say(json, {"dry_run": dry_run, "snapshots": report.fates}, lambda: _show_forget(report))


@app.command()
def prune(
    repo: Repo,
    grace: Annotated[str, typer.Option(help="How long what nobody needs stays; longer than any backup takes.")] = "24h",
    max_unused: Annotated[
        float, typer.Option(min=0, max=100, help="Percent of what stays that may be unused before packs are written anew.")
    ] = 10,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    key_file: KeyFile = None,
    json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Free the room of what no snapshot needs. Safe beside backups, restores and prunes. Exit code 4 if a pack can't be read."""
    from strongroom.operations.prune.run import PruneOptions

    options = PruneOptions(days_and_hours(grace, "--grace"), max_unused / 100, dry_run)
    room = _open(repo, key_file)
    with _progress(quiet) as progress:
        report = room.prune(options, progress)
    _say(json, report, lambda: _show_prune(report))
    if report.problems:
        raise typer.Exit(4)


def _tag(text: str) -> tuple[str, str | None]:
    key, equals, value = text.partition("=")
    if not key:
        raise WrongRequest(f"--keep-tag {text!r} names no tag", hint="write it as --keep-tag KEY=VALUE or --keep-tag KEY")
    return key, value if equals else None


def days_and_hours(text: str, option: str) -> timedelta:
    """Of an option's text such as 30d or 36h. Raises WrongRequest."""
    from strongroom.policy.retention import Duration

    duration = Duration.parse(text)
    if duration.years or duration.months:
        raise WrongRequest(f"{option} {text} has years or months", hint="write days and hours, such as 24h or 7d")
    return timedelta(days=duration.days, hours=duration.hours)


def _show_forget(report: ForgetReport) -> None:
    from strongroom.cli import render

    source = None
    for fate in report.fates:
        if fate.source != source:
            source = fate.source
            render.line((source or "not readable", "bold"))
        render.line(*_fate(fate))
    kept, gone = len(report.fates) - len(report.forgotten), len(report.forgotten)
    did = "would be forgotten" if report.dry_run else "forgotten"
    then = "; 'strongroom prune' frees what only they needed" if gone and not report.dry_run else ""
    render.line(("✓", "green"), f" {gone} {did}, {kept} kept{then}")


def _fate(fate: Fate) -> tuple[str | tuple[str, str], ...]:
    mark = ("  keep    ", "green") if fate.keep else ("  forget  ", "yellow")
    return mark, (fate.snapshot[:12], "bold"), f"  {fate.created[:19].replace('T', ' '):<19}  {', '.join(fate.reasons)}"


def _show_prune(report: PruneReport) -> None:
    from strongroom.cli import render

    for problem in report.problems:
        render.show_problem(problem)
    would = "would be " if report.dry_run else ""
    render.line(("✓", "green"), f" {would}deleted {_amount(report.deleted)}")
    if report.condemned.packs:
        copied = f" ({_amount(report.rewritten)} of them partly used: {_bytes(report.copied_bytes)} {would}copied)"
        render.line(f"  {would}condemned {_amount(report.condemned)}{copied if report.rewritten.packs else ''}")
    if report.waiting.packs and report.due:
        due = report.due[:16].replace("T", " ")
        render.line(f"  waiting   {_amount(report.waiting)}, the first of them until {due} UTC: prune again then")
    if report.locked.packs:
        render.line(f"  locked    {_amount(report.locked)} of these: the store doesn't let them go yet (object lock)")
    if report.unlisted.packs:
        render.line(f"  seen      {_amount(report.unlisted)} that no backup has finished with; condemned if that stays so")
    if report.trimmed.packs:
        count = report.trimmed.packs
        what = f"{count:,} journal {'segment' if count == 1 else 'segments'}, {_bytes(report.trimmed.bytes)}"
        render.line(f"  {would}trimmed   {what}: older than the oldest snapshot that they could be replayed on")
    if report.relocked:
        render.line(f"  {would}locked    {report.relocked:,} objects that snapshots need, anew")
    if report.freed.packs:
        render.line(f"  freed     {_objects(report.freed)}: old versions of what was deleted before")
    if report.versions.packs:
        render.line(
            f"  hidden    {_objects(report.versions)} that were deleted and are locked still, or were deleted within the grace"
        )
    if report.stays:
        render.line(f"  stays     {report.stays}")
    render.line(f"  kept      {_amount(report.kept)} for {report.snapshots} snapshots, {_bytes(report.unused_bytes)} of it unused")


def _amount(amount: Amount) -> str:
    return f"{amount.packs:,} {'pack' if amount.packs == 1 else 'packs'}, {_bytes(amount.bytes)}"


def _objects(amount: Amount) -> str:
    return f"{amount.packs:,} {'object' if amount.packs == 1 else 'objects'}, {_bytes(amount.bytes)}"


def _bytes(count: int) -> str:
    from strongroom.cli.bars import amount

    return amount(count, "bytes")
