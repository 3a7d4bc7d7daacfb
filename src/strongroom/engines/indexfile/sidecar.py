"""What the file beside an index says about its vectors: ids, documents, metadata. Read in batches, never whole.

`index.parquet` or `index.jsonl` beside `index.faiss`: one record a vector, in the order in which the vectors were added, or
joined by an integer `id` where the index keeps ids of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from strongroom.engines.indexfile.held import OpenFile
from strongroom.engines.payloads import Number, exact, written
from strongroom.errors import Unreadable
from strongroom.model import ROLE, Json, Role

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_INT64, _IN_DOUBLES = range(-(1 << 63), 1 << 63), range(-(1 << 53), (1 << 53) + 1)
_HALF, _ESCAPED_HALF = re.compile("[\ud800-\udfff]"), re.compile(r"\\u[dD][89a-fA-F]")
_ESCAPE = re.compile(r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)")
"""One of JSON's; the group is half a character that the other half doesn't follow."""
_LINES_BYTES = 4 << 20  # of JSON text that become one batch: parsed it takes about ten times as much memory


class Sidecar(Protocol):
    @property
    def file(self) -> OpenFile: ...

    @property
    def count(self) -> int:
        """Records."""

    @property
    def schema(self) -> pa.Schema:
        """All columns; their Arrow metadata has `model.ROLE`, except for lists that may turn out to be vectors."""

    @property
    def lineage(self) -> Mapping[str, str]:
        """What the file says about its embedding model: 'model' and 'version', empty where it doesn't."""

    @property
    def halves(self) -> bool:
        """Are there halves of characters, as in texts that were cut within an emoji? No column can hold them: they are U+FFFD."""

    def batches(self, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        """These columns in the file's order, in batches of at most `rows` rows of any number. Raises Unreadable."""


def read_sidecar(file: OpenFile) -> Sidecar:
    """The sidecar in an open file, by the file's suffix. Reads a JSONL file once, of a Parquet file only the footer."""
    if file.path.suffix == ".jsonl":
        return _jsonl(file)
    try:
        return _parquet(file)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(file, error) from error


def aligned(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Callable[[int], pa.RecordBatch]:
    """A function that returns the next n rows of `batches` as one batch."""
    waiting: list[pa.RecordBatch] = []

    def take(rows: int) -> pa.RecordBatch:
        while sum(batch.num_rows for batch in waiting) < rows and (batch := next(batches, None)) is not None:
            waiting.append(batch)
        table = pa.Table.from_batches(waiting, schema)
        rest = table.slice(rows).to_batches()
        taken = table.slice(0, rows).combine_chunks().to_batches()
        waiting[:] = rest
        return taken[0] if taken else pa.RecordBatch.from_pylist([], schema)

    return take


def as_vectors(column: pa.Array, dimension: int) -> npt.NDArray[np.float32] | None:
    """A list column as rows x dimension float32; None if a row is null, has a null, or is of another length."""
    values = column.flatten()
    if column.null_count or values.null_count or len(values) != len(column) * dimension:
        return None
    if not pa.types.is_fixed_size_list(column.type) and (np.asarray(column.value_lengths()) != dimension).any():
        return None
    return np.asarray(values.to_numpy(zero_copy_only=False), np.float32).reshape(-1, dimension)


def may_be_vectors(kind: pa.DataType, dimension: int) -> bool:
    """Is this a type that can hold a vector of `dimension` floats in each row?"""
    if pa.types.is_fixed_size_list(kind):
        return bool(kind.list_size == dimension and pa.types.is_floating(kind.value_type))
    return bool((pa.types.is_list(kind) or pa.types.is_large_list(kind)) and pa.types.is_floating(kind.value_type))


def _damaged(file: OpenFile, error: Exception) -> Unreadable:
    reason = " ".join(str(error).split())[:200]
    return Unreadable(f"{file.path} can't be read: {reason}", hint="move it away if it doesn't belong to the index")


_SAID = {role.encode(): role for role in (Role.DOCUMENT, Role.URI, Role.PAYLOAD, Role.COLUMN)}


def _role(name: str, said: bytes | None) -> Role:
    if name != "id" and said in _SAID:
        return _SAID[said]
    return {"id": Role.ID, "document": Role.DOCUMENT, "uri": Role.URI, "payload": Role.PAYLOAD}.get(name, Role.COLUMN)


# Parquet


@dataclass(frozen=True, slots=True)
class _Parquet:
    file: OpenFile
    count: int
    schema: pa.Schema
    lineage: Mapping[str, str]
    halves: bool = False

    def batches(self, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        schema = pa.schema([self.schema.field(name) for name in columns])
        if not columns:
            return
        try:
            opened = _opened(self.file)
            for batch in opened.iter_batches(batch_size=rows, columns=list(columns), use_threads=False):
                found = [_cast(batch.column(field.name), field) for field in schema]
                yield pa.RecordBatch.from_arrays(found, schema=schema)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise _damaged(self.file, error) from error


def _opened(file: OpenFile) -> pq.ParquetFile:
    import pyarrow.parquet as pq  # takes as long to load as the rest of Arrow, and many an index has no sidecar

    return pq.ParquetFile(file.stream())


def _parquet(file: OpenFile) -> _Parquet:
    opened = _opened(file)
    names = opened.schema_arrow.names
    if len(set(names)) != len(names):
        raise Unreadable(f"{file.path} has two columns of one name", hint="rename one of them")
    said = {key.decode(errors="replace"): value.decode(errors="replace") for key, value in (opened.metadata.metadata or {}).items()}
    lineage = {
        "model": said.get("model") or said.get("embedding_model") or "",
        "version": said.get("model_version", ""),
    }
    schema = pa.schema([_parquet_field(opened, field) for field in opened.schema_arrow])
    return _Parquet(file, opened.metadata.num_rows, schema, lineage)


def _parquet_field(opened: pq.ParquetFile, field: pa.Field) -> pa.Field:
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    role = _role(field.name, (field.metadata or {}).get(ROLE))
    fits = text or role is Role.COLUMN or (role is Role.ID and pa.types.is_integer(kind))
    if role is Role.PAYLOAD:
        fits = _holds_objects(opened, field.name) if text else pa.types.is_struct(kind)
    if not fits:
        role = Role.COLUMN
    if role is Role.ID:
        beyond = pa.types.is_uint64(kind) and _is_beyond_int64(opened, field.name)
        kind = pa.string() if text else pa.uint64() if beyond else pa.int64()
    elif role in (Role.DOCUMENT, Role.URI, Role.PAYLOAD):
        kind = pa.string()
    return pa.field(field.name, kind, metadata={ROLE: role.encode()})


def _cast(column: pa.Array, field: pa.Field) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if field.metadata[ROLE] == Role.PAYLOAD.encode():
        return pa.array([_canonical_payload(value) for value in column.to_pylist()], pa.string())
    return column if column.type == field.type else column.cast(field.type)


def _is_beyond_int64(opened: pq.ParquetFile, column: str) -> bool:
    """Is one of these whole numbers 2^63 or more?"""
    for batch in opened.iter_batches(columns=[column], use_threads=False):
        found = batch.column(0).dictionary_decode() if pa.types.is_dictionary(batch.column(0).type) else batch.column(0)
        if int(found.drop_null().to_numpy(zero_copy_only=False).max(initial=0)) not in _INT64:
            return True
    return False


def _holds_objects(opened: pq.ParquetFile, column: str) -> bool:
    """Is every value of a text column the JSON text of an object?"""
    try:
        for batch in opened.iter_batches(batch_size=4096, columns=[column], use_threads=False):
            for value in batch.column(0).to_pylist():
                _canonical_payload(value)
    except ValueError:
        return False
    return True


def _canonical_payload(value: Json) -> str | None:
    if value is None:
        return None
    if isinstance(value, str):
        value = exact(value)
        if not isinstance(value, dict):
            raise ValueError("a payload is not a JSON object")
    return written(value)


# JSON Lines


@dataclass(frozen=True, slots=True)
class _Jsonl:
    file: OpenFile
    count: int
    schema: pa.Schema
    lineage: Mapping[str, str]
    halves: bool

    def batches(self, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        schema = pa.schema([self.schema.field(name) for name in columns])
        waiting: list[list[Json]] = [[] for _ in columns]
        size = 0
        for record, length, _ in _records(self.file):
            for values, field in zip(waiting, schema, strict=True):
                values.append(_value(record.get(field.name), field.type))
            size += length
            if columns and (len(waiting[0]) == rows or size >= _LINES_BYTES):
                yield _batch(waiting, schema)
                waiting, size = [[] for _ in columns], 0
        if columns and waiting[0]:
            yield _batch(waiting, schema)


def _batch(columns: list[list[Json]], schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)


def _value(value: Json, kind: pa.DataType) -> Json:
    if value is None:
        return None
    if pa.types.is_list(kind):
        return np.asarray(value, np.float64)
    return written(value) if pa.types.is_string(kind) and not isinstance(value, str) else value


def _records(file: OpenFile) -> Iterator[tuple[dict[str, Json], int, bool]]:
    """Each object of the file, the length of its line, and whether that had halves of characters. Empty lines are no records."""
    with file.stream() as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                text = line.decode(json.detect_encoding(line), "surrogatepass")
                whole = _without_halves(text)
                record = exact(whole)
            except ValueError as error:
                raise _damaged(file, ValueError(f"line {number} is not JSON: {error}")) from error
            if not isinstance(record, dict):
                raise _damaged(file, ValueError(f"line {number} is not a JSON object"))
            yield record, len(line), whole is not text


def _without_halves(line: str) -> str:
    """The same line if it has no halves of characters, neither as they are nor as JSON escapes them."""
    if not line.isascii() and _HALF.search(line):
        line = _HALF.sub("\ufffd", line)
    if not _ESCAPED_HALF.search(line):
        return line
    whole = _ESCAPE.sub(lambda escape: "\\ufffd" if escape[1] else escape[0], line)
    return line if whole == line else whole


def _jsonl(file: OpenFile) -> _Jsonl:
    seen: dict[str, set[str]] = {}
    count, halves = 0, False
    for record, _, cut in _records(file):
        count, halves = count + 1, halves or cut
        for name, value in record.items():
            seen.setdefault(name, set()).add(_shape(value))
    return _Jsonl(file, count, pa.schema([_json_field(name, kinds) for name, kinds in seen.items()]), {}, halves)


def _shape(value: Json) -> str:
    """Of which kind a JSON value is, as far as columns go. What no double has exactly shares a column with none."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | Number):
        return "large" if isinstance(value, Number) or value not in _INT64 else "int" if value in _IN_DOUBLES else "whole"
    if isinstance(value, list) and value and all(_fits_double(item) for item in value):
        return f"vector {len(value)}"
    names: dict[Any, str] = {type(None): "null", float: "float", str: "str", dict: "object"}
    return names.get(type(value), "other")


def _fits_double(value: Json) -> bool:
    return type(value) is float or (type(value) is int and value in _IN_DOUBLES)


def _json_field(name: str, kinds: set[str]) -> pa.Field:
    kinds = kinds - {"null"}
    role = _role(name, None)
    kind: pa.DataType = pa.string()  # also for values of several kinds: as JSON text
    if kinds and kinds <= {"int", "whole"}:
        kind = pa.int64()
    elif kinds and kinds <= {"int", "float"}:
        kind = pa.float64()
    elif kinds == {"bool"}:
        kind = pa.bool_()
    elif len(kinds) == 1 and next(iter(kinds)).startswith("vector"):
        kind = pa.list_(pa.float64())
    wanted = {
        Role.ID: ({"int"}, {"whole"}, {"int", "whole"}, {"str"}),
        Role.DOCUMENT: ({"str"},),
        Role.URI: ({"str"},),
        Role.PAYLOAD: ({"object"},),
    }
    if role in wanted and kinds not in wanted[role]:
        role = Role.COLUMN
    return pa.field(name, kind, metadata={ROLE: role.encode()})
