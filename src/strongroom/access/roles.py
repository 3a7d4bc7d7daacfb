"""Which role may do what? One table, by the names of the library's methods. Pure.

A verb that stands in no row is for administrators alone: whoever adds one and forgets it here has made nothing public.
"""

from __future__ import annotations

from dataclasses import dataclass

from strongroom.repository.identity import AccessRole

OBSERVER, OPERATOR, RESTORER, AUDITOR, ADMIN = AccessRole
_ALL = frozenset(AccessRole)


@dataclass(frozen=True, slots=True)
class Verb:
    """What is asked of a verb: who may, whether it only looks (logged by one entry, and done even if the log can't be written), and
    whether a second person or a reason can be asked for."""

    roles: frozenset[AccessRole]
    looks: bool = False
    governed: bool = False


def _for(*roles: AccessRole, looks: bool = False, governed: bool = False) -> Verb:
    return Verb(frozenset(roles) | {ADMIN}, looks, governed)


VERBS: dict[str, Verb] = {
    # seeing that there are snapshots, and whether they are sound
    "snapshots": Verb(_ALL, looks=True),
    "damaged_snapshots": Verb(_ALL, looks=True),
    "snapshot": Verb(_ALL, looks=True),
    "journal_status": Verb(_ALL, looks=True),
    "verify": Verb(_ALL),
    # making snapshots and keeping journals
    "backup": _for(OPERATOR),
    "follow": _for(OPERATOR),
    "release": _for(OPERATOR),
    "journal_batches": _for(OPERATOR, RESTORER, looks=True),
    # seeing what snapshots hold, and giving it back
    "diff": _for(OPERATOR, RESTORER),
    "plan_restore": _for(OPERATOR, RESTORER, looks=True),
    "restore": _for(RESTORER, governed=True),
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
    "create_token": _for(OPERATOR, RESTORER, AUDITOR, governed=True),
    "tokens": _for(OPERATOR, RESTORER, AUDITOR, looks=True),
    "revoke_token": _for(OPERATOR, RESTORER, AUDITOR),
    # taking away
    "forget": _for(governed=True),
    "prune": _for(governed=True),
    "repair": _for(governed=True),
}
FOR_ADMINS = Verb(frozenset({ADMIN}), governed=True)


def verb_of(name: str) -> Verb:
    return VERBS.get(name, FOR_ADMINS)


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
    return {name.replace("_", " "): [role.value for role in AccessRole if may(role, name)] for name in VERBS}
