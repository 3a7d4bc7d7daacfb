"""Which rows of a collection must a snapshot store, and which has the one before? Only what it hasn't is written.

What is found again keeps its number; what isn't gets a new one, in a new segment and a new block of vectors. Rows of the snapshot
before that nobody asked for are dead from now on. Memory: a few blocks of rows, some bytes a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from strongroom.codecs import runs
from strongroom.codecs.runs import NONE, Numbers, Runs
from strongroom.model import Bytes, Collection, RowBlock, Stretch
from strongroom.snapshots.compaction import Piece, retired
from strongroom.snapshots.fingerprints import Fingerprinter, Prints, Short, Words, short
from strongroom.snapshots.known import KnownRows, KnownWriter, Lines, Lookup, block_lookup
from strongroom.snapshots.manifest import Block, Segment, StoredCollection, pack_dead
from strongroom.snapshots.marks import Marks, in_pieces
from strongroom.snapshots.matching import Flags, Matcher, Seen
from strongroom.snapshots.seeds import Seeds
from strongroom.snapshots.segment_writer import SegmentWriter
from strongroom.snapshots.segments import Submit, vector_columns

T = TypeVar("T")

_LONGEST_ORDER = 16
"""So many lists of changes make up an order before it is written whole again."""

HIGHEST = 1 << 31
"""A collection whose numbers have come so far is numbered from 0 again: all of it is stored anew."""


@dataclass(frozen=True, slots=True)
class Written:
    """A block of rows as it came: its first slot, how many, and for each vector column its keyed hash and its length in bytes."""

    first: int
    rows: int
    checks: Mapping[str, tuple[Callable[[], bytes], int]]


@dataclass(frozen=True, slots=True)
class StoredRows:
    """What a manifest says of a collection's rows."""

    segments: tuple[Segment, ...]
    vectors: Mapping[str, tuple[Block, ...]]
    order: tuple[str, ...]
    slots: int


class RowsWriter:
    """Takes the blocks of rows of one collection in storage order, then the vectors of its files. For one thread."""

    def __init__(
        self,
        collection: Collection,
        fingerprinter: Fingerprinter,
        submit: Submit,
        identify: Callable[[Bytes], bytes],
        table: KnownWriter,
        *,
        known: KnownRows | None = None,
        seeds: Seeds | None = None,
        with_vectors: bool = True,
        has: Callable[[str], bool] = lambda _: True,
        read_blob: Callable[[bytes], Bytes] | None = None,
    ) -> None:
        """`known` is of the snapshot before; `table` gets the same for this one. `with_vectors` False keeps of the rows only their
        ids and fingerprints: the engine's own files hold them. `has` tells whether a blob is stored: what is lost is stored anew.
        """
        self._collection = collection
        self._fingerprinter = fingerprinter
        self._submit = submit
        self._identify = identify
        self._table = table
        self._with_vectors = with_vectors
        self._before = known.collection if known else None
        self._read_blob = read_blob
        self._seeds = seeds or Seeds()
        self._new = SegmentWriter(collection, submit, following(self._before), with_vectors=with_vectors)
        given_up, self._blocks_given_up = _given_up(self._before, collection, has)
        self._matcher = Matcher(known, self._seeds, self._new.adopt, given_up, self._blocks_given_up)
        self.slots = 0
        """How many were seen so far."""
        self._kept, self._live = Marks(), Marks()
        self._used = {one.name: Marks() for one in collection.fields}
        self._changes: list[Runs] = []
        self._order: list[Runs] = []
        self._more: dict[str, list[tuple[Short, Numbers]]] = {}
        self._lookups: dict[str, list[Lookup]] = {}
        self.written: list[Written] = []

    def expect(self, stretches: Sequence[Stretch]) -> tuple[Stretch, ...]:
        """Some stretches of slots hold the rows that slots of the snapshot before held. Gives those of them that `keep_stretch`
        may be called for when their turn comes; the others are to be read, since something of theirs is to be stored anew."""
        return self._matcher.take(stretches)

    def keep_stretch(self, stretch: Stretch) -> Words:
        """The next slots, unseen: they are a stretch that `expect` gave. Gives the fingerprints of its live rows."""
        assert stretch.first == self.slots  # noqa: S101 - the caller counts
        live = []
        for lines in self._matcher.lines(stretch):
            self._note(lines)
            live.append(lines.rows[lines.live])
        self.written.append(Written(stretch.first, stretch.count, {}))
        return np.concatenate(live)

    def stays(self, numbers: Numbers) -> Flags:
        """Which of these rows of the snapshot before may keep their numbers: they are in nothing that is given up."""
        return self._matcher.stays(numbers)

    def has_live(self, numbers: Numbers) -> Flags:
        """Which of these are numbers of live rows, as far as rows were seen."""
        return self._live.of(numbers)

    def add(self, block: RowBlock, prints: Prints, identities: Mapping[str, bytes] | None = None) -> tuple[Numbers, Flags]:
        """The next block of rows, with its fingerprints, and the keyed hashes of its vector columns if the caller has them. Gives
        the number of each row, and which of them are new."""
        batch = block.batch
        dead = np.zeros(batch.num_rows, np.bool_) if block.dead is None else block.dead
        values = vector_columns(batch, self._collection.fields) if self._with_vectors else {}
        values = {name: content for name, content in values.items() if name in prints.vectors}
        seen = Seen(self.slots, short(prints.rows), {name: short(prints.vectors[name]) for name in values}, dead)
        found = self._matcher.find(seen)
        whole: dict[str, Callable[[], bytes]] = {}
        new = found.numbers == NONE
        if new.all() and len(seen):
            whole = self._new.store_whole(batch, seen, found, values)
        elif new.any():
            self._new.gather(batch, seen, found, values)
        checks = {}
        for name, content in values.items():
            known = whole.get(name) or _given((identities or {}).get(name) or self._identify(content))
            checks[name] = (known, len(content))
        self.written.append(Written(seen.first, len(seen), checks))
        blank = np.zeros((len(seen), 3), np.uint32)
        vectors = {name: seen.vectors.get(name, blank) for name in found.places}
        self._note(Lines(found.numbers, ~seen.dead, prints.rows, found.places, vectors))
        return found.numbers, new

    def _note(self, lines: Lines) -> None:
        """Remember what lies in the next slots."""
        first, numbers = self.slots, lines.numbers
        self.slots = first + len(lines)
        self._kept.mark(numbers)
        self._live.mark(numbers[lines.live])
        for name, places in lines.places.items():
            self._used[name].mark(places)
        moved = np.flatnonzero(numbers != self._matcher.before(first, len(lines)))
        self._changes.append(runs.runs_of(first + moved, numbers[moved]))
        self._order.append(runs.runs_of(np.arange(first, self.slots), numbers))
        self._table.add(lines)

    def end_of_rows(self) -> None:
        """No more blocks of rows follow; files may."""
        self._new.flush()

    def find_or_store(self, name: str, content: Bytes, width: int) -> Numbers:
        """The numbers of vectors of a field that lie in a file of the engine's, one after another, `width` bytes each; those that
        are not stored yet are. All rows were seen."""
        prints = short(self._fingerprinter.vectors(content, width))
        found = np.full(len(prints), NONE, np.uint32)
        for lookup in self._lookups_of(name):
            missing = np.flatnonzero(found == NONE)
            found[missing] = lookup.find(prints[missing])
        missing = np.flatnonzero(found == NONE)
        if len(missing) and self._seeds.has(name):
            found[missing] = self._seeds.find(name, prints[missing], self._new.adopt)
        for more, numbers in self._more.get(name, ()):
            missing = np.flatnonzero(found == NONE)
            if len(missing):
                found[missing] = Lookup(more, numbers).find(prints[missing])
        missing = np.flatnonzero(found == NONE)
        if len(missing):
            records = np.frombuffer(content, np.uint8).reshape(len(prints), width)
            chosen = records if len(missing) == len(prints) else np.ascontiguousarray(records[missing])
            found[missing] = self._new.store_vectors(name, chosen.data.cast("B"), prints[missing])
            self._more.setdefault(name, []).append((prints[missing], found[missing]))
        self._used[name].mark(found)
        return found

    def _lookups_of(self, name: str) -> list[Lookup]:
        """Where the vectors of this snapshot's rows are found, and those that the snapshot before had."""
        if name not in self._lookups:
            rows = [self._table.vector_lookup(name)] if self._with_vectors else []
            older = self._before.vectors.get(name, ()) if self._before else ()
            kept = [one for one in older if one.start not in self._blocks_given_up.get(name, ())]
            self._lookups[name] = [*rows, block_lookup(kept, self._read_blob)] if self._read_blob else rows
        return self._lookups[name]

    @property
    def goes_on(self) -> bool:
        """Are numbers those of the snapshot before?"""
        return self._before is not None

    def keep(self, name: str, places: Numbers) -> bool:
        """A file that is taken over from the snapshot before needs these vectors of a field. False if some of them are given up."""
        assert self._before is not None  # noqa: S101 - asked for only if numbers go on
        gone = self._blocks_given_up.get(name, frozenset())
        lost = [(one.start, one.start + one.count) for one in self._before.vectors.get(name, ()) if one.start in gone]
        if name not in self._used or in_pieces(places, lost).any():
            return False
        self._used[name].mark(places)
        return True

    def finish(self) -> Callable[[], StoredRows]:
        """All rows and files were seen. What it gives can be asked what was stored, once the writer's blobs are known."""
        order = self._store_order()
        return lambda: StoredRows(self._segments(), self._blocks(), tuple(one() for one in order), self.slots)

    def _store_order(self) -> list[Callable[[], str]]:
        before = self._before.order if self._before else ()
        changes, whole = runs.joined(self._changes), runs.joined(self._order)
        kept = [_given(blob) for blob in before]
        if not len(changes):
            return kept
        if len(before) < _LONGEST_ORDER and len(changes) < len(whole):
            blob = self._submit(runs.encode(changes), "int32")
            return [*kept, lambda: blob.result().hex()]
        blob = self._submit(runs.encode(whole), "int32")
        return [lambda: blob.result().hex()]

    def _segments(self) -> tuple[Segment, ...]:
        older = self._before.segments if self._before else ()
        kept = [one for one in (*older, *self._new.segments()) if self._kept.part(one.start, one.rows).any()]
        return tuple(replace(one, dead=pack_dead(~self._live.part(one.start, one.rows))) for one in kept)

    def _blocks(self) -> dict[str, tuple[Block, ...]]:
        older = self._before.vectors if self._before else {}
        found: dict[str, tuple[Block, ...]] = {}
        for name, used in self._used.items():
            blocks = (*older.get(name, ()), *self._new.blocks(name))
            counted = (replace(one, used=int(used.part(one.start, one.count).sum())) for one in blocks)
            found[name] = tuple(one for one in counted if one.used)
        return {name: blocks for name, blocks in found.items() if blocks}


def following(collection: StoredCollection | None) -> int:
    """The first number that no row and no vector of a collection has."""
    if collection is None:
        return 0
    rows = [one.start + one.rows for one in collection.segments]
    vectors = [one.start + one.count for blocks in collection.vectors.values() for one in blocks]
    return max([*rows, *vectors, 0])


def _given_up(
    before: StoredCollection | None, collection: Collection, has: Callable[[str], bool]
) -> tuple[frozenset[int], dict[str, frozenset[int]]]:
    """The segments, and the blocks of each field, that are written anew: to tidy up, or because a blob of theirs is lost."""
    if before is None:
        return frozenset(), {one.name: frozenset() for one in collection.fields}
    segments = [Piece(one.start, one.rows, one.rows - one.dead_count(), _ROW_BYTES) for one in before.segments]
    blocks = {}
    for field in collection.fields:
        older = before.vectors.get(field.name, ())
        blocks[field.name] = retired([Piece(one.start, one.count, one.used, 4 * field.dimension) for one in older]) | _lost(
            older, has
        )
    return retired(segments) | _lost(before.segments, has), blocks


def _lost(pieces: Sequence[Segment] | Sequence[Block], has: Callable[[str], bool]) -> frozenset[int]:
    return frozenset(one.start for one in pieces if not all(map(has, one.blobs())))


_ROW_BYTES = 512
"""What the columns of a row that aren't vectors take, more or less: a budget need not be exact."""


def _given(value: T) -> Callable[[], T]:
    return lambda: value
