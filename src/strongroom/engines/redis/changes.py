"""How do effects become changes of the journal? Gathered by collection as far as their order allows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import pyarrow as pa

from strongroom.engines.changes import ACT, BATCH, MARK, TIME, Act, CatalogChange, Change, RowChanges, change_schema
from strongroom.engines.redis.effects import Effect, Gone, RowEffect, Unknown, tag_of
from strongroom.engines.redis.rows import batch_of, schema_of
from strongroom.model import Collection, Field


@dataclass(frozen=True, slots=True)
class Present:
    """A collection that is there from here on."""

    collection: Collection


@dataclass(slots=True)
class Timed:
    """An effect and the mark at whose place it is done. `unit` is what it is about, if that is one key or element."""

    mark: str
    effect: Effect | Present
    unit: Unknown | None = None


def as_changes(timed: Sequence[Timed], now: int, fields: Mapping[str, Sequence[Field]], batch_key: str | None) -> Iterator[Change]:
    """Effects on collections whose fields aren't known are on none that ever was there. `now` in microseconds."""
    for (name, _), run in groupby(timed, _kind):
        some = list(run)
        if name is None:
            yield from (_catalog_change(one, now) for one in some)
        elif name in fields:
            yield _row_changes(name, some, now, fields[name], batch_key)


def _kind(one: Timed) -> tuple[str | None, bool]:
    """The collection whose rows change, and whether whole rows are put: these go into batches of their own."""
    effect = one.effect
    return (effect.collection, effect.act is Act.PUT) if isinstance(effect, RowEffect) else (None, False)


def _catalog_change(one: Timed, now: int) -> CatalogChange:
    if isinstance(one.effect, Present):
        return CatalogChange({one.effect.collection.name: one.effect.collection}, (), now, one.mark)
    assert isinstance(one.effect, Gone)  # noqa: S101 - what is unknown was read
    return CatalogChange({}, one.effect.collections, now, one.mark, whole=one.effect.everything)


def _row_changes(name: str, run: Sequence[Timed], now: int, fields: Sequence[Field], batch_key: str | None) -> RowChanges:
    effects = [one.effect for one in run if isinstance(one.effect, RowEffect)]
    rows = batch_of([one.row for one in effects], fields)
    own = [
        pa.array([int(one.act) for one in effects], pa.int8()),
        pa.array(np.full(len(effects), now), pa.int64()),
        pa.array([one.mark for one in run], pa.utf8()),
        pa.array([tag_of(one.row.payload, batch_key) for one in effects], pa.utf8()),
    ]
    schema = change_schema(schema_of(fields))
    assert [field.name for field in schema][:4] == [ACT, TIME, MARK, BATCH]  # noqa: S101 - the order of OWN_COLUMNS
    return RowChanges(name, name, pa.record_batch([*own, *rows.columns], schema=schema))
