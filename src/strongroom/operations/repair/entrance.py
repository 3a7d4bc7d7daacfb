"""How a repository is opened whose `config` or key slots are damaged or gone: they come back first."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from strongroom.clock import Clock
from strongroom.errors import Damaged, NotFound, StrongroomError, UnsafeStore
from strongroom.operations.repair.epochs import mend_epochs
from strongroom.operations.repair.replacing import is_whole, read_if_there, replace
from strongroom.operations.repair.report import Notes
from strongroom.operations.repair.sessions import mend_sessions
from strongroom.operations.verify import Finding
from strongroom.repository import INDEX, PACKS, SNAPSHOTS, KeySlot, Repository, Secret, Store, config, read_config
from strongroom.repository.carrying import Carrying
from strongroom.repository.framing import Kind, unseal
from strongroom.repository.identity import Identity
from strongroom.repository.key_slots import FOLDER as KEYS
from strongroom.repository.key_slots import read_slot
from strongroom.repository.keyring import open_slot
from strongroom.repository.keys import Keys
from strongroom.repository.packs import read_directory
from strongroom.repository.store import try_conditional_create


def enter(
    store: Store, secret: Secret, replicas: Sequence[Repository], notes: Notes, clock: Clock, *, dry_run: bool
) -> tuple[Repository, list[Finding]]:
    """The opened repository, and what had to be put back for it. Raises what `Repository.open` raises if that can't be had."""
    epochs = mend_epochs(store, replicas, notes, dry_run=dry_run) + mend_sessions(store, replicas, notes, dry_run=dry_run)
    try:
        repository = Repository.open(store, secret, clock=clock)
        if _opens_something(store, repository.keys) or not any(True for _ in store.list(SNAPSHOTS)):
            return repository, epochs
        damage = Damaged(config.NAME, "it opens, and nothing here was written with its key")
    except Damaged as error:
        damage = error
    for keys, identity, settings, source, slots in _ways_in(store, secret, replicas):
        if not _opens_something(store, keys):
            continue
        wrong = _wrong_config(store, keys)
        found = [*epochs, wrong or Finding(damage.subject, damage.problem)]
        if wrong:
            if not dry_run:
                replace(store, config.NAME, settings)
            notes.did(config.NAME, f"put back from {source}")
        for name, content in slots.items():
            if not dry_run:
                replace(store, name, content)
            notes.did(name if damage.subject != KEYS else KEYS, f"put back from {source}")
        return Repository(store, config.decode(settings), keys, identity, clock), found
    raise damage


def _wrong_config(store: Store, keys: Keys) -> Finding | None:
    try:
        if read_config(store).repository_id == keys.repository_id:
            return None
    except Damaged as error:
        return Finding(error.subject, error.problem)
    return Finding(config.NAME, "it is another repository's")


def _ways_in(
    store: Store, secret: Secret, replicas: Sequence[Repository]
) -> Iterator[tuple[Keys, Identity, bytes, str, dict[str, bytes]]]:
    """Keys that may be this repository's, who opens it with them, its `config`, where they are from, the slots that are needed."""
    for replica in replicas:
        content = replica.store.read(config.NAME)
        yield replica.keys, replica.identity, content, replica.store.url, _slots_from(store, replica, secret)
    for slot in _own_slots(store):
        wrapped = None if slot.write_only else slot.open(secret)
        if wrapped is not None:
            repository_id = bytes.fromhex(slot.body["repository"])
            settings = config.Config(repository_id, slot.created, _overwrites(store))
            yield open_slot(store, slot, wrapped, repository_id), slot.identity, settings.encode(), "a key slot", {}


def _slots_from(store: Store, replica: Repository, secret: Secret) -> dict[str, bytes]:
    """The replica's slots in place of the damaged ones here; if then none of its slots is here, those that the secret opens."""
    here = {listed.name: read_if_there(store, listed.name) for listed in store.list(KEYS)}
    damaged = {name for name, content in here.items() if content is not None and not is_whole(name, content)}
    slots, _ = replica.key_slots()
    chosen = [slot for slot in slots if slot.name in damaged]
    if not any(slot.name in here for slot in slots):
        chosen = [slot for slot in slots if slot.open(secret) is not None]
    return {slot.name: replica.store.read(slot.name) for slot in chosen}


def _own_slots(store: Store) -> Iterator[KeySlot]:
    """Without `config`: each says itself which repository it is of."""
    for listed in store.list(KEYS):
        try:
            content = store.read(listed.name)
            yield read_slot(listed.name, content, bytes.fromhex(json.loads(content)["repository"]))
        except (Damaged, NotFound, ValueError, KeyError, TypeError):
            continue


def _overwrites(store: Store) -> bool:
    """What `config` said of it: it was made so where it had to be."""
    try:
        try_conditional_create(store)
    except UnsafeStore:
        return True
    return False


def _opens_something(store: Store, keys: Keys) -> bool:
    """Was anything here written with these keys? Else they are another repository's."""
    store = Carrying(store, keys)
    for folder, kind in ((SNAPSHOTS, Kind.SNAPSHOT), (INDEX, Kind.INDEX)):
        for listed in store.list(folder):
            try:
                unseal(keys, kind, listed.name, store.read(listed.name))
            except (Damaged, NotFound):
                continue
            return True
    for listed in store.list(PACKS):
        try:
            read_directory(keys, listed.name, listed.size, lambda offset, length: store.read(listed.name, offset, length))  # noqa: B023
        except StrongroomError:
            continue
        return True
    return False
