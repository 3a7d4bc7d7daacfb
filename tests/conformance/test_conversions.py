"""Is what the plan says of each part of a conversion what then happens? The rows of a backup of the target are compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from processes import apart
from raw_engines import RAW as EMBEDDED
from raw_servers import RUNNING, SERVERS

import strongroom
from strongroom import engines
from strongroom.engines import conversions
from strongroom.errors import StrongroomError
from strongroom.model import ROLE, Collection, Conversion, Role, Verdict
from strongroom.progress import SILENT
from strongroom.repository import Argon2Cost

CHEAP = Argon2Cost(1, 1, 64)
RAW = {**EMBEDDED, **SERVERS}
QUICK = ("faiss", "sqlite-vec", "duckdb", "qdrant-edge", "redis", "chroma")
COLUMNAR = ("duckdb", "faiss", "hnswlib", "lancedb", "pgvector", "sqlite-vec", "usearch")


@pytest.fixture(scope="module", autouse=True)
def _servers_end():
    yield
    RUNNING.stop()


def make_columns(path: str, metric: str) -> None:
    """A LanceDB table with a column of each of many types."""
    vectors = np.random.default_rng(3).standard_normal((4, 8)).astype(np.float32)
    columns = {
        "id": pa.array(["a", "b", "c", "d"]),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 8),
        "document": pa.array(["x", "é", None, "z"]),
        "whole": pa.array([1, 2**62, -5, None]),
        "small": pa.array([1, 2, 3, 4], pa.int16()),
        "ratio": pa.array([0.5, 0.1, -2.25, 1e300]),
        "narrow": pa.array([0.5, 0.25, -2.25, 1.5], pa.float32()),
        "flag": pa.array([True, False, True, None]),
        "words": pa.array(["p", "q", "r", None]),
        "raw": pa.array([b"\x00\xff", b"a", b"", None]),
        "list": pa.array([[1, 2], [3], [4], [5]]),
        "nested": pa.array([{"a": 1}, {"a": 2}, {"a": 3}, {"a": 4}]),
    }
    table = lancedb.connect(path).create_table("things", pa.table(columns))
    table.create_index(metric=metric, index_type="IVF_FLAT", num_partitions=1)


def make_payloads(path: str, _: str) -> None:
    """A shard of Qdrant's with payloads."""
    import qdrant_edge as qdrant

    Path(path).mkdir()
    vectors = {"image": qdrant.EdgeVectorParams(size=8, distance=qdrant.Distance.Euclid)}
    shard = qdrant.EdgeShard.create(path, qdrant.EdgeConfig(vectors=vectors))
    payload = {"plain": 1, "text": "x", "nested": {"a": {"b": 1}}, "list": [1, "a"], "nothing": None, "document": "d"}
    draw = np.random.default_rng(4).standard_normal((4, 8)).astype(np.float32)
    points = [qdrant.Point(n, {"image": one.tolist()}, payload) for n, one in enumerate(draw)]
    shard.update(qdrant.UpdateOperation.upsert_points(points))
    shard.flush()
    shard.close()


SOURCES = {
    "columns": ("lancedb", make_columns, "l2"),
    "cosine": ("lancedb", make_columns, "cosine"),
    "payloads": ("qdrant-edge", make_payloads, ""),
}


def seen(url: str) -> tuple[Collection, dict[str, Any], dict[str, dict[str, Any]]]:
    """The collection as a backup reads it, its columns by name, and the values of each row by id."""
    with engines.source_of(url).freeze(SILENT) as frozen:
        (collection,) = frozen.description.collections
        batches = [block.live() for block in frozen.rows(collection.name)]
    key = of_role(batches[0].schema, Role.ID)
    assert key is not None
    return collection, {one.name: one for one in batches[0].schema}, {str(r[key]): r for b in batches for r in b.to_pylist()}


def role(one: pa.Field) -> str:
    return (one.metadata or {}).get(ROLE, b"column").decode()


def of_role(schema: Any, wanted: Role) -> str | None:
    fields = schema.values() if isinstance(schema, dict) else schema
    return next((one.name for one in fields if role(one) == wanted), None)


def objects(schema: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """All that stands in a payload, or in a text of JSON that stands for one."""
    found: dict[str, Any] = {}
    for name, one in schema.items():
        if role(one) == Role.PAYLOAD or "payload" in name:
            found |= json.loads(row[name] or "{}")
    return found


def value(schema: dict[str, Any], row: dict[str, Any], name: str) -> Any:
    return row[name] if name in schema else objects(schema, row).get(name)


def renderings(one: Any) -> list[Any]:
    """A value, and the texts that stand for it without loss."""
    texts = [str(one), json.dumps(one, default=str)]
    return [one, *texts, *([one.hex()] if isinstance(one, bytes) else [])]


def check(one: Conversion, before: Any, after: Any) -> None:
    """Raises AssertionError if the verdict is wrong. `before` and `after` are what `seen` gives."""
    (old, was, rows), (new, now, found) = before, after
    assert rows.keys() == found.keys()
    part, _, name = one.part.rpartition(" ")
    pairs = [(rows[key], found[key]) for key in rows]
    first, there = next(iter(old.fields)), next(iter(new.fields))
    if part == "vector":
        equal = all(np.array_equal(np.float64(a[first.name]), np.float64(b[there.name])) for a, b in pairs)
        judge(one, equal=equal, same_type=first.dtype == there.dtype)
    elif part == "metric of":
        judge(one, equal=first.metric == there.metric, same_type=True)
    elif part == "index of":
        assert (one.verdict is Verdict.CHANGED) == (str(there.index.get("kind", "")).lower() not in ("", "flat", "plain")), one
    elif part == "document":
        key = of_role(now, Role.DOCUMENT)
        texts = [b[key] if key is not None else objects(now, b).get("document") for _, b in pairs]  # a hash has fields alone
        judge(one, equal=[a[name] for a, _ in pairs] == texts, same_type=True)
    elif part == "column":
        values = [(a[name], value(now, b, name)) for a, b in pairs]
        usual = [(a, b) for a, b in values if a is not None]
        same = name not in now or now[name].type == was[name].type
        exact = all(type(a) is type(b) and a == b for a, b in usual)
        plain = was[name].type in (pa.bool_(), pa.int64(), pa.float64(), pa.utf8())
        equal = all(b in renderings(a) if not isinstance(a, list | dict) else a == b for a, b in usual)
        judge(one, equal=equal, same_type=same and exact and (plain or name in now))


def judge(one: Conversion, *, equal: bool, same_type: bool) -> None:
    expected = Verdict.KEPT if equal and same_type else Verdict.WIDENED if equal else Verdict.CHANGED
    said = Verdict.CHANGED if one.verdict is Verdict.LOST else one.verdict
    assert said is expected, f"{one}: is {expected}"


def check_payload(one: Conversion, target: str, before: Any, after: Any) -> None:
    (_, was, rows), (_, now, found) = before, after
    keys = {"plain values": ("plain", "text"), "lists": ("list",), "nested objects": ("nested",), "nulls": ("nothing",)}
    for key in keys[one.part.rpartition(": ")[2]]:
        pairs = [(objects(was, rows[its]).get(key), value(now, found[its], key)) for its in rows]
        there = all(key in now or key in objects(now, found[its]) for its in rows)
        equal = there and all(a == b for a, b in pairs)
        own = equal and one.verdict is Verdict.WIDENED and target in COLUMNAR
        assert (one.verdict is Verdict.KEPT) == (equal and not own), (key, one, pairs[0])
        assert (one.verdict in (Verdict.CHANGED, Verdict.LOST)) == (not equal), (key, one, pairs[0])


def _cases() -> Any:
    for case, (source, _, _) in SOURCES.items():
        for name in RAW:
            if name != source:
                quick = (name in QUICK and case == "columns") or (case, name) in (("payloads", "chroma"), ("cosine", "hnswlib"))
                yield pytest.param(case, name, id=f"{case}-{name}", marks=() if quick else pytest.mark.soak)


def _restored(case: str, name: str, tmp_path: Path) -> tuple[Any, Any, Any]:
    engine, make, metric = SOURCES[case]
    (tmp_path / "there").mkdir()
    apart(make, str(tmp_path / "things"), metric)
    source, target = f"{engine}://{tmp_path}/things", RAW[name].url(tmp_path / "there")
    room = strongroom.init(str(tmp_path / "repository"), password="x", cost=CHEAP)
    room.backup(source)
    try:
        report = room.restore("latest", target, collections=["things"])
    except StrongroomError as error:
        if "NUL" in str(error) or "metric" in str(error):
            pytest.skip(str(error))
        raise
    return report.plan, seen(source), seen(target)


@pytest.mark.parametrize(("case", "name"), list(_cases()))
def test_each_part_becomes_what_the_plan_says(case, name, tmp_path):
    plan, before, after = _restored(case, name, tmp_path)
    parts = {one.part.partition(" ")[0] for one in plan.conversions}
    assert parts >= {"id", "vector", "null", "metric", "index"}
    assert parts & {"column", "payload"}
    wrong = []
    for one in plan.conversions:
        try:
            if one.part.startswith("payload"):
                check_payload(one, name, before, after)
            else:
                check(one, before, after)
        except AssertionError as error:
            wrong.append(str(error))
    assert not wrong, "\n".join(wrong)


def test_a_table_that_says_kept_of_what_changes_is_found_out(tmp_path, monkeypatch):
    monkeypatch.setattr(conversions, "_as_text", lambda *_: Verdict.KEPT)
    plan, before, after = _restored("columns", "redis", tmp_path)
    (nested,) = [one for one in plan.conversions if one.part == "column nested"]
    assert nested.verdict is Verdict.KEPT
    with pytest.raises(AssertionError):
        check(nested, before, after)


def test_an_exact_restore_has_no_table(tmp_path):
    apart(make_columns, str(tmp_path / "things"), "l2")
    room = strongroom.init(str(tmp_path / "repository"), password="x", cost=CHEAP)
    room.backup(f"lancedb://{tmp_path}/things")
    assert room.plan_restore("latest", f"lancedb://{tmp_path}/back").conversions == ()
