"""How do the keys of a new epoch reach every key slot without anybody's secret? Sealed to the slots' public keys, in one object.

    keyring/<number>   begins the epoch of that number (six digits): created once, and from then on it is the newest

    header 6 | length u32 of the JSON | JSON | Ed25519 signature 64, with the key of the epoch before, over all before it

JSON: `strongroom_keyring` 1, `epoch`, `created`, `salt` (32 bytes), `sealed` (slot id to the epoch's 32 bytes, HPKE), `bundle`:
the keys of the epochs before and those that never change, encrypted under the new epoch's secret, and `public`, what hosts need
that write and can't read. Bytes are base64.
"""

from __future__ import annotations

import base64
import functools
import json
import struct
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from strongroom.errors import Damaged, NotFound, WrongKey
from strongroom.repository import sessions
from strongroom.repository.closing import (
    FOLDER,
    Closing,
    closing_name,
    closings,
    decode_closing,
    framed_text,
    lineage_from_json,
    lineage_to_json,
    open_closing,
    require_proven,
)
from strongroom.repository.crypto import (
    KEY_BYTES,
    SALT_BYTES,
    SIGNATURE_BYTES,
    Box,
    NotAuthentic,
    derive,
    new_exchange_key,
    open_sealed,
    random_bytes,
    seal_to,
    signed_by,
)
from strongroom.repository.epochs import Epoch, PublicEpoch
from strongroom.repository.framing import Kind, header
from strongroom.repository.key_slots import KeySlot, Signed
from strongroom.repository.keys import Keys
from strongroom.repository.store import Store

_LENGTH = struct.Struct("<I")
_LOOKS = 3
_HINT = "bring it back from a copy of the repository; without it nothing that was written since opens"


@dataclass(frozen=True, slots=True)
class Bundle:
    """The keys that a slot of version 2 wraps: all that are known, and the private half of what it shows."""

    keys: Keys
    private: bytes = field(repr=False)

    def encode(self) -> bytes:
        return json.dumps({**_body_of(self.keys), "private": _text(self.private)}, sort_keys=True).encode()

    @classmethod
    def decode(cls, plain: bytes, repository_id: bytes) -> Bundle:
        """Raises ValueError, KeyError or TypeError."""
        body = json.loads(plain)
        return cls(_keys_of(body, repository_id), _bytes(body["private"]))


@dataclass(frozen=True, slots=True)
class Beginning:
    """An object that begins an epoch, as it stands in the store: nothing of it is proven before `_open`."""

    number: int
    created: str
    sealed: Mapping[str, bytes]
    salt: bytes
    bundle: bytes
    content: bytes = field(repr=False)
    public: PublicEpoch | None = None

    @property
    def name(self) -> str:
        return name_of(self.number)


def name_of(number: int) -> str:
    return f"{FOLDER}{number:06d}"


def new_bundle(keys: Keys) -> tuple[bytes, Signed]:
    """What a new slot of version 2 wraps, and what it shows."""
    private, public = new_exchange_key()
    epoch = keys.newest
    return Bundle(keys, private).encode(), Signed({"epoch": epoch.number, "public": _text(public)}, epoch.signing.sign)


def begin_epoch(keys: Keys, slots: Iterable[KeySlot], created: str) -> tuple[Epoch, bytes]:
    """A new epoch, and the object that begins it for these slots."""
    repository_id, before = keys.repository_id, keys.newest
    epoch = Epoch(before.number + 1, random_bytes(KEY_BYTES), created, repository_id)
    info, salt = _info(repository_id, epoch.number), random_bytes(SALT_BYTES)
    body = {
        "strongroom_keyring": 1,
        "epoch": epoch.number,
        "created": created,
        "salt": _text(salt),
        "sealed": {slot.id: _text(seal_to(slot.public, epoch.secret, info)) for slot in slots},
        "public": public_body(epoch.public),
        "bundle": _text(_box(epoch, salt, repository_id).seal(0, json.dumps(_body_of(keys), sort_keys=True).encode(), info)),
    }
    text = json.dumps(body, sort_keys=True).encode()
    front = header(Kind.KEYRING) + _LENGTH.pack(len(text)) + text
    return epoch, front + before.signing.sign(_signed_part(repository_id, front))


def open_slot(store: Store, slot: KeySlot, wrapped: bytes, repository_id: bytes) -> Keys:
    """All keys that a slot gives, which was opened. Raises Damaged, or WrongKey if it was left out of an epoch."""
    if slot.version == 1:
        keys, private = Keys.of(wrapped, repository_id), b""
    else:
        try:
            bundle = Bundle.decode(wrapped, repository_id)
        except (ValueError, KeyError, TypeError) as error:
            raise Damaged(slot.name, "what it wraps are no keys") from error
        keys, private = bundle.keys, bundle.private

    def newer(epoch: Epoch) -> list[Epoch]:
        return _after(store, keys, epoch, slot.id, private)

    keys.newer = newer
    keys.find_session = functools.partial(sessions.find, store, keys)
    keys.look_again()
    return keys


def read_beginning(store: Store, number: int) -> Beginning:
    """Raises NotFound or Damaged."""
    name = name_of(number)
    content = store.read(name)
    text = framed_text(name, content)
    try:
        body = json.loads(text)
        sealed = {str(slot): _bytes(one) for slot, one in body["sealed"].items()}
        if body["strongroom_keyring"] != 1 or body["epoch"] != number:
            raise Damaged(name, "it is of another epoch, or a newer Strongroom wrote it", hint=_HINT)
        public = public_epoch(body["public"]) if "public" in body else None
        return Beginning(number, str(body["created"]), sealed, _bytes(body["salt"]), _bytes(body["bundle"]), content, public)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(name, "altered or truncated", hint=_HINT) from error


def numbers(store: Store) -> list[int]:
    """The epochs that were begun after the first, in order; but for closed ones."""
    return _begun(_names(store))


def read_closing(store: Store, number: int) -> Closing:
    """Raises NotFound or Damaged."""
    return decode_closing(number, store.read(closing_name(number)))


def newest_closing(store: Store) -> Closing | None:
    """The object that closes most epochs, if any were closed or are to be. Raises Damaged."""
    found = closings(_names(store))
    return read_closing(store, found[-1]) if found else None


def members(store: Store, keys: Keys) -> frozenset[str]:
    """The ids of the slots that the newest epoch is sealed to; none in the first. Raises NotFound or Damaged."""
    newest = keys.newest
    if not newest.number:
        return frozenset()
    with suppress(NotFound):
        beginning = read_beginning(store, newest.number)
        require_signed(beginning, keys.public_keys[newest.number - 1], keys.repository_id)
        return frozenset(beginning.sealed)
    closing = read_closing(store, newest.number)
    require_proven(closing, newest.number, newest.verifying, keys.repository_id)
    return frozenset(closing.sealed)


def _names(store: Store) -> list[str]:
    return [one.name for one in store.list(FOLDER)]


def _begun(names: Iterable[str]) -> list[int]:
    found = [name.removeprefix(FOLDER) for name in names]
    return sorted(int(one) for one in found if len(one) == 6 and one.isdecimal())


def public_body(epoch: PublicEpoch) -> dict[str, Any]:
    """What is said of an epoch to hosts that write and can't read."""
    shown = {"tag": epoch.tag, "receiving": epoch.receiving, "verifying": epoch.verifying}
    return {"number": epoch.number, **{name: _text(raw) for name, raw in shown.items()}}


def public_epoch(body: Mapping[str, Any]) -> PublicEpoch:
    """The inverse of `public_body`. Raises ValueError, KeyError or TypeError."""
    return PublicEpoch(int(body["number"]), *(_bytes(body[name]) for name in ("tag", "receiving", "verifying")))


def follow(store: Store, epoch: PublicEpoch, repository_id: bytes) -> list[PublicEpoch]:
    """The epochs after this one as everybody may know them, each proven by the one before it. Raises Damaged, or WrongKey if an
    older Strongroom began one."""
    found = [epoch]
    for number in numbers(store):
        if number <= epoch.number:
            continue
        before = found[-1]
        if number != before.number + 1:
            raise Damaged(name_of(before.number + 1), "missing: a later epoch was begun", hint=_HINT)
        beginning = read_beginning(store, number)
        require_signed(beginning, before.verifying, repository_id)
        if beginning.public is None or beginning.public.number != number:
            raise WrongKey(f"epoch {number} says nothing to hosts that only write", hint="make this host's key slot anew")
        found.append(beginning.public)
    return found[1:]


def require_signed(beginning: Beginning, public: bytes, repository_id: bytes) -> None:
    """Raises Damaged unless whoever began it had the keys of the epoch before, whose public one is given."""
    front, signature = beginning.content[:-SIGNATURE_BYTES], beginning.content[-SIGNATURE_BYTES:]
    if not signed_by(public, signature, _signed_part(repository_id, front)):
        raise Damaged(beginning.name, "its signature isn't this repository's", hint=_HINT)


def _after(store: Store, keys: Keys, epoch: Epoch, slot_id: str, private: bytes) -> list[Epoch]:
    """The epochs after this one, each proven by the one before it. What a closing closes is given up in `keys`."""
    for _ in range(_LOOKS):
        try:
            return _look(store, keys, epoch, slot_id, private)
        except NotFound as error:  # closed since it was listed: look again
            lost = error
    raise Damaged(FOLDER, f"its listing names objects that are not there ({lost})", hint=_HINT)


def _look(store: Store, keys: Keys, epoch: Epoch, slot_id: str, private: bytes) -> list[Epoch]:
    names = _names(store)
    begun, closed = _begun(names), max(closings(names), default=0)
    found: list[Epoch] = []
    if closed > epoch.number and closed not in begun:
        found.append(_closed(store, keys, epoch, closed, slot_id, private))
    for number in begun:
        before = found[-1] if found else epoch
        if number <= before.number:
            continue
        if number != before.number + 1:
            raise Damaged(name_of(before.number + 1), "missing: a later epoch was begun", hint=_HINT)
        found.append(_open(store, before, slot_id, private, keys.repository_id))
    _heed(store, keys, {one.number: one for one in (*keys.epochs, *found)}, closed, holds=closed not in begun)
    return found


def _closed(store: Store, keys: Keys, epoch: Epoch, number: int, slot_id: str, private: bytes) -> Epoch:
    """The epoch of a closing that holds, proven by the lineage from `epoch` on; all before it are given up."""
    closing = read_closing(store, number)
    require_proven(closing, epoch.number, epoch.verifying, keys.repository_id)
    _require_member(slot_id, private, closing.sealed, number)
    found = open_closing(closing, slot_id, private, keys.repository_id)
    keys.begin(found)
    keys.close(number, closing.lineage)
    return found


def _heed(store: Store, keys: Keys, known: Mapping[int, Epoch], closed: int, *, holds: bool) -> None:
    """Learn of a closing of an epoch that is known: give up what it closes if it holds, else only don't rely on it."""
    if closed not in known or (keys.closing >= closed and (not holds or closed <= keys.epochs[0].number)):
        return
    closing = read_closing(store, closed)
    require_proven(closing, closed, known[closed].verifying, keys.repository_id)
    if holds:
        keys.begin(known[closed])
        keys.close(closed, closing.lineage)
    keys.closing = closed


def _open(store: Store, before: Epoch, slot_id: str, private: bytes, repository_id: bytes) -> Epoch:
    beginning = read_beginning(store, before.number + 1)
    require_signed(beginning, before.verifying, repository_id)
    _require_member(slot_id, private, beginning.sealed, beginning.number)
    info = _info(repository_id, beginning.number)
    try:
        epoch = Epoch(beginning.number, open_sealed(private, beginning.sealed[slot_id], info), beginning.created, repository_id)
        _box(epoch, beginning.salt, repository_id).open(0, beginning.bundle, info)
    except (NotAuthentic, ValueError) as error:
        raise Damaged(beginning.name, "what is sealed to this key slot doesn't open", hint=_HINT) from error
    return epoch


def _require_member(slot_id: str, private: bytes, sealed: Mapping[str, bytes], number: int) -> None:
    if slot_id not in sealed or not private:
        hint = "open it with another key, and remove this slot or make it anew ('strongroom key add')"
        raise WrongKey(f"key slot {slot_id[:12]} was left out when the keys were rotated (epoch {number})", hint=hint)


def _box(epoch: Epoch, salt: bytes, repository_id: bytes) -> Box:
    return Box(derive(epoch.secret, Kind.KEYRING.purpose, salt=salt + repository_id))


def _info(repository_id: bytes, number: int) -> bytes:
    return b"strongroom/1/epoch" + repository_id + number.to_bytes(4, "little")


def _signed_part(repository_id: bytes, front: bytes) -> bytes:
    return b"strongroom keyring\0" + repository_id + front


def _body_of(keys: Keys) -> dict[str, Any]:
    epochs = [{"number": one.number, "created": one.created, "secret": _text(one.secret)} for one in keys.epochs]
    body = {"blob_id": _text(keys.blob_id), "fingerprint": _text(keys.fingerprint), "epochs": epochs}
    return {**body, "lineage": lineage_to_json(keys.lineage.values())} if keys.lineage else body


def _keys_of(body: Mapping[str, Any], repository_id: bytes) -> Keys:
    epochs = [Epoch(int(one["number"]), _bytes(one["secret"]), str(one["created"]), repository_id) for one in body["epochs"]]
    keys = Keys(repository_id, _bytes(body["blob_id"]), _bytes(body["fingerprint"]), epochs)
    if "lineage" in body:
        keys.close(epochs[0].number, lineage_from_json(body["lineage"]))
    return keys


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
