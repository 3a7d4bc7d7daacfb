"""When was each blob last proven: read, decrypted and hashed? Signed notes of whoever did it, on any machine.

A note says of blobs that a look (a verify, a drill) found them right or damaged. Looks are numbered: one that begins has a higher
number than all that it could see, so that what is newer doesn't depend on anybody's clock. Of each blob the note of the highest
number counts, and of two with the same the one that says "damaged". So notes may be told twice, merged, and read in any order.
"""

from __future__ import annotations

import base64
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import zstandard
from pyroaring import BitMap

from strongroom.errors import Damaged, NotFound
from strongroom.repository.crypto import SIGNATURE_BYTES, NotAuthentic
from strongroom.repository.framing import Kind, seal, unseal
from strongroom.repository.keys import Keys
from strongroom.repository.store import Store
from strongroom.repository.writer import create_once

FOLDER = "proofs/"
FORMAT = 1
SKEW = 300.0
"""Seconds by which another machine's clock may be ahead of ours."""
UNDATED = 0.0
"""When something was proven of which it can't be said when: its note is of a time that is yet to come."""
_LONGEST = 1 << 30
_LOOKS = 5
_READERS = 8
_ID_BYTES = 32


@dataclass(frozen=True, slots=True, order=True)
class Look:
    """What was found of blobs, and when (seconds since 1970) at the earliest: `number` is that of the look."""

    number: int
    damaged: bool
    at: float


@dataclass(slots=True)
class Standing:
    """What is said of one pack: of all of its blobs (None), or of those of these numbers."""

    notes: dict[Look, BitMap | None] = field(default_factory=dict)

    def add(self, look: Look, blobs: BitMap | None) -> None:
        known = self.notes.get(look, BitMap())
        self.notes[look] = None if known is None or blobs is None else known | blobs

    def of(self, number: int) -> Look | None:
        """The note that counts for the blob of this number, None if there is none."""
        return max((look for look, blobs in self.notes.items() if blobs is None or number in blobs), default=None)

    def merged(self) -> Iterator[tuple[Look, BitMap | None]]:
        """Each note with those of its blobs for which it counts."""
        told = BitMap()
        for look in sorted(self.notes, reverse=True):
            blobs = self.notes[look]
            if blobs is None:
                yield look, None  # it stands behind those before it: of their blobs they say it
                return
            if rest := blobs - told:
                yield look, rest
                told |= rest


@dataclass
class Notes:
    """Notes about packs, by pack id (64 hex digits)."""

    packs: defaultdict[str, Standing] = field(default_factory=lambda: defaultdict(Standing))

    def add(self, pack: str, look: Look, blobs: Iterable[int] | None = None) -> None:
        self.packs[pack].add(look, None if blobs is None else BitMap(blobs))

    def update(self, other: Notes) -> None:
        for pack, standing in other.packs.items():
            for look, blobs in standing.notes.items():
                self.packs[pack].add(look, blobs)

    def only(self, packs: Iterable[str]) -> Notes:
        """What is said of these packs."""
        chosen = Notes()
        for pack in set(packs) & self.packs.keys():
            chosen.packs[pack] = self.packs[pack]
        return chosen

    @property
    def highest(self) -> int:
        """The highest number of a look, 0 if there was none."""
        return max((look.number for standing in self.packs.values() for look in standing.notes), default=0)

    def proven(self, pack: str, number: int, now: float) -> float | None:
        """When the blob was last proven; None if it never was, or was found damaged since."""
        look = self.packs[pack].of(number) if pack in self.packs else None
        return None if look is None or look.damaged else dated(look.at, now)

    def damaged(self, pack: str, number: int) -> bool:
        look = self.packs[pack].of(number) if pack in self.packs else None
        return look is not None and look.damaged


def dated(at: float, now: float) -> float:
    """The time of a note as it may be believed at `now`."""
    return min(at, now) if at <= now + SKEW else UNDATED


def write(store: Store, keys: Keys, notes: Notes) -> str:
    """Store notes, durably; gives the object's name. Raises what `create_once` raises."""
    plain = zstandard.compress(json.dumps(_encode(notes), sort_keys=True, separators=(",", ":")).encode())
    object_id, content = seal(keys, Kind.PROOF, keys.sign(plain) + plain)
    create_once(store, FOLDER + object_id, content)
    return FOLDER + object_id


def read_all(store: Store, keys: Keys) -> tuple[dict[str, Notes], list[Damaged]]:
    """All notes by the names of their objects, and the objects that can't be believed. One that goes while it is read was merged
    into another: look again."""
    names: list[str] = []
    for look in range(_LOOKS):
        names = [listed.name for listed in store.list(FOLDER)]
        try:
            with ThreadPoolExecutor(_READERS) as pool:
                read = list(pool.map(lambda name: _read(store, keys, name), names))
        except NotFound:
            if look == _LOOKS - 1:
                return {}, [Damaged(FOLDER, "its listing names objects that are not there")]
            continue
        pairs = list(zip(names, read, strict=True))
        return {name: one for name, one in pairs if isinstance(one, Notes)}, [one for one in read if isinstance(one, Damaged)]
    raise AssertionError("the last look returns")


def _read(store: Store, keys: Keys, name: str) -> Notes | Damaged:
    hint = "what it said counts for nothing; delete it: what it proved is proven again by the next verify"
    try:
        plain = unseal(keys, Kind.PROOF, name, store.read(name))
        signature, body = plain[:SIGNATURE_BYTES], plain[SIGNATURE_BYTES:]
        keys.verify(signature, body)
        if zstandard.frame_content_size(body) > _LONGEST:
            raise Damaged(name, "it claims to be longer than any proof")
        return _decode(json.loads(zstandard.decompress(body)))
    except NotAuthentic:
        return Damaged(name, "its signature isn't this repository's", hint=hint)
    except Damaged as error:
        return Damaged(error.subject, error.problem, hint=hint)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, zstandard.ZstdError):
        return Damaged(name, "it is not a proof", hint=hint)


def _encode(notes: Notes) -> dict[str, Any]:
    """By look: its packs of which it tells all, their ids one after another, and for other packs the blobs' numbers."""
    whole: dict[Look, list[str]] = defaultdict(list)
    some: dict[Look, dict[str, str]] = defaultdict(dict)
    for pack, standing in sorted(notes.packs.items()):
        for look, blobs in standing.merged():
            if blobs is None:
                whole[look].append(pack)
            else:
                blobs.run_optimize()
                some[look][pack] = base64.b64encode(blobs.serialize()).decode()
    looks = [
        {
            "number": look.number,
            "at": round(look.at * 1e6),
            "damaged": look.damaged,
            "packs": base64.b64encode(bytes.fromhex("".join(whole[look]))).decode(),
            "blobs": some[look],
        }
        for look in sorted(whole.keys() | some.keys())
    ]
    return {"strongroom_proof": FORMAT, "looks": looks}


def _decode(body: Mapping[str, Any]) -> Notes:
    if body["strongroom_proof"] != FORMAT:
        raise ValueError("a newer Strongroom wrote it")
    notes = Notes()
    for one in body["looks"]:
        look = Look(_natural(one["number"]), _truth(one["damaged"]), _natural(one["at"]) / 1e6)
        ids = base64.b64decode(one["packs"], validate=True)
        if len(ids) % _ID_BYTES:
            raise ValueError("it ends in the middle of an id")
        for start in range(0, len(ids), _ID_BYTES):
            notes.add(ids[start : start + _ID_BYTES].hex(), look)
        for pack, blobs in one["blobs"].items():
            if not re.fullmatch("[0-9a-f]{64}", pack):
                raise ValueError("it names a pack that can't be")
            notes.add(pack, look, BitMap.deserialize(base64.b64decode(blobs, validate=True)))
    return notes


def _natural(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is not a natural number")
    return value


def _truth(value: object) -> bool:
    if type(value) is not bool:
        raise ValueError(f"{value!r} is neither true nor false")
    return value
