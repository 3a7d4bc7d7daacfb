"""Options that every command on a repository has, said once: --kms URL and --allow-plaintext."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Annotated, Any

import typer
import typer.core

_KMS, _PLAINTEXT = "STRONGROOM_KMS", "STRONGROOM_ALLOW_PLAINTEXT"


class Group(typer.core.TyperGroup):
    """The group of all commands, whose commands have these options, but where one has an option of that name itself."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        for command in _commands(self):
            taken = {option for parameter in command.params for option in parameter.opts}
            command.params += [option for option in typer.main.get_command(_template()).params if not taken & set(option.opts)]


def _commands(group: Any) -> Iterator[Any]:
    """All of a group's, and of the groups in it."""
    for command in group.commands.values():
        if hasattr(command, "commands"):
            yield from _commands(command)
        else:
            yield command


def _template() -> typer.Typer:
    """A command that is never run: it has these options."""
    template = typer.Typer(add_completion=False)
    template.command(add_help_option=False)(_everywhere)
    return template


def _use_service(context: typer.Context, value: str | None) -> None:
    """It comes before whatever else the environment names."""
    if value:
        others = ("KEY_FILE", "PASSWORD", "PASSWORD_FILE", "PASSWORD_COMMAND", "RECOVERY_SHARES_FILES")
        _set(context, {**{f"STRONGROOM_{name}": None for name in others}, _KMS: value})


def _allow_plaintext(context: typer.Context, value: bool) -> None:
    from strongroom.repository import transport

    transport.tell = _tell
    if value:
        _set(context, {_PLAINTEXT: transport.EVERYWHERE})


def _tell(message: str) -> None:
    from strongroom.cli import render

    render.show_problem(message)


def _everywhere(
    kms: Annotated[
        str | None,
        typer.Option(
            "--kms", expose_value=False, is_eager=True, callback=_use_service, help="Open by the key service at this URL."
        ),
    ] = None,
    allow_plaintext: Annotated[
        bool,
        typer.Option(
            "--allow-plaintext",
            expose_value=False,
            is_eager=True,
            callback=_allow_plaintext,
            help="Allow connections to other machines without TLS.",
        ),
    ] = False,
) -> None:
    """Only its options are used."""


def _set(context: typer.Context, wanted: dict[str, str | None]) -> None:
    """For this command and its child processes."""
    before = {name: os.environ.get(name) for name in wanted}
    _put(wanted)
    context.call_on_close(lambda: _put(before))


def _put(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
