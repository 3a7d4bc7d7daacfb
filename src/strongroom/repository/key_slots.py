"""Who can open the repository: each key slot wraps the same master key under another secret.

A slot is the object keys/<id>, JSON, and its id is the BLAKE3 of its bytes, so that an altered one is told from a wrong secret.
Passphrases go through Argon2id with the slot's own salt; a key file holds 32 random bytes and goes through HKDF.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from strongroom.errors import Damaged, WrongRequest
from strongroom.repository.crypto import (
    KEY_BYTES,
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

FOLDER = "keys/"
PASSPHRASE, KEY_FILE, TOKEN = "passphrase", "key file", "token"
_KINDS = (PASSPHRASE, KEY_FILE, TOKEN)
SLOT_SALT_BYTES = 16
UNREADABLE = {"kind": "unreadable", "label": "", "created": ""}
"""What stands for the body of a slot that is damaged or another repository's, so that it can be named and removed."""

_STARTS = {KEY_FILE: b"strongroom-key-1:", TOKEN: b"strongroom-token-1:"}
_SIGNER_BYTES = 32


@dataclass(frozen=True, slots=True)
class Secret:
    """What opens a slot: a passphrase or the content of a key file. Never printed."""

    kind: str  # 'passphrase', 'key file' or 'token'
    value: bytes = field(repr=False)

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
    def identity(self) -> Identity:
        """Raises ValueError if the slot names a role that this program doesn't know."""
        until, signer = self.body.get("expires"), base64.b64decode(self.body.get("signer", ""))
        expires = datetime.fromisoformat(until).astimezone(UTC) if until else None
        role = AccessRole(self.body.get("role", AccessRole.ADMIN))
        return Identity(self.id, self.label, role, self.body.get("person", self.id), signer, expires)

    @property
    def lasts(self) -> bool:
        """Is it one that may be the last of all: an administrator's, and no token?"""
        return self.kind != UNREADABLE["kind"] and self.identity.role == AccessRole.ADMIN and not self.identity.is_token

    def open(self, secret: Secret) -> bytes | None:
        """The master key, or None if the secret isn't this slot's."""
        opened = self.unwrap(secret)
        return opened[0] if opened else None

    def unwrap(self, secret: Secret) -> tuple[bytes, Signer | None] | None:
        """The master key, and what signs for this slot if it has that; None if the secret isn't this slot's."""
        if secret.kind != self.kind:
            return None
        try:
            key = _wrapping_key(self.body, secret)
            master = Box(key).open(0, base64.b64decode(self.body["wrapped"]), _bound(self.body))
        except NotAuthentic:
            return None
        return master, _signer(key) if "signer" in self.body else None


def make_slot(
    repository_id: bytes,
    master: bytes,
    secret: Secret,
    label: str,
    created: str,
    cost: Argon2Cost,
    bearer: Bearer = Bearer(),  # noqa: B008 - frozen
) -> tuple[KeySlot, bytes]:
    """A new slot for `secret` and the bytes of its object."""
    body: dict[str, Any] = {
        "slot": 1,
        "repository": repository_id.hex(),
        "kind": secret.kind,
        "label": label,
        "created": created,
        "salt": base64.b64encode(random_bytes(SLOT_SALT_BYTES)).decode(),
    }
    if secret.kind == PASSPHRASE:
        body["argon2id"] = {"passes": cost.passes, "lanes": cost.lanes, "memory_kib": cost.memory}
    key = _wrapping_key(body, secret)
    body |= {"role": bearer.role.value, "person": bearer.person or random_bytes(16).hex(), "issuer": bearer.issuer}
    body["signer"] = base64.b64encode(_signer(key).public).decode()
    if bearer.expires is not None:
        body["expires"] = bearer.expires.isoformat()
    body["wrapped"] = base64.b64encode(Box(key).seal(0, master, _bound(body))).decode()
    content = json.dumps(body, sort_keys=True).encode()
    return KeySlot(content_hash(content).hex(), body), content


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
    return len(salt) == SLOT_SALT_BYTES and len(wrapped) == KEY_BYTES + TAG_BYTES and affordable


def _cost(body: dict[str, Any]) -> Argon2Cost:
    wanted = body["argon2id"]
    return Argon2Cost(int(wanted["passes"]), int(wanted["lanes"]), int(wanted["memory_kib"]))


def _bound(body: dict[str, Any]) -> bytes:
    return json.dumps({key: value for key, value in body.items() if key != "wrapped"}, sort_keys=True).encode()


def _is_somebody(slot: KeySlot) -> bool:
    """Raises ValueError or TypeError if it names a role or a time that can't be."""
    named = all(isinstance(slot.body.get(part, ""), str) for part in ("person", "issuer", "signer", "expires"))
    identity = slot.identity
    return named and len(identity.signer) in (0, _SIGNER_BYTES) and identity.is_token == (slot.kind == TOKEN)


def _signer(wrapping_key: bytes) -> Signer:
    """A slot's own key pair: only who has the slot's secret can sign for it."""
    return Signer(derive(wrapping_key, "slot signature"))


def _wrapping_key(body: dict[str, Any], secret: Secret) -> bytes:
    """One key a slot: the salt makes it new, so that nonce 0 is used once."""
    salt = base64.b64decode(body["salt"])
    if secret.kind in (KEY_FILE, TOKEN):
        return derive(secret.value, f"{secret.kind} slot", salt=salt)
    return derive(key_of_passphrase(secret.value, salt, _cost(body)), "passphrase slot")
