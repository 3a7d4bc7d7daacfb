"""Who can open the repository: each key slot wraps the same master key under another secret.

A slot is the object keys/<id>, JSON, and its id is the BLAKE3 of its bytes, so that an altered one is told from a wrong secret.
Passphrases go through Argon2id with the slot's own salt; a key file holds 32 random bytes and goes through HKDF.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import Any

from strongroom.errors import Damaged, WrongRequest
from strongroom.repository.crypto import (
    KEY_BYTES,
    TAG_BYTES,
    Argon2Cost,
    Box,
    NotAuthentic,
    content_hash,
    derive,
    key_of_passphrase,
    random_bytes,
)
from strongroom.repository.identity import AccessRole, Identity

FOLDER = "keys/"
PASSPHRASE, KEY_FILE = "passphrase", "key file"
_KINDS = (PASSPHRASE, KEY_FILE)
SLOT_SALT_BYTES = 16
UNREADABLE = {"kind": "unreadable", "label": "", "created": ""}
"""What stands for the body of a slot that is damaged or another repository's, so that it can be named and removed."""

_KEY_FILE_START = b"strongroom-key-1:"


@dataclass(frozen=True, slots=True)
class Secret:
    """What opens a slot: a passphrase or the content of a key file. Never printed."""

    kind: str  # 'passphrase' or 'key file'
    value: bytes = field(repr=False)

    @classmethod
    def passphrase(cls, text: str) -> Secret:
        """Raises WrongRequest if it is empty."""
        if not text:
            raise WrongRequest("the password is empty", hint="set STRONGROOM_PASSWORD or STRONGROOM_PASSWORD_FILE")
        return cls(PASSPHRASE, text.encode())

    @classmethod
    def key_file(cls, content: bytes) -> Secret:
        """Raises WrongRequest if these aren't a key file's bytes."""
        try:
            raw = base64.b64decode(content.strip().removeprefix(_KEY_FILE_START), validate=True)
        except ValueError:
            raw = b""
        if not content.startswith(_KEY_FILE_START) or len(raw) != KEY_BYTES:
            raise WrongRequest("that is not a Strongroom key file", hint="make one with 'strongroom key add --new-key-file PATH'")
        return cls(KEY_FILE, raw)


def new_key_file() -> bytes:
    """The content of a fresh key file."""
    return _KEY_FILE_START + base64.b64encode(random_bytes(KEY_BYTES)) + b"\n"


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
        return Identity(self.id, self.label, AccessRole(self.body.get("role", AccessRole.ADMIN)))

    def open(self, secret: Secret) -> bytes | None:
        """The master key, or None if the secret isn't this slot's."""
        if secret.kind != self.kind:
            return None
        try:
            return _wrapping_box(self.body, secret).open(0, base64.b64decode(self.body["wrapped"]), _bound(self.body))
        except NotAuthentic:
            return None


def make_slot(
    repository_id: bytes, master: bytes, secret: Secret, label: str, created: str, cost: Argon2Cost
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
    body["wrapped"] = base64.b64encode(_wrapping_box(body, secret).seal(0, master, _bound(body))).decode()
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
        AccessRole(body.get("role", AccessRole.ADMIN))
        sane = whole and (body["kind"] not in _KINDS or _is_sane(body))
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


def _wrapping_box(body: dict[str, Any], secret: Secret) -> Box:
    """One box a slot: the salt makes its key new, so that nonce 0 is used once."""
    salt = base64.b64decode(body["salt"])
    if secret.kind == KEY_FILE:
        return Box(derive(secret.value, "key file slot", salt=salt))
    return Box(derive(key_of_passphrase(secret.value, salt, _cost(body)), "passphrase slot"))
