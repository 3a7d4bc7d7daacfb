"""How do rows get into a collection of a server, and when is it ready to be asked?"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from strongroom.engines.milvus.columns import encoded
from strongroom.engines.milvus.connection import Server
from strongroom.engines.milvus.creation import Made, Offer, is_of_milvus, made_for, others_of, role_of
from strongroom.engines.milvus.reading import flush
from strongroom.engines.milvus.shape import META, Column, Shape, shape_of
from strongroom.engines.payloads import exact, written
from strongroom.errors import EngineFailed
from strongroom.model import Collection, Json, Role

_MOST_BYTES = 8 << 20
"""Of one request. Servers take 64 MB."""
_WAITED_SECONDS = 6 * 3600.0
_FINISHED, _FAILED = 3, 4


class Loading:
    """Makes a collection called `own` and fills it. `offer` is what the server can hold."""

    def __init__(self, server: Server, database: str, own: str, offer: Offer) -> None:
        self._server, self._offer = server, offer
        self._where: dict[str, Any] = {"database": database, "collection_name": own}
        self._database, self._own = database, own

    def run(self, collection: Collection, batches: Iterable[pa.RecordBatch]) -> int:
        """All of it: made, filled, indexed and being loaded; gives the number of rows."""
        stream = iter(batches)
        first = next(stream, None)
        made = made_for(collection, first.schema if first is not None else None, self._offer)
        self._make(made)
        native = is_of_milvus(collection)
        shape = shape_of(made.schema, partitioned=bool(made.partitions))
        every = chain([first], stream) if first is not None else ()
        rows = sum(self._insert(shape, batch, native=native) for batch in every if batch.num_rows)
        if rows >= self._offer.indexed_from:
            flush(self._server, self._database, self._own)
        for index in made.indexes:
            self._index(index)
        if made.indexes:
            self._server.ask("LoadCollection", **self._where)
        return rows

    def _make(self, made: Made) -> None:
        from google.protobuf.json_format import ParseDict

        _, schemas, common = self._server.messages
        said = made.said
        schema = ParseDict({**made.schema, "name": self._own}, schemas.CollectionSchema())
        self._server.ask(
            "CreateCollection",
            **self._where,
            schema=schema.SerializeToString(),
            shards_num=int(said.get("shards", 1)),
            consistency_level=int(said.get("consistency", 2)),
            properties=pairs(common, said.get("properties", {})),
            num_partitions=made.keyed,
        )
        for partition in made.partitions:
            self._server.ask("CreatePartition", **self._where, partition_name=partition)

    def _insert(self, shape: Shape, batch: pa.RecordBatch, *, native: bool) -> int:
        partitions = batch.column(shape.partition) if shape.partition else None
        for name in partitions.unique().to_pylist() if partitions is not None else ("",):
            rows = batch.filter(pa.array(np.asarray(partitions) == name)) if partitions is not None else batch
            for some in _pieces(rows):
                self._insert_piece(shape, some, name, native=native)
        return int(batch.num_rows)

    def _insert_piece(self, shape: Shape, rows: pa.RecordBatch, partition: str, *, native: bool) -> None:
        _, schemas, _ = self._server.messages
        columns = list(zip(shape.columns, _given(shape, rows, native=native), strict=True))
        data = [encoded(column, values, schemas) for column, values in columns]
        if shape.payload:
            others = _meta(shape, rows) if native else others_of(rows, {one.name for one in shape.columns})
            meta = schemas.FieldData(field_name=META, type=schemas.DataType.Value("JSON"), is_dynamic=True)
            meta.scalars.json_data.data.extend(one.encode() for one in others)
            data.append(meta)
        done = self._server.ask("Insert", **self._where, partition_name=partition, fields_data=data, num_rows=rows.num_rows)
        if int(done.insert_cnt) != rows.num_rows:
            raise EngineFailed(f"the server took {done.insert_cnt} of {rows.num_rows} rows")

    def _index(self, index: Mapping[str, Json]) -> None:
        """Raises EngineFailed if it isn't built."""
        _, _, common = self._server.messages
        said = pairs(common, _nested(index["params"]) if self._offer.nested else index["params"])
        self._server.ask("CreateIndex", **self._where, field_name=index["field"], index_name=index["name"], extra_params=said)
        until = time.monotonic() + _WAITED_SECONDS
        while True:
            found = self._server.ask("DescribeIndex", **self._where, field_name=index["field"]).index_descriptions
            own = next((one for one in found if one.field_name == index["field"]), None)
            if own is None or own.state == _FAILED or time.monotonic() > until:
                why = own.index_state_fail_reason if own is not None else "it isn't there"
                raise EngineFailed(f"the index of {index['field']!r} was not built: {why or 'it takes too long'}")
            if own.state == _FINISHED and not own.pending_index_rows:
                return
            time.sleep(0.05)


def _nested(said: Mapping[str, Json]) -> dict[str, Json]:
    """Parameters of an index as one of JSON, but those that every index has."""
    top = {key: said[key] for key in ("index_type", "metric_type") if key in said}
    return {**top, "params": json.dumps({key: value for key, value in said.items() if key not in top})}


def _given(shape: Shape, rows: pa.RecordBatch, *, native: bool) -> Iterator[pa.Array]:
    """The values of each column of the shape."""
    if native:
        yield from (rows.column(one.name) for one in shape.columns)
        return
    ids = next(place for place, one in enumerate(rows.schema) if role_of(one) is Role.ID)
    vectors = [place for place, one in enumerate(rows.schema) if role_of(one) is Role.VECTOR]
    yield rows.column(ids).cast(shape.id.arrow)
    for column, place in zip(shape.columns[1:], vectors, strict=True):
        values = rows.column(place)
        if values.null_count:
            raise EngineFailed(
                f"a row has no vector {column.name!r}", hint="Milvus can't hold a row without its vector; restore to another engine"
            )
        yield _as_kind(column, values)


def _as_kind(column: Column, values: pa.Array) -> pa.Array:
    """Vectors in the type that the field has; bfloat16 widened, if it must be."""
    if pa.types.is_fixed_size_binary(values.type) and column.kind == "FloatVector":
        raw = np.frombuffer(b"".join(values.to_pylist()), "<u2").astype(np.uint32) << 16
        return pa.FixedSizeListArray.from_arrays(pa.array(raw.view(np.float32)), type=column.arrow)
    return values if values.type == column.arrow else values.cast(column.arrow)


def _meta(shape: Shape, rows: pa.RecordBatch) -> list[str]:
    """What was read as documents, uris and payloads, together again."""
    texts = {name: rows.column(name).to_pylist() for name in (shape.document, shape.uri) if name}
    found = []
    for place, payload in enumerate(rows.column(shape.payload).to_pylist()):
        more = {name: values[place] for name, values in texts.items() if values[place] is not None}
        found.append(written({**exact(payload), **more}))
    return found


def _pieces(rows: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Parts of a batch that go into one request each."""
    each = max(1, rows.nbytes // max(1, rows.num_rows))
    step = max(1, _MOST_BYTES // each)
    for start in range(0, rows.num_rows, step):
        yield rows.slice(start, step)


def pairs(common: Any, said: Mapping[str, Json]) -> list[Any]:
    """As messages have them."""
    return [common.KeyValuePair(key=str(key), value=str(value)) for key, value in said.items()]
