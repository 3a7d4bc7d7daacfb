"""What does the index of a Lance table answer? Runs in a child process (see `isolation`)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from strongroom.engines import stopwatch
from strongroom.engines.lancedb.columns import vector_dtype
from strongroom.engines.lancedb.indices import IndexPlan, build
from strongroom.engines.lancedb.library import failing_as, lance, open_table
from strongroom.engines.without_pandas import do_without_pandas
from strongroom.errors import EngineFailed
from strongroom.model import Answers

_READ_AHEAD_BYTES = 64 << 20


def load() -> None:
    """Load Lance, which takes longer than to ask it."""
    os.environ.setdefault("LANCE_DEFAULT_IO_BUFFER_SIZE", str(_READ_AHEAD_BYTES))  # read when Lance is loaded, in this process
    do_without_pandas()
    lance()


def built(table: str, plans: Sequence[IndexPlan]) -> None:
    """Build indices: by the process that answers from them, since there may be a table of them for each tenant. Raises
    EngineFailed."""
    load()
    build(table, plans)


def nearest(table: str, version: int, field: str, queries: npt.NDArray[np.float32], k: int, identifier: str | None) -> Answers:
    """The k nearest rows to each of `queries` (q x dimension) as `field`'s index finds them with Lance's own defaults.

    Distances are Lance's `_distance` (float32). Rows of equal distance are put in the order of their ids. Raises EngineFailed.
    """
    load()
    with failing_as(EngineFailed, f"search in {Path(table).name}"):
        data = open_table(Path(table), version)
        # Lance wants queries of the column's own integer type, and takes float32 for both float types.
        kind = vector_dtype(data.schema.field(field).type)
        cast = queries.astype(kind) if kind in ("int8", "uint8") else queries.astype(np.float32)
        columns = ["_distance"] if identifier is None else [identifier, "_distance"]
        ids, distances = [], []
        for query in stopwatch.each(cast):
            near = {"column": field, "q": pa.array(query), "k": k}
            found = data.to_table(columns=columns, nearest=near, with_row_id=identifier is None)
            names = found.column("_rowid" if identifier is None else identifier).to_pylist()
            lengths = found.column("_distance").to_numpy().astype(np.float32, copy=False)
            order = sorted(range(len(names)), key=lambda row: (lengths[row], names[row]))
            ids.append(tuple(names[row] for row in order))
            distances.append(np.ascontiguousarray(lengths[order]))
        return Answers(tuple(ids), tuple(distances))
