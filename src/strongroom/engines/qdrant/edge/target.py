"""How does a shard come to be from a snapshot: by its own files, or by inserting rows?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa

from strongroom.engines import isolation
from strongroom.engines.changes import Change, spool
from strongroom.engines.qdrant.edge.frozen import EdgeSource
from strongroom.engines.qdrant.loading import conversions_of, fidelity_of, losses_of, objections_of
from strongroom.engines.qdrant.shape import config_for
from strongroom.engines.staged_directory import DirectoryStage, DirectoryTarget
from strongroom.engines.staging import remove, sync_tree
from strongroom.errors import EngineFailed
from strongroom.model import Collection, Conversion, Description, Fidelity, Selection

_LIBRARY = "strongroom.engines.qdrant.edge.library"


class EdgeTarget(DirectoryTarget):
    """The folder of a shard, to be written."""

    holds_one = True

    def objections(self, collection: Collection, schema: pa.Schema) -> Sequence[str]:
        return list(objections_of(collection, schema))

    def losses(self, collection: Collection, schema: pa.Schema) -> Sequence[str]:
        return list(losses_of(collection, schema))

    def conversions(self, collection: Collection, schema: pa.Schema) -> Sequence[Conversion]:
        return conversions_of(collection, schema, self.fidelity(collection))

    def fidelity(self, collection: Collection) -> Fidelity:
        return fidelity_of(collection)

    def stage(self, token: str, selection: Selection) -> EdgeStage:
        """Open or re-open the stage of `token` beside the folder. Raises Locked."""
        return EdgeStage(self._place, token)


class EdgeStage(DirectoryStage):
    """A new shard under construction. Every step may be repeated after a crash."""

    def __init__(self, target: Path, token: str) -> None:
        super().__init__(target, token)
        self._name = ""

    def adopt(self, description: Description, selection: Selection) -> None:
        """No file holds the shard's name: nothing has to be done."""
        self._name = selection.target_name(selection.chosen(description.collections)[0].name)

    def load(self, collection: Collection, batches: Iterable[pa.RecordBatch]) -> None:
        """A new shard with these rows, which are spooled to the stage first: Qdrant's process takes them from there. Raises
        EngineFailed if it refuses, or ends up with another number of points."""
        self._name = collection.name
        remove(self._root)
        self._root.mkdir(mode=0o700)
        path = self.directory / "spool.arrow"
        try:
            rows = _spooled(path, batches)
            wanted = config_for(collection), dict(collection.catalog.get("payload_indexes", {}))
            made = isolation.call(f"{_LIBRARY}:make", str(self._root), *wanted, str(path) if rows else "")
        finally:
            remove(path)
        if made != rows:
            raise EngineFailed(f"the shard has {made} points after {rows} rows were put into it")

    def identity(self, collection: Collection) -> str:
        """A shard is one collection: what it is called may change, which it is can't."""
        return "shard"

    def apply(self, changes: Iterable[Change], selection: Selection) -> int:
        """Apply changes of the journal in a child process. Gives the number of operations. Raises EngineFailed."""
        path = self.directory / "changes.spool"
        try:
            with path.open("wb") as file:
                count = spool(changes, file)
            isolation.call(f"{_LIBRARY}:replay", str(self._root), str(path))
            return count
        finally:
            remove(path)

    def seal(self) -> None:
        """Make everything durable."""
        sync_tree(self._root)

    def source(self) -> EdgeSource:
        """The staged shard, to be read back; its private copies are made in the stage."""
        return EdgeSource(self._root, self._name or self._target.name, self.directory)


def _spooled(path: Path, batches: Iterable[pa.RecordBatch]) -> int:
    """Write the batches to an Arrow stream; gives the number of rows, 0 (and no file) if there are none."""
    rows = 0
    writer = None
    try:
        for batch in batches:
            writer = writer or pa.ipc.new_stream(str(path), batch.schema)
            writer.write_batch(batch)
            rows += batch.num_rows
    finally:
        if writer is not None:
            writer.close()
    return rows
