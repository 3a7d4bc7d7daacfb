"""What is meant to go: snapshots that were forgotten, and packs on which nobody may rely any more.

    tombstones/forgotten/<id>   snapshots whose absence is no theft
    tombstones/unlisted/<id>    packs that no index object listed when a prune saw them first
    tombstones/condemned/<id>   packs that will be deleted
    tombstones/absent/<id>      snapshots that a replica was not given, though others name them
    tombstones/revoked/<id>     key slots that were removed: no new epoch is sealed to one, and no replica gets one back
    tombstones/ended/<id>       snapshots that were there when the key slot of the host was removed that made them
    tombstones/trimmed/<id>     from which segment on streams of the journal are kept: 32 hex digits of the stream, 32 of its number

A tombstone is signed and sealed like a manifest, and its JSON says itself what it means: a store can take one away, not make one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import zstandard

from strongroom.errors import Damaged, NotFound
from strongroom.repository.crypto import SIGNATURE_BYTES, NotAuthentic
from strongroom.repository.framing import Kind, seal, unseal
from strongroom.repository.keys import Keys
from strongroom.repository.store import Store
from strongroom.repository.writer import create_once

FOLDER = "tombstones/"
FORMAT = 1
_LONGEST = 1 << 30
_LOOKS = 5
_READERS = 8
_ID = re.compile("[0-9a-f]{64}")


class What(StrEnum):
    """What a tombstone says of its ids."""

    FORGOTTEN = "forgotten"
    UNLISTED = "unlisted"
    CONDEMNED = "condemned"
    TRIMMED = "trimmed"
    REVOKED = "revoked"
    ABSENT = "absent"
    ENDED = "ended"

    @property
    def folder(self) -> str:
        return f"{FOLDER}{self.value}/"


@dataclass(frozen=True, slots=True)
class Tombstone:
    """Said of packs or snapshots: id (64 hex digits) to since when (UTC, by the clock of who said it). `parents` are the snapshots
    that forgotten ones named and that were there: what they testified must not be lost with them."""

    what: What
    since: Mapping[str, datetime]
    parents: tuple[str, ...] = ()
    name: str = ""


def bury(store: Store, keys: Keys, tombstone: Tombstone) -> Tombstone:
    """Store a tombstone, durably; gives it with its name. Raises what `create_once` raises."""
    since = {one: at.isoformat() for one, at in tombstone.since.items()}
    body = {"strongroom_tombstone": FORMAT, "what": tombstone.what.value, "since": since, "parents": sorted(tombstone.parents)}
    plain = zstandard.compress(json.dumps(body, sort_keys=True, separators=(",", ":")).encode())
    object_id, content = seal(keys, Kind.TOMBSTONE, keys.sign(plain) + plain)
    name = tombstone.what.folder + object_id
    create_once(store, name, content)
    return Tombstone(tombstone.what, tombstone.since, tombstone.parents, name)


def read_tombstones(store: Store, keys: Keys, what: What) -> list[Tombstone]:
    """All of one folder. One that goes while it is read was merged into another or is done with: look again.
    Raises Damaged if one can't be read."""
    for look in range(_LOOKS):
        names = [listed.name for listed in store.list(what.folder)]
        try:
            with ThreadPoolExecutor(_READERS) as pool:
                return list(pool.map(lambda name: _decode(name, what, keys, store.read(name)), names))
        except NotFound as error:
            if look == _LOOKS - 1:
                raise Damaged(what.folder, "its listing names objects that are not there") from error
    raise AssertionError("the last look returns or raises")


def read_tombstone(store: Store, keys: Keys, name: str) -> Tombstone:
    """One, by its name. Raises NotFound or Damaged."""
    what = next((what for what in What if name.startswith(what.folder)), None)
    if what is None:
        raise Damaged(name, "no tombstone has such a name")
    return _decode(name, what, keys, store.read(name))


def earliest(tombstones: Iterable[Tombstone]) -> dict[str, datetime]:
    """Every id that any of them names, and since when."""
    since: dict[str, datetime] = {}
    for tombstone in tombstones:
        for one, at in tombstone.since.items():
            since[one] = min(at, since.get(one, at))
    return since


def _decode(name: str, what: What, keys: Keys, content: bytes) -> Tombstone:
    hint = "read it again; if it stays so, delete this object while no prune runs: what it said is found anew"
    try:
        plain = unseal(keys, Kind.TOMBSTONE, name, content)
        keys.verify(plain[:SIGNATURE_BYTES], plain[SIGNATURE_BYTES:])
        if zstandard.frame_content_size(plain[SIGNATURE_BYTES:]) > _LONGEST:
            raise Damaged(name, "it claims to be longer than any tombstone", hint=hint)
        return _tombstone(name, what, json.loads(zstandard.decompress(plain[SIGNATURE_BYTES:])))
    except NotAuthentic as error:
        raise Damaged(name, "its signature isn't this repository's", hint=hint) from error
    except Damaged as error:
        raise Damaged(error.subject, error.problem, hint=hint) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, zstandard.ZstdError) as error:
        raise Damaged(name, "it is not a tombstone", hint=hint) from error


def _tombstone(name: str, what: What, body: dict[str, Any]) -> Tombstone:
    if body["strongroom_tombstone"] != FORMAT:
        raise Damaged(name, "a newer Strongroom wrote this tombstone")
    if What(body["what"]) != what:
        raise ValueError("it lies in another folder than it belongs to")
    since = {one: datetime.fromisoformat(at).astimezone(UTC) for one, at in body["since"].items()}
    parents = tuple(body["parents"])
    if not all(_ID.fullmatch(one) for one in (*since, *parents)):
        raise ValueError("it names ids that can't be")
    return Tombstone(what, since, parents, name)
