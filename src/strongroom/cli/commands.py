"""Which module has which command? One command needs its own alone: parsing the options of all takes longer than many a command."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

import typer

from strongroom.cli.app import app, settings

MODULES = {
    "app": "init backup snapshots show diff verify key",
    "keys": "key",
    "restoring": "restore",
    "pruning": "forget prune",
    "holding": "hold",
    "locks": "lock",
    "erasing": "erase certificate",
    "journal": "journal",
    "doctoring": "doctor",
    "recovering": "key",
    "copying": "copy replicate region",
    "rotating": "key",
    "covering": "coverage",
    "drilling": "drill",
    "roles": "role",
    "tokens": "token",
    "approving": "approval",
    "auditing": "audit",
    "demonstrating": "demo",
    "policing": "plan run config",
}
"""The modules, each of which registers its commands on `app`, in the order of --help, and the first words of these commands."""


def every_command() -> typer.Typer:
    """The whole command line."""
    for module in MODULES:
        import_module(f"strongroom.cli.{module}")
    return app


def command_line(words: Sequence[str]) -> typer.Typer:
    """What can run these words: it has the command that the first of them names alone, or all if it names none."""
    first = words[0] if words else ""
    homes = [module for module, names in MODULES.items() if first in names.split()]
    if not homes:
        return every_command()
    for module in homes:
        import_module(f"strongroom.cli.{module}")
    chosen = typer.Typer(**settings)
    chosen.registered_callback = app.registered_callback
    chosen.registered_commands = [
        one for one in app.registered_commands if first in (one.name, getattr(one.callback, "__name__", ""))
    ]
    chosen.registered_groups = [one for one in app.registered_groups if one.name == first]
    return chosen
