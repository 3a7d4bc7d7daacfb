"""What differs between two states of a catalog, and of the files of the index plane? From manifests alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass

from strongroom.model import Json
from strongroom.snapshots.manifest import Manifest, Part, StoredArtifact, StoredCollection


@dataclass(frozen=True, slots=True)
class Change:
    """Something that the catalog says otherwise, by its path ('fields.embedding.metric'); None where it says nothing of it."""

    path: str
    before: Json
    after: Json


@dataclass(frozen=True, slots=True)
class FileChange:
    """A file of the index plane, and its sizes in bytes; None where there was none. `certain` is False for a file of one length
    that is stored otherwise: its bytes may be the same."""

    path: str
    before: int | None
    after: int | None
    certain: bool = True


def collection_changes(before: StoredCollection, after: StoredCollection) -> tuple[Change, ...]:
    """Of fields with their indices, columns, lineage and all that the engine keeps about a collection. Raises Damaged."""
    return tuple(_changes("", _collection(before), _collection(after)))


def source_changes(before: Manifest, after: Manifest) -> tuple[Change, ...]:
    """Of what a snapshot says of its source as a whole."""
    return tuple(_changes("", _source(before), _source(after)))


def file_changes(before: Manifest, after: Manifest, of: Callable[[str | None], bool]) -> tuple[FileChange, ...]:
    """Files that are new, gone or other than they were, by path; those for whose collection (None if it is no single one's) `of` is
    true."""
    old = {one.path: one for one in before.artifacts if of(one.collection)}
    new = {one.path: one for one in after.artifacts if of(one.collection)}
    same_cutter = before.strongroom_version == after.strongroom_version
    found = (_file_change(old.get(path), new.get(path), same_cutter=same_cutter) for path in sorted({*old, *new}))
    return tuple(change for change in found if change is not None)


def _collection(one: StoredCollection) -> dict[str, Json]:
    schema = one.arrow_schema() if one.schema else ()
    fields = {field["name"]: field for field in (asdict(field) for field in one.catalog.fields)}
    for field in fields.values():
        del field["name"]
    return {
        "fields": fields,
        "columns": {column.name: f"{column.type}{'' if column.nullable else ' not null'}" for column in schema},
        "lineage": asdict(one.catalog.lineage),
        "catalog": dict(one.catalog.catalog),
    }


def _source(record: Manifest) -> dict[str, Json]:
    return {
        "source": record.source,
        "engine": record.engine,
        "engine_version": record.engine_version,
        "rows_plane": record.rows_plane,
        "catalog": dict(record.catalog),
        "completeness": {item.item: item.status.value for item in record.ledger},
    }


def _changes(path: str, before: Json, after: Json) -> Iterator[Change]:
    if before == after:
        return
    if not isinstance(before, Mapping) or not isinstance(after, Mapping):
        yield Change(path, before, after)
        return
    for key in dict.fromkeys((*before, *after)):
        yield from _changes(f"{path}.{key}" if path else str(key), before.get(key), after.get(key))


def _file_change(before: StoredArtifact | None, after: StoredArtifact | None, *, same_cutter: bool) -> FileChange | None:
    """`same_cutter` says whether equal files would have been cut into parts of equal lengths."""
    if before is None or after is None or before.size != after.size:
        path = before.path if before else after.path if after else ""
        return FileChange(path, before.size if before else None, after.size if after else None)
    then, now = [_identity(part) for part in before.parts], [_identity(part) for part in after.parts]
    if then == now:
        return None
    comparable = [(cut, other) for (cut, _), (other, _) in zip(then, now, strict=False)]
    lengths = [part.length for part in before.parts] == [part.length for part in after.parts]
    certain = all(cut == other for cut, other in comparable) if lengths else same_cutter and before.cut == after.cut != ""
    return FileChange(after.path, before.size, after.size, certain)


def _identity(part: Part) -> tuple[tuple[object, ...], tuple[str, ...]]:
    """What a part's hash depends on besides its bytes, and the hash: keyed, whatever the part is put together of."""
    if not part.stride or (part.vectors is not None and not part.rest):
        return (part.length,), (part.check or part.blob,)
    geometry = (part.length, part.stride, part.vector_offset, part.vector_length)
    return (*geometry, part.vectors is None), ((part.blob, part.rest) if part.vectors is None else (part.check,))
