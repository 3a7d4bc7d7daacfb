"""The commands that change a repository's keys and say how old they are: key rotate, upgrade and status."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from strongroom.cli.app import AsJson, KeyFile, Repo, _asked_password, _say, _slot, keys
from strongroom.errors import WrongRequest

if TYPE_CHECKING:
    from strongroom.library import Strongroom
    from strongroom.operations.key_status import KeyStatus
    from strongroom.repository import Secret
    from strongroom.repository.rotation import Rotation


@keys.command("rotate")
def key_rotate(
    repo: Repo,
    without: Annotated[
        list[str] | None, typer.Option(help="Remove this slot in the same step; the beginning of its id; any number of times.")
    ] = None,
    drop: Annotated[bool, typer.Option("--drop", help="Remove the slots that could not open what is written from now on.")] = False,
    key_file: KeyFile = None,
    json: AsJson = False,
) -> None:
    """Write with new keys from now on; nothing is rewritten. Who has an old slot can't read what comes. Exit code 5 if slots would
    be left out."""
    room, secret = _opened(repo, key_file)
    done = room.rotate_keys(secret, without=without or (), drop=drop)
    slots = [_slot(slot) for slot in done.slots]
    left_out = [{"id": one.id, "label": one.label, "why": one.why} for one in done.left_out]
    told = {"epoch": done.epoch, "created": done.created, "slots": slots, "left_out": left_out, "removed": done.removed}
    _say(json, told, lambda: _show_rotation(done))


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
    """How old each key is. Exit code 5 if one is older than --max-age."""
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

    for one in status.slots:
        notes = [note for note in ("TOO OLD" if one.too_old else "", one.behind) if note]
        render.line(f"key slot {one.id[:12]}  {one.days:8.1f} days  {one.kind:<10}  {one.role:<8}  {one.label}  {'; '.join(notes)}")
    for epoch in status.epochs:
        note = "TOO OLD" if epoch.too_old else "written with now" if epoch.newest else "read only"
        render.line(f"epoch {epoch.number:>6}           {epoch.days:8.1f} days  {note}")
    for problem in status.damaged:
        render.show_problem(problem)
