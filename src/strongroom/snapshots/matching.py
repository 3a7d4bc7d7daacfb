"""Which rows and vectors of a block does the snapshot before have already?

Each row is looked for by its fingerprint, first where it lay before, then anywhere; each vector by its own, then among what other
collections have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from strongroom.codecs.runs import NONE, Numbers
from strongroom.model import Stretch
from strongroom.snapshots.fingerprints import Short
from strongroom.snapshots.known import KnownRows, Lines, Lookup, RowLookup
from strongroom.snapshots.manifest import Block
from strongroom.snapshots.marks import Marks, in_pieces
from strongroom.snapshots.seeds import Adopt, Seeds

_STRAYS = 64
_STRAY_SHARE = 1 / 16
"""So many rows of a block that aren't where they were are simply taken for new; if there are more, all are looked for anywhere."""

_PIECE = 1 << 16

Flags = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Seen:
    """A block of rows by its fingerprints: of the rows, of the vectors of each field, and which slots are dead."""

    first: int
    rows: Short
    vectors: Mapping[str, Short]
    dead: Flags

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class Found:
    """The number of each row, and for each field those of the vectors; NONE for what isn't stored yet. The vectors of a row that
    was found are those that its segment gives it: they are in use as long as the row is."""

    numbers: Numbers
    places: dict[str, Numbers]


class Matcher:
    """Finds rows of one collection again, block after block in storage order. No row is found twice."""

    def __init__(
        self,
        known: KnownRows | None,
        seeds: Seeds,
        adopt: Adopt,
        given_up: frozenset[int],
        blocks_given_up: Mapping[str, frozenset[int]],
    ) -> None:
        """`given_up` are the first numbers of segments, `blocks_given_up` those of blocks of each field, whose rows and vectors are
        to be stored anew."""
        self._known = known
        self._seeds = seeds
        self._adopt = adopt
        before = known.collection if known else None
        segments = before.segments if before else ()
        vectors: Mapping[str, tuple[Block, ...]] = before.vectors if before else {}
        self._gone = [(one.start, one.start + one.rows) for one in segments if one.start in given_up]
        self._blocks_gone = {
            name: [(one.start, one.start + one.count) for one in vectors.get(name, ()) if one.start in starts]
            for name, starts in blocks_given_up.items()
        }
        self._fields = tuple(blocks_given_up)
        self._claimed = Marks()
        self._rows: RowLookup | None = None
        self._vectors: dict[str, Lookup] = {}

    def before(self, first: int, count: int) -> Numbers:
        """The numbers of the rows that lay in these slots in the snapshot before; to begin with, those of the slots."""
        numbers = np.arange(first, first + count, dtype=np.uint32)
        if self._known is not None:
            then = self._known.lines(first, count).numbers
            numbers[: len(then)] = then
            numbers[len(then) :] = NONE
        return numbers

    def take(self, stretches: Sequence[Stretch]) -> tuple[Stretch, ...]:
        """Those of the stretches whose rows keep their numbers unseen: they follow one another, and nothing of theirs is given up.
        Nobody else finds their rows from now on."""
        taken, end = [], 0
        for one in stretches if self._known is not None and self._known.complete else ():
            if one.count <= 0 or one.first < end or one.then < 0 or one.then + one.count > self._known_slots:
                continue
            if all(map(self._stays, self.lines(one))):
                for lines in self.lines(one):
                    self._claimed.mark(lines.numbers)
                taken.append(one)
                end = one.first + one.count
        return tuple(taken)

    def stays(self, numbers: Numbers) -> Flags:
        """Which of these are in no segment that is given up."""
        return ~in_pieces(numbers, self._gone)

    def lines(self, stretch: Stretch) -> Iterator[Lines]:
        """What is known of the slots of a stretch, a piece at a time."""
        assert self._known is not None  # noqa: S101 - stretches are of what is known
        for start in range(0, stretch.count, _PIECE):
            yield self._known.lines(stretch.then + start, min(_PIECE, stretch.count - start))

    @property
    def _known_slots(self) -> int:
        return self._known.slots if self._known else 0

    def _stays(self, lines: Lines) -> bool:
        gone = in_pieces(lines.numbers, self._gone) | self._claimed.of(lines.numbers) | (lines.numbers == NONE)
        for name, places in lines.places.items():
            gone |= in_pieces(places, self._blocks_gone.get(name, []))
        return not gone.any()

    def find(self, seen: Seen) -> Found:
        """What of a block is stored already."""
        none = np.full(len(seen), NONE, np.uint32)
        found = Found(none, {name: none.copy() for name in self._fields})
        if self._known is not None:
            then = self._known.lines(seen.first, len(seen))
            self._in_place(then, seen, found)
            strays = int((found.numbers[: len(then)] == NONE).sum())
            if self._rows is not None or strays > max(_STRAYS, len(seen) * _STRAY_SHARE):
                self._anywhere(seen, found)
        for name, prints in seen.vectors.items():
            missing = np.flatnonzero(found.places[name] == NONE)
            if len(missing) and self._seeds.has(name):
                found.places[name][missing] = self._seeds.find(name, prints[missing], self._adopt)
        self._claimed.mark(found.numbers)
        return found

    def _in_place(self, then: Lines, seen: Seen, found: Found) -> None:
        """What lies where it lay: live rows by the whole row, dead slots by their vectors, which are all that is left of them."""
        there = slice(0, len(then))
        dead, same = seen.dead[there], np.ones(len(then), np.bool_)
        for name, prints in seen.vectors.items():
            if name in then.places:
                equal = _equal(prints[there], then.vectors[name])
                found.places[name][there] = np.where(equal, self._still(name, then.places[name]), NONE)
            same &= found.places[name][there] != NONE
        alike = np.where(dead, same, _equal(seen.rows[there], _shortened(then)) & then.live)
        self._take(np.arange(len(then)), np.where(alike, then.numbers, NONE), then.places, seen, found)

    def _anywhere(self, seen: Seen, found: Found) -> None:
        assert self._known is not None  # noqa: S101 - asked for only then
        self._rows = self._rows or self._known.row_lookup()
        missing = np.flatnonzero((found.numbers == NONE) & ~seen.dead)
        at = self._rows.lines.find(seen.rows[missing])
        missing, at = missing[at != NONE], at[at != NONE]
        places = {name: those[at] for name, those in self._rows.places.items()}
        self._take(missing, self._rows.numbers[at], places, seen, found)
        for name, prints in seen.vectors.items():
            missing = np.flatnonzero(found.places[name] == NONE)
            if len(missing):
                if name not in self._vectors:
                    self._vectors[name] = self._known.vector_lookup(name)
                found.places[name][missing] = self._still(name, self._vectors[name].find(prints[missing]))

    def _take(self, at: Places, numbers: Numbers, places: Mapping[str, Numbers], seen: Seen, found: Found) -> None:
        """Rows at these places of the block are those of these numbers, with the vectors that are known of them: unless one of them
        is given up, or a vector isn't stored apart that is to be."""
        keeps = np.ones(len(at), np.bool_)
        for name in self._fields:
            known = places.get(name, np.full(len(at), NONE, np.uint32))
            keeps &= self._still(name, known) != NONE if name in seen.vectors else self._still(name, known) == known
        taken = self._unclaimed(np.where(keeps, numbers, NONE), among=found.numbers)
        there = np.flatnonzero(taken != NONE)
        found.numbers[at[there]] = taken[there]
        for name, known in places.items():
            found.places[name][at[there]] = known[there]

    def _still(self, name: str, places: Numbers) -> Numbers:
        """These, but for those in blocks that are given up."""
        gone = self._blocks_gone.get(name)
        return np.where(in_pieces(places, gone), NONE, places) if gone else places

    def _unclaimed(self, numbers: Numbers, among: Numbers) -> Numbers:
        """These, but for those in segments that are given up, of rows that were found before, and for repetitions."""
        result = numbers.copy()
        result[in_pieces(result, self._gone) | self._claimed.of(result)] = NONE
        if (among != NONE).any():
            result[np.isin(result, among)] = NONE
        there = np.flatnonzero(result != NONE)
        _, firsts = np.unique(result[there], return_index=True)
        again = np.ones(len(there), np.bool_)
        again[firsts] = False
        result[there[again]] = NONE
        return result


def _equal(some: Short, others: Short) -> Flags:
    same: Flags = (some == others).all(axis=1)
    return same


def _shortened(lines: Lines) -> Short:
    return lines.rows.view(np.uint32).reshape(-1, 4)[:, :3]
