"""How a FAISS index and its sidecar are put in place: their files as they were, or an index built anew from rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa

from strongroom.engines.conversions import Becoming, Ways, table
from strongroom.engines.faiss.freeze import faiss_source
from strongroom.engines.faiss.rebuild import METRIC_TYPES, factory_of, metric_type_of, rebuild
from strongroom.engines.indexfile.source import IndexSource
from strongroom.engines.indexfile.stage import IndexStage
from strongroom.engines.indexfile.target import IndexTarget, loaded, misfits
from strongroom.model import Collection, Conversion, Fidelity, Field, Selection


class FaissTarget(IndexTarget):
    """The place of an index file and its sidecar."""

    def objections(self, collection: Collection, schema: pa.Schema) -> Sequence[str]:
        """FAISS indexes one field of float32 vectors."""
        return misfits(collection, schema, "FAISS", "a FAISS index", ("float32",))

    def losses(self, collection: Collection, schema: pa.Schema) -> Sequence[str]:
        """What a rebuild makes different from the source beside the parts of the rows."""
        field, found = collection.fields[0], []
        if field.metric == "cosine":
            found.append("inner product gives the order of cosine only over vectors of unit length, and vectors stay as they are")
        return [*found, *self._beside_parts(field, schema)]

    def conversions(self, collection: Collection, schema: pa.Schema) -> Sequence[Conversion]:
        def vector(field: Field) -> Becoming:
            if field.index.get("sidecar"):
                return Becoming("float32", field.metric, "")
            kept = METRIC_TYPES.get(field.metric) == metric_type_of(field) and field.metric != "cosine"
            other = "l2" if metric_type_of(field) == METRIC_TYPES["l2"] else "ip"
            return Becoming("float32", field.metric if kept or "factory" in field.index else other, factory_of(field))

        return table(collection, schema, Ways(loaded, vector, self.fidelity(collection), gaps=False))

    def fidelity(self, collection: Collection) -> Fidelity:
        """A lossy kind of index is built as that kind again, and codes the vectors."""
        return Fidelity.CODED if collection.fields and collection.fields[0].decoded else Fidelity.KEPT

    def stage(self, token: str, selection: Selection) -> FaissStage:
        return FaissStage(self._path, token, selection, self._version)


class FaissStage(IndexStage):
    """A new index and sidecar, built beside the target."""

    replaying = "strongroom.engines.faiss.live:replay"

    def __init__(self, path: Path, token: str, selection: Selection, engine_version: str) -> None:
        super().__init__(path, token, selection)
        self._version = engine_version

    def _build(self, collection: Collection, batches: Iterable[pa.RecordBatch], scratch: Path) -> None:
        """The index that the rows had if they come from FAISS, else HNSW."""
        rebuild(collection, batches, scratch, self.index)

    def _source(self, path: Path, name: str) -> IndexSource:
        return faiss_source(path, self._version, name)
