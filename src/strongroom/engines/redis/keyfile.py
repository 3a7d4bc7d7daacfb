"""How are keys kept in a file, so that each comes back by RESTORE and no vector is stored twice?

'SRKEYS1\n' | u32 version of the RDB encoding | blocks
block:  u32 rows | u32 columns | u32 bytes of a vector, a column | u64 bytes of the records | columns, dense | records
record: u32 length of the key | i64 expires (ms, -1 never) | u32 length of the value | u32 cuts | (u32 column, u32 offset) a cut
        | key | value without what is cut out of it: the vector of that column, at that offset of the rest
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from strongroom.engines.protocol import BLOCK_BYTES
from strongroom.engines.redis.names import text_of
from strongroom.errors import Damaged, SourceChanged, Unreadable
from strongroom.model import Cut, Region

MAGIC = b"SRKEYS1\n"
_HEAD = struct.Struct("<8sI")
_BLOCK = struct.Struct("<II")
_RECORDS = struct.Struct("<Q")
_RECORD = struct.Struct("<IqII")
_CUT = struct.Struct("<II")
_MOST, _SHOWN = (1 << 32) - 1, 80


@dataclass(frozen=True, slots=True)
class Record:
    """A key, when it expires (milliseconds since 1970, -1 never), and its value as DUMP gives it, without the end of that."""

    key: bytes
    expires: int
    value: bytes


@dataclass(frozen=True, slots=True)
class Block:
    """Records that are the rows of one `RowBlock`; `vectors` are its vector columns, one after another, dense, empty if any row
    lacks one."""

    records: Sequence[Record]
    vectors: Sequence[Sequence[bytes]] = ()


@dataclass(frozen=True, slots=True)
class KeyFile:
    """An artifact. `columns` are the names of its collection's vector fields and their element types."""

    path: str
    collection: str | None
    file: Path
    size: int
    cuts: tuple[Region, ...]
    immutable: bool = False
    cut: Cut = Cut.FORMAT

    def regions(self) -> Iterator[Region]:
        yield from self.cuts

    def read(self, offset: int, length: int) -> bytes:
        with self.file.open("rb") as file:
            file.seek(offset)
            content = file.read(length)
        if len(content) != length:
            raise SourceChanged(f"{self.path} became shorter during the backup")
        return content


def write(
    file: Path, path: str, collection: str | None, version: int, blocks: Iterable[Block], columns: Sequence[tuple[str, str]] = ()
) -> KeyFile:
    """Write blocks to a file; `columns` are name and element type of the vector columns."""
    regions: list[Region] = []
    with file.open("wb") as out:
        _put(out, regions, _HEAD.pack(MAGIC, version))
        for number, block in enumerate(blocks):
            widths = [len(column[0]) for column in block.vectors]
            records = b"".join(_packed(record, row, block.vectors) for row, record in enumerate(block.records))
            head = _BLOCK.pack(len(block.records), len(widths)) + struct.pack(f"<{len(widths)}I", *widths)
            _put(out, regions, head + _RECORDS.pack(len(records)))
            for (name, kind), column in zip(columns, block.vectors, strict=False):
                content = b"".join(column)
                regions.append(Region(out.tell(), len(content), kind, column=name, block=number))
                out.write(content)
            _put(out, regions, records)
        size = out.tell()
    return KeyFile(path, collection, file, size, tuple(regions))


def read(file: Path) -> Iterator[Block]:
    """The blocks of a file. Raises Damaged."""
    size = file.stat().st_size
    try:
        with file.open("rb") as content:
            _version(content)
            while content.tell() < size:
                yield _block(content)
    except (struct.error, IndexError) as error:
        raise Damaged(f"file {file.name}", "it is no file of keys, or torn") from error


def version_of(file: Path) -> int:
    """The version of the encoding of its values. Raises Damaged."""
    with file.open("rb") as content:
        return _version(content)


def _version(content: BinaryIO) -> int:
    magic, version = _HEAD.unpack(content.read(_HEAD.size))
    if magic != MAGIC:
        raise Damaged("a file of keys", "it is none")
    return int(version)


def _put(out: BinaryIO, regions: list[Region], content: bytes) -> None:
    for start in range(0, len(content), BLOCK_BYTES):
        part = content[start : start + BLOCK_BYTES]
        regions.append(Region(out.tell(), len(part)))
        out.write(part)


def _packed(record: Record, row: int, vectors: Sequence[Sequence[bytes]]) -> bytes:
    rest, cuts = record.value, b""
    for column, values in enumerate(vectors):
        place = rest.find(values[row])
        if place >= 0:
            rest = rest[:place] + rest[place + len(values[row]) :]
            cuts += _CUT.pack(column, place)
    if len(rest) > _MOST:
        raise Unreadable(f"key {text_of(record.key)[:_SHOWN]!r} has {len(rest):,} bytes, and more than {_MOST:,} can't be kept")
    head = _RECORD.pack(len(record.key), record.expires, len(rest), len(cuts) // _CUT.size)
    return head + cuts + record.key + rest


def _block(content: BinaryIO) -> Block:
    rows, count = _BLOCK.unpack(content.read(_BLOCK.size))
    widths = struct.unpack(f"<{count}I", content.read(4 * count))
    (length,) = _RECORDS.unpack(content.read(_RECORDS.size))
    columns = [content.read(rows * width) for width in widths]
    vectors = [[column[row * w : (row + 1) * w] for row in range(rows)] for column, w in zip(columns, widths, strict=True)]
    packed = content.read(length)
    if len(packed) != length:
        raise IndexError("torn")
    records, at = [], 0
    for row in range(rows):
        key_length, expires, value_length, cuts = _RECORD.unpack_from(packed, at)
        at += _RECORD.size
        places = [_CUT.unpack_from(packed, at + _CUT.size * number) for number in range(cuts)]
        at += _CUT.size * cuts
        key = packed[at : at + key_length]
        value = packed[at + key_length : at + key_length + value_length]
        at += key_length + value_length
        for column, place in reversed(places):
            value = value[:place] + vectors[column][row] + value[place:]
        records.append(Record(key, expires, value))
    if at != length:
        raise IndexError("torn")
    return Block(records, vectors)


def plain_file(file: Path, path: str) -> KeyFile:
    """A file of another kind, of the whole source."""
    size = file.stat().st_size
    return KeyFile(path, None, file, size, (Region(0, size),), cut=Cut.BLOCKS)
