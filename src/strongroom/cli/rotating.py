"""The commands that change a repository's keys and say how old they are: key rotate, reencrypt, close, upgrade and status."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from strongroom.cli.app import AsJson, KeyFile, Quiet, Repo, _asked_password, _open, _progress, _say, _slot, keys
from strongroom.cli.copying import Bandwidth, size_of
from strongroom.cli.pruning import days_and_hours
from strongroom.errors import WrongRequest

if TYPE_CHECKING:
    from strongroom.library import Strongroom
    from strongroom.operations.keys.close_epochs import ClosingReport
    from strongroom.operations.keys.reencrypt import ReencryptOptions, ReencryptReport
    from strongroom.operations.keys.status import KeyStatus
    from strongroom.repository import Secret
    from strongroom.repository.rotation import Rotation

Budget = Annotated[str, typer.Option(help="Bytes to write in this run at most, such as 10G; 0 is no limit.")]
To = Annotated[str | None, typer.Option("--to", help="Path or URL of a replica: do it there instead of here.")]
Grace = Annotated[str, typer.Option(help="How long what was replaced stays; longer than any backup or restore takes.")]


@keys.command("rotate")
def key_rotate(
    repo: Repo,
    without: Annotated[
        list[str] | None, typer.Option(help="Remove this slot in the same step; the beginning of its id; any number of times.")
    ] = None,
    drop: Annotated[bool, typer.Option("--drop", help="Remove the slots that could not open what is written from now on.")] = False,
    reencrypt: Annotated[
        bool, typer.Option("--reencrypt", help="Then write under them what older keys seal, as 'key reencrypt' does.")
    ] = False,
    bandwidth: Bandwidth = "0",
    budget: Budget = "0",
    grace: Grace = "24h",
    key_file: KeyFile = None,
    json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write with new keys from now on; without --reencrypt nothing is rewritten. Who has an old slot can't read what comes. Exit
    code 5 if slots would be left out."""
    options = _options(bandwidth, budget, grace)
    room, secret = _opened(repo, key_file)
    done = room.rotate_keys(secret, without=without or (), drop=drop)
    slots = [_slot(slot) for slot in done.slots]
    left_out = [{"id": one.id, "label": one.label, "why": one.why} for one in done.left_out]
    told = {"epoch": done.epoch, "created": done.created, "slots": slots, "left_out": left_out, "removed": done.removed}
    if not reencrypt:
        _say(json, told, lambda: _show_rotation(done))
        return
    if not json:
        _show_rotation(done)
    with _progress(quiet) as progress:
        report = room.reencrypt(options, progress=progress)
    _say(json, {**told, "reencryption": _told(report)}, lambda: _show_reencryption(report))
    if report.problems:
        raise typer.Exit(4)


@keys.command("reencrypt")
def key_reencrypt(
    repo: Repo,
    bandwidth: Bandwidth = "0",
    budget: Budget = "0",
    grace: Grace = "24h",
    to: To = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what older keys seal.")] = False,
    key_file: KeyFile = None,
    json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write under the newest keys what older ones seal. Safe beside backups and restores; goes on where it was cut off. Exit code 4
    if something can't be read."""
    options = _options(bandwidth, budget, grace, dry_run=dry_run)
    room = _open(repo, key_file)
    with _progress(quiet) as progress:
        report = room.reencrypt(options, to=to, progress=progress)
    _say(json, _told(report), lambda: _show_reencryption(report))
    if report.problems:
        raise typer.Exit(4)


@keys.command("close")
def key_close(
    repo: Repo,
    grace: Annotated[str, typer.Option(help="How long it is announced first; longer than any backup takes.")] = "24h",
    without_replica: Annotated[
        list[str] | None, typer.Option(help="URL of a replica that is no more; any number of times.")
    ] = None,
    to: To = None,
    key_file: KeyFile = None,
    json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Give up the keys of all epochs but the newest: announced first, done when it is run again later. Exit code 5 while something
    here, or in a replica that this machine knows, needs them."""
    room = _open(repo, key_file)
    with _progress(quiet) as progress:
        report = room.close_epochs(days_and_hours(grace, "--grace"), without_replica or (), to=to, progress=progress)
    _say(json, report, lambda: _show_closing(report))


@keys.command("upgrade")
def key_upgrade(repo: Repo, key_file: KeyFile = None, json: AsJson = False) -> None:
    """Make your key slot one that later keys can be sealed to without your secret; run it before another rotates."""
    from strongroom.cli import render

    room, secret = _opened(repo, key_file)
    fresh = room.upgrade_key(secret)
    said = f"key slot {', '.join(slot.id[:12] for slot in fresh)} in place of the old one" if fresh else "nothing to do"
    _say(json, [_slot(slot) for slot in fresh], lambda: render.show_done(said))


@keys.command("status")
def key_status(
    repo: Repo,
    max_age: Annotated[str, typer.Option(help="How old a slot and the newest epoch may be, such as 90d or 12h.")] = "",
    key_file: KeyFile = None,
    json: AsJson = False,
) -> None:
    """How old each key is, and how much it seals. Exit code 5 if one is older than --max-age, else the published policy, allows."""
    from dataclasses import asdict

    room, _ = _opened(repo, key_file)
    status = room.key_status(_age(max_age))
    _say(json, {**asdict(status), "too_old": status.too_old}, lambda: _show_status(status))
    if status.too_old:
        raise typer.Exit(5)


def _opened(repo: str, key_file: object) -> tuple[Strongroom, Secret]:
    """The repository, and the secret that opened it."""
    from pathlib import Path

    from strongroom.credentials import secret_of
    from strongroom.library import Strongroom
    from strongroom.repository import Repository, open_store

    path = key_file if isinstance(key_file, Path) else None
    secret = secret_of(_asked_password(path), path)
    return Strongroom(Repository.open(open_store(repo), secret)), secret


def _age(text: str) -> timedelta | None:
    from strongroom.policy.retention import Duration

    if not text:
        return None
    found = Duration.parse(text)
    if found.years or found.months or not (found.days or found.hours):
        raise WrongRequest(f"--max-age {text} has years or months, or is nothing", hint="write days and hours, such as 90d or 12h")
    return timedelta(days=found.days, hours=found.hours)


def _options(bandwidth: str, budget: str, grace: str, *, dry_run: bool = False) -> ReencryptOptions:
    from strongroom.operations.keys.reencrypt import ReencryptOptions

    return ReencryptOptions(size_of(budget) or None, size_of(bandwidth), days_and_hours(grace, "--grace"), dry_run)


def _told(report: ReencryptReport) -> dict[str, object]:
    from strongroom.cli import render

    return {**render.plain(report), "done": report.done}


def _show_reencryption(report: ReencryptReport) -> None:
    from strongroom.cli import render
    from strongroom.cli.bars import amount

    for problem in report.problems:
        render.show_problem(problem)
    if not report.dry_run:
        copied = amount(report.copied_bytes, "bytes")
        render.line(f"  packs     {report.emptied.packs:,} emptied, {copied} of them written under epoch {report.epoch}")
        render.line(f"  carried   {report.carried.packs:,} other objects, {amount(report.carried.bytes, 'bytes')}")
        render.line(f"  deleted   {report.deleted.packs:,} objects, {amount(report.deleted.bytes, 'bytes')}")
    for one in report.left:
        render.line(
            f"  left      epoch {one.epoch}: {one.objects:,} objects, {amount(one.bytes, 'bytes')}, {one.packs:,} packs of them"
        )
    if report.done:
        render.show_done(f"everything is under epoch {report.epoch}: 'strongroom key close' gives up the older keys")
    elif report.written:
        render.line("what is left was replaced, and goes when this is run after the time of grace")
    elif not report.dry_run:
        render.line("not all is written yet: run it again")


def _show_closing(report: ClosingReport) -> None:
    from strongroom.cli import render

    if report.closed:
        render.show_done(f"the keys of all epochs before {report.epoch} are gone")
    else:
        render.show_done(f"announced: run it again after {report.due[:16]}Z, and the keys before epoch {report.epoch} go")


def _show_rotation(done: Rotation) -> None:
    from strongroom.cli import render

    render.show_done(f"epoch {done.epoch} began: {len(done.slots)} key slot(s) open it")
    for slot in done.slots:
        render.line(f"  {slot.id[:12]}  {slot.label}")
    for one in done.left_out:
        render.line(f"  left out: {one.id[:12]}  {one.label}  ({one.why})")
    for removed in done.removed:
        render.line(f"  removed:  {removed[:12]}")


def _show_status(status: KeyStatus) -> None:
    from strongroom.cli import render
    from strongroom.cli.bars import amount

    for one in status.slots:
        notes = [note for note in ("TOO OLD" if one.too_old else "", one.behind) if note]
        render.line(f"key slot {one.id[:12]}  {one.days:8.1f} days  {one.kind:<10}  {one.role:<8}  {one.label}  {'; '.join(notes)}")
    for epoch in status.epochs:
        note = "TOO OLD" if epoch.too_old else "written with now" if epoch.newest else "closed" if epoch.closed else "read only"
        sealed = f"{epoch.objects:,} objects, {amount(epoch.bytes, 'bytes')}"
        render.line(f"epoch {epoch.number:>6}           {epoch.days:8.1f} days  {note:<16}  {sealed}")
    for problem in status.damaged:
        render.show_problem(problem)
