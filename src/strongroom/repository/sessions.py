"""How does a host write what it can't read? Under keys of one session, whose secret only others can open.

    sessions/<tag>   16 hex digits, with which the salts of all objects of the session begin; a mark of the tag follows

    header 6 | length u32 of the JSON | JSON | Ed25519 signature 64, with the key of the host's slot, over all before it

JSON: `strongroom_session` 1, `slot` (what the host's key slot shows: the proof that an administrator made it), `epoch`, and
`sealed` (the session's 32 bytes, HPKE, to that epoch's receiving key; base64). The host forgets the secret when it ends.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Mapping
from typing import Any

from strongroom.errors import NotFound
from strongroom.repository.crypto import SIGNATURE_BYTES, NotAuthentic, Signer, open_sealed, seal_to, signed_by
from strongroom.repository.epochs import TAG_OF_KEY_BYTES, PublicEpoch, Session
from strongroom.repository.framing import HEADER_BYTES, Kind, header
from strongroom.repository.key_slots import WRITE_ONLY, signed_part
from strongroom.repository.keys import Keys
from strongroom.repository.store import Store

FOLDER = "sessions/"
_LENGTH = struct.Struct("<I")


def name_of(tag: bytes) -> str:
    return FOLDER + tag.hex()


def tags(store: Store) -> frozenset[bytes]:
    """The sessions that there are."""
    found = (listed.name.removeprefix(FOLDER) for listed in store.list(FOLDER))
    return frozenset(bytes.fromhex(one) for one in found if _is_tag(one))


def encode(session: Session, shown: Mapping[str, Any], epoch: PublicEpoch, repository_id: bytes, signer: Signer) -> bytes:
    """The object of a new session, of the slot that shows this, for holders of the epoch's secret."""
    sealed = seal_to(epoch.receiving, session.secret, _info(repository_id, epoch.number, signer.public))
    body = {"strongroom_session": 1, "slot": shown, "epoch": epoch.number, "sealed": base64.b64encode(sealed).decode()}
    text = json.dumps(body, sort_keys=True).encode()
    front = header(Kind.SESSION) + _LENGTH.pack(len(text)) + text
    return front + signer.sign(_signed(repository_id, front))


def find(store: Store, keys: Keys, tag: bytes) -> Session | None:
    """The session of a tag, None if there is none. Raises NotAuthentic, which says why, if it isn't one of this repository's."""
    try:
        content = store.read(name_of(tag))
    except NotFound:
        return None
    return decode(keys, tag, content)


def decode(keys: Keys, tag: bytes, content: bytes) -> Session:
    """Raises NotAuthentic unless a key slot of this repository's made it that may only write, and it opens."""
    repository_id, name = keys.repository_id, name_of(tag)
    try:
        (length,) = _LENGTH.unpack_from(content, HEADER_BYTES)
        end = HEADER_BYTES + _LENGTH.size + length
        front, signature = content[:end], content[end:]
        if front[:HEADER_BYTES] != header(Kind.SESSION) or len(signature) != SIGNATURE_BYTES:
            raise ValueError("no session")
        body = json.loads(front[HEADER_BYTES + _LENGTH.size :])
        slot, number = body["slot"], int(body["epoch"])
        signer = base64.b64decode(slot["signer"], validate=True)
        maker, receiver = keys.epoch(int(slot["epoch"])), keys.epoch(number)
        made = maker is not None and maker.signed(base64.b64decode(slot["signature"]), signed_part(slot))
        if not made or slot["slot"] != WRITE_ONLY or slot["repository"] != repository_id.hex() or receiver is None:
            raise NotAuthentic(f"{name}: its key slot isn't of this repository")
        if not signed_by(signer, signature, _signed(repository_id, front)):
            raise NotAuthentic(f"{name}: the key slot that it names didn't sign it")
        secret = open_sealed(receiver.receiving, base64.b64decode(body["sealed"]), _info(repository_id, number, signer))
        found = Session.new(repository_id, secret, signer, str(slot["label"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error) as error:
        raise NotAuthentic(f"{name} is damaged") from error
    if found.tag != tag:
        raise NotAuthentic(f"{name} is damaged, or another one's")
    return found


def snapshot_message(session_tag: bytes, repository_id: bytes, manifest: bytes) -> bytes:
    """What the key slot of a host signs of a snapshot."""
    return b"strongroom session snapshot\0" + repository_id + session_tag + manifest


def _is_tag(text: str) -> bool:
    return len(text) == 2 * TAG_OF_KEY_BYTES and all(digit in "0123456789abcdef" for digit in text)


def _info(repository_id: bytes, epoch: int, signer: bytes) -> bytes:
    return b"strongroom/1/session" + repository_id + epoch.to_bytes(4, "little") + signer


def _signed(repository_id: bytes, front: bytes) -> bytes:
    return b"strongroom session\0" + repository_id + front
