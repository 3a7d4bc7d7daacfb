"""How does a host that can't read tombstones learn which packs nobody may rely on any more? By names alone.

    leaving/<pack id>   stored before the tombstone that condemns the pack, deleted after the pack

Whoever writes to the store can make or delete one without a key. One too many makes a host store again what is there; who deletes
one could as well delete the pack.
"""

from __future__ import annotations

from collections.abc import Iterable

from strongroom.repository.store import Store
from strongroom.repository.writer import create_once

FOLDER = "leaving/"
_CONTENT = b"condemned\n"


def say(store: Store, packs: Iterable[str]) -> None:
    """These packs are about to be condemned."""
    for pack_id in packs:
        create_once(store, FOLDER + pack_id, _CONTENT)


def said(store: Store) -> frozenset[str]:
    return frozenset(listed.name.removeprefix(FOLDER) for listed in store.list(FOLDER))


def unsay(store: Store, packs: Iterable[str]) -> None:
    """These packs are gone."""
    for pack_id in packs:
        store.delete(FOLDER + pack_id)
