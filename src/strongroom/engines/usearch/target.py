"""How a USearch index and what lies beside it are put in place: the files as they were, or an index built anew from rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa

from strongroom.engines.conversions import Becoming, Ways, table
from strongroom.engines.indexfile.source import IndexSource
from strongroom.engines.indexfile.spill import indexed_field, spilled
from strongroom.engines.indexfile.stage import IndexStage
from strongroom.engines.indexfile.target import IndexTarget, loaded, misfits
from strongroom.engines.isolation import call
from strongroom.engines.usearch.freeze import usearch_source
from strongroom.engines.usearch.library import Plan
from strongroom.model import Collection, Conversion, Fidelity, Field, Selection

_METRICS = ("l2", "ip", "cosine")
_DTYPES = ("float32", "float16", "bfloat16", "int8", "uint8")
_DEFAULT_CONNECTIVITY, _DEFAULT_EXPANSION_ADD = 16, 128  # those of USearch itself


class UsearchTarget(IndexTarget):
    """The place of an index file and what belongs beside it."""

    def objections(self, collection: Collection, schema: pa.Schema) -> Sequence[str]:
        """USearch indexes one field; other vectors can lie beside it as float32."""
        return misfits(collection, schema, "USearch", "a USearch index", _DTYPES)

    def losses(self, collection: Collection, schema: pa.Schema) -> Sequence[str]:
        """What a rebuild makes different from the source beside the parts of the rows."""
        return self._beside_parts(indexed_field(collection), schema)

    def conversions(self, collection: Collection, schema: pa.Schema) -> Sequence[Conversion]:
        def vector(field: Field) -> Becoming:
            index = "" if field.index.get("sidecar") else f"HNSW, connectivity {_connectivity(field)}"
            return Becoming(field.dtype, _metric(field), index)

        return table(collection, schema, Ways(loaded, vector, self.fidelity(collection), gaps=False))

    def fidelity(self, collection: Collection) -> Fidelity:
        return Fidelity.KEPT

    def stage(self, token: str, selection: Selection) -> UsearchStage:
        return UsearchStage(self._path, token, selection, self._version)


class UsearchStage(IndexStage):
    """A new index and what belongs beside it, built beside the target."""

    replaying = "strongroom.engines.usearch.live:replay"

    def __init__(self, path: Path, token: str, selection: Selection, engine_version: str) -> None:
        super().__init__(path, token, selection)
        self._version = engine_version

    def _build(self, collection: Collection, batches: Iterable[pa.RecordBatch], scratch: Path) -> None:
        """An index of numbers of the rows' dtype, so that nothing is lost."""
        field = indexed_field(collection)
        rows = spilled(collection, batches, scratch, self.index, field.dtype)
        plan = Plan(
            str(rows.vectors),
            str(rows.ids) if rows.indexable and not rows.natural else None,
            rows.count,
            field.dimension,
            field.dtype,
            _metric(field),
            _connectivity(field),
            _DEFAULT_EXPANSION_ADD,
        )
        call("strongroom.engines.usearch.library:build", plan, str(self.index))

    def _source(self, path: Path, name: str) -> IndexSource:
        return usearch_source(path, self._version, name)


def _metric(field: Field) -> str:
    return field.metric if field.metric in _METRICS else "l2"


def _connectivity(field: Field) -> int:
    value = field.index.get("connectivity")
    return value if type(value) is int and 0 < value <= 1000 else _DEFAULT_CONNECTIVITY
