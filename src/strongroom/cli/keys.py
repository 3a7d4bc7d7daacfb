"""The commands about key slots: key list, add, remove and passwd."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from strongroom.cli.app import AsJson, KeyFile, Kms, Repo, _ask, _may_ask, _new_secret, _open, _say, _say_service, _slot, keys
from strongroom.repository.identity import AccessRole

if TYPE_CHECKING:
    from strongroom.repository.key_slots import KeySlot


@keys.command("list")
def key_list(repo: Repo, key_file: KeyFile = None, json: AsJson = False) -> None:
    """List the key slots."""
    slots = _open(repo, key_file).key_slots()
    _say(json, [_slot(slot) for slot in slots], lambda: _show(slots))


def _show(slots: Sequence[KeySlot]) -> None:
    from strongroom.cli.render import line

    width = max([10, *(len(slot.kind) for slot in slots)])
    line((f"{'key slot':<12}  {'created (UTC)':<19}  {'kind':<{width}}  {'role':<8}  label", "bold"))
    for slot in slots:
        created, role = slot.created[:19].replace("T", " "), "writes" if slot.write_only else slot.identity.role.value
        service = f"  ({slot.body['service']})" if "service" in slot.body else ""
        line((slot.id[:12], "bold"), f"  {created:<19}  {slot.kind:<{width}}  {role:<8}  {slot.label}{service}")


@keys.command("add")
def key_add(
    repo: Repo,
    label: Annotated[str, typer.Option(help="What the key is for.")] = "",
    new_key_file_path: Annotated[
        Path | None, typer.Option("--new-key-file", help="Make a key file here instead of adding a password.")
    ] = None,
    role: Annotated[AccessRole, typer.Option(help="What it is for: see 'strongroom role table'.")] = AccessRole.ADMIN,
    write_only: Annotated[bool, typer.Option("--write-only", help="For a host that backs up and can't read anything.")] = False,
    kms: Kms = None,
    key_file: KeyFile = None,
    json: AsJson = False,
) -> None:
    """Add a password, from STRONGROOM_NEW_PASSWORD (or _FILE, _COMMAND, or asked for), a new key file, or a key service."""
    from strongroom.cli import render

    room = _open(repo, key_file)
    slot = room.add_key(_new_secret(new_key_file_path, kms), label, role=role, write_only=write_only)
    _say_service(slot)
    _say(json, _slot(slot), lambda: render.show_done(f"key slot {slot.id[:12]} added"))


@keys.command("remove")
def key_remove(
    slot: Annotated[str, typer.Argument(help="The beginning of the slot's id.")],
    repo: Repo,
    key_file: KeyFile = None,
    json: AsJson = False,
) -> None:
    """Remove a key slot; never the last one."""
    from strongroom.cli import render

    removed = _open(repo, key_file).remove_key(slot)
    _say(json, _slot(removed), lambda: render.show_done(f"key slot {removed.id[:12]} removed"))


@keys.command("passwd")
def key_passwd(repo: Repo, json: AsJson = False) -> None:
    """Change the password to STRONGROOM_NEW_PASSWORD (or _FILE, _COMMAND, or asked for)."""
    from strongroom.cli import render
    from strongroom.credentials import require_secret, secret_from
    from strongroom.library import open_repository
    from strongroom.repository import Secret

    passwords = {name: value for name, value in os.environ.items() if name != "STRONGROOM_KEY_FILE"}
    secret = secret_from(passwords)
    if secret is None and _may_ask():
        secret = Secret.passphrase(_ask("Present password"))
    present = require_secret(secret)
    room = open_repository(repo, password=present.value.decode())
    fresh = room.change_passphrase(present, _new_secret())
    _say(json, _slot(fresh), lambda: render.show_done(f"password changed: key slot {fresh.id[:12]}"))
