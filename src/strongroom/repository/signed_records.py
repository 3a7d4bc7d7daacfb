"""What one identity says and signs: a JSON object, sealed, bound to the name under which it is stored.

    header 6 | salt 32 | AES-256-GCM ciphertext and tag, nonce 0, bound to the header, the repository's id and the object's name
    plain    signature 64 | public key 32 | JSON

The signature (Ed25519) is over the object's name, a zero byte and the JSON. 32 zero bytes stand for the repository's own key: the
writer's slot has none, and who wrote it is claimed, not proven.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from strongroom.errors import Damaged
from strongroom.repository.crypto import SALT_BYTES, SIGNATURE_BYTES, NotAuthentic, Signer, content_hash, signed_by
from strongroom.repository.framing import HEADER_BYTES, Kind, header, require_header
from strongroom.repository.keys import Keys

SIGNER_BYTES = 32
UNPROVEN = bytes(SIGNER_BYTES)
_TEXT = SIGNATURE_BYTES + SIGNER_BYTES


@dataclass(frozen=True, slots=True)
class SignedRecord:
    """A record that was read: its name, what it says, who signed it (a public key, or UNPROVEN), the BLAKE3 of the object's bytes
    (64 hex digits), and the plain bytes."""

    name: str
    said: Mapping[str, Any]
    signer: bytes
    hash: str
    plain: bytes = field(repr=False)

    @property
    def signature(self) -> bytes:
        return self.plain[:SIGNATURE_BYTES]

    @property
    def text(self) -> bytes:
        """The JSON that was signed."""
        return self.plain[_TEXT:]


def signed_message(name: str, text: bytes) -> bytes:
    """What a signature is over."""
    return name.encode() + b"\0" + text


def seal_record(keys: Keys, kind: Kind, name: str, said: Mapping[str, Any], signer: Signer | None) -> bytes:
    """The object's bytes."""
    text = json.dumps(said, sort_keys=True, separators=(",", ":")).encode()
    message = signed_message(name, text)
    signature, public = (signer.sign(message), signer.public) if signer else (keys.sign(message), UNPROVEN)
    start, salt = header(kind), keys.new_salt()
    plain = signature + public + text
    return start + salt + keys.box(kind.purpose, salt).seal(0, plain, start + keys.repository_id + name.encode())


def open_record(keys: Keys, kind: Kind, name: str, content: bytes) -> SignedRecord:
    """Raises Damaged if it was altered, belongs under another name, or isn't signed by the key that it names."""
    start = require_header(name, kind, content)
    salt = content[HEADER_BYTES : HEADER_BYTES + SALT_BYTES]
    try:
        sealed = content[HEADER_BYTES + SALT_BYTES :]
        plain = keys.box(kind.purpose, salt).open(0, sealed, start + keys.repository_id + name.encode())
        signature, signer, text = plain[:SIGNATURE_BYTES], plain[SIGNATURE_BYTES:_TEXT], plain[_TEXT:]
        if signer == UNPROVEN:
            keys.verify(signature, signed_message(name, text))
        elif not signed_by(signer, signature, signed_message(name, text)):
            raise NotAuthentic
        said = json.loads(text)
    except NotAuthentic as error:
        raise Damaged(name, str(error) or "altered, moved, or not written with this repository's key") from error
    except (ValueError, RecursionError) as error:
        raise Damaged(name, "what it says can't be read") from error
    if not isinstance(said, dict):
        raise Damaged(name, "what it says can't be read")
    return SignedRecord(name, said, signer, content_hash(content).hex(), plain)
