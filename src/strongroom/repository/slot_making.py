"""How is a key slot made beside whoever may begin a new epoch meanwhile?"""

from __future__ import annotations

from strongroom.errors import Overtaken
from strongroom.repository import host_keys
from strongroom.repository.crypto import Argon2Cost
from strongroom.repository.identity import Bearer
from strongroom.repository.key_slots import KeySlot, Secret, make_slot
from strongroom.repository.keyring import new_bundle
from strongroom.repository.keys import Keys
from strongroom.repository.store import Store
from strongroom.repository.writer import create_once

_TRIES = 5


def add_slot(
    store: Store,
    keys: Keys,
    secret: Secret,
    label: str,
    created: str,
    cost: Argon2Cost,
    *,
    public: bool = False,
    bearer: Bearer | None = None,
    write_only: bool = False,
) -> KeySlot:
    """A new slot, durably: of version 2 if it is to be `public` or the keys were ever rotated, of version 3 if it is to be
    `write_only`. One that is stored while another
    process begins an epoch is made again with its keys: who begins one either sees the slot or is seen here. Raises Overtaken."""
    keys.look_again()
    for _ in range(_TRIES):
        epoch = keys.newest.number
        wrapped, signed = host_keys.new_bundle(keys) if write_only else new_bundle(keys) if epoch or public else (keys.master, None)
        slot, content = make_slot(keys.repository_id, wrapped, secret, label, created, cost, signed, bearer or Bearer())
        create_once(store, slot.name, content)
        keys.look_again()
        if keys.newest.number == epoch:
            return slot
        store.delete(slot.name)
    raise Overtaken("the repository's keys were rotated again and again while a key slot was made")
