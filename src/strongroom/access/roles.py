"""Which role may do what? One table, by the names of the library's methods. Pure.

A verb that stands in no row is for administrators alone: whoever adds one and forgets it here has made nothing public.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from strongroom.repository.identity import AccessRole

OBSERVER, OPERATOR, RESTORER, AUDITOR, ADMIN = AccessRole
_ALL = frozenset(AccessRole)


@dataclass(frozen=True, slots=True)
class Verb:
    """What is asked of a verb: who may, whether it only looks (logged by one entry, and done even if the log can't be written; one
    an hour if it `lists`), and whether a second person or a reason can be asked for."""

    roles: frozenset[AccessRole]
    looks: bool = False
    lists: bool = True
    governed: bool = False


def _for(*roles: AccessRole, looks: bool = False, governed: bool = False) -> Verb:
    return Verb(frozenset(roles) | {ADMIN}, looks, governed=governed)


VERBS: dict[str, Verb] = {
    # seeing that there are snapshots, and whether they are sound
    "snapshots": Verb(_ALL, looks=True),
    "damaged_snapshots": Verb(_ALL, looks=True),
    "snapshot": Verb(_ALL, looks=True),
    "journal_status": Verb(_ALL, looks=True),
    "verify": Verb(_ALL, looks=True, lists=False),
    "verify_by_restoring": _for(OPERATOR, RESTORER, AUDITOR),
    "coverage": Verb(_ALL, looks=True),
    "holds": Verb(_ALL, looks=True),
    "published_policy": Verb(_ALL, looks=True),
    # making snapshots and keeping journals
    "backup": _for(OPERATOR),
    "capture": _for(OPERATOR),
    "follow": _for(OPERATOR),
    "release": _for(OPERATOR),
    "copy": _for(OPERATOR),
    "replicate": _for(OPERATOR),
    "journal_batches": _for(OPERATOR, RESTORER, looks=True),
    # seeing what snapshots hold, and giving it back
    "diff": _for(OPERATOR, RESTORER),
    "plan_restore": _for(OPERATOR, RESTORER, looks=True),
    "restore": _for(RESTORER, governed=True),
    "drill": _for(OPERATOR, RESTORER),
    "drill_history": _for(OPERATOR, RESTORER, AUDITOR, looks=True),
    # two people
    "approvals": Verb(_ALL, looks=True),
    "grant_approval": _for(RESTORER),
    "deny_approval": _for(RESTORER),
    "require_approval": _for(governed=True),
    # the audit log
    "audit": _for(AUDITOR, looks=True),
    "verify_audit": _for(AUDITOR),
    "export_audit": _for(AUDITOR),
    # keys
    "key_slots": _for(AUDITOR, looks=True),
    "add_key": _for(governed=True),
    "remove_key": _for(governed=True),
    "change_passphrase": Verb(_ALL, governed=True),
    "rewrap_keys": _for(governed=True),
    "upgrade_key": Verb(_ALL),
    "rotate_keys": _for(governed=True),
    "reencrypt": _for(governed=True),
    "close_epochs": _for(governed=True),
    "key_status": _for(AUDITOR, looks=True),
    "create_token": _for(OPERATOR, RESTORER, AUDITOR, governed=True),
    "tokens": _for(OPERATOR, RESTORER, AUDITOR, looks=True),
    "revoke_token": _for(OPERATOR, RESTORER, AUDITOR),
    # holding fast, and taking away
    "publish_policy": _for(governed=True),
    "name_region": _for(governed=True),
    "set_lock": _for(governed=True),
    "extend_locks": _for(OPERATOR),
    "lock_status": Verb(_ALL, looks=True, lists=False),
    "recover_objects": _for(governed=True),
    "hold": _for(governed=True),
    "release_hold": _for(governed=True),
    "erase": _for(governed=True),
    "certificate": _for(AUDITOR, looks=True),
    "forget": _for(governed=True),
    "prune": _for(governed=True),
    "repair": _for(governed=True),
}
_COMMANDS = {
    "verify_by_restoring": "verify --level restore",
    "require_approval": "approval require",
    "grant_approval": "approval grant",
    "deny_approval": "approval deny",
    "verify_audit": "audit verify",
    "export_audit": "audit export",
    "audit": "audit show",
    "key_slots": "key list",
    "add_key": "key add",
    "remove_key": "key remove",
    "change_passphrase": "key passwd",
    "create_token": "token create",
    "tokens": "token list",
    "revoke_token": "token revoke",
    "journal_status": "journal status",
    "journal_batches": "journal batches",
    "follow": "journal follow",
    "release": "journal release",
    "certificate": "certificate show",
    "snapshot": "show",
    "plan_restore": "restore --dry-run",
    "approvals": "approval list",
    "repair": "verify --repair",
    "drill_history": "drill history",
    "hold": "hold place",
    "holds": "hold list",
    "release_hold": "hold release",
    "rewrap_keys": "key rewrap",
    "upgrade_key": "key upgrade",
    "rotate_keys": "key rotate",
    "reencrypt": "key reencrypt",
    "close_epochs": "key close",
    "key_status": "key status",
    "publish_policy": "config publish",
    "name_region": "region set",
    "set_lock": "lock set",
    "extend_locks": "lock extend",
    "lock_status": "lock status",
    "recover_objects": "lock recover",
    "published_policy": "config of the repository",
}
FOR_ADMINS = Verb(frozenset({ADMIN}), governed=True)


def verb_of(name: str) -> Verb:
    return VERBS.get(name, FOR_ADMINS)


def named(text: str) -> str:
    """The verb that a text means: the name of a method, or of a command, with spaces or dashes."""
    words = text.strip().replace("-", " ").replace("_", " ")
    return next((verb for verb, command in _COMMANDS.items() if command.replace("-", " ") == words), words.replace(" ", "_"))


def row_of(name: str, arguments: Mapping[str, Any]) -> str:
    """The row of the table that counts for a call: some verbs do more if they are asked to."""
    return "verify_by_restoring" if name == "verify" and arguments.get("level") in ("restore", "answers") else name


def command_of(name: str) -> str:
    """How a verb is called on the command line."""
    return _COMMANDS.get(name, name.replace("_", " "))


def may(role: AccessRole, name: str) -> bool:
    return role in verb_of(name).roles


def needed_for(name: str) -> str:
    """The roles that may do it, in words."""
    return " or ".join(role.value for role in AccessRole if may(role, name))


def outranks(role: AccessRole, other: AccessRole) -> bool:
    """May it do all that the other one may, and more?"""
    theirs, others = ({name for name in VERBS if may(one, name)} for one in (role, other))
    return others < theirs


def table() -> dict[str, list[str]]:
    """Each verb and the roles that may do it."""
    return {command_of(name): [role.value for role in AccessRole if may(role, name)] for name in VERBS}
