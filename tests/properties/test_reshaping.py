"""Do rows that are given another shape for another engine keep all that is in them, and get their columns back on the way home?"""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from strongroom.model import ROLE, Role
from strongroom.operations.restore.reshaping import MOST_COLUMNS, reshaping

TEXT = st.text('aé😀"\0 ', max_size=3)
SCALARS = st.one_of(st.booleans(), st.integers(-(1 << 70), 1 << 70), st.floats(allow_nan=False, allow_infinity=False), TEXT)
VALUES = st.one_of(SCALARS, st.none(), st.lists(st.integers(0, 3), max_size=2), st.dictionaries(TEXT, st.integers()))
NAMES = ["n", "N", "id", "uri", "text", "document", "payload", "xmin", "a.b", "_rowid", "", "é", "x" * 80]
KEYS = st.sampled_from(NAMES)
PAYLOADS = st.lists(st.one_of(st.none(), st.dictionaries(KEYS, VALUES, max_size=5)), min_size=1, max_size=8)


def text(payload: Any) -> str | None:
    return None if payload is None else json.dumps(payload, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def rows(payloads: list[Any], document: bool) -> pa.RecordBatch:
    columns = {"id": (Role.ID, [f"i{n}" for n in range(len(payloads))]), "payload": (Role.PAYLOAD, [text(one) for one in payloads])}
    if document:
        columns["document"] = (Role.DOCUMENT, [f"d{n}" for n in range(len(payloads))])
    schema = pa.schema([pa.field(name, pa.utf8(), metadata={ROLE: role.encode()}) for name, (role, _) in columns.items()])
    return pa.record_batch([values for _, values in columns.values()], schema=schema)


def content(batch: pa.RecordBatch, document: str) -> list[dict[str, Any]]:
    """All of each row as one object, wherever it stands: nothing, null and an empty payload are the same."""
    found = []
    for row in batch.to_pylist():
        payload = json.loads(row.pop("payload", None) or "{}")
        whole = {name: value for name, value in row.items() if value is not None}
        assert not payload.keys() & (whole.keys() - {"document", "id"})
        found.append({("in payload", key): value for key, value in payload.items()} | {("beside", k): v for k, v in whole.items()})
    return [{key: (type(value), value) for key, value in one.items()} for one in found]


def merged(found: list[dict[Any, Any]]) -> list[dict[str, Any]]:
    return [{key: value for (_, key), value in one.items()} for one in found]


@settings(deadline=None)
@given(PAYLOADS, st.booleans(), st.booleans())
@example([{"n": 1}, {"n": True}], True, True)
@example([{"n": 1}, {"n": 1.0}], False, True)
@example([{"document": "x"}, {"document": None}], False, False)
@example([{f"k{n}": n for n in range(MOST_COLUMNS + 1)}], False, True)
def test_nothing_gets_lost(payloads: list[Any], document: bool, columnar: bool) -> None:
    batch = rows(payloads, document)
    halves = [batch.slice(0, len(payloads) // 2), batch.slice(len(payloads) // 2)]
    shape = reshaping(batch.schema, iter(halves), columnar=columnar)
    if shape is None:
        return
    shaped = pa.Table.from_batches([shape(half) for half in halves if half.num_rows], shape.schema).combine_chunks().to_batches()[0]
    assert shaped.num_rows == batch.num_rows
    before, after = content(batch, "document"), content(shaped, "document")
    if not any(one and one.keys() & {"id", "document"} for one in payloads):  # else two things have one name
        assert merged(after) == merged(before)
    roles = [(one.metadata or {}).get(ROLE) for one in shaped.schema]
    assert roles.count(Role.ID.encode()) == 1
    assert roles.count(Role.DOCUMENT.encode()) <= 1
    assert roles.count(Role.URI.encode()) <= 1
    again = reshaping(shaped.schema, iter([shaped]), columnar=columnar)
    assert again is None, "what has its shape keeps it"


def test_columns_come_back_with_their_types() -> None:
    payloads = [{"n": 1, "x": 0.5, "ok": True, "text": "a", "deep": {"n": 1}}, {"n": 2, "text": "b"}, None, {}]
    batch = rows(payloads, document=False)
    shape = reshaping(batch.schema, iter([batch]), columnar=True)
    assert shape is not None
    shaped = shape(batch)
    assert {one.name: str(one.type) for one in shaped.schema} == {
        "id": "string", "payload": "string", "n": "int64", "ok": "bool", "text": "string", "x": "double",
    }  # fmt: skip
    assert shaped.column("payload").to_pylist() == ['{"deep":{"n":1}}', None, None, None]
    assert shaped.column("n").to_pylist() == [1, 2, None, None]
    assert shaped.schema.field("text").metadata[ROLE] == b"document"
    flat = rows([{"n": 1}, {"n": 2}], document=True)
    shape = reshaping(flat.schema, iter([flat]), columnar=True)
    assert shape is not None and shape.schema.names == ["id", "document", "n"]
    assert reshaping(flat.schema, iter([flat]), columnar=False) is None


def test_a_column_that_holds_payloads_is_one() -> None:
    plain = pa.record_batch([["a", "b"], ['{"k": 1}', None]], names=["id", "payload"])
    shape = reshaping(plain.schema, iter([plain]), columnar=False)
    assert shape is not None
    assert shape(plain).column("payload").to_pylist() == ['{"k":1}', None]
    assert shape.schema.field("payload").metadata[ROLE] == b"payload"
    other = pa.record_batch([["a", "b"], ['{"k": 1}', "no object"]], names=["id", "payload"])
    assert reshaping(other.schema, iter([other]), columnar=True) is None


@pytest.mark.parametrize("columnar", [True, False])
def test_texts_called_uri_are_the_uri_again(columnar: bool) -> None:
    batch = rows([{"uri": "file:///a", "n": 1}, {"n": 2}], document=True)
    shape = reshaping(batch.schema, iter([batch]), columnar=columnar)
    assert shape is not None
    assert shape.schema.field("uri").metadata[ROLE] == b"uri"
    assert shape(batch).column("uri").to_pylist() == ["file:///a", None]
    for other in ([{"uri": 1}], [{"uri": "a"}, {"uri": None}], [{"uri": "a", "URI": "b"}]):
        batch = rows(other, document=True)
        shape = reshaping(batch.schema, iter([batch]), columnar=columnar)
        assert shape is None or "uri" not in shape.schema.names, other


def test_numbers_that_a_column_would_change_stay_in_the_payload() -> None:
    batch = rows([{"x": 0.5, "y": float("nan"), "z": float("inf"), "n": 1 << 64}, {"y": 1.5, "z": 2.5, "n": 1}], document=True)
    shape = reshaping(batch.schema, iter([batch]), columnar=True)
    assert shape is not None and shape.schema.names == ["id", "payload", "document", "x"]
    assert shape(batch).column("payload").to_pylist()[0] == '{"n":18446744073709551616,"y":NaN,"z":Infinity}'


def test_halves_of_characters_stay_in_the_payload() -> None:
    """No column can hold a text that was cut within an emoji; JSON can."""
    batch = rows([{"x": "a"}], document=False)
    cut = batch.set_column(1, batch.schema.field(1), pa.array(['{"text":"b \\ud83d","x":"a"}']))
    shape = reshaping(cut.schema, iter([cut]), columnar=True)
    assert shape is not None and shape.schema.names == ["id", "payload", "x"]
    assert shape(cut).column("payload").to_pylist() == ['{"text":"b \\ud83d"}']
