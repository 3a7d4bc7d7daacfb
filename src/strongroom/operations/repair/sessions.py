"""How do the secrets come back under which a host wrote that can't read? From a copy of the repository: nobody else has them."""

from __future__ import annotations

from collections.abc import Sequence

from strongroom.errors import NotFound
from strongroom.operations.repair.replacing import read_if_there
from strongroom.operations.repair.replicas import copies_of
from strongroom.operations.repair.report import Notes
from strongroom.operations.verify import Finding
from strongroom.repository import Repository, Store, sessions
from strongroom.repository.crypto import NotAuthentic
from strongroom.repository.writer import create_once


def mend_sessions(store: Store, replicas: Sequence[Repository], notes: Notes, *, dry_run: bool) -> list[Finding]:
    """Put back the sessions that are missing or altered; each is proven with the keys of the replica that has it."""
    found: list[Finding] = []
    for replica in copies_of(store, replicas):
        for tag in sorted(sessions.tags(replica.store)):
            name = sessions.name_of(tag)
            here = read_if_there(store, name)
            try:
                whole = replica.store.read(name)
                sessions.decode(replica.keys, tag, whole)
            except (NotAuthentic, NotFound):
                continue
            if here == whole:
                continue
            found.append(Finding(name, "missing" if here is None else "altered"))
            if not dry_run:
                store.delete(name)
                create_once(store, name, whole)
            notes.did(name, f"put back from {replica.store.url}")
    return found
