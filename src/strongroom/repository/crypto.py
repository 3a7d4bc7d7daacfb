"""How bytes are kept secret and recognised again. The only module that touches `cryptography`, and it knows no repository.

Keys derive by HKDF-SHA256 (RFC 5869) with a purpose of their own each, so that no key serves two ends. Encryption is AES-256-GCM
(NIST SP 800-38D), for a public key HPKE (RFC 9180); identity is BLAKE3, keyed where nobody else may test for it; signatures are
Ed25519 (RFC 8032).
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
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
_DERIVING = threading.Lock()
_HPKE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class NotAuthentic(Exception):
    """A ciphertext, or what it is bound to, was altered; or the key is another one. May say which of it."""


def random_bytes(count: int) -> bytes:
    return secrets.token_bytes(count)


def derive(key: bytes, purpose: str, *, salt: bytes = b"") -> bytes:
    """A 32-byte key for one purpose (HKDF-SHA256)."""
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt or None, info=b"strongroom/1/" + purpose.encode()).derive(key)


def content_hash(data: Bytes) -> bytes:
    """BLAKE3 of public bytes: names objects, so that anybody can check one without a key."""
    return blake3(data, max_threads=blake3.AUTO if memoryview(data).nbytes > 1 << 20 else 1).digest()


def keyed_hash(key: bytes, data: Bytes) -> bytes:
    """BLAKE3 under a key: 32 bytes that nobody without it can tell of the data."""
    return blake3(data, key=key).digest()


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


def signed_by(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Did the holder of this Ed25519 key (32 bytes) sign the message? False for what can't be a key or a signature, too."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def block_cipher(key: bytes) -> Callable[[Bytes, Bytes], int]:
    """AES-256 of each 16-byte block by itself, from one buffer into another that is 15 bytes longer; for one thread. A building
    block of fingerprints, never of secrecy."""
    return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update_into  # noqa: S305 - the PRF inside PMAC


def new_exchange_key() -> tuple[bytes, bytes]:
    """A private X25519 key and its public half, 32 bytes each."""
    private = X25519PrivateKey.generate()
    return private.private_bytes_raw(), private.public_key().public_bytes_raw()


def public_of(private: bytes) -> bytes:
    """The public half of a private X25519 key."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def seal_to(public: bytes, plain: bytes, info: bytes) -> bytes:
    """What only the private half opens: HPKE in base mode (X25519, HKDF-SHA256, AES-256-GCM), the 32 bytes `enc` first."""
    return _HPKE.encrypt(plain, X25519PublicKey.from_public_bytes(public), info)


def open_sealed(private: bytes, sealed: bytes, info: bytes) -> bytes:
    """The inverse of `seal_to`. Raises NotAuthentic."""
    try:
        return _HPKE.decrypt(sealed, X25519PrivateKey.from_private_bytes(private), info)
    except (InvalidTag, ValueError) as error:
        raise NotAuthentic from error
