"""How does a secret open a repository? Read `config` and the key slots, and unwrap the master key.

A password takes its time to become a key, on purpose. So this stands apart from what works with blobs and needs none of its
libraries: a program can load those meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass

from strongroom.clock import SYSTEM_CLOCK, Clock
from strongroom.errors import Damaged, NoRepository, NotFound, WrongKey
from strongroom.repository import config, epoch_memory, key_slots, keyring
from strongroom.repository.crypto import Signer
from strongroom.repository.identity import Identity
from strongroom.repository.key_slots import KeySlot, Secret
from strongroom.repository.keys import Keys
from strongroom.repository.store import Store
from strongroom.repository.turned_away import note

SNAPSHOTS = "snapshots/"
PACKS = "packs/"


@dataclass(frozen=True, slots=True)
class Unlocked:
    """What a repository is, its keys, who opened it and signs so, and what is wrong with key slots other than that one."""

    settings: config.Config
    keys: Keys
    identity: Identity
    problems: tuple[Damaged, ...] = ()
    signer: Signer | None = None


def unlock(store: Store, secret: Secret, clock: Clock = SYSTEM_CLOCK) -> Unlocked:
    """Raises NoRepository, WrongKey (noted on this machine), or Damaged if `config` or every key slot is."""
    settings = read_config(store)
    slots, problems = read_slots(store, settings)
    left_out: WrongKey | None = None
    for slot, wrapped, signer in key_slots.unwrapping(slots, secret):
        require_valid(slot.identity, clock)
        try:
            keys = _keys_of(store, slot, wrapped, signer, settings.repository_id)
        except WrongKey as error:
            left_out = error
            continue
        epoch_memory.check(keys)
        return Unlocked(settings, keys, slot.identity, tuple(problems), signer)
    if left_out is not None:
        raise left_out
    if problems:
        raise problems[0]
    if not slots:
        raise Damaged(key_slots.FOLDER, "every key slot is gone, and with them the only way to the data")
    note(settings.repository_id, store.url, secret.kind, clock)
    hint = (
        None if secret.service is None else "see 'strongroom key list' for the services of its slots; any other slot opens it too"
    )
    raise WrongKey(f"no key slot of {store.url} opens with {secret.called}", hint=hint)


def _keys_of(store: Store, slot: KeySlot, wrapped: bytes, signer: Signer | None, repository_id: bytes) -> Keys:
    if slot.write_only:
        from strongroom.repository import host_keys  # few machines need it

        return host_keys.open_slot(store, slot, wrapped, signer, repository_id)
    return keyring.open_slot(store, slot, wrapped, repository_id)


def require_valid(identity: Identity, clock: Clock) -> None:
    """Raises WrongKey if it is a token whose time is over."""
    if identity.expires is not None and clock.now() >= identity.expires:
        named = identity.label or identity.slot[:12]
        raise WrongKey(f"the token {named} ended at {identity.expires:%Y-%m-%d %H:%M:%S} UTC", hint="ask for a new one")


def read_config(store: Store) -> config.Config:
    """Raises NoRepository, or Damaged if `config` is altered, or missing where the rest is there."""
    try:
        return config.decode(store.read(config.NAME))
    except config.NewerFormat:
        raise
    except (NotFound, NoRepository) as error:
        if any(True for _ in store.list(SNAPSHOTS)) or any(True for _ in store.list(PACKS)):
            what = "missing" if isinstance(error, NotFound) else "altered"
            raise Damaged(config.NAME, f"{what}, although packs or snapshots are there") from error
        if isinstance(error, NoRepository):
            raise
        raise NoRepository(f"there is no repository at {store.url}") from error


def read_slots(store: Store, settings: config.Config) -> tuple[list[KeySlot], list[Damaged]]:
    """All key slots, oldest first, and what is wrong with the others."""
    slots: list[KeySlot] = []
    problems: list[Damaged] = []
    for listed in store.list(key_slots.FOLDER):
        try:
            slots.append(key_slots.read_slot(listed.name, store.read(listed.name), settings.repository_id))
        except Damaged as error:
            problems.append(error)
    return sorted(slots, key=lambda slot: slot.created), problems
