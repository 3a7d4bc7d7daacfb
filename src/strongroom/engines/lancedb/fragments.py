"""Which fragments of a Lance table hold the rows that they held at an earlier version? Those that name the same files.

Lance never changes a file and never uses its name again, so a fragment is what its entry in the version's manifest says: its data
files with the columns in each, by number, its deletion file, its row ids. Whoever rewrites rows, deletes some, adds a column or
compacts the table makes another entry, or gives the columns other numbers. An earlier version's entries are kept with the
snapshot, so that the version itself may be gone.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from blake3 import blake3

from strongroom.engines.lancedb.library import Dataset
from strongroom.model import Collection, Json, Stretch

_MARK_BYTES = 12

Fragment = Any
"""A `lance.LanceFragment`."""


def described(table: Dataset) -> list[list[Json]]:
    """Of each fragment, in storage order, how many rows it shows, and a mark of 16 characters of what its entry says."""
    columns = [_column(field) for field in table.lance_schema.fields()]
    return [[int(fragment.metadata.num_rows), _mark(fragment, columns)] for fragment in table.get_fragments()]


def _column(field: Any) -> list[Json]:
    """Its name and the number by which data files know it: one that was dropped and added again has another."""
    return [field.name(), field.id(), [_column(child) for child in field.children()]]


def _mark(fragment: Fragment, columns: list[list[Json]]) -> str:
    entry = json.dumps([columns, fragment.metadata.to_json()], sort_keys=True, default=repr).encode()
    return base64.b64encode(blake3(entry).digest(_MARK_BYTES)).decode()


def unchanged(now: Collection, then: Collection) -> Iterator[Stretch]:
    """The rows of fragments that were the same then, a stretch for each. None if columns or ids were not those of now."""
    if any(now.catalog.get(name) != then.catalog.get(name) for name in ("schema_ipc", "id_column", "stable_row_ids")):
        return
    if any(sum(count for count, _ in one.feed or ()) != one.count for one in (now, then)):
        return  # then the places of rows can't be told from the entries
    before: dict[str, tuple[int, int]] = {}
    slot = 0
    for count, mark in then.feed or ():
        before[mark] = (slot, count)
        slot += count
    slot = 0
    for count, mark in now.feed:
        if count and mark in before and before[mark][1] == count:
            yield Stretch(slot, count, before[mark][0])
        slot += count


def others(table: Dataset, now: Collection, stretches: Sequence[Stretch]) -> Iterator[list[Fragment]]:
    """The fragments that none of the stretches is, those together that follow one another."""
    kept = {(one.first, one.count) for one in stretches}
    places, slot = [], 0
    for fragment, (count, _) in zip(table.get_fragments(), now.feed, strict=True):
        places.append((fragment, bool(count) and (slot, count) in kept))
        slot += count
    for left_out, run in groupby(places, key=lambda place: place[1]):
        if not left_out:
            yield [fragment for fragment, _ in run]
