"""What can't be true in a manifest, as far as it can be seen without reading one blob? Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath

from strongroom.errors import Damaged
from strongroom.model import INDEX_FILES, Status
from strongroom.snapshots.manifest import Manifest, StoredCollection, root_of

ROWS_PLANES = ("segments", "artifacts")


def has_rows_alone(record: Manifest) -> bool:
    """Are there no files of the engine's, and does the snapshot say so?"""
    return any(one.item == INDEX_FILES and one.status is not Status.CAPTURED for one in record.ledger)


def contradictions(record: Manifest) -> Iterator[tuple[str, str]]:
    """What is wrong, and the part of the manifest that it is wrong with ('' for the whole)."""
    if record.root != root_of(record.collections):
        yield "", "its root doesn't fit its collections"
    if not record.rows:
        yield "", "it holds not one row: that is no backup"
    if not record.artifacts and not has_rows_alone(record):
        yield "", "it holds no file of the index plane"
    if record.rows_plane not in ROWS_PLANES:
        yield "", f"it says that its rows are in {record.rows_plane!r}"
    yield from _of_artifacts(record)
    names = Counter(one.name for one in record.collections)
    for collection in record.collections:
        problem = contradiction_of(collection, record.rows_plane)
        if problem:
            yield f"collection {collection.name}", problem
        if names[collection.name] > 1:
            yield f"collection {collection.name}", "another collection has the same name"


def _of_artifacts(record: Manifest) -> Iterator[tuple[str, str]]:
    seen: set[str] = set()
    for artifact in record.artifacts:
        part = f"artifact {artifact.path}"
        path = PurePosixPath(artifact.path)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            yield part, "its path points outside of the target"
        if str(path) in seen:
            yield part, "another file has the same path"
        seen.add(str(path))
        if sum(piece.length for piece in artifact.parts) != artifact.size:
            yield part, "its parts are not as long as the file was"


def contradiction_of(collection: StoredCollection, rows_plane: str) -> str | None:
    """What can't be true of a collection, None if it all fits together."""
    try:
        return _of_collection(collection, rows_plane)
    except Damaged as error:
        return str(error)


def _of_collection(collection: StoredCollection, rows_plane: str) -> str | None:
    for one in collection.catalog.fields:
        if one.dimension < 0 or (collection.count and one.dimension == 0):
            return f"field {one.name} has dimension {one.dimension}"
    if collection.count and not collection.schema:
        return "it has rows and no schema"
    if rows_plane == "segments":
        live = sum(segment.rows - segment.dead_count() for segment in collection.segments)
        live += sum(part.rows for part in collection.tenants)
        if live != collection.count:
            return f"its segments hold {live} rows, it says {collection.count}"
    return _of_schema(collection) if collection.schema else None


def _of_schema(collection: StoredCollection) -> str | None:
    schema = collection.arrow_schema()
    for one in collection.catalog.fields:
        if one.name not in schema.names:
            return f"its rows have no column for field {one.name}"
        kind = schema.field(one.name).type
        if getattr(kind, "list_size", one.dimension) != one.dimension:
            return f"field {one.name} has dimension {one.dimension}, its rows have {kind.list_size}"
    return None
