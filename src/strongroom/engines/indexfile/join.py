"""Which record of a sidecar belongs to which row of an index, what of it becomes a column of the rows, and how it is fetched."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from strongroom.engines.indexfile.order import Ids, Order, are_positions, collected, matched, unique
from strongroom.engines.indexfile.sidecar import Sidecar, aligned, as_vectors, may_be_vectors
from strongroom.engines.protocol import rows_per_block
from strongroom.errors import SourceChanged
from strongroom.model import ROLE, Role

_SPOOLED_ROWS = 16_384  # of one batch in the temporary file

Fetch = Callable[[Ids], npt.NDArray[np.float32] | None]
"""The index's own vectors of these rows (by ordinal); None where it keeps only codes of them."""


class IdSource(StrEnum):
    """Whose ids the rows carry."""

    POSITION = "position"
    INDEX = "index"
    SIDECAR = "sidecar"


@dataclass(frozen=True, slots=True)
class Join:
    """How rows and records go together. `records[i]` is the record of row i, None if it is record i.

    `columns` maps the sidecar's column names to those of the rows; `repeated` names the vector columns that only repeat the
    index's vectors, `vectors` those that hold others. `joined` is False if nothing says which record belongs to which row.
    """

    ids: IdSource
    sidecar: Sidecar | None = None
    joined: bool = False
    records: Ids | None = None
    columns: Mapping[str, str] = None  # type: ignore[assignment]  # never None after `join`
    vectors: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()
    unique_ids: bool = True


def join(sidecar: Sidecar | None, order: Order, dimension: int, fetch: Fetch) -> Join:
    """Decide how the sidecar belongs to the rows. Reads its ids and vector columns. Raises SourceChanged if their numbers or
    ids contradict each other."""
    own = order.own_ids
    distinct = own is None or unique(own)
    ids = IdSource.INDEX if own is not None and distinct else IdSource.POSITION
    if sidecar is None:
        return Join(ids, columns={}, unique_ids=distinct)
    joined, records, by_id = _records(sidecar, order)
    if not joined and sidecar.count != order.live:
        raise SourceChanged(
            f"{sidecar.file.path} has {sidecar.count:,} records and the index {order.live:,} vectors",
            hint=f"save both under flock on the index's lock file, or move {sidecar.file.path.name} away if it isn't its sidecar",
        )
    if not joined:
        return Join(ids, sidecar, columns={}, unique_ids=distinct)
    if not by_id and _has_good_ids(sidecar):
        ids, distinct = IdSource.SIDECAR, True
    vectors = [field.name for field in sidecar.schema if may_be_vectors(field.type, dimension)]
    judged = {name: _compare(sidecar, name, records, dimension, fetch) for name in vectors}
    repeated = tuple(name for name, verdict in judged.items() if verdict == "repeated")
    extra = tuple(name for name, verdict in judged.items() if verdict == "vectors")
    hidden = {*repeated, *(("id",) if by_id or ids is IdSource.SIDECAR else ())}
    names = [name for name in sidecar.schema.names if name not in hidden]
    columns = {name: _free_name(name, sidecar.schema.names) for name in names}
    return Join(ids, sidecar, True, records, columns, extra, repeated, distinct)


def _free_name(name: str, taken: Sequence[str]) -> str:
    """The column's name in the rows, where `id` and `vector` are the index's."""
    if name not in ("id", "vector"):
        return name
    name = f"sidecar_{name}"
    while name in taken:
        name += "_"
    return name


def _records(sidecar: Sidecar, order: Order) -> tuple[bool, Ids | None, bool]:
    """Is there a correspondence, the record of each row, and was it found by id? A sidecar may also have records of rows that
    were deleted from the index, if the index says that there were any."""
    own = order.own_ids
    fits = sidecar.count == order.live or (sidecar.count > order.live and _lacks_some(order))
    if own is not None and "id" in sidecar.schema.names and pa.types.is_integer(sidecar.schema.field("id").type) and fits:
        theirs = _id_column(sidecar, sidecar.count)
        records = matched(own, theirs)
        if records is not None:
            return True, _by_slot(order, records, sidecar.count), True
        if order.ids is not None and not _repeats_alike(own, theirs, order):
            raise SourceChanged(
                f"the ids in {sidecar.file.path} are not those in the index",
                hint="save both under flock on the index's lock file, or call the column otherwise if it isn't the vectors' id",
            )
    if order.labels is None:
        return sidecar.count == order.count, None, False
    labels = order.labels if order.dead is None else order.labels[~order.dead]
    if _numbers_records(labels, order, sidecar.count):
        return True, _by_slot(order, labels, sidecar.count), False
    return False, None, False


def _repeats_alike(own: Ids, theirs: Ids, order: Order) -> bool:
    """Does an id map have ids more than once, and the sidecar the same ones in the order in which they were added?"""
    added = theirs if order.labels is None else theirs[order.labels]
    return not unique(own) and np.array_equal(own, added)


def _lacks_some(order: Order) -> bool:
    """Were rows deleted? Then slots are dead, or, where they were given to new rows, numbers are missing among the labels."""
    return order.dead is not None or (order.reuses and order.labels is not None and not are_positions(order.labels))


def _numbers_records(labels: Ids, order: Order, records: int) -> bool:
    """Are the labels the numbers of the records, in a file that keeps those of deleted rows too?"""
    if are_positions(labels) and len(labels) == records:
        return True
    if not len(labels) or order.labels is None or not _lacks_some(order) or int(labels.min()) < 0 or not unique(labels):
        return False
    nameless = 0 if order.dead is None else int(np.count_nonzero(order.labels[order.dead] < 0))
    fewest = int(order.labels.max()) + 1
    return fewest <= records <= fewest + nameless


def _by_slot(order: Order, records: Ids, count: int) -> Ids | None:
    """The record of each slot, -1 for a dead one; None if it is the slot's own number everywhere."""
    if order.dead is not None:
        live, records = records, np.full(order.count, -1, np.int64)
        records[~order.dead] = live
    natural = len(records) == count and np.array_equal(records, np.arange(count))
    return None if natural else records


def _id_column(sidecar: Sidecar, count: int) -> Ids:
    """As an index has them: unsigned ones as int64."""
    columns = (batch.column(0) for batch in sidecar.batches(["id"], 65_536))
    parts = (
        one.fill_null(-1 if pa.types.is_signed_integer(one.type) else (1 << 64) - 1).to_numpy().view(np.int64) for one in columns
    )
    whole = collected(parts, count)
    if whole is None:
        raise SourceChanged(f"{sidecar.file.path} doesn't have the records that it announced")
    return whole


def _has_good_ids(sidecar: Sidecar) -> bool:
    """Does the sidecar have an `id` in every record, each once? Texts are compared by a 63-bit hash."""
    if "id" not in sidecar.schema.names or sidecar.schema.field("id").metadata[ROLE] != Role.ID.encode():
        return False
    parts = []
    for batch in sidecar.batches(["id"], 65_536):
        if batch.column(0).null_count:
            return False
        values = batch.column(0)
        if pa.types.is_integer(values.type):
            parts.append(values.to_numpy())
        else:
            parts.append(np.fromiter((hash(text) for text in values.to_pylist()), np.int64, len(values)))
    return unique(np.concatenate(parts)) if parts else True


def _compare(sidecar: Sidecar, name: str, records: Ids | None, dimension: int, fetch: Fetch) -> str:
    """'repeated' if the column holds the index's vectors bit for bit, 'vectors' if others, 'column' if not vectors at all."""
    rows = None
    if records is not None:
        rows = np.full(sidecar.count, -1, np.int64)
        rows[records[records >= 0]] = np.flatnonzero(records >= 0)
    equal = True
    done = 0
    for batch in sidecar.batches([name], rows_per_block(4 * dimension)):
        found = as_vectors(batch.column(0), dimension)
        if found is None:
            return "column"
        if equal:
            ordinals = np.arange(done, done + len(found)) if rows is None else rows[done : done + len(found)]
            kept = fetch(ordinals[ordinals >= 0])
            equal = kept is not None and kept.tobytes() == found[ordinals >= 0].tobytes()
        done += len(found)
    return "repeated" if equal and done else "vectors"


def columns_in_order(plan: Join, schema: pa.Schema) -> Callable[[int], Sequence[pa.Array]]:
    """A function that returns the sidecar's columns (`schema`: names and types in the rows) of the next n rows.

    Where rows and records have the same order the sidecar is streamed; else it is first copied, without the vectors that
    are repeated, to a private temporary file that is read by position.
    """
    assert plan.sidecar is not None  # noqa: S101 - the caller asks only if there is one
    names = list(plan.columns)
    if plan.ids is IdSource.SIDECAR:
        names.insert(0, "id")
    raw = pa.schema([plan.sidecar.schema.field(name) for name in names])
    batches = plan.sidecar.batches(names, _SPOOLED_ROWS)
    if plan.records is None:
        take = aligned(batches, raw)
        return lambda rows: _typed(take(rows), rows, schema, plan)
    spool = _Spool(batches, raw)
    position = 0

    def next_rows(rows: int) -> Sequence[pa.Array]:
        nonlocal position
        assert plan.records is not None  # noqa: S101 - checked above
        wanted = np.maximum(plan.records[position : position + rows], 0)  # a dead slot may have any record
        position += rows
        return _typed(spool.take(wanted), rows, schema, plan)

    return next_rows


def _typed(batch: pa.RecordBatch, rows: int, schema: pa.Schema, plan: Join) -> Sequence[pa.Array]:
    if batch.num_rows != rows:
        assert plan.sidecar is not None  # noqa: S101 - there is one, else nothing is fetched
        raise SourceChanged(f"{plan.sidecar.file.path} ended before the index's last row")
    return [_as(column, field.type) for column, field in zip(batch.columns, schema, strict=True)]


def _as(column: pa.Array, kind: pa.DataType) -> pa.Array:
    if column.type == kind:
        return column
    if pa.types.is_fixed_size_list(kind):
        values = as_vectors(column, kind.list_size)
        if values is not None:
            return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), type=kind)
    return column.cast(kind)


class _Spool:
    """Batches in a private temporary file, of which any rows can be had in any order."""

    def __init__(self, batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> None:
        self._schema = schema
        self._starts = [0]
        with tempfile.TemporaryFile() as file:
            with pa.ipc.new_file(pa.PythonFile(file, mode="w"), schema) as writer:
                for batch in batches:
                    writer.write_batch(batch)
                    self._starts.append(self._starts[-1] + batch.num_rows)
            file.flush()
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._file = pa.ipc.open_file(pa.BufferReader(pa.py_buffer(mapped)))

    def take(self, rows: Ids) -> pa.RecordBatch:
        """These rows as one batch. Batch after batch is visited once, so that nothing is concatenated but what is asked for."""
        if not len(rows):
            return pa.RecordBatch.from_pylist([], self._schema)
        sorting = np.argsort(rows, kind="stable")
        ordered = np.asarray(rows)[sorting]
        borders = np.searchsorted(ordered, self._starts)
        parts = []
        for number in np.flatnonzero(np.diff(borders)):
            local = ordered[borders[number] : borders[number + 1]] - self._starts[number]
            parts.append(self._file.get_batch(int(number)).take(pa.array(local)))
        back = np.empty(len(rows), np.int64)
        back[sorting] = np.arange(len(rows))
        whole = pa.Table.from_batches(parts, self._schema).combine_chunks().to_batches()[0]
        return whole.take(pa.array(back))
