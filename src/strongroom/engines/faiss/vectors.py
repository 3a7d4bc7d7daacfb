"""How the vectors of an index are had, block after block: cut from the file where it holds them, else decoded by FAISS."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from strongroom.engines.faiss.layout import Layout, Lists, Span
from strongroom.engines.indexfile.content import vector_array, vector_type
from strongroom.engines.indexfile.held import OpenFile
from strongroom.engines.indexfile.order import Ids
from strongroom.engines.isolation import Descriptor, call
from strongroom.engines.protocol import rows_per_block
from strongroom.errors import StrongroomError, Unreadable

_LIBRARY = "strongroom.engines.faiss.library"


def blocks(file: OpenFile, layout: Layout) -> Iterator[pa.Array]:
    """All vectors in storage order, as fixed-size lists of float32, in blocks of at most `rows_per_block` rows.

    Vectors that the file holds are cut where `Layout.regions` cuts them and share the memory of the bytes read: in lists a
    block ends where its list ends.
    """
    if not layout.exact:
        yield from _decoded(file, layout)
        return
    width = 4 * layout.dimension
    step = rows_per_block(width)
    for offset, rows in _runs(layout):
        for start in range(0, rows, step):
            count = min(step, rows - start)
            yield vector_array(file.read(offset + start * width, count * width), "float32", layout.dimension)


def fetch(file: OpenFile, layout: Layout, rows: Ids) -> npt.NDArray[np.float32] | None:
    """The vectors of these rows (ordinals in storage order), rows x dimension; None if the file doesn't hold vectors."""
    if not layout.exact:
        return None
    width = 4 * layout.dimension
    if layout.vectors is not None and len(rows) and int(rows[-1]) - int(rows[0]) == len(rows) - 1 and (np.diff(rows) == 1).all():
        content = file.read(layout.vectors.offset + int(rows[0]) * width, len(rows) * width)
    else:
        content = b"".join(file.read(int(offset), width) for offset in _offsets(layout, rows))
    return np.frombuffer(content, "<f4").reshape(-1, layout.dimension)


def _runs(layout: Layout) -> Iterator[tuple[int, int]]:
    """Offset and number of vectors that lie one after another."""
    if isinstance(layout.vectors, Span):
        yield layout.vectors.offset, layout.count
    elif isinstance(layout.lists, Lists):
        for number in np.flatnonzero(layout.lists.sizes):
            yield int(layout.lists.offsets[number]), int(layout.lists.sizes[number])


def _offsets(layout: Layout, rows: Ids) -> Ids:
    width = 4 * layout.dimension
    if layout.vectors is not None:
        return layout.vectors.offset + rows * width
    assert layout.lists is not None  # noqa: S101 - exact vectors are in one or the other
    ends = np.cumsum(layout.lists.sizes)
    numbers = np.searchsorted(ends, rows, side="right")
    within = rows - (ends[numbers] - layout.lists.sizes[numbers])
    offsets: Ids = layout.lists.offsets[numbers] + within * width
    return offsets


def _decoded(file: OpenFile, layout: Layout) -> Iterator[pa.Array]:
    """The vectors as FAISS decodes them, streamed from a child process. Raises Unreadable if they are not all there."""
    receiving, sending = os.pipe()
    failures: list[StrongroomError] = []

    def run() -> None:
        try:
            call(f"{_LIBRARY}:decode", Descriptor(file.descriptor), Descriptor(sending))
        except StrongroomError as error:
            failures.append(error)
        finally:
            os.close(sending)  # the last one open: a child that died would otherwise leave the reader waiting

    worker = threading.Thread(target=run, name="faiss-decode", daemon=True)
    worker.start()
    rows = 0
    try:
        with os.fdopen(receiving, "rb") as pipe, pa.ipc.open_stream(pipe) as stream:
            for batch in stream:
                rows += batch.num_rows
                yield batch.column("vector").cast(vector_type("float32", layout.dimension))
    except (pa.ArrowException, OSError) as error:
        worker.join()
        raise failures[0] if failures else Unreadable(f"{file.path}: FAISS ended before its last vector") from error
    finally:
        worker.join()
    if failures:
        raise failures[0]
    if rows != layout.count:
        raise Unreadable(f"{file.path}: FAISS gave {rows:,} of {layout.count:,} vectors")
