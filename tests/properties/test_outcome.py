"""Do operations leave what their plainest reading leaves, and does a row that isn't so always get noticed?"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from any_changes import (
    IDS,
    SCHEMA,
    Naive,
    collection,
    names,
    operations,
    payloads,
    row_changes,
    texts,
    vectors,
    whole_operations,
)
from any_rows import FINGERPRINTER
from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom.engines.changes import CatalogChange
from strongroom.journal import outcome as outcomes
from strongroom.journal.outcome import Outcome

bases = st.dictionaries(names, st.tuples(vectors, texts, texts, payloads))
runs = st.lists(operations, min_size=1, max_size=6)
whole_runs = st.lists(whole_operations, min_size=1, max_size=6).map(
    lambda run: [(*one[:6], compact(one[6])) for one in run]  # a row that is put is written as rows are
)
catalogs = st.sampled_from(["drop", "make"])
events = st.lists(whole_runs | catalogs, max_size=6) | st.lists(runs | whole_runs | catalogs, max_size=6)


def batch_of(rows: dict) -> pa.RecordBatch:
    columns = [pa.array(list(rows), pa.utf8())]
    columns += [pa.array([row[place] for row in rows.values()], SCHEMA.field(place + 1).type) for place in range(4)]
    return pa.record_batch(columns, schema=SCHEMA)


def changes_of(events_: list) -> list:
    found = []
    for one in events_:
        if one == "drop":
            found.append(CatalogChange({}, ("first",), 0, ""))
        elif one == "make":
            found.append(CatalogChange({"first": collection("first")}, (), 0, ""))
        else:
            found.append(row_changes("first", one, [0] * len(one), [""] * len(one)))
    return found


def compact(payload: str | None) -> str | None:
    """Payloads of rows are written in one way only."""
    if payload is None:
        return None
    kept = {key: value for key, value in json.loads(payload).items() if value is not None}
    return json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=False) if kept else None


@given(bases, events, st.sampled_from([0, 3, outcomes.MOST_WHOLE]), st.data())
@settings(max_examples=300, deadline=None)
def test_the_outcome_is_the_plain_one(base: dict, events_: list, most: int, data: st.DataObject) -> None:
    base = {name: (*row[:3], compact(row[3])) for name, row in base.items()}
    alive, changes = True, []
    for one in changes_of(events_):  # nothing is written to a collection that went
        if isinstance(one, CatalogChange):
            alive = bool(one.present)
        if alive or isinstance(one, CatalogChange):
            changes.append(one)
    naive = Naive()
    naive.do(CatalogChange({"first": collection("first")}, (), 0, "", whole=True))
    start = [(2, name, row[0], True, *row[1:]) for name, row in base.items()]
    naive.do(row_changes("first", start, [0] * len(start), [""] * len(start)))
    for one in changes:
        naive.do(one)
    expected = naive.rows.get("first", {})
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(outcomes, "MOST_WHOLE", most)
        outcome = Outcome(Path(folder) / "outcome", FINGERPRINTER, lambda: changes)
        outcome.touch()
        touched = outcome.take("first", batch_of(base))
        outcome.settle()
        assert ("first" in outcome.present) == ("first" in naive.rows)
        untouched = {name for name, flag in zip(base, touched, strict=True) if not flag}
        left = set() if "first" in outcome.emptied else untouched
        given_ = {name: row for name, row in expected.items() if name not in left}
        rows = {name: (np.frombuffer(row[0], np.float32).tolist(), *row[1:]) for name, row in given_.items()}
        if rows:
            # a row that is another, or twice there, or not there, is noticed
            name = data.draw(st.sampled_from(sorted(rows)))
            vector, document, uri, payload = rows[name]
            wrong = data.draw(st.sampled_from(["document", "vector", "payload", "uri"]))
            other = {
                "document": (vector, (document or "") + "x", uri, payload),
                "uri": (vector, document, (uri or "") + "x", payload),
                "payload": (vector, document, uri, '{"z":1}'),
                "vector": ([vector[0] + 1 if abs(vector[0]) < 1e6 else 0.0, *vector[1:]], document, uri, payload),
            }[wrong]
            assert outcome.odd("first", batch_of({name: other})) is not None
            assert outcome.lost("first") in rows
        ghosts = batch_of({name: ([0.0] * 3, None, None, None) for name in IDS if name not in expected and name not in left})
        for place in outcome.touched("first", ghosts).nonzero()[0].tolist():
            assert "should not be" in str(outcome.odd("first", ghosts.slice(place, 1)))
        if rows:
            assert outcome.odd("first", batch_of(rows)) is None
            assert outcome.odd("first", batch_of({name: rows[name]})) is not None  # once more is once too often
        assert outcome.lost("first") is None
        outcome.close()
