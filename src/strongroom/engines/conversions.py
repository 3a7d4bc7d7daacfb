"""What becomes of each part of a collection whose rows are loaded into an engine? By trial: a few rows with values of each
column's type go through the very function by which the engine converts rows, and what comes out is compared with what went in. So
what a plan says can't differ from what a restore does. Pure."""

from __future__ import annotations

import datetime
import decimal
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from strongroom.engines.payloads import Number, exact, written
from strongroom.engines.python_values import values_of
from strongroom.errors import StrongroomError
from strongroom.model import ROLE, Collection, Conversion, Fidelity, Field, Role, Verdict

Payload = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Loaded:
    """What an engine is given for a few rows: by the name of a source column its values, None where there is none; `types` are
    those of columns, which a key of a payload hasn't; `called` is what a column is called there if not as before."""

    values: Mapping[str, Sequence[Any]]
    types: Mapping[str, pa.DataType] = field(default_factory=dict)
    called: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Becoming:
    """What a vector field becomes. `index` is '' where the engine builds none."""

    dtype: str
    metric: str
    index: str


@dataclass(frozen=True, slots=True)
class Ways:
    """How an engine converts. `load` is what it does to rows; `gaps`: a row may lack its vector; `own`: rows are of this engine,
    and go back into the types that they came from."""

    load: Callable[[pa.RecordBatch], Loaded]
    vector: Callable[[Field], Becoming]
    fidelity: Fidelity
    gaps: bool
    own: bool = False
    objects: bool = False
    """Columns hold JSON as objects, not as texts, and numbers in it without an exponent."""
    unit: str = "of unit length"
    """What is said of vectors that an engine normalizes."""


def table(collection: Collection, schema: pa.Schema, ways: Ways) -> tuple[Conversion, ...]:
    """All parts: ids, vectors, document, uri, payload, columns."""
    found = list[Conversion]()
    for one in sorted(schema, key=lambda one: _ORDER.index(_role(one))):
        if _role(one) is Role.VECTOR:
            fields = [its for its in collection.fields if its.name == one.name]
            found += [made for its in fields for made in _vector(collection, its, ways)]
        elif _role(one) is Role.PAYLOAD:
            found += _payload(collection, schema, one, ways)
        else:
            found.append(_column(collection, schema, one, ways))
    return tuple(found)


_ORDER = (Role.ID, Role.VECTOR, Role.DOCUMENT, Role.URI, Role.PAYLOAD, Role.COLUMN)


def of_payloads(
    batch: pa.RecordBatch,
    ids: Sequence[Any],
    payloads: Sequence[Payload | None],
    *,
    document: Sequence[Any] | None = None,
    uri: Sequence[Any] | None = None,
    key_of: Callable[[str], str] = str,
) -> Loaded:
    """What engines with payloads are given: documents and uris beside the payload, if not in it; `key_of` is what a column is
    called in it."""
    apart = {Role.DOCUMENT: document, Role.URI: uri}
    values = {one.name: its for one in batch.schema if (its := apart.get(_role(one))) is not None}
    for one in batch.schema:
        if _role(one) is Role.ID:
            values[one.name] = ids
        elif _role(one) is Role.PAYLOAD:
            values[one.name] = payloads
        elif one.name not in values and _role(one) is not Role.VECTOR:
            key = key_of({Role.DOCUMENT: "document", Role.URI: "uri"}.get(_role(one), one.name))
            values[one.name] = [(its or {}).get(key) for its in payloads]
    return Loaded(values)


def of_batch(batch: pa.RecordBatch, called: Mapping[str, str], loaded: pa.RecordBatch) -> Loaded:
    """What engines with columns are given: `called` says which column of the rows became which one."""
    there = {name: called[name] for name in batch.schema.names if called.get(name) in loaded.schema.names}
    values = {name: values_of(loaded.column(new)) for name, new in there.items()}
    return Loaded(values, {name: loaded.schema.field(new).type for name, new in there.items()}, there)


def unchanged(batch: pa.RecordBatch) -> Loaded:
    """What an engine is given that takes rows as they are."""
    return of_batch(batch, {name: name for name in batch.schema.names}, batch)


# -- vectors -------------------------------------------------------------------------------------------------------------------


def _vector(collection: Collection, field: Field, ways: Ways) -> Iterator[Conversion]:
    becomes = ways.vector(field)

    def row(part: str, was: str, to: str, verdict: Verdict, note: str = "") -> Conversion:
        return Conversion(collection.name, f"{part} {field.name}", was, to, verdict, note)

    width, verdict, note = field.dimension, Verdict.KEPT, ""
    if becomes.dtype != field.dtype:
        verdict = Verdict.WIDENED if becomes.dtype in _WIDER.get(field.dtype, ()) else Verdict.CHANGED
    if ways.fidelity is Fidelity.NORMALIZED and becomes.metric == "cosine":
        verdict, note = Verdict.CHANGED, ways.unit
    elif ways.fidelity is Fidelity.CODED:
        verdict, note = Verdict.CHANGED, "coded anew"
    yield row("vector", f"{width} x {field.dtype}", f"{width} x {becomes.dtype}", verdict, note)
    gaps = "a row may lack its vector" if ways.gaps else "such a row stops the restore"
    yield row("null vectors of", "a row may lack its vector", gaps, Verdict.KEPT if ways.gaps else Verdict.LOST)
    same = becomes.metric == field.metric
    yield row("metric of", field.metric, becomes.metric, Verdict.KEPT if same else Verdict.CHANGED)
    was = str(field.index.get("kind", "")) or "none"
    if not becomes.index:
        yield row("index of", was, "none: every vector is looked at", Verdict.KEPT if was.lower() in _NO_INDEX else Verdict.LOST)
    else:
        yield row("index of", was, becomes.index, Verdict.CHANGED, "built anew: answers may differ a little")


_NO_INDEX = ("none", "flat")
_WIDER: Mapping[str, tuple[str, ...]] = dict.fromkeys(("float16", "bfloat16", "int8", "uint8"), ("float32",))


# -- columns -------------------------------------------------------------------------------------------------------------------


def _column(collection: Collection, schema: pa.Schema, one: pa.Field, ways: Ways) -> Conversion:
    role = _role(one)
    part = {Role.ID: "id", Role.DOCUMENT: "document", Role.URI: "uri"}.get(role, "column") + f" {one.name}"
    was = _name_of(one.type)
    plain = _usual(one.type)
    if ways.own:
        return Conversion(collection.name, part, was, was, Verdict.KEPT)
    verdict, becomes, loaded = _tried(schema, one, plain, ways)
    note = _of_odd(schema, one, ways, verdict) if verdict is not Verdict.LOST else ""
    called = loaded.called.get(one.name, one.name)
    place = becomes if called == one.name else f"{called}: {becomes}"
    return Conversion(collection.name, part, was, place, verdict, note)


def _of_odd(schema: pa.Schema, one: pa.Field, ways: Ways, usual: Verdict) -> str:
    """What is said of floats that are no numbers."""
    found = dict[str, list[str]]()
    for name, value in (("NaN", math.nan), ("infinity", math.inf)):
        samples = _of_floats(one.type, value)
        if samples is None:
            return ""
        verdict, _, _ = _tried(schema, one, samples, ways)
        if verdict not in (Verdict.KEPT, usual):
            found.setdefault("left out" if verdict is Verdict.LOST else "something else", []).append(name)
    return ", ".join(f"{' and '.join(names)}: {becomes}" for becomes, names in found.items())


def _of_floats(kind: pa.DataType, value: float) -> pa.Array | None:
    """Two of such a float, or two lists of it; None if the type has none."""
    if pa.types.is_floating(kind):
        return pa.array(np.array([value, value], np.float16)).cast(kind)
    fixed = pa.types.is_fixed_size_list(kind)
    listed = fixed or pa.types.is_list(kind) or pa.types.is_large_list(kind)
    inner = _of_floats(kind.value_type, value) if listed else None
    if inner is None:
        return None
    return pa.array([values_of(inner)[:1] * (kind.list_size if fixed else 2)] * 2, kind)


def _tried(schema: pa.Schema, one: pa.Field, samples: pa.Array, ways: Ways) -> tuple[Verdict, str, Loaded]:
    """The verdict, what the values are there, and all that was given."""
    try:
        loaded = ways.load(_rows(schema, one, samples))
    except (pa.ArrowException, StrongroomError, ValueError, OverflowError):
        if len(samples) == 1:
            return Verdict.LOST, "nothing: such values stop the restore", Loaded({})
        return _tried(schema, one, samples.slice(0, 1), ways)  # the first ones are those that everything can hold
    given, got = values_of(samples), list(loaded.values.get(one.name, [None] * len(samples)))
    kind = loaded.types.get(one.name)
    if all(its is None for its in got) and any(its is not None for its in given):
        return Verdict.LOST, "nothing", loaded
    if kind is not None:
        return _by_type(one.type, kind, given, got), _name_of(kind), loaded
    if all(_same(a, b) for a, b in zip(given, got, strict=True)):
        plain = one.type in _PLAIN or _is_text(one.type)
        return Verdict.KEPT if plain else Verdict.WIDENED, _json_name(got), loaded
    return _as_text(one.type, given, got), _json_name(got), loaded


def _by_type(was: pa.DataType, kind: pa.DataType, given: Sequence[Any], got: Sequence[Any]) -> Verdict:
    equal = all(_same(a, b) for a, b in zip(given, got, strict=True))
    if equal and (kind == was or (_is_text(kind) and _is_text(was))):
        return Verdict.KEPT
    return Verdict.WIDENED if all(_equal(a, b) for a, b in zip(given, got, strict=True)) else _as_text(was, given, got)


def _as_text(was: pa.DataType, given: Sequence[Any], got: Sequence[Any]) -> Verdict:
    """A single value as text is still that value; a nested one isn't, nor is another text."""
    text = (
        not pa.types.is_nested(was)
        and not _is_text(was)
        and all(a is None or isinstance(b, str | bytes) or _same(a, b) for a, b in zip(given, got, strict=True))
    )
    return Verdict.WIDENED if text else Verdict.CHANGED


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_equal, a, b))
    return a == b or (isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b))


def _same(a: Any, b: Any) -> bool:
    """1, 1.0 and True are different values."""
    return type(a) is type(b) and _equal(a, b)


_PLAIN = (pa.bool_(), pa.int64(), pa.float64())


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _name_of(kind: pa.DataType) -> str:
    return "text" if _is_text(kind) else str(kind)


def _json_name(values: Sequence[Any]) -> str:
    kinds = {_JSON_NAMES.get(type(one), type(one).__name__) for one in values if one is not None}
    return " or ".join(sorted(kinds)) or "nothing"


_JSON_NAMES: Mapping[type, str] = {bool: "truth value", int: "number", float: "number", str: "text", bytes: "text"}
_JSON_NAMES = {**_JSON_NAMES, list: "list", dict: "object"}


# -- payloads ------------------------------------------------------------------------------------------------------------------

_PLAIN_VALUES = "plain values"
RARE = ("whole numbers of more than 63 bits", "NaN and infinity", "numbers that no double is")
_PAYLOADS: Mapping[str, Sequence[Any]] = {
    _PLAIN_VALUES: [{"x": 1}, {"x": 0.5}, {"x": "text"}, {"x": True}],
    "lists": [{"x": [1, 2]}, {"x": ["a", "b"]}, {"x": [1, "a"]}],
    "nested objects": [{"x": {"a": {"b": 1}}}],
    "nulls": [{"x": None, "y": 1}],
    RARE[0]: [{"x": 1 << 63}, {"x": 1 << 64}, {"x": -(1 << 63) - 1}],
    RARE[1]: [{"x": math.nan}, {"x": math.inf}],
    RARE[2]: [{"x": Number("0.1234567890123456789")}, {"x": Number("1e400")}],
}


def _payload(collection: Collection, schema: pa.Schema, one: pa.Field, ways: Ways) -> Iterator[Conversion]:
    """Rare numbers are told of where they fare worse than all else."""
    usual = Verdict.KEPT
    for what, payloads in _PAYLOADS.items():
        part = f"payload {one.name}: {what}"
        made = Conversion(collection.name, part, "JSON", "JSON", Verdict.KEPT) if ways.own else None
        made = made or _tried_payload(collection, schema, one, ways, part, payloads)
        usual = made.verdict if what == _PLAIN_VALUES else usual
        if what not in RARE or _WORST.index(made.verdict) > _WORST.index(usual):
            yield made


_WORST = (Verdict.KEPT, Verdict.WIDENED, Verdict.CHANGED, Verdict.LOST)


def _tried_payload(
    collection: Collection, schema: pa.Schema, one: pa.Field, ways: Ways, part: str, payloads: Sequence[Any]
) -> Conversion:
    samples = pa.array([written(its) for its in payloads], one.type)
    loaded = ways.load(_rows(schema, one, samples))
    got, called = list(loaded.values.get(one.name, ())), loaded.called.get(one.name, one.name)
    if one.name in loaded.types:
        return _in_a_column(collection, part, called, list(payloads), got, objects=ways.objects)
    values = [(its or {}).get("x") for its in got]
    whole = all(written(a) == written(b) for a, b in zip(payloads, got, strict=True))
    verdict = Verdict.KEPT if whole else Verdict.CHANGED
    becomes = ("JSON" if whole else "left out") if all(its is None for its in values) else _json_name(values)
    return Conversion(collection.name, part, "JSON", becomes, verdict if becomes != "left out" else Verdict.LOST)


def _in_a_column(collection: Collection, part: str, called: str, given: list[Any], got: list[Any], *, objects: bool) -> Conversion:
    """Of an engine with columns: keys that have one plain type in all rows get columns of their own (see `reshaping`)."""
    read = [exact(its) if isinstance(its, str) else its for its in got]
    same = list(map(written, read)) == list(map(written, given))
    verdict = Verdict.WIDENED if same else Verdict.CHANGED
    column, note = f"column {called} of JSON{'' if objects else ' as text'}", _NO_EXPONENT if objects else ""
    if part.endswith(_PLAIN_VALUES):
        becomes = "columns where a key's values are all of one plain type"
        return Conversion(collection.name, part, "JSON", becomes, verdict, f"else {column}")
    return Conversion(collection.name, part, "JSON", column, verdict, note)


_NO_EXPONENT = "floats of 1e16 and more as whole numbers"


# -- rows to try with ----------------------------------------------------------------------------------------------------------


def _rows(schema: pa.Schema, one: pa.Field, samples: pa.Array) -> pa.RecordBatch:
    """Rows of the schema with the samples in one column; ids and vectors where those are another one, all else null."""
    count = len(samples)
    arrays = []
    for its in schema:
        if its.name == one.name:
            arrays.append(samples)
        elif _role(its) is Role.ID:
            arrays.append(pa.array(range(1, count + 1), pa.int64()).cast(its.type))
        elif _role(its) is Role.VECTOR:
            arrays.append(_zeros(its.type, count))
        else:
            arrays.append(pa.nulls(count, its.type))
    return pa.record_batch(arrays, schema=schema)


def _zeros(kind: pa.DataType, count: int) -> pa.Array:
    if pa.types.is_fixed_size_binary(kind):
        return pa.array([bytes(kind.byte_width)] * count, kind)
    numbers = np.zeros(count * kind.list_size, kind.value_type.to_pandas_dtype())
    return pa.FixedSizeListArray.from_arrays(pa.array(numbers, kind.value_type), type=kind)


def _usual(kind: pa.DataType) -> pa.Array:
    """Usual values of a type, the first ones those that everything can hold."""
    if pa.types.is_floating(kind):
        return pa.array(np.array([0.5, -2.0, 0.1], np.float16 if pa.types.is_float16(kind) else np.float64)).cast(kind)
    if pa.types.is_integer(kind):
        signed = str(kind).startswith("int")
        most = (1 << (kind.bit_width - signed)) - 1
        return pa.array([0, 1, most, *([-most - 1] if signed else [])], kind)
    moment = datetime.datetime(2024, 2, 29, 12, 30, 15)
    short = [_NANOSECOND] if getattr(kind, "unit", "") == "ns" else []
    makers: Sequence[tuple[Callable[[pa.DataType], bool], Sequence[Any]]] = (
        (_is_text, ["a text", "ünï"]),
        (pa.types.is_boolean, [True, False]),
        (pa.types.is_decimal, [decimal.Decimal(1)]),
        (pa.types.is_date, [moment.date()]),
        (pa.types.is_time, [moment.time(), *(1 for _ in short)]),
        (pa.types.is_timestamp, [moment, *short]),
        (pa.types.is_duration, [datetime.timedelta(seconds=1), *short]),
        (pa.types.is_fixed_size_binary, [bytes(getattr(kind, "byte_width", 1) if pa.types.is_fixed_size_binary(kind) else 1)]),
        (lambda its: pa.types.is_binary(its) or pa.types.is_large_binary(its), [b"\x00\xff"]),
    )
    for fits, values in makers:
        if fits(kind):
            return pa.array(values, kind)
    return _nested(kind)


_NANOSECOND = 1_709_209_815_000_000_001
"""A moment that has no whole number of microseconds."""


def _nested(kind: pa.DataType) -> pa.Array:
    """One value of a list, a map or a struct, and an empty one where there may be; a null of what isn't known."""
    try:
        if pa.types.is_fixed_size_list(kind):
            values = _usual(kind.value_type)
            places = pa.array([place % len(values) for place in range(kind.list_size)], pa.int64())
            return pa.FixedSizeListArray.from_arrays(values.take(places), type=kind)
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            values, large = _usual(kind.value_type), pa.types.is_large_list(kind)
            bounds = pa.array([0, len(values), len(values)], pa.int64() if large else pa.int32())
            return (pa.LargeListArray if large else pa.ListArray).from_arrays(bounds, values, type=kind)
        if pa.types.is_dictionary(kind):
            values = _usual(kind.value_type)
            return pa.DictionaryArray.from_arrays(pa.array(range(len(values)), kind.index_type), values)
        if pa.types.is_map(kind):
            keys, items = (_usual(one).slice(0, 1) for one in (kind.key_type, kind.item_type))
            return pa.MapArray.from_arrays(pa.array([0, 1, 1], pa.int32()), keys, items).cast(kind)
        if pa.types.is_struct(kind):
            return pa.StructArray.from_arrays([_usual(one.type).slice(0, 1) for one in kind], fields=list(kind))
    except (pa.ArrowException, TypeError, ValueError):
        pass
    return pa.nulls(1, kind)


def _role(one: pa.Field) -> Role:
    return Role((one.metadata or {}).get(ROLE, Role.COLUMN.encode()).decode())
