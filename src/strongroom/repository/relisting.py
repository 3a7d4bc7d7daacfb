"""How packs that are gone leave the blob index: index objects that list them make room for new ones that list the rest."""

from __future__ import annotations

from collections.abc import Container

from strongroom.errors import Damaged, NotFound
from strongroom.repository import blob_index
from strongroom.repository.framing import Kind, seal, unseal
from strongroom.repository.repository import INDEX, Repository
from strongroom.repository.writer import create_once


def unlist(repository: Repository, gone: Container[str]) -> None:
    """Stored durably: the new index objects come first, so that a crash leaves both. The opened repository doesn't notice; index
    objects that can't be read are left alone."""
    store, keys = repository.store, repository.keys
    for name in [listed.name for listed in store.list(INDEX)]:
        try:
            packs = list(blob_index.decode(name, unseal(keys, Kind.INDEX, name, store.read(name))))
        except (Damaged, NotFound):
            continue
        kept = [pack for pack in packs if pack.id not in gone]
        if len(kept) == len(packs):
            continue
        if kept:
            object_id, content = seal(keys, Kind.INDEX, blob_index.encode(kept))
            create_once(store, INDEX + object_id, content)
        store.delete(name)
