"""How the files of the index plane become blobs, and come back byte for byte.

Vectors are not stored with a file: they are those of the rows, or such as were stored before. What else a file holds is stored as
it is, or as what changed of it since the snapshot before, if that is smaller.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np

from strongroom.codecs import CodecError, copies, difference, runs, strided
from strongroom.codecs.runs import Numbers
from strongroom.engines.protocol import Artifact
from strongroom.errors import Damaged, SourceChanged
from strongroom.model import Bytes, Records, Region
from strongroom.snapshots.manifest import Part, StoredArtifact, Vectors
from strongroom.snapshots.parts import Identify, check_of, remainder, remainder_of, with_remainder
from strongroom.snapshots.rows_writer import Written
from strongroom.snapshots.segments import Submit

FindOrStore = Callable[[str, str, Bytes, int], Numbers]
"""Of a collection and a field: the numbers of vectors of so many bytes, which are stored if they aren't yet."""

DEEPEST = 8
"""So many differences lie on one another before a part is stored whole again."""

_AT_ONCE = 4
"""Regions, of 8 MiB at most, that are worked on or wait for it."""

_CACHED_BYTES = 1 << 20
"""Records are taken apart, and put together again to see, in pieces of about so many bytes: they stay in a core's cache."""

PendingPart = Callable[[], Part]


@dataclass(frozen=True, slots=True)
class Before:
    """The same file in the snapshot before: its parts by key, and how a blob is read. Empty if there is none."""

    parts: Mapping[str, Part] = field(default_factory=dict)
    read_blob: Callable[[bytes], Bytes] | None = None


@dataclass(frozen=True, slots=True)
class ArtifactWriter:
    """Stores files. `rows` are the blocks of rows of each collection, as they were written; `fields` the fields whose vectors are
    stored by number; `pool` works on several regions at once; `stored` are regions of files, by path, that were stored with the
    rows that were read from them."""

    submit: Submit
    identify: Identify
    rows: Mapping[str, Sequence[Written]]
    fields: Mapping[str, frozenset[str]]
    find_or_store: FindOrStore
    pool: ThreadPoolExecutor
    stored: Mapping[tuple[str, Region], Future[PendingPart]] = field(default_factory=dict)
    _finding: threading.Lock = field(default_factory=threading.Lock)

    def store(self, artifact: Artifact, before: Before, advance: Callable[[int], None]) -> Callable[[], StoredArtifact]:
        """Hand a file's regions on; the result gives the stored artifact once the blobs' ids are known. That what is split gives
        the same bytes again is checked here: what doesn't is stored as it is. Raises SourceChanged."""
        parts: list[PendingPart] = []
        waiting: deque[Future[PendingPart]] = deque()
        end = 0
        for region in artifact.regions():
            if region.offset != end:
                raise AssertionError(f"{artifact.path}: the regions leave a gap at {end}")
            end = region.offset + region.length
            if region.length:
                stored = self.stored.get((artifact.path, region))
                waiting.append(stored or self.pool.submit(self._part, artifact, region, before))
            if len(waiting) >= _AT_ONCE:
                parts.append(waiting.popleft().result())
            advance(region.length)
        parts += [part.result() for part in waiting]
        if end != artifact.size:
            raise SourceChanged(f"{artifact.path}: {end} of {artifact.size} bytes could be read")
        name, size, collection, immutable = artifact.path, artifact.size, artifact.collection, artifact.immutable
        cut = str(artifact.cut)
        return lambda: StoredArtifact(name, size, collection, immutable, tuple(part() for part in parts), cut)

    @property
    def remainders(self) -> RemainderWriter:
        return RemainderWriter(self.submit, self.identify)

    def _part(self, artifact: Artifact, region: Region, before: Before) -> PendingPart:
        collection = region.collection or artifact.collection or ""
        block = self._block(collection, region)
        if block is not None and not region.stride:
            return _of_rows(collection, region, block)
        content = artifact.read(region.offset, region.length)
        return (
            self._copies(collection, region, content)
            or (self._records(collection, region, content, block, before) if region.stride else None)
            or self._plain(region, content, before)
        )

    def _block(self, collection: str, region: Region) -> Written | None:
        """The block of rows whose vectors the region holds, by what the engine says of it."""
        blocks = self.rows.get(collection, ())
        if not region.column or not 0 <= region.block < len(blocks):
            return None
        block = blocks[region.block]
        _, length = block.checks.get(region.column, (None, -1))
        return block if length == (_vector_bytes(region) if region.stride else region.length) else None

    def _records(
        self, collection: str, region: Region, content: bytes, block: Written | None, before: Before
    ) -> PendingPart | None:
        """Records with a vector each: the vectors are referred to. None if they don't come apart and together again."""
        if region.column not in self.fields.get(collection, ()) or region.length % region.stride:
            return self._apart(region, content)
        taken = (content, b"") if region.stride == region.vector_length else _taken_apart(content, region)
        if taken is None:
            return None
        vectors, rest = taken
        check = self.identify(vectors)
        refer = self._refer(collection, region, vectors, check, block)
        if not rest:
            return lambda: Part(
                region.length, region.kind, "", *region.geometry, check=check.hex(), key=region.key, vectors=refer()
            )
        return self.remainders.of_records(region, rest, lambda: check, refer, before)

    def _refer(self, collection: str, region: Region, vectors: Bytes, check: bytes, block: Written | None) -> Callable[[], Vectors]:
        count = region.length // region.stride
        if block is not None and block.checks[region.column][0]() == check:
            return lambda: Vectors(collection, region.column, count, "slots", block.first)
        with self._finding:
            places = self.find_or_store(collection, region.column, vectors, region.vector_length)
        listed = runs.runs_of(np.arange(len(places)), places)
        if len(listed) == 1:
            return lambda: Vectors(collection, region.column, count, "numbers", int(places[0]))
        blob = self.submit(runs.encode(listed), "int32")
        return lambda: Vectors(collection, region.column, count, "numbers", places=blob.result().hex())

    def _apart(self, region: Region, content: bytes) -> PendingPart | None:
        """Records whose vectors are of no field: a blob of their own."""
        if region.length % region.stride:
            return None
        taken = _taken_apart(content, region)
        if taken is None or not taken[1]:
            return None
        vectors, rest = taken
        blob, remainder = self.submit(vectors, region.kind), self.submit(rest, "int32")
        return lambda: Part(region.length, region.kind, blob.result().hex(), *region.geometry, rest=remainder.result().hex())

    def _copies(self, collection: str, region: Region, content: bytes) -> PendingPart | None:
        """A part that copies from the rows' vectors; None if it doesn't, or if one of them was not stored with the rows."""
        blocks = self.rows.get(collection, ())
        numbers = {place: number for number, place in enumerate(dict.fromkeys((one.column, one.block) for one in region.copies))}
        there = [block < len(blocks) and column in blocks[block].checks for column, block in numbers]
        if not region.copies or not all(there):
            return None
        steps = [copies.Step(one.place, one.length, numbers[one.column, one.block], one.offset) for one in region.copies]
        recipe, check = self.submit(copies.split(content, steps), region.kind), self.identify(content).hex()
        ranges = tuple(Vectors(collection, column, blocks[block].rows, "slots", blocks[block].first) for column, block in numbers)
        return lambda: Part(region.length, region.kind, recipe.result().hex(), check=check, ranges=ranges)

    def _plain(self, region: Region, content: bytes, before: Before) -> PendingPart:
        part = Part(region.length, region.kind, "", key=region.key)
        check = self.identify(content) if region.key else b""
        then = before.parts.get(region.key) if region.key else None
        same = then is not None and check.hex() == (then.check if then.differences else then.blob)
        stored = self.remainders.changed(content, region.kind if not region.stride else "bytes", then, before, same=same)

        def finished() -> Part:
            done = stored(part)
            return replace(done, check=check.hex()) if done.differences else done

        return finished


@dataclass(frozen=True, slots=True)
class RemainderWriter:
    """Stores what of a part isn't vectors."""

    submit: Submit
    identify: Identify

    def of_block(self, collection: str, records: Records, block: Written, before: Before) -> PendingPart:
        """The part of a region that was read with a block of rows, whose vectors are that block's."""
        vectors_id, _ = block.checks[records.region.column]
        refer = Vectors(collection, records.region.column, block.rows, "slots", block.first)
        return self.of_records(records.region, records.rest, vectors_id, lambda: refer, before)

    def of_records(
        self, region: Region, rest: Bytes, vectors_id: Callable[[], bytes], refer: Callable[[], Vectors], before: Before
    ) -> PendingPart:
        """The part of a region of records, whose vectors are referred to."""
        rest_id, then = self.identify(rest), before.parts.get(region.key) if region.key else None

        def check() -> str:
            return check_of(self.identify, vectors_id=vectors_id(), rest_id=rest_id).hex()

        same = then is not None and (check() == then.check if then.differences else rest_id.hex() == then.rest)
        stored = self.changed(rest, "int32", then, before, same=same)
        part = Part(region.length, region.kind, "", *region.geometry, key=region.key)
        return lambda: replace(stored(replace(part, check=check())), vectors=refer())

    def changed(self, content: Bytes, kind: str, then: Part | None, before: Before, *, same: bool) -> Callable[[Part], Part]:
        """Store bytes as they are, or as what changed of what they were `then`. The result puts the blobs' ids into the part."""
        if then is not None and same:
            return lambda part: with_remainder(part, *remainder(then))
        if then is None or not remainder(then)[0] or before.read_blob is None or len(then.differences) >= DEEPEST:
            whole = self.submit(content, kind)
            return lambda part: with_remainder(part, whole.result().hex(), ())
        changed = _difference(content, kind, then, before.read_blob)
        if changed is None:
            whole = self.submit(content, kind)
            return lambda part: with_remainder(part, whole.result().hex(), ())
        blob = self.submit(changed, "uint8")  # it is coded already
        first, differences = remainder(then)
        return lambda part: with_remainder(part, first, (*differences, blob.result().hex()))


def _difference(content: Bytes, kind: str, then: Part, read_blob: Callable[[bytes], Bytes]) -> bytes | None:
    """What changed of a part; None if that is hardly smaller than all of it."""
    try:
        return difference.smaller(content, remainder_of(then, read_blob), kind)
    except (Damaged, CodecError):  # what it would be compared with is lost
        return None


def _taken_apart(content: Bytes, region: Region) -> tuple[memoryview, memoryview] | None:
    """The vectors of a region's records, and the rest; None if they don't make the same bytes again."""
    view, step = memoryview(content), max(1, _CACHED_BYTES // region.stride) * region.stride
    pieces = (view[start : start + step] for start in range(0, len(view), step))
    try:
        vectors, rest = strided.split_proven(pieces, len(view) // region.stride, *region.geometry)
    except CodecError:
        return None
    return vectors.reshape(-1).data, rest.reshape(-1).data


def _of_rows(collection: str, region: Region, block: Written) -> PendingPart:
    """A region that is a block's vectors and nothing else: it is not even read."""
    identity, length = block.checks[region.column]
    width = length // block.rows
    refer = Vectors(collection, region.column, block.rows, "slots", block.first)
    return lambda: Part(region.length, region.kind, "", width, 0, width, check=identity().hex(), key=region.key, vectors=refer)


def _vector_bytes(region: Region) -> int:
    return region.length // region.stride * region.vector_length
