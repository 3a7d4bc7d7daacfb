"""How the files of the index plane become blobs, and come back byte for byte.

Vectors are not stored with a file: they are those of the rows, or such as were stored before. What else a file holds is stored as
it is, or as what changed of it since the snapshot before, if that is smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from strongroom.codecs import CodecError, copies, difference, runs, strided
from strongroom.codecs.runs import NONE, Numbers
from strongroom.engines.protocol import Artifact
from strongroom.errors import Damaged, SourceChanged
from strongroom.model import Bytes, Region
from strongroom.snapshots.manifest import Part, StoredArtifact, Vectors
from strongroom.snapshots.rows_writer import Written
from strongroom.snapshots.segments import Submit
from strongroom.snapshots.slots import Slots

Identify = Callable[[Bytes], bytes]
"""The id that a blob of these bytes has."""

FindOrStore = Callable[[str, str, Bytes, int], Numbers]
"""Of a collection and a field: the numbers of vectors of so many bytes, which are stored if they aren't yet."""

DEEPEST = 8
"""So many differences lie on one another before a part is stored whole again."""

PendingPart = Callable[[], Part]


@dataclass(frozen=True, slots=True)
class Before:
    """The same file in the snapshot before: its parts by key, and how a blob is read. Empty if there is none."""

    parts: Mapping[str, Part] = field(default_factory=dict)
    read_blob: Callable[[bytes], Bytes] | None = None


@dataclass(frozen=True, slots=True)
class ArtifactWriter:
    """Stores files. `rows` are the blocks of rows of each collection, as they were written; `fields` the fields whose vectors are
    stored by number."""

    submit: Submit
    identify: Identify
    rows: Mapping[str, Sequence[Written]]
    fields: Mapping[str, frozenset[str]]
    find_or_store: FindOrStore

    def store(self, artifact: Artifact, before: Before, advance: Callable[[int], None]) -> Callable[[], StoredArtifact]:
        """Hand a file's regions on; the result gives the stored artifact once the blobs' ids are known. That what is split gives
        the same bytes again is checked here: what doesn't is stored as it is. Raises SourceChanged."""
        parts: list[PendingPart] = []
        end = 0
        for region in artifact.regions():
            if region.offset != end:
                raise AssertionError(f"{artifact.path}: the regions leave a gap at {end}")
            end = region.offset + region.length
            if region.length:
                parts.append(self._part(artifact, region, before))
            advance(region.length)
        if end != artifact.size:
            raise SourceChanged(f"{artifact.path}: {end} of {artifact.size} bytes could be read")
        name, size, collection, immutable = artifact.path, artifact.size, artifact.collection, artifact.immutable
        cut = str(artifact.cut)
        return lambda: StoredArtifact(name, size, collection, immutable, tuple(part() for part in parts), cut)

    def _part(self, artifact: Artifact, region: Region, before: Before) -> PendingPart:
        collection = region.collection or artifact.collection or ""
        block = self._block(collection, region)
        if block is not None and region.stride in (0, region.vector_length):
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
        geometry = (region.stride, region.vector_offset, region.vector_length)
        if region.column not in self.fields.get(collection, ()) or region.length % region.stride:
            return self._apart(region, content)
        vectors, rest = strided.split(content, *geometry)
        if strided.join(vectors, rest, *geometry) != content:
            return None
        check = self.identify(vectors)
        refer = self._refer(collection, region, vectors, check, block)
        if not rest:
            return lambda: Part(region.length, region.kind, "", *geometry, check=check.hex(), key=region.key, vectors=refer())
        whole = check_of(self.identify, vectors_id=check, rest_id=self.identify(rest)).hex()
        stored = self._changed(rest, "int32", region.key, before)
        return lambda: replace(
            stored(Part(region.length, region.kind, "", *geometry, check=whole, key=region.key)), vectors=refer()
        )

    def _refer(self, collection: str, region: Region, vectors: bytes, check: bytes, block: Written | None) -> Callable[[], Vectors]:
        count = region.length // region.stride
        if block is not None and block.checks[region.column][0]() == check:
            return lambda: Vectors(collection, region.column, count, "slots", block.first)
        places = self.find_or_store(collection, region.column, vectors, region.vector_length)
        listed = runs.runs_of(np.arange(len(places)), places)
        if len(listed) == 1:
            return lambda: Vectors(collection, region.column, count, "numbers", int(places[0]))
        blob = self.submit(runs.encode(listed), "int32")
        return lambda: Vectors(collection, region.column, count, "numbers", places=blob.result().hex())

    def _apart(self, region: Region, content: bytes) -> PendingPart | None:
        """Records whose vectors are of no field: a blob of their own."""
        geometry = (region.stride, region.vector_offset, region.vector_length)
        if region.length % region.stride:
            return None
        vectors, rest = strided.split(content, *geometry)
        if strided.join(vectors, rest, *geometry) != content or not rest:
            return None
        blob, remainder = self.submit(vectors, region.kind), self.submit(rest, "int32")
        return lambda: Part(region.length, region.kind, blob.result().hex(), *geometry, rest=remainder.result().hex())

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
        stored = self._changed(content, region.kind if not region.stride else "bytes", region.key, before)
        check = self.identify(content).hex() if region.key else ""

        def finished() -> Part:
            done = stored(part)
            return replace(done, check=check) if done.differences else done

        return finished

    def _changed(self, content: bytes, kind: str, key: str, before: Before) -> Callable[[Part], Part]:
        """Store bytes as they are or as what changed of them. The result puts the blobs' ids into the part."""
        then = before.parts.get(key) if key else None
        if then is not None and before.read_blob is not None and len(then.differences) < DEEPEST:
            base = remainder_of(then, before.read_blob)
            if base == content:
                return lambda part: _with_remainder(part, *_remainder(then))
            changed = difference.smaller(content, base, kind)
            if changed is not None:
                blob = self.submit(changed, "uint8")  # it is coded already
                first, others = _remainder(then)
                return lambda part: _with_remainder(part, first, (*others, blob.result().hex()))
        whole = self.submit(content, kind)
        return lambda part: _with_remainder(part, whole.result().hex(), ())


def _of_rows(collection: str, region: Region, block: Written) -> PendingPart:
    """A region that is a block's vectors and nothing else: it is not even read."""
    identity, length = block.checks[region.column]
    width = length // block.rows
    refer = Vectors(collection, region.column, block.rows, "slots", block.first)
    return lambda: Part(region.length, region.kind, "", width, 0, width, check=identity().hex(), key=region.key, vectors=refer)


def _vector_bytes(region: Region) -> int:
    return region.length // region.stride * region.vector_length


def _remainder(part: Part) -> tuple[str, tuple[str, ...]]:
    return (part.rest if part.stride else part.blob), part.differences


def _with_remainder(part: Part, first: str, differences: tuple[str, ...]) -> Part:
    if part.stride:
        return replace(part, differences=differences, rest=first)
    return replace(part, differences=differences, blob=first)


def remainder_of(part: Part, read_blob: Callable[[bytes], Bytes]) -> Bytes:
    """What of a part isn't vectors: the blob that it was stored as first, with each change since. Raises Damaged."""
    first, differences = _remainder(part)
    content: Bytes = read_blob(bytes.fromhex(first)) if first else b""
    for blob in differences:
        content = difference.undo(read_blob(bytes.fromhex(blob)), content)
    return content


def check_of(identify: Identify, *, vectors_id: bytes, rest_id: bytes) -> bytes:
    """The keyed hash of records, of those of their vectors and of the rest: so each is hashed once, whatever it is needed for."""
    return identify(vectors_id + rest_id)


class ArtifactReader:
    """Reads the parts of a snapshot's files. Any thread."""

    def __init__(
        self,
        slots: Mapping[str, Slots],
        read_blob: Callable[[bytes], Bytes],
        identify: Identify,
        read_source: Callable[[bytes], Bytes] | None = None,
    ) -> None:
        """`slots` are those of each collection. `read_source` reads blobs that are copied from: the next part may need them too."""
        self._slots = slots
        self._read_blob = read_blob
        self._read_source = read_source or read_blob
        self._identify = identify

    def read(self, part: Part) -> Bytes:
        """The bytes of one part, proven to be those that were backed up. Raises Damaged."""
        try:
            if part.sources or part.ranges:
                return self._copied(part)
            if part.stride:
                return self._joined(part)
            content = remainder_of(part, self._read_blob)
        except (CodecError, ValueError) as error:
            raise Damaged(f"blob {_name(part)}", f"it doesn't fit the blobs that it belongs to ({error})") from error
        if part.differences:
            self._require(part, self._identify(content))
        return content

    def vectors(self, vectors: Vectors) -> Bytes:
        """The vectors that a part refers to. Raises Damaged."""
        slots, places = self._resolved(vectors)
        return slots.reader(vectors.field).take(places)

    def block(self, part: Part) -> str:
        """The blob whose bytes a part's vectors are, all of them and no others; '' if there is none. Raises Damaged."""
        if part.vectors is None:
            return part.blob if not part.sources and not part.ranges and not part.differences else ""
        slots, places = self._resolved(part.vectors)
        block = slots.reader(part.vectors.field).whole(places)
        return block.blob if block else ""

    def _resolved(self, vectors: Vectors) -> tuple[Slots, Numbers]:
        slots = self._slots.get(vectors.collection)
        if slots is None:
            raise Damaged(f"collection {vectors.collection}", "a file has vectors of it, and the snapshot hasn't")
        places = slots.resolve(vectors)
        if (places == NONE).any():
            raise Damaged(f"collection {vectors.collection}", "a file has vectors of rows that are not stored")
        return slots, places

    def _joined(self, part: Part) -> Bytes:
        if part.vectors is None:
            vectors, rest = self._read_blob(bytes.fromhex(part.blob)), self._read_blob(bytes.fromhex(part.rest))
            return strided.join(vectors, rest, part.stride, part.vector_offset, part.vector_length)
        vectors = self.vectors(part.vectors)
        identity = self._identify(vectors)
        if not part.rest:
            self._require(part, identity)
            return vectors
        rest = remainder_of(part, self._read_blob)
        self._require(part, check_of(self._identify, vectors_id=identity, rest_id=self._identify(rest)))
        return strided.join(vectors, rest, part.stride, part.vector_offset, part.vector_length)

    def _copied(self, part: Part) -> Bytes:
        recipe = self._read_blob(bytes.fromhex(part.blob))
        sources = [self._read_source(bytes.fromhex(source)) for source in part.sources]
        sources += [self.vectors(one) for one in part.ranges]
        made = copies.join(recipe, sources, part.length)
        self._require(part, self._identify(made))
        return made

    def _require(self, part: Part, identity: bytes) -> None:
        if identity.hex() != part.check:
            raise Damaged(f"blob {_name(part)}", "what it makes of other blobs is not what was backed up")


def _name(part: Part) -> str:
    return next(part.blobs(), "?")[:16]


def offsets(artifact: StoredArtifact) -> Iterator[tuple[int, Part]]:
    """Each part with its offset in the file."""
    end = 0
    for part in artifact.parts:
        yield end, part
        end += part.length


def holds(part: Part, content: bytes, identify: Identify) -> bool:
    """Are these the bytes of the part? Nothing is fetched: ids and checks are keyed hashes."""
    if len(content) != part.length:
        return False
    if not part.stride:
        return identify(content).hex() == (part.check or part.blob)
    vectors, rest = strided.split(content, part.stride, part.vector_offset, part.vector_length)
    if part.vectors is None:
        return identify(vectors).hex() == part.blob and identify(rest).hex() == part.rest
    identity = identify(vectors)
    return part.check == (check_of(identify, vectors_id=identity, rest_id=identify(rest)) if part.rest else identity).hex()
