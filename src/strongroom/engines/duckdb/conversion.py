"""How do rows of any engine become those of a table? Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from strongroom.engines.conversions import Becoming, Loaded, Ways, of_batch, table
from strongroom.engines.duckdb.definition import PAYLOAD, ROW, Table, is_own, place_of, quoted, table_of
from strongroom.engines.python_values import values_of
from strongroom.model import ROLE, Collection, Fidelity, Field, Json, Role
from strongroom.model import Conversion as Converted

_METRICS = {"l2": "l2sq", "cosine": "cosine", "ip": "ip"}


@dataclass(frozen=True, slots=True)
class Conversion:
    """What `library.make` is told, and what the columns of the rows are called there."""

    recipe: Mapping[str, Json]
    names: Mapping[str, str]

    def rows(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """A batch under the names of the table, its vectors as float32."""
        columns = [_taken(field, column) for field, column in zip(batch.schema, batch.columns, strict=True)]
        return pa.record_batch(columns, names=[self.names[name] for name in batch.schema.names])


def conversion_of(collection: Collection, schema: pa.Schema, *, vss: bool) -> Conversion:
    """How rows of this schema are loaded; `vss` says whether indexes can be built."""
    if is_own(collection):
        return Conversion(_recipe(table_of(collection), vss=vss), {name: name for name in schema.names})
    names = _named(schema)
    key = next(names[one.name] for one in schema if role_of(one) is Role.ID)
    place = place_of(collection.name) or ("main", collection.name)
    after = []
    for number, field in enumerate(collection.fields):
        if _is_indexed(field, vss=vss) and field.name in names:
            using = f"USING HNSW ({quoted(names[field.name])}) WITH (metric = '{_METRICS[field.metric]}')"
            after.append(f"CREATE INDEX {quoted(f'{place[1]}_hnsw_{number}')} ON {quoted(*place)} {using}")
    return Conversion({"before": [], "after": after, "key": key, "left": []}, names)


def _is_indexed(field: Field, *, vss: bool) -> bool:
    return vss and field.metric in _METRICS


def conversions(collection: Collection, schema: pa.Schema, *, vss: bool) -> Sequence[Converted]:
    """What becomes of each part of such rows."""
    planned, own = conversion_of(collection, schema, vss=vss), is_own(collection)

    def vector(field: Field) -> Becoming:
        indexed = _is_indexed(field, vss=vss) and (not own or bool(field.index))
        return Becoming("float32", field.metric if indexed else "l2", "hnsw" if indexed else "")

    def load(batch: pa.RecordBatch) -> Loaded:
        rows = planned.rows(batch)
        return of_batch(batch, planned.names, pa.record_batch([_as_read(one) for one in rows.columns], names=rows.schema.names))

    return table(collection, schema, Ways(load, vector, Fidelity.KEPT, gaps=True, own=own))


def _recipe(made: Table, *, vss: bool) -> dict[str, Json]:
    place = made.schema, made.table
    items = [*made.items, *([f"{quoted(ROW)} BIGINT"] if not made.key else [])]
    left = [made.id.name] if len(made.key) > 1 else []
    after = [one.statement(place) for one in made.indexes if vss or not one.column]
    created = f"CREATE TABLE {quoted(*place)} ({', '.join(items)})"
    return {"before": list(made.sequences), "table": created, "after": after, "left": left}


def schema_of(collection: Collection) -> pa.Schema:
    """That of a collection which has no rows to show it."""
    if is_own(collection):
        own = table_of(collection)
        dimensions = {one.name: one.dimension for one in own.stored}
        kinds = {name: pa.list_(pa.float32(), dimensions[name]) if dimensions.get(name) else pa.utf8() for name, _ in own.roles()}
        return pa.schema([pa.field(name, kinds[name], metadata={ROLE: role.encode()}) for name, role in own.roles()])
    vectors = [pa.field(one.name, pa.list_(pa.float32(), one.dimension), metadata={ROLE: b"vector"}) for one in collection.fields]
    return pa.schema([pa.field("id", pa.utf8(), metadata={ROLE: b"id"}), *vectors])


def objections(collection: Collection, schema: pa.Schema) -> Iterator[str]:
    """Why such rows can't be loaded."""
    if place_of(collection.name) is None or "\0" in collection.name:
        yield f"{collection.name!r} is no table: write name or schema.name, quoted where a dot is meant, with --rename"
    if is_own(collection):
        return
    if not any(role_of(one) is Role.ID for one in schema):
        yield "the rows have no id column"
    if not collection.fields:
        yield "the rows have no vector"
    names = [name.lower() for name in _named(schema).values()]
    for name in names:
        if not name or "\0" in name or names.count(name) > 1:
            yield f"DuckDB has no two columns of one name, whatever the case, and none without: {name!r}"


def losses(collection: Collection, *, vss: bool) -> Iterator[str]:
    """What making a table of DuckDB's again leaves out."""
    if is_own(collection):
        own = table_of(collection)
        yield "other tables, views and macros are not part of it, and foreign keys are not made again"
        if not own.key:
            yield f"{own.name} has no key: a column {ROW} is added, which says which row it was"
        if any(one.column for one in own.indexes):
            again = "are built again, with the default ef_construction: answers may differ a little"
            yield f"HNSW indexes {again if vss else 'are not built: the extension vss is not there'}"


def role_of(field: pa.Field) -> Role:
    return Role((field.metadata or {}).get(ROLE, Role.COLUMN.encode()).decode())


def _named(schema: pa.Schema) -> dict[str, str]:
    """What columns are called: those with a meaning so that it is seen, all others as they were."""
    meant = {Role.DOCUMENT: "document", Role.URI: "uri", Role.PAYLOAD: PAYLOAD}
    taken = {one.name for one in schema if role_of(one) not in meant}
    names = {}
    for one in schema:
        name = meant.get(role_of(one), one.name) or "vector"
        if role_of(one) in meant and name in taken:
            name = one.name
        names[one.name] = name
    return names


def _taken(field: pa.Field, column: pa.Array) -> pa.Array:
    kind = column.type
    if role_of(field) is Role.VECTOR and pa.types.is_fixed_size_binary(kind):  # bfloat16
        width = kind.byte_width // 2
        raw = np.frombuffer(b"".join(one or bytes(2 * width) for one in column.to_pylist()), "<u2").astype(np.uint32) << 16
        gaps = column.is_null() if column.null_count else None
        return pa.FixedSizeListArray.from_arrays(pa.array(raw.view(np.float32)), width, mask=gaps)
    if role_of(field) is Role.VECTOR and kind.value_type != pa.float32():
        return column.cast(pa.list_(pa.float32(), kind.list_size))
    if pa.types.is_dictionary(kind):
        return column.dictionary_decode()
    if pa.types.is_timestamp(kind) and kind.unit == "ns" and kind.tz:  # DuckDB has microseconds of these
        return column.cast(pa.timestamp("us", kind.tz), safe=False)
    if pa.types.is_fixed_size_binary(kind):
        return column.cast(pa.binary())
    return column.cast(pa.float32()) if pa.types.is_float16(kind) else column


def _as_read(column: pa.Array) -> pa.Array:
    """An interval is read as text."""
    durations = pa.types.is_duration(column.type)
    return pa.array([None if one is None else str(one) for one in values_of(column)], pa.utf8()) if durations else column
