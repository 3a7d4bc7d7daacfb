"""How rows become files that an engine builds its index from, and the sidecar beside it. Never more than a batch in memory."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import pyarrow as pa

from strongroom.engines.indexfile.sidecar import as_vectors
from strongroom.errors import WrongRequest
from strongroom.model import ROLE, Collection, Field, Role

if TYPE_CHECKING:
    import pyarrow.parquet as pq


@dataclass(frozen=True, slots=True)
class Spilled:
    """The files `vectors` (count x dimension, of the dtype that was asked for) and `ids` (int64, only if `indexable`: the ids are
    integers that an index can hold). `natural`: they are 0, 1, 2 ..."""

    vectors: Path
    ids: Path
    count: int
    natural: bool
    indexable: bool


def spilled(
    collection: Collection, batches: Iterable[pa.RecordBatch], scratch: Path, index: Path, dtype: str = "float32"
) -> Spilled:
    """Write the rows' vectors and integer ids to files in the directory `scratch`, and beside `index` a Parquet sidecar if there
    are ids or columns that the index can't hold. Raises WrongRequest for rows without a vector."""
    said = {"model": collection.lineage.model, "model_version": collection.lineage.version}
    indexed = indexed_field(collection)
    with _Spill(scratch, index.with_suffix(".parquet"), indexed, dtype, {k: v for k, v in said.items() if v}) as spill:
        for batch in batches:
            spill.add(batch)
    return Spilled(scratch / "vectors", scratch / "ids", spill.count, spill.natural, spill.indexable)


def indexed_field(collection: Collection) -> Field:
    """The vector field that the index is over; vectors that lay in a sidecar only aren't searched."""
    return next(f for f in collection.fields if not f.index.get("sidecar"))


def name_beside(name: str) -> str:
    """What a column that isn't the id is called in the sidecar."""
    return f"sidecar_{name}" if name in ("id", "vector") else name


def role_of(column: pa.Field) -> str:
    """The value of `model.ROLE`; empty if the column has none."""
    return str((column.metadata or {}).get(ROLE, b"").decode())


@dataclass
class _Spill:
    """Takes batches apart: vectors and integer ids to plain files, the rest to the sidecar."""

    scratch: Path
    sidecar: Path
    indexed: Field
    dtype: str
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
        vectors = _bare(batch.column(self.indexed.name), self.indexed, self.dtype)
        if vectors is None:
            raise WrongRequest(
                f"a row has no vector in {self.indexed.name}", hint="an index file can't hold a row without its vector"
            )
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
        self.indexable &= not len(ids) or int(ids.min()) >= 0  # -1 is what FAISS answers for nothing

    def _write_beside(self, batch: pa.RecordBatch, id_name: str, names: list[str]) -> None:
        columns = [batch.column(id_name), *(batch.column(name) for name in names)]
        fields = [batch.schema.field(id_name).with_name("id")]
        fields += [batch.schema.field(name).with_name(name_beside(name)) for name in names]
        schema = pa.schema(fields, self.provenance)
        if self._writer is None:
            import pyarrow.parquet as pq

            self._writer = pq.ParquetWriter(self.sidecar, schema, compression="zstd")
        self._writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))


def _bare(column: pa.Array, indexed: Field, dtype: str) -> np.ndarray | None:
    """The vectors of a column as rows of numbers of `dtype`, bfloat16 as pairs of bytes; None if one is missing."""
    if dtype == "float32":
        return as_vectors(column, indexed.dimension)
    if column.null_count:
        return None
    if dtype == "bfloat16":
        content = memoryview(column.buffers()[1])[2 * indexed.dimension * column.offset :][: 2 * indexed.dimension * len(column)]
        return np.frombuffer(content, np.uint16).reshape(len(column), -1)
    values = column.flatten()
    return None if values.null_count else values.to_numpy(zero_copy_only=False).astype(dtype).reshape(len(column), -1)
