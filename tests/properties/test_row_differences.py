"""Does diff say what a dictionary of the rows says? Random states of a FAISS index with a sidecar, backed up one after another."""

from __future__ import annotations

import tempfile
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import strongroom
from strongroom.repository import Argon2Cost

DIMENSION = 8
ROW = st.fixed_dictionaries(
    {"vector": st.integers(0, 5), "document": st.none() | st.sampled_from("abc"), "number": st.integers(0, 3)}
)
STATE = st.dictionaries(st.integers(0, 30).map("row-{}".format), ROW, min_size=1, max_size=25)
COLUMNS = ("vector", "document", "number")


def write(path, state, kind):
    """The rows in an order of their own, which is another one for other states."""
    keys = sorted(state, key=lambda key: (state[key]["number"], key))
    vectors = np.array([np.random.default_rng(state[key]["vector"]).standard_normal(DIMENSION) for key in keys], np.float32)
    index = faiss.index_factory(DIMENSION, kind)
    index.train(np.random.default_rng(99).standard_normal((100, DIMENSION)).astype(np.float32) * 3)
    index.add(vectors)
    faiss.write_index(index, str(path))
    columns = {"id": pa.array(keys, pa.string()), "document": pa.array([state[key]["document"] for key in keys], pa.string())}
    pq.write_table(pa.table({**columns, "number": [state[key]["number"] for key in keys]}), path.with_suffix(".parquet"))


@pytest.mark.parametrize("kind", ["Flat", "SQ8"])
@settings(max_examples=12, deadline=None)
@given(states=st.lists(STATE, min_size=2, max_size=4))
def test_diff_is_that_of_dictionaries(kind, states):
    with tempfile.TemporaryDirectory() as folder:
        room = strongroom.init(f"{folder}/repository", password="x", cost=Argon2Cost(1, 1, 64))
        path = Path(folder) / "rows.faiss"
        snapshots = []
        for state in states:
            write(path, state, kind)
            snapshots.append(room.backup(f"faiss://{path}", probes=0).snapshot.id)
        for a, b in ((0, 1), (1, 0), (0, len(states) - 1)):
            compare(room.diff(snapshots[a], snapshots[b], sample=1000), states[a], states[b], told=kind == "Flat")


def compare(report, before, after, *, told):
    (one,) = report.collections
    rows = one.rows
    changed = {
        key: {name for name in COLUMNS if before[key][name] != after[key][name]}
        for key in before.keys() & after.keys()
        if before[key] != after[key]
    }
    assert (one.rows_before, one.rows_after) == (len(before), len(after))
    assert sorted(rows.sample_added) == sorted(after.keys() - before.keys())
    assert sorted(rows.sample_removed) == sorted(before.keys() - after.keys())
    assert sorted(row.id for row in rows.sample_changed) == sorted(changed)
    assert (rows.added, rows.removed, rows.changed) == (len(rows.sample_added), len(rows.sample_removed), len(changed))
    assert one.differs == (before != after)
    if told:
        assert {row.id: set(row.columns) for row in rows.sample_changed} == changed
        wanted = {name: sum(name in columns for columns in changed.values()) for name in COLUMNS}
        assert dict(rows.columns) == {name: count for name, count in wanted.items() if count}
        assert rows.untold == 0
    else:
        assert {row.columns for row in rows.sample_changed} <= {None}
        assert rows.untold == len(changed)
