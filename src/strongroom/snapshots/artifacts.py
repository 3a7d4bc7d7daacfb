"""How the files of the index plane become blobs, and come back byte for byte."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future

from strongroom.codecs import CodecError, strided
from strongroom.engines.protocol import Artifact
from strongroom.errors import Damaged, SourceChanged
from strongroom.model import Bytes, Region
from strongroom.snapshots.manifest import Part, StoredArtifact
from strongroom.snapshots.segments import PendingSegment

Submit = Callable[[Bytes, str], "Future[bytes]"]


def store_artifact(
    artifact: Artifact, blocks: Sequence[PendingSegment], submit: Submit, advance: Callable[[int], None]
) -> Callable[[], StoredArtifact]:
    """Hand a file's regions to `submit`; the result gives the stored artifact once the blobs' ids are known. `blocks` are the
    row blocks of the artifact's collection, which a region may be a column of.

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
            parts.append(_store_region(region, artifact.read(region.offset, region.length), submit))
        advance(region.length)
    if end != artifact.size:
        raise SourceChanged(f"{artifact.path}: {end} of {artifact.size} bytes could be read")
    collection = artifact.collection
    return lambda: StoredArtifact(artifact.path, artifact.size, collection, artifact.immutable, tuple(part() for part in parts))


def _column_of(region: Region, blocks: Sequence[PendingSegment]) -> Future[bytes] | None:
    """The blob of the vector column that the region is, if it was stored with the rows."""
    if not region.column or region.block >= len(blocks):
        return None
    length, blob = blocks[region.block].vectors.get(region.column, (-1, None))
    return blob if length == region.length else None


def _whole(region: Region, blob: Future[bytes]) -> Part:
    return Part(region.length, region.kind, blob.result().hex())


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


def read_part(part: Part, read_blob: Callable[[bytes], Bytes]) -> Bytes:
    """The bytes of one part. Raises Damaged."""
    blob = read_blob(bytes.fromhex(part.blob))
    if not part.stride:
        return blob
    rest = read_blob(bytes.fromhex(part.rest))
    try:
        return strided.join(blob, rest, part.stride, part.vector_offset, part.vector_length)
    except (CodecError, ValueError) as error:
        raise Damaged(f"blob {part.blob[:16]}", f"it doesn't make records with blob {part.rest[:16]}") from error


def offsets(artifact: StoredArtifact) -> Iterator[tuple[int, Part]]:
    """Each part with its offset in the file."""
    end = 0
    for part in artifact.parts:
        yield end, part
        end += part.length


def holds(part: Part, content: bytes, identify: Callable[[Bytes], bytes]) -> bool:
    """Are these the bytes of the part? Nothing is fetched: the blobs' ids are keyed hashes of their bytes."""
    if len(content) != part.length:
        return False
    if not part.stride:
        return identify(content).hex() == part.blob
    vectors, rest = strided.split(content, part.stride, part.vector_offset, part.vector_length)
    return identify(vectors).hex() == part.blob and identify(rest).hex() == part.rest
