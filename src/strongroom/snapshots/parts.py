"""How is a part of a file made again from blobs, and proven to be what it was?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from strongroom.codecs import CodecError, copies, difference, strided
from strongroom.codecs.runs import NONE, Numbers
from strongroom.errors import Damaged
from strongroom.model import Bytes
from strongroom.snapshots.manifest import Part, StoredArtifact, Vectors
from strongroom.snapshots.slots import Slots

Identify = Callable[[Bytes], bytes]
"""The id that a blob of these bytes has."""

_Known = tuple[Bytes, bytes]
"""Vectors and their keyed hash."""


def remainder(part: Part) -> tuple[str, tuple[str, ...]]:
    """What of a part isn't vectors: the blob that it was stored as first, and the blobs of what changed since."""
    return (part.rest if part.stride else part.blob), part.differences


def with_remainder(part: Part, first: str, differences: tuple[str, ...]) -> Part:
    """The part with these blobs as its remainder."""
    if part.stride:
        return replace(part, differences=differences, rest=first)
    return replace(part, differences=differences, blob=first)


def same_bytes(one: StoredArtifact, other: StoredArtifact) -> bool:
    """Do two snapshots hold the same bytes of a file? Told by their hashes: False also where these don't say."""
    return [_content(part) for part in one.parts] == [_content(part) for part in other.parts]


def _content(part: Part) -> tuple[object, ...]:
    shape = part.length, part.stride, part.vector_offset, part.vector_length
    return (*shape, part.check) if part.check else (*shape, part.blob, part.rest, part.sources, part.differences)


def remainder_of(part: Part, read_blob: Callable[[bytes], Bytes]) -> Bytes:
    """What of a part isn't vectors: the blob that it was stored as first, with each change since. Raises Damaged."""
    first, differences = remainder(part)
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
        return next(self.read_alike((part,)))

    def read_alike(self, parts: Iterable[Part]) -> Iterator[Bytes]:
        """As `read`, of parts that refer to the same vectors: these are fetched and hashed once."""
        known: _Known | None = None
        for part in parts:
            try:
                if part.stride and part.vectors and known is None:
                    vectors = self.vectors(part.vectors)
                    known = vectors, self._identify(vectors)
                yield self._read(part, known)
            except (CodecError, ValueError) as error:
                raise Damaged(f"blob {_name(part)}", f"it doesn't fit the blobs that it belongs to ({error})") from error

    def _read(self, part: Part, known: _Known | None) -> Bytes:
        if part.sources or part.ranges:
            return self._copied(part)
        if part.stride:
            return self._joined(part, *known) if known else self._apart(part)
        content = remainder_of(part, self._read_blob)
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

    def _apart(self, part: Part) -> Bytes:
        """Records whose vectors are a blob of their own."""
        vectors, rest = self._read_blob(bytes.fromhex(part.blob)), self._read_blob(bytes.fromhex(part.rest))
        return strided.join(vectors, rest, part.stride, part.vector_offset, part.vector_length)

    def _joined(self, part: Part, vectors: Bytes, identity: bytes) -> Bytes:
        """Records whose vectors are kept elsewhere, and have this keyed hash."""
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
