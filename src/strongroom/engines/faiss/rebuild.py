"""How rows become a FAISS index and its sidecar again. Rows pass through files, so that only FAISS itself holds them all."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import pyarrow as pa

from strongroom.engines.faiss.library import Plan
from strongroom.engines.faiss.sidecar import as_vectors
from strongroom.engines.isolation import call
from strongroom.errors import WrongRequest
from strongroom.model import ROLE, Collection, Field, Role

if TYPE_CHECKING:
    import pyarrow.parquet as pq

DEFAULT_INDEX = "HNSW32,Flat"
"""What is built for rows of another engine: the graph that most other engines build too."""

METRIC_TYPES = {"ip": 0, "cosine": 0, "l2": 1}
"""FAISS's number of a metric. Cosine is inner product; whether the vectors have unit length is the source's business."""


def rebuild(collection: Collection, batches: Iterable[pa.RecordBatch], scratch: Path, index: Path) -> None:
    """Write the index, and beside it a Parquet sidecar if there are ids or columns that the index can't hold.

    Vectors and ids pass through files in the directory `scratch`. Raises WrongRequest for rows without a vector, EngineFailed
    if FAISS can't build such an index.
    """
    indexed = indexed_field(collection)
    said = {"model": collection.lineage.model, "model_version": collection.lineage.version}
    with _Spill(scratch, index.with_suffix(".parquet"), indexed, {k: v for k, v in said.items() if v}) as spill:
        for batch in batches:
            spill.add(batch)
    call("strongroom.engines.faiss.library:build", _plan(indexed, spill, scratch), str(index))


def indexed_field(collection: Collection) -> Field:
    """The vector field that the index is over; vectors that lay in a sidecar only aren't searched."""
    return next(f for f in collection.fields if not f.index.get("sidecar"))


def factory_of(indexed: Field) -> str:
    """What the index is built as: what it was in FAISS, if that is known."""
    return str(indexed.index.get("factory") or DEFAULT_INDEX)


def role_of(column: pa.Field) -> str:
    """The value of `model.ROLE`; empty if the column has none."""
    return str((column.metadata or {}).get(ROLE, b"").decode())


@dataclass
class _Spill:
    """Takes batches apart: vectors and integer ids to plain files, the rest to the sidecar."""

    scratch: Path
    sidecar: Path
    indexed: Field
    provenance: dict[str, str]
    count: int = 0
    natural: bool = True  # the ids are 0, 1, 2 ...
    indexable: bool = True  # the ids are integers that an index can hold
    _files: ExitStack = field(default_factory=ExitStack)
    _writer: pq.ParquetWriter | None = None

    def __enter__(self) -> _Spill:
        self._vectors: BinaryIO = self._files.enter_context((self.scratch / "vectors").open("wb"))
        self._ids: BinaryIO = self._files.enter_context((self.scratch / "ids").open("wb"))
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()
        self._files.close()
        if self.sidecar.exists() and not self._beside and self.indexable:
            self.sidecar.unlink()  # nothing in it but the ids that the index holds

    def add(self, batch: pa.RecordBatch) -> None:
        roles = {column.name: role_of(column) for column in batch.schema}
        id_name = next(name for name, role in roles.items() if role == Role.ID)
        vectors = as_vectors(batch.column(self.indexed.name), self.indexed.dimension)
        if vectors is None:
            raise WrongRequest(f"a row has no vector in {self.indexed.name}", hint="FAISS can't hold a row without its vector")
        vectors.tofile(self._vectors)
        self._add_ids(batch.column(id_name))
        names = [name for name in batch.schema.names if name not in (id_name, self.indexed.name)]
        self._beside = bool(names)
        self._write_beside(batch, id_name, names)
        self.count += batch.num_rows

    _beside = False

    def _add_ids(self, column: pa.Array) -> None:
        if not pa.types.is_integer(column.type):
            self.natural = self.indexable = False
        if not self.indexable:
            return
        ids = column.cast(pa.int64()).to_numpy()
        ids.tofile(self._ids)
        self.natural &= bool((ids == np.arange(self.count, self.count + len(ids))).all())
        self.indexable &= not len(ids) or int(ids.min()) >= 0  # FAISS answers -1 for nothing

    def _write_beside(self, batch: pa.RecordBatch, id_name: str, names: list[str]) -> None:
        columns = [batch.column(id_name), *(batch.column(name) for name in names)]
        fields = [batch.schema.field(id_name).with_name("id")]
        fields += [batch.schema.field(name).with_name(f"sidecar_{name}" if name in ("id", "vector") else name) for name in names]
        schema = pa.schema(fields, self.provenance)
        if self._writer is None:
            import pyarrow.parquet as pq

            self._writer = pq.ParquetWriter(self.sidecar, schema, compression="zstd")
        self._writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))


def _plan(indexed: Field, spill: _Spill, scratch: Path) -> Plan:
    known = "factory" in indexed.index
    kind = str(indexed.index.get("inner") or indexed.index.get("kind", "")) if known else ""
    id_map = indexed.index.get("id_map") if known else None
    named = spill.indexable and not (spill.natural and id_map is None)
    if named and id_map is None and not kind.startswith("IVF"):  # inverted lists keep ids of their own, nothing else does
        id_map = "IDMap2"
    return Plan(
        str(scratch / "vectors"),
        str(scratch / "ids") if named else None,
        spill.count,
        indexed.dimension,
        int(indexed.index["metric_type"]) if known else METRIC_TYPES.get(indexed.metric, 1),
        factory_of(indexed),
        str(id_map) if named and id_map else None,
        dict(indexed.index) if known else {},
    )
