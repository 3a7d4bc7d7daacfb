"""What changed in a source, in order, and how it travels: between layers as these nouns, to files and child processes as pieces.

A batch of row changes has the columns of the collection's rows, all of them nullable, and four of its own before them. Null in a
row's column means that the operation says nothing about it; of a payload the operation names keys, and null removes one.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from strongroom.model import ROLE, Collection, Field, Json, Lineage, Role

ACT, TIME, MARK, BATCH = "strongroom:act", "strongroom:time", "strongroom:mark", "strongroom:batch"
OWN_COLUMNS = (
    pa.field(ACT, pa.int8(), nullable=False),
    pa.field(TIME, pa.int64(), nullable=False),
    pa.field(MARK, pa.utf8(), nullable=False),
    pa.field(BATCH, pa.utf8()),
)
COPIES = b"strongroom.copies"
"""Key of the metadata of an id column whose ids name what is in a row: a put adds one such row, a delete takes one away."""

_LENGTHS = struct.Struct("<II")
_PIECE = struct.Struct("<Q")


class Act(IntEnum):
    """What an operation does to the row of its id. An insert of an id that is there does nothing, nor does an update of one that
    isn't; an upsert does whichever is right. What an update doesn't name stays; a `put` replaces the whole row."""

    INSERT = 0
    UPDATE = 1
    UPSERT = 2
    DELETE = 3
    PUT = 4


@dataclass(frozen=True, slots=True)
class RowChanges:
    """Operations on rows of one collection: `name` is what it was called then, `identity` the engine's own lasting name of it.
    Times are microseconds since 1970; `scope` is the part of the source whose marks these are ('' where all of it shares them)."""

    name: str
    identity: str
    batch: pa.RecordBatch
    scope: str = ""

    def __len__(self) -> int:
        return int(self.batch.num_rows)

    def times(self) -> npt.NDArray[np.int64]:
        found: npt.NDArray[np.int64] = self.batch.column(TIME).to_numpy()
        return found

    def slice(self, start: int, count: int | None = None) -> RowChanges:
        return RowChanges(self.name, self.identity, self.batch.slice(start, count), self.scope)


@dataclass(frozen=True, slots=True)
class CatalogChange:
    """`present` are collections that are there from here on, new or changed, each with its identity; `gone` the identities of those
    that aren't any more. If it is `whole`, no others are there. Where what is gone left nothing to read, `unseen_since` is when it
    was looked at last (0: when all was): between then and `time` it isn't known what it held."""

    present: Mapping[str, Collection]
    gone: tuple[str, ...]
    time: int
    mark: str
    whole: bool = False
    scope: str = ""
    unseen_since: int | None = None

    def __len__(self) -> int:
        return 1


Change = RowChanges | CatalogChange


def change_schema(rows: pa.Schema) -> pa.Schema:
    """The columns of changes to rows of this schema."""
    return pa.schema([*OWN_COLUMNS, *(field.with_nullable(True) for field in rows)])


def is_vector(field: pa.Field) -> bool:
    return (field.metadata or {}).get(ROLE) == Role.VECTOR.encode()


def vector_bytes(column: pa.Array) -> list[bytes | None]:
    """The bytes of each vector of a column; None where there is none."""
    if pa.types.is_fixed_size_binary(column.type):
        found: list[bytes | None] = column.to_pylist()
        return found
    dense = np.ascontiguousarray(column.drop_null().flatten().to_numpy(zero_copy_only=False)).reshape(-1, column.type.list_size)
    rows = iter(dense)
    return [next(rows).tobytes() if there else None for there in np.asarray(column.is_valid())]


def column_of(batch: pa.RecordBatch, role: Role) -> str | None:
    """The name of the first column of that role."""
    return next((field.name for field in batch.schema if (field.metadata or {}).get(ROLE) == role.encode()), None)


def counts_copies(schema: pa.Schema) -> bool:
    """True if rows of this schema are known by what is in them, so that there may be several of one id."""
    return any(COPIES in (field.metadata or {}) for field in schema)


# -- as pieces ---------------------------------------------------------------------------------------------------------------


def to_pieces(change: Change) -> tuple[dict[str, Json], list[tuple[str, bytes]]]:
    """What describes a change, as JSON, and its bytes, each with its kind (`codecs.encode`): the vectors that are given lie apart,
    one after another, so that they can be coded as numbers."""
    if isinstance(change, CatalogChange):
        return {**asdict(change), "what": "catalog"}, []
    columns, fields, pieces = [], [], []
    for field, column in zip(change.batch.schema, change.batch.columns, strict=True):
        if is_vector(field) and not has_gaps(column):
            pieces.append((_kind(field.type), _dense(column)))
            fields.append(pa.field(field.name, pa.bool_()))
            columns.append(column.is_valid())
        else:
            fields.append(field)
            columns.append(column)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, pa.schema(fields)) as writer:
        writer.write_batch(pa.record_batch(columns, schema=pa.schema(fields)))
    schema = change.batch.schema.serialize().to_pybytes()
    head = {"what": "rows", "name": change.name, "identity": change.identity, "scope": change.scope}
    return head, [("bytes", schema), ("bytes", sink.getvalue().to_pybytes()), *pieces]


def from_pieces(head: Mapping[str, Any], pieces: Sequence[bytes]) -> Change:
    """The inverse. Raises ValueError, KeyError or TypeError if they aren't what they should be."""
    if head["what"] == "catalog":
        present = {identity: collection_from(one) for identity, one in head["present"].items()}
        told = head["time"], head["mark"], head["whole"], head["scope"], head.get("unseen_since")
        return CatalogChange(present, tuple(head["gone"]), *told)
    schema = pa.ipc.read_schema(pa.py_buffer(pieces[0]))
    rest = pa.ipc.open_stream(pa.py_buffer(pieces[1])).read_next_batch()
    columns, vectors = [], iter(pieces[2:])
    for field in schema:
        column = rest.column(field.name)
        apart = is_vector(field) and pa.types.is_boolean(column.type)
        columns.append(_sparse(column, next(vectors), field.type) if apart else column)
    return RowChanges(head["name"], head["identity"], pa.record_batch(columns, schema=schema), head["scope"])


def spool(changes: Iterable[Change], file: BinaryIO) -> int:
    """Write changes to a file for a child process; gives the number of operations."""
    count = 0
    for change in changes:
        head, pieces = to_pieces(change)
        text = json.dumps(head).encode()
        file.write(_LENGTHS.pack(len(text), len(pieces)) + text)
        for _, piece in pieces:
            file.write(_PIECE.pack(len(piece)))
            file.write(piece)
        count += len(change)
    return count


def unspool(file: BinaryIO) -> Iterator[Change]:
    """The changes that `spool` wrote."""
    while lengths := file.read(_LENGTHS.size):
        text, count = _LENGTHS.unpack(lengths)
        head = json.loads(file.read(text))
        yield from_pieces(head, [file.read(_PIECE.unpack(file.read(_PIECE.size))[0]) for _ in range(count)])


def has_gaps(column: pa.Array) -> bool:
    """Is an element of a vector null? Numbers alone don't say so."""
    return bool(pa.types.is_fixed_size_list(column.type) and column.drop_null().flatten().null_count)


def _kind(kind: pa.DataType) -> str:
    if pa.types.is_fixed_size_binary(kind):
        return "bfloat16"
    return {"float": "float32", "halffloat": "float16"}.get(str(kind.value_type), str(kind.value_type))


def _dense(column: pa.Array) -> bytes:
    given = column.drop_null()
    if pa.types.is_fixed_size_binary(given.type):
        return b"".join(given.to_pylist())
    return bytes(np.ascontiguousarray(given.flatten().to_numpy(zero_copy_only=False)).view(np.uint8).tobytes())


def _sparse(given: pa.Array, vectors: bytes, kind: pa.DataType) -> pa.Array:
    there = given.to_numpy(zero_copy_only=False)
    count = int(there.sum())
    if pa.types.is_fixed_size_binary(kind):
        dense = pa.FixedSizeBinaryArray.from_buffers(kind, count, [None, pa.py_buffer(vectors)])
    else:
        values = pa.Array.from_buffers(kind.value_type, count * kind.list_size, [None, pa.py_buffer(vectors)])
        dense = pa.FixedSizeListArray.from_arrays(values, type=kind)
    if count == len(there):
        return dense
    return dense.take(pa.array(np.cumsum(there) - 1, mask=~there))


def collection_from(body: Mapping[str, Any]) -> Collection:
    """The inverse of `dataclasses.asdict`."""
    fields = tuple(Field(**one) for one in body["fields"])
    return Collection(**{**body, "fields": fields, "lineage": Lineage(**body["lineage"])})
