"""How a FAISS index and its sidecar are put in place: their files as they were, or an index built anew from rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa

from strongroom.engines.faiss.freeze import FaissSource
from strongroom.engines.faiss.place import SUFFIXES
from strongroom.engines.faiss.rebuild import DEFAULT_INDEX, METRIC_TYPES, factory_of, rebuild, role_of
from strongroom.engines.staging import StagedEntries, remove, sync_tree, write_durably
from strongroom.errors import Damaged
from strongroom.model import Collection, Description, Fidelity, Role, Selection


class FaissTarget:
    """The place of an index file and its sidecar."""

    holds_one = True

    def __init__(self, path: Path, engine_version: str) -> None:
        self._path = path
        self._version = engine_version

    def occupied(self, collections: Sequence[str]) -> Sequence[str]:
        """The files that stand in the way: there is one place, whatever the collection is called."""
        if not collections:
            return []
        names = [self._path.name, *(self._path.with_suffix(suffix).name for suffix in SUFFIXES)]
        return [name for name in names if (self._path.parent / name).exists()]

    def receipt(self) -> bytes | None:
        try:
            return (self._path.parent / _receipt_name(self._path)).read_bytes()
        except FileNotFoundError:
            return None

    def objections(self, collection: Collection, schema: pa.Schema) -> Sequence[str]:
        """FAISS indexes one field of float32 vectors."""
        found = []
        searched = [field for field in collection.fields if not field.index.get("sidecar")]
        if len(searched) != 1:
            found.append(f"{collection.name} has {len(searched)} vector fields, a FAISS index holds exactly one")
        found += [
            f"{field.name} holds {field.dtype}, FAISS takes float32" for field in collection.fields if field.dtype != "float32"
        ]
        if not any(role_of(column) == Role.ID for column in schema):
            found.append(f"the rows of {collection.name} have no ids")
        return found

    def losses(self, collection: Collection, schema: pa.Schema) -> Sequence[str]:
        """What a rebuild makes different from the source."""
        field = collection.fields[0]
        found = [f"the index is built anew as {factory_of(field)}: answers may differ slightly from the source's"]
        if field.decoded:
            found.append("the vectors are reconstructions from codes: building on them adds to the loss of the first coding")
        if field.index.get("kind") and not field.index.get("factory"):
            found.append(f"an index of kind {field.index['kind']} isn't built here; it becomes {DEFAULT_INDEX}")
        if field.metric == "cosine":
            found.append("cosine becomes inner product over unchanged vectors: the same order only if they have unit length")
        elif field.metric not in METRIC_TYPES and "metric_type" not in field.index:
            found.append(f"FAISS has no metric {field.metric}: l2 is used")
        if len(schema) > 2 or any(pa.types.is_string(c.type) for c in schema if role_of(c) == Role.ID):
            found.append(f"ids and columns are kept in {self._path.with_suffix('.parquet').name} beside the index")
        return found

    def fidelity(self, collection: Collection) -> Fidelity:
        """A lossy kind of index is built as that kind again, and codes the vectors."""
        return Fidelity.CODED if collection.fields and collection.fields[0].decoded else Fidelity.KEPT

    def stage(self, token: str, selection: Selection) -> FaissStage:
        return FaissStage(self._path, token, selection, self._version)


class FaissStage:
    """A new index and sidecar, built beside the target."""

    def __init__(self, path: Path, token: str, selection: Selection, engine_version: str) -> None:
        """Raises Locked if another process has the stage of this token."""
        sidecars = [path.with_suffix(suffix).name for suffix in SUFFIXES]
        receipt = _receipt_name(path)
        self._path = path
        self._name = selection.target_name(selection.collections[0]) if len(selection.collections) == 1 else path.stem
        self._version = engine_version
        self._staged = StagedEntries(path.parent, token, [path.name, *sidecars, receipt], records=[receipt])
        self._rows = self._staged.directory / "rows"

    @property
    def directory(self) -> Path:
        return self._staged.directory

    def artifact_path(self, path: str) -> Path:
        """The staged file that takes the place of a source's file, under this target's own name."""
        place = self._staged.contained(path)
        if place.parent != self._staged.new:
            raise Damaged(f"artifact {path!r}", "a FAISS index and its sidecar lie in one directory")
        if place.suffix in SUFFIXES:
            return self._staged.new / self._path.with_suffix(place.suffix).name
        return self._staged.new / self._path.name

    def adopt(self, description: Description, selection: Selection) -> None:
        """An index file is one collection: there is nothing to drop. Once published it is called as its file is."""
        for collection in selection.chosen(description.collections):
            self._name = selection.target_name(collection.name)

    def load(self, collection: Collection, batches: Iterable[pa.RecordBatch]) -> None:
        """Build the index that the rows had if they come from FAISS, else HNSW. Rows pass through files in the stage."""
        self._name = collection.name
        index = self._staged.new / self._path.name
        for leftover in (index, index.with_suffix(".parquet"), self._rows):
            remove(leftover)
        self._rows.mkdir(mode=0o700)
        rebuild(collection, batches, self._rows, index)
        remove(self._rows)

    def seal(self) -> None:
        sync_tree(self._staged.new)

    def source(self) -> FaissSource:
        """The staged index; its collection is called as the restore calls it."""
        return FaissSource(self._staged.new / self._path.name, self._version, self._name)

    def publish(self, receipt: bytes, *, overwrite: bool) -> None:
        if not (self.directory / "publishing").exists():
            write_durably(self._staged.new / _receipt_name(self._path), receipt)
        self._staged.publish(overwrite=overwrite)

    def discard(self) -> None:
        self._staged.discard()

    def close(self) -> None:
        self._staged.close()


def _receipt_name(path: Path) -> str:
    return f"{path.name}.strongroom.json"
