"""The command that gives back: restore, of a snapshot or of a moment."""

from __future__ import annotations

from contextlib import nullcontext
from enum import StrEnum
from importlib import import_module
from typing import Annotated, Any

import typer

from strongroom.cli import falling_over
from strongroom.cli.app import AsJson, KeyFile, Quiet, Repo, _because, _pairs, _progress, _say, _say_experimental, app
from strongroom.cli.falling_over import Replicas, StaleOk, open_to_read
from strongroom.errors import WrongRequest


class RungName(StrEnum):
    EXACT = "exact"
    REBUILD = "rebuild"


@app.command()
def restore(
    what: Annotated[str, typer.Argument(metavar="[SNAPSHOT]", help="'latest' or the beginning of an id; with --at the target.")],
    repo: Repo,
    target: Annotated[str | None, typer.Argument(help="Where to, for example chroma:///srv/chroma-restored")] = None,
    at: Annotated[
        str | None,
        typer.Option(help="A moment of the journal: 2026-11-24T10:15:00Z, '10 minutes ago', latest, a position, or before:BATCH."),
    ] = None,
    undo: Annotated[str | None, typer.Option(metavar="BATCH", help="Take back one ingest batch; later good writes stay.")] = None,
    where: Annotated[str | None, typer.Option(help="Take back what was done to these rows: 'source=x and year>2020'.")] = None,
    between: Annotated[tuple[str, str] | None, typer.Option(metavar="T1 T2", help="From when to when --where takes back.")] = None,
    source: Annotated[str | None, typer.Option(help="Of which source, if there are journals of several.")] = None,
    collection: Annotated[list[str] | None, typer.Option(help="Only this collection; any number of times.")] = None,
    rename: Annotated[list[str] | None, typer.Option(help="OLD=NEW, any number of times.")] = None,
    require: Annotated[RungName | None, typer.Option(help="Refuse any rung below this one.")] = None,
    rung: Annotated[RungName | None, typer.Option(help="Take this rung even if a better one is possible.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there, once the new state is verified.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and touch nothing.")] = False,
    replica: Replicas = None,
    stale_ok: StaleOk = False,
    approval: Annotated[str | None, typer.Option(metavar="ID", help="The request that approves it, where two people must.")] = None,
    reason: Annotated[str | None, typer.Option(help="Why; for the audit log.")] = None,
    key_file: KeyFile = None,
    json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Restore a snapshot, or a moment, verified before it is put in place. Repeatable after any failure."""
    from strongroom import engines

    _because(reason, approval)
    undoing = (undo, where, between) != (None, None, None)
    snapshot, place = _places(what, target, at, source, undoing=undoing)
    renames = _pairs(rename or [], "--rename")
    with nullcontext() if dry_run else engines.prepared(place):
        load = lambda: (import_module("strongroom.operations.restore.run"), engines.target_of(place))  # noqa: E731
        room = open_to_read(repo, key_file, replica, stale_ok=stale_ok, load=load)
        _say_experimental(place)
        from strongroom.cli.render import plain
        from strongroom.cli.showing.restores import show_plan, show_restore
        from strongroom.operations.restore.plan import Rung

        rungs = {RungName.EXACT: Rung.EXACT, RungName.REBUILD: Rung.REBUILD, None: None}
        wish: dict[str, Any] = {"collections": collection or [], "renames": renames, "rung": rungs[rung]}
        wish |= {"require_exact": require == RungName.EXACT, "at": at, "source": source}
        wish |= {"undo": undo, "where": where, "between": between}
        if dry_run:
            with _progress(quiet) as progress:
                plan = room.plan_restore(snapshot, place, progress=progress, **wish)
            _say(json, plan, lambda: show_plan(plan))
            return
        tell = show_plan if undoing and not json else None
        with _progress(quiet) as progress:
            report = room.restore(snapshot, place, overwrite=overwrite, tell=tell, progress=progress, **wish)
    elsewhere = falling_over.tell(room)
    _say(json, {**plain(report), "elsewhere": elsewhere} if elsewhere else report, lambda: show_restore(report))


def _places(what: str, target: str | None, at: str | None, source: str | None, *, undoing: bool) -> tuple[str, str]:
    """The snapshot and the target that are meant."""
    if at is not None or undoing:
        if target is not None:
            option = "--at" if at is not None else "--undo"
            raise WrongRequest(f"{option} chooses the snapshot itself", hint=f"leave {what!r} out")
        return "latest", what
    if target is None:
        raise WrongRequest("a snapshot and a target are needed", hint="strongroom restore latest chroma:///srv/chroma-restored")
    if source is not None:
        raise WrongRequest("--source is for --at and --undo", hint="a snapshot's id says of which source it is")
    return what, target
