"""How the files of the index plane become blobs, and come back byte for byte."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future

from strongroom.codecs import CodecError, copies, strided
from strongroom.engines.protocol import Artifact
from strongroom.errors import Damaged, SourceChanged
from strongroom.model import Bytes, Region
from strongroom.snapshots.manifest import Part, StoredArtifact
from strongroom.snapshots.segments import PendingSegment

Submit = Callable[[Bytes, str], "Future[bytes]"]
Identify = Callable[[Bytes], bytes]
"""The id that a blob of these bytes has."""


def store_artifact(
    artifact: Artifact, blocks: Sequence[PendingSegment], submit: Submit, identify: Identify, advance: Callable[[int], None]
) -> Callable[[], StoredArtifact]:
    """Hand a file's regions to `submit`; the result gives the stored artifact once the blobs' ids are known. `blocks` are the
    row blocks of the artifact's collection, which a region may be a column of or copy from.

    The vectors of a strided region become a blob of their own; that splitting and joining gives the same bytes is checked
    here, at backup time, and a region that doesn't rejoin is stored as it is.
    """
    parts: list[Callable[[], Part]] = []
    end = 0
    for region in artifact.regions():
        if region.offset != end:
            raise AssertionError(f"{artifact.path}: the regions leave a gap at {end}")
        end = region.offset + region.length
        known = _column_of(region, blocks)
        if known is not None:
            parts.append(functools.partial(_whole, region, known))
        elif region.length:
            content = artifact.read(region.offset, region.length)
            parts.append(_store_copies(region, content, blocks, submit, identify) or _store_region(region, content, submit))
        advance(region.length)
    if end != artifact.size:
        raise SourceChanged(f"{artifact.path}: {end} of {artifact.size} bytes could be read")
    collection, cut = artifact.collection, str(artifact.cut)
    return lambda: StoredArtifact(
        artifact.path, artifact.size, collection, artifact.immutable, tuple(part() for part in parts), cut
    )


def _column_of(region: Region, blocks: Sequence[PendingSegment]) -> Future[bytes] | None:
    """The blob of the vector column that the region is, if it was stored with the rows."""
    if not region.column or region.block >= len(blocks):
        return None
    length, blob = blocks[region.block].vectors.get(region.column, (-1, None))
    return blob if length == region.length else None


def _whole(region: Region, blob: Future[bytes]) -> Part:
    return Part(region.length, region.kind, blob.result().hex())


def _store_copies(
    region: Region, content: bytes, blocks: Sequence[PendingSegment], submit: Submit, identify: Identify
) -> Callable[[], Part] | None:
    """A part that copies from vector columns; None if the region doesn't, or if one of them was not stored with the rows."""
    numbers = {place: number for number, place in enumerate(dict.fromkeys((one.column, one.block) for one in region.copies))}
    sources = [blocks[block].vectors.get(column) if block < len(blocks) else None for column, block in numbers]
    columns = [source[1] for source in sources if source is not None]
    if not region.copies or len(columns) < len(numbers):
        return None
    steps = [copies.Step(one.place, one.length, numbers[one.column, one.block], one.offset) for one in region.copies]
    recipe, check = submit(copies.split(content, steps), region.kind), identify(content).hex()
    return lambda: Part(
        region.length, region.kind, recipe.result().hex(), sources=tuple(column.result().hex() for column in columns), check=check
    )


def _store_region(region: Region, content: bytes, submit: Submit) -> Callable[[], Part]:
    if region.stride:
        vectors, rest = strided.split(content, region.stride, region.vector_offset, region.vector_length)
        if strided.join(vectors, rest, region.stride, region.vector_offset, region.vector_length) == content:
            blob, remainder = submit(vectors, region.kind), submit(rest, "int32")
            return lambda: Part(
                region.length,
                region.kind,
                blob.result().hex(),
                region.stride,
                region.vector_offset,
                region.vector_length,
                remainder.result().hex(),
            )
    return functools.partial(_whole, region, submit(content, region.kind if not region.stride else "bytes"))


def read_part(part: Part, read_blob: Callable[[bytes], Bytes], read_source: Callable[[bytes], Bytes], identify: Identify) -> Bytes:
    """The bytes of one part. `read_source` reads blobs that the next part may need too. Raises Damaged."""
    blob = read_blob(bytes.fromhex(part.blob))
    try:
        if part.sources:
            made = copies.join(blob, [read_source(bytes.fromhex(source)) for source in part.sources], part.length)
            if identify(made).hex() != part.check:
                raise Damaged(f"blob {part.blob[:16]}", "what it makes of other blobs is not what was backed up")
            return made
        if part.stride:
            rest = read_blob(bytes.fromhex(part.rest))
            return strided.join(blob, rest, part.stride, part.vector_offset, part.vector_length)
    except (CodecError, ValueError) as error:
        raise Damaged(f"blob {part.blob[:16]}", f"it doesn't fit the blobs that it belongs to ({error})") from error
    return blob


def offsets(artifact: StoredArtifact) -> Iterator[tuple[int, Part]]:
    """Each part with its offset in the file."""
    end = 0
    for part in artifact.parts:
        yield end, part
        end += part.length


def holds(part: Part, content: bytes, identify: Identify) -> bool:
    """Are these the bytes of the part? Nothing is fetched: the blobs' ids are keyed hashes of their bytes."""
    if len(content) != part.length:
        return False
    if not part.stride:
        return identify(content).hex() == (part.check or part.blob)
    vectors, rest = strided.split(content, part.stride, part.vector_offset, part.vector_length)
    return identify(vectors).hex() == part.blob and identify(rest).hex() == part.rest
