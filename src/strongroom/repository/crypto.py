"""How bytes are kept secret and recognised again. The only module that touches `cryptography`.

Every key comes from the repository's 32-byte master key by HKDF-SHA256 (RFC 5869) with a purpose of its own, so that no key
serves two ends. Encryption is AES-256-GCM (NIST SP 800-38D); identity is keyed BLAKE3; signatures are Ed25519 (RFC 8032).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from blake3 import blake3
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from strongroom.model import Bytes

KEY_BYTES = 32
SALT_BYTES = 32
TAG_BYTES = 16
SIGNATURE_BYTES = 64


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
    """The 32-byte key of a passphrase: slow and memory-hard on purpose."""
    return Argon2id(salt=salt, length=KEY_BYTES, iterations=cost.passes, lanes=cost.lanes, memory_cost=cost.memory).derive(
        passphrase
    )


class Box:
    """Authenticated encryption under one key. The caller sees to it that no nonce number is used twice with it."""

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)

    def seal(self, number: int, plain: Bytes, bound_to: bytes) -> bytes:
        """Ciphertext and tag (TAG_BYTES longer than `plain`) with counter nonce `number`."""
        return self._aead.encrypt(number.to_bytes(12, "big"), plain, bound_to)

    def seal_into(self, number: int, plain: Bytes, bound_to: bytes, place: memoryview) -> None:
        """As `seal`, written to `place`, which is exactly TAG_BYTES longer than `plain`."""
        self._aead.encrypt_into(number.to_bytes(12, "big"), plain, bound_to, place)

    def open(self, number: int, sealed: Bytes, bound_to: bytes) -> bytes:
        """The plain bytes. Raises NotAuthentic."""
        try:
            return self._aead.decrypt(number.to_bytes(12, "big"), sealed, bound_to)
        except (InvalidTag, ValueError) as error:
            raise NotAuthentic from error


def is_signed(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether the holder of that public key (32 bytes of Ed25519) signed this."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def block_cipher(key: bytes) -> Callable[[Bytes, Bytes], int]:
    """AES-256 of each 16-byte block by itself, from one buffer into another that is 15 bytes longer; for one thread. A building
    block of fingerprints, never of secrecy."""
    return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update_into  # noqa: S305 - the PRF inside PMAC


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one opened repository, all derived from its master key."""

    repository_id: bytes
    master: bytes
    blob_id: bytes
    fingerprint: bytes
    _signing: Ed25519PrivateKey
    _verifying: Ed25519PublicKey

    @classmethod
    def of(cls, master: bytes, repository_id: bytes) -> Keys:
        signing = Ed25519PrivateKey.from_private_bytes(derive(master, "manifest signature", salt=repository_id))
        return cls(
            repository_id=repository_id,
            master=master,
            blob_id=derive(master, "blob id", salt=repository_id),
            fingerprint=derive(master, "row fingerprint", salt=repository_id),
            _signing=signing,
            _verifying=signing.public_key(),
        )

    def __repr__(self) -> str:
        return f"Keys({self.repository_id.hex()})"

    def identify(self, plain: Bytes) -> bytes:
        """A blob's id, 32 bytes: keyed BLAKE3 of its plain bytes, so that storage can't test what is inside."""
        return blake3(plain, key=self.blob_id).digest()

    def box(self, purpose: str, salt: bytes) -> Box:
        """A box with a key of its own for one object: `salt` is SALT_BYTES random bytes, new for each object."""
        return Box(derive(self.master, purpose, salt=salt + self.repository_id))

    @property
    def public_key(self) -> bytes:
        """By which anybody can check what this repository signed: 32 bytes of Ed25519."""
        return self._verifying.public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        return self._signing.sign(message)

    def verify(self, signature: bytes, message: bytes) -> None:
        """Raises NotAuthentic if the signature isn't this repository's."""
        try:
            self._verifying.verify(signature, message)
        except InvalidSignature as error:
            raise NotAuthentic from error
