"""Which rows of a snapshot has each tenant, and who may still read them?

The rows of a tenant in a collection are a **part**: segments and blocks like any collection's, numbered from 0, and a **record** of
them, all sealed with the tenant's own key. A manifest names the blobs and no more. To **open** a snapshot is to put the parts
whose keys are there into its collections, one after another.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa
import zstandard
from blake3 import blake3

from strongroom.engines.changes import column_of
from strongroom.errors import Damaged
from strongroom.model import Bytes, Role
from strongroom.repository import Repository
from strongroom.repository.erasures import erased_tenants, erasures
from strongroom.repository.tenants import TenantKey, folder_of, keys_of_all, with_key
from strongroom.snapshots.fingerprints import Fingerprinter, RowsRoot
from strongroom.snapshots.history import Snapshot
from strongroom.snapshots.manifest import Block, Manifest, Segment, StoredCollection, TenantPart

_LONGEST = 1 << 28
_READERS = 8
_HINT = (
    "'strongroom copy -r REPLICA --to REPOSITORY' brings it back from a replica; if nobody has it, 'strongroom erase --tenant' "
    "says that these rows are gone for good, and the others are restored"
)


@dataclass(frozen=True, slots=True)
class PartRecord:
    """Where a tenant's rows in a collection lie: segments, the blocks of each field's vectors, and the sums of their root."""

    segments: tuple[Segment, ...] = ()
    vectors: Mapping[str, tuple[Block, ...]] | None = None
    root: bytes = b""

    @property
    def rows(self) -> int:
        return sum(one.rows - one.dead_count() for one in self.segments)

    def blobs(self) -> tuple[str, ...]:
        """All that they need."""
        found = [blob for segment in self.segments for blob in segment.blobs()]
        found += [blob for blocks in (self.vectors or {}).values() for block in blocks for blob in block.blobs()]
        return tuple(dict.fromkeys(found))

    def end(self) -> int:
        """The first number that no row and no vector has."""
        blocks = (block for those in (self.vectors or {}).values() for block in those)
        return max((*(one.start + one.rows for one in self.segments), *(one.start + one.count for one in blocks)), default=0)


def encode(record: PartRecord) -> bytes:
    body = {
        "segments": [asdict(one) for one in record.segments],
        "vectors": {name: [asdict(one) for one in blocks] for name, blocks in (record.vectors or {}).items()},
        "root": base64.b64encode(record.root).decode(),
    }
    return zstandard.compress(json.dumps(body, sort_keys=True, separators=(",", ":")).encode(), 9)


def decode(name: str, content: Bytes) -> PartRecord:
    """The inverse of `encode`. Raises Damaged."""
    try:
        body = json.loads(zstandard.ZstdDecompressor().decompress(bytes(content), max_output_size=_LONGEST))
        vectors = {field: tuple(Block(**one) for one in blocks) for field, blocks in body["vectors"].items()}
        segments = tuple(Segment(**one) for one in body["segments"])
        return PartRecord(segments, vectors, base64.b64decode(body["root"], validate=True))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, zstandard.ZstdError) as error:
        raise Damaged(name, "it doesn't say where a tenant's rows lie") from error


def read_record(repository: Repository, key: TenantKey, part: TenantPart) -> PartRecord:
    """Raises Damaged."""
    return decode(f"blob {part.record[:16]}", key.open(repository.read_blob(bytes.fromhex(part.record))))


def parts_of(record: Manifest) -> list[TenantPart]:
    """All parts of all collections."""
    return [part for collection in record.collections for part in collection.tenants]


def without_parts(record: Manifest) -> Manifest:
    """What it says but for the rows of tenants with keys of their own."""
    return replace(record, collections=tuple(replace(one, tenants=()) for one in record.collections))


def sealed_root(parts: Iterable[TenantPart]) -> str:
    """Stands for the root of a collection in a manifest: as ids of sealed blobs do, it confirms no guess of what the rows are."""
    lines = sorted(f"{part.key}\0{part.record}\0{part.rows}" for part in parts)
    return blake3("\n".join(lines).encode()).hexdigest()


def opened(repository: Repository, snapshot: Snapshot) -> Snapshot:
    """The snapshot with the rows of all tenants that weren't erased; `Snapshot.shredded` says how many of whom are gone. A snapshot
    without tenants' keys is given back as it is. Raises Damaged if a key is missing, and no erasure says why."""
    if not parts_of(snapshot.manifest):
        return snapshot
    opening = _Opening(repository, snapshot)
    collections = tuple(opening.collection(one) for one in snapshot.manifest.collections)
    lines = "\n".join(sorted(f"{one.name}\0{one.rows_root}\0{one.count}" for one in collections))
    whole = replace(snapshot.manifest, collections=collections, root=blake3(lines.encode()).hexdigest())
    return replace(snapshot, manifest=whole, unsealing=opening.unsealing, shredded=opening.shredded)


class _Opening:
    def __init__(self, repository: Repository, snapshot: Snapshot) -> None:
        self._repository = repository
        self._snapshot = snapshot
        self._erased = erased_tenants(erasures(repository))
        wanted = {part.tenant for part in parts_of(snapshot.manifest)} - self._erased.keys()
        self._keys = keys_of_all(repository, sorted(wanted))
        self._fingerprinter = Fingerprinter(repository.keys.fingerprint)
        self.unsealing: dict[bytes, TenantKey] = {}
        self.shredded: dict[str, int] = {}

    def collection(self, stored: StoredCollection) -> StoredCollection:
        if not stored.tenant_column:
            return stored
        root = RowsRoot(self._fingerprinter)
        segments: list[Segment] = []
        vectors: dict[str, list[Block]] = {one.name: [] for one in stored.catalog.fields}
        offset = 0
        with ThreadPoolExecutor(_READERS) as pool:
            records = list(pool.map(self._record, stored.tenants))
        for part, record in zip(stored.tenants, records, strict=True):
            if record is None:
                self.shredded[part.tenant] = self.shredded.get(part.tenant, 0) + part.rows
                continue
            segments += [replace(one, start=one.start + offset) for one in record.segments]
            for name, blocks in (record.vectors or {}).items():
                vectors.setdefault(name, []).extend(replace(one, start=one.start + offset) for one in blocks)
            offset += record.end()
            _add(root, part, record)
        catalog = replace(stored.catalog, count=root.count)
        blocks_of = {name: tuple(blocks) for name, blocks in vectors.items()}
        return replace(stored, catalog=catalog, rows_root=root.digest(), segments=tuple(segments), vectors=blocks_of, tenants=())

    def _record(self, part: TenantPart) -> PartRecord | None:
        """None of a tenant who was erased: his key isn't asked for, should it be there in spite of it."""
        if part.tenant in self._erased:
            return None
        key = with_key(self._keys[part.tenant], part.key)
        if key is None:
            folder = folder_of(self._repository.keys, part.tenant)
            raise Damaged(folder, f"missing: the key of tenant {part.tenant!r}, who was not erased", hint=_HINT)
        record = read_record(self._repository, key, part)
        self.unsealing |= {bytes.fromhex(blob): key for blob in record.blobs()}
        return record


def _add(root: RowsRoot, part: TenantPart, record: PartRecord) -> None:
    before = root.count
    try:
        root.add_root(record.root)
    except (ValueError, zstandard.ZstdError) as error:
        raise Damaged(f"blob {part.record[:16]}", "the sums of a tenant's rows can't be read") from error
    if root.count - before != part.rows or record.rows != part.rows:
        raise Damaged(f"blob {part.record[:16]}", f"it is of {record.rows} rows, the manifest says {part.rows}")


def tenants_of(batch: pa.RecordBatch, column: str) -> list[str]:
    """Whose each row is, by a column or a key of the payload: '' where it says nothing. Numbers are taken as they are written."""
    payload = column_of(batch, Role.PAYLOAD)
    if column in batch.schema.names and column != payload:
        values = batch.column(column).to_pylist()
    elif payload is not None:
        bodies = (json.loads(text) if text else None for text in batch.column(payload).to_pylist())
        values = [body.get(column) if isinstance(body, dict) else None for body in bodies]
    else:
        values = [None] * batch.num_rows
    return [_name_of(value) for value in values]


def _name_of(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str | int) and not isinstance(value, bool):
        return str(value)
    return json.dumps(value, sort_keys=True, default=str)
