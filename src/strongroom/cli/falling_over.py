"""How do the commands that read open a repository that may be gone? With its replicas, and they say so on standard error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from strongroom.library import Strongroom

Replicas = Annotated[
    list[str] | None, typer.Option("--replica", help="Read from this replica what the repository can't give; repeatable.")
]
StaleOk = Annotated[bool, typer.Option("--stale-ok", help="Take the newest of a replica that lacks newer ones.")]


def open_to_read(
    repo: str,
    key_file: Path | None,
    replicas: list[str] | None,
    *,
    stale_ok: bool = False,
    by_blob: bool = True,
    load: Callable[[], object] = lambda: None,
) -> Strongroom:
    """As `_open` where no replica is known."""
    from strongroom.cli.app import _asked_password, _open
    from strongroom.operations.machine.replicas import known
    from strongroom.repository import open_store

    if not replicas and not known(open_store(repo).url):
        return _open(repo, key_file, load)
    from strongroom.library import open_repository
    from strongroom.operations.fall_over import Reading

    load()
    reading = Reading(tuple(replicas or ()), stale_ok, by_blob)
    room = open_repository(repo, password=_asked_password(key_file), key_file=key_file, reading=reading)
    tell(room)
    return room


def tell(room: Strongroom) -> list[str]:
    """What did not come from the repository itself, on standard error; gives the lines."""
    from strongroom.cli import render

    lines = room.stand_ins.said() if room.stand_ins is not None else []
    for line in lines:
        render.show_problem(line)
    return lines
