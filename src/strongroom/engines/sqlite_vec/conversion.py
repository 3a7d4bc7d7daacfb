"""How do rows of any engine become those of a vec0 table? Pure.

The id is the primary key, vectors are vector columns, and what else there is auxiliary columns, which may be null: text, whole
numbers of up to 64 bits with a sign, other numbers and bytes. What no column can hold or be called stands in one column of JSON.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from strongroom.engines.conversions import Becoming, Loaded, Ways, of_batch, table
from strongroom.engines.payloads import exact, plain, written
from strongroom.engines.python_values import values_of
from strongroom.engines.sqlite_vec.definition import ARROW, LARGEST, MOST_COLUMNS, NAME, PAYLOAD, TAKEN, Kind, table_of
from strongroom.errors import WrongRequest
from strongroom.model import ROLE, Collection, Fidelity, Field, Role
from strongroom.model import Conversion as Converted

_METRICS = ("l2", "cosine", "l1")


@dataclass(frozen=True, slots=True)
class Conversion:
    """What vec0 is told, which column of the rows becomes which of the table, and which ones go into the JSON; `payload` is the
    rows' own."""

    arguments: str
    columns: Mapping[str, str]
    others: tuple[str, ...] = ()
    payload: str | None = None

    def rows(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """A batch under the names of the table. Raises WrongRequest if a row has no vector."""
        kept = [name for name in batch.schema.names if name in self.columns]
        arrays = [_taken(name, batch.column(name)) for name in kept]
        named = [self.columns[name] for name in kept]
        if self.payload or self.others:
            arrays.append(self._json(batch))
            named.append(PAYLOAD)
        return pa.record_batch(arrays, names=named)

    def _json(self, batch: pa.RecordBatch) -> pa.Array:
        given = batch.column(self.payload).to_pylist() if self.payload else [None] * batch.num_rows
        others = {name: values_of(batch.column(name)) for name in self.others if name in batch.schema.names}
        texts = []
        for row, text in enumerate(given):
            found = exact(text)
            for name, values in others.items():
                if values[row] is not None:
                    found[_free(name, found)] = plain(values[row])
            texts.append(written(found) if found or text else None)
        return pa.array(texts, pa.utf8())


def is_own(collection: Collection) -> bool:
    """Does it come from a vec0 table?"""
    return "vec0" in collection.catalog


def conversion_of(collection: Collection, schema: pa.Schema | None) -> Conversion:
    """How rows of this schema are loaded; None where there are no rows."""
    if is_own(collection):
        return Conversion(str(collection.catalog["vec0"]), {name: name for name in (schema.names if schema else ())})
    columns, arguments = dict[str, str](), list[str]()

    def take(source: str, name: str, rest: str) -> None:
        columns[source] = name
        arguments.append(f"{'+' if rest in _TYPES else ''}{name} {rest}")

    key = next((one for one in schema or () if role_of(one) is Role.ID), pa.field("id", pa.utf8()))
    fits = _fits(key.name, columns)
    take(key.name, key.name if fits else "id", f"{'integer' if pa.types.is_integer(key.type) else 'text'} primary key")
    for field in collection.fields:
        name = field.name if _fits(field.name, columns) else _free("vector", dict.fromkeys(columns.values()))
        take(field.name, name, _vector(field))
    payload, others = None, []
    for one in schema or ():
        role = role_of(one)
        name = {Role.DOCUMENT: "document", Role.URI: "uri"}.get(role, one.name)
        if one.name in columns or role is Role.PAYLOAD:
            payload = one.name if role is Role.PAYLOAD else payload
        elif _type(one) and _fits(name, columns) and sum(rest.startswith("+") for rest in arguments) < MOST_COLUMNS - 1:
            take(one.name, name, _type(one))
        else:
            others.append(one.name)
    if payload or others:
        arguments.append(f"+{PAYLOAD} text")
    return Conversion(", ".join(arguments), columns, tuple(others), payload)


def objections(collection: Collection, schema: pa.Schema) -> Iterator[str]:
    """Why such rows can't be loaded."""
    if not collection.name or "\0" in collection.name or collection.name.lower().startswith("sqlite_"):
        yield f"sqlite has no table called {collection.name!r}: use --rename"
    if is_own(collection):
        return
    if not any(role_of(one) is Role.ID for one in schema):
        yield "the rows have no id column"
    if not 0 < len(collection.fields) <= MOST_COLUMNS:
        yield f"a vec0 table has 1 to {MOST_COLUMNS} vectors a row, and these rows have {len(collection.fields)}"
    for field in collection.fields:
        if not 0 < field.dimension * (8 if _is_bits(field) else 1) <= LARGEST:
            yield f"vec0 takes vectors of 1 to {LARGEST:,} numbers or bits (field {field.name!r})"
        if len(collection.fields) > 1 and (NAME.fullmatch(field.name) is None or field.name.lower() in TAKEN):
            reserved = ", ".join(TAKEN)
            yield f"vec0 can't have a column {field.name!r}: it takes letters, digits and '_', and keeps {reserved} for itself"


def conversions(collection: Collection, schema: pa.Schema) -> Sequence[Converted]:
    """What becomes of each part of such rows."""
    planned, own = conversion_of(collection, schema), is_own(collection)
    made = table_of(collection.name, planned.arguments)
    there = {one.name: one for one in made.of(Kind.VECTOR)} if made else {}

    def vector(field: Field) -> Becoming:
        its = there[planned.columns[field.name]].field
        return Becoming(its.dtype, its.metric, "")

    def load(batch: pa.RecordBatch) -> Loaded:
        rows = planned.rows(batch)
        found = of_batch(batch, planned.columns, rows)
        texts = rows.column(PAYLOAD).to_pylist() if PAYLOAD in rows.schema.names else []
        objects = [exact(text) for text in texts]
        values: dict[str, Sequence[Any]] = {name: _stored(its) for name, its in found.values.items()}
        values |= {name: [one.get(name) for one in objects] for name in planned.others}
        types = {name: ARROW[_type(batch.schema.field(name))] for name in found.types if _type(batch.schema.field(name))}
        if planned.payload:
            values[planned.payload], types[planned.payload] = texts, pa.utf8()
        return Loaded(values, types, {**found.called, **({planned.payload: PAYLOAD} if planned.payload else {})})

    return table(collection, schema, Ways(load, vector, Fidelity.KEPT, gaps=False, own=own))


def _stored(values: Sequence[Any]) -> list[Any]:
    """SQLite takes NaN for null."""
    return [None if isinstance(one, float) and math.isnan(one) else one for one in values]


def losses(collection: Collection, schema: pa.Schema) -> Iterator[str]:
    """What loading such rows changes beside their parts."""
    if is_own(collection):
        yield "other tables, indexes and triggers of the database are not part of it"
        if "text primary key" in " ".join(str(collection.catalog["vec0"]).lower().split()):
            yield "the rowids behind text keys are given anew"
        return
    planned = conversion_of(collection, schema)
    kinds = {name: schema.field(name).type for name in planned.columns if name in schema.names}
    extra = [name for name in kinds if role_of(schema.field(name)) is Role.COLUMN]
    if extra:
        yield f"columns become auxiliary ones, which can't be filtered by: {', '.join(extra)}"
    if planned.others:
        yield f"no columns of their own, but keys in the text column {PAYLOAD} of JSON: {', '.join(planned.others)}"


def role_of(field: pa.Field) -> Role:
    return Role((field.metadata or {}).get(ROLE, Role.COLUMN.encode()).decode())


_TYPES = ("text", "integer", "float", "blob")


def _type(field: pa.Field) -> str:
    """That of an auxiliary column that holds it; empty if none does."""
    kind = field.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "text"
    if (pa.types.is_integer(kind) and kind != pa.uint64()) or pa.types.is_boolean(kind):
        return "integer"
    if pa.types.is_floating(kind):
        return "float"
    return "blob" if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) else ""


def _is_bits(field: Field) -> bool:
    return field.dtype == "uint8" and field.metric == "hamming"


def _vector(field: Field) -> str:
    if _is_bits(field):
        return f"bit[{8 * field.dimension}]"
    metric = field.metric if field.metric in _METRICS else "l2"
    return f"{'int8' if field.dtype == 'int8' else 'float'}[{field.dimension}] distance_metric={metric}"


def _fits(name: str, columns: Mapping[str, str]) -> bool:
    """Can a column be called so, beside those that there are?"""
    taken = (*TAKEN, PAYLOAD, *(one.lower() for one in columns.values()))
    return NAME.fullmatch(name) is not None and name.lower() not in taken


def _free(name: str, taken: Mapping[str, Any]) -> str:
    while name in taken:
        name += "_"
    return name


def _taken(name: str, column: pa.Array) -> pa.Array:
    kind = column.type
    if pa.types.is_boolean(kind):
        return column.cast(pa.int64())
    if not pa.types.is_fixed_size_list(kind) and not pa.types.is_fixed_size_binary(kind):
        return column.cast(pa.float64()) if pa.types.is_floating(kind) else column
    if column.null_count:
        hint = "vec0 can't hold a row without its vector; restore to another engine"
        raise WrongRequest(f"a row has no vector {name}", hint=hint)
    if pa.types.is_fixed_size_binary(kind):  # bfloat16
        raw = np.frombuffer(b"".join(column.to_pylist()), "<u2").astype(np.uint32) << 16
        values, width = raw.view(np.float32), kind.byte_width // 2
    else:
        values, width = column.flatten().to_numpy(zero_copy_only=False), kind.list_size
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values)), width)
