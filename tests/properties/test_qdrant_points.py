"""Do rows that people have become points and the same rows again? Ids, texts and payloads of every kind; few dimensions, many."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.engines.qdrant.conversion import ORIGINAL_ID, batch_of, point_id, points_of
from strongroom.engines.qdrant.loading import objections_of
from strongroom.engines.qdrant.shape import config_for, shape_of
from strongroom.errors import EngineFailed
from strongroom.model import ROLE, Collection, Field, Role

HIGHEST = (1 << 64) - 1
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = st.integers(0, HIGHEST) | st.sampled_from([0, 1 << 63, HIGHEST])
ids = st.one_of(
    numbers.map(str), st.uuids().map(str), st.uuids().map(lambda one: one.hex.upper()), texts,
    st.sampled_from(["007", "+1", " 1", str(HIGHEST + 1), "-1", "1.0", "\0", "٣", ""]),
)  # fmt: skip
plain = st.none() | st.booleans() | st.integers(-(1 << 63), HIGHEST) | st.floats(allow_nan=False, allow_infinity=False) | texts
nested = st.recursive(plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=8)
geo = st.fixed_dictionaries({"lon": st.floats(-180, 180), "lat": st.floats(-90, 90)})
dates = st.datetimes().map(lambda one: one.isoformat() + "Z")
payloads = st.dictionaries(texts.filter(lambda key: key not in ("document", "uri", ORIGINAL_ID)), nested | geo | dates, max_size=4)


@dataclass(frozen=True)
class Record:
    """As a client gives it."""

    id: int | str
    vector: Any
    payload: dict[str, Any]


def canonical(payload: Any) -> str:
    return json.dumps(payload, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def rows_of(names: list[str], documents: list[str | None], bodies: list[dict[str, Any]], dimension: int) -> pa.RecordBatch:
    def field(name: str, kind: pa.DataType, role: Role) -> pa.Field:
        return pa.field(name, kind, metadata={ROLE: role.encode()})

    vectors = np.random.default_rng(dimension).standard_normal(len(names) * dimension).astype(np.float32)
    return pa.record_batch(
        [
            pa.array(names, pa.utf8()),
            pa.FixedSizeListArray.from_arrays(pa.array(vectors), dimension),
            pa.array(documents, pa.utf8()),
            pa.array(list(map(canonical, bodies)), pa.utf8()),
        ],
        schema=pa.schema(
            [
                field("id", pa.utf8(), Role.ID),
                field("vector", pa.list_(pa.float32(), dimension), Role.VECTOR),
                field("document", pa.utf8(), Role.DOCUMENT),
                field("payload", pa.utf8(), Role.PAYLOAD),
            ]
        ),
    )


@given(st.lists(st.tuples(ids, st.none() | texts, payloads), min_size=1, max_size=6), st.sampled_from([1, 2, 3, 100, 16_000]))
def test_rows_are_points_and_the_same_rows_again(rows: list[tuple[str, str | None, dict[str, Any]]], dimension: int) -> None:
    batch = rows_of([one for one, _, _ in rows], [text for _, text, _ in rows], [body for _, _, body in rows], dimension)
    collection = Collection("things", len(rows), (Field("vector", "float32", dimension, "l2"),))
    assert not list(objections_of(collection, batch.schema))
    shape = shape_of(config_for(collection))
    records = [Record(one, vectors, json.loads(json.dumps(payload))) for one, vectors, payload in points_of(batch, shape.names)]
    for record in records:
        assert (isinstance(record.id, int) and record.id <= HIGHEST) or str(uuid.UUID(str(record.id))) == record.id
    back = batch_of(shape, records)
    for name in ("id", "vector", "document", "payload"):
        assert back.column(name).to_pylist() == batch.column(name).to_pylist(), name


@given(st.lists(ids, unique=True, max_size=20))
def test_ids_that_differ_are_points_that_differ(names: list[str]) -> None:
    assert len({str(point_id(one)) for one in names}) == len(names)


@pytest.mark.parametrize("body", [{"document": 5}, {ORIGINAL_ID: "mine"}])
def test_what_a_row_has_twice_is_not_lost(body: dict[str, Any]) -> None:
    with pytest.raises(EngineFailed, match="twice"):
        list(points_of(rows_of(["a"], ["text"], [body], 2), {"vector": ""}))
