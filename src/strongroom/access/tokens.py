"""Secrets that open a repository for a while: who may make which, and when they go."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from strongroom.access.roles import outranks
from strongroom.errors import NotFound, Refused, WrongRequest
from strongroom.repository import KeySlot, Repository, Secret, new_key_file
from strongroom.repository.identity import AccessRole, Bearer
from strongroom.repository.key_slots import TOKEN

LONGEST = timedelta(days=31)
_LEEWAY = timedelta(hours=1)
"""So long after its end a token is taken away: clocks differ."""


@dataclass(frozen=True, slots=True)
class Token:
    """A new token: its slot, and the text that opens it, which is never told again."""

    slot: KeySlot
    text: str = field(repr=False)


def create(repository: Repository, role: AccessRole, expires: timedelta, label: str) -> Token:
    """Raises Refused for a role that isn't below one's own, or if a token asks; WrongRequest for a time that can't be."""
    who = repository.identity
    if who.is_token:
        raise Refused("a token makes no tokens", hint="use a key")
    if not outranks(who.role, role):
        raise Refused(f"the role {who.role.value} can't make a token of the role {role.value}", hint="ask an administrator")
    if not timedelta(0) < expires <= LONGEST:
        raise WrongRequest(f"a token lasts at most {LONGEST.days} days", hint="--expires 8h; for longer add a key")
    text = new_key_file(TOKEN)
    bearer = Bearer(role, who.person, who.slot, repository.clock.now() + expires)
    slot = repository.add_key(Secret.key_file(text), label, bearer=bearer, public=True)
    return Token(slot, text.decode())


def listed(repository: Repository) -> list[KeySlot]:
    return [slot for slot in repository.key_slots()[0] if slot.identity.is_token]


def revoke(repository: Repository, prefix: str) -> KeySlot:
    """Raises NotFound, or Refused for somebody else's token."""
    found = [slot for slot in listed(repository) if slot.id.startswith(prefix)]
    if len(found) != 1 or not prefix:
        raise NotFound(f"{len(found)} tokens begin with {prefix!r}", hint="see 'strongroom token list'")
    who = repository.identity
    if who.role is not AccessRole.ADMIN and found[0].identity.person != who.person:
        raise Refused("that is somebody else's token", hint="who made it, or an administrator, can take it away")
    return repository.remove_key(found[0].id)


def remove_ended(repository: Repository) -> list[KeySlot]:
    """Take away the tokens whose time has been over for an hour."""
    before = repository.clock.now() - _LEEWAY
    ended = [slot for slot in listed(repository) if slot.identity.expires is not None and slot.identity.expires < before]
    return [repository.remove_key(slot.id) for slot in ended]
