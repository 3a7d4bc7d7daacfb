"""Where does a sidecar repeat the index's vectors, byte for byte?

A Parquet file keeps them in pages of about a megabyte, with headers between; its usual compression leaves most float32 vectors as
they are. So they lie there in their order, in runs that are found by looking for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from strongroom.codecs.copies import Run, Trail
from strongroom.engines.indexfile.content import Matrix
from strongroom.engines.indexfile.held import OpenFile
from strongroom.engines.protocol import BLOCK_BYTES, rows_per_block
from strongroom.engines.regions import by_content
from strongroom.model import Copy, Region

_HEADERS = 4096
"""Bytes between two runs that are no region of their own: a recipe holds them just as well."""


def regions(sidecar: OpenFile, vectors: Matrix) -> Iterator[Region]:
    """The whole sidecar as regions that say what of them is the column `vector` of the index's row blocks. What lies between, other
    columns say, is cut by content."""
    trail = Trail(vectors.read, vectors.length)
    block = rows_per_block(vectors.record) * vectors.record
    for offset in range(0, sidecar.size, BLOCK_BYTES):
        piece = sidecar.read(offset, min(BLOCK_BYTES, sidecar.size - offset))
        end = 0
        for start, stop, runs in _together(trail.runs(piece)):
            yield from _between(sidecar, offset + end, offset + start)
            copies = (_by_block(replace(run, place=run.place - start), block) for run in runs)
            yield Region(offset + start, stop - start, copies=tuple(copy for of_run in copies for copy in of_run))
            end = stop
        yield from _between(sidecar, offset + end, offset + len(piece))


def _together(found: Iterable[Run]) -> Iterator[tuple[int, int, list[Run]]]:
    """Runs with no more than page headers between them, and where they begin and end in their piece."""
    runs: list[Run] = []
    for run in found:
        if runs and run.place - (runs[-1].place + runs[-1].length) > _HEADERS:
            yield runs[0].place, runs[-1].place + runs[-1].length, runs
            runs = []
        runs.append(run)
    if runs:
        yield runs[0].place, runs[-1].place + runs[-1].length, runs


def _between(sidecar: OpenFile, start: int, stop: int) -> Iterator[Region]:
    for region in by_content(sidecar.read, stop - start, start):
        yield replace(region, key="")  # what lies before it is only the place where vectors end


def _by_block(run: Run, block: int) -> Iterator[Copy]:
    """A run cut where a row block of `block` bytes ends."""
    done = 0
    while done < run.length:
        number, within = divmod(run.offset + done, block)
        length = min(run.length - done, block - within)
        yield Copy(run.place + done, length, "vector", number, within)
        done += length
