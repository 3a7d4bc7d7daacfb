"""Which collections are what they were at the snapshot before, rows and files? What it says of them is said again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from strongroom.engines.protocol import Artifact, Frozen, MarksCollections
from strongroom.model import FoundBy
from strongroom.operations.backup.predecessor import Predecessor
from strongroom.snapshots.manifest import StoredArtifact, StoredCollection


@dataclass(frozen=True, slots=True)
class Untouched:
    """A collection as the snapshot before has it, and its files by their paths."""

    stored: StoredCollection
    files: Mapping[str, StoredArtifact]


def untouched(frozen: Frozen, before: Predecessor, model: str | None) -> dict[str, Untouched]:
    """Those that need not be read, by name: the engine marks each collection, the same programs on this machine would find the
    same, and all that was stored of them is there."""
    record = before.comparable(frozen.description.engine_version)
    if record is None or not isinstance(frozen, MarksCollections):
        return {}
    same = frozen.as_at(record.position)
    files: dict[str, list[Artifact]] = {name: [] for name in same}
    for one in frozen.artifacts():
        if one.collection in files:
            files[one.collection].append(one)
    found = {}
    for collection in frozen.description.collections:
        stored = before.still_stored(collection, model) if collection.name in same else None
        kept = {one.path: before.whole_file(one.path, one.size) for one in files.get(collection.name, ())}
        whole = {path: one for path, one in kept.items() if one is not None}
        if stored is not None and len(whole) == len(kept):
            found[collection.name] = Untouched(replace(stored, found_by=FoundBy.NOTHING, slots_read=0), whole)
    return found
