"""How do keys and rows get into a server, under names that nobody else sees?"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import pyarrow as pa

from strongroom.engines.changes import vector_bytes
from strongroom.engines.payloads import exact, joined, plain, written
from strongroom.engines.python_values import values_of
from strongroom.engines.redis.crc64 import crc64_each
from strongroom.engines.redis.definitions import HASH, Definition
from strongroom.engines.redis.keyfile import Block
from strongroom.engines.redis.names import Names, raw_of, text_of
from strongroom.engines.redis.rows import EXPIRES, Row, attributes_of, hash_fields, json_document
from strongroom.engines.redis.server import library
from strongroom.errors import EngineFailed
from strongroom.model import ROLE, Collection, Role

_TOGETHER = 256
_SCANNED = 2000
_SUM, _UNKNOWN, _SHOWN = 8, 1 << 62, 80


def restore_keys(client: Any, names: Names, version: int, blocks: Iterable[Block], key: bytes | None = None) -> int:
    """RESTORE each record under its staged name, or the only one as `key`. None of them expires yet: when is noted beside them.
    Gives their number. Raises EngineFailed if one is longer than the server takes."""
    count, most = 0, _longest(client)
    for block in blocks:
        for records in _few(block.records):
            values = [record.value + struct.pack("<H", version) for record in records]
            for record, value in zip(records, values, strict=True):
                if len(value) + _SUM > most:
                    raise EngineFailed(
                        f"key {text_of(record.key)[:_SHOWN]!r} has {len(value) + _SUM:,} bytes, and the server takes {most:,}",
                        hint="CONFIG SET proto-max-bulk-len (and client-query-buffer-limit) to more than that, or --rung rebuild",
                    )
            with client.pipeline(transaction=False) as pipeline:
                for record, value, sum_ in zip(records, values, crc64_each(values), strict=True):
                    name = record.key if key is None else key
                    pipeline.execute_command("RESTORE", names.keys + name, 0, value + struct.pack("<Q", sum_), "REPLACE")
                    if record.expires >= 0:
                        pipeline.hset(names.expiry, name, record.expires)
                pipeline.execute()
            count += len(records)
    return count


def _longest(client: Any) -> int:
    """Bytes of a value that the server takes; it breaks the connection if it is given more."""
    try:
        said = client.config_get("proto-max-bulk-len")
    except library().ResponseError:  # who may not ask tries
        said = {}
    return int(next(iter(said.values()), _UNKNOWN))


def _few(records: Sequence[Any]) -> Iterator[Sequence[Any]]:
    some: list[Any] = []
    size = 0
    for record in records:
        some.append(record)
        size += len(record.value)
        if len(some) == _TOGETHER or size > 4 << 20:
            yield some
            some, size = [], 0
    if some:
        yield some


def rows_in(batch: pa.RecordBatch, collection: Collection) -> Iterator[Row]:
    """Rows of any engine: documents, uris and columns go into the payload by their names."""
    names = [one.name for one in collection.fields]
    roles = {field.name: (field.metadata or {}).get(ROLE, b"column").decode() for field in batch.schema}
    ids = next(batch.column(name) for name, role in roles.items() if role == Role.ID).to_pylist()
    vectors = [vector_bytes(batch.column(name)) for name in names]
    payload = next((name for name, role in roles.items() if role == Role.PAYLOAD), None)
    others = [name for name, role in roles.items() if role not in (Role.ID, Role.VECTOR, Role.PAYLOAD)]
    columns = {name: values_of(batch.column(name)) for name in others}
    payloads = batch.column(payload).to_pylist() if payload else [None] * len(ids)
    for row, (one, text) in enumerate(zip(ids, payloads, strict=True)):
        rest = {name: plain(values[row]) for name, values in columns.items() if values[row] is not None}
        yield Row(str(one), tuple(column[row] for column in vectors), joined(one, exact(text), rest))


def write_keys(client: Any, names: Names, definition: Definition, rows: Iterable[Row]) -> int:
    """Hashes or JSON documents anew, each in place of what is there of that name."""
    count = 0
    for some in _batched(rows):
        with client.pipeline(transaction=False) as pipeline:
            for row in some:
                put_key(pipeline, names, definition, row)
            pipeline.execute()
        count += len(some)
    return count


def put_key(pipeline: Any, names: Names, definition: Definition, row: Row) -> None:
    """Replace a whole key by what a row says."""
    key = definition.key_of(row.id)
    pipeline.delete(names.keys + key)
    if definition.kind == HASH:
        fields = hash_fields(row, definition.vectors)
        if fields:
            pipeline.hset(names.keys + key, mapping=fields)
    else:
        text = written(json_document(row, definition.vectors))
        pipeline.execute_command("JSON.SET", names.keys + key, "$", text)
    note_expiry(pipeline, names, key, row.payload)


def note_expiry(pipeline: Any, names: Names, key: bytes, payload: Mapping[str, Any]) -> None:
    if payload.get(EXPIRES) is not None:
        pipeline.hset(names.expiry, key, int(payload[EXPIRES]))
    else:
        pipeline.hdel(names.expiry, key)


def write_elements(client: Any, key: bytes, collection: Collection, rows: Iterable[Row]) -> int:
    """Elements into a vector set."""
    count = 0
    for some in _batched(rows):
        with client.pipeline(transaction=False) as pipeline:
            for row in some:
                put_element(pipeline, key, collection, row)
            pipeline.execute()
        count += len(some)
    return count


def put_element(pipeline: Any, key: bytes, collection: Collection, row: Row) -> None:
    """Add or replace an element. Elements of a reduced set go in as they came out, into one of that dimension."""
    index = collection.fields[0].index
    quantization = {"int8": "Q8", "bin": "BIN"}.get(str(index.get("quantization")), "NOQUANT")
    attributes = attributes_of(row.payload)
    more: list[Any] = [*(["SETATTR", attributes] if attributes else []), *(["M", index["m"]] if "m" in index else [])]
    pipeline.execute_command("VREM", key, raw_of(row.id))
    if row.vectors[0] is not None:
        pipeline.execute_command("VADD", key, "FP32", row.vectors[0], raw_of(row.id), quantization, *more)


def _batched(rows: Iterable[Row]) -> Iterator[list[Row]]:
    going = iter(rows)
    while some := list(islice(going, _TOGETHER)):
        yield some


def keys_of(client: Any, prefix: bytes) -> list[bytes]:
    """All keys that begin so."""
    pattern = b"".join(b"\\" + bytes([one]) if one in b"*?[]\\^" else bytes([one]) for one in prefix) + b"*"
    return sorted(set(client.scan_iter(match=pattern, count=_SCANNED)))
