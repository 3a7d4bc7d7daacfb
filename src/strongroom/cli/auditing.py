"""The commands of the audit log: audit show, verify, export, check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from strongroom.cli.app import AsJson, KeyFile, Repo, _open, _require_command, _say, _write_private, app
from strongroom.errors import WrongRequest, from_os_error

if TYPE_CHECKING:
    from strongroom.access.audit import Findings, Operation

audit = typer.Typer(rich_markup_mode=None)
app.add_typer(audit, name="audit")


class Result(StrEnum):
    DONE = "done"
    FAILED = "failed"
    REFUSED = "refused"
    UNFINISHED = "unfinished"


@audit.callback(invoke_without_command=True)
def audit_(context: typer.Context) -> None:
    """Who did what, when and why; and whether that record is whole."""
    _require_command(context)


@audit.command("show")
def audit_show(
    repo: Repo,
    since: Annotated[str | None, typer.Option(help="From then on: 2026-11-24T10:15:00Z, or '2 days ago'.")] = None,
    who: Annotated[str, typer.Option(help="A label, role, user, host, or the beginning of a key slot's id.")] = "",
    verb: Annotated[str, typer.Option(help="Only this: restore, backup, add-key ...")] = "",
    result: Annotated[Result | None, typer.Option(help="Only what ended so.")] = None,
    turned_away: Annotated[
        bool, typer.Option("--turned-away", help="Attempts with a wrong secret that this machine noted.")
    ] = False,
    key_file: KeyFile = None,
    json: AsJson = False,
) -> None:
    """List what was done, refused and begun, oldest first."""
    from strongroom.access.audit import select
    from strongroom.repository.turned_away import noted

    room = _open(repo, key_file)
    if turned_away:
        tried = noted(room.repository.config.repository_id)
        _say(json, tried, lambda: _show_turned_away(tried))
        return
    found = select(room.audit(), since=_since(since), who=who, verb=verb, result=result.value if result else "")
    _say(json, found, lambda: _show(found))


@audit.command("verify")
def audit_verify(
    repo: Repo,
    expect: Annotated[
        str | None, typer.Option(metavar="HASH", help="The hash that an earlier run told: it must still be in the log.")
    ] = None,
    key_file: KeyFile = None,
    json: AsJson = False,
) -> None:
    """Prove that no entry was taken away, altered, put elsewhere or forged. Exit code 4 if one was."""
    found = _open(repo, key_file).verify_audit(expect)
    _say(json, {**_plain(found), "passed": found.passed}, lambda: _show_findings(found))
    if not found.passed:
        raise typer.Exit(4)


@audit.command("export")
def audit_export(
    repo: Repo,
    out: Annotated[Path | None, typer.Option(help="Write to this new file instead of standard output.")] = None,
    key_file: KeyFile = None,
    json: AsJson = False,
) -> None:
    """Write the log as signed JSON lines that 'audit check' proves without the repository."""
    from strongroom.cli import render

    made = _open(repo, key_file).export_audit()
    if out is None:
        typer.echo("".join(made.lines), nl=False)
        return
    _write_private(out, "".join(made.lines).encode())
    _say(json, {"entries": made.entries, "file": str(out)}, lambda: render.show_done(f"{made.entries:,} entries in {out}"))


@audit.command("check")
def audit_check(
    file: Annotated[Path, typer.Argument(help="An exported log.")],
    json: AsJson = False,
) -> None:
    """Prove an exported log by itself, without repository or key. Exit code 4 if it was altered."""
    from strongroom.access.audit import check_export
    from strongroom.cli import render

    try:
        problems = check_export(file.read_text())
    except OSError as error:
        raise from_os_error(error, str(file)) from error
    _say(
        json,
        {"passed": not problems, "problems": problems},
        lambda: None if problems else render.show_done("it is as it was exported"),
    )
    for problem in problems if not json else []:
        render.show_problem(problem)
    if problems:
        raise typer.Exit(4)


def _since(text: str | None) -> datetime | None:
    from strongroom.journal.times import parse_time

    found = parse_time(text, datetime.now(UTC)) if text else None
    if text and found is None:
        raise WrongRequest(f"--since {text!r} is no time", hint="write 2026-11-24T10:15:00Z or '2 days ago'")
    return found


def _plain(findings: Findings) -> dict[str, Any]:
    from strongroom.cli import render

    return dict(render.plain(findings))


def _show(found: Sequence[Operation]) -> None:
    from strongroom.cli import render

    colours = {"failed": "red", "refused": "red", "unfinished": "yellow"}
    render.line((f"{'entry':>6}  {'when (UTC)':<19}  {'who':<28}  {'result':<10}  what", "bold"))
    for one in found:
        name, role, user, host = (str(one.who.get(part) or "") for part in ("label", "role", "user", "host"))
        who = f"{name or str(one.who.get('slot'))[:12]} ({role}) {user}@{host}"
        when = one.at[:19].replace("T", " ")
        mark: Any = (f"{one.result:<10}", colours.get(one.result, ""))
        claimed = "" if one.proven else "  [not proven who]"
        render.line(f"{one.number:>6}  {when:<19}  {who:<28}  ", mark, f"  {_what(one)}{claimed}")


def _what(one: Operation) -> str:
    from strongroom.access.roles import command_of

    said = " ".join(f"{name}={_short(value)}" for name, value in one.arguments.items())
    came = one.outcome.get("snapshot") or one.outcome.get("slot")
    ends = [
        f"→ {_short(came)}" if came else "",
        one.error.partition(": ")[2] if one.error else "",
        f"({one.reason})" if one.reason else "",
    ]
    return " ".join(part for part in (command_of(one.verb), said, *ends) if part)


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return _short(value.get("slot", f"{len(value)} settings"))
    text = str(value)
    return text[:12] if len(text) == 64 and all(sign in "0123456789abcdef" for sign in text) else text


def _show_findings(found: Findings) -> None:
    from strongroom.cli import render

    for problem in found.problems:
        render.show_problem(problem)
    for note in found.notes:
        render.line(("  note      ", "dim"), note)
    if found.passed:
        render.show_done(
            f"{found.entries:,} entries, of {found.operations:,} operations, whole and in order; the last is {found.hash}"
        )


def _show_turned_away(tried: Sequence[Mapping[str, Any]]) -> None:
    from strongroom.cli import render

    for one in tried:
        render.line(f"{str(one['at'])[:19].replace('T', ' ')}  {one['user']}@{one['host']}  wrong {one['secret']}  {one['store']}")
