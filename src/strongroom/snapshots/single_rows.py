"""Which rows of a stored collection may another one not have? They are told by fingerprints, described without vectors."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from strongroom.codecs.runs import NONE, Numbers
from strongroom.errors import Damaged
from strongroom.model import ROLE, Role
from strongroom.snapshots.fingerprints import Fingerprinter, Short, canonical_name, role_of, row_key, short
from strongroom.snapshots.known import read_prints
from strongroom.snapshots.manifest import Block, Segment, StoredCollection
from strongroom.snapshots.segments import read_segment
from strongroom.snapshots.slots import Slots
from strongroom.snapshots.vectors import ReadBlob

Digests = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Piece:
    """Some rows of a segment, by their slots in it, ascending."""

    segment: Segment
    slots: Numbers

    def __len__(self) -> int:
        return len(self.slots)

    def only(self, chosen: npt.NDArray[np.bool_]) -> Piece:
        return replace(self, slots=self.slots[chosen])


@dataclass(frozen=True, slots=True)
class Told:
    """Rows described: the short fingerprint of each one's id (as text), and a digest of each value by column; 0 for a null."""

    ids: Short
    columns: dict[str, Digests]


def candidates(before: StoredCollection | None, after: StoredCollection | None) -> tuple[list[Piece], list[Piece]]:
    """The rows of each side that may not be on the other: of a segment that both have, those that are dead in one of them only; of
    other segments all. Reads nothing. Raises Damaged."""
    shared = defaultdict[object, list[Segment]](list)
    for segment in after.segments if after else ():
        shared[_content_of(segment, after)].append(segment)
    left, right = list[Piece](), list[Piece]()
    for segment in before.segments if before else ():
        same = shared[_content_of(segment, before)]
        if not same:
            left.append(_piece(segment, _live(segment)))
            continue
        other = same.pop()
        then, now = _live(segment), _live(other)
        left.append(_piece(segment, then & ~now))
        right.append(_piece(other, now & ~then))
    right += [_piece(segment, _live(segment)) for alone in shared.values() for segment in alone]
    return _in_order(left), _in_order(right)


def _content_of(segment: Segment, collection: StoredCollection | None) -> object:
    """Segments of the same have the same rows in the same slots."""
    if segment.prints or collection is None:
        return segment.rows, segment.prints
    own = sorted((name, one.blob) for name, blocks in collection.vectors.items() for one in blocks if one.start == segment.start)
    return segment.rows, segment.rest, tuple(own)


def _live(segment: Segment) -> npt.NDArray[np.bool_]:
    dead = segment.dead_slots()
    return np.ones(segment.rows, np.bool_) if dead is None else ~dead


def _piece(segment: Segment, chosen: npt.NDArray[np.bool_]) -> Piece:
    return Piece(segment, np.flatnonzero(chosen).astype(np.uint32))


def _in_order(pieces: Sequence[Piece]) -> list[Piece]:
    return sorted((piece for piece in pieces if len(piece)), key=lambda piece: piece.segment.start)


class RowReader:
    """Reads what tells rows of one stored collection apart. Fetches no vectors, but of snapshots of format 1, which have no
    fingerprints. Any thread. What it reads raises Damaged if it doesn't fit together."""

    def __init__(
        self, collection: StoredCollection, fingerprinter: Fingerprinter, read_blob: ReadBlob, *, with_vectors: bool
    ) -> None:
        """`with_vectors` says whether the rows' vectors are stored by number, and not only in the engine's files."""
        self.collection = collection
        self.schema = collection.arrow_schema() if collection.schema else pa.schema([])
        self._fingerprinter = fingerprinter
        self._read_blob = read_blob
        self._with_vectors = with_vectors
        self._slots = Slots(collection, read_blob)
        self._prints_of = functools.lru_cache(maxsize=32)(self._block_prints)

    def prints(self, piece: Piece) -> Short:
        """The fingerprints of its rows, (rows, 3)."""
        segment = piece.segment
        if segment.prints:
            return read_prints(segment.prints, segment.rows, self._read_blob)[piece.slots]
        block = read_segment(segment, self.schema, self._slots, self._read_blob)
        return short(self._fingerprinter.rows(block.batch))[piece.slots]

    def ids(self, piece: Piece) -> list[int | str]:
        """The ids of its rows."""
        found: list[int | str] = _ids_of(self._rest(piece)).to_pylist()
        return found

    def tell(self, piece: Piece) -> Told:
        """Describe its rows."""
        rest = self._rest(piece)
        named = pa.field("id", pa.string(), metadata={ROLE: Role.ID.encode()})
        ids = self._fingerprinter.rows(pa.record_batch([row_key(_ids_of(rest))], schema=pa.schema([named])))
        columns = {name: words[:, 0].copy() for name, words in self._fingerprinter.digests(rest).items()}
        for name in self._vectors_apart(rest):
            places = self._slots.of_segment(piece.segment, name)[piece.slots]
            columns[name] = self._vector_digests(name, places)
        return Told(short(ids), columns)

    def names(self, *, single_vector: bool) -> dict[str, str]:
        """The columns' own names by those that they have in every engine; `single_vector` says whether both sides have one only."""
        return {canonical_name(field, single_vector=single_vector): field.name for field in self.schema}

    @property
    def vector_columns(self) -> int:
        """How many columns hold vectors."""
        return sum(role_of(field) == Role.VECTOR for field in self.schema)

    def _rest(self, piece: Piece) -> pa.RecordBatch:
        segment = piece.segment
        try:
            batch = pa.ipc.open_stream(pa.py_buffer(self._read_blob(bytes.fromhex(segment.rest)))).read_next_batch()
        except (pa.ArrowException, OSError, ValueError, StopIteration) as error:
            raise Damaged(f"segment {segment.rest[:16]}", "its blob holds no rows") from error
        if batch.num_rows != segment.rows or not any(role_of(field) == Role.ID for field in batch.schema):
            raise Damaged(f"segment {segment.rest[:16]}", f"its blob doesn't hold {segment.rows} rows with ids")
        return batch.take(pa.array(piece.slots))

    def _vectors_apart(self, rest: pa.RecordBatch) -> list[str]:
        """The vector columns that are stored by number."""
        vectors = [field.name for field in self.schema if role_of(field) == Role.VECTOR] if self._with_vectors else []
        return [name for name in vectors if name not in rest.schema.names]

    def _vector_digests(self, name: str, places: Numbers) -> Digests:
        found = np.zeros(len(places), np.uint64)
        blocks = sorted(self.collection.vectors.get(name, ()), key=lambda block: block.start)
        starts = np.array([block.start for block in blocks], np.int64)
        which = np.searchsorted(starts, places, side="right") - 1
        for at in np.unique(which):
            here = np.flatnonzero((which == at) & (places != NONE))
            if not len(here):
                continue
            inside = places[here].astype(np.int64) - blocks[at].start
            if at < 0 or int(inside.max()) >= blocks[at].count:
                raise Damaged(f"collection {self.collection.name}", f"rows have vectors of {name!r} that are not stored")
            found[here] = np.ascontiguousarray(self._prints_of(blocks[at])[inside, :2]).view(np.uint64)[:, 0]
        return found

    def _block_prints(self, block: Block) -> Short:
        if block.prints:
            return read_prints(block.prints, block.count, self._read_blob)
        content = self._read_blob(bytes.fromhex(block.blob))
        if not block.count or not len(content) or len(content) % block.count:
            raise Damaged(f"blob {block.blob[:16]}", f"{len(content)} bytes are not {block.count} vectors")
        return short(self._fingerprinter.vectors(content, len(content) // block.count))


def _ids_of(rest: pa.RecordBatch) -> pa.Array:
    return next(column for field, column in zip(rest.schema, rest.columns, strict=True) if role_of(field) == Role.ID)
