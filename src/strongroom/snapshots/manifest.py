"""What a snapshot consists of: the manifest, and how it is written as JSON. Pure.

The field names of these classes are the names in the JSON; blob ids are 64 hex digits. docs/FORMAT.md specifies each of them.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import zstandard

from strongroom.errors import Damaged
from strongroom.model import Collection, Description, Field, Json, LedgerItem, Lineage, Position, Status

FORMAT = 1
_LONGEST = 1 << 30
_BLOB_ID = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Segment:
    """An immutable block of `rows` row slots: one blob for each vector column and one for all other columns (Arrow IPC).

    `dead` is the deletion vector, one bit a slot (least significant first), base64; '' if no slot is dead.
    """

    rows: int
    vectors: Mapping[str, str]
    rest: str
    dead: str = ""

    def dead_slots(self) -> npt.NDArray[np.bool_] | None:
        """None if every slot is live. Raises Damaged if there isn't one bit a slot."""
        if not self.dead:
            return None
        try:
            bits = np.frombuffer(base64.b64decode(self.dead, validate=True), np.uint8)
        except ValueError:
            bits = np.zeros(0, np.uint8)
        if len(bits) != (self.rows + 7) // 8:
            raise Damaged(f"segment {self.rest[:16]}", f"its deletion vector isn't one of {self.rows} rows")
        return np.unpackbits(bits, count=self.rows, bitorder="little").astype(np.bool_)

    def dead_count(self) -> int:
        """How many slots are dead. Raises Damaged."""
        dead = self.dead_slots()
        return 0 if dead is None else int(dead.sum())

    def blobs(self) -> Iterator[str]:
        yield from self.vectors.values()
        yield self.rest


def pack_dead(dead: npt.NDArray[np.bool_] | None) -> str:
    """The deletion vector as `Segment.dead` holds it."""
    if dead is None or not dead.any():
        return ""
    return base64.b64encode(np.packbits(dead, bitorder="little").tobytes()).decode()


@dataclass(frozen=True, slots=True)
class Part:
    """`length` bytes of an artifact: those of `blob`; or, if `stride` is not 0, records whose vectors are `blob`'s bytes and whose
    remaining bytes are those of `rest`; or, if there are `sources`, what the recipe in `blob` makes of them (`codecs.copies`), with
    the keyed hash `check`."""

    length: int
    kind: str
    blob: str
    stride: int = 0
    vector_offset: int = 0
    vector_length: int = 0
    rest: str = ""
    sources: tuple[str, ...] = ()
    check: str = ""

    def blobs(self) -> Iterator[str]:
        yield self.blob
        if self.rest:
            yield self.rest
        yield from self.sources


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
class StoredCollection:
    """A collection as captured: catalog, schema of its rows (Arrow IPC, base64), segments, root and probes."""

    catalog: Collection
    schema: str
    rows_root: str
    segments: tuple[Segment, ...]
    probes: tuple[ProbeSet, ...]

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
        for probe in self.probes:
            yield probe.blob


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
    body = {"strongroom_manifest": FORMAT, **dataclasses.asdict(manifest)}
    return zstandard.compress(json.dumps(body, sort_keys=True, separators=(",", ":")).encode(), 9)


def decode(name: str, content: bytes) -> Manifest:
    """The inverse of `encode`. Raises Damaged if it is no manifest of this format."""
    try:
        if zstandard.frame_content_size(content) > _LONGEST:
            raise Damaged(name, "it claims to be longer than any manifest")
        body = json.loads(zstandard.ZstdDecompressor().decompress(content, max_output_size=_LONGEST))
        if body.pop("strongroom_manifest") != FORMAT:
            raise Damaged(name, "a newer Strongroom wrote this manifest", hint="use a newer Strongroom")
        record = _manifest(body)
        if not all(_BLOB_ID.fullmatch(blob) for blob in record.blobs()):
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
    )


def _artifact(body: dict[str, Any]) -> StoredArtifact:
    body["parts"] = tuple(Part(**{**item, "sources": tuple(item.get("sources", ()))}) for item in body["parts"])
    return StoredArtifact(**body)


def encode_schema(schema: pa.Schema) -> str:
    return base64.b64encode(schema.serialize().to_pybytes()).decode()
