"""The commands of legal holds: hold place, list and release."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from strongroom.cli.app import AsJson, KeyFile, Repo, _open, _require_command, _say, app
from strongroom.errors import WrongRequest

if TYPE_CHECKING:
    from strongroom.operations.hold import HoldReport
    from strongroom.repository.holds import HoldRecord

holds = typer.Typer(help="Legal holds: what may not go, whatever is asked for.", invoke_without_command=True)
app.add_typer(holds, name="hold")

Reason = Annotated[str, typer.Option(help="Why; it is kept for good.")]
Authority = Annotated[str, typer.Option(help="On whose authority: a person, a court, a case number.")]


@holds.callback(invoke_without_command=True)
def hold(context: typer.Context) -> None:
    """Legal holds: what may not go, whatever is asked for."""
    _require_command(context)


@holds.command("place")
def hold_place(
    repo: Repo,
    reason: Reason,
    authority: Authority,
    snapshots: Annotated[list[str] | None, typer.Argument(help="'latest' or the beginnings of ids.")] = None,
    collection: Annotated[
        list[str] | None, typer.Option(help="All snapshots that have it, made or to be made; any number of times.")
    ] = None,
    tenant: Annotated[str, typer.Option(help="All snapshots of this tenant: tagged tenant=NAME, or by the engine's catalog.")] = "",
    source: Annotated[str, typer.Option(help="Only of this source; alone: all of it.")] = "",
    until: Annotated[str | None, typer.Option(help="When it ends by itself, such as 2030-12-31; else it is released.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be held.")] = False,
    key_file: KeyFile = None,
    json: AsJson = False,
) -> None:
    """Place a hold on snapshots, collections, a tenant or a source: nothing of them goes by any road."""
    from strongroom.operations.hold import HoldOptions
    from strongroom.repository.holds import Scope

    scope = Scope(tuple(snapshots or ()), tuple(collection or ()), tenant, source)
    report = _open(repo, key_file).hold(HoldOptions(scope, reason, authority, _time(until), dry_run))
    _say(json, report, lambda: _show_placed(report))


@holds.command("list")
def hold_list(repo: Repo, key_file: KeyFile = None, json: AsJson = False) -> None:
    """List all holds that were ever placed, with their releases. Exit code 4 if one can't be read."""
    found = _open(repo, key_file).holds()
    _say(json, [_record(one) for one in found], lambda: _show_holds(found))


@holds.command("release")
def hold_release(
    hold: Annotated[str, typer.Argument(help="The beginning of the hold's id.")],
    repo: Repo,
    reason: Reason,
    authority: Authority,
    key_file: KeyFile = None,
    json: AsJson = False,
) -> None:
    """End a hold. The hold and its release stay in the repository for good."""
    from strongroom.cli import render

    released = _open(repo, key_file).release_hold(hold, reason=reason, authority=authority)
    _say(json, released, lambda: render.show_done(f"hold {released.hold[:12]} released by {authority}"))


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise WrongRequest(f"--until {text!r} is no time", hint="write 2030-12-31 or 2030-12-31T12:00:00Z") from error
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)


def _record(one: HoldRecord) -> dict[str, Any]:
    from strongroom.cli import render

    return {**render.plain(one.hold), "release": render.plain(one.release), "expired": one.expired, "active": one.is_active}


def _show_placed(report: HoldReport) -> None:
    from strongroom.cli import render

    count = len(report.covered)
    what = f"{count} {'snapshot' if count == 1 else 'snapshots'}"
    if report.hold is None:
        render.line(f"  {what} would be held: {', '.join(one[:12] for one in report.covered) or 'none yet'}")
        return
    render.show_done(f"hold {report.hold.id[:12]} on {report.hold.scope}: {what} held now")
    if report.rescued:
        render.line(f"  brought back as {', '.join(one[:12] for one in report.rescued)}: they were being forgotten")


def _show_holds(found: list[HoldRecord]) -> None:
    from strongroom.cli import render

    for one in found:
        state = "released" if one.release else "expired" if one.expired else "active"
        colour = "green" if one.is_active else "dim"
        until = f", until {one.hold.until.isoformat()[:16]}Z" if one.hold.until else ""
        render.line((one.hold.id[:12], "bold"), f"  {state:<8}  ", (str(one.hold.scope), colour), until)
        render.line(f"              {one.hold.placed.isoformat()[:16]}Z by {one.hold.authority}: {one.hold.reason}")
        if one.release:
            render.line(
                f"              released {one.release.released.isoformat()[:16]}Z by {one.release.authority}: {one.release.reason}"
            )
    if not found:
        render.line("no hold was ever placed")
