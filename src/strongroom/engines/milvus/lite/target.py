"""How does a folder of Milvus Lite come to be from a snapshot: by its own files, or by inserting rows?"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa

from strongroom.engines import isolation
from strongroom.engines.milvus import creation
from strongroom.engines.milvus.creation import LITE
from strongroom.engines.milvus.lite.frozen import LiteSource
from strongroom.engines.milvus.lite.library import folder_of, place_of
from strongroom.engines.staged_directory import DirectoryStage, DirectoryTarget
from strongroom.engines.staging import remove, sync_tree
from strongroom.errors import EngineFailed
from strongroom.model import Collection, Conversion, Description, Fidelity, Selection

_LIBRARY = "strongroom.engines.milvus.lite.library"


class LiteTarget(DirectoryTarget):
    """A folder, to be written: it is replaced as a whole."""

    holds_one = False

    def objections(self, collection: Collection, schema: pa.Schema) -> Sequence[str]:
        return list(creation.objections(collection, schema, place_of(collection.name)[1], LITE))

    def losses(self, collection: Collection, schema: pa.Schema) -> Sequence[str]:
        return list(creation.losses(collection, LITE))

    def conversions(self, collection: Collection, schema: pa.Schema) -> Sequence[Conversion]:
        return creation.conversions(collection, schema, LITE)

    def fidelity(self, collection: Collection) -> Fidelity:
        """Milvus Lite gives vectors back as it was given them."""
        return Fidelity.KEPT

    def stage(self, token: str, selection: Selection) -> LiteStage:
        """Open or re-open the stage of `token` beside the folder. Raises Locked."""
        return LiteStage(self._place, token)


class LiteStage(DirectoryStage):
    """A new folder under construction. Every step may be repeated after a crash."""

    def adopt(self, description: Description, selection: Selection) -> None:
        """Drop what isn't selected, give the others their names."""
        for one in description.collections:
            if not selection.wants(one.name):
                remove(folder_of(self._root, one.name))
        for file in (self._root / "aliases.json", *self._root.glob("databases/*/aliases.json")):
            _keep_what_is_there(file)
        renames = {old: new for old, new in selection.renames.items() if old != new and folder_of(self._root, old).is_dir()}
        if renames:
            isolation.call(f"{_LIBRARY}:rename", str(self._root), renames)

    def load(self, collection: Collection, batches: Iterable[pa.RecordBatch]) -> None:
        """Make a collection with these rows, which are spooled to the stage first: Milvus Lite's process takes them from there.
        Raises EngineFailed if it refuses."""
        self._root.mkdir(mode=0o700, exist_ok=True)
        path = self.directory / "spool.arrow"
        try:
            rows = _spooled(path, batches)
            made = isolation.call(f"{_LIBRARY}:make", str(self._root), collection, str(path) if rows else "")
        finally:
            remove(path)
        if made != rows:
            raise EngineFailed(f"{collection.name!r} has {made} rows after {rows} were put into it")

    def seal(self) -> None:
        """Make everything durable. A snapshot without collections becomes an empty database."""
        if not self._root.exists():
            self._root.mkdir(mode=0o700)
            isolation.call(f"{_LIBRARY}:prepare", str(self._root))
        sync_tree(self._root)

    def source(self) -> LiteSource:
        """The staged folder, to be read back; its private copies are made in the stage."""
        return LiteSource(self._root, self.directory)


def _keep_what_is_there(file: Path) -> None:
    """Aliases of collections that weren't chosen go."""
    if file.exists():
        said = json.loads(file.read_bytes())
        kept = {alias: own for alias, own in said.items() if (file.parent / "collections" / own).is_dir()}
        if kept != said:
            file.write_text(json.dumps(kept, ensure_ascii=False, indent=2, sort_keys=True))


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
