"""What of earlier snapshots may a new one rely on? The newest of the same source for its rows and files, others for their vectors.

It relies on nothing that isn't there: what the store has lost, or what is known to be damaged, counts as never stored.
"""

from __future__ import annotations

import importlib.metadata
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path

from blake3 import blake3

from strongroom.engines.protocol import Frozen, Source
from strongroom.errors import Damaged
from strongroom.model import Collection, Lineage, Status
from strongroom.operations.machine.processor import processor
from strongroom.repository import BlobWriter, Repository
from strongroom.repository.state import state_directory
from strongroom.snapshots import history
from strongroom.snapshots.artifacts import Before
from strongroom.snapshots.history import Headline, Snapshot
from strongroom.snapshots.known import KnownRows, open_known
from strongroom.snapshots.manifest import Manifest, Part, StoredArtifact, StoredCollection
from strongroom.snapshots.parts import same_bytes
from strongroom.snapshots.rows_writer import HIGHEST, following
from strongroom.snapshots.seeds import Seeds, seeds_of

VERSION = importlib.metadata.version("strongroom")
"""The release that makes snapshots here."""

_PARTLY = (": rows", ": live answers")
"""How the items of a ledger end that say that something couldn't be read this time."""

MOST_SOURCES = 32
"""So many other sources, those of the newest snapshots, are asked for vectors that a new one has too."""


@dataclass
class Predecessor:
    """The newest snapshot of a source, if there is one, and the headlines of all."""

    repository: Repository
    writer: BlobWriter
    source: str
    snapshot: Snapshot | None
    known: Sequence[Headline] = ()
    _there: dict[str, bool] = field(default_factory=dict)

    def has(self, blob: str) -> bool:
        """Is the blob really there?"""
        if blob not in self._there:
            self._there[blob] = self.writer.has(bytes.fromhex(blob))
        return self._there[blob]

    def unread(self, source: Source, engine_version: str, model: str | None) -> Manifest | None:
        """What the snapshot before says, if the source is as it was then, by what can be told without freezing it; else None."""
        record = self._usable(engine_version)
        if record is None or any(item.status is Status.NOT_CAPTURED and item.item.endswith(_PARTLY) for item in record.ledger):
            return None
        for one in record.collections:
            said = one.catalog.lineage.origin == "user"
            if said != (model is not None) or said_lineage(one.catalog.lineage, model) != one.catalog.lineage:
                return None
        return record if source.unchanged_since(record.position, _started(record)) else None

    def still(self, frozen: Frozen, model: str | None) -> Manifest | None:
        """The same, by a frozen moment: its catalog and ledger, and what the engine says of its rows and files."""
        description = frozen.description
        record = self._usable(description.engine_version)
        if record is None or record.ledger != tuple(description.ledger) or record.catalog != description.catalog:
            return None
        said = [replace(one, lineage=said_lineage(one.lineage, model)) for one in description.collections]
        same = [one.catalog for one in record.collections] == said
        return record if same and frozen.unchanged_since(record.position, _started(record)) else None

    def _usable(self, engine_version: str) -> Manifest | None:
        """The manifest before, if the same programs on the same machine would write it, and all that it relies on is there."""
        record = self.comparable(engine_version)
        if record is None or not record.rows or not all(map(_is_probed, record.collections)):
            return None
        return record if all(map(self.has, record.blobs())) else None

    def comparable(self, engine_version: str) -> Manifest | None:
        """The manifest before, if the same programs on the same machine wrote it."""
        record = self.snapshot.manifest if self.snapshot else None
        if record is None or record.host != socket.gethostname() or record.processor != processor():
            return None
        return record if self.made_alike(engine_version) else None

    def still_stored(self, collection: Collection, model: str | None) -> StoredCollection | None:
        """What the snapshot before says of a collection, if it was described like this, all of it was read, and all is there."""
        then = self.collection(collection.name)
        if then is None or then.catalog != replace(collection, lineage=said_lineage(collection.lineage, model)):
            return None
        whole = _is_probed(then) and f"{collection.name}{_PARTLY[0]}" not in self._not_captured
        return then if whole and all(map(self.has, then.blobs())) else None

    def collection(self, name: str) -> StoredCollection | None:
        """The collection of that name in the snapshot before."""
        return self._collections.get(name)

    @cached_property
    def _collections(self) -> dict[str, StoredCollection]:
        return {one.name: one for one in self.snapshot.manifest.collections} if self.snapshot else {}

    @cached_property
    def _artifacts(self) -> dict[str, StoredArtifact]:
        return {one.path: one for one in self.snapshot.manifest.artifacts} if self.snapshot else {}

    @cached_property
    def _not_captured(self) -> frozenset[str]:
        items = self.snapshot.manifest.ledger if self.snapshot else ()
        return frozenset(one.item for one in items if one.status is Status.NOT_CAPTURED)

    @cached_property
    def _elsewhere(self) -> Sequence[StoredCollection]:
        """The collections of the newest snapshots of other sources."""
        sources = dict.fromkeys(one.source for one in reversed(self.known) if one.source != self.source)
        newest = [history.newest_of(self.repository, self.known, source) for source in list(sources)[:MOST_SOURCES]]
        return [one for snapshot in newest if snapshot for one in snapshot.manifest.collections]

    def made_alike(self, engine_version: str) -> bool:
        """Another release of the engine, or of Strongroom, might see other columns in the same files."""
        record = self.snapshot.manifest if self.snapshot else None
        return record is not None and (record.engine_version, record.strongroom_version) == (engine_version, VERSION)

    def rows(self, collection: Collection, schema: str, rows_plane: str) -> KnownRows | None:
        """What is known of the collection's rows; None if they can't be told apart from the new ones or not be relied on."""
        before = self.collection(collection.name)
        if before is None or self.snapshot is None or not before.slots or following(before) > HIGHEST:
            return None
        if before.schema != schema or self.snapshot.manifest.rows_plane != rows_plane or not _same_fields(before, collection):
            return None
        if not any(all(map(self.has, segment.blobs())) for segment in before.segments):
            return None  # all of it is lost: stored as the first time, it heals the snapshots of then too
        mapped = (blob for segment in before.segments for blob in segment.vectors.values())
        if not all(segment.prints for segment in before.segments) or not all(map(self.has, (*before.order, *mapped))):
            return None
        try:
            return open_known(before, self.cache(collection.name), self.repository.keys.identify, self.repository.read_blob)
        except Damaged:  # what it would be compared with is lost: then all of it is new
            return None

    def seeds(self, collection: Collection, *, known: bool) -> Seeds:
        """The vectors of other collections that this one may use; none if its own of before are known, or nothing can be read."""
        if known or not self.repository.reads:
            return Seeds()
        before = self.collection(collection.name)
        return seeds_of(collection.fields, [*([before] if before else []), *self._elsewhere], self.has, self.repository.read_blob)

    def file(self, path: str) -> Before:
        """The parts of a file in the snapshot before that are still there."""
        found = self._artifacts.get(path)
        if found is None:
            return Before()
        parts = {part.key: part for part in found.parts if part.key and self._is_there(part)}
        return Before(parts, self.repository.read_blob)

    def immutable(self, path: str, size: int) -> StoredArtifact | None:
        """A file that the engine never changes, if all of it is still there."""
        found = self.whole_file(path, size)
        return found if found is not None and found.immutable else None

    def has_bytes(self, artifact: StoredArtifact) -> bool:
        """Had the file the same bytes at the snapshot before?"""
        found = self._artifacts.get(artifact.path)
        return found is not None and same_bytes(found, artifact)

    def whole_file(self, path: str, size: int) -> StoredArtifact | None:
        """A file as it was, if it had this size and all of it is still there."""
        found = self._artifacts.get(path)
        return found if found is not None and found.size == size and all(map(self.has, found.blobs())) else None

    def cache(self, collection: str) -> Path:
        """Where this machine keeps what it knows of a collection's rows."""
        return cache_of(self.repository, self.source, collection)

    def _is_there(self, part: Part) -> bool:
        return all(map(self.has, part.blobs()))


def predecessor_of(repository: Repository, writer: BlobWriter, source: str, engine: str, known: Sequence[Headline]) -> Predecessor:
    """What a backup of `source` may rely on. `known` are the headlines of all readable snapshots, oldest first."""
    newest = history.newest_of(repository, known, source)
    same = newest is not None and newest.manifest.engine == engine
    return Predecessor(repository, writer, source, newest if same else None, known)


def _is_probed(stored: StoredCollection) -> bool:
    """Is every vector field of a collection with rows probed, with the engine's own answers?"""
    return (not stored.count or len(stored.probes) == len(stored.catalog.fields)) and all(probe.live for probe in stored.probes)


def said_lineage(engines_own: Lineage, model: str | None) -> Lineage:
    """The encoder as the user names it, else as the engine does."""
    if model is None:
        return engines_own
    name, _, version = model.partition("@")
    return Lineage(name, version or None, "user")


def _started(record: Manifest) -> float:
    """When the backup began, in seconds since 1970."""
    return datetime.fromisoformat(record.created).timestamp() - record.seconds.get("total", 0.0)


def cache_of(repository: Repository, source: str, collection: str) -> Path:
    """Where this machine keeps what it knows of the rows of a source's collection."""
    name = blake3(f"{source}\0{collection}".encode()).hexdigest()[:32]
    return state_directory() / repository.config.repository_id.hex() / "rows" / name


def _same_fields(before: StoredCollection, collection: Collection) -> bool:
    def shape(one: Collection) -> list[tuple[str, str, int]]:
        return [(field.name, field.dtype, field.dimension) for field in one.fields]

    return shape(before.catalog) == shape(collection)
