"""The audit log as it is stored: numbered entries, of which each names the hash of the one before. Nothing is ever taken away.

    audit/<number / 1000, 9 digits>/<number, 12 digits>      signed_records, kind AUDIT

One chain for all writers: an entry takes the next number by conditional create, and whoever finds it taken goes on after what is
there. So all writers vouch for what each of them wrote. What this machine saw last is kept in its state directory: it saves looking
for the end, and it witnesses that an end was there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from strongroom.errors import AlreadyExists, Damaged, NotFound, StrongroomError, Unreachable
from strongroom.repository.crypto import Signer, content_hash
from strongroom.repository.framing import Kind
from strongroom.repository.keys import Keys
from strongroom.repository.reading_back import ReadingBack
from strongroom.repository.signed_records import SignedRecord, open_record, seal_record
from strongroom.repository.state import alone_at, state_directory
from strongroom.repository.store import Store

FOLDER = "audit/"
FORMAT = 1
NOTHING = "0" * 64
"""The hash that the first entry names."""
_PER_FOLDER = 1_000
_TRIES = 200
_READERS = 16
_NAME = re.compile(r"audit/(\d{9})/(\d{12})")


@dataclass(frozen=True, slots=True)
class End:
    """The last entry that somebody saw: its number and the hash of its bytes."""

    number: int
    hash: str


@dataclass(frozen=True, slots=True)
class Stored:
    """One object of the log: its number, the hash of its bytes, and what it is: a record, or why it can't be read."""

    number: int
    hash: str
    record: SignedRecord | Damaged


def entry_name(number: int) -> str:
    return f"{FOLDER}{number // _PER_FOLDER:09d}/{number:012d}"


class AuditLog:
    """The log of an opened repository. Any number of threads and processes may write at once."""

    def __init__(self, store: Store, keys: Keys, signer: Signer | None) -> None:
        self._store = store
        self._keys = keys
        self._signer = signer
        self._path = state_directory() / f"{keys.repository_id.hex()}-audit.json"

    def append(self, said: Mapping[str, Any], first: Callable[[], Mapping[str, Any]] = dict) -> int:
        """Add an entry, durably; gives its number. The first of all says what `first` gives, too. Raises what the store raises:
        then it may or may not be there."""
        self._keys.look_again()
        end, safe = self.witnessed() or self._end(), self._note().get("safe")
        store = ReadingBack(self._store) if safe is False else self._store
        for _ in range(_TRIES):
            number, previous = (end.number + 1, end.hash) if end else (0, NOTHING)
            name = entry_name(number)
            more = first() if number == 0 else {}
            body = {"strongroom_audit": FORMAT, **said, **more, "number": number, "previous": previous}
            content = seal_record(self._keys, Kind.AUDIT, name, body, self._signer)
            there = _create(store, name, content)
            end = End(number, content_hash(there).hex())
            if there == content:
                self._witness(end, _refuses(store, name, content) if safe is None else safe)
                return number
            end = self._end(number) or end
        raise Unreachable(f"{self._store.url}: others write into the audit log all the time", busy=True)

    def read(self) -> list[Stored]:
        """All of it, by number, whatever state it is in."""
        numbers = sorted({number for number in map(_number_of, self._names(FOLDER)) if number is not None})
        with ThreadPoolExecutor(_READERS) as pool:
            return [one for one in pool.map(self._stored, numbers) if one is not None]

    def witnessed(self) -> End | None:
        """The end that this machine saw last in this store."""
        found = self._note()
        try:
            return End(int(found["number"]), str(found["hash"]))
        except (KeyError, TypeError, ValueError):
            return None

    def _stored(self, number: int) -> Stored | None:
        name = entry_name(number)
        try:
            content = self._store.read(name)
        except NotFound:  # taken away since it was listed: the gap will be seen
            return None
        try:
            record: SignedRecord | Damaged = open_record(self._keys, Kind.AUDIT, name, content)
        except Damaged as error:
            record = error
        return Stored(number, content_hash(content).hex(), record)

    def _end(self, known: int = 0) -> End | None:
        """Where the log ends now, of which entry `known` is there: by steps that double over the folders, then one listing."""
        folder, step = known // _PER_FOLDER, 1
        while self._has(folder + step):
            folder, step = folder + step, step * 2
        while step := step // 2:
            folder += step if self._has(folder + step) else 0
        numbers = [number for number in map(_number_of, self._names(f"{FOLDER}{folder:09d}/")) if number is not None]
        if not numbers:
            return None
        return End(max(numbers), content_hash(self._store.read(entry_name(max(numbers)))).hex())

    def _has(self, folder: int) -> bool:
        try:
            self._store.size(entry_name(folder * _PER_FOLDER))
        except NotFound:
            return False
        return True

    def _names(self, prefix: str) -> Iterator[str]:
        return (listed.name for listed in self._store.list(prefix))

    def _witness(self, end: End, safe: bool | None) -> None:
        """Remember the highest end that was seen. Best effort: a machine that can't has to look for it each time."""
        with suppress(OSError), alone_at(self._path):
            notes, known = self._notes(), self.witnessed()
            if known is None or known.number < end.number:
                notes[self._store.url] = {"number": end.number, "hash": end.hash, "safe": safe}
                fresh = self._path.with_suffix(".fresh")
                fresh.write_text(json.dumps(notes))
                fresh.replace(self._path)

    def _note(self) -> dict[str, Any]:
        found = self._notes().get(self._store.url)
        return found if isinstance(found, dict) else {}

    def _notes(self) -> dict[str, Any]:
        with suppress(OSError, ValueError):
            notes = json.loads(self._path.read_bytes())
            if isinstance(notes, dict):
                return notes
        return {}


def _create(store: Store, name: str, content: bytes) -> bytes:
    """What stands under the name afterwards: ours, or what another one wrote."""
    try:
        store.create(name, content)
    except (AlreadyExists, Unreachable, Damaged):  # Damaged: a store without conditions has another one's
        try:
            return store.read(name)
        except NotFound:
            pass
        raise
    return content


def _refuses(store: Store, name: str, content: bytes) -> bool | None:
    """Does the store refuse to overwrite what was just created? Asked once a machine; the bytes are the same. None: no answer."""
    try:
        store.create(name, content)
    except AlreadyExists:
        return True
    except StrongroomError:
        return None
    return False


def _number_of(name: str) -> int | None:
    """The number that an object's name says; None if it is no entry's."""
    found = _NAME.fullmatch(name)
    return int(found[2]) if found and int(found[2]) // _PER_FOLDER == int(found[1]) else None
