"""How bytes are kept secret and recognised again. The only module that touches `cryptography`.

Every key comes from the 32-byte secret of an epoch by HKDF-SHA256 (RFC 5869) with a purpose of its own, so that no key serves
two ends. Encryption is AES-256-GCM (NIST SP 800-38D), for a public key HPKE (RFC 9180); identity is keyed BLAKE3; signatures are
Ed25519 (RFC 8032).
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from blake3 import blake3
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from strongroom.model import Bytes

KEY_BYTES = 32
SALT_BYTES = 32
TAG_BYTES = 16
SIGNATURE_BYTES = 64
TAG_OF_KEY_BYTES = 8
"""With so many bytes a salt begins that names its key."""
_DERIVING = threading.Lock()
_HPKE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class NotAuthentic(Exception):
    """A ciphertext, or what it is bound to, was altered; or the key is another one."""


def random_bytes(count: int) -> bytes:
    return secrets.token_bytes(count)


def derive(key: bytes, purpose: str, *, salt: bytes = b"") -> bytes:
    """A 32-byte key for one purpose (HKDF-SHA256)."""
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt or None, info=b"strongroom/1/" + purpose.encode()).derive(key)


def content_hash(data: Bytes) -> bytes:
    """BLAKE3 of public bytes: names objects, so that anybody can check one without a key."""
    return blake3(data, max_threads=blake3.AUTO if memoryview(data).nbytes > 1 << 20 else 1).digest()


@dataclass(frozen=True, slots=True)
class Argon2Cost:
    """Argon2id (RFC 9106): passes, lanes and memory in KiB. The default is the RFC's second recommended option."""

    passes: int = 3
    lanes: int = 4
    memory: int = 65_536

    def admissible(self) -> bool:
        """Bounds within which a slot that was read may make us work: at most 4 GiB and 64 passes."""
        return 1 <= self.passes <= 64 and 1 <= self.lanes <= 64 and 8 * self.lanes <= self.memory <= 4 << 20


def key_of_passphrase(passphrase: bytes, salt: bytes, cost: Argon2Cost) -> bytes:
    """The 32-byte key of a passphrase: slow and memory-hard on purpose. One at a time: two at once, of several lanes each, wait for
    each other's threads in OpenSSL for ever."""
    kdf = Argon2id(salt=salt, length=KEY_BYTES, iterations=cost.passes, lanes=cost.lanes, memory_cost=cost.memory)
    with _DERIVING:
        return kdf.derive(passphrase)


class Box:
    """Authenticated encryption under one key. The caller sees to it that no nonce number is used twice with it."""

    def __init__(self, key: bytes | None, another: Callable[[], bytes | None] = lambda: None) -> None:
        """`another` is asked for a key where this one, if any, doesn't open something: it may have become known since."""
        self._aead = AESGCM(random_bytes(KEY_BYTES) if key is None else key)
        self._another = another

    def seal(self, number: int, plain: Bytes, bound_to: bytes) -> bytes:
        """Ciphertext and tag (TAG_BYTES longer than `plain`) with counter nonce `number`."""
        return self._aead.encrypt(number.to_bytes(12, "big"), plain, bound_to)

    def seal_into(self, number: int, plain: Bytes, bound_to: bytes, place: memoryview) -> None:
        """As `seal`, written to `place`, which is exactly TAG_BYTES longer than `plain`."""
        self._aead.encrypt_into(number.to_bytes(12, "big"), plain, bound_to, place)

    def open(self, number: int, sealed: Bytes, bound_to: bytes) -> bytes:
        """The plain bytes. Raises NotAuthentic."""
        nonce = number.to_bytes(12, "big")
        try:
            return self._aead.decrypt(nonce, sealed, bound_to)
        except (InvalidTag, ValueError) as error:
            key = self._another()
            if key is None:
                raise NotAuthentic from error
            self._aead, self._another = AESGCM(key), lambda: None
        return self.open(number, sealed, bound_to)


class Signer:
    """The Ed25519 key pair of one identity. Never printed."""

    def __init__(self, seed: bytes) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = self._private.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        return self._private.sign(message)


def block_cipher(key: bytes) -> Callable[[Bytes, Bytes], int]:
    """AES-256 of each 16-byte block by itself, from one buffer into another that is 15 bytes longer; for one thread. A building
    block of fingerprints, never of secrecy."""
    return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update_into  # noqa: S305 - the PRF inside PMAC


def new_exchange_key() -> tuple[bytes, bytes]:
    """A private X25519 key and its public half, 32 bytes each."""
    private = X25519PrivateKey.generate()
    return private.private_bytes_raw(), private.public_key().public_bytes_raw()


def seal_to(public: bytes, plain: bytes, info: bytes) -> bytes:
    """What only the private half opens: HPKE in base mode (X25519, HKDF-SHA256, AES-256-GCM), the 32 bytes `enc` first."""
    return _HPKE.encrypt(plain, X25519PublicKey.from_public_bytes(public), info)


def open_sealed(private: bytes, sealed: bytes, info: bytes) -> bytes:
    """The inverse of `seal_to`. Raises NotAuthentic."""
    try:
        return _HPKE.decrypt(sealed, X25519PrivateKey.from_private_bytes(private), info)
    except (InvalidTag, ValueError) as error:
        raise NotAuthentic from error


class Epoch:
    """A time in the life of a repository and its keys, which all derive from 32 random bytes."""

    def __init__(self, number: int, secret: bytes, created: str, repository_id: bytes) -> None:
        self.number = number
        self.secret = secret
        self.created = created
        self.tag = derive(secret, "epoch tag", salt=repository_id)[:TAG_OF_KEY_BYTES]
        self.signing = Ed25519PrivateKey.from_private_bytes(derive(secret, "manifest signature", salt=repository_id))
        self.verifying = self.signing.public_key()

    def __repr__(self) -> str:
        return f"Epoch({self.number})"

    def signed(self, signature: bytes, message: bytes) -> bool:
        """Was this signed with the epoch's key?"""
        try:
            self.verifying.verify(signature, message)
        except InvalidSignature:
            return False
        return True


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
        plain = Certificate(number, epoch.created, epoch.verifying.public_bytes_raw(), b"")
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
        return blake3(plain, key=self.blob_id).digest()

    def new_salt(self) -> bytes:
        """SALT_BYTES for a new object. After the first epoch they begin with the tag that names the epoch."""
        epoch = self.newest
        tag = epoch.tag if epoch.number else b""
        return tag + random_bytes(SALT_BYTES - len(tag))

    def box(self, purpose: str, salt: bytes) -> Box:
        """A box with a key of its own for one object: `salt` is of `new_salt`, or stood in the object."""

        def another() -> bytes | None:
            self.look_again()
            named = self._named(salt)
            return None if named is None else self._of(named, purpose, salt)

        named = self._named(salt)
        if (own := self._own.get((purpose, salt))) is not None:
            return Box(own)
        if named is None:
            first = self._epochs.get(0)
            return Box(None if first is None else self._of(first, purpose, salt), another)
        return Box(self._of(named, purpose, salt))

    def key_of(self, purpose: str, salt: bytes) -> bytes | None:
        """The key of one object alone; None if it is of an epoch that is not known."""
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
        """The number of the epoch that a salt names: 0 for the first, or one that isn't known."""
        named = self._named(salt)
        return 0 if named is None else named.number

    def is_outdated(self, salt: bytes) -> bool:
        """Is this of an epoch that is closed, or will be soon?"""
        return self.number_of(salt) < self.closing

    def _of(self, epoch: Epoch, purpose: str, salt: bytes) -> bytes:
        return derive(epoch.secret, purpose, salt=salt + self.repository_id)

    def _named(self, salt: bytes) -> Epoch | None:
        """The epoch whose tag a salt begins with; None for one of the first, or one that isn't known."""
        return next((epoch for epoch in self._epochs.values() if epoch.number and salt.startswith(epoch.tag)), None)

    @property
    def public_key(self) -> bytes:
        """The 32 bytes by which anybody can check what `sign` signed (`signed_by`)."""
        return self.newest.verifying.public_bytes_raw()

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


def signed_by(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Did the holder of this Ed25519 key (32 bytes) sign the message? False for what can't be a key or a signature, too."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
