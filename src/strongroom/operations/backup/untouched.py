"""Which collections are what they were at the snapshot before, or must answer as they did? What it says of them is said again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from strongroom.engines.protocol import AnswersFromFiles, Artifact, Frozen, MarksCollections
from strongroom.model import Collection, FoundBy
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


def answering_alike(
    frozen: Frozen, before: Predecessor, model: str | None, files: Mapping[str, Callable[[], StoredArtifact]]
) -> Callable[[Collection, str], StoredCollection | None]:
    """Gives of a collection and the root of its rows what the snapshot before says of it, if its index must answer as it did then:
    the engine needn't load it. `files` are those that were stored, by their paths."""

    def then(collection: Collection, root: str) -> StoredCollection | None:
        found = before.still_stored(collection, model) if alike else None
        if found is None or found.rows_root != root or not isinstance(frozen, AnswersFromFiles):
            return None
        repeats = all(probe.repeatable == frozen.repeatable(collection.name) for probe in found.probes)
        same = repeats and all(before.has_bytes(files[path]()) for path in frozen.index_files(collection.name))
        return found if same else None

    alike = before.comparable(frozen.description.engine_version) is not None
    return then
