"""The place of an index file and of what belongs beside it, as a target."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from strongroom.engines.conversions import Loaded, of_batch
from strongroom.engines.indexfile.spill import name_beside, role_of
from strongroom.engines.indexfile.stage import occupied, receipt_of
from strongroom.model import Collection, Field, Role


class IndexTarget:
    """What all index files have in common. `beside` are files that belong to the index, other than a sidecar."""

    holds_one = True
    columnar = True

    def __init__(self, path: Path, engine_version: str, beside: Sequence[Path] = ()) -> None:
        self._path = path
        self._version = engine_version
        self._beside = beside

    def occupied(self, collections: Sequence[str]) -> Sequence[str]:
        """The files that stand in the way: there is one place, whatever the collection is called."""
        return occupied(self._path, self._beside) if collections else []

    def receipt(self) -> bytes | None:
        return receipt_of(self._path)

    def _beside_parts(self, field: Field, schema: pa.Schema) -> Sequence[str]:
        """That vectors are coded twice, and what an index can't hold of such rows."""
        coded = "the vectors are reconstructions from codes: building on them adds to the loss of the first coding"
        found = [coded] if field.decoded else []
        if len(schema) > 2 or any(pa.types.is_string(c.type) for c in schema if role_of(c) == Role.ID):
            found.append(f"ids and columns are kept in {self._path.with_suffix('.parquet').name} beside the index")
        return found


def loaded(batch: pa.RecordBatch) -> Loaded:
    """What an index file and its sidecar are given: columns as they are, whole ids as int64, which is all that an index has."""
    key = next(one for one in batch.schema if role_of(one) == Role.ID)
    called = {one.name: "id" if one.name == key.name else name_beside(one.name) for one in batch.schema}
    ids = batch.column(key.name).cast(pa.int64()) if pa.types.is_integer(key.type) else batch.column(key.name)
    columns = [ids if one.name == key.name else _as_read(batch.column(one.name)) for one in batch.schema]
    return of_batch(batch, called, pa.record_batch(columns, names=[called[name] for name in batch.schema.names]))


def _as_read(column: pa.Array) -> pa.Array:
    """Parquet keeps what a dictionary says, and reads it without."""
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def misfits(collection: Collection, schema: pa.Schema, library: str, index: str, dtypes: Sequence[str]) -> Sequence[str]:
    """Why an `index` ('a FAISS index') of a library can't hold such rows: it is over one field, of one of these dtypes."""
    found = []
    searched = [field for field in collection.fields if not field.index.get("sidecar")]
    if len(searched) != 1:
        found.append(f"{collection.name} has {len(searched)} vector fields, {index} holds exactly one")
    others = [field for field in collection.fields if field.dtype not in dtypes]
    takes = f"takes {dtypes[0]}" if len(dtypes) == 1 else f"lacks it: it takes {', '.join(dtypes)}"
    found += [f"{field.name} holds {field.dtype}, {library} {takes}" for field in others]
    if not any(role_of(column) == Role.ID for column in schema):
        found.append(f"the rows of {collection.name} have no ids")
    return found
