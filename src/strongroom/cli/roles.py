"""The command that says which key may do what: role table."""

from __future__ import annotations

import typer

from strongroom.cli.app import AsJson, _require_command, _say, app

role = typer.Typer(rich_markup_mode=None)
app.add_typer(role, name="role")


@role.callback(invoke_without_command=True)
def role_(context: typer.Context) -> None:
    """What keys and tokens may do."""
    _require_command(context)


@role.command("table")
def role_table(json: AsJson = False) -> None:
    """Show which role may do what. Needs no repository."""
    from strongroom.access.roles import table

    _say(json, table(), lambda: _show(table()))


def _show(rows: dict[str, list[str]]) -> None:
    from strongroom.cli import render
    from strongroom.repository.identity import AccessRole

    names = [one.value for one in AccessRole]
    render.line((f"{'':<24}  {'  '.join(names)}", "bold"))
    for verb, roles in rows.items():
        marks = "  ".join(("yes" if name in roles else "–").ljust(len(name)) for name in names)
        render.line(f"{verb:<24}  {marks.rstrip()}")
