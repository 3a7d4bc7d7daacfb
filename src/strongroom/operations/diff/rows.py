"""Which rows were added, changed and removed between two states of a collection, and of which columns?

What both states share is never read. Rows that only one of them has are found by their fingerprints; their ids then say which were
changed. Memory: about 20 bytes for each row of a segment that isn't shared, and 8 a column for each row that differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from strongroom.operations.prefetch import ahead
from strongroom.progress import Progress
from strongroom.snapshots.fingerprints import Short
from strongroom.snapshots.pairing import left_over, pairs
from strongroom.snapshots.single_rows import Digests, Piece, RowReader, Told, candidates

T = TypeVar("T")
Flags = npt.NDArray[np.bool_]
Id = int | str


@dataclass(frozen=True, slots=True)
class ChangedRow:
    """A row whose id both states have. `columns` are those that differ, as the later state names them; None if the snapshots don't
    tell, since the engine's own files hold the rows."""

    id: Id
    columns: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class RowDifferences:
    """How many rows differ, and samples of them. `columns` counts the changed rows by column; `untold` are those of which the
    snapshots don't tell which columns changed."""

    added: int = 0
    changed: int = 0
    removed: int = 0
    columns: Mapping[str, int] = field(default_factory=dict)
    untold: int = 0
    sample_added: tuple[Id, ...] = ()
    sample_changed: tuple[ChangedRow, ...] = ()
    sample_removed: tuple[Id, ...] = ()


def row_differences(before: RowReader | None, after: RowReader | None, sample: int, progress: Progress) -> RowDifferences:
    """What became of the rows; `sample` ids of each kind, in the order in which they are stored. None is a state without the
    collection. Raises Damaged."""
    left, right = candidates(before.collection if before else None, after.collection if after else None)
    ours, theirs = _Rows(before, left), _Rows(after, right)
    if len(ours) and len(theirs):
        progress.begin(f"fingerprints of {_name(before, after)}", len(ours) + len(theirs), "rows")
        alone, alone_there = left_over(ours.prints(progress), theirs.prints(progress))
        ours, theirs = ours.only(alone), theirs.only(alone_there)
    if not len(ours) or not len(theirs):
        new, old = theirs.ids(range(min(sample, len(theirs)))), ours.ids(range(min(sample, len(ours))))
        return RowDifferences(added=len(theirs), removed=len(ours), sample_added=new, sample_removed=old)
    progress.begin(f"ids and columns of {_name(before, after)}", len(ours) + len(theirs), "rows")
    return _Comparison(ours, theirs, progress).differences(sample)


class _Rows:
    """Rows of one state that may not be in the other, numbered from 0 in the order in which they are stored."""

    def __init__(self, reader: RowReader | None, pieces: Sequence[Piece]) -> None:
        self.pieces = pieces
        self._reader = reader
        self._ends = np.cumsum([0, *(len(piece) for piece in pieces)])

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def reader(self) -> RowReader:
        assert self._reader is not None  # noqa: S101 - there are rows
        return self._reader

    def only(self, chosen: Flags) -> _Rows:
        """Those of them that are chosen, (rows,)."""
        parts = np.split(chosen, self._ends[1:-1]) if self.pieces else []
        kept = [piece.only(part) for piece, part in zip(self.pieces, parts, strict=True)]
        return _Rows(self._reader, [piece for piece in kept if len(piece)])

    def prints(self, progress: Progress) -> Short:
        """The fingerprints of all of them."""
        found = np.empty((len(self), 3), np.uint32)
        for at, prints in self._read(self.reader.prints, progress):
            found[at] = prints
        return found

    def tell(self, progress: Progress) -> Told:
        """Describe all of them; a column that some segments don't have is null there."""
        ids, columns = np.empty((len(self), 3), np.uint32), dict[str, Digests]()
        for at, told in self._read(self.reader.tell, progress):
            ids[at] = told.ids
            for name, digests in told.columns.items():
                columns.setdefault(name, np.zeros(len(self), np.uint64))[at] = digests
        return Told(ids, columns)

    def ids(self, numbers: Sequence[int]) -> tuple[Id, ...]:
        """The ids of the rows of these ascending numbers."""
        chosen = np.zeros(len(self), np.bool_)
        chosen[list(numbers)] = True
        return tuple(one for piece in self.only(chosen).pieces for one in self.reader.ids(piece))

    def _read(self, read: Callable[[Piece], T], progress: Progress) -> Iterator[tuple[slice, T]]:
        for start, piece, result in zip(self._ends, self.pieces, ahead(self.pieces, read), strict=False):
            yield slice(int(start), int(start) + len(piece)), result
            progress.advance(len(piece))


class _Comparison:
    """Rows of either state that aren't in the other, compared by id and column."""

    def __init__(self, ours: _Rows, theirs: _Rows, progress: Progress) -> None:
        self._ours, self._theirs = ours, theirs
        before, after = ours.tell(progress), theirs.tell(progress)
        old, new = pairs(before.ids, after.ids)
        order = np.argsort(new)
        self._old, self._new = old[order], new[order]
        single = ours.reader.vector_columns == theirs.reader.vector_columns == 1
        mine, others = ours.reader.names(single_vector=single), theirs.reader.names(single_vector=single)
        self._names = {**mine, **others}
        hidden = {key for names, told in ((mine, before), (others, after)) for key in names if names[key] not in told.columns}
        self._differs = {
            key: _values(before, mine.get(key), self._old) != _values(after, others.get(key), self._new)
            for key in self._names
            if key not in hidden
        }
        self._untold = np.zeros(len(self._new), np.bool_)
        if hidden:
            self._find_hidden(hidden)

    def _find_hidden(self, hidden: set[str]) -> None:
        """If all columns but one are the same, it is that one."""
        same = ~np.logical_or.reduce([np.zeros(len(self._new), np.bool_), *self._differs.values()])
        if len(hidden) == 1:
            self._differs[next(iter(hidden))] = same
            self._untold = ~same
        else:
            self._untold[:] = True

    def differences(self, sample: int) -> RowDifferences:
        gone, fresh = np.ones(len(self._ours), np.bool_), np.ones(len(self._theirs), np.bool_)
        gone[self._old], fresh[self._new] = False, False
        counts = {self._names[key]: int(differs.sum()) for key, differs in self._differs.items()}
        changed = self._theirs.ids(self._new[:sample].tolist())
        return RowDifferences(
            added=int(fresh.sum()),
            changed=len(self._new),
            removed=int(gone.sum()),
            columns={name: count for name, count in counts.items() if count},
            untold=int(self._untold.sum()),
            sample_added=self._theirs.ids(np.flatnonzero(fresh)[:sample].tolist()),
            sample_changed=tuple(ChangedRow(one, self._columns_of(at)) for at, one in enumerate(changed)),
            sample_removed=self._ours.ids(np.flatnonzero(gone)[:sample].tolist()),
        )

    def _columns_of(self, pair: int) -> tuple[str, ...] | None:
        if self._untold[pair]:
            return None
        return tuple(self._names[key] for key, differs in self._differs.items() if differs[pair])


def _values(told: Told, column: str | None, rows: npt.NDArray[np.int64]) -> Digests:
    """The digests of a column's values; a column that isn't there is null."""
    return told.columns[column][rows] if column in told.columns else np.zeros(len(rows), np.uint64)


def _name(before: RowReader | None, after: RowReader | None) -> str:
    return next(one.collection.name for one in (after, before) if one)
