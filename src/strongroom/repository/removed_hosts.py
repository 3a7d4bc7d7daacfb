"""Which snapshots of a host count after its key slot was removed? Those that were there then.

`tombstones/revoked` names the slot's signature key besides the slot, and `tombstones/ended`, which is stored before it, the host's
snapshots. What somebody writes later with a copy of the slot and its secret is no snapshot of the repository.
"""

from __future__ import annotations

from strongroom.errors import Damaged, NotFound
from strongroom.repository import tombstones
from strongroom.repository.crypto import SALT_BYTES, NotAuthentic
from strongroom.repository.epochs import TAG_OF_KEY_BYTES, Session
from strongroom.repository.framing import HEADER_BYTES
from strongroom.repository.keys import Keys
from strongroom.repository.sessions import find, tags
from strongroom.repository.store import Store
from strongroom.repository.tombstones import What, earliest
from strongroom.repository.unlocking import SNAPSHOTS


class RemovedHosts:
    """What the tombstones of a store say of hosts; read again when there are others."""

    def __init__(self, store: Store, keys: Keys) -> None:
        self._store = store
        self._keys = keys
        self._seen: dict[What, tuple[frozenset[str], frozenset[str]]] = {}

    def require(self, session: Session, snapshot_id: str) -> None:
        """Raises Damaged if the host was removed before it made this snapshot."""
        if session.signer.hex() in self._ids(What.REVOKED) and snapshot_id not in self._ids(What.ENDED):
            problem = f"the key slot of its host ({session.host}) was removed before it was made"
            raise Damaged(SNAPSHOTS + snapshot_id, problem, hint="forget it by its id, unless you know better")

    def _ids(self, what: What) -> frozenset[str]:
        names = frozenset(listed.name for listed in self._store.list(what.folder))
        if names != self._seen.get(what, (frozenset(), frozenset()))[0]:
            self._seen[what] = names, frozenset(earliest(tombstones.read_tombstones(self._store, self._keys, what)))
        return self._seen[what][1] if names else frozenset()


def snapshots_of(store: Store, keys: Keys, signer: bytes) -> list[str]:
    """The ids of the snapshots that the host with this signature key made."""
    theirs = set()
    for tag in tags(store):
        try:
            found = find(store, keys, tag)
        except NotAuthentic:
            continue
        if found is not None and found.signer == signer:
            theirs.add(tag)
    ids = [listed.name.removeprefix(SNAPSHOTS) for listed in store.list(SNAPSHOTS)] if theirs else []
    return [one for one in ids if _tag_of(store, one) in theirs]


def _tag_of(store: Store, snapshot_id: str) -> bytes:
    try:
        return store.read(SNAPSHOTS + snapshot_id, HEADER_BYTES, SALT_BYTES)[:TAG_OF_KEY_BYTES]
    except NotFound:  # forgotten meanwhile
        return b""
