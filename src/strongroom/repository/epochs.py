"""What do the keys of a repository come from? From the secret of an epoch, or of one run of a host that can write and not read."""

from __future__ import annotations

from dataclasses import dataclass, field

from strongroom.repository.crypto import Signer, derive, public_of, signed_by

TAG_OF_KEY_BYTES = 8
"""With so many bytes a salt begins that names its key."""


@dataclass(frozen=True, slots=True)
class PublicEpoch:
    """What everybody may know of an epoch: its number, its tag, the X25519 key to which is sealed what only holders of its secret
    may read, and the Ed25519 key of its signatures."""

    number: int
    tag: bytes
    receiving: bytes
    verifying: bytes

    def signed(self, signature: bytes, message: bytes) -> bool:
        """Was this signed with the epoch's key?"""
        return signed_by(self.verifying, signature, message)


class Epoch:
    """A time in the life of a repository and its keys, which all derive from 32 random bytes."""

    def __init__(self, number: int, secret: bytes, created: str, repository_id: bytes) -> None:
        self.number = number
        self.secret = secret
        self.created = created
        self._repository_id = repository_id
        self.tag = derive(secret, "epoch tag", salt=repository_id)[:TAG_OF_KEY_BYTES]
        self.signing = Signer(derive(secret, "manifest signature", salt=repository_id))
        self.verifying = self.signing.public

    def __repr__(self) -> str:
        return f"Epoch({self.number})"

    @property
    def receiving(self) -> bytes:
        """The private half of the key to which is sealed what a host writes that can't read."""
        return derive(self.secret, "receiving", salt=self._repository_id)

    @property
    def public(self) -> PublicEpoch:
        return PublicEpoch(self.number, self.tag, public_of(self.receiving), self.verifying)

    def signed(self, signature: bytes, message: bytes) -> bool:
        """Was this signed with the epoch's key?"""
        return signed_by(self.verifying, signature, message)


@dataclass(frozen=True, slots=True)
class Certificate:
    """The public half of an epoch, and the signature of the epoch before for it: proves who may begin what, without any secret.
    The first epoch has none."""

    number: int
    created: str
    public: bytes
    signature: bytes

    def message(self, repository_id: bytes) -> bytes:
        said = self.number.to_bytes(4, "little") + self.public + self.created.encode()
        return b"strongroom epoch\0" + repository_id + said

    def follows(self, public: bytes, repository_id: bytes) -> bool:
        """Did the epoch of this key vouch for it?"""
        return signed_by(public, self.signature, self.message(repository_id))


@dataclass(frozen=True, slots=True)
class Session:
    """One run of a host that can write and not read. Every salt of what it wrote begins with the tag, marked, every key comes from
    the secret; `signer` is the public key of its key slot, `label` what an administrator called that."""

    tag: bytes
    secret: bytes = field(repr=False)
    signer: bytes
    label: str

    @classmethod
    def new(cls, repository_id: bytes, secret: bytes, signer: bytes, label: str) -> Session:
        return cls(derive(secret, "session tag", salt=repository_id)[:TAG_OF_KEY_BYTES], secret, signer, label)

    @property
    def host(self) -> str:
        """What the host is called."""
        return self.label or self.signer.hex()[:12]

    def key(self, purpose: str, salt: bytes, repository_id: bytes) -> bytes:
        return derive(self.secret, f"session {purpose}", salt=salt + repository_id)
