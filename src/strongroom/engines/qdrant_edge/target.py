"""How does a shard come to be from a snapshot: by its own files, or by inserting rows?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from strongroom.engines import isolation
from strongroom.engines.changes import Change, spool
from strongroom.engines.qdrant_edge.conversion import role_of
from strongroom.engines.qdrant_edge.frozen import EdgeSource
from strongroom.engines.qdrant_edge.shape import DISTANCES, KIND, config_for
from strongroom.engines.staged_directory import DirectoryStage, DirectoryTarget
from strongroom.engines.staging import remove, sync_tree
from strongroom.errors import EngineFailed
from strongroom.model import Collection, Description, Fidelity, Role, Selection

_LIBRARY = "strongroom.engines.qdrant_edge.library"
_LARGEST = 65_536


class EdgeTarget(DirectoryTarget):
    """The folder of a shard, to be written."""

    holds_one = True

    def objections(self, collection: Collection, schema: pa.Schema) -> Sequence[str]:
        return list(_objections(collection, schema))

    def losses(self, collection: Collection, schema: pa.Schema) -> Sequence[str]:
        return list(_losses(collection, schema))

    def fidelity(self, collection: Collection) -> Fidelity:
        """With Cosine Qdrant keeps unit vectors, and those that it has made so stay as they are."""
        own = "edge_config" in collection.catalog
        if own and any(field.decoded for field in collection.fields):
            return Fidelity.CODED
        return Fidelity.NORMALIZED if not own and any(one.metric == "cosine" for one in collection.fields) else Fidelity.KEPT

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


def _objections(collection: Collection, schema: pa.Schema) -> Iterator[str]:
    own = "edge_config" in collection.catalog
    if not collection.fields and not own:
        yield "the rows have no vector"
    for one in collection.fields:
        if one.dimension > _LARGEST:
            yield f"Qdrant's vectors have at most {_LARGEST:,} numbers (field {one.name!r})"
        if one.metric not in DISTANCES and not own:
            yield f"Qdrant has no metric {one.metric!r} (field {one.name!r})"
    if sum(role_of(field) is Role.ID for field in schema) != 1:
        yield "the rows have no id column"


def _losses(collection: Collection, schema: pa.Schema) -> Iterator[str]:
    own = "edge_config" in collection.catalog
    if not own and any(one.metric == "cosine" for one in collection.fields):
        yield "with Cosine Qdrant keeps unit vectors"
    if not own:
        yield "ids that are neither whole numbers nor UUIDs become UUIDs; what they were stands in the payload as 'strongroom_id'"
        for one in collection.fields:
            if one.dtype not in ("float32", "float16", "uint8"):
                yield f"vectors of type {one.dtype} become float32 (field {one.name!r})"
        extra = [field.name for field in schema if role_of(field) is Role.COLUMN and KIND not in (field.metadata or {})]
        if extra:
            yield f"columns become payload: {', '.join(extra)}"
    yield "the index is built anew: answers may differ a little"
