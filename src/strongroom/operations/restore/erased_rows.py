"""Which rows of a batch may come back, once the erasures of a repository are applied? Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from strongroom.engines.changes import column_of, is_vector
from strongroom.engines.python_values import values_of
from strongroom.journal import filters
from strongroom.journal.overlay import ids_of
from strongroom.model import Json, Role
from strongroom.repository.erasures import Erasure
from strongroom.snapshots.tenant_parts import tenants_of


@dataclass(frozen=True, slots=True)
class Erased:
    """The erasures that concern what is restored, of its source and tenants already; `why` says so in a plan, '' if there are
    none. `columns` says by collection which column tells whose a row is, where tenants have keys of their own."""

    erasures: tuple[Erasure, ...] = ()
    why: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.erasures)

    def left(self, collection: str, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows that may come back."""
        concerned = [one for one in self.erasures if one.what.collection in ("", collection)]
        if not concerned:
            return batch
        gone = erased_among(concerned, collection, batch, self.columns.get(collection, ""))
        return batch.filter(pa.array([not one for one in gone], pa.bool_())) if any(gone) else batch


NOTHING_ERASED = Erased()


def erased_among(erasures: Sequence[Erasure], collection: str, batch: pa.RecordBatch, column: str = "") -> list[bool]:
    """Of each row whether an erasure means it. All of them concern this collection; if `column` tells whose a row is, one of a
    tenant means his rows alone."""
    if not column or not any(one.what.tenant for one in erasures):
        return _erased_among(erasures, collection, batch)
    whose = tenants_of(batch, column)
    gone = [False] * len(whose)
    for tenant in {one.what.tenant for one in erasures}:
        meant = _erased_among([one for one in erasures if one.what.tenant == tenant], collection, batch)
        gone = [was or (now and tenant in ("", his)) for was, now, his in zip(gone, meant, whose, strict=True)]
    return gone


def _erased_among(erasures: Sequence[Erasure], collection: str, batch: pa.RecordBatch) -> list[bool]:
    by_id = [one.what for one in erasures if one.what.ids]
    wheres = [filters.parse(one.what.where) for one in erasures if one.what.where]
    everything = any(not one.what.ids and not one.what.where for one in erasures)
    ids = ids_of(batch)
    if everything:
        return [True] * len(ids)
    gone = [any(one.has_id(row) for one in by_id) for row in ids]
    if wheres:
        known = _known(collection, ids, batch)
        gone = [before or any(one.judge(row) is True for one in wheres) for before, row in zip(gone, known, strict=True)]
    return gone


def _known(collection: str, ids: Sequence[str], batch: pa.RecordBatch) -> Iterator[dict[str, Json]]:
    """What a filter asks of each row: its id, its collection, its columns, the keys of its payload."""
    payload = column_of(batch, Role.PAYLOAD)
    plain = [field.name for field in batch.schema if not is_vector(field) and field.name != payload]
    payloads = batch.column(payload).to_pylist() if payload else [None] * len(ids)
    columns = [values_of(batch.column(name)) for name in plain]
    for place, (text, one) in enumerate(zip(payloads, ids, strict=True)):
        row = {name: values[place] for name, values in zip(plain, columns, strict=True)}
        keys = json.loads(text) if text else {}
        yield {**row, **(keys if isinstance(keys, dict) else {}), "id": one, "collection": collection}
