"""Which operations were a mistake, and what is left of a journal without them? Pure.

The others are applied in their order, as if the mistake had never been made, but for one thing: an insert that took effect because
the mistake had removed its row still does, and replaces what is there then. Else a good write would be lost.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from blake3 import blake3

from strongroom.engines.changes import ACT, BATCH, Act, Change, RowChanges, is_vector
from strongroom.journal.filters import Filter
from strongroom.journal.overlay import Row
from strongroom.model import Json, Role
from strongroom.snapshots.fingerprints import role_of

Places = npt.NDArray[np.int64]
"""Operations by their place, from 0, among those that are applied to a snapshot; ascending."""


@dataclass(frozen=True, slots=True)
class Undo:
    """What is to be taken back: an ingest batch, or the operations from `since` to `until` (microseconds since 1970, both counted
    in) on rows that a filter means."""

    batch: str | None = None
    where: Filter | None = None
    since: int = 0
    until: int = 0

    def suspects(self, change: RowChanges) -> npt.NDArray[np.bool_]:
        """The operations that may be meant, as far as they say themselves, (operations,)."""
        if self.batch is not None:
            return np.array([one == self.batch for one in change.batch.column(BATCH).to_pylist()], np.bool_)
        times = change.times()
        found = (times >= self.since) & (times <= self.until)
        for place in np.flatnonzero(found).tolist():
            act = Act(change.batch.column(ACT)[place].as_py())
            found[place] = self._judge(change, act, change.batch.slice(place, 1), None) is not False
        return found

    def means(self, change: RowChanges, act: Act, given: Row, before: Row | None) -> bool:
        """Is an operation meant, of which `suspects` can't tell? A filter is about the row as the operation leaves it; as it was
        before for a delete."""
        return self.batch is not None or self._judge(change, act, given, {} if before is None else values_of(before)) is True

    def _judge(self, change: RowChanges, act: Act, given: Row, before: Mapping[str, Json] | None) -> bool | None:
        assert self.where is not None  # noqa: S101 - there is no batch
        known = values_of(given) if act is not Act.DELETE else {"id": _id_of(given)}
        whole = act in (Act.PUT, Act.INSERT)
        if before is not None and not whole:
            known = {**before, **known}
        if whole or before is not None:
            known = {**dict.fromkeys(one.key for one in self.where.conditions), **known}
        return self.where.judge({**known, "collection": change.name})


def values_of(row: Row) -> dict[str, Json]:
    """What a filter may ask of a row: keys of its payload, its columns but for vectors, its id. Null in a payload is a key that an
    operation takes away; null in a column of an operation says nothing."""
    found: dict[str, Json] = {}
    for name, column in zip(row.schema.names, row.columns, strict=True):
        held = row.schema.field(name)
        if is_vector(held) or column.null_count:
            continue
        if role_of(held) is Role.PAYLOAD:
            found |= json.loads(column[0].as_py())
        else:
            found.setdefault(name, column[0].as_py())
    return {**found, "id": _id_of(row)}


def _id_of(row: Row) -> Json:
    return next(row.column(held.name)[0].as_py() for held in row.schema if role_of(held) is Role.ID)


class Fate(StrEnum):
    """What becomes of a row that a mistake touched."""

    REMOVED = "removed"  # only the mistake had made it
    PUT_BACK = "put back"  # it is what it was before
    BROUGHT_BACK = "brought back"  # the mistake had removed it
    PARTLY = "partly"  # what later good writes said stays, the rest is taken back
    KEPT = "kept"  # a later good write replaced or removed it anyway
    UNCHANGED = "unchanged"  # the mistake had changed nothing


@dataclass(frozen=True, slots=True)
class RowFate:
    """A row, and the columns and keys of its payload that become others."""

    collection: str
    id: str
    fate: Fate
    changed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class UndoPreview:
    """What an undo does: how many operations it takes back, dated from `first` to `last` (UTC); how many rows meet which fate, of
    each collection; and a few of them. `lost_updates` good updates have no row any more; `replacements` good inserts stay
    although their row is there again. `again` operations put rows whole that the mistake had changed before: a later update that
    leaves the batch's name in its row is one of them. Of `probes` sealed queries `probes_changed` have other first `k` neighbours,
    `neighbours` in all."""

    what: str
    operations: int
    first: str
    last: str
    rows: Mapping[str, int]
    collections: Mapping[str, Mapping[str, int]]
    sample: tuple[RowFate, ...]
    lost_updates: int
    replacements: int
    k: int = 0
    probes: int = 0
    probes_changed: int = 0
    neighbours: int = 0
    again: int = 0


@dataclass(frozen=True, slots=True)
class Undone:
    """An undo that was thought through: the operations that are left out, and the inserts that replace what is there."""

    undo: Undo
    taken: Places = field(repr=False, compare=False)
    replacing: Places = field(repr=False, compare=False)
    preview: UndoPreview

    @property
    def token(self) -> str:
        """The same for the same operations."""
        return blake3(self.taken.tobytes() + b"/" + self.replacing.tobytes()).hexdigest()

    @property
    def more(self) -> int:
        """How many operations there are more than without an undo: a replacement is two."""
        return len(self.replacing) - len(self.taken)

    def without(self, changes: Iterable[Change]) -> Iterator[Change]:
        """The operations that are applied, in order."""
        at = 0
        for change in changes:
            count = len(change)
            taken, replacing = _between(self.taken, at, count), _between(self.replacing, at, count)
            at += count
            if isinstance(change, RowChanges) and len(taken) + len(replacing):
                left = _left(change, taken, replacing)
                if len(left):
                    yield left
            else:
                yield change


def _between(places: Places, first: int, count: int) -> Places:
    """Those of the places in [first, first + count), counted from `first`."""
    low, high = np.searchsorted(places, [first, first + count])
    return places[low:high] - first


def _left(change: RowChanges, taken: Places, replacing: Places) -> RowChanges:
    """A replacement is a delete and the insert."""
    times = np.ones(len(change), np.int64)
    times[taken], times[replacing] = 0, 2
    places = np.repeat(np.arange(len(change)), times)
    batch = change.batch.take(pa.array(places))
    acts = batch.column(ACT).to_numpy().copy()
    acts[:-1][(places[:-1] == places[1:])] = Act.DELETE
    column = batch.schema.get_field_index(ACT)
    batch = batch.set_column(column, batch.schema.field(column), pa.array(acts, pa.int8()))
    return RowChanges(change.name, change.identity, batch, change.scope)
