"""The commands of object lock: lock set, extend, status and recover."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from strongroom.cli.app import (
    AsJson,
    KeyFile,
    Quiet,
    Repo,
    _asked_password,
    _open,
    _progress,
    _require_command,
    _say,
    app,
)
from strongroom.cli.pruning import days_and_hours
from strongroom.errors import WrongRequest
from strongroom.repository.lock_mode import Mode

if TYPE_CHECKING:
    from strongroom.operations.lock.extend import ExtendReport
    from strongroom.operations.lock.recover import RecoverReport
    from strongroom.operations.lock.status import LockStatus

locks = typer.Typer(help="Object lock: what the store itself lets nobody delete.", invoke_without_command=True)
app.add_typer(locks, name="lock")
_SHOWN = 20
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]


@locks.callback(invoke_without_command=True)
def lock(context: typer.Context) -> None:
    """Object lock: what the store itself lets nobody delete."""
    _require_command(context)


@locks.command("set")
def lock_set(
    repo: Repo,
    for_: Annotated[str | None, typer.Option("--for", help="How long from each extension on, such as 30d.")] = None,
    mode: Annotated[Mode, typer.Option(help="Who may end a lock before its time.")] = Mode.COMPLIANCE,
    off: Annotated[bool, typer.Option("--off", help="Lock nothing from now on; what is locked stays so until its time.")] = False,
    dry_run: DryRun = False,
    key_file: KeyFile = None,
    json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Have the bucket lock all that snapshots need, what is stored from now on from its first moment."""
    from strongroom.cli import render

    if (for_ is None) is not off:
        raise WrongRequest("nothing says for how long" if not off else "--for and --off", hint="write --for 30d, or --off")
    period = days_and_hours(for_, "--for") if for_ else timedelta()
    room = _open(repo, key_file)
    with _progress(quiet) as progress:
        report = room.set_lock(period, mode, dry_run=dry_run, progress=progress)
    if report is None:
        _say(json, {"off": True}, lambda: render.show_done("nothing is locked from now on; what is locked stays so until its time"))
        return
    _say_extended(report, json=json)


@locks.command("extend")
def lock_extend(repo: Repo, dry_run: DryRun = False, key_file: KeyFile = None, json: AsJson = False, quiet: Quiet = False) -> None:
    """Prolong the locks of what snapshots need. Run it every day. Exit code 4 if something is hidden or can't be locked."""
    room = _open(repo, key_file)
    with _progress(quiet) as progress:
        report = room.extend_locks(dry_run=dry_run, progress=progress)
    _say_extended(report, json=json)


@locks.command("status")
def lock_status(repo: Repo, key_file: KeyFile = None, json: AsJson = False, quiet: Quiet = False) -> None:
    """Show what is locked until when. Exit code 4 if something isn't locked, hidden or overwritten that is needed."""
    from strongroom.cli import render

    room = _open(repo, key_file)
    with _progress(quiet) as progress:
        found = room.lock_status(progress)
    rule = None if found.rule is None else {**render.plain(found.rule), "period": found.rule.period.total_seconds()}
    _say(json, {**render.plain(found), "rule": rule, "passed": found.passed}, lambda: _show_status(found))
    if not found.passed:
        raise typer.Exit(4)


@locks.command("recover")
def lock_recover(
    repo: Repo,
    since: Annotated[str | None, typer.Option(help="Bring back what was forgotten or pruned after this time (UTC), too.")] = None,
    dry_run: DryRun = False,
    key_file: KeyFile = None,
    json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Bring back what was hidden or overwritten, be it all of the repository. Exit code 4 if something can't be."""
    from strongroom.cli import render
    from strongroom.governance import recover_repository

    moment = None if since is None else _time(since)
    password = _asked_password(key_file)
    with _progress(quiet) as progress:
        report = recover_repository(repo, password=password, key_file=key_file, since=moment, dry_run=dry_run, progress=progress)
    _say(json, {**render.plain(report), "passed": report.passed}, lambda: _show_recovered(report))
    if not report.passed:
        raise typer.Exit(4)


def _time(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise WrongRequest(f"--since {text!r} is no time", hint="write 2030-12-31 or 2030-12-31T12:00:00Z") from error
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)


def _say_extended(report: ExtendReport, *, json: bool) -> None:
    from strongroom.cli import render

    _say(json, {**render.plain(report), "passed": report.passed}, lambda: _show_extended(report))
    if not report.passed:
        raise typer.Exit(4)


def _show_extended(report: ExtendReport) -> None:
    from strongroom.cli import render

    _show_problems([*report.hidden, *report.problems])
    did = "would be locked anew" if report.dry_run else "locked anew"
    render.line(("✓", "green"), f" {report.extended:,} of {_amount(report.objects, report.bytes)} that are needed {did}")
    if report.until:
        render.line(f"  none of them is free before {_shown(report.until)}")


def _show_status(found: LockStatus) -> None:
    from strongroom.cli import render

    _show_problems(found.findings)
    rule = found.rule
    said = f"{_period(rule.period)}, {rule.mode}" if rule and rule.is_on else "none"
    render.line("rule    ", (said, "bold"), f"      the bucket's own: {found.bucket}")
    for one in found.folders:
        until = f"until {_shown(one.until)}" if one.until else "not locked"
        render.line(f"  {one.folder:<12} {one.locked:>7,} of {_amount(one.objects, one.bytes):<24} {until}")
    if found.spare_objects:
        render.line(
            f"  not needed   {_amount(found.spare_objects, found.spare_bytes)}: 'strongroom prune' frees them once no lock holds"
        )
    if found.passed:
        render.line(("✓", "green"), f" all that is needed is locked, until {_shown(found.until)} at least")


def _show_recovered(report: RecoverReport) -> None:
    from strongroom.cli import render

    _show_problems(report.failed)
    for name in report.strange[:_SHOWN]:
        render.line(f"  not ours  {name}")
    for name in report.epochs:
        render.line(f"  {'would be ' if report.dry_run else ''}hidden    {name}: an epoch of the keys that was begun since then")
    did = "would be brought back" if report.dry_run else "brought back"
    render.line(("✓", "green"), f" {_amount(len(report.recovered), report.bytes)} {did}, of {report.objects:,} that are needed")
    if report.recovered and not report.dry_run:
        render.line("  'strongroom verify --level data' proves that all is whole; then take the attacker's credentials away")


def _show_problems(problems: Any) -> None:
    from strongroom.cli import render

    for problem in list(problems)[:_SHOWN]:
        render.show_problem(problem)
    if len(problems) > _SHOWN:
        render.show_problem(f"and {len(problems) - _SHOWN:,} more: --json names all")


def _amount(objects: int, count: int) -> str:
    from strongroom.cli.bars import amount

    return f"{objects:,} {'object' if objects == 1 else 'objects'}, {amount(count, 'bytes')}"


def _period(period: timedelta) -> str:
    return f"{period.days} days" if period.days else f"{period.seconds // 3600} hours"


def _shown(text: str) -> str:
    return f"{text[:16].replace('T', ' ')} UTC"
