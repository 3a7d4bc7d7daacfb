"""What is known of the rows of an earlier snapshot, without its rows: which fingerprint lay in which slot, under which number.

A table of one line a slot, in the engine's storage order. It follows from the snapshot's own blobs; a copy is kept on this machine
so that the next backup need not fetch them. The copy holds keyed fingerprints and numbers, no content; it is believed only if it
is, to the bit, what this repository's key holder wrote.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from blake3 import blake3

from strongroom.codecs.runs import NONE, Numbers
from strongroom.errors import Damaged
from strongroom.model import Bytes
from strongroom.snapshots.fingerprints import SHORT_BYTES, Short, Words
from strongroom.snapshots.manifest import Block, Segment, StoredCollection
from strongroom.snapshots.slots import Slots

_LINES = 1 << 16
_PIECE_BYTES = 1 << 20
_TAG_BYTES = 32
_UNFINISHED = ".unfinished-"
_FORGOTTEN_SECONDS = 2 * 86_400
Identify = Callable[[Bytes], bytes]


@dataclass(frozen=True, slots=True)
class Lines:
    """Consecutive lines of the table: each slot's row number, whether it is a live row, the row's fingerprint (lines, 2), and for
    each field the number (NONE if it has none) and the short fingerprint (lines, 3) of its vector."""

    numbers: Numbers
    live: npt.NDArray[np.bool_]
    rows: Words
    places: dict[str, Numbers]
    vectors: dict[str, Short]

    def __len__(self) -> int:
        return len(self.numbers)


class Lookup:
    """Finds short fingerprints among many: (lines, 3) with a value each. Memory: 16 bytes a line."""

    def __init__(self, prints: Short, values: Numbers) -> None:
        keys = _keys(prints)
        order = np.argsort(keys, kind="stable")
        self._keys, self._rest, self._values = keys[order], prints[order, 2], values[order]

    def find(self, prints: Short) -> Numbers:
        """The value of each fingerprint, NONE for one that isn't there."""
        found = np.full(len(prints), NONE, np.uint32)
        if not len(self._keys):
            return found
        wanted = _keys(prints)
        at = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        same = (self._keys[at] == wanted) & (self._rest[at] == prints[:, 2])
        found[same] = self._values[at[same]]
        return found


@dataclass(frozen=True, slots=True)
class RowLookup:
    """Finds the lines of rows, and gives of each line what it says: the row's number, and those of its vectors. Memory: 20 bytes
    a line, and 4 for each field."""

    lines: Lookup
    numbers: Numbers
    places: dict[str, Numbers]


class KnownRows:
    """The table of one collection of a snapshot, read piece by piece."""

    def __init__(self, collection: StoredCollection, reader: pa.RecordBatchFileReader) -> None:
        self.collection = collection
        self.slots = collection.slots
        self._reader = reader
        self._fields = [name.removeprefix("place ") for name in reader.schema.names if name.startswith("place ")]
        self._batch = functools.lru_cache(maxsize=2)(reader.get_batch)
        self.complete = (reader.schema.metadata or {}).get(b"complete") == b"1"
        """Are the rows' fingerprints there in full, or only as far as a snapshot keeps them?"""

    def lines(self, first: int, count: int) -> Lines:
        """The lines of at most `count` slots from `first` on; fewer where the table ends."""
        last = min(first + count, self.slots)
        pieces, at = [], first
        while at < last:
            batch = self._batch(at // _LINES)
            inside = at % _LINES
            taken = min(last - at, batch.num_rows - inside)
            pieces.append(batch.slice(inside, taken))
            at += taken
        return _lines_of(pieces, self._fields)

    def row_lookup(self) -> RowLookup:
        """Finds live rows anywhere."""
        prints, lines_of = [np.zeros((0, 3), np.uint32)], [np.zeros(0, np.uint32)]
        numbers, places = [np.zeros(0, np.uint32)], {name: [np.zeros(0, np.uint32)] for name in self._fields}
        for first in range(0, self.slots, _LINES):
            lines = self.lines(first, _LINES)
            prints.append(lines.rows.view(np.uint32).reshape(-1, 4)[lines.live, :3])
            lines_of.append((first + np.flatnonzero(lines.live)).astype(np.uint32))
            numbers.append(lines.numbers)
            for name in self._fields:
                places[name].append(lines.places[name])
        found = Lookup(np.concatenate(prints), np.concatenate(lines_of))
        return RowLookup(found, np.concatenate(numbers), {name: np.concatenate(those) for name, those in places.items()})

    def vector_lookup(self, field: str) -> Lookup:
        """From the short fingerprints of a field's vectors to their numbers."""
        if field not in self._fields:
            return Lookup(np.zeros((0, 3), np.uint32), np.zeros(0, np.uint32))
        return _lookup_of((self.lines(first, _LINES) for first in range(0, self.slots, _LINES)), field)


def _lookup_of(pieces: Iterable[Lines], field: str) -> Lookup:
    prints, places = [np.zeros((0, 3), np.uint32)], [np.zeros(0, np.uint32)]
    for lines in pieces:
        there = lines.places[field] != NONE
        prints.append(lines.vectors[field][there])
        places.append(lines.places[field][there])
    return Lookup(np.concatenate(prints), np.concatenate(places))


class KnownWriter:
    """Writes such a table while a backup goes on, in a file that nobody else sees, or in memory if there is no directory. If the
    file can't be written, as on a full disk, there is no table: the backup goes on without."""

    def __init__(self, directory: Path | None, fields: Sequence[str], *, complete: bool) -> None:
        self._fields = list(fields)
        self._path: Path | None = None
        self._sink: pa.NativeFile = pa.BufferOutputStream()
        if directory is not None:
            with contextlib.suppress(OSError):
                directory.mkdir(parents=True, exist_ok=True, mode=0o700)
                path = directory / f"{_UNFINISHED}{secrets.token_hex(8)}"
                path.touch(0o600)
                self._path = path
        self._schema = _schema(tuple(self._fields), complete=complete)
        self._writer: pa.RecordBatchFileWriter | None = None
        self._waiting: list[pa.RecordBatch] = []
        self._lines = 0
        self._closed = self._lost = False

    def add(self, lines: Lines) -> None:
        """The next lines."""
        if self._lost:
            return
        self._waiting.append(_batch_of(lines, self._fields, self._schema))
        self._lines += len(lines)
        while self._lines >= _LINES:
            table = pa.Table.from_batches(self._waiting).combine_chunks()
            self._write(table.slice(0, _LINES))
            if self._lost:
                return
            rest = table.slice(_LINES)
            self._waiting, self._lines = rest.to_batches(), rest.num_rows

    def _write(self, table: pa.Table) -> None:
        with self._losing():
            self._write_out(table)

    @contextlib.contextmanager
    def _losing(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            if self._path is None:
                raise
            self._lost, self._waiting, self._lines, self._writer = True, [], 0, None
            with contextlib.suppress(OSError):
                self._sink.close()
            self.discard()

    def _write_out(self, table: pa.Table) -> None:
        """The file is opened when there is much to write, so that small tables hold none open for the length of a backup."""
        if self._writer is None:
            self._sink = self._sink if self._path is None else pa.OSFile(str(self._path), "wb")
            self._writer = pa.ipc.new_file(self._sink, self._schema)
        for batch in table.combine_chunks().to_batches():
            self._writer.write_batch(batch)

    def vector_lookup(self, field: str) -> Lookup:
        """From the short fingerprints of a field's vectors to their numbers, as far as they are there. No lines follow."""
        self.close()
        if self._lost:
            return _lookup_of((), field)
        with pa.ipc.open_file(self._sink.getvalue() if self._path is None else pa.OSFile(str(self._path), "rb")) as reader:
            batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
            return _lookup_of((_lines_of([batch], self._fields) for batch in batches), field)

    def finish(self, collection: StoredCollection, identify: Identify) -> KnownRows:
        """The table, as that of this collection of a snapshot, under its name in the directory. Raises OSError if there is none."""
        self.close()
        if self._lost:
            raise OSError(f"what is known of the rows of {collection.name} couldn't be written")
        if self._path is None:
            return KnownRows(collection, pa.ipc.open_file(self._sink.getvalue()))
        name = _name_of(collection)
        with self._path.open("r+b") as file:
            size = os.fstat(file.fileno()).st_size
            tag = _tag(identify, name, file, size)
            file.seek(size)
            file.write(tag)
        self._path.replace(self._path.parent / name)
        return KnownRows(collection, pa.ipc.open_file(pa.OSFile(str(self._path.parent / name), "rb"), footer_offset=size))

    def close(self) -> None:
        """All lines are there."""
        if self._closed:
            return
        self._closed = True
        with self._losing():
            self._close()

    def _close(self) -> None:
        if self._lost:
            return
        if self._lines or self._writer is None or not self._writer.stats.num_record_batches:
            self._write_out(pa.Table.from_batches(self._waiting, self._schema))
            self._waiting, self._lines = [], 0
        assert self._writer is not None  # noqa: S101 - `_write_out` made it
        self._writer.close()
        if self._path is not None:
            self._sink.close()

    def discard(self) -> None:
        """Nothing came of it."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)


def open_known(
    collection: StoredCollection, directory: Path | None, identify: Identify, read_blob: Callable[[bytes], Bytes]
) -> KnownRows:
    """The table of a collection: from this machine's copy or, if that is lost or altered, from the snapshot. Raises Damaged."""
    return kept(collection, directory, identify) or from_snapshot(collection, read_blob, directory, identify)


def kept(collection: StoredCollection, directory: Path | None, identify: Identify) -> KnownRows | None:
    """This machine's copy of the table, None if it has none."""
    if directory is None:
        return None
    name = _name_of(collection)
    path = directory / name
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size - _TAG_BYTES
            if size < 0 or _tag(identify, name, file, size) != file.read():
                return None
            if size <= _PIECE_BYTES:  # many small tables are read at the same time
                file.seek(0)
                return KnownRows(collection, pa.ipc.open_file(pa.py_buffer(file.read(size))))
        return KnownRows(collection, pa.ipc.open_file(pa.OSFile(str(path), "rb"), footer_offset=size))
    except (OSError, ValueError, pa.ArrowException):
        return None


def from_snapshot(
    collection: StoredCollection, read_blob: Callable[[bytes], Bytes], directory: Path | None, identify: Identify
) -> KnownRows:
    """The table, made of the fingerprints that the snapshot keeps. Raises Damaged. Memory: about 50 bytes a row."""
    slots = Slots(collection, read_blob)
    fields = [field.name for field in collection.catalog.fields if field.name in collection.vectors]
    rows = _by_number(((one.start, one.rows, one.prints) for one in collection.segments), read_blob)
    vectors = {name: _by_number(((b.start, b.count, b.prints) for b in collection.vectors[name]), read_blob) for name in fields}
    dead = _dead_numbers(collection)

    def table(place: Path | None) -> KnownRows:
        writer = KnownWriter(place, fields, complete=False)
        for first in range(0, collection.slots, _LINES):
            numbers = slots.numbers(first, min(_LINES, collection.slots - first))
            places = {name: vectors[name].known(slots.places(name, numbers)) for name in fields}
            live = ~np.isin(numbers, dead)
            prints = np.zeros((len(numbers), 4), np.uint32)
            prints[:, :3] = rows.of(numbers)
            held = {name: vectors[name].of(places[name]) for name in fields}
            writer.add(Lines(numbers, live & rows.has(numbers), prints.view(np.uint64), places, held))
        return writer.finish(collection, identify)

    try:
        return table(directory)
    except OSError:  # no room on the disk
        return table(None)


def tidy(directory: Path | None, keep: StoredCollection) -> None:
    """Remove the tables of earlier snapshots of a collection, and what killed backups left; not what running ones write."""
    if directory is None:
        return
    name, now = _name_of(keep), time.time()
    with contextlib.suppress(OSError):
        for path in directory.iterdir():
            unfinished = path.name.startswith(_UNFINISHED)
            if path.name != name and (not unfinished or now - path.stat().st_mtime > _FORGOTTEN_SECONDS):
                path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class _ByNumber:
    """Short fingerprints by number."""

    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    bases: npt.NDArray[np.int64]
    prints: Short

    def has(self, numbers: Numbers) -> npt.NDArray[np.bool_]:
        if not len(self.starts):
            return np.zeros(len(numbers), np.bool_)
        at = np.searchsorted(self.starts, numbers, side="right") - 1
        there: npt.NDArray[np.bool_] = (at >= 0) & (numbers < self.ends[at])
        return there

    def known(self, numbers: Numbers) -> Numbers:
        """These numbers; NONE for one that isn't here, as of a row whose vectors are stored with its other columns."""
        return np.where(self.has(numbers), numbers, NONE)

    def of(self, numbers: Numbers) -> Short:
        result = np.zeros((len(numbers), 3), np.uint32)
        there = self.has(numbers)
        chosen = numbers[there].astype(np.int64)
        at = np.searchsorted(self.starts, chosen, side="right") - 1
        result[there] = self.prints[self.bases[at] + chosen - self.starts[at]]
        return result


def _by_number(pieces: Iterable[tuple[int, int, str]], read_blob: Callable[[bytes], Bytes]) -> _ByNumber:
    known = sorted(piece for piece in pieces if piece[2])
    prints = [read_prints(blob, count, read_blob) for _, count, blob in known]
    starts = np.array([start for start, _, _ in known], np.int64)
    counts = np.array([count for _, count, _ in known], np.int64)
    return _ByNumber(starts, starts + counts, np.cumsum(counts) - counts, np.concatenate([np.zeros((0, 3), np.uint32), *prints]))


def block_lookup(blocks: Iterable[Block], read_blob: Callable[[bytes], Bytes]) -> Lookup:
    """From the short fingerprints of blocks' vectors to their numbers. Raises Damaged."""
    known = [block for block in blocks if block.prints]
    prints = [read_prints(block.prints, block.count, read_blob) for block in known]
    numbers = [np.arange(block.start, block.start + block.count, dtype=np.uint32) for block in known]
    return Lookup(np.concatenate([np.zeros((0, 3), np.uint32), *prints]), np.concatenate([np.zeros(0, np.uint32), *numbers]))


def read_prints(blob: str, count: int, read_blob: Callable[[bytes], Bytes]) -> Short:
    """The short fingerprints in a blob, shape (count, 3). Raises Damaged."""
    content = read_blob(bytes.fromhex(blob))
    if len(content) != count * SHORT_BYTES:
        raise Damaged(f"blob {blob[:16]}", f"{len(content)} bytes are not the fingerprints of {count} rows")
    return np.frombuffer(content, np.uint32).reshape(count, 3)


def _dead_numbers(collection: StoredCollection) -> Numbers:
    dead = [(segment.start, segment.dead_slots()) for segment in collection.segments if segment.dead]
    return np.concatenate([np.zeros(0, np.uint32), *((s + np.flatnonzero(d)).astype(np.uint32) for s, d in dead if d is not None)])


def _keys(prints: Short) -> npt.NDArray[np.uint64]:
    return prints[:, 0].astype(np.uint64) << np.uint64(32) | prints[:, 1]


@functools.lru_cache(64)
def _schema(fields: tuple[str, ...], *, complete: bool) -> pa.Schema:
    columns = [pa.field("number", pa.uint32()), pa.field("live", pa.bool_()), pa.field("row", pa.binary(16))]
    for name in fields:
        columns += [pa.field(f"place {name}", pa.uint32()), pa.field(f"print {name}", pa.binary(SHORT_BYTES))]
    return pa.schema(columns, metadata={"complete": "1" if complete else "0"})


def _batch_of(lines: Lines, fields: Sequence[str], schema: pa.Schema) -> pa.RecordBatch:
    columns = [pa.array(lines.numbers), pa.array(lines.live), _binary(lines.rows, 16)]
    for name in fields:
        columns += [pa.array(lines.places[name]), _binary(lines.vectors[name], SHORT_BYTES)]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _binary(values: npt.NDArray[np.unsignedinteger], width: int) -> pa.Array:
    content = np.ascontiguousarray(values)
    return pa.Array.from_buffers(pa.binary(width), len(content), [None, pa.py_buffer(content)])


def _lines_of(batches: Sequence[pa.RecordBatch], fields: Sequence[str]) -> Lines:
    def column(name: str, dtype: type[np.generic], width: int = 0) -> npt.NDArray[Any]:
        empty = np.zeros((0, width) if width else 0, dtype)
        return np.concatenate([empty, *(_values(batch.column(name), dtype, width) for batch in batches)])

    return Lines(
        column("number", np.uint32),
        column("live", np.bool_),
        column("row", np.uint64, 2),
        {name: column(f"place {name}", np.uint32) for name in fields},
        {name: column(f"print {name}", np.uint32, 3) for name in fields},
    )


def _values(array: pa.Array, dtype: type[np.generic], width: int) -> npt.NDArray[Any]:
    if not width:
        plain: npt.NDArray[Any] = array.to_numpy(zero_copy_only=False)
        return plain
    each = array.type.byte_width
    content = np.frombuffer(array.buffers()[1], np.uint8)[array.offset * each : (array.offset + len(array)) * each]
    return content.view(dtype).reshape(-1, width)


def _name_of(collection: StoredCollection) -> str:
    """What the table follows from, as a file name."""
    said = (collection.segments, collection.vectors, collection.order, collection.slots, collection.rows_root, collection.name)
    return blake3(json.dumps(said, sort_keys=True, default=_plain).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """One at a time: of large collections that is less than a copy of them all."""
    return asdict(value) if isinstance(value, Segment | Block) else dict(value)


def _tag(identify: Identify, name: str, file: BinaryIO, size: int) -> bytes:
    """The keyed hash of the first `size` bytes of a file, a piece at a time, and of its name. Leaves the file there."""
    file.seek(0)
    pieces = (file.read(min(_PIECE_BYTES, size - start)) for start in range(0, size, _PIECE_BYTES))
    return identify(name.encode() + b"".join(map(identify, pieces)))
