"""How is a database read at one moment? From the RDB that its server writes for a replica: the state at one offset of its stream.

Keys are then sorted by what they belong to: to indexes over hashes and JSON documents, to vector sets, to nothing. Definitions of
indexes lie in that RDB in a form of RediSearch's own, so they are asked for just after it came: as every change of a definition is
in the stream too, they are those of the moment if the stream has none up to when they were read.
"""

from __future__ import annotations

import json
import mmap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from blake3 import blake3

from strongroom.engines.protocol import BLOCK_BYTES
from strongroom.engines.redis import keyfile, rdb
from strongroom.engines.redis.definitions import HASH, Definition, Definitions, read_definitions
from strongroom.engines.redis.keyfile import Block, KeyFile, Record
from strongroom.engines.redis.names import Names, raw_of, text_of
from strongroom.engines.redis.replica import Replica
from strongroom.engines.redis.rows import VECTOR, blocks_of, vector_set_collection
from strongroom.engines.redis.server import Address, client_of, offset_of, speaking
from strongroom.engines.redis.values import JSON, VECTOR_SET, hash_of, is_hash, module_of, vector_set_of
from strongroom.errors import Refused, SourceChanged
from strongroom.model import Collection

CATALOG = "catalog.json"
PLAIN_KEYS = "keys/others.keys"
_ATTEMPTS = 5
_PLAIN_ROWS = 4096
_LONGEST = 180
"""Characters of a name that stand in that of a file."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A database as it was at `offset` of the stream `log`. `vector_sets` are the keys of the collections that are one; `elsewhere`
    counts the keys of other databases, by number."""

    version: str
    log: str
    offset: int
    definitions: Definitions
    collections: tuple[Collection, ...]
    files: tuple[KeyFile, ...]
    vector_sets: Mapping[str, bytes]
    plain: int
    expiring: int
    elsewhere: Mapping[int, int]


def capture(address: Address, names: Names, directory: Path) -> Moment:
    """Raises Refused, Unreachable, Unreadable, SourceChanged."""
    client = client_of(address)
    try:
        with speaking(address):
            version = _usable(address, client)
        for _ in range(_ATTEMPTS):
            replica = Replica(address)
            try:
                moment = _attempt(address, names, directory, client, replica, version)
            finally:
                replica.close()
            if moment is not None:
                return moment
        raise SourceChanged(f"{address.url}: its indexes are changed all the time")
    finally:
        client.close()


def _attempt(address: Address, names: Names, directory: Path, client: Any, replica: Replica, version: str) -> Moment | None:
    """None if an index was changed between the moment and when the definitions were read."""
    path = directory / "moment.rdb"
    with path.open("wb") as state:
        replica.begin(state)
    log, offset = replica.log, replica.offset
    with speaking(address):
        definitions = read_definitions(client, names) if not address.database else Definitions()
        until = offset_of(client, replica.log)
    if any(command[0].upper().startswith((b"FT.", b"_FT.")) for _, command in replica.through(until)):
        return None
    replica.close()
    return _Sorted(address.database, names, definitions, path).moment(version, log, offset, directory)


def _usable(address: Address, client: Any) -> str:
    """The server's version. Raises Refused for a cluster's node."""
    info = client.info("server")
    if info.get("redis_mode") == "cluster":
        raise Refused(f"{address.url} is a node of a cluster, which holds a part of the keys", hint="a cluster isn't supported yet")
    return str(info["redis_version"])


class _Sorted:
    """The keys of an RDB by what they belong to."""

    def __init__(self, database: int, names: Names, definitions: Definitions, path: Path) -> None:
        self._names, self._definitions, self._path = names, definitions, path
        self._of: dict[str, list[rdb.Entry]] = {one.name: [] for one in definitions.indexes if one.followed}
        self._vector_sets: dict[str, rdb.Entry] = {}
        self._plain: list[rdb.Entry] = []
        self._noted: dict[bytes, int] = {}
        self._elsewhere: Counter[int] = Counter()
        with path.open("rb") as file:
            self._buffer: mmap.mmap = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._version = rdb.version_of(self._buffer[:9])
        for entry in rdb.entries(memoryview(self._buffer)):
            if entry.database != database:
                self._elsewhere[entry.database] += 1
            elif entry.key == names.expiry:
                self._noted = {key: int(value) for key, value in hash_of(self._value(entry)).items()}
            elif names.is_key(entry.key):
                self._sort(entry)

    def _sort(self, entry: rdb.Entry) -> None:
        kind = "" if entry.kind != rdb.MODULE else module_of(self._value(entry, 16))
        if kind == VECTOR_SET:
            self._vector_sets[text_of(self._key(entry))] = entry
            return
        of = HASH if is_hash(entry.kind) else "json" if kind == JSON else ""
        covering = [one for one in self._definitions.indexes if one.followed and one.kind == of and one.covers(self._key(entry))]
        for one in covering:
            self._of[one.name].append(entry)
        if not covering:
            self._plain.append(entry)

    def _key(self, entry: rdb.Entry) -> bytes:
        return entry.key.removeprefix(self._names.keys)

    def _value(self, entry: rdb.Entry, most: int | None = None) -> bytes:
        end = entry.end if most is None else min(entry.end, entry.start + most)
        return bytes([entry.kind]) + self._buffer[entry.start : end]

    def _record(self, entry: rdb.Entry) -> Record:
        key = self._key(entry)
        expires = entry.expires if entry.expires >= 0 else self._noted.get(key, -1)
        return Record(key, expires, self._value(entry))

    def _records(self, entries: Sequence[rdb.Entry]) -> Iterator[Record]:
        return (self._record(entry) for entry in sorted(entries, key=lambda entry: entry.key))

    def moment(self, version: str, log: str, offset: int, directory: Path) -> Moment:
        """Write the files; the RDB is gone then."""
        collections, files = [], []
        for one in self._definitions.indexes:
            if one.followed:
                collections.append(one.collection(len(self._of[one.name])))
                files.append(self._index_file(one, directory))
        for name, entry in sorted(self._vector_sets.items()):
            name = _free(name, {one.name for one in collections})
            collections.append(vector_set_collection(name, vector_set_of(self._value(entry))))
            path = f"sets/{_file_name(name)}.keys"
            files.append(self._write(directory, path, name, [Block([self._record(entry)])], [(VECTOR, "float32")]))
        others = self._records(self._plain)
        files.append(self._write(directory, PLAIN_KEYS, None, _plain_blocks(others)))
        files.insert(0, self._catalog(directory, collections, files))
        everything = [*self._plain, *self._vector_sets.values(), *(entry for of in self._of.values() for entry in of)]
        expiring = sum(entry.expires >= 0 for entry in everything)
        self._buffer.close()
        self._path.unlink()
        sets = {_free(name, {one.name for one in self._definitions.indexes}): raw_of(name) for name in self._vector_sets}
        return Moment(
            version, log, offset, self._definitions, tuple(collections), tuple(files), sets, len(self._plain), expiring,
            dict(self._elsewhere),
        )  # fmt: skip

    def _index_file(self, one: Definition, directory: Path) -> KeyFile:
        columns = [(field.name, field.dtype) for field in one.vectors]
        blocks = blocks_of(self._records(self._of[one.name]), one)
        return self._write(directory, f"indexes/{_file_name(one.name)}.keys", one.name, blocks, columns)

    def _write(
        self,
        directory: Path,
        path: str,
        collection: str | None,
        blocks: Iterable[Block],
        columns: Sequence[tuple[str, str]] = (),
    ) -> KeyFile:
        file = directory / path
        file.parent.mkdir(exist_ok=True)
        return keyfile.write(file, path, collection, self._version, blocks, columns)

    def _catalog(self, directory: Path, collections: Sequence[Collection], files: Sequence[KeyFile]) -> KeyFile:
        """What a restore needs to know beside the keys."""
        others = [asdict(one) for one in self._definitions.indexes if not one.followed]
        of = {file.path: file.collection for file in files}
        kept = {one.name: dict(one.catalog) for one in collections}
        content = json.dumps({"files": of, "collections": kept, "other_indexes": others}, sort_keys=True).encode()
        file = directory / CATALOG
        file.write_bytes(content)
        return keyfile.plain_file(file, CATALOG)


def _file_name(name: str) -> str:
    """What a file is called: a key may be longer than file systems have names."""
    quoted = quote(name, safe="")
    return quoted if len(quoted) <= _LONGEST else f"{quoted[:_LONGEST]}~{blake3(name.encode()).hexdigest(16)}"


def _free(name: str, taken: Iterable[str]) -> str:
    """A key may be called as an index is."""
    return f"key {name}" if name in taken else name


def _plain_blocks(records: Iterable[Record]) -> Iterator[Block]:
    some: list[Record] = []
    size = 0
    for record in records:
        some.append(record)
        size += len(record.value)
        if len(some) == _PLAIN_ROWS or size >= BLOCK_BYTES:
            yield Block(some)
            some, size = [], 0
    if some:
        yield Block(some)
