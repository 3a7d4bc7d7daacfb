"""Which rows came and which went from one version of a table to the next?

Lance never changes a file: what differs lies in the fragments whose entries differ, and only those are read. Rows are compared by
what is in them, so that those that merely moved neither came nor went.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from strongroom.engines.lancedb.columns import has_blobs, vector_bytes, vector_dtype
from strongroom.engines.lancedb.keys import Key
from strongroom.engines.lancedb.library import Dataset, failing_as, open_table
from strongroom.engines.lancedb.manifest import REWRITE, Fragment, Manifest
from strongroom.engines.lancedb.prints import names
from strongroom.engines.protocol import rows_per_block
from strongroom.errors import Gap, Unreadable

Fragments = Sequence[Fragment]


@dataclass(frozen=True, slots=True)
class Difference:
    """By fragments: `gone` and `come` are whole ones, `changed` those of which only other rows are dead, before and after."""

    gone: Fragments = ()
    come: Fragments = ()
    changed: Sequence[tuple[Fragment, Fragment]] = ()

    @property
    def bytes(self) -> int:
        """About how many have to be read."""
        whole = sum(one.bytes for one in (*self.gone, *self.come))
        return whole + sum(one.bytes * abs(one.live - other.live) // max(1, one.rows) for one, other in self.changed)

    @property
    def rows(self) -> int:
        """At most how many operations it is."""
        whole = sum(one.live for one in (*self.gone, *self.come))
        return whole + sum(abs(one.live - other.live) for one, other in self.changed)


@dataclass(frozen=True, slots=True)
class Changed:
    """Rows that came, as they are; names of rows that went, as often as they did, and their keys."""

    come: Sequence[pa.RecordBatch] = ()
    gone: Sequence[str] = ()
    gone_keys: Sequence[Key] = ()


def difference(before: Manifest | None, after: Manifest) -> Difference:
    """Of two versions, the first of which may be none. A compaction moves rows and changes none."""
    if before is None:
        return Difference(come=tuple(after.fragments.values()))
    if after.operation == REWRITE and after.live == before.live:
        return Difference()
    old = {one.number: one for entry, one in before.fragments.items() if entry not in after.fragments}
    new = {one.number: one for entry, one in after.fragments.items() if entry not in before.fragments}
    alike = {number for number in old.keys() & new.keys() if old[number].stored == new[number].stored}
    return Difference(
        gone=tuple(one for number, one in old.items() if number not in alike),
        come=tuple(one for number, one in new.items() if number not in alike),
        changed=tuple((old[number], new[number]) for number in sorted(alike)),
    )


def read_difference(table: Path, before: Manifest | None, after: Manifest, found: Difference, key: str | None) -> Changed:
    """The rows of a difference between two versions that are held in the directory `table`, with the values of column `key` of
    those that went. Raises Unreadable, Gap."""
    with failing_as(Unreadable, f"table {table.stem}"):
        new = open_table(table, after.version)
        if has_blobs(new.schema):
            raise Unreadable(f"table {table.stem} has blob columns, which can't be followed", hint="make snapshots more often")
        old = open_table(table, before.version) if before and (found.gone or found.changed) else new
        went, came = _whole(old, found.gone), _whole(new, found.come)
        for one, other in found.changed:
            dead, alive = _moved(old, new, one, other)
            went, came = _chain(went, _taken(old, dead)), _chain(came, _taken(new, alive))
        missing, keys = Counter[str](), dict[str, Key]()
        for batch in went:
            its = names(batch).to_pylist()
            missing.update(its)
            keys.update(zip(its, batch.column(key).to_pylist() if key else its, strict=True))
        come = _settled(missing, came)
        gone = list(missing.elements())
        return Changed(come, gone, [keys[name] for name in gone])


def scanned(table: Dataset, **options: object) -> Iterator[pa.RecordBatch]:
    """The rows of a table, or of some `fragments` of it, in batches of a few megabytes."""
    width = sum(vector_bytes(one.type) for one in table.schema if vector_dtype(one.type))
    yield from table.scanner(batch_size=rows_per_block(width), batch_readahead=1, fragment_readahead=1, **options).to_batches()


def _settled(missing: Counter[str], came: Iterator[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """What is on both sides only moved."""
    come = []
    for batch in came:
        if missing.total():
            fresh = np.fromiter((not _found(missing, name) for name in names(batch).to_pylist()), np.bool_, batch.num_rows)
            batch = batch.filter(pa.array(fresh))
        if batch.num_rows:
            come.append(batch)
    return come


def _found(missing: Counter[str], name: str) -> bool:
    if missing[name] > 0:
        missing[name] -= 1
        return True
    return False


def _whole(table: Dataset, chosen: Fragments) -> Iterator[pa.RecordBatch]:
    if chosen:
        yield from scanned(table, fragments=[_fragment(table, one) for one in chosen], scan_in_order=True)


def _moved(old: Dataset, new: Dataset, one: Fragment, other: Fragment) -> tuple[list[int], list[int]]:
    """Row ids of rows that are dead since, and of those that are alive again."""
    before, after = _alive(old, one), _alive(new, other)
    return ([before[place] for place in before.keys() - after.keys()], [after[place] for place in after.keys() - before.keys()])


def _alive(table: Dataset, one: Fragment) -> dict[int, int]:
    """The row id at each address."""
    options = {"columns": [], "fragments": [_fragment(table, one)], "with_row_address": True, "with_row_id": True}
    found: dict[int, int] = {}
    for batch in table.scanner(**options).to_batches():
        found.update(zip(batch.column("_rowaddr").to_pylist(), batch.column("_rowid").to_pylist(), strict=True))
    return found


def _taken(table: Dataset, ids: list[int]) -> Iterator[pa.RecordBatch]:
    step = 4096
    for start in range(0, len(ids), step):
        chosen = sorted(ids[start : start + step])
        rows = table._take_rows(chosen)
        if rows.num_rows != len(chosen):
            raise Unreadable(f"{len(chosen)} rows were asked for, {rows.num_rows} given")
        yield from rows.combine_chunks().to_batches()


def _fragment(table: Dataset, one: Fragment) -> object:
    found = table.get_fragment(one.number)
    if found is None:
        raise Gap(f"fragment {one.number} is gone")
    return found


def _chain(*parts: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for part in parts:
        yield from part
