"""How are the rows of a vec0 table read from the tables in which it keeps them, without sqlite-vec? By its chunks, bit for bit.

    <table>_chunks                size slots each: which hold a row (bitmap), their rowids, the partition's keys
    <table>_vector_chunksNN       the vectors of a chunk's slots, one after another
    <table>_metadatachunksNN      values of a chunk's slots; a text of more than 12 bytes lies in <table>_metadatatextNN, by rowid
    <table>_rowids, _auxiliary    text keys and auxiliary values, by rowid

The slots of all chunks, one chunk after another, are the storage order; a slot without a row is dead.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from strongroom.engines.protocol import rows_per_block
from strongroom.engines.sqlite_vec.definition import Column, Kind, Table, quoted
from strongroom.errors import Unreadable
from strongroom.model import RowBlock

_INLINE = 12
_TEXT = np.dtype([("length", "<i4"), ("text", f"V{_INLINE}")])
_ELEMENTS = {"float32": "<f4", "int8": "i1", "bit": "u1"}
_FITS = {
    "text": "typeof({0}) = 'text'",
    "integer": "typeof({0}) = 'integer'",
    "float": f"(typeof({{0}}) = 'real' OR typeof({{0}}) = 'integer' AND {{0}} BETWEEN {-(1 << 53)} AND {1 << 53})",
    "blob": "typeof({0}) = 'blob'",
}
"""Is the value of an auxiliary column of the column's type? sqlite-vec asks that of an INSERT, and not of an UPDATE."""


def count(connection: sqlite3.Connection, table: Table) -> int:
    """How many rows a table has."""
    return int(connection.execute(f"SELECT count(*) FROM {quoted(table.name + '_rowids')}").fetchone()[0])  # noqa: S608


def half_written(connection: sqlite3.Connection, table: Table) -> int:
    """How many rows lack their auxiliary values: sqlite-vec doesn't take a row back whose INSERT fails at them."""
    if not table.of(Kind.AUXILIARY):
        return 0
    query = f"SELECT count(*) FROM {quoted(table.name + '_auxiliary')}"  # noqa: S608
    return count(connection, table) - int(connection.execute(query).fetchone()[0])


def misfits(connection: sqlite3.Connection, table: Table) -> dict[str, int]:
    """How many values of each auxiliary column are of another type than the column, where there are any."""
    columns = table.of(Kind.AUXILIARY)
    if not columns:
        return {}
    odd = ", ".join(f"count(*) FILTER (WHERE {_value(one)} IS NOT NULL AND NOT {_fits(one)})" for one in columns)
    query = f"SELECT {odd} FROM {quoted(table.name + '_auxiliary')}"  # noqa: S608
    counts = connection.execute(query).fetchone()
    return {one.name: int(number) for one, number in zip(columns, counts, strict=True) if number}


def _value(one: Column) -> str:
    return f"value{one.place:02}"


def _fits(one: Column) -> str:
    return _FITS[one.type].format(_value(one))


def chunks(connection: sqlite3.Connection, table: Table) -> list[tuple[int, int]]:
    """The number and the slots of every chunk, in storage order."""
    found = connection.execute(f"SELECT chunk_id, size FROM {quoted(table.name + '_chunks')} ORDER BY chunk_id")  # noqa: S608
    return [(int(number), int(size)) for number, size in found]


def blocks(connection: sqlite3.Connection, table: Table) -> Iterator[RowBlock]:
    """All slots, so many a block as `rows_per_block` says. The connection gives text as bytes. Raises Unreadable."""
    most = rows_per_block(table.row_bytes)
    waiting: list[tuple[pa.RecordBatch, npt.NDArray[np.bool_]]] = []
    living = 0
    for number, size in chunks(connection, table):
        batch, there = _Chunk(connection, table, number, size).batch()
        living += int(there.sum())
        at = 0
        while at < size:
            length = min(size - at, most - sum(one.num_rows for one, _ in waiting))
            waiting.append((batch.slice(at, length), ~there[at : at + length]))
            at += length
            if sum(one.num_rows for one, _ in waiting) == most:
                yield _together(waiting)
                waiting = []
    if waiting:
        yield _together(waiting)
    if living != count(connection, table):
        raise _damaged(table, f"its chunks hold {living} rows and its list of rows has {count(connection, table)}")


def _together(parts: Sequence[tuple[pa.RecordBatch, npt.NDArray[np.bool_]]]) -> RowBlock:
    dead = np.concatenate([one for _, one in parts])
    batch = parts[0][0] if len(parts) == 1 else pa.Table.from_batches([one for one, _ in parts]).combine_chunks().to_batches()[0]
    return RowBlock(batch, dead if dead.any() else None)


class _Chunk:
    """One chunk of a table, all columns."""

    def __init__(self, connection: sqlite3.Connection, table: Table, number: int, size: int) -> None:
        self._connection = connection
        self._table = table
        self._number = number
        self._size = size
        partitions = "".join(f", partition{one.place:02}" for one in table.of(Kind.PARTITION))
        validity, rowids, *self._partitions = self._row("chunks", f"validity, rowids{partitions}", "chunk_id")
        if len(validity) * 8 != size or len(rowids) != size * 8:
            raise _damaged(table, f"chunk {number} has not {size} slots")
        self._there = np.unpackbits(np.frombuffer(validity, np.uint8), bitorder="little").astype(bool)
        self._rowids = np.where(self._there, np.frombuffer(rowids, "<i8"), 0)

    def batch(self) -> tuple[pa.RecordBatch, npt.NDArray[np.bool_]]:
        """Its slots as rows, and which of them hold one."""
        table, schema = self._table, self._table.schema
        auxiliary = iter(self._auxiliary())
        columns = []
        for one, field in zip((table.key, *(one for one in table.columns if one.kind is not Kind.KEY)), schema, strict=True):
            if one.kind is Kind.AUXILIARY:
                columns.append(pa.array(next(auxiliary), field.type))
            else:
                columns.append(self._column(one, field.type))
        return pa.record_batch(columns, schema=schema), self._there

    def _column(self, one: Column, kind: pa.DataType) -> pa.Array:
        if one.kind is Kind.VECTOR:
            raw = self._blob(f"vector_chunks{one.place:02}", "vectors", self._size * one.width)
            return pa.FixedSizeListArray.from_arrays(pa.array(np.frombuffer(raw, _ELEMENTS[one.type])), type=kind)
        if one.kind is Kind.PARTITION:
            value = self._partitions[one.place]
            return pa.array([self._text(value) if one.type == "text" and value is not None else value] * self._size, kind)
        if one.kind is Kind.METADATA:
            return self._metadata(one)
        if one.type == "integer":
            return pa.array(self._rowids)
        ids = {rowid: self._text(value) for rowid, (value,) in self._by_rowid("rowids", "id").items()}
        if len(ids) != self._there.sum():
            raise _damaged(self._table, f"chunk {self._number} has rows that are nowhere listed")
        named = zip(self._rowids.tolist(), self._there, strict=True)
        return pa.array([ids[rowid] if there else "" for rowid, there in named], kind)

    def _metadata(self, one: Column) -> pa.Array:
        width = {"boolean": 0, "text": _TEXT.itemsize}.get(one.type, 8)
        raw = self._blob(f"metadatachunks{one.place:02}", "data", self._size * width or self._size // 8)
        if one.type == "boolean":
            return pa.array(np.unpackbits(np.frombuffer(raw, np.uint8), bitorder="little").astype(bool))
        if one.type != "text":
            return pa.array(np.frombuffer(raw, "<i8" if one.type == "integer" else "<f8"))
        views = np.frombuffer(raw, _TEXT)
        long = self._there & (views["length"] > _INLINE)
        texts = self._by_rowid(f"metadatatext{one.place:02}", "data", long) if long.any() else {}
        if len(texts) != long.sum():
            raise _damaged(self._table, f"chunk {self._number} lacks a text of {one.name}")
        inline = [bytes(text)[:length] for length, text in zip(views["length"].tolist(), views["text"].tolist(), strict=True)]
        values = [texts[rowid][0] if more else text for more, rowid, text in zip(long, self._rowids.tolist(), inline, strict=True)]
        return pa.array([self._text(value) if there else "" for value, there in zip(values, self._there, strict=True)])

    def _auxiliary(self) -> list[list[Any]]:
        """The values of each auxiliary column, null for one of another type. A row that is half written has none."""
        columns = self._table.of(Kind.AUXILIARY)
        if not columns:
            return []
        fitting = ", ".join(f"CASE WHEN {_fits(one)} THEN {_value(one)} END" for one in columns)
        found = self._by_rowid("auxiliary", fitting)
        every = []
        for one in columns:
            text = self._text if one.type == "text" else lambda value: value
            given = {rowid: row[one.place] for rowid, row in found.items()}
            values = [given.get(rowid) if there else None for rowid, there in zip(self._rowids.tolist(), self._there, strict=True)]
            every.append([None if value is None else text(value) for value in values])
        return every

    def _by_rowid(self, part: str, columns: str, which: npt.NDArray[np.bool_] | None = None) -> dict[int, tuple[Any, ...]]:
        """What a table has of the rows of this chunk, all or `which`."""
        wanted = json.dumps(self._rowids[self._there if which is None else which].tolist())
        query = f"SELECT rowid, {columns} FROM {self._place(part)} WHERE rowid IN (SELECT value FROM json_each(?))"  # noqa: S608
        return {int(rowid): tuple(values) for rowid, *values in self._connection.execute(query, (wanted,))}

    def _blob(self, part: str, column: str, length: int) -> bytes:
        (found,) = self._row(part, column, "_rowid_")
        if not isinstance(found, bytes) or len(found) != length:
            raise _damaged(self._table, f"chunk {self._number} of {part} has not {length:,} bytes")
        return found

    def _row(self, part: str, columns: str, key: str) -> tuple[Any, ...]:
        query = f"SELECT {columns} FROM {self._place(part)} WHERE {key} = ?"  # noqa: S608
        found: tuple[Any, ...] | None = self._connection.execute(query, (self._number,)).fetchone()
        if found is None:
            raise _damaged(self._table, f"{part} has no chunk {self._number}")
        return found

    def _place(self, part: str) -> str:
        return quoted(f"{self._table.name}_{part}")

    def _text(self, value: bytes) -> str:
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            hint = "put valid text there; the database itself can be copied as a file"
            raise Unreadable(f"table {self._table.name} holds text that isn't UTF-8: {value[:40]!r}", hint=hint) from error


def _damaged(table: Table, problem: str) -> Unreadable:
    return Unreadable(f"table {table.name} is damaged: {problem}", hint="restore it from an earlier snapshot, or build it anew")
