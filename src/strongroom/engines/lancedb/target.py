"""How tables are restored into a LanceDB directory: built beside it, moved in whole, other tables left alone.

<database>/.strongroom-<token>/new/<table>.lance     being built
<database>/<table>.lance                             after publishing
<database>/strongroom.json                           the receipt of the last restore; LanceDB looks at *.lance only
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pyarrow as pa

from strongroom.engines import isolation
from strongroom.engines.changes import Change
from strongroom.engines.conversions import Becoming, Ways, table, unchanged
from strongroom.engines.lancedb.apply import Applying
from strongroom.engines.lancedb.columns import BLOB, has_blobs, role_of, stored_schema
from strongroom.engines.lancedb.freeze import LanceSource
from strongroom.engines.lancedb.indices import from_lance, plan
from strongroom.engines.lancedb.library import failing_as, lance
from strongroom.engines.lancedb.prints import FIELD, names
from strongroom.engines.lancedb.versions import SUFFIX
from strongroom.engines.staging import StagedEntries, remove, sync_tree, write_durably
from strongroom.errors import Damaged, EngineFailed, WrongRequest
from strongroom.model import Collection, Conversion, Description, Fidelity, Field, Role, Selection

RECEIPT = "strongroom.json"
_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_METRICS = ("l2", "cosine", "ip", "hamming")
_RESERVED = ("_rowid", "_rowaddr", "_rowoffset", "_distance", "_score")


class LanceTarget:
    """A LanceDB directory, to be written. Tables that a restore doesn't name are never touched."""

    holds_one = False
    columnar = True

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def occupied(self, collections: Sequence[str]) -> Sequence[str]:
        """The folders of those of `collections` that exist already."""
        folders = [self.directory / f"{name}{SUFFIX}" for name in collections]
        return [str(folder) for folder in folders if folder.exists()]

    def receipt(self) -> bytes | None:
        try:
            return (self.directory / RECEIPT).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def objections(self, collection: Collection, schema: pa.Schema) -> Sequence[str]:
        """Names that LanceDB doesn't allow, and vectors that it has no type or no metric for."""
        return list(_objections(collection, schema))

    def losses(self, collection: Collection, schema: pa.Schema) -> Sequence[str]:
        """What differs in a table that is loaded from rows instead of from Lance's own files."""
        return list(_losses(collection, schema))

    def conversions(self, collection: Collection, schema: pa.Schema) -> Sequence[Conversion]:
        indices = {index.column: index for index in plan(_searchable(collection), collection.count) if index.metric}
        own = from_lance(collection)

        def vector(field: Field) -> Becoming:
            index = indices.get(field.name)
            metric = field.metric if index else "hamming" if field.dtype == "uint8" else "l2"  # what Lance measures by unasked
            dtype = "float32" if field.dtype == "int8" and not own else field.dtype
            return Becoming(dtype, metric, index.kind if index else "")

        return table(collection, schema, Ways(unchanged, vector, Fidelity.KEPT, gaps=True, own=own))

    def fidelity(self, collection: Collection) -> Fidelity:
        """The table holds the vectors beside any codes of its index."""
        return Fidelity.KEPT

    def stage(self, token: str, selection: Selection) -> LanceStage:
        """Open or re-open the stage of `token`. Raises Locked; WrongRequest if a new name is none for a table."""
        names = [selection.target_name(name) for name in selection.collections] or list(selection.renames.values())
        wrong = [name for name in names if not _NAME.fullmatch(name)]
        if wrong:
            raise WrongRequest(f"a LanceDB table can't be called {wrong[0]!r}", hint="use letters, digits, '_', '-' and '.'")
        if len(set(names)) != len(names):
            raise WrongRequest("two tables would get the same name")
        return LanceStage(self.directory, token, selection)


class LanceStage(StagedEntries):
    """Tables being built under `new/`. Every one that is there when it is published replaces its namesake, and only that."""

    def __init__(self, base: Path, token: str, selection: Selection) -> None:
        super().__init__(base, token, (), records=(RECEIPT,))
        self._selection = selection

    def artifact_path(self, path: str) -> Path:
        """`<table>.lance/...` under the table's new name. Raises Damaged if it would lie outside of the stage or in no table."""
        folder, separator, rest = path.partition("/")
        if not folder.endswith(SUFFIX) or not separator:
            raise Damaged(f"artifact {path!r}", "it belongs to no table")
        name = self._selection.target_name(folder.removesuffix(SUFFIX))
        return self.contained(f"{name}{SUFFIX}/{rest}")

    def adopt(self, description: Description, selection: Selection) -> None:
        """Drop tables that aren't selected. Names were changed as the files were written: no Lance file holds its table's name."""
        chosen = {f"{selection.target_name(each.name)}{SUFFIX}" for each in selection.chosen(description.collections)}
        for folder in self.new.glob(f"*{SUFFIX}"):
            if folder.name not in chosen:
                remove(folder)

    def load(self, collection: Collection, batches: Iterable[pa.RecordBatch]) -> None:
        """Write the rows as one version of a new table, then build its indices. Raises EngineFailed."""
        folder = self.contained(f"{collection.name}{SUFFIX}")
        remove(folder)
        collection = _searchable(collection)
        schema, rows = _stored(collection, batches)
        catalog = collection.catalog if from_lance(collection) else {}
        with failing_as(EngineFailed, f"loading table {collection.name}"):
            data = lance().write_dataset(
                pa.RecordBatchReader.from_batches(schema, rows),
                str(folder),
                mode="create",
                enable_stable_row_ids=bool(catalog.get("stable_row_ids", False)),
                data_storage_version=str(catalog["data_storage_version"]) if has_blobs(schema) else None,
            )
            if catalog.get("config"):
                data.update_config(dict(catalog["config"]))
            if catalog.get("metadata"):
                data.update_metadata(dict(catalog["metadata"]))
            count = int(data.count_rows())
        indices = plan(collection, count)
        if indices:
            isolation.ask("strongroom.engines.lancedb.search:built", str(folder), indices)

    def seal(self) -> None:
        """Make the staged tables durable."""
        sync_tree(self.new)

    def source(self) -> LanceSource:
        """The staged tables as a LanceDB directory."""
        return LanceSource(self.new)

    def identity(self, collection: Collection) -> str:
        """A table is known by the name that it had: where another one takes it, the journal says so."""
        back = {new: old for old, new in self._selection.renames.items()}
        return back.get(collection.name, collection.name)

    def named(self, collection: Collection, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Rows as changes name them: by what is in them, if no column of theirs is a key."""
        if collection.catalog.get("id_column"):
            return batch
        rows = batch.select(batch.schema.names[:-1])
        schema = pa.schema([FIELD, *(field.remove_metadata() for field in rows.schema)])
        return pa.RecordBatch.from_arrays([names(rows), *rows.columns], schema=schema)

    def apply(self, changes: Iterable[Change], selection: Selection) -> int:
        """See `apply`. Raises EngineFailed."""
        return Applying(self.new, self.directory, selection).run(changes)

    def publish(self, receipt: bytes, *, overwrite: bool) -> None:  # type: ignore[override]
        """Move the staged tables to their places. Raises Refused if one is taken and `overwrite` is False."""
        if not (self.directory / "publishing").exists():
            write_durably(self.new / RECEIPT, receipt)
            self._entries = (*sorted(folder.name for folder in self.new.glob(f"*{SUFFIX}")), RECEIPT)
        super().publish(overwrite=overwrite)


def _stored(collection: Collection, batches: Iterable[pa.RecordBatch]) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """The schema to store, and the batches under it."""
    stream = iter(batches)
    first = next(stream, None)
    if first is None:
        schema = stored_schema(_schema_of(collection))
        return schema, iter(())
    if from_lance(collection):
        schema = _with_blobs(stored_schema(first.schema), collection)
        schema = schema.with_metadata(collection.catalog.get("schema_metadata") or None)
        return schema, (pa.RecordBatch.from_arrays(batch.columns, schema=schema) for batch in chain([first], stream))
    schema = stored_schema(pa.schema([_searchable_column(one) for one in first.schema]))
    return schema, (pa.record_batch(_cast(batch, schema), schema=schema) for batch in chain([first], stream))


def _with_blobs(schema: pa.Schema, collection: Collection) -> pa.Schema:
    """Columns that Lance kept as blobs, of which rows have the bytes, become such again."""
    lance()  # it makes their type known to Arrow
    blobs = {one.name for one in _schema_of(collection) if has_blobs(pa.schema([one]))}

    def marked(one: pa.Field) -> pa.Field:
        again = one.name in blobs and pa.types.is_large_binary(one.type)
        return one.with_metadata({**(one.metadata or {}), BLOB: b"true"}) if again else one

    return pa.schema([marked(one) for one in schema], metadata=schema.metadata)


def _cast(batch: pa.RecordBatch, schema: pa.Schema) -> list[pa.Array]:
    return [column.cast(one.type) if one.type != column.type else column for one, column in zip(schema, batch.columns, strict=True)]


def _searchable(collection: Collection) -> Collection:
    """Lance keeps int8 vectors and answers no query over them: those of other engines become float32, without loss."""
    if from_lance(collection):
        return collection
    fields = (replace(one, dtype="float32") if one.dtype == "int8" else one for one in collection.fields)
    return replace(collection, fields=tuple(fields))


def _searchable_column(one: pa.Field) -> pa.Field:
    is_int8 = role_of(one) is Role.VECTOR and pa.types.is_fixed_size_list(one.type) and one.type.value_type == pa.int8()
    return one.with_type(pa.list_(pa.float32(), one.type.list_size)) if is_int8 else one


def _schema_of(collection: Collection) -> pa.Schema:
    """The schema of a collection that has no rows to show it."""
    if from_lance(collection):
        return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(collection.catalog["schema_ipc"])))
    elements: Mapping[str, pa.DataType] = {
        "float32": pa.float32(),
        "float16": pa.float16(),
        "int8": pa.int8(),
        "uint8": pa.uint8(),
    }
    vectors = [pa.field(each.name, pa.list_(elements[each.dtype], each.dimension)) for each in collection.fields]
    return pa.schema([pa.field("id", pa.string(), nullable=False), *vectors])


def _objections(collection: Collection, schema: pa.Schema) -> Iterator[str]:
    if not _NAME.fullmatch(collection.name):
        yield f"a LanceDB table can't be called {collection.name!r}: rename it with letters, digits, '_', '-' and '.'"
    for name in schema.names:
        if name in _RESERVED:
            yield f"LanceDB keeps the column name {name!r} for itself"
    for each in collection.fields:
        if each.dtype == "bfloat16":
            yield f"field {each.name!r} holds bfloat16 vectors, which LanceDB would store without being able to search them"
        if each.metric not in _METRICS:
            yield f"LanceDB has no metric {each.metric!r} (field {each.name!r})"


def _losses(collection: Collection, schema: pa.Schema) -> Iterator[str]:
    indices = {index.column: index for index in plan(collection, collection.count) if index.metric}
    for each in collection.fields:
        index = indices.get(each.name)
        if index is not None and index.kind == "IVF_FLAT" and index.options.get("num_partitions") == 1:
            yield f"the index of field {each.name!r} has one partition: LanceDB looks at every vector"
    for column in schema:
        if role_of(column) is Role.ID and not from_lance(collection):
            yield f"LanceDB doesn't enforce that ids ({column.name!r}) are unique"
    if from_lance(collection):
        yield "version numbers, tags and older versions are not kept; scalar and full-text indices are built anew"
