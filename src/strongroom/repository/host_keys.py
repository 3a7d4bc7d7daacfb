"""What does a host hold that backs up and can't read? Never a key that opens what is stored: public keys, and keyed hashes.

Its key slot wraps the keys of blob ids and row fingerprints, so that it knows again what it stored; what everybody may know of an
epoch, so that it can seal to whoever reads; and a key for its own notes. What it writes is encrypted under a session's secret,
which is nowhere but in this process, and sealed in the store.
"""

from __future__ import annotations

import base64
import json
import threading

from strongroom.errors import AlreadyExists, Damaged, Refused, Unreachable
from strongroom.repository import keyring, sessions
from strongroom.repository.crypto import KEY_BYTES, SALT_BYTES, Box, Signer, random_bytes
from strongroom.repository.epochs import Epoch, PublicEpoch, Session
from strongroom.repository.key_slots import WRITE_ONLY, KeySlot, Signed
from strongroom.repository.keys import Keys
from strongroom.repository.store import Store

REASON = "this key can only back up: nothing that it holds opens what is stored"
HINT = "use another key: 'strongroom key list' shows which there are"


def new_bundle(keys: Keys) -> tuple[bytes, Signed]:
    """What the slot of a new host wraps, and what it shows."""
    epoch = keys.newest
    held = {"blob_id": keys.blob_id, "fingerprint": keys.fingerprint, "notes": random_bytes(KEY_BYTES)}
    body = {**{name: base64.b64encode(raw).decode() for name, raw in held.items()}, "epoch": keyring.public_body(epoch.public)}
    return json.dumps(body, sort_keys=True).encode(), Signed({"slot": WRITE_ONLY, "epoch": epoch.number}, epoch.signing.sign)


def open_slot(store: Store, slot: KeySlot, wrapped: bytes, signer: Signer | None, repository_id: bytes) -> HostKeys:
    """What a host's slot gives, which was opened. Raises Damaged, or WrongKey if the host can't follow the epochs."""
    try:
        body = json.loads(wrapped)
        held = [base64.b64decode(body[name], validate=True) for name in ("blob_id", "fingerprint", "notes")]
        epoch = keyring.public_epoch(body["epoch"])
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(slot.name, "what it wraps are no keys") from error
    if signer is None:
        raise Damaged(slot.name, "a host's key slot signs what the host writes, and this one can't")
    return HostKeys(store, slot, signer, epoch, held, repository_id)


class HostKeys(Keys):
    """The keys of an opened repository for a host that can't read it."""

    def __init__(
        self, store: Store, slot: KeySlot, signer: Signer, epoch: PublicEpoch, held: list[bytes], repository_id: bytes
    ) -> None:
        blob_id, fingerprint, self.notes = held
        super().__init__(repository_id, blob_id, fingerprint, ())
        self.store = store
        self._shown = {name: value for name, value in slot.body.items() if name != "wrapped"}
        self._label = slot.label
        self.signer = signer
        self._public = [epoch, *keyring.follow(store, epoch, repository_id)]
        self._session: Session | None = None
        self._used = False
        self._lock = threading.RLock()

    @property
    def public(self) -> tuple[PublicEpoch, ...]:
        return tuple(self._public)

    @property
    def newest(self) -> Epoch:
        raise Refused(REASON, hint=HINT)

    @property
    def master(self) -> bytes:
        raise Refused(REASON, hint=HINT)

    @property
    def session(self) -> Session:
        """The present one. It is in the store before anything that is written in it."""
        with self._lock:
            if self._session is None:
                self._session = self._begin()
            return self._session

    def begin_backup(self) -> None:
        """From here on write under a secret that no earlier backup of this process had."""
        with self._lock:
            if self._used:
                self._session = None
            self._used = True

    def new_salt(self) -> bytes:
        start = self.marked(self.session.tag)
        return start + random_bytes(SALT_BYTES - len(start))

    def box(self, purpose: str, salt: bytes) -> Box:
        """Of the present session alone. Raises Refused for what others wrote, or this host wrote before."""
        session = self._session
        if session is None or not salt.startswith(session.tag):
            raise Refused(REASON, hint=HINT)
        return Box(session.key(purpose, salt, self.repository_id))

    def sign(self, message: bytes) -> bytes:
        raise Refused(REASON, hint=HINT)

    def verify(self, signature: bytes, message: bytes) -> None:
        raise Refused(REASON, hint=HINT)

    def look_again(self) -> None:
        self._public += keyring.follow(self.store, self._public[-1], self.repository_id)

    def _begin(self) -> Session:
        self.look_again()
        session = Session.new(self.repository_id, random_bytes(KEY_BYTES), self.signer.public, self._label)
        content = sessions.encode(session, self._shown, self._public[-1], self.repository_id, self.signer)
        name = sessions.name_of(session.tag)
        try:
            self.store.create(name, content)
        except (AlreadyExists, Unreachable):  # ours, if its answer was lost
            if self.store.read(name) != content:
                raise
        return session
