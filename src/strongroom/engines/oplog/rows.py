"""How do changes lie in a record? Any engine's: ids, vectors and payload as the columns of its rows.

The body is u32 length | JSON | for rows an Arrow stream of one batch with the column `strongroom:act` and the collection's, all of
them nullable (`engines/changes.py`). Time, mark and ingest batch are those of the record.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

import pyarrow as pa

from strongroom.engines.changes import ACT, BATCH, MARK, OWN_COLUMNS, TIME, CatalogChange, Change, RowChanges, collection_from
from strongroom.engines.oplog.layout import MOST_BYTES, Kind, Log, Record, mark_of, suffix
from strongroom.model import Bytes, Collection

_LENGTH = struct.Struct("<I")
_ADDED = [field for field in OWN_COLUMNS if field.name != ACT]


def rows_bodies(name: str, identity: str, batch: pa.RecordBatch) -> Iterator[tuple[int, list[Bytes]]]:
    """The bodies of the records of changed rows, each with its number of operations. `batch` has the column ACT before those of the
    collection's rows."""
    head = _head({"what": "rows", "name": name, "identity": identity})
    count = batch.num_rows
    step = max(1, min(count, MOST_BYTES * count // max(1, batch.nbytes)))
    for start in range(0, count, step):
        part = batch.slice(start, step)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(part)
        yield part.num_rows, [head, memoryview(sink.getvalue()).cast("B")]


def catalog_body(present: Mapping[str, Collection], gone: Sequence[str], whole: bool) -> list[Bytes]:
    """The body of the record of a change of collections."""
    shown = {identity: asdict(one) for identity, one in present.items()}
    return [_head({"what": "catalog", "present": shown, "gone": list(gone), "whole": whole})]


def changes_of(log: Log, found: Sequence[Record]) -> Iterator[Change]:
    """What records say; those of kinds that say nothing of the source are passed over."""
    for record in found:
        if record.kind is Kind.CHANGES:
            yield _change(log.id, record)


def _head(said: Mapping[str, object]) -> bytes:
    text = json.dumps(said).encode()
    return _LENGTH.pack(len(text)) + text


def _change(log: bytes, record: Record) -> Change:
    (length,) = _LENGTH.unpack_from(record.body)
    said = json.loads(bytes(record.body[_LENGTH.size : _LENGTH.size + length]))
    if said["what"] == "catalog":
        present = {identity: collection_from(one) for identity, one in said["present"].items()}
        mark = mark_of(log, record.last, record.chain)
        return CatalogChange(present, tuple(said["gone"]), record.time, mark, said["whole"])
    batch = pa.ipc.open_stream(pa.py_buffer(record.body[_LENGTH.size + length :])).read_next_batch().slice(record.passed)
    count, its = batch.num_rows, suffix(log, record.chain)
    own = {
        TIME: pa.array([record.time] * count, pa.int64()),
        MARK: pa.array([f"{number}:{its}" for number in range(record.last - count + 1, record.last + 1)], pa.utf8()),
        BATCH: pa.array([record.tag or None] * count, pa.utf8()),
    }
    act, *columns = batch.columns
    schema = pa.schema([batch.schema.field(0), *_ADDED, *list(batch.schema)[1:]])
    return RowChanges(said["name"], said["identity"], pa.record_batch([act, *own.values(), *columns], schema=schema))
