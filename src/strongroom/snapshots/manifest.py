"""What a snapshot consists of: the manifest, and how it is written as JSON. Pure.

The field names of these classes are the names in the JSON; blob ids are 64 hex digits. docs/FORMAT.md specifies each of them.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import zstandard
from blake3 import blake3
from pyroaring import BitMap

from strongroom.errors import Damaged
from strongroom.model import Collection, Description, Field, Json, LedgerItem, Lineage, Position, Status

FORMAT = 2
WITH_TENANTS = 3
"""The format of a manifest some rows of which are under keys of their tenants: who doesn't know of these must not read it."""
_LONGEST = 1 << 30
_NEEDED = ("length", "kind", "blob")
_BLOB_ID = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Segment:
    """An immutable block of `rows` rows, numbered from `start`: one blob for all columns that aren't vectors (Arrow IPC), and one
    of the rows' fingerprints ('' if there is none).

    `vectors` maps a vector column to a blob of runs that say which vector each row has; a column that it doesn't name, and that
    isn't in `rest`, has the vectors of the rows' own numbers. `dead` is the deletion vector: the slots that are rows no longer, as
    a Roaring bitmap in base64; '' if there are none.
    """

    start: int
    rows: int
    rest: str
    prints: str = ""
    vectors: Mapping[str, str] = field(default_factory=dict)
    dead: str = ""

    def dead_slots(self) -> npt.NDArray[np.bool_] | None:
        """None if every slot is live. Raises Damaged if it names slots that aren't there."""
        if not self.dead:
            return None
        try:
            slots = np.frombuffer(BitMap.deserialize(base64.b64decode(self.dead, validate=True)).to_array(), np.uint32)
        except ValueError as error:
            raise Damaged(f"segment {self.rest[:16]}", "its deletion vector can't be read") from error
        if len(slots) and int(slots[-1]) >= self.rows:
            raise Damaged(f"segment {self.rest[:16]}", f"its deletion vector isn't one of {self.rows} rows")
        dead = np.zeros(self.rows, np.bool_)
        dead[slots] = True
        return dead

    def dead_count(self) -> int:
        """How many slots are dead. Raises Damaged."""
        dead = self.dead_slots()
        return 0 if dead is None else int(dead.sum())

    def blobs(self) -> Iterator[str]:
        yield self.rest
        if self.prints:
            yield self.prints
        yield from self.vectors.values()


def pack_dead(dead: npt.NDArray[np.bool_] | None) -> str:
    """The deletion vector as `Segment.dead` holds it."""
    if dead is None or not dead.any():
        return ""
    slots = BitMap(np.flatnonzero(dead).astype(np.uint32))
    slots.run_optimize()
    return base64.b64encode(slots.serialize()).decode()


@dataclass(frozen=True, slots=True)
class Block:
    """`count` vectors of one field, numbered from `start`, one after another in `blob`; their fingerprints in `prints`. `used` of
    them belong to a row or a file of this snapshot."""

    start: int
    count: int
    blob: str
    prints: str = ""
    used: int = 0

    def blobs(self) -> Iterator[str]:
        yield self.blob
        if self.prints:
            yield self.prints


@dataclass(frozen=True, slots=True)
class Vectors:
    """`count` vectors of a field of a collection, as an artifact refers to them: those of the storage order's slots from `first` on
    if `by` is 'slots', those numbered from `first` on if it is 'numbers', or those of the numbers in `places`, a blob of runs."""

    collection: str
    field: str
    count: int
    by: str
    first: int = 0
    places: str = ""

    def blobs(self) -> Iterator[str]:
        if self.places:
            yield self.places


@dataclass(frozen=True, slots=True)
class Part:
    """`length` bytes of an artifact: those of `blob`.

    If `stride` is not 0, records of that length, each with a vector at `vector_offset`: the vectors are `vectors` (or those of
    `blob`), what else the records hold is `rest`. If there are `sources` or `ranges`, the blob is a recipe that copies from them
    (`codecs.copies`). If there are `differences`, `rest` (or `blob` where there are no records) is XORed with each of them.
    `key` is that of the region, `check` the keyed hash by which a part made of several blobs is proven (`check_of`).
    """

    length: int
    kind: str
    blob: str
    stride: int = 0
    vector_offset: int = 0
    vector_length: int = 0
    rest: str = ""
    sources: tuple[str, ...] = ()
    check: str = ""
    key: str = ""
    differences: tuple[str, ...] = ()
    vectors: Vectors | None = None
    ranges: tuple[Vectors, ...] = ()

    def blobs(self) -> Iterator[str]:
        if self.blob:
            yield self.blob
        if self.rest:
            yield self.rest
        yield from self.sources
        yield from self.differences
        for one in (self.vectors, *self.ranges):
            if one is not None:
                yield from one.blobs()


@dataclass(frozen=True, slots=True)
class StoredArtifact:
    """A file of the index plane: the concatenation of its parts. `cut` says by what it was cut (`model.Cut`), '' if nobody said."""

    path: str
    size: int
    collection: str | None
    immutable: bool
    parts: tuple[Part, ...]
    cut: str = ""

    def blobs(self) -> Iterator[str]:
        for part in self.parts:
            yield from part.blobs()


@dataclass(frozen=True, slots=True)
class ProbeSet:
    """Sealed queries of one vector field with their answers, in `blob`. `live` says whether the engine's own answers are in it,
    `repeatable` whether the engine gives the same ones each time that it opens the same files."""

    field: str
    k: int
    count: int
    blob: str
    live: bool
    repeatable: bool = True
    recall: float | None = None


@dataclass(frozen=True, slots=True)
class TenantPart:
    """The `rows` rows of one tenant in a collection ('' is nobody's). `record` is a blob that says where they lie, and is sealed,
    as all of `blobs` are, with the tenant's key of the id `key` (snapshots/tenant_parts.py)."""

    tenant: str
    rows: int
    key: str
    record: str
    blobs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StoredCollection:
    """A collection as captured: catalog, schema of its rows (Arrow IPC, base64), segments, root and probes.

    `vectors` are the stored vectors of each field. `order` says which row lies in each of the `slots` of the engine's own storage
    order: blobs of runs, each of which replaces some of the ones before; to begin with, slot i has row number i. `found_by` says
    how the backup knew what had changed (`model.FoundBy`), '' if nobody said, and `slots_read` how many slots it read for that.
    `latency` are the seconds that the live index took for one query of a field's probes: 'p50', 'p95' and 'queries', how many there
    were; a field that it doesn't name was not measured. If `tenant_column` is not '', that column or key of the payload says whose
    a row is, and rows are in `tenants` alone.
    """

    catalog: Collection
    schema: str
    rows_root: str
    segments: tuple[Segment, ...]
    probes: tuple[ProbeSet, ...]
    vectors: Mapping[str, tuple[Block, ...]] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    slots: int = 0
    found_by: str = ""
    slots_read: int = 0
    latency: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    tenant_column: str = ""
    tenants: tuple[TenantPart, ...] = ()

    @property
    def name(self) -> str:
        return self.catalog.name

    @property
    def count(self) -> int:
        return self.catalog.count

    def arrow_schema(self) -> pa.Schema:
        """The schema of its rows. Raises Damaged."""
        try:
            return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(self.schema, validate=True)))
        except (ValueError, OSError, pa.ArrowException) as error:
            raise Damaged(f"collection {self.name}", "its schema can't be read") from error

    def blobs(self) -> Iterator[str]:
        for segment in self.segments:
            yield from segment.blobs()
        for blocks in self.vectors.values():
            for block in blocks:
                yield from block.blobs()
        yield from self.order
        for probe in self.probes:
            yield probe.blob
        for part in self.tenants:
            yield part.record
            yield from part.blobs


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything about one snapshot. `parents` are the snapshots that were the newest ones when this was made: a snapshot that
    another one names and that isn't there was removed. `rows_plane` is 'segments' or 'artifacts' (DESIGN, incremental by row).
    `processor` is the kind that computed the live answers, '' if nobody said."""

    created: str
    source: str
    host: str
    engine: str
    engine_version: str
    strongroom_version: str
    position: Position
    rows_plane: str
    root: str
    parents: tuple[str, ...]
    tags: Mapping[str, str]
    catalog: Mapping[str, Json]
    collections: tuple[StoredCollection, ...]
    artifacts: tuple[StoredArtifact, ...]
    ledger: tuple[LedgerItem, ...]
    source_bytes: int
    stored_bytes: int
    seconds: Mapping[str, float] = field(default_factory=dict)
    processor: str = ""

    @property
    def rows(self) -> int:
        return sum(collection.count for collection in self.collections)

    def description(self) -> Description:
        """The catalog plane, as the engine described it."""
        collections = tuple(stored.catalog for stored in self.collections)
        return Description(self.engine, self.engine_version, collections, self.catalog, self.ledger)

    def blobs(self) -> Iterator[str]:
        """Every blob that the snapshot needs, some of them more than once."""
        for collection in self.collections:
            yield from collection.blobs()
        for artifact in self.artifacts:
            yield from artifact.blobs()


def encode(manifest: Manifest) -> bytes:
    """JSON, compressed by zstandard."""
    text = bytearray()
    for piece in _pieces(manifest):
        text += piece.encode()
    return zstandard.compress(text, 9)


def _pieces(manifest: Manifest) -> Iterator[str]:
    """The text of a manifest, one collection and one file after another: as dictionaries, 10,000 take many times as much memory."""
    kept_apart = any(collection.tenant_column for collection in manifest.collections)
    body = dataclasses.asdict(dataclasses.replace(manifest, collections=(), artifacts=()))
    body["strongroom_manifest"] = WITH_TENANTS if kept_apart else FORMAT
    listed = {"collections": map(_body_of, manifest.collections), "artifacts": map(_file_body_of, manifest.artifacts)}
    for place, name in enumerate(sorted(body)):
        yield f"{',' if place else '{'}{_json(name)}:"
        if name not in listed:
            yield _json(body[name])
            continue
        for number, one in enumerate(listed[name]):
            yield f"{',' if number else '['}{_json(one)}"
        yield "]" if getattr(manifest, name) else "[]"
    yield "}"


def _json(value: Json) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _body_of(collection: StoredCollection) -> dict[str, Json]:
    body = dataclasses.asdict(collection)
    if not collection.tenant_column:
        del body["tenant_column"], body["tenants"]
    return body


def _file_body_of(artifact: StoredArtifact) -> dict[str, Json]:
    body = dataclasses.asdict(artifact)
    body["parts"] = [{name: value for name, value in part.items() if value or name in _NEEDED} for part in body["parts"]]
    return body


def decode(name: str, content: bytes) -> Manifest:
    """The inverse of `encode`. Raises Damaged if it is no manifest of this format."""
    try:
        if zstandard.frame_content_size(content) > _LONGEST:
            raise Damaged(name, "it claims to be longer than any manifest")
        body = json.loads(zstandard.ZstdDecompressor().decompress(content, max_output_size=_LONGEST))
        version = body.pop("strongroom_manifest")
        if version not in (1, FORMAT, WITH_TENANTS):
            raise Damaged(name, "a newer Strongroom wrote this manifest", hint="use a newer Strongroom")
        record = _manifest(_from_first_format(body) if version == 1 else body)
        parts = [part for artifact in record.artifacts for part in artifact.parts]
        if not all(_BLOB_ID.fullmatch(blob) for blob in record.blobs()) or not all(part.blob or part.vectors for part in parts):
            raise Damaged(name, "it names blobs that can't be")
        return record
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, zstandard.ZstdError) as error:
        raise Damaged(name, "it is not a manifest") from error


def _manifest(body: dict[str, Any]) -> Manifest:
    body["position"] = Position(**body["position"])
    body["parents"] = tuple(body["parents"])
    body["collections"] = tuple(_collection(item) for item in body["collections"])
    body["artifacts"] = tuple(_artifact(item) for item in body["artifacts"])
    body["ledger"] = tuple(LedgerItem(item["item"], Status(item["status"]), item["note"]) for item in body["ledger"])
    return Manifest(**body)


def _collection(body: dict[str, Any]) -> StoredCollection:
    catalog = body["catalog"]
    catalog["fields"] = tuple(Field(**item) for item in catalog["fields"])
    catalog["lineage"] = Lineage(**catalog["lineage"])
    return StoredCollection(
        catalog=Collection(**catalog),
        schema=body["schema"],
        rows_root=body["rows_root"],
        segments=tuple(Segment(**item) for item in body["segments"]),
        probes=tuple(ProbeSet(**item) for item in body["probes"]),
        vectors={name: tuple(Block(**item) for item in blocks) for name, blocks in body["vectors"].items()},
        order=tuple(body["order"]),
        slots=body["slots"],
        found_by=body.get("found_by", ""),
        slots_read=body.get("slots_read", 0),
        latency=body.get("latency", {}),
        tenant_column=body.get("tenant_column", ""),
        tenants=tuple(TenantPart(**{**one, "blobs": tuple(one["blobs"])}) for one in body.get("tenants", ())),
    )


def _artifact(body: dict[str, Any]) -> StoredArtifact:
    body["parts"] = tuple(_part(item) for item in body["parts"])
    return StoredArtifact(**body)


def _part(item: dict[str, Any]) -> Part:
    for name in ("sources", "differences"):
        item[name] = tuple(item.get(name, ()))
    item["vectors"] = Vectors(**item["vectors"]) if item.get("vectors") else None
    item["ranges"] = tuple(Vectors(**one) for one in item.get("ranges", ()))
    return Part(**item)


def _from_first_format(body: dict[str, Any]) -> dict[str, Any]:
    """A manifest of format 1 in the words of this one: there each segment has blobs of its own vectors, and a bit a slot."""
    for collection in body["collections"]:
        start, vectors = 0, dict[str, list[dict[str, Any]]]()
        for segment in collection["segments"]:
            rows = segment["rows"]
            for name, blob in segment.pop("vectors").items():
                vectors.setdefault(name, []).append({"start": start, "count": rows, "blob": blob})
            segment.update(start=start, dead=_dead_of_bits(segment["rest"], segment.get("dead", ""), rows))
            start += rows
        collection.update(vectors=vectors, order=[], slots=start)
    return body


def _dead_of_bits(name: str, dead: str, rows: int) -> str:
    bits = np.frombuffer(base64.b64decode(dead, validate=True), np.uint8)
    if dead and len(bits) != (rows + 7) // 8:
        raise Damaged(f"segment {name[:16]}", f"its deletion vector isn't one of {rows} rows")
    return pack_dead(np.unpackbits(bits, count=rows, bitorder="little").astype(np.bool_)) if dead else ""


def encode_schema(schema: pa.Schema) -> str:
    return base64.b64encode(schema.serialize().to_pybytes()).decode()


def root_of(collections: Sequence[StoredCollection]) -> str:
    """The root over all collections: BLAKE3 of their names and roots, in order of name."""
    lines = sorted(f"{collection.name}\0{collection.rows_root}\0{collection.count}" for collection in collections)
    return blake3("\n".join(lines).encode()).hexdigest()
