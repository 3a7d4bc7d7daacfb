"""Who can open the repository: each key slot wraps the repository's keys under another secret.

A slot of version 1 wraps the master key, which is all that a repository has whose keys were never rotated. One of version 2 wraps
what `keyring.Bundle` holds, and shows a public key, to which the keys of later epochs are sealed. One of version 3 wraps what a
host needs that writes and can't read (`host_keys`).

A slot is the object keys/<id>, JSON, and its id is the BLAKE3 of its bytes, so that an altered one is told from a wrong secret.
Passphrases go through Argon2id with the slot's own salt; a key file holds 32 random bytes and goes through HKDF, as does the
secret that recovery shares give together. A key service wraps 32 random bytes, which the slot keeps in that form.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from strongroom.errors import Damaged, NotAdmitted, WrongKey, WrongRequest
from strongroom.repository.crypto import (
    KEY_BYTES,
    SIGNATURE_BYTES,
    TAG_BYTES,
    Argon2Cost,
    Box,
    NotAuthentic,
    Signer,
    content_hash,
    derive,
    key_of_passphrase,
    random_bytes,
)
from strongroom.repository.identity import AccessRole, Bearer, Identity

if TYPE_CHECKING:
    from strongroom.repository.key_services import Context, KeyService

FOLDER = "keys/"
PASSPHRASE, KEY_FILE, RECOVERY, TOKEN = "passphrase", "key file", "recovery shares", "token"
SERVICES = ("aws-kms", "gcp-kms", "vault", "pkcs11")
_KINDS = (PASSPHRASE, KEY_FILE, RECOVERY, TOKEN, *SERVICES)
SLOT_SALT_BYTES = 16
_LONGEST_URL, _LONGEST_KEY, _LONGEST_BUNDLE = 2_048, 8_192, 1 << 20
UNREADABLE = {"kind": "unreadable", "label": "", "created": ""}
"""What stands for the body of a slot that is damaged or another repository's, so that it can be named and removed."""

_STARTS = {KEY_FILE: b"strongroom-key-1:", TOKEN: b"strongroom-token-1:"}
_SIGNER_BYTES = 32
WRITE_ONLY = 3
"""The version of the slot of a host that can back up and can't read."""


@dataclass(frozen=True, slots=True)
class Secret:
    """What opens a slot: a passphrase, the content of a key file, what recovery shares give, or a service that has the key. Never
    printed. `shown` is what a new slot says of it to everybody."""

    kind: str
    value: bytes = field(repr=False)
    service: KeyService | None = field(default=None, repr=False)
    shown: dict[str, Any] = field(default_factory=dict, compare=False)

    @classmethod
    def passphrase(cls, text: str) -> Secret:
        """Raises WrongRequest if it is empty."""
        if not text:
            raise WrongRequest("the password is empty", hint="set STRONGROOM_PASSWORD or STRONGROOM_PASSWORD_FILE")
        return cls(PASSPHRASE, text.encode())

    @classmethod
    def key_file(cls, content: bytes) -> Secret:
        """Of a key file's bytes, or a token's. Raises WrongRequest if they are neither's."""
        kind = TOKEN if content.startswith(_STARTS[TOKEN]) else KEY_FILE
        try:
            raw = base64.b64decode(content.strip().removeprefix(_STARTS[kind]), validate=True)
        except ValueError:
            raw = b""
        if not content.startswith(_STARTS[kind]) or len(raw) != KEY_BYTES:
            raise WrongRequest("that is not a Strongroom key file", hint="make one with 'strongroom key add --new-key-file PATH'")
        return cls(kind, raw)

    @property
    def called(self) -> str:
        """In a sentence: 'no slot opens with ...'."""
        return str(self.shown.get("service") or f"{'these' if self.kind == RECOVERY else 'this'} {self.kind}")

    @classmethod
    def of_service(cls, service: KeyService) -> Secret:
        return cls(service.kind, b"", service, {"service": service.url})

    @classmethod
    def recovery(cls, value: bytes, **shown: int) -> Secret:
        """`value` is 32 random bytes. `shown` are the numbers of the set, of shares, and of how many of them are needed."""
        return cls(RECOVERY, value, shown=dict(shown))


def new_key_file(kind: str = KEY_FILE) -> bytes:
    """The content of a fresh key file, or of a token."""
    return _STARTS[kind] + base64.b64encode(random_bytes(KEY_BYTES)) + b"\n"


@dataclass(frozen=True, slots=True)
class KeySlot:
    """One slot as it is stored. `body` is its JSON object."""

    id: str
    body: dict[str, Any]

    @property
    def name(self) -> str:
        return FOLDER + self.id

    @property
    def kind(self) -> str:
        return str(self.body["kind"])

    @property
    def label(self) -> str:
        return str(self.body["label"])

    @property
    def created(self) -> str:
        return str(self.body["created"])

    @property
    def version(self) -> int:
        return int(self.body.get("slot", 1))

    @property
    def write_only(self) -> bool:
        """Is it that of a host that can back up and can't read?"""
        return self.version == WRITE_ONLY

    @property
    def epoch(self) -> int:
        """The newest epoch whose keys it wraps itself."""
        return int(self.body.get("epoch", 0))

    @property
    def public(self) -> bytes:
        """Of version 2: its public key."""
        return base64.b64decode(self.body["public"])

    @property
    def signature(self) -> bytes:
        """Of version 2: made with the key of its epoch, over `signed_part`."""
        return base64.b64decode(self.body["signature"])

    @property
    def identity(self) -> Identity:
        """Raises ValueError if the slot names a role that this program doesn't know."""
        until, signer = self.body.get("expires"), base64.b64decode(self.body.get("signer", ""))
        expires = datetime.fromisoformat(until).astimezone(UTC) if until else None
        role = AccessRole(self.body.get("role", AccessRole.ADMIN))
        return Identity(self.id, self.label, role, self.body.get("person", self.id), signer, expires)

    @property
    def bearer(self) -> Bearer:
        """For whom a slot is made that takes the place of this one."""
        who = self.identity
        return Bearer(who.role, who.person, self.body.get("issuer", ""), who.expires)

    @property
    def lasts(self) -> bool:
        """Is it one that may be the last of all: an administrator's, and no token?"""
        return self.kind != UNREADABLE["kind"] and self.identity.role == AccessRole.ADMIN and not self.identity.is_token

    def open(self, secret: Secret) -> bytes | None:
        """What it wraps, or None if the secret isn't this slot's."""
        opened = self.unwrap(secret)
        return opened[0] if opened else None

    def unwrap(self, secret: Secret) -> tuple[bytes, Signer | None] | None:
        """What it wraps, and what signs for this slot if it has that; None if the secret isn't this slot's."""
        key = _wrapping_key(self.body, secret) if secret.kind == self.kind else None
        if key is None:
            return None
        try:
            wrapped = Box(key).open(0, base64.b64decode(self.body["wrapped"]), _bound(self.body))
        except NotAuthentic:
            return None
        return wrapped, _signer(key) if "signer" in self.body else None


def opening(slots: Iterable[KeySlot], secret: Secret) -> Iterator[tuple[KeySlot, bytes]]:
    """The slots that a secret opens, with what they wrap. Raises as `unwrapping`."""
    return ((slot, wrapped) for slot, wrapped, _ in unwrapping(slots, secret))


def unwrapping(slots: Iterable[KeySlot], secret: Secret) -> Iterator[tuple[KeySlot, bytes, Signer | None]]:
    """The slots that a secret opens, with what they wrap and what signs for them; a service's own ones first. Raises Unreachable,
    NotAdmitted, or WrongKey if the service refuses one and opens none."""
    refusal: WrongKey | None = None
    opened = False
    for slot in sorted(slots, key=lambda slot: slot.body.get("service") != secret.shown.get("service")):
        try:
            found = slot.unwrap(secret)
        except NotAdmitted:
            raise
        except WrongKey as error:  # perhaps because it is a slot of another key, or somebody's who wrote it there
            refusal = refusal or error
            continue
        if found is not None:
            opened = True
            yield slot, *found
    if refusal is not None and not opened:
        raise refusal


def make_slot(
    repository_id: bytes,
    wrapped: bytes,
    secret: Secret,
    label: str,
    created: str,
    cost: Argon2Cost,
    signed: Signed | None = None,
    bearer: Bearer = Bearer(),  # noqa: B008 - frozen
) -> tuple[KeySlot, bytes]:
    """A new slot for `secret` and the bytes of its object: of version 2 or 3 if it is `signed`, else `wrapped` is the master
    key."""
    body: dict[str, Any] = {
        "slot": 1,
        "repository": repository_id.hex(),
        "kind": secret.kind,
        "label": label,
        "created": created,
        "salt": base64.b64encode(random_bytes(SLOT_SALT_BYTES)).decode(),
        **secret.shown,
        **({} if signed is None else {"slot": 2, **signed.shown}),  # what is shown may name another version
    }
    if secret.service is not None:
        wrapped_key = secret.service.wrap(random_bytes(KEY_BYTES), _context(body))
        body["service_key"] = base64.b64encode(wrapped_key).decode()
    if secret.kind == PASSPHRASE:
        body["argon2id"] = {"passes": cost.passes, "lanes": cost.lanes, "memory_kib": cost.memory}
    key = _wrapping_key(body, secret)  # of a service: unwrapped again, so that no slot is made that it wouldn't open
    if key is None:
        raise WrongRequest(f"{secret.shown.get('service')} doesn't unwrap what it has wrapped", hint="check what kind of key it is")
    body |= _borne(bearer, key)
    if signed is not None:
        body["signature"] = base64.b64encode(signed.sign(signed_part(body))).decode()
    body["wrapped"] = base64.b64encode(Box(key).seal(0, wrapped, _bound(body))).decode()
    content = json.dumps(body, sort_keys=True).encode()
    return KeySlot(content_hash(content).hex(), body), content


@dataclass(frozen=True, slots=True)
class Signed:
    """What a slot of version 2 shows (`epoch`, `public`, perhaps a `role`), and who signs it."""

    shown: dict[str, Any]
    sign: Callable[[bytes], bytes]


def signed_part(body: dict[str, Any]) -> bytes:
    """What the signature of a slot of version 2 is about: all that it shows."""
    shown = {key: value for key, value in body.items() if key not in ("wrapped", "signature")}
    return b"strongroom key slot\0" + json.dumps(shown, sort_keys=True).encode()


def read_slot(name: str, content: bytes, repository_id: bytes) -> KeySlot:
    """Raises Damaged if the slot was altered, truncated or belongs to another repository."""
    slot_id = name.removeprefix(FOLDER)
    if content_hash(content).hex() != slot_id:
        raise Damaged(name, "altered or truncated", hint="another key slot, or a copy of this object, opens the repository")
    try:
        body = json.loads(content)
        belongs = body["repository"] == repository_id.hex()
        whole = all(isinstance(body[part], str) for part in ("kind", "label", "created", "salt", "wrapped"))
        sane = whole and (body["kind"] not in _KINDS or _is_sane(body)) and _is_somebody(KeySlot(slot_id, body))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(name, "it is not a key slot") from error
    if not sane:
        raise Damaged(name, "it is not a key slot, or asks for an absurd amount of work")
    if not belongs:
        raise Damaged(name, "it belongs to another repository (or 'config' was swapped)")
    return KeySlot(slot_id, body)


def _is_sane(body: dict[str, Any]) -> bool:
    """Could this program have written it? Anybody who can write to the store could have, and must not lock us out with it."""
    salt, wrapped = (base64.b64decode(body[part], validate=True) for part in ("salt", "wrapped"))
    affordable = body["kind"] != PASSPHRASE or _cost(body).admissible()
    if body["kind"] in SERVICES:
        key = base64.b64decode(body["service_key"], validate=True)
        affordable = isinstance(body["service"], str) and len(body["service"]) <= _LONGEST_URL and len(key) <= _LONGEST_KEY
    return len(salt) == SLOT_SALT_BYTES and _holds_keys(body, wrapped) and affordable


def _holds_keys(body: dict[str, Any], wrapped: bytes) -> bool:
    if body.get("slot") not in (2, WRITE_ONLY):
        return len(wrapped) == KEY_BYTES + TAG_BYTES
    wanted = {"signature": SIGNATURE_BYTES} if body["slot"] == WRITE_ONLY else {"public": KEY_BYTES, "signature": SIGNATURE_BYTES}
    right = all(len(base64.b64decode(body[part], validate=True)) == length for part, length in wanted.items())
    epoch = body["epoch"]
    return len(wrapped) <= _LONGEST_BUNDLE and right and isinstance(epoch, int) and epoch >= 0


def _cost(body: dict[str, Any]) -> Argon2Cost:
    wanted = body["argon2id"]
    return Argon2Cost(int(wanted["passes"]), int(wanted["lanes"]), int(wanted["memory_kib"]))


def _bound(body: dict[str, Any]) -> bytes:
    return json.dumps({key: value for key, value in body.items() if key != "wrapped"}, sort_keys=True).encode()


def _context(body: dict[str, Any]) -> Context:
    from strongroom.repository.key_services import Context

    return Context(str(body["repository"]), base64.b64decode(body["salt"]).hex())


def _is_somebody(slot: KeySlot) -> bool:
    """Raises ValueError or TypeError if it names a role or a time that can't be."""
    named = all(isinstance(slot.body.get(part, ""), str) for part in ("person", "issuer", "signer", "expires"))
    identity = slot.identity
    return named and len(identity.signer) in (0, _SIGNER_BYTES) and identity.is_token == (slot.kind == TOKEN)


def _borne(bearer: Bearer, key: bytes) -> dict[str, str]:
    """What a slot says of whose it is. `key` is its wrapping key."""
    said = {"role": bearer.role.value, "person": bearer.person or random_bytes(16).hex(), "issuer": bearer.issuer}
    said["signer"] = base64.b64encode(_signer(key).public).decode()
    return said if bearer.expires is None else {**said, "expires": bearer.expires.isoformat()}


def _signer(wrapping_key: bytes) -> Signer:
    """A slot's own key pair: only who has the slot's secret can sign for it."""
    return Signer(derive(wrapping_key, "slot signature"))


def _wrapping_key(body: dict[str, Any], secret: Secret) -> bytes | None:
    """One key a slot: the salt makes it new, so that nonce 0 is used once. None if a service says that it isn't its slot."""
    salt = base64.b64decode(body["salt"])
    if secret.service is not None:
        key = _unwrapped(secret.service, body)
        return None if key is None else derive(key, "key service slot", salt=salt)
    if secret.kind == PASSPHRASE:
        return derive(key_of_passphrase(secret.value, salt, _cost(body)), "passphrase slot")
    return derive(secret.value, f"{secret.kind} slot", salt=salt)


def _unwrapped(service: KeyService, body: dict[str, Any]) -> bytes | None:
    """What the service makes of the slot's key: it is asked where the caller said it is, whatever the slot says. Raises Unreachable
    or WrongKey."""
    from strongroom.repository.key_services import NotOurs

    try:
        key = service.unwrap(base64.b64decode(body["service_key"]), _context(body))
    except NotOurs:
        return None
    return key if len(key) == KEY_BYTES else None
