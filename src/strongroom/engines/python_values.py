"""What are the values of a column to Python, whether pandas is installed or not? Pure.

Arrow gives pandas' own types for nanoseconds where it finds pandas, and else refuses those that no microseconds are.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

_SECOND = 1_000_000_000


def values_of(column: pa.Array) -> list[Any]:
    """As `to_pylist`, but for times of nanoseconds: they are Python's where they have whole microseconds, else texts with all of
    their digits."""
    kind = column.type
    if not _has_nanoseconds(kind):
        return list(column.to_pylist())
    if isinstance(column, pa.ExtensionArray):
        return values_of(column.storage)
    if pa.types.is_dictionary(kind):
        return values_of(column.dictionary_decode())
    if pa.types.is_struct(kind):
        rows = zip(*map(values_of, column.flatten()), strict=True)
        found = (dict(zip((one.name for one in kind), row, strict=True)) for row in rows)
        return [row if there else None for row, there in zip(found, column.is_valid().to_pylist(), strict=True)]
    if pa.types.is_nested(kind):
        return [_of_list(one, pairs=pa.types.is_map(kind)) for one in column]
    return list(_of_times(column))


def _has_nanoseconds(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.ExtensionType):
        return _has_nanoseconds(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return _has_nanoseconds(kind.value_type)
    if pa.types.is_nested(kind):
        return any(_has_nanoseconds(kind.field(place).type) for place in range(kind.num_fields))
    return pa.types.is_temporal(kind) and getattr(kind, "unit", "") == "ns"


def _of_list(one: pa.Scalar, *, pairs: bool) -> list[Any] | None:
    if not one.is_valid:
        return None
    values = values_of(one.values)
    return [tuple(pair.values()) for pair in values] if pairs else values


def _of_times(column: pa.Array) -> Iterator[Any]:
    kind = column.type
    shorter = pa.timestamp("us", kind.tz) if pa.types.is_timestamp(kind) else pa.duration("us")
    shorter = pa.time64("us") if pa.types.is_time(kind) else shorter
    numbers = column.cast(pa.int64()).to_pylist()
    whole = pa.array([None if number is None else number // 1000 for number in numbers], pa.int64()).cast(shorter)
    for number, short in zip(numbers, whole.to_pylist(), strict=True):
        yield short if number is None or not number % 1000 else _text(short, number)


def _text(short: datetime.datetime | datetime.time | datetime.timedelta, number: int) -> str:
    """`number` are the nanoseconds, `short` the same in whole microseconds."""
    if isinstance(short, datetime.timedelta):
        return f"{datetime.timedelta(seconds=number // _SECOND)}.{number % _SECOND:09d}"
    if isinstance(short, datetime.time):
        return f"{short.isoformat('microseconds')}{number % 1000:03d}"
    bare = short.replace(tzinfo=None, microsecond=0)
    zone = short.replace(microsecond=0).isoformat().removeprefix(bare.isoformat())
    return f"{bare.isoformat(' ')}.{number % _SECOND:09d}{zone}"
