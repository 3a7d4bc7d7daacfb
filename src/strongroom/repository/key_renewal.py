"""How are key slots made that nobody types, and how do they follow their service's newest key?"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field

from strongroom.errors import NotFound, WrongKey
from strongroom.repository import recovery_shares
from strongroom.repository.crypto import Argon2Cost, random_bytes
from strongroom.repository.key_slots import KeySlot, Secret, opening
from strongroom.repository.repository import Repository
from strongroom.repository.slot_making import add_slot


@dataclass(frozen=True, slots=True)
class SharedKey:
    """A new recovery key: what makes its slot, and the words of each share, which are kept nowhere else."""

    secret: Secret
    words: tuple[str, ...] = field(repr=False)
    threshold: int
    set: int

    @classmethod
    def new(cls, shares: int, threshold: int) -> SharedKey:
        """`threshold` of `shares` people will open the repository. Raises WrongRequest."""
        value = random_bytes(recovery_shares.SECRET_BYTES)
        number, words = recovery_shares.split(value, shares, threshold)
        return cls(Secret.recovery(value, set=number, shares=shares, threshold=threshold), tuple(words), threshold, number)


def rewrap(repository: Repository, secret: Secret, fresh: Secret | None = None) -> list[KeySlot]:
    """Put a new slot in the place of each one that `secret` opens, wrapped by the newest version of its service's key, or by
    `fresh`. Each new slot is durable before the old one goes; run again after a crash it does the rest. No other secret is needed.
    Raises WrongKey if it opens none."""
    slots, _ = repository.key_slots()
    renewed: list[KeySlot] = []
    for slot, _ in opening([one for one in slots if not one.write_only], secret):
        created = repository.clock.now().isoformat()
        public = slot.version == 2
        new = add_slot(
            repository.store, repository.keys, fresh or secret, slot.label, created, Argon2Cost(), public=public, bearer=slot.bearer
        )
        with suppress(NotFound):  # another one did the same at once
            repository.remove_key(slot.id)
        renewed.append(new)
    if not renewed:
        raise WrongKey(f"no key slot of {repository.store.url} opens with {secret.called}", hint="see 'strongroom key list'")
    return renewed
