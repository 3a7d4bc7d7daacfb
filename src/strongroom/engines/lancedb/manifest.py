"""What does the manifest of a version say? Read straight from its bytes, as the Lance table format lays them down, since a follower
looks at every version and asks only what differs from the one before.

    [transaction] [index section] manifest, each a u32 length and a protobuf message | u64 place of the manifest | u16, u16 | LANC
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

from blake3 import blake3

from strongroom.errors import Unreadable

REWRITE = 104
"""The operation of a transaction that moves rows to other files and changes none: compaction."""

_MAGIC = b"LANC"
_FOOTER = struct.Struct("<QHH4s")
_LENGTH = struct.Struct("<I")
_FIELDS, _FRAGMENTS, _VERSION, _SCHEMA_METADATA, _INDICES, _TIMESTAMP = 1, 2, 3, 5, 6, 7
_TRANSACTION_FILE, _CONFIG, _TABLE_METADATA, _TRANSACTION = 12, 16, 19, 21
_FIRST_OPERATION = 100

Value = int | bytes


@dataclass(frozen=True, slots=True)
class Fragment:
    """An entry of the manifest: `files` below `data/`, with what else it says of them in `stored`; `deletions` below the table or
    ''. Lengths in rows and bytes."""

    number: int
    stored: bytes
    files: tuple[str, ...]
    deletions: str
    rows: int
    deleted: int
    bytes: int
    elsewhere: bool = False

    @property
    def live(self) -> int:
        return self.rows - self.deleted


@dataclass(frozen=True)
class Manifest:
    """A version: when it was committed (microseconds since 1970), and the parts of it by which two versions are compared."""

    version: int
    micros: int
    mark: str
    schema: bytes = field(repr=False)
    settings: bytes = field(repr=False)
    indices: tuple[bytes, ...] = field(repr=False)
    operation: int
    entries: tuple[bytes, ...] = field(repr=False)

    @cached_property
    def fragments(self) -> dict[bytes, Fragment]:
        """By their entries, in storage order."""
        return {entry: _fragment(entry) for entry in self.entries}

    @property
    def live(self) -> int:
        return sum(one.live for one in self.fragments.values())


def files_of(entries: Iterable[bytes]) -> set[str]:
    """All files of rows that such fragments consist of, below the table. Raises Unreadable if some lie elsewhere."""
    found = set[str]()
    for one in map(_fragment, entries):
        if one.elsewhere:
            raise Unreadable("the table keeps files outside of its directory", hint="make it whole with deep_clone()")
        found.update(f"data/{path}" for path in one.files)
        if one.deletions:
            found.add(one.deletions)
    return found


def mark_of(version: int, content: bytes) -> str:
    """The name of a version that no other one has, of this table or of one that is called the same later."""
    return f"{version}:{blake3(content).hexdigest()[:24]}"


def version_of(mark: str) -> int:
    return int(mark.partition(":")[0])


def read_manifest(path: Path) -> Manifest:
    """Raises FileNotFoundError, or Unreadable if it is no manifest."""
    content = path.read_bytes()
    try:
        place, _, _, magic = _FOOTER.unpack(content[-_FOOTER.size :])
        if magic != _MAGIC:
            raise ValueError("no manifest")
        return _manifest(content, _message(content, place))
    except (ValueError, KeyError, IndexError, struct.error) as error:
        raise Unreadable(f"{path} is no manifest of a Lance table") from error


def _manifest(content: bytes, message: bytes) -> Manifest:
    single: dict[int, Value] = {}
    fields, settings, entries = [], [], []
    for number, value in _values(message):
        if number == _FRAGMENTS:
            entries.append(_octets(value))
        elif number == _FIELDS:
            fields.append(_octets(value))
        elif number in (_SCHEMA_METADATA, _CONFIG, _TABLE_METADATA):
            settings.append(b"%d" % number + _octets(value))
        else:
            single[number] = value
    stamp = dict(_values(_octets(single.get(_TIMESTAMP, b""))))
    version = _integer(single.get(_VERSION, 0))
    return Manifest(
        version=version,
        micros=_shown(_integer(stamp.get(1, 0)) * 10**9 + _integer(stamp.get(2, 0))),
        mark=mark_of(version, content),
        schema=_joined(fields),
        settings=_joined(sorted(settings)),
        indices=_indices(content, single.get(_INDICES)),
        operation=_operation(content, single.get(_TRANSACTION)),
        entries=tuple(entries),
    )


def _shown(nanos: int) -> int:
    """A time in microseconds as Lance itself shows it to people, who ask for it again: its `versions()` reckons with a float."""
    return int(nanos // 1e9) * 1_000_000 + int((nanos % 1e9) // 1e3)


def _indices(content: bytes, place: Value | None) -> tuple[bytes, ...]:
    """Of each index its name, columns and parameters; not how far it has come."""
    if place is None:
        return ()
    found = set()
    for number, value in _values(_message(content, _integer(place))):
        if number == 1:
            found.add(_joined([b"%d" % key + _octets(part) for key, part in _values(_octets(value)) if key in (2, 3, 6)]))
    return tuple(sorted(found))


def _operation(content: bytes, place: Value | None) -> int:
    """What the transaction did, 0 if the manifest doesn't say."""
    if place is None:
        return 0
    return max((number for number, _ in _values(_message(content, _integer(place))) if number >= _FIRST_OPERATION), default=0)


@lru_cache(maxsize=1 << 16)  # most are those of the version before
def _fragment(entry: bytes) -> Fragment:
    number = rows = deleted = size = 0
    files, rest, deletions, elsewhere = [], [], "", False
    gone: dict[int, Value] = {}
    for key, value in _values(entry):
        if key == 3:
            gone = dict(_values(_octets(value)))
            continue
        rest.append(b"%d" % key + _octets(value))
        if key == 1:
            number = _integer(value)
        elif key == 2:
            file = dict(_values(_octets(value)))
            files.append(_octets(file[1]).decode())
            size += _integer(file.get(6, 0))
            elsewhere |= 7 in file
        elif key == 4:
            rows = _integer(value)
    if gone:
        suffix = "bin" if gone.get(1) else "arrow"
        deletions = f"_deletions/{number}-{_integer(gone.get(2, 0))}-{_integer(gone.get(3, 0))}.{suffix}"
        deleted = _integer(gone.get(4, 0))
        elsewhere |= 7 in gone
    return Fragment(number, _joined(rest), tuple(files), deletions, rows, deleted, size, elsewhere)


def _message(content: bytes, place: int) -> bytes:
    (length,) = _LENGTH.unpack_from(content, place)
    found = content[place + _LENGTH.size : place + _LENGTH.size + length]
    if len(found) != length:
        raise ValueError("truncated")
    return found


def _values(message: bytes) -> Iterator[tuple[int, Value]]:
    """The fields of a protobuf message, in order."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        if key & 7 == 0:
            number, at = _varint(message, at)
            yield key >> 3, number
            continue
        if key & 7 == 2:
            length, at = _varint(message, at)
        else:
            length = {1: 8, 5: 4}[key & 7]
        if at + length > len(message):
            raise ValueError("truncated")
        yield key >> 3, message[at : at + length]
        at += length


def _varint(message: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        octet = message[at]
        number |= (octet & 127) << shift
        at += 1
        if octet < 128:
            return number, at
        shift += 7


def _joined(parts: list[bytes]) -> bytes:
    return b"".join(_LENGTH.pack(len(part)) + part for part in parts)


def _octets(value: Value) -> bytes:
    return value if isinstance(value, bytes) else b"%d" % value


def _integer(value: Value) -> int:
    if not isinstance(value, int):
        raise ValueError("no number")
    return value
