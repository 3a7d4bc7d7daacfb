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
from strongroom.engines.staging import StagedEntries, remove, sync_tree, write_durably
from strongroom.errors import Damaged, EngineFailed, Refused
from strongroom.model import Collection, Description, Fidelity, Role, Selection

RECEIPT = "strongroom.json"
_LIBRARY = "strongroom.engines.qdrant_edge.library"
_LARGEST = 65_536


class EdgeTarget:
    """The folder of a shard, to be written."""

    holds_one = True

    def __init__(self, shard: Path) -> None:
        self._shard = shard

    def occupied(self, collections: Sequence[str] = ()) -> Sequence[str]:
        """The folder itself, if it has anything in it: a shard is replaced as a whole."""
        if self._shard.is_dir() and not any(self._shard.iterdir()):
            return ()
        return (str(self._shard),) if self._shard.exists() or self._shard.is_symlink() else ()

    def receipt(self) -> bytes | None:
        """What the last `publish` left inside of the folder."""
        try:
            return (self._shard / RECEIPT).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

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
        return EdgeStage(self._shard, token, selection)


class EdgeStage:
    """A new shard under construction. Every step may be repeated after a crash."""

    def __init__(self, target: Path, token: str, selection: Selection) -> None:
        self._target = target
        self._staged = StagedEntries(target.parent, token, (target.name,))
        self._shard = self._staged.new / target.name
        self._name = ""

    @property
    def directory(self) -> Path:
        return self._staged.directory

    def artifact_path(self, path: str) -> Path:
        """Where `path` goes, with its folder made. Raises Damaged if it points outside of the stage."""
        if path.startswith("/"):
            raise Damaged(f"artifact {path!r}", "its path points outside of the target")
        place = self._staged.contained(f"{self._target.name}/{path}")
        place.parent.mkdir(parents=True, exist_ok=True)
        return place

    def adopt(self, description: Description, selection: Selection) -> None:
        """No file holds the shard's name: nothing has to be done."""
        self._name = selection.target_name(selection.chosen(description.collections)[0].name)

    def load(self, collection: Collection, batches: Iterable[pa.RecordBatch]) -> None:
        """A new shard with these rows, which are spooled to the stage first: Qdrant's process takes them from there. Raises
        EngineFailed if it refuses, or ends up with another number of points."""
        self._name = collection.name
        remove(self._shard)
        self._shard.mkdir(mode=0o700)
        path = self.directory / "spool.arrow"
        try:
            rows = _spooled(path, batches)
            wanted = config_for(collection), dict(collection.catalog.get("payload_indexes", {}))
            made = isolation.call(f"{_LIBRARY}:make", str(self._shard), *wanted, str(path) if rows else "")
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
            isolation.call(f"{_LIBRARY}:replay", str(self._shard), str(path))
            return count
        finally:
            remove(path)

    def seal(self) -> None:
        """Make everything durable."""
        sync_tree(self._shard)

    def source(self) -> EdgeSource:
        """The staged shard, to be read back; its private copies are made in the stage."""
        return EdgeSource(self._shard, self._name or self._target.name, self.directory)

    def publish(self, receipt: bytes, *, overwrite: bool) -> None:
        """Put the folder, with the receipt inside, in the target's place. Raises Refused if that is taken."""
        if self._shard.exists():
            if not overwrite and EdgeTarget(self._target).occupied():
                raise Refused(
                    f"{self._target} is already there",
                    hint="restore to another place, or give --overwrite to replace it once the new state is verified",
                )
            write_durably(self._shard / RECEIPT, receipt)
            if self._target.is_dir() and not self._target.is_symlink() and not any(self._target.iterdir()):
                self._target.rmdir()
        elif not (self.directory / "publishing").exists():
            if EdgeTarget(self._target).receipt() != receipt:
                raise Refused("nothing is staged, so nothing is published", hint="run the restore again from the start")
            self._staged.discard()
            return
        self._staged.publish(overwrite=overwrite)

    def discard(self) -> None:
        """Remove the stage."""
        self._staged.discard()

    def close(self) -> None:
        """Let go of the stage and keep it for a later run."""
        self._staged.close()


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
