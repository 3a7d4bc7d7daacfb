"""The commands of the policy file: config check, show, schema, publish; plan and run."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

import typer

from strongroom.cli.app import AsJson, _require_command, _say, app
from strongroom.errors import WrongRequest

if TYPE_CHECKING:
    from strongroom.operations.run import Event
    from strongroom.policy.tasks import Plan

config = typer.Typer(rich_markup_mode=None)
app.add_typer(config, name="config")
File = Annotated[Path, typer.Option("--file", "-f", envvar="STRONGROOM_CONFIG", help="The policy file.")]
DEFAULT = Path("strongroom.yaml")


@config.callback(invoke_without_command=True)
def config_(context: typer.Context) -> None:
    """Check, show and publish the policy file; print its schema."""
    _require_command(context)


@config.command("check")
def config_check(file: File = DEFAULT, json: AsJson = False) -> None:
    """Check the policy file: every mistake with its line. Exit code 2 if there is one."""
    from strongroom.cli import render

    reading = _reading()
    try:
        document = reading.read_file(file)
    except reading.WrongDocument as error:
        found = [{"line": one.line, "where": one.where, "what": one.what} for one in error.problems]
        problems = error.problems
        _say(json, {"file": str(file), "problems": found}, lambda: _show_problems(file, problems))
        raise typer.Exit(2) from None
    counts = {name: len(getattr(document, name)) for name in ("sources", "repositories", "policies")}
    said = ", ".join(f"{count} {name}" for name, count in counts.items())
    _say(json, {"file": str(file), "problems": [], **counts}, lambda: render.show_done(f"{file} is right: {said}"))


@config.command("show")
def config_show(file: File = DEFAULT, json: AsJson = False) -> None:
    """Show the policy file as it is understood; without what is as it would be anyway."""
    reading = _reading()
    document = reading.read_file(file)
    _say(json, document.model_dump(mode="json"), lambda: typer.echo(reading.as_text(document), nl=False))


@config.command("schema")
def config_schema() -> None:
    """Print the JSON Schema of the policy file, for editors."""
    from strongroom.cli import render

    _reading()
    from strongroom.policy.editors import schema

    typer.echo(render.as_json(schema()))


@config.command("publish")
def config_publish(file: File = DEFAULT, json: AsJson = False) -> None:
    """Store the policy file, signed, in each repository that backups go to, and say there in which region it lies."""
    from strongroom.cli import render
    from strongroom.serving import open_named

    document = _reading().read_file(file)
    from strongroom.operations.policy.publishing import publish_in_all

    found = publish_in_all(document, lambda name: open_named(document, name))
    done = {name: {"id": one.id, "version": one.version, "at": one.at} for name, one in found.items()}
    said = ", ".join(f"{name} has version {one['version']}" for name, one in done.items())
    _say(json, done, lambda: render.show_done(said))


@app.command()
def plan(
    file: File = DEFAULT,
    days: Annotated[float, typer.Option(min=0.01, max=366, help="How far ahead.")] = 7.0,
    json: AsJson = False,
) -> None:
    """Print what runs in the next 7 days: when, what, on what, and why. Touches no repository."""
    from strongroom.clock import SYSTEM_CLOCK

    document = _reading().read_file(file)
    from strongroom.operations.run import RunState
    from strongroom.policy.tasks import plan, tasks_of

    now = SYSTEM_CLOCK.now()
    found = plan(tasks_of(document), RunState.of(file).lasts(), now, now + timedelta(days=days))
    _say(json, _as_data(found), lambda: _show_plan(found))


@app.command()
def run(
    file: File = DEFAULT,
    once: Annotated[bool, typer.Option("--once", help="Do what is due, and end: for cron and Kubernetes.")] = False,
    unit: Annotated[bool, typer.Option("--systemd-unit", help="Print a unit file for systemd, and end.")] = False,
) -> None:
    """Do what the policy file says, when it is due, until a signal: what runs is finished then; a second one stops at once."""
    document = _reading().read_file(file)
    if unit:
        from strongroom.policy.units import unit_of

        typer.echo(unit_of(file.absolute(), Path(sys.argv[0]).absolute()), nl=False)
        return
    from strongroom.serving import policy_service

    journald = "JOURNAL_STREAM" in os.environ
    service = policy_service(document, file, [sys.argv[0]], lambda event: _tell(event, journald=journald))
    stop = threading.Event()
    _stop_on_signals(stop.set)
    code = service.once(stop) if once else service.serve(stop)
    if code:
        raise typer.Exit(code)


def _reading() -> ModuleType:
    """What reads the policy file. Raises WrongRequest if the extra isn't installed."""
    try:
        from strongroom.policy import reading
    except ImportError as error:
        if (error.name or "").startswith("strongroom"):
            raise
        raise WrongRequest(f"{error.name} is not installed", hint="pip install 'strongroom[policy]'") from error
    return reading


def _stop_on_signals(stop: Callable[[], None]) -> None:
    """The first asks to stop, the second ends the process: what it was at is safe to cut off, and begun again."""
    seen: list[int] = []

    def heard(number: int, _: object) -> None:
        if seen:
            os._exit(128 + number)
        seen.append(number)
        threading.Thread(target=stop).start()  # this thread may hold the event's lock

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, heard)


def _tell(event: Event, *, journald: bool) -> None:
    sys.stderr.write(event.line(journald=journald) + "\n")
    sys.stderr.flush()


def _as_data(found: Plan) -> dict[str, object]:
    def said(task: object) -> dict[str, object]:
        names = ("policy", "work", "source", "repository", "other", "why")
        return {name: str(getattr(task, name)) for name in names if getattr(task, name)}

    runs = [{"at": one.at.isoformat(), "due": one.due.isoformat(), **said(one.task)} for one in found.planned]
    return {"runs": runs, "always": [said(one) for one in found.always]}


def _show_plan(found: Plan) -> None:
    from rich.table import Table

    from strongroom.cli import render

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("when (UTC)", "what", "on", "in", "why"):
        table.add_column(column, no_wrap=column != "why")
    for one in found.always:
        when = f"every {one.timing.interval}" if one.timing else "all the time"
        table.add_row(when, f"{one.work.value} {one.other}".strip(), one.source or "-", one.repository, one.why)
    for run_ in found.planned:
        task = run_.task
        what = f"{task.work.value} {task.other}".strip()
        table.add_row(run_.at.strftime("%a %Y-%m-%d %H:%M:%S"), what, task.source or "-", task.repository, task.why)
    render.out.print(table)


def _show_problems(file: Path, problems: tuple[object, ...]) -> None:
    from strongroom.cli import render

    for one in problems:
        render.show_problem(f"{file}, {one}")
