"""How an hnswlib index and what lies beside it are put in place: the files as they were, or an index built anew from rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa

from strongroom.engines.conversions import Becoming, Ways, table
from strongroom.engines.hnswlib import space
from strongroom.engines.hnswlib.freeze import hnswlib_source
from strongroom.engines.hnswlib.library import Plan
from strongroom.engines.indexfile.source import IndexSource
from strongroom.engines.indexfile.spill import indexed_field, spilled
from strongroom.engines.indexfile.stage import IndexStage
from strongroom.engines.indexfile.target import IndexTarget, loaded, misfits
from strongroom.engines.isolation import call
from strongroom.engines.staging import write_durably
from strongroom.model import Collection, Conversion, Fidelity, Field, Selection

_DEFAULT_LINKS, _DEFAULT_CONSTRUCTION = 16, 200  # those of hnswlib itself


class HnswlibTarget(IndexTarget):
    """The place of an index file and what belongs beside it."""

    def __init__(self, path: Path, engine_version: str) -> None:
        super().__init__(path, engine_version, [space.beside(path)])

    def objections(self, collection: Collection, schema: pa.Schema) -> Sequence[str]:
        """hnswlib indexes one field of float32 vectors."""
        return misfits(collection, schema, "hnswlib", "an hnswlib index", ("float32",))

    def losses(self, collection: Collection, schema: pa.Schema) -> Sequence[str]:
        """What a rebuild makes different from the source beside the parts of the rows."""
        return self._beside_parts(indexed_field(collection), schema)

    def conversions(self, collection: Collection, schema: pa.Schema) -> Sequence[Conversion]:
        def vector(field: Field) -> Becoming:
            return Becoming("float32", _space(field), "" if field.index.get("sidecar") else f"HNSW, M={_links(field)}")

        return table(collection, schema, Ways(loaded, vector, self.fidelity(collection), gaps=False))

    def fidelity(self, collection: Collection) -> Fidelity:
        return Fidelity.NORMALIZED if indexed_field(collection).metric == "cosine" else Fidelity.KEPT

    def stage(self, token: str, selection: Selection) -> HnswlibStage:
        return HnswlibStage(self._path, token, selection, self._version)


class HnswlibStage(IndexStage):
    """A new index and what belongs beside it, built beside the target."""

    replaying = "strongroom.engines.hnswlib.live:replay"

    def __init__(self, path: Path, token: str, selection: Selection, engine_version: str) -> None:
        super().__init__(path, token, selection, [space.beside(path)])
        self._version = engine_version

    def _build(self, collection: Collection, batches: Iterable[pa.RecordBatch], scratch: Path) -> None:
        """An index of the source's M and ef_construction if it was HNSW, and the file that says for which space it is."""
        field = indexed_field(collection)
        rows = spilled(collection, batches, scratch, self.index)
        metric = _space(field)
        ef = _whole(field, "ef", space.DEFAULT_EF, 100_000)
        plan = Plan(
            str(rows.vectors),
            str(rows.ids) if rows.indexable and not rows.natural else None,
            rows.count,
            field.dimension,
            metric,
            _links(field),
            _whole(field, "ef_construction", _DEFAULT_CONSTRUCTION, 10_000),
            ef,
        )
        call("strongroom.engines.hnswlib.library:build", plan, str(self.index))
        write_durably(space.beside(self.index), space.written(space.Said(metric, ef, field.dimension)))

    def _source(self, path: Path, name: str) -> IndexSource:
        return hnswlib_source(path, self._version, name=name)


def _space(field: Field) -> str:
    return field.metric if field.metric in space.SPACES else space.DEFAULT_SPACE


def _links(field: Field) -> int:
    return _whole(field, "M", _DEFAULT_LINKS, 1000)


def _whole(field: Field, name: str, default: int, most: int) -> int:
    """A whole number among the index's parameters, whichever engine wrote them; the default if it isn't one that can be used."""
    value = field.index.get(name)
    return value if type(value) is int and 0 < value <= most else default
