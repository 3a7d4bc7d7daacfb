"""How does a repository give up the keys of old epochs? An object says the newest epoch once more, without those before it.

    keyring/<number>-closing   closes all epochs before this one; holds once keyring/<number> is gone

    header 6 | length u32 of the JSON | JSON | Ed25519 signature 64, with the epoch's own key, over all before it

JSON: `strongroom_keyring` 2, `epoch`, `created`, `closed` (when this was written), `salt`, `sealed` (as in what begins an epoch),
`lineage` (the public half of each epoch, signed by the one before) and `bundle`: the keys that never change, encrypted under the
epoch's secret. A slot of any epoch proves the newest by the lineage, from its own epoch on, and needs no key of those between.
"""

from __future__ import annotations

import base64
import json
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from strongroom.errors import Damaged
from strongroom.repository.crypto import (
    SALT_BYTES,
    SIGNATURE_BYTES,
    Box,
    NotAuthentic,
    derive,
    open_sealed,
    random_bytes,
    seal_to,
    signed_by,
)
from strongroom.repository.epochs import Certificate, Epoch
from strongroom.repository.framing import HEADER_BYTES, Kind, header, require_header
from strongroom.repository.key_slots import KeySlot
from strongroom.repository.keys import Keys

FOLDER = "keyring/"
FORMAT = 2
_ENDING = "-closing"
_NAME = re.compile(r"keyring/(\d{6})-closing")
_LENGTH = struct.Struct("<I")
_LONGEST = 16 << 20
_HINT = "bring it back from a copy of the repository; without it nothing opens"


@dataclass(frozen=True, slots=True)
class Closing:
    """An object that closes epochs, as it stands in the store: nothing of it is proven before `require_proven`."""

    number: int
    created: str
    closed: str
    sealed: Mapping[str, bytes]
    lineage: tuple[Certificate, ...]
    salt: bytes
    bundle: bytes
    content: bytes = field(repr=False)

    @property
    def name(self) -> str:
        return closing_name(self.number)


def closing_name(number: int) -> str:
    return f"{FOLDER}{number:06d}{_ENDING}"


def closings(names: Iterable[str]) -> list[int]:
    """The epochs of which a listing has such an object, in order."""
    return sorted(int(found[1]) for found in map(_NAME.fullmatch, names) if found)


def close_before(keys: Keys, slots: Iterable[KeySlot], closed: str) -> bytes:
    """The object that closes all epochs but the newest, for these slots."""
    epoch, repository_id, salt = keys.newest, keys.repository_id, random_bytes(SALT_BYTES)
    info = _info(repository_id, epoch.number)
    kept = {"blob_id": _text(keys.blob_id), "fingerprint": _text(keys.fingerprint)}
    body = {
        "strongroom_keyring": FORMAT,
        "epoch": epoch.number,
        "created": epoch.created,
        "closed": closed,
        "salt": _text(salt),
        "sealed": {slot.id: _text(seal_to(slot.public, epoch.secret, info)) for slot in slots},
        "lineage": lineage_to_json(keys.certificates()),
        "bundle": _text(_box(epoch, salt, repository_id).seal(0, json.dumps(kept, sort_keys=True).encode(), info)),
    }
    text = json.dumps(body, sort_keys=True).encode()
    front = header(Kind.KEYRING) + _LENGTH.pack(len(text)) + text
    return front + epoch.signing.sign(_signed_part(repository_id, front))


def framed_text(name: str, content: bytes) -> bytes:
    """The JSON of an object of the keyring, whose signature isn't looked at. Raises Damaged."""
    require_header(name, Kind.KEYRING, content)
    start = HEADER_BYTES + _LENGTH.size
    length = int.from_bytes(content[HEADER_BYTES:start], "little")
    if length > _LONGEST or len(content) != start + length + SIGNATURE_BYTES:
        raise Damaged(name, "truncated", hint=_HINT)
    return content[start : start + length]


def decode_closing(number: int, content: bytes) -> Closing:
    """Raises Damaged."""
    name = closing_name(number)
    text = framed_text(name, content)
    try:
        body = json.loads(text)
        sealed = {str(slot): _bytes(one) for slot, one in body["sealed"].items()}
        lineage = lineage_from_json(body["lineage"])
        if body["strongroom_keyring"] != FORMAT or body["epoch"] != number or len(lineage) != number + 1:
            raise Damaged(name, "it is of another epoch, or a newer Strongroom wrote it", hint=_HINT)
        times = str(body["created"]), str(body["closed"])
        return Closing(number, *times, sealed, lineage, _bytes(body["salt"]), _bytes(body["bundle"]), content)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(name, "altered or truncated", hint=_HINT) from error


def require_proven(closing: Closing, known: int, public: bytes, repository_id: bytes) -> None:
    """Raises Damaged unless epoch `known`, of which the caller has this public key, leads to it: each epoch vouched for the next,
    and the last one signed the object."""
    for one in closing.lineage[known + 1 :]:
        if not one.follows(public, repository_id):
            raise Damaged(closing.name, f"its word for epoch {one.number} isn't that of the epoch before", hint=_HINT)
        public = one.public
    front, signature = closing.content[:-SIGNATURE_BYTES], closing.content[-SIGNATURE_BYTES:]
    if closing.lineage[-1].public != public or not signed_by(public, signature, _signed_part(repository_id, front)):
        raise Damaged(closing.name, "its signature isn't this repository's", hint=_HINT)


def open_closing(closing: Closing, slot_id: str, private: bytes, repository_id: bytes) -> Epoch:
    """The epoch that it says, for a slot that it is sealed to; it was proven before. Raises Damaged."""
    info = _info(repository_id, closing.number)
    try:
        secret = open_sealed(private, closing.sealed[slot_id], info)
        epoch = Epoch(closing.number, secret, closing.created, repository_id)
        _box(epoch, closing.salt, repository_id).open(0, closing.bundle, info)
    except (NotAuthentic, ValueError) as error:
        raise Damaged(closing.name, "what is sealed to this key slot doesn't open", hint=_HINT) from error
    if epoch.verifying != closing.lineage[-1].public:
        raise Damaged(closing.name, "what is sealed to this key slot is another epoch's secret", hint=_HINT)
    return epoch


def lineage_to_json(lineage: Iterable[Certificate]) -> list[dict[str, Any]]:
    return [
        {"number": one.number, "created": one.created, "public": _text(one.public), "signature": _text(one.signature)}
        for one in lineage
    ]


def lineage_from_json(body: Iterable[Mapping[str, Any]]) -> tuple[Certificate, ...]:
    """Raises ValueError, KeyError or TypeError."""
    found = [Certificate(int(one["number"]), str(one["created"]), _bytes(one["public"]), _bytes(one["signature"])) for one in body]
    if [one.number for one in found] != list(range(len(found))):
        raise ValueError("the epochs of a lineage are not in order")
    return tuple(found)


def _box(epoch: Epoch, salt: bytes, repository_id: bytes) -> Box:
    return Box(derive(epoch.secret, "keyring closing", salt=salt + repository_id))


def _info(repository_id: bytes, number: int) -> bytes:
    return b"strongroom/1/closing" + repository_id + number.to_bytes(4, "little")


def _signed_part(repository_id: bytes, front: bytes) -> bytes:
    return b"strongroom closing\0" + repository_id + front


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
