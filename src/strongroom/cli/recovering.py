"""The commands for keys that nobody types: recovery shares, and slots of key services."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from strongroom.cli.app import AsJson, KeyFile, Kms, Repo, _new_secret, _open, _say, _say_service, _slot, keys
from strongroom.errors import WrongRequest, from_os_error

if TYPE_CHECKING:
    from strongroom.repository import KeySlot
    from strongroom.repository.key_renewal import SharedKey


@keys.command("recovery")
def key_recovery(
    repo: Repo,
    shares: Annotated[int, typer.Option(min=2, max=16, help="For how many people.")],
    threshold: Annotated[int, typer.Option(min=2, max=16, help="How many of them are needed.")],
    out: Annotated[Path | None, typer.Option(help="Write each share to a file of its own in this folder.")] = None,
    label: Annotated[str, typer.Option(help="What the key is for.")] = "recovery",
    key_file: KeyFile = None,
    json: AsJson = False,
) -> None:
    """Make a recovery key and share it: some of the people together open the repository. The shares are shown this once."""
    from strongroom.repository.key_renewal import SharedKey

    room, made = _open(repo, key_file), SharedKey.new(shares, threshold)
    files: list[str] = []
    if out is not None:  # kept before they open anything: a key without its shares would be of no use
        _make_folder(out)
        files = [_write(out, made, number) for number in range(1, shares + 1)]
    slot = room.add_key(made.secret, label)
    told: dict[str, Any] = {**_slot(slot), "files": files} if out is not None else {**_slot(slot), "words": made.words}
    _say(json, told, lambda: _show(slot, made, files))


@keys.command("recover")
def key_recover(
    repo: Repo,
    share: Annotated[list[Path] | None, typer.Option(help="A file of one share or more; any number of times.")] = None,
    new_key_file_path: Annotated[Path | None, typer.Option("--new-key-file", help="Make a key file here as the new key.")] = None,
    kms: Kms = None,
    label: Annotated[str, typer.Option(help="What the new key is for.")] = "after recovery",
    json: AsJson = False,
) -> None:
    """Open the repository with recovery shares and add a new key: a password (STRONGROOM_NEW_PASSWORD), key file or service."""
    from strongroom.cli import render
    from strongroom.credentials import secret_of_shares
    from strongroom.library import Strongroom
    from strongroom.repository import Repository, open_store

    named = share or [Path(one) for one in os.environ.get("STRONGROOM_RECOVERY_SHARES_FILES", "").split(os.pathsep) if one]
    if not named:
        raise WrongRequest("no shares were given", hint="give --share FILE for each, or set STRONGROOM_RECOVERY_SHARES_FILES")
    room = Strongroom(Repository.open(open_store(repo), secret_of_shares(named)))
    slot = room.add_key(_new_secret(new_key_file_path, kms), label)
    _say_service(slot)
    _say(json, _slot(slot), lambda: render.show_done(f"the shares open it; key slot {slot.id[:12]} added"))


@keys.command("rewrap")
def key_rewrap(
    repo: Repo,
    to: Annotated[str | None, typer.Option(help="Wrap it by this key service (URL) from now on.")] = None,
    json: AsJson = False,
) -> None:
    """Wrap the slots of the key service (STRONGROOM_KMS, --kms) anew, by the newest version of its key."""
    from strongroom.cli import render
    from strongroom.credentials import secret_of_service
    from strongroom.library import Strongroom
    from strongroom.repository import Repository, open_store

    url = os.environ.get("STRONGROOM_KMS")
    if not url:
        raise WrongRequest("no key service was named", hint="give --kms URL or set STRONGROOM_KMS")
    secret = secret_of_service(url)
    room = Strongroom(Repository.open(open_store(repo), secret))
    renewed = room.rewrap_keys(secret, secret_of_service(to) if to else None)
    ids = ", ".join(slot.id[:12] for slot in renewed)
    _say(json, [_slot(slot) for slot in renewed], lambda: render.show_done(f"wrapped anew: key slot {ids}"))


def _show(slot: KeySlot, made: SharedKey, files: list[str]) -> None:
    from strongroom.cli import render

    render.show_done(f"key slot {slot.id[:12]} opens with any {made.threshold} of {len(made.words)} shares of set {made.set}")
    for number, words in enumerate(made.words, 1):
        typer.echo(files[number - 1] if files else f"share {number}: {words}")


def _make_folder(folder: Path) -> None:
    """Before the key is made: a new one, so that no share of another set lies beside these."""
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError as error:
        raise WrongRequest(f"{folder} is already there", hint="give the path of a new folder") from error
    except OSError as error:
        raise from_os_error(error, str(folder)) from error


def _write(folder: Path, made: SharedKey, number: int) -> str:
    """Durable, and readable by its owner alone."""
    path = folder / f"share-{number}-of-{len(made.words)}.txt"
    text = (
        f"# Strongroom recovery key, set {made.set}, share {number}; any {made.threshold} of {len(made.words)} open it\n"
        f"# 'strongroom key recover --share FILE --share FILE ...'\n{made.words[number - 1]}\n"
    )
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise from_os_error(error, str(path)) from error
    return str(path)
