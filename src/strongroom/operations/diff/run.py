"""What became of a source between two snapshots: rows, catalog, lineage and files of the index plane.

Read from manifests and fingerprints, and from ids, documents and payloads where rows differ; vectors are not fetched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from strongroom.errors import Damaged, NotFound, WrongRequest
from strongroom.operations.diff.rows import RowDifferences, row_differences
from strongroom.progress import SILENT, Progress
from strongroom.repository import Repository
from strongroom.snapshots import history
from strongroom.snapshots.changes import Change, FileChange, collection_changes, file_changes, source_changes
from strongroom.snapshots.consistency import contradiction_of
from strongroom.snapshots.fingerprints import Fingerprinter
from strongroom.snapshots.history import Snapshot
from strongroom.snapshots.manifest import StoredCollection
from strongroom.snapshots.single_rows import RowReader
from strongroom.snapshots.tenant_parts import opened

SAMPLE = 5


@dataclass(frozen=True, slots=True)
class DiffOptions:
    """`collections` are names, or NAME=OTHER to compare two of different names; none means all. `sample` ids of each kind."""

    collections: tuple[str, ...] = ()
    sample: int = SAMPLE


@dataclass(frozen=True, slots=True)
class CollectionDifferences:
    """What became of one collection. `before` and `after` are its names, `rows_before` and `rows_after` its numbers of rows; None
    where it isn't. `rows` is None if its rows can't be told apart, which `problem` then says."""

    before: str | None
    after: str | None
    rows_before: int | None
    rows_after: int | None
    rows: RowDifferences | None
    catalog: tuple[Change, ...] = ()
    problem: str = ""

    @property
    def differs(self) -> bool:
        rows = self.rows is None or self.rows.added or self.rows.changed or self.rows.removed
        return bool(rows or self.catalog or self.before != self.after)


@dataclass(frozen=True, slots=True)
class DiffReport:
    """`before` and `after` are the snapshots, older state first as it was asked for."""

    before: Snapshot
    after: Snapshot
    collections: tuple[CollectionDifferences, ...]
    catalog: tuple[Change, ...] = field(default=())
    files: tuple[FileChange, ...] = field(default=())

    @property
    def differs(self) -> bool:
        return bool(self.catalog or self.files or any(one.differs for one in self.collections))

    @property
    def problems(self) -> tuple[str, ...]:
        """What couldn't be compared."""
        return tuple(one.problem for one in self.collections if one.problem)


def diff(repository: Repository, before: str, after: str, options: DiffOptions, progress: Progress = SILENT) -> DiffReport:
    """What differs from the snapshot that `before` means to the one that `after` means. Raises NotFound or Damaged."""
    if options.sample < 0:
        raise WrongRequest(f"a sample of {options.sample} rows can't be", hint="give 0 or more")
    named_old, named_new = history.find(repository, before), history.find(repository, after)
    old, new = opened(repository, named_old), opened(repository, named_new)
    names = list(_pairs(old, new, options.collections))
    pairs = [(_of_name(old, left), _of_name(new, right)) for left, right in names]
    comparison = _Comparison(repository, old, new, options.sample, progress)
    collections = tuple(comparison.of(left, right) for left, right in pairs)
    named = {name for pair in names for name in pair if name is not None}
    files = file_changes(old.manifest, new.manifest, lambda one: not options.collections or one in named)
    return DiffReport(
        named_old, named_new, collections, () if options.collections else source_changes(old.manifest, new.manifest), files
    )


@dataclass(frozen=True, slots=True)
class _Comparison:
    repository: Repository
    before: Snapshot
    after: Snapshot
    sample: int
    progress: Progress

    def of(self, before: StoredCollection | None, after: StoredCollection | None) -> CollectionDifferences:
        """What became of a collection; at least one of the two is there."""
        catalog = collection_changes(before, after) if before and after else ()
        rows, problem = self._rows(before, after)
        names = before.name if before else None, after.name if after else None
        return CollectionDifferences(
            *names, before.count if before else None, after.count if after else None, rows, catalog, problem
        )

    def _rows(self, before: StoredCollection | None, after: StoredCollection | None) -> tuple[RowDifferences | None, str]:
        if before and after and (before.rows_root, before.count) == (after.rows_root, after.count):
            return RowDifferences(), ""
        hidden = [one for one in (before, after) if one and one.count and not one.segments]
        if not hidden:
            readers = self._reader(self.before, before), self._reader(self.after, after)
            return row_differences(*readers, self.sample, self.progress), ""
        if before and after and before.count and after.count:
            why = "an older Strongroom kept no fingerprints of its rows"
            return None, f"collection {hidden[0].name}: {why}, so they can't be told apart: restore both to compare them"
        return RowDifferences(added=after.count if after else 0, removed=before.count if before else 0), ""

    def _reader(self, snapshot: Snapshot, collection: StoredCollection | None) -> RowReader | None:
        if collection is None:
            return None
        plane = snapshot.manifest.rows_plane
        problem = contradiction_of(collection, plane)
        if problem:
            raise Damaged(f"collection {collection.name}", problem)
        fingerprinter = Fingerprinter(self.repository.keys.fingerprint)
        return RowReader(collection, fingerprinter, snapshot.reading(self.repository), with_vectors=plane == "segments")


def _pairs(before: Snapshot, after: Snapshot, wanted: Sequence[str]) -> Iterator[tuple[str | None, str | None]]:
    """Which collections are compared, by name: those asked for, or all. Raises NotFound."""
    old, new = _names(before), _names(after)
    for name in wanted:
        left, _, right = (name, "", name) if name in old or name in new else name.partition("=")
        if (left != right and (left not in old or right not in new)) or (left not in old and right not in new):
            known = ", ".join(dict.fromkeys((*old, *new))) or "none"
            raise NotFound(f"the snapshots have no collection {name!r}", hint=f"there are: {known}")
        yield left if left in old else None, right if right in new else None
    if not wanted:
        yield from _all_pairs(before, after)


def _all_pairs(before: Snapshot, after: Snapshot) -> Iterator[tuple[str | None, str | None]]:
    """By name; then those of the same rows, which were renamed; then the only collections of two sources."""
    old, new = _names(before), _names(after)
    gone, fresh = [name for name in old if name not in new], [name for name in new if name not in old]
    renamed = {}
    for name in gone:
        one = old[name]
        same = [other for other in fresh if (new[other].rows_root, new[other].count) == (one.rows_root, one.count) and one.count]
        if not same and len(old) == len(new) == 1:
            same = fresh
        if same:
            renamed[name] = same[0]
            fresh.remove(same[0])
    for name in old:
        yield name, name if name in new else renamed.get(name)
    yield from ((None, name) for name in fresh)


def _names(snapshot: Snapshot) -> dict[str, StoredCollection]:
    return {one.name: one for one in snapshot.manifest.collections}


def _of_name(snapshot: Snapshot, name: str | None) -> StoredCollection | None:
    return _names(snapshot)[name] if name is not None else None
