"""What this machine read of a repository and need not read again: records about objects that never change, by the objects' ids.

The store alone decides what exists: a record counts only for an object that was just listed, with the length it had. The file may
be lost, cut, altered or old, and two processes may meet at it: then records are missing, and the objects are read again.

    file     frame | frame | ...
    frame    length u32 of what follows | salt 32 | AES-256-GCM ciphertext and tag, nonce 0, bound to the repository's id
    plain    records: object id 32 | length of the object u64 | length u32 | content, little endian, one after another

A frame's key comes from its salt under a purpose of its own, so that nobody without the repository's key can read or make one.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from strongroom.repository.crypto import SALT_BYTES, TAG_BYTES, NotAuthentic
from strongroom.repository.keys import Keys
from strongroom.repository.state import alone_at, state_directory

MOST_BYTES = 1 << 30
"""A file of this size takes no more records."""

MOST_FRAMES = 32
"""A file of more frames is written anew with few: opening one costs about as much as a hundred records."""

_FRAME_BYTES = 4 << 20
_LENGTH = struct.Struct("<I")
_RECORD = struct.Struct("<32sQI")


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of an object of this id (64 hex digits) and length in bytes."""

    id: str
    size: int
    content: bytes


class Cache:
    """The records of one kind about one repository. Best effort: nothing here raises if the file can't be read or written."""

    def __init__(self, keys: Keys, kind: str) -> None:
        self._keys = keys
        self._purpose = f"{kind} cache"
        self._path = state_directory() / f"{keys.repository_id.hex()}-{kind}.cache"

    def read(self, listed: Mapping[str, int]) -> Iterator[Record]:
        """Those of the listed objects (id to length), each once. At the end the file is written anew if much of it is of no use."""
        given: set[str] = set()
        idle = frames = 0
        whole = True
        for plain in self._frames():
            frames += 1
            whole = whole and plain is not None
            for record in _records(plain or b""):
                if listed.get(record.id) == record.size and record.id not in given:
                    given.add(record.id)
                    yield record
                else:
                    idle += 1
        if not whole or frames > MOST_FRAMES or idle > len(given):
            self._rewrite(listed)

    def add(self, records: Iterable[Record]) -> None:
        """Keep these too, unless another process is writing or the file is full."""
        with suppress(OSError), alone_at(self._path, wait=False), _private(self._path, os.O_APPEND) as file:
            self._write(file, records)

    @staticmethod
    def forget(keys: Keys, series: str, least: str) -> None:
        """Of kinds that are called `series` and a suffix, forget those whose suffix sorts before `least`."""
        start = f"{keys.repository_id.hex()}-{series}"
        with suppress(OSError):
            for path in state_directory().glob(f"{start}*"):
                if path.name.removeprefix(start).partition(".")[0] < least:
                    path.unlink()

    def clear(self) -> None:
        """Forget all."""
        with suppress(OSError):
            self._path.unlink()

    def _rewrite(self, listed: Mapping[str, int]) -> None:
        """The same records in few frames, without those of objects that are gone."""
        fresh = self._path.with_suffix(".fresh")
        with suppress(OSError), alone_at(self._path, wait=False):
            with _private(fresh, os.O_TRUNC) as file:
                self._write(file, self._listed(listed))
            fresh.replace(self._path)

    def _listed(self, listed: Mapping[str, int]) -> Iterator[Record]:
        kept: set[str] = set()
        for plain in self._frames():
            for record in _records(plain or b""):
                if listed.get(record.id) == record.size and record.id not in kept:
                    kept.add(record.id)
                    yield record

    def _write(self, file: BinaryIO, records: Iterable[Record]) -> None:
        for plain in _framed(records):
            salt = self._keys.new_salt()
            sealed = self._keys.box(self._purpose, salt).seal(0, plain, self._keys.repository_id)
            if file.tell() + len(sealed) > MOST_BYTES:
                return
            file.write(_LENGTH.pack(SALT_BYTES + len(sealed)) + salt + sealed)

    def _frames(self) -> Iterator[bytes | None]:
        """The plain bytes of each frame, None for what isn't one of this repository and purpose, whole."""
        with suppress(OSError), self._path.open("rb") as file:
            left = os.fstat(file.fileno()).st_size
            while left:
                start = file.read(_LENGTH.size)
                length = _LENGTH.unpack(start)[0] if len(start) == _LENGTH.size else left
                left -= _LENGTH.size + length
                if left < 0 or length < SALT_BYTES + TAG_BYTES:
                    yield None
                    return
                yield self._opened(file.read(length))

    def _opened(self, frame: bytes) -> bytes | None:
        salt, sealed = frame[:SALT_BYTES], frame[SALT_BYTES:]
        try:
            return self._keys.box(self._purpose, salt).open(0, sealed, self._keys.repository_id)
        except NotAuthentic:
            return None


class Remembered:
    """The caches of a repository, by their kinds; nothing is read or kept once they are `distrusted`."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self.distrusted = False

    def read(self, kind: str, listed: Mapping[str, int]) -> Iterator[Record]:
        return iter(()) if self.distrusted else Cache(self._keys, kind).read(listed)

    def add(self, kind: str, records: Sequence[Record]) -> None:
        if records and not self.distrusted:
            Cache(self._keys, kind).add(records)

    def clear(self, kind: str) -> None:
        Cache(self._keys, kind).clear()


def _private(path: Path, how: int) -> BinaryIO:
    """A file to be written that is for this user only."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | how, 0o600), "ab")


def _framed(records: Iterable[Record]) -> Iterator[bytes]:
    """The plain bytes of frames."""
    parts: list[bytes] = []
    size = 0
    for record in records:
        if len(record.id) != 64:
            continue  # it lies in a folder below its own
        parts += [_RECORD.pack(bytes.fromhex(record.id), record.size, len(record.content)), record.content]
        size += _RECORD.size + len(record.content)
        if size > _FRAME_BYTES:
            yield b"".join(parts)
            parts, size = [], 0
    if parts:
        yield b"".join(parts)


def _records(plain: bytes) -> Iterator[Record]:
    at = 0
    while at < len(plain):
        object_id, size, length = _RECORD.unpack_from(plain, at)
        at += _RECORD.size
        yield Record(object_id.hex(), size, plain[at : at + length])
        at += length
