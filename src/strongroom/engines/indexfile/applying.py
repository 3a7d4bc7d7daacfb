"""How are changes of the journal applied to a restored index? In a child process, by the library's own calls, in their order."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa

from strongroom.engines import isolation
from strongroom.engines.changes import ACT, Act, CatalogChange, Change, RowChanges, spool, unspool
from strongroom.engines.indexfile.live import Live, Vectors, apply_run, numbers
from strongroom.engines.staging import remove
from strongroom.errors import EngineFailed


def apply(function: str, index: Path, scratch: Path, changes: Iterable[Change]) -> int:
    """Have `function` ('module:name') load the index in a child process and go through the changes with `apply_spooled`. Gives the
    number of operations. Raises EngineFailed."""
    path = scratch / "changes.spool"
    try:
        with path.open("wb") as file:
            count = spool(changes, file)
        isolation.call(function, str(index), str(path))
        return count
    finally:
        remove(path)


def apply_spooled(live: Live, index: str, spooled: str) -> None:
    """Apply what a file of changes says and replace the index file."""
    with Path(spooled).open("rb") as file:
        for change in unspool(file):
            if isinstance(change, CatalogChange):
                for collection in change.present.values():
                    live.set_parameters(collection.fields[0].index)
            else:
                _apply_rows(live, change)
    fresh = f"{index}.replayed"
    live.save(fresh)
    live.accompany(Path(index))
    os.replace(fresh, index)


def _apply_rows(live: Live, change: RowChanges) -> None:
    ids = change.batch.column("id").to_numpy().astype(np.int64)
    acts = change.batch.column(ACT).to_numpy()
    for act, start, end in _runs(acts.tolist()):
        if act == Act.DELETE:
            apply_run(live, ids[start:end], None)
        elif act == Act.PUT:
            apply_run(live, ids[start:end], _vectors(live, change.batch.column("vector").slice(start, end - start)))
        else:
            raise EngineFailed(f"an index file has no operation {act}")


def _runs(acts: list[int]) -> Iterator[tuple[int, int, int]]:
    start = 0
    for act, run in groupby(acts):
        end = start + len(list(run))
        yield act, start, end
        start = end


def _vectors(live: Live, column: pa.Array) -> Vectors:
    """The bytes of a column without nulls, sliced as it may be."""
    if pa.types.is_fixed_size_binary(column.type):
        return numbers(live.dtype, memoryview(b"".join(column.to_pylist())), live.dimension)
    dense = column.flatten().to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(dense).reshape(-1, live.dimension)
