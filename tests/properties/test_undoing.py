"""Is a journal without some operations what a dictionary says that never saw them? Do both readings of the rules of acts agree?"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom.engines.changes import ACT, BATCH, MARK, OWN_COLUMNS, TIME, Act, CatalogChange, Change, RowChanges, change_schema
from strongroom.errors import WrongRequest
from strongroom.journal import filters
from strongroom.journal.outcome import Outcome
from strongroom.journal.overlay import Overlay
from strongroom.journal.reckoning import Reckoning
from strongroom.journal.undoing import Fate, Undo, Undone, UndoPreview
from strongroom.model import ROLE, Collection, Field, Json, Role
from strongroom.snapshots.fingerprints import Fingerprinter

DIMENSION = 3
ROWS = pa.schema(
    [
        pa.field("id", pa.utf8(), metadata={ROLE: Role.ID.encode()}),
        pa.field("vector", pa.list_(pa.float32(), DIMENSION), metadata={ROLE: Role.VECTOR.encode()}),
        pa.field("document", pa.utf8(), metadata={ROLE: Role.DOCUMENT.encode()}),
        pa.field("uri", pa.utf8(), metadata={ROLE: Role.URI.encode()}),
        pa.field("payload", pa.utf8(), metadata={ROLE: Role.PAYLOAD.encode()}),
    ]
)
NOTHING = UndoPreview("", 0, "", "", {}, {}, (), 0, 0)
OTHER = "other"

ids = st.sampled_from("ab")
vectors = st.lists(st.integers(0, 3), min_size=DIMENSION, max_size=DIMENSION)
payloads = st.dictionaries(st.sampled_from("xyz"), st.one_of(st.none(), st.integers(0, 2)), min_size=1, max_size=3)
optional = st.one_of(st.none(), st.sampled_from(["one", "two"]))
logs = st.lists(
    st.tuples(
        st.sampled_from(["docs", "docs", OTHER]),
        st.sampled_from([Act.INSERT, Act.UPDATE, Act.UPSERT, Act.DELETE]),
        ids,
        vectors,
        st.booleans(),
        optional,
        st.one_of(st.none(), payloads),
        st.sampled_from(["bad", None]),
    ),
    min_size=6,
    max_size=20,
)
Said = tuple[str, Act, str, Any, bool, Any, Any, str | None]
Model = dict[tuple[str, str], dict[str, Any]]


def text(payload: dict[str, Any] | None) -> str | None:
    return json.dumps(payload, sort_keys=True, separators=(",", ":")) if payload else None


def change_of(log: list[Said], name: str, first: int) -> RowChanges:
    """Operations of one collection; an update need not say a vector."""
    columns = {
        ACT: [one[1].value for one in log],
        TIME: [first + place for place in range(len(log))],
        MARK: [str(first + place) for place in range(len(log))],
        BATCH: [one[7] for one in log],
        "id": [one[2] for one in log],
        "vector": [None if silent(one) else one[3] for one in log],
        "document": [None if one[1] is Act.DELETE else one[5] for one in log],
        "uri": [None] * len(log),
        "payload": [None if one[1] is Act.DELETE else text(one[6]) for one in log],
    }
    schema = change_schema(ROWS)
    batch = pa.record_batch([pa.array(columns[field.name], field.type) for field in schema], schema=schema)
    assert list(schema)[: len(OWN_COLUMNS)] == list(OWN_COLUMNS)
    return RowChanges(name, f"id of {name}", batch)


def silent(one: Said) -> bool:
    return one[1] is Act.DELETE or (one[1] is Act.UPDATE and not one[4])


def cut(log: list[Said], sizes: list[int]) -> list[Change]:
    """The log as a feed gives it: runs of one collection, cut anywhere."""
    changes: list[Change] = []
    at = 0
    for place, one in enumerate(log):
        same = place > at and log[at][0] == one[0] and place - at < sizes[place % len(sizes)]
        if not same and place > at:
            changes.append(change_of(log[at:place], log[at][0], at))
            at = place
    return [*changes, change_of(log[at:], log[at][0], at)] if log else changes


def do(model: Model, one: Said, *, replace: bool = False) -> None:
    """What an operation does, by a dictionary."""
    name, act, row, _, _, document, payload, _ = one
    there = None if replace else model.get((name, row))
    if act is Act.DELETE:
        model.pop((name, row), None)
    elif (act is Act.INSERT and there is not None) or (act is Act.UPDATE and there is None):
        pass
    else:
        before = there or {"vector": None, "document": None, "payload": {}}
        merged = {key: value for key, value in {**before["payload"], **(payload or {})}.items() if value is not None}
        vector = before["vector"] if silent(one) else one[3]
        model[name, row] = {"vector": vector, "document": document or before["document"], "payload": merged}


def as_told(model: Model, name: str) -> dict[str, dict[str, Any]]:
    return {row: value for (collection, row), value in model.items() if collection == name}


def batch_of(rows: dict[str, dict[str, Any]]) -> pa.RecordBatch:
    columns = {
        "id": list(rows),
        "vector": [row["vector"] for row in rows.values()],
        "document": [row["document"] for row in rows.values()],
        "uri": [None] * len(rows),
        "payload": [text(row["payload"]) for row in rows.values()],
    }
    return pa.record_batch([pa.array(columns[field.name], field.type) for field in ROWS], schema=ROWS)


def overlaid(directory: Path, base: pa.RecordBatch, changes: list[Change], name: str) -> dict[str, dict[str, Any]]:
    """Rows by the overlay: those that aren't touched too."""
    overlay = Overlay(directory / "overlay.sqlite")
    for change in changes:
        overlay.touch(change)
    touched = overlay.take(f"id of {name}", base) if name == "docs" else np.zeros(0, np.bool_)
    rest = base.filter(pa.array(~touched)) if name == "docs" else base.slice(0, 0)
    for change in changes:
        overlay.settle(change)
    rows = [row for _, batch in overlay.rows(f"id of {name}") for row in batch.to_pylist()] + rest.to_pylist()
    overlay.close()
    (directory / "overlay.sqlite").unlink()
    return {
        row["id"]: {"vector": row["vector"], "document": row["document"], "payload": json.loads(row["payload"] or "{}")}
        for row in rows
    }


def require_outcome(directory: Path, base: pa.RecordBatch, changes: list[Change], rows: pa.RecordBatch) -> None:
    """By the rules that a restore is compared with these rows are left, and no others."""
    outcome = Outcome(directory / "outcome.sqlite", Fingerprinter(b"k" * 32), lambda: changes)
    outcome.touch()
    outcome.take("id of docs", base)
    outcome.settle()
    assert not rows.num_rows or outcome.odd("id of docs", rows) is None
    assert outcome.lost("id of docs") is None
    outcome.close()
    (directory / "outcome.sqlite").unlink()


@settings(max_examples=200, deadline=None)
@given(base=st.dictionaries(ids, st.tuples(vectors, optional), max_size=4), log=logs, sizes=st.lists(st.integers(1, 6), min_size=1))
def test_an_undo_is_a_dictionary_that_never_saw_the_batch(base: Any, log: list[Said], sizes: list[int]) -> None:
    start = {one: {"vector": vector, "document": document, "payload": {}} for one, (vector, document) in base.items()}
    real: Model = {("docs", one): row for one, row in start.items()}
    bare: Model = dict(real)
    taken, replacing = [], []
    for place, one in enumerate(log):
        name, act, row, *_ = one
        replaces = act is Act.INSERT and (name, row) not in real and (name, row) in bare
        do(real, one)
        if one[7] == "bad":
            taken.append(place)
        else:
            if replaces:
                replacing.append(place)
            do(bare, one, replace=replaces)
    changes = cut(log, sizes)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        reckoning = reckoned(directory, batch_of(start), changes, Undo("bad"))
        assert reckoning.taken.tolist() == taken
        assert reckoning.replacing.tolist() == replacing
        undone = Undone(Undo("bad"), reckoning.taken, reckoning.replacing, NOTHING)
        left = list(undone.without(changes))
        assert sum(map(len, left)) == len(log) + undone.more
        for name in ("docs", OTHER):
            assert overlaid(directory, batch_of(start), changes, name) == as_told(real, name)
            assert overlaid(directory, batch_of(start), left, name) == as_told(bare, name)
        check_fates(reckoning, real, bare)
        reckoning.close()
        docs = batch_of({one: row for one, row in as_told(bare, "docs").items() if any(id_ == one for id_ in touched(left))})
        require_outcome(directory, batch_of(start), left, docs)


def touched(changes: list[Change]) -> set[str]:
    rows = [one for one in changes if isinstance(one, RowChanges) and one.name == "docs"]
    return {row for change in rows for row in change.batch.column("id").to_pylist()}


def reckoned(directory: Path, base: pa.RecordBatch, changes: list[Change], undo: Undo) -> Reckoning:
    reckoning = Reckoning(directory, undo)
    for change in changes:
        reckoning.touch(change)
    reckoning.take("id of docs", "docs", base)
    for change in changes:
        reckoning.settle(change)
    return reckoning


def check_fates(reckoning: Reckoning, real: Model, bare: Model) -> None:
    for name in ("docs", OTHER):
        for one in reckoning.reckoned(f"id of {name}"):
            then, now = real.get((name, one.id)), bare.get((name, one.id))
            assert (one.real is None, one.bare is None) == (then is None, now is None)
            if one.fate in (Fate.KEPT, Fate.UNCHANGED):
                assert then == now
            elif one.fate is Fate.REMOVED:
                assert then is not None
                assert now is None
            else:
                assert then != now
                assert one.fate is not Fate.BROUGHT_BACK or then is None
            if then is not None and now is not None:
                plain = [{**row["payload"], "vector": row["vector"], "document": row["document"]} for row in (then, now)]
                assert set(one.changed) == {
                    key for key in {**plain[0], **plain[1]} if plain[0].get(key) != plain[1].get(key)
                }  # fmt: skip


def test_rows_of_a_collection_that_was_dropped_are_gone_either_way(tmp_path: Path) -> None:
    bad: Said = ("docs", Act.UPDATE, "a", [1, 1, 1], True, None, {"x": 1}, "bad")
    good: Said = ("docs", Act.INSERT, "b", [1, 1, 1], True, None, None, None)
    drop = CatalogChange({}, ("id of docs",), 5, "5")
    start = batch_of({"a": {"vector": [0, 0, 0], "document": None, "payload": {}}})
    reckoning = reckoned(tmp_path, start, [change_of([bad], "docs", 0), change_of([good], "docs", 1), drop], Undo("bad"))
    assert [(one.real, one.bare, one.fate) for one in reckoning.reckoned("id of docs")] == [(None, None, Fate.UNCHANGED)]
    assert not list(reckoning.good_rows("id of docs"))
    assert reckoning.real.emptied == {"id of docs"}


def test_a_whole_row_replaces_and_its_own_columns_are_asked(tmp_path: Path) -> None:
    """As engines with columns say it; a delete is judged by the row that it found."""
    schema = pa.schema([*ROWS, pa.field("lang", pa.utf8(), metadata={ROLE: Role.COLUMN.encode()})])
    names = ["a", "b", "a", "c"]
    columns: dict[str, list[Any]] = {
        ACT: [4, 4, 3, 4],
        TIME: [1, 2, 3, 4],
        MARK: [""] * 4,
        BATCH: [None] * 4,
        "id": names,
        "vector": [[1, 2, 3], [1, 2, 3], None, [3, 2, 1]],
        "document": [None] * 4,
        "uri": [None] * 4,
        "payload": [None] * 4,
        "lang": ["de", "en", None, "de"],
    }
    wide = change_schema(schema)
    change = RowChanges("docs", "id of docs", pa.record_batch([pa.array(columns[f.name], f.type) for f in wide], schema=wide))
    undo = Undo(None, filters.parse("lang=de"), 2, 4)
    reckoning = reckoned(tmp_path, batch_of({}), [change], undo)
    assert reckoning.taken.tolist() == [2, 3]
    fates = {one.id: one.fate for one in reckoning.reckoned("id of docs")}
    assert fates == {"a": Fate.BROUGHT_BACK, "c": Fate.REMOVED}


@pytest.mark.parametrize(
    ("text_", "values", "verdict"),
    [
        ("lang=en", {"lang": "en"}, True),
        ("lang=en", {"lang": None}, False),
        ("lang!=en", {"lang": None}, False),
        ("lang=en", {}, None),
        ("lang=en and n=1", {"n": 2}, False),
        ("lang=en and n=1", {"n": 1}, None),
        ("n>1.5 and n<=3", {"n": 3}, True),
        ("n>1", {"n": "3"}, False),
        ("n>a", {"n": 3}, False),
        ("n=3", {"n": "3"}, True),
        ("n=007", {"n": 7}, True),
        ("n=1e3", {"n": 1000}, True),
        ("day>=2026-01-02", {"day": "2026-01-03"}, True),
        ("junk=true", {"junk": True}, True),
        ("junk=1", {"junk": True}, False),
        ('title="salt and pepper" and a="\\"x\\""', {"title": "salt and pepper", "a": '"x"'}, True),
        ("a=brand AND b=sand", {"a": "brand", "b": "sand"}, True),
        ('n="7"', {"n": 7}, True),
    ],
)
def test_filters(text_: str, values: dict[str, Json], verdict: bool | None) -> None:
    assert filters.parse(text_).judge(values) is verdict


@pytest.mark.parametrize("text_", ["", "a", "=b", "a=", "a=1 b=2", "a=1 or b=2", "a==1", 'a="x" y', "a=1 and", 'a="', "a b=1"])
def test_what_is_no_filter(text_: str) -> None:
    with pytest.raises(WrongRequest, match="--where"):
        filters.parse(text_)


@given(st.text(max_size=30))
def test_any_text_is_a_filter_or_refused_in_one_line(text_: str) -> None:
    try:
        filters.parse(text_)
    except WrongRequest as error:
        assert "\n" not in str(error)


def test_collections_are_found_by_identity_name_and_what_was_before() -> None:
    from strongroom.journal.identities import identities_of

    def collection(name: str, **catalog: Json) -> Collection:
        return Collection(name, 0, (Field("vector", "float32", 3, "l2"),), catalog)

    one: Said = ("docs", Act.DELETE, "a", None, False, None, None, None)
    rows = change_of([one], "docs", 0)
    renamed = CatalogChange({"id of docs": collection("papers")}, (), 1, "1")
    assert identities_of([collection("docs", id="id of docs")], [renamed], list) == {"docs": "id of docs"}
    assert identities_of([collection("docs")], [rows], list) == {"docs": "id of docs"}
    assert identities_of([collection("docs")], [renamed, rows], lambda: [rows]) == {"docs": "id of docs"}
    assert identities_of([collection("quiet")], [], list) == {"quiet": "quiet"}
    anew = CatalogChange({"new": collection("docs")}, ("old",), 1, "1")
    before = CatalogChange({"old": collection("docs")}, (), 0, "0", whole=True)
    assert identities_of([collection("docs")], [anew], lambda: [before]) == {"docs": "old"}
