"""The command that shows the main job: demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from strongroom.cli.app import AsJson, _say, app


@app.command()
def demo(
    directory: Annotated[Path | None, typer.Option(help="Where to work; a temporary directory unless given.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows of the database.")] = 12_000,
    json: AsJson = False,
) -> None:
    """Back up, destroy, restore and prove a Chroma database that is made for it."""
    from strongroom.cli import render
    from strongroom.cli.demo import run

    report = run(directory, rows, render.err if json else render.out)
    _say(json, report, lambda: None)
