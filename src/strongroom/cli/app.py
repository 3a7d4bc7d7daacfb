"""The commands. Each one parses, calls the library and prints.

What a command works with is imported when it runs, so that `--help` and a wrong command line are answered at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from strongroom.cli.everywhere import Group
from strongroom.cli.falling_over import Replicas, StaleOk, open_to_read
from strongroom.errors import StrongroomError, WrongRequest, from_os_error
from strongroom.repository.lock_mode import Mode

if TYPE_CHECKING:
    from strongroom.library import Strongroom
    from strongroom.progress import Progress
    from strongroom.repository import KeySlot, Secret

settings: dict[str, Any] = {
    "cls": Group,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
    "add_completion": False,
}
app = typer.Typer(**settings)
keys = typer.Typer(rich_markup_mode=None)
app.add_typer(keys, name="key")

Repo = Annotated[str, typer.Option("--repo", "-r", envvar="STRONGROOM_REPOSITORY", help="Path or URL of the repository.")]
KeyFile = Annotated[Path | None, typer.Option("--key-file", envvar="STRONGROOM_KEY_FILE", help="Open with this key file.")]
Kms = Annotated[str | None, typer.Option("--kms", help="Wrap the new key by this key service (URL) instead.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]


class LevelName(StrEnum):
    OBJECTS = "objects"
    DATA = "data"
    RESTORE = "restore"
    ANSWERS = "answers"


@app.callback(invoke_without_command=True)
def strongroom(
    context: typer.Context,
    reason: Annotated[str | None, typer.Option(help="Why; for the audit log. Else STRONGROOM_REASON.")] = None,
    approval: Annotated[str | None, typer.Option(help="The request that approves it. Else STRONGROOM_APPROVAL.")] = None,
) -> None:
    """Backup and restore for vector databases: rows, index, catalog and lineage as one versioned artifact."""
    _because(reason, approval)
    _require_command(context)


@keys.callback(invoke_without_command=True)
def key(context: typer.Context) -> None:
    """List, add and remove what opens the repository."""
    _require_command(context)


@app.command()
def init(
    repo: Repo,
    key_file: KeyFile = None,
    json: AsJson = False,
    region: Annotated[str | None, typer.Option(help="Where its store lies, such as eu-central-1.")] = None,
    without: Annotated[
        bool, typer.Option("--without-conditional-creates", help="For a store that has none: no journals, more requests.")
    ] = False,
    kms: Kms = None,
    lock_for: Annotated[
        str | None, typer.Option(help="Have the bucket lock all that is needed for this long, such as 30d: see 'lock set'.")
    ] = None,
    lock_mode: Annotated[Mode, typer.Option(help="Who may end a lock before its time.")] = Mode.COMPLIANCE,
) -> None:
    """Make a new, encrypted repository."""
    from strongroom.cli import render
    from strongroom.cli.pruning import days_and_hours
    from strongroom.library import init_repository
    from strongroom.repository.object_lock import require_object_lock
    from strongroom.repository.region import name_region, require_name

    if region:
        require_name(region)
    period = days_and_hours(lock_for, "--lock-for") if lock_for else None
    if period:
        require_object_lock(repo)
    password = None if kms else _asked_password(key_file, confirm=True)
    room = init_repository(repo, password=password, key_file=key_file, kms=kms, overwriting=without)
    if region:
        name_region(room.repository, region)
    if period:
        room.set_lock(period, lock_mode)
    _say_service(room.key_slots()[0])
    name, url = room.repository.config.repository_id.hex(), room.repository.store.url
    _say(json, {"repository": name, "url": url}, lambda: render.show_done(f"repository {name[:12]} at {url}"))


@app.command()
def backup(
    source: Annotated[str, typer.Argument(help="What to back up, for example chroma:///srv/chroma")],
    repo: Repo,
    model: Annotated[str | None, typer.Option(help="The encoder of the vectors: NAME@VERSION.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="KEY=VALUE, any number of times.")] = None,
    probes: Annotated[int, typer.Option(min=0, help="Queries to seal in, for each vector field.")] = 32,
    reread: Annotated[bool, typer.Option("--reread", help="Read the source even if its files look unchanged.")] = False,
    tenants: Annotated[str | None, typer.Option(help="The column that says whose a row is: each gets a key. '' for none.")] = None,
    key_file: KeyFile = None,
    json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Make a snapshot of a source. Exit code 3 if something in it could not be read."""
    from strongroom import engines

    def load() -> None:
        import_module("strongroom.operations.backup.run")
        import_module("strongroom.cli.showing.snapshots")
        engines.source_of(source)

    tags = _pairs(tag or [], "--tag")
    room = _open(repo, key_file, load)
    _say_experimental(source)
    with _progress(quiet) as progress:
        report = room.backup(source, model=model, tags=tags, probes=probes, reread=reread, tenant_column=tenants, progress=progress)
    from strongroom.cli import render
    from strongroom.cli.showing import snapshots

    summary = {**snapshots.snapshot_summary(report.snapshot), "not_captured": render.plain(report.not_captured)}
    _say(json, summary, lambda: snapshots.show_backup(report))
    if report.not_captured:
        raise typer.Exit(3)


@app.command()
def snapshots(repo: Repo, replica: Replicas = None, key_file: KeyFile = None, json: AsJson = False) -> None:
    """List the snapshots, oldest first. Exit code 4 if one can't be read."""
    from strongroom.cli.render import show_problem
    from strongroom.cli.showing.snapshots import show_snapshots, snapshot_list

    room = open_to_read(repo, key_file, replica)
    found, damaged, journals = room.snapshots(), room.damaged_snapshots(), room.journal_status()
    _say(json, snapshot_list(found, journals), lambda: show_snapshots(found, journals))
    for problem in damaged:
        show_problem(str(problem))
    if damaged:
        raise typer.Exit(4)


@app.command()
def show(
    repo: Repo,
    snapshot: Annotated[str, typer.Argument(help="'latest' or the beginning of an id.")] = "latest",
    replica: Replicas = None,
    stale_ok: StaleOk = False,
    key_file: KeyFile = None,
    json: AsJson = False,
) -> None:
    """Show what a snapshot holds and what it doesn't."""
    from strongroom.cli.showing.snapshots import show_snapshot, snapshot_detail

    found = open_to_read(repo, key_file, replica, stale_ok=stale_ok).snapshot(snapshot)
    _say(json, snapshot_detail(found), lambda: show_snapshot(found))


@app.command()
def diff(
    repo: Repo,
    before: Annotated[str, typer.Argument(help="A snapshot: 'latest', the beginning of an id, or either with ~N.")] = "latest~1",
    after: Annotated[str, typer.Argument(help="The other snapshot.")] = "latest",
    collection: Annotated[list[str] | None, typer.Option(help="Only this collection, or NAME=NAME; any number of times.")] = None,
    sample: Annotated[int, typer.Option(min=0, help="Ids to show of rows added, changed and removed.")] = 5,
    key_file: KeyFile = None,
    json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Show what differs between two snapshots. Exit code 3 if rows of theirs could not be told apart."""
    room = _open(repo, key_file, lambda: import_module("strongroom.operations.diff.run"))
    with _progress(quiet) as progress:
        report = room.diff(before, after, collections=collection or [], sample=sample, progress=progress)
    from strongroom.cli import differences

    _say(json, differences.diff_summary(report), lambda: differences.show_diff(report))
    if report.problems:
        raise typer.Exit(3)


@app.command()
def verify(
    repo: Repo,
    snapshot: Annotated[str | None, typer.Argument(help="'latest', the beginning of an id, or nothing for all.")] = None,
    level: Annotated[LevelName, typer.Option(help="How deep to look.")] = LevelName.DATA,
    budget: Annotated[
        int | None, typer.Option(min=1, help="Read at most this many bytes of packs, least recently proven first.")
    ] = None,
    scratch: Annotated[Path | None, typer.Option(help="Where levels restore and answers may restore to.")] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Make whole what levels objects and data find.")] = False,
    from_: Annotated[
        list[str] | None,
        typer.Option("--from", help="Repair from this replica (a repository) or live source (engine URL); repeatable."),
    ] = None,
    from_source: Annotated[bool, typer.Option(help="Repair from the sources that broken snapshots were made of, too.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what a repair would do and change nothing.")] = False,
    replica: Replicas = None,
    key_file: KeyFile = None,
    json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Prove that snapshots are whole, restore and answer as they did, or repair them. Exit code 4 if something is broken."""
    from strongroom.cli.render import plain
    from strongroom.cli.showing.verification import show_verify
    from strongroom.operations.verify import Level

    if repair:
        wish = {"level": Level[level.name], "budget": budget, "scratch": scratch, "dry_run": dry_run, "own_sources": from_source}
        _repair(repo, snapshot, from_ or [], key_file, wish, json=json, quiet=quiet)
        return
    if from_ or dry_run:
        raise WrongRequest("--from and --dry-run are for a repair", hint="add --repair")
    room = open_to_read(repo, key_file, replica, by_blob=False)
    with _progress(quiet) as progress:
        report = room.verify(snapshot, level=Level[level.name], budget=budget, scratch=scratch, progress=progress)
    _say(json, {**plain(report), "passed": report.passed}, lambda: show_verify(report))
    if not report.passed:
        raise typer.Exit(4)


def _repair(
    repo: str, snapshot: str | None, sources: list[str], key_file: Path | None, wish: dict[str, Any], *, json: bool, quiet: bool
) -> None:
    from strongroom.cli.render import plain
    from strongroom.cli.showing.verification import show_repair
    from strongroom.credentials import secret_from
    from strongroom.library import repair_repository

    theirs = secret_from(prefix="STRONGROOM_FROM_")
    password = _asked_password(key_file)
    with _progress(quiet) as progress:
        report = repair_repository(
            repo, snapshot, password=password, key_file=key_file, sources=sources, sources_secret=theirs, progress=progress, **wish
        )
    _say(json, {**plain(report), "passed": report.passed}, lambda: show_repair(report))
    if not report.passed:
        raise typer.Exit(4)


def _because(reason: str | None, approval: str | None) -> None:
    """What goes with whatever this process does."""
    for name, given in (("STRONGROOM_REASON", reason), ("STRONGROOM_APPROVAL", approval)):
        if given is not None:
            os.environ[name] = given


def _require_command(context: typer.Context) -> None:
    """The help, and exit code 2, if no command was given."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


def _open(repo: str, key_file: Path | None, load: Callable[[], object] = lambda: None) -> Strongroom:
    """Opened while what comes next is loaded: a password takes its time to become a key, on purpose."""
    from strongroom.credentials import secret_of
    from strongroom.repository.store import open_store
    from strongroom.repository.unlocking import unlock

    secret, store = secret_of(_asked_password(key_file), key_file), open_store(repo)
    with ThreadPoolExecutor(1) as pool:
        unlocking = pool.submit(unlock, store, secret)
        from strongroom.engines.without_pandas import do_without_pandas
        from strongroom.library import Strongroom
        from strongroom.repository import Repository

        load()
        do_without_pandas()
        return Strongroom(Repository.unlocked(store, unlocking.result()))


def _asked_password(key_file: Path | None, *, confirm: bool = False) -> str | None:
    """What the person at the terminal types; None if a key file or the environment gives the secret, or nobody is there."""
    from strongroom.credentials import is_named

    if is_named(key_file=key_file) or not _may_ask():
        return None
    return _ask("Password of the new repository" if confirm else "Password of the repository", confirm=confirm)


def _may_ask() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _ask(question: str, *, confirm: bool = False) -> str:
    return str(typer.prompt(question, hide_input=True, confirmation_prompt="The same again" if confirm else False, err=True))


def _say_experimental(url: str) -> None:
    """On standard error, whatever else is shown."""
    from strongroom import engines
    from strongroom.cli import render

    engine = engines.engine_of(url)
    if engines.is_experimental(engine):
        render.show_problem(f"{engine.name} is experimental: it has never met a real server (docs/ENGINES.md says what was tested)")


def _say(json: bool, value: Any, show: Callable[[], None]) -> None:
    from strongroom.cli import render

    if json:
        with suppress(BrokenPipeError):  # nobody reads on; the exit code says what was done
            typer.echo(render.as_json(value))
    else:
        show()


def _progress(quiet: bool) -> AbstractContextManager[Progress]:
    from strongroom.progress import SILENT

    if quiet:
        return nullcontext(SILENT)
    from strongroom.cli import render
    from strongroom.cli.bars import Bars

    return Bars(render.err)


def _pairs(texts: list[str], option: str) -> dict[str, str]:
    pairs = dict(text.partition("=")[::2] for text in texts)
    if any("=" not in text for text in texts) or not all(pairs):
        wrong = next(text for text in texts if not text.partition("=")[0] or "=" not in text)
        form = "OLD=NEW" if option == "--rename" else "KEY=VALUE"
        raise WrongRequest(f"{option} {wrong!r} is not of the form {form}", hint=f"write it as {option} {form}")
    return pairs


def _say_service(slot: KeySlot) -> None:
    """On standard error, if its service was never met."""
    from strongroom.cli import render
    from strongroom.repository.key_services import is_experimental

    if is_experimental(slot.kind):
        render.show_problem(f"{slot.kind} is experimental: it has never met the real service; keep another key slot beside it")


def _slot(slot: KeySlot) -> dict[str, Any]:
    shown: dict[str, Any] = {name: slot.body[name] for name in ("service", "set", "shares", "threshold") if name in slot.body}
    return {
        "id": slot.id,
        "kind": slot.kind,
        "label": slot.label,
        "created": slot.created,
        "role": slot.identity.role.value,
        "write_only": slot.write_only,
        **shown,
    }


def _new_secret(new_key_file_path: Path | None = None, kms: str | None = None) -> Secret:
    from strongroom.credentials import secret_from
    from strongroom.repository import Secret

    if new_key_file_path:
        return _make_key_file(new_key_file_path)
    secret = secret_from(prefix="STRONGROOM_NEW_", kms=kms)
    if secret is None and _may_ask():
        secret = Secret.passphrase(_ask("New password", confirm=True))
    if secret is None:
        raise WrongRequest("no new password was given", hint="set STRONGROOM_NEW_PASSWORD or STRONGROOM_NEW_PASSWORD_FILE")
    return secret


def _make_key_file(path: Path) -> Secret:
    from strongroom.repository import Secret, new_key_file

    return Secret.key_file(_write_private(path, new_key_file()))


def _write_private(path: Path, content: bytes) -> bytes:
    """Made readable by its owner alone, durable before it is relied on, never over an existing file."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError as error:
        raise StrongroomError(f"{path} is already there", hint="give the path of a new file, or move the old one away") from error
    except OSError as error:
        raise from_os_error(error, str(path)) from error
    return content
