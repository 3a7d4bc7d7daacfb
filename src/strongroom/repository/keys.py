"""Which key seals and opens which object? An object's salt names the epoch, or the session of a host that can't read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from strongroom.model import Bytes
from strongroom.repository.crypto import SALT_BYTES, Box, NotAuthentic, derive, keyed_hash, random_bytes, signed_by
from strongroom.repository.epochs import TAG_OF_KEY_BYTES, Certificate, Epoch, PublicEpoch, Session

_IN_SESSIONS = frozenset({"pack", "index", "snapshot", "audit"})
"""What a host that can't read may write. What else is found under a key of its is no object of the repository."""


class Keys:
    """The keys of one opened repository: those of the newest epoch for what is written, those of all for what is read.

    Epochs that were closed are gone: of them `lineage` has the public halves. `closing` is the epoch before which all are closed,
    or will be soon: nobody may rely on what they seal."""

    def __init__(self, repository_id: bytes, blob_id: bytes, fingerprint: bytes, epochs: Iterable[Epoch]) -> None:
        self.repository_id = repository_id
        self.blob_id = blob_id
        self.fingerprint = fingerprint
        self._epochs = {epoch.number: epoch for epoch in epochs}
        self.newer: Callable[[Epoch], Iterable[Epoch]] = lambda _: ()
        """Looks in the store for epochs after this one."""
        self.lineage: Mapping[int, Certificate] = {}
        self.closing = 0
        self._own: dict[tuple[str, bytes], bytes] = {}
        self.find_session: Callable[[bytes], Session | None] | None = None
        """Looks in the store for the session of this tag. Raises NotAuthentic if it is none of this repository's."""
        self._sessions: dict[bytes, Session] = {}
        self._mark_key = derive(blob_id, "session mark")

    @classmethod
    def of(cls, master: bytes, repository_id: bytes) -> Keys:
        """Those of a repository's first epoch, whose secret is its master key."""
        return cls(
            repository_id,
            derive(master, "blob id", salt=repository_id),
            derive(master, "row fingerprint", salt=repository_id),
            [Epoch(0, master, "", repository_id)],
        )

    def __repr__(self) -> str:
        return f"Keys({self.repository_id.hex()})"

    @property
    def epochs(self) -> tuple[Epoch, ...]:
        """Oldest first."""
        return tuple(epoch for _, epoch in sorted(self._epochs.items()))

    @property
    def newest(self) -> Epoch:
        return self._epochs[max(self._epochs)]

    @property
    def public(self) -> tuple[PublicEpoch, ...]:
        """What everybody may know of the epochs, oldest first."""
        return tuple(epoch.public for epoch in self.epochs)

    @property
    def master(self) -> bytes:
        """The secret of the first epoch, from which the keys of blob ids and fingerprints come in every epoch."""
        return self._epochs[0].secret

    def epoch(self, number: int) -> Epoch | None:
        return self._epochs.get(number)

    def certificates(self) -> list[Certificate]:
        """Of each epoch, in order."""
        return [self._certificate(number) for number in range(self.newest.number + 1)]

    def _certificate(self, number: int) -> Certificate:
        before, epoch = self._epochs.get(number - 1), self._epochs.get(number)
        if epoch is None or (before is None and number):
            return self.lineage[number]
        plain = Certificate(number, epoch.created, epoch.verifying, b"")
        if before is None:
            return plain
        return Certificate(number, plain.created, plain.public, before.signing.sign(plain.message(self.repository_id)))

    def close(self, number: int, lineage: Iterable[Certificate]) -> None:
        """Give up the keys of all epochs before this one, whose own are there; of their lineage nothing is proven here."""
        self.lineage = {one.number: one for one in lineage}
        self.closing = max(self.closing, number)
        self._epochs = {one: epoch for one, epoch in self._epochs.items() if one >= number}

    def begin(self, epoch: Epoch) -> None:
        """From here on write with this epoch's keys."""
        self._epochs = {**self._epochs, epoch.number: epoch}

    def look_again(self) -> None:
        """Learn of epochs that another process began."""
        for epoch in self.newer(self.newest):
            self.begin(epoch)

    def identify(self, plain: Bytes) -> bytes:
        """A blob's id, 32 bytes: keyed BLAKE3 of its plain bytes, so that storage can't test what is inside."""
        return keyed_hash(self.blob_id, plain)

    def new_salt(self) -> bytes:
        """SALT_BYTES for a new object. After the first epoch they begin with the tag that names the epoch."""
        epoch = self.newest
        tag = epoch.tag if epoch.number else b""
        return tag + random_bytes(SALT_BYTES - len(tag))

    def box(self, purpose: str, salt: bytes) -> Box:
        """A box with a key of its own for one object: `salt` is of `new_salt`, or stood in the object."""

        def of(epoch: Epoch) -> bytes:
            return self._of(epoch, purpose, salt)

        def another() -> bytes | None:
            self.look_again()
            later = self._named(salt)
            return of(later) if later is not None else in_session(self._look_for_session(salt))

        def in_session(one: Session | None) -> bytes | None:
            return None if one is None or purpose not in _IN_SESSIONS else one.key(purpose, salt, self.repository_id)

        if (own := self._own.get((purpose, salt))) is not None:
            return Box(own)
        named, first = self._named(salt), self._epochs.get(0)
        key = of(named) if named is not None else in_session(self.session_of(salt))
        if key is not None:
            return Box(key)
        return Box(None if first is None else of(first), another)

    def key_of(self, purpose: str, salt: bytes) -> bytes | None:
        """The key of one object alone; None if it is of an epoch that is not known."""
        if self.by_host(salt):
            return None
        epoch = self._epochs.get(self.number_of(salt))
        return self._own.get((purpose, salt)) or (None if epoch is None else self._of(epoch, purpose, salt))

    def adopt(self, purpose: str, salt: bytes, key: bytes) -> None:
        """This object's key was found beside it: it opens whatever becomes of its epoch."""
        self._own[purpose, salt] = key

    def share(self, other: Keys) -> None:
        """What one of the two finds beside objects the other knows from here on, if they are of one repository."""
        if other.repository_id == self.repository_id:
            self._own.update(other._own)
            other._own = self._own

    def adopted(self, purpose: str, salt: bytes) -> bytes | None:
        return self._own.get((purpose, salt))

    def number_of(self, salt: bytes) -> int:
        """The number of the epoch that a salt names: 0 for the first, or one that isn't known; the newest for what a host wrote."""
        if self.by_host(salt):
            return max(self._epochs, default=0)
        named = self._named(salt)
        return 0 if named is None else named.number

    def is_outdated(self, salt: bytes) -> bool:
        """Is this of an epoch that is closed, or will be soon?"""
        return self.number_of(salt) < self.closing

    def _of(self, epoch: Epoch, purpose: str, salt: bytes) -> bytes:
        return derive(epoch.secret, purpose, salt=salt + self.repository_id)

    def marked(self, tag: bytes) -> bytes:
        """What each salt of a session begins with: its tag and what proves to holders of keys that it is one's."""
        return tag + keyed_hash(self._mark_key, tag)[:TAG_OF_KEY_BYTES]

    def by_host(self, salt: bytes) -> bool:
        """Is it the salt of what a host wrote that can't read?"""
        return salt.startswith(self.marked(salt[:TAG_OF_KEY_BYTES]))

    def session_of(self, salt: bytes) -> Session | None:
        """Whose salt this is, of the sessions that were met: after an object was opened its own is among them."""
        return self._sessions.get(salt[:TAG_OF_KEY_BYTES]) if self.by_host(salt) else None

    def host_of(self, salt: bytes) -> str:
        """The signature key (64 hex digits) of the host that wrote an object with this salt; '' if that isn't known of one."""
        try:
            found = self._look_for_session(salt)
        except NotAuthentic:
            return ""
        return "" if found is None else found.signer.hex()

    def _look_for_session(self, salt: bytes) -> Session | None:
        tag = salt[:TAG_OF_KEY_BYTES]
        if not self.by_host(salt):
            return None
        found = self._sessions.get(tag) or (self.find_session(tag) if self.find_session else None)
        if found is not None:
            self._sessions[tag] = found
        return found

    def _named(self, salt: bytes) -> Epoch | None:
        """The epoch whose tag a salt begins with; None for one of the first, or one that isn't known."""
        return next((epoch for epoch in self._epochs.values() if epoch.number and salt.startswith(epoch.tag)), None)

    @property
    def public_key(self) -> bytes:
        """The 32 bytes by which anybody can check what `sign` signed (`signed_by`)."""
        return self.newest.verifying

    @property
    def public_keys(self) -> tuple[bytes, ...]:
        """Those of all epochs, closed ones too, oldest first."""
        return tuple(one.public for one in self.certificates())

    def sign(self, message: bytes) -> bytes:
        return self.newest.signing.sign(message)

    def verify(self, signature: bytes, message: bytes) -> None:
        """Raises NotAuthentic if the signature isn't of any epoch of this repository. Those of closed epochs count: whoever had
        their keys couldn't seal anything that opens."""
        if not any(epoch.signed(signature, message) for epoch in reversed(self.epochs)):
            closed = (one.public for number, one in sorted(self.lineage.items()) if number not in self._epochs)
            if not any(signed_by(public, signature, message) for public in closed):
                raise NotAuthentic
