"""The commands. Each one parses, calls the library and prints."""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from strongroom.cli import render
from strongroom.cli.bars import Bars
from strongroom.credentials import require_secret, secret_from
from strongroom.errors import WrongRequest
from strongroom.library import init_repository, open_repository
from strongroom.operations.restore_plan import Rung
from strongroom.operations.verify import Level
from strongroom.progress import SILENT, Progress
from strongroom.repository import KeySlot, Secret, new_key_file

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
    help="Backup and restore for vector databases: rows, index, catalog and lineage as one versioned artifact.",
)
keys = typer.Typer(no_args_is_help=True, help="Who can open the repository.")
app.add_typer(keys, name="key")

out = Console(soft_wrap=False)
err = Console(stderr=True)

Repo = Annotated[str, typer.Option("--repo", "-r", envvar="STRONGROOM_REPOSITORY", help="Path or URL of the repository.")]
KeyFile = Annotated[Path | None, typer.Option("--key-file", envvar="STRONGROOM_KEY_FILE", help="Open with this key file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]


class LevelName(StrEnum):
    OBJECTS = "objects"
    DATA = "data"
    RESTORE = "restore"
    ANSWERS = "answers"


class RungName(StrEnum):
    EXACT = "exact"
    REBUILD = "rebuild"


@app.command()
def init(repo: Repo, key_file: KeyFile = None, json: AsJson = False) -> None:
    """Make a new, encrypted repository."""
    room = init_repository(repo, key_file=key_file)
    _say(
        json,
        {"repository": room.repository.config.repository_id.hex(), "url": room.repository.store.url},
        lambda: out.print(f"[green]✓[/] repository {room.repository.config.repository_id.hex()[:12]} at {repo}", highlight=False),
    )


@app.command()
def backup(
    source: Annotated[str, typer.Argument(help="What to back up, for example chroma:///srv/chroma")],
    repo: Repo,
    model: Annotated[str | None, typer.Option(help="The encoder of the vectors: NAME@VERSION.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="KEY=VALUE, any number of times.")] = None,
    probes: Annotated[int, typer.Option(help="Queries to seal in, for each vector field.")] = 32,
    key_file: KeyFile = None,
    json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Make a snapshot of a source. Exit code 3 if something in it could not be read."""
    tags = _pairs(tag or [], "--tag")
    room = open_repository(repo, key_file=key_file)
    with _progress(quiet) as progress:
        report = room.backup(source, model=model, tags=tags, probes=probes, progress=progress)
    summary = {**render.snapshot_summary(report.snapshot), "not_captured": render.plain(report.not_captured)}
    _say(json, summary, lambda: render.show_backup(out, report))
    if report.not_captured:
        raise typer.Exit(3)


@app.command()
def snapshots(repo: Repo, key_file: KeyFile = None, json: AsJson = False) -> None:
    """List the snapshots, oldest first."""
    room = open_repository(repo, key_file=key_file)
    found = room.snapshots()
    _say(json, [render.snapshot_summary(one) for one in found], lambda: render.show_snapshots(out, found))
    damaged = room.damaged_snapshots()
    for problem in damaged:
        err.print(f"[red]✗[/] {problem}", highlight=False, soft_wrap=True)
    if damaged:
        raise typer.Exit(4)


@app.command()
def show(
    repo: Repo,
    snapshot: Annotated[str, typer.Argument(help="'latest' or the beginning of an id.")] = "latest",
    key_file: KeyFile = None,
    json: AsJson = False,
) -> None:
    """Show what a snapshot holds and what it doesn't."""
    found = open_repository(repo, key_file=key_file).snapshot(snapshot)
    _say(json, render.snapshot_detail(found), lambda: render.show_snapshot(out, found))


@app.command()
def restore(
    snapshot: Annotated[str, typer.Argument(help="'latest' or the beginning of an id.")],
    target: Annotated[str, typer.Argument(help="Where to, for example chroma:///srv/chroma-restored")],
    repo: Repo,
    collection: Annotated[list[str] | None, typer.Option(help="Only this collection; any number of times.")] = None,
    rename: Annotated[list[str] | None, typer.Option(help="OLD=NEW, any number of times.")] = None,
    require: Annotated[RungName | None, typer.Option(help="Refuse any rung below this one.")] = None,
    rung: Annotated[RungName | None, typer.Option(help="Take this rung even if a better one is possible.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there, once the new state is verified.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and touch nothing.")] = False,
    key_file: KeyFile = None,
    json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Restore a snapshot: verified beside the target first, then put in its place. May be run again after any failure."""
    room = open_repository(repo, key_file=key_file)
    wish: dict[str, Any] = {
        "collections": collection or [],
        "renames": _pairs(rename or [], "--rename"),
        "require_exact": require == RungName.EXACT,
        "rung": {RungName.EXACT: Rung.EXACT, RungName.REBUILD: Rung.REBUILD, None: None}[rung],
    }
    if dry_run:
        plan = room.plan_restore(snapshot, target, **wish)
        _say(json, plan, lambda: render.show_plan(out, plan))
        return
    with _progress(quiet) as progress:
        report = room.restore(snapshot, target, overwrite=overwrite, progress=progress, **wish)
    _say(json, report, lambda: render.show_restore(out, report))


@app.command()
def verify(
    repo: Repo,
    snapshot: Annotated[str | None, typer.Argument(help="'latest', the beginning of an id, or nothing for all.")] = None,
    level: Annotated[LevelName, typer.Option(help="How deep to look.")] = LevelName.DATA,
    budget: Annotated[int | None, typer.Option(help="Read at most this many bytes of packs, least recently proven first.")] = None,
    scratch: Annotated[Path | None, typer.Option(help="Where levels restore and answers may restore to.")] = None,
    key_file: KeyFile = None,
    json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Prove that snapshots are there, readable, restorable and answer as they did. Exit code 4 if not."""
    room = open_repository(repo, key_file=key_file)
    with _progress(quiet) as progress:
        report = room.verify(snapshot, level=Level[level.name], budget=budget, scratch=scratch, progress=progress)
    _say(json, {**render.plain(report), "passed": report.passed}, lambda: render.show_verify(out, report))
    if not report.passed:
        raise typer.Exit(4)


@app.command()
def demo(
    directory: Annotated[Path | None, typer.Option(help="Where to work; a temporary directory unless given.")] = None,
    rows: Annotated[int, typer.Option(help="Rows of the database.")] = 12_000,
    json: AsJson = False,
) -> None:
    """Make a Chroma database, back it up twice, destroy it, restore both states and prove them."""
    from strongroom.cli.demo import run

    report = run(directory, rows, err if json else out)
    _say(json, report, lambda: None)


@keys.command("list")
def key_list(repo: Repo, key_file: KeyFile = None, json: AsJson = False) -> None:
    """List the key slots."""
    slots = open_repository(repo, key_file=key_file).key_slots()
    _say(json, [_slot(slot) for slot in slots], lambda: render.show_keys(out, slots))


@keys.command("add")
def key_add(
    repo: Repo,
    label: Annotated[str, typer.Option(help="What the key is for.")] = "",
    new_key_file_path: Annotated[
        Path | None, typer.Option("--new-key-file", help="Make a key file here instead of adding a password.")
    ] = None,
    key_file: KeyFile = None,
    json: AsJson = False,
) -> None:
    """Add a key: a password from STRONGROOM_NEW_PASSWORD (or _FILE, _COMMAND, or asked for), or a new key file."""
    room = open_repository(repo, key_file=key_file)
    secret = _make_key_file(new_key_file_path) if new_key_file_path else _new_secret()
    slot = room.add_key(secret, label)
    _say(json, _slot(slot), lambda: out.print(f"[green]✓[/] key slot {slot.id[:12]} added", highlight=False))


@keys.command("remove")
def key_remove(
    slot: Annotated[str, typer.Argument(help="The beginning of the slot's id.")],
    repo: Repo,
    key_file: KeyFile = None,
    json: AsJson = False,
) -> None:
    """Remove a key slot; never the last one."""
    removed = open_repository(repo, key_file=key_file).remove_key(slot)
    _say(json, _slot(removed), lambda: out.print(f"[green]✓[/] key slot {removed.id[:12]} removed", highlight=False))


@keys.command("passwd")
def key_passwd(repo: Repo, json: AsJson = False) -> None:
    """Change the password: from the present one to STRONGROOM_NEW_PASSWORD (or _FILE, _COMMAND, or asked for)."""
    room = open_repository(repo)
    fresh = room.change_passphrase(require_secret(secret_from()), _new_secret())
    _say(json, _slot(fresh), lambda: out.print(f"[green]✓[/] password changed: key slot {fresh.id[:12]}", highlight=False))


def _say(json: bool, value: Any, show: Callable[[], None]) -> None:
    if json:
        typer.echo(render.as_json(value))
    else:
        show()


def _progress(quiet: bool) -> Any:
    return _Nothing() if quiet else Bars(err)


class _Nothing:
    def __enter__(self) -> Progress:
        return SILENT

    def __exit__(self, *_: object) -> None:
        pass


def _pairs(texts: list[str], option: str) -> dict[str, str]:
    pairs = dict(text.partition("=")[::2] for text in texts)
    if any("=" not in text for text in texts) or not all(pairs):
        raise WrongRequest(f"{option} takes KEY=VALUE")
    return pairs


def _slot(slot: KeySlot) -> dict[str, str]:
    return {"id": slot.id, "kind": slot.kind, "label": slot.label, "created": slot.created}


def _new_secret() -> Secret:
    secret = secret_from(prefix="STRONGROOM_NEW_")
    if secret is None and os.isatty(0):
        secret = Secret.passphrase(typer.prompt("New password", hide_input=True, confirmation_prompt=True))
    if secret is None:
        raise WrongRequest("no new password was given", hint="set STRONGROOM_NEW_PASSWORD or STRONGROOM_NEW_PASSWORD_FILE")
    return secret


def _make_key_file(path: Path) -> Secret:
    """Made readable by its owner alone, durable before it is relied on, never over an existing file."""
    content = new_key_file()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return Secret.key_file(content)
