"""Where does a sidecar repeat the index's vectors, byte for byte?

A Parquet file keeps them in pages of about a megabyte, with headers between; its usual compression leaves most float32 vectors as
they are. So they lie there in their order, in runs that are found by looking for them.
"""

from __future__ import annotations

from collections.abc import Iterator

from strongroom.codecs.copies import Run, Trail
from strongroom.engines.indexfile.content import Matrix
from strongroom.engines.indexfile.held import OpenFile
from strongroom.engines.protocol import BLOCK_BYTES, rows_per_block
from strongroom.model import Copy, Region


def regions(sidecar: OpenFile, vectors: Matrix) -> Iterator[Region]:
    """The whole sidecar as regions that say what of them is the column `vector` of the index's row blocks."""
    trail = Trail(vectors.read, vectors.length)
    block = rows_per_block(vectors.record) * vectors.record
    for offset in range(0, sidecar.size, BLOCK_BYTES):
        piece = sidecar.read(offset, min(BLOCK_BYTES, sidecar.size - offset))
        yield Region(offset, len(piece), copies=tuple(copy for run in trail.runs(piece) for copy in _by_block(run, block)))


def _by_block(run: Run, block: int) -> Iterator[Copy]:
    """A run cut where a row block of `block` bytes ends."""
    done = 0
    while done < run.length:
        number, within = divmod(run.offset + done, block)
        length = min(run.length - done, block - within)
        yield Copy(run.place + done, length, "vector", number, within)
        done += length
