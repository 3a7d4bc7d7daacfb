"""The rows of a snapshot's collection, one batch after another, wherever the snapshot keeps them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from strongroom.operations.restore.replay import actual_name
from strongroom.operations.restore.rows import stored_rows
from strongroom.operations.restore.scratch import Scratch
from strongroom.progress import SILENT
from strongroom.repository import Repository
from strongroom.snapshots.history import Snapshot
from strongroom.snapshots.manifest import StoredCollection


def snapshot_rows(
    repository: Repository, snapshot: Snapshot, collection: StoredCollection, directory: Path
) -> Iterator[pa.RecordBatch]:
    """`directory` is an empty one of the caller's, for what doesn't fit in memory. Raises Damaged."""
    if snapshot.manifest.rows_plane == "segments":
        if collection.schema:
            for block in stored_rows(snapshot.reading(repository), collection, directory):
                yield block.live()
        return
    with Scratch(repository, snapshot, directory / "scratch").source(collection.name).freeze(SILENT) as frozen:
        for block in frozen.rows(actual_name(frozen, collection.name)):
            yield block.live()
