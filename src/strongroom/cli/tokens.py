"""The commands of short-lived secrets: token create, list, revoke."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from strongroom.cli.app import AsJson, KeyFile, Repo, _open, _require_command, _say, _slot, _write_private, app
from strongroom.repository.identity import AccessRole

if TYPE_CHECKING:
    from strongroom.repository import KeySlot

token = typer.Typer(rich_markup_mode=None)
app.add_typer(token, name="token")


@token.callback(invoke_without_command=True)
def token_(context: typer.Context) -> None:
    """Make, list and revoke secrets that open the repository for a while."""
    _require_command(context)


@token.command("create")
def token_create(
    repo: Repo,
    role: Annotated[AccessRole, typer.Option(help="What it is for: a role below that of the key that makes it.")],
    expires: Annotated[str, typer.Option(help="How long it lasts, such as 30m, 8h or 7d; at most 31d.")] = "8h",
    label: Annotated[str, typer.Option(help="Who or what it is for.")] = "",
    out: Annotated[
        Path | None, typer.Option(help="Write it to this new file, for its owner alone, instead of printing it.")
    ] = None,
    key_file: KeyFile = None,
    json: AsJson = False,
) -> None:
    """Make a token. It is told once; STRONGROOM_TOKEN_FILE names the file that holds it."""
    from strongroom.cli import render
    from strongroom.journal.times import parse_duration

    made = _open(repo, key_file).create_token(role, parse_duration(expires), label)
    if out is not None:
        _write_private(out, made.text.encode())
    said = _told(made.slot) | ({"file": str(out)} if out else {"token": made.text.strip()})
    if json or out:
        _say(json, said, lambda: render.show_done(f"token {made.slot.id[:12]} in {out}, until {said['expires'][:19]} UTC"))
    else:
        typer.echo(made.text.strip())


@token.command("list")
def token_list(repo: Repo, key_file: KeyFile = None, json: AsJson = False) -> None:
    """List the tokens that weren't taken away."""
    found = _open(repo, key_file).tokens()
    _say(json, [_told(slot) for slot in found], lambda: _show(found))


@token.command("revoke")
def token_revoke(
    token: Annotated[str, typer.Argument(help="The beginning of its id.")],
    repo: Repo,
    key_file: KeyFile = None,
    json: AsJson = False,
) -> None:
    """Take a token away: it opens nothing any more."""
    from strongroom.cli import render

    gone = _open(repo, key_file).revoke_token(token)
    _say(json, _told(gone), lambda: render.show_done(f"token {gone.id[:12]} revoked"))


def _told(slot: KeySlot) -> dict[str, Any]:
    expires = slot.identity.expires
    return {**_slot(slot), "expires": expires.isoformat() if expires else ""}


def _show(found: Sequence[KeySlot]) -> None:
    from strongroom.cli import render

    render.line((f"{'token':<12}  {'until (UTC)':<19}  {'role':<8}  label", "bold"))
    for slot in found:
        said = _told(slot)
        until = said["expires"][:19].replace("T", " ")
        render.line((slot.id[:12], "bold"), f"  {until:<19}  {said['role']:<8}  {slot.label}")
