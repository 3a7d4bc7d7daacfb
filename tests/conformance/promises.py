"""Does what a target holds afterwards agree with the table of the plan, part by part and value by value, and with nothing beside?

`judge` knows nothing of how conversions are made: of each value it looks whether it is there, the same, the same in another type,
another one, or gone, and which of the four words that makes.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from raw_rows import Found, Rows, flat, read_json

from strongroom import engines
from strongroom.engines.conversions import RARE
from strongroom.model import ROLE, Collection, Conversion, Field, Role, Verdict
from strongroom.progress import SILENT

PLAIN = (pa.bool_(), pa.int64(), pa.float64())
INT64 = range(-(1 << 63), 1 << 63)
KINDS = {dict: "nested objects", list: "lists", type(None): "nulls"}


@dataclass(frozen=True)
class Sight:
    """A collection as a backup reads it: rows by id as text, with the columns' own values in `given`."""

    url: str
    collection: Collection
    schema: Mapping[str, pa.Field]
    given: Mapping[str, Mapping[str, Any]]
    rows: Rows

    def named(self, wanted: Role) -> list[str]:
        return [name for name, one in self.schema.items() if role(one) is wanted]


def role(one: pa.Field) -> Role:
    return Role((one.metadata or {}).get(ROLE, b"column").decode())


def seen(url: str) -> Sight:
    with engines.source_of(url).freeze(SILENT) as frozen:
        (collection,) = frozen.description.collections
        batches = [block.live() for block in frozen.rows(collection.name)]
    schema = {one.name: one for one in batches[0].schema}
    if any(_are_objects(batches)):
        schema["payload"] = schema["payload"].with_metadata({ROLE: Role.PAYLOAD.encode()})
    if "uri" in schema and _is_text(schema["uri"].type):
        schema["uri"] = schema["uri"].with_metadata({ROLE: Role.URI.encode()})
    (key,) = [name for name, one in schema.items() if role(one) is Role.ID]
    given = {str(row[key]): row for batch in batches for row in batch.to_pylist()}
    assert len(given) == collection.count == sum(batch.num_rows for batch in batches)
    dense = [name for name, one in schema.items() if role(one) is Role.VECTOR]
    payload = {name for name, one in schema.items() if role(one) is Role.PAYLOAD}
    rows = {}
    for one, row in given.items():
        rest = {("payload" if name in payload else name): value for name, value in row.items() if name not in (key, *dense)}
        rows[one] = Found({name: _numbers(row[name]) for name in dense if row[name] is not None}, flat(rest))
    return Sight(url, collection, schema, given, rows)


def _are_objects(batches: list[pa.RecordBatch]) -> Iterator[bool]:
    """Is there a column of texts called payload, and are all of them objects? Then another engine takes it for that."""
    if "payload" in batches[0].schema.names and _is_text(batches[0].schema.field("payload").type):
        texts = [text for batch in batches for text in batch.column("payload").to_pylist() if text]
        yield all(isinstance(json.loads(text), dict) for text in texts)


def _numbers(vector: Any) -> list[float]:
    if isinstance(vector, bytes):  # bfloat16
        vector = (np.frombuffer(vector, "<u2").astype(np.uint32) << 16).view(np.float32)
    found: list[float] = np.asarray(vector, np.float64).tolist()
    return found


# -- which part of the table speaks of a value ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Value:
    """One value of a row, and the part of the table that speaks of it."""

    row: str
    key: str
    part: str
    value: Any


def values(sight: Sight) -> Iterator[Value]:
    """All but ids and vectors; nulls of columns are none."""
    for row, given in sight.given.items():
        for name, one in sight.schema.items():
            its = role(one)
            if its is Role.PAYLOAD:
                for key, value in read_json(given[name] or "{}").items():
                    yield Value(row, key, f"payload {name}: {_kind(value)}", value)
            elif its not in (Role.ID, Role.VECTOR) and given[name] is not None:
                yield Value(row, name, f"{its.value} {name}", given[name])


def _kind(value: Any) -> str:
    if any(isinstance(one, decimal.Decimal) for one in _inside(value)):
        return RARE[2]
    if any(map(_odd, _inside(value))):
        return RARE[1]
    if any(type(one) is int and one not in INT64 for one in _inside(value)):
        return RARE[0]
    return KINDS.get(type(value), "plain values")


def _inside(value: Any) -> Iterator[Any]:
    """All single values."""
    if isinstance(value, list | dict):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _inside(one)
    else:
        yield value


def _usual(part: str) -> str:
    """What speaks of rare numbers that fare as all others."""
    return f"{part.partition(':')[0]}: plain values" if part.endswith(RARE) else part


# -- what became of it ----------------------------------------------------------------------------------------------------------


def same(a: Any, b: Any) -> bool:
    """Of one type and equal; NaN is NaN."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b) or (isinstance(a, float) and math.isnan(a) and math.isnan(b))


def wider(a: Any, b: Any) -> bool:
    """Another type that says the same: a number of another kind, inside of lists and objects too, or the text of a single value."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_wider_inside(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_wider_inside(one, other) for one, other in zip(a, b, strict=True))
    if isinstance(a, str | list | dict) or a is None:
        return False
    if isinstance(b, str):
        return (
            b in {str(a), json.dumps(a, default=str), *([a.hex()] if isinstance(a, bytes) else [])}
            or _is_moment(a, b)
            or _is_span(a, b)
        )
    return isinstance(b, bool | int | float) and bool(a == b or (isinstance(a, float) and a == float(b)))


def _wider_inside(a: Any, b: Any) -> bool:
    """What is text inside of a list or an object was one."""
    return same(a, b) or (wider(a, b) and not isinstance(b, str))


def _is_moment(a: Any, b: str) -> bool:
    """There are many ways to write one."""
    try:
        return isinstance(a, datetime.datetime) and datetime.datetime.fromisoformat(b) == a
    except ValueError:
        return False


def _is_span(a: Any, b: str) -> bool:
    """Hours, minutes and seconds, however many."""
    found = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", b)
    spans = isinstance(a, datetime.timedelta) and found
    return bool(spans) and a.total_seconds() == int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3])


def provoking(value: Any) -> bool:
    """Is it one that not every payload can hold? That others may change isn't seen without one."""
    if isinstance(value, list):
        return len({type(one) for one in value}) != 1 or not isinstance(value[0], bool | int | float | str)
    if _kind(value) == RARE[0]:
        return any(type(one) is int and one not in range(-(1 << 63), 1 << 64) for one in _inside(value))
    return not isinstance(value, str)


def _odd(value: Any) -> str:
    """What a float is that is no number."""
    if isinstance(value, list):
        return next(filter(None, map(_odd, value)), "")
    if not isinstance(value, float) or math.isfinite(value):
        return ""
    return "NaN" if math.isnan(value) else "infinity"


@dataclass
class Judged:
    """What is wrong with a table, and where each value went: by row and key its verdict, and what it is called there."""

    wrong: list[str] = field(default_factory=list)
    went: dict[tuple[str, str], tuple[Verdict, str]] = field(default_factory=dict)

    def expect(self, right: object, *said: object) -> None:
        if not right:
            self.wrong.append(" ".join(map(str, said)))


def judge(table: Sequence[Conversion], before: Sight, after: Sight) -> Judged:
    judged, parts = Judged(), {one.part: one for one in table}
    judged.expect(len(parts) == len(table), "a part is there twice")
    judged.expect(before.rows.keys() == after.rows.keys(), "other ids:", sorted(before.rows), "→", sorted(after.rows))
    if judged.wrong:
        return judged
    _ids(judged, parts, before, after)
    _vectors(judged, parts, before, after)
    _values(judged, parts, before, after)
    return judged


def _ids(judged: Judged, parts: Mapping[str, Conversion], before: Sight, after: Sight) -> None:
    (name,), (there,) = before.named(Role.ID), after.named(Role.ID)
    one = parts[f"id {name}"]
    alike = _alike(before.schema[name].type, after.schema[there].type)
    if one.note.startswith("else a UUID"):  # which point it is, is Qdrant's matter: it comes back as it was
        alike = False
    judged.expect(one.verdict is (Verdict.KEPT if alike else Verdict.WIDENED), one, after.schema[there].type)


def _alike(was: pa.DataType, now: pa.DataType) -> bool:
    return bool(was == now) or (_is_text(was) and _is_text(now))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


# -- vectors --------------------------------------------------------------------------------------------------------------------


def partners(before: Sight, after: Sight) -> list[tuple[Field, Field]]:
    """Which field became which: that of its name, else the next one that nobody has."""
    theirs = {one.name: one for one in after.collection.fields}
    left = [one for one in theirs.values() if one.name not in {its.name for its in before.collection.fields}]
    return [(one, theirs.get(one.name) or left.pop(0)) for one in before.collection.fields]


def _vectors(judged: Judged, parts: Mapping[str, Conversion], before: Sight, after: Sight) -> None:
    judged.expect(len(before.collection.fields) == len(after.collection.fields), "another number of vector fields")
    for was, now in partners(before, after):
        one = parts[f"vector {was.name}"]
        judged.expect(one.becomes == f"{now.dimension} x {now.dtype}", one, "is", now.dtype)
        pairs = [(before.rows[row].vectors.get(was.name), after.rows[row].vectors.get(now.name)) for row in before.rows]
        judged.expect(all((a is None) == (b is None) for a, b in pairs), one, "some are not there")
        both = [(np.array(a), np.array(b)) for a, b in pairs if a is not None and b is not None]
        equal = all(np.array_equal(a, b) for a, b in both)
        right = Verdict.CHANGED if not equal else Verdict.KEPT if was.dtype == now.dtype else Verdict.WIDENED
        unit, later = one.note.startswith("of unit length"), one.note.endswith("once they are in the index")
        already = all(abs(np.linalg.norm(a) - 1) < 1e-3 for a, _ in both)
        judged.expect(one.verdict is right or (unit and (already or later)), one, "is", right)
        exact = 2e-3 if "16" in now.dtype else 1e-6
        units = [np.allclose(a / (np.linalg.norm(a) or 1), b, atol=exact) or (later and np.allclose(a, b)) for a, b in both]
        judged.expect(not unit or all(units), one, "they are not:", both)
        lacking = any(a is None for a, _ in pairs)
        judged.expect(not lacking or parts[f"null vectors of {was.name}"].verdict is Verdict.KEPT, one, "some were not there")
        metric = parts[f"metric of {was.name}"]
        judged.expect((metric.was, metric.becomes) == (was.metric, now.metric), metric, "is", now.metric)
        judged.expect(metric.verdict is (Verdict.KEPT if was.metric == now.metric else Verdict.CHANGED), metric)
        _index(judged, parts[f"index of {was.name}"], was, now, unindexed=after.url.startswith("qdrant-local:"))


def _index(judged: Judged, one: Conversion, was: Field, now: Field, *, unindexed: bool) -> None:
    """`unindexed`: whatever the field says, the engine has no index."""
    had, has = (str(its.index.get("kind") or "none").lower() for its in (was, now))
    if unindexed or has in ("none", "flat"):
        judged.expect(one.becomes.startswith("none"), one, "has none")
        judged.expect(one.verdict is (Verdict.KEPT if had in ("none", "flat") else Verdict.LOST), one)
    else:
        judged.expect(has[:4] == one.becomes.lower()[:4] and one.verdict is Verdict.CHANGED, one, "is", has)


# -- all else -------------------------------------------------------------------------------------------------------------------


def _values(judged: Judged, parts: Mapping[str, Conversion], before: Sight, after: Sight) -> None:
    expected: dict[str, set[str]] = {row: set() for row in after.rows}
    found: dict[str, list[tuple[Value, str, Any]]] = {}
    for one in values(before):
        if one.part not in parts:
            one = dataclasses.replace(one, part=_usual(one.part))
        if one.part not in parts:
            judged.expect(False, one.part, "is not in the table")
            return
        key = _called(parts[one.part], one, after)
        there = after.rows[one.row].rest
        expected[one.row].add(key)
        judged.went[one.row, one.key] = parts[one.part].verdict, key
        became = _became(one.value, there, key)
        if became == "wider" and one.part.startswith("payload") and isinstance(there[key], str):
            became = "other"  # nothing but a column's type says that a text was none
        found.setdefault(one.part, []).append((one, became, there.get(key)))
    for row, keys in expected.items():
        judged.expect(after.rows[row].rest.keys() <= keys, "made up:", after.rows[row].rest.keys() - keys)
    for part, given in found.items():
        _part(judged, parts[part], before, after, given)


def _called(part: Conversion, one: Value, after: Sight) -> str:
    """The key under which a value is to be looked for."""
    if said := _renamed(part):
        return said
    usual = {"document": "document", "uri": "uri"}.get(part.part.partition(" ")[0], one.key)
    return usual if usual != one.key and not any(one.key in row.rest for row in after.rows.values()) else one.key


def _renamed(part: Conversion) -> str:
    said = re.match("([^<]+): ", part.becomes)
    return said[1] if said and not part.part.startswith("payload") else ""


def _became(value: Any, there: Mapping[str, Any], key: str) -> str:
    if key not in there:
        return "gone"
    return "same" if same(value, there[key]) else "wider" if wider(value, there[key]) else "other"


def _part(judged: Judged, one: Conversion, before: Sight, after: Sight, given: list[tuple[Value, str, Any]]) -> None:
    strange = {name: [became for value, became, _ in given if _odd(value.value) == name] for name in ("NaN", "infinity")}
    usual = [became for value, became, _ in given if _odd(value.value) not in one.note or not _odd(value.value)]
    for name, became in strange.items():
        judged.expect(name not in one.note or "same" not in became, one, name, "is what it was")
    shown = [(value.value, now) for value, became, now in given if became not in ("same",)][:3]
    if not usual:
        return
    right = {verdict for verdict in Verdict if _agrees(verdict, one, usual, _typed(one, before, after))}
    if one.part.startswith("payload") and not any(provoking(value.value) for value, _, _ in given):
        right.add(Verdict.CHANGED)
    judged.expect(one.verdict in right, one, "is", " or ".join(right), shown)
    if one.verdict is Verdict.CHANGED and not one.part.startswith("payload"):
        kinds = {_NAMES.get(type(now), "") for _, became, now in given if became == "other"}
        judged.expect(all(kind in one.becomes for kind in kinds) or _named_type(one, after), one, "is", kinds)


_NAMES = {bool: "truth value", int: "number", float: "number", str: "text", list: "list", dict: "object"}


def _named_type(one: Conversion, after: Sight) -> bool:
    name = one.part.partition(" ")[2]
    return name in after.schema and str(after.schema[name].type) in one.becomes


def _typed(one: Conversion, before: Sight, after: Sight) -> bool:
    """Is it of the type that it was of? What is in a payload is, if JSON has that type."""
    if one.part.startswith("payload"):
        return not one.becomes.startswith("column")
    name = one.part.partition(" ")[2]
    key = _renamed(one) or name
    kind = before.schema[name].type
    if key in after.schema:
        return _alike(kind, after.schema[key].type)
    return kind in PLAIN or _is_text(kind)


def _agrees(verdict: Verdict, one: Conversion, usual: Sequence[str], typed: bool) -> bool:
    if set(usual) == {"gone"}:
        return verdict is Verdict.LOST
    if "other" in usual or "gone" in usual:
        return verdict is Verdict.CHANGED
    if "wider" in usual or not typed:
        return verdict is Verdict.WIDENED
    return verdict is Verdict.KEPT


# -- there and back -------------------------------------------------------------------------------------------------------------


def differences(before: Sight, there: Judged, back: Judged, home: Sight) -> list[str]:
    """What isn't as it was before, though both tables only keep it, or widen it to and back."""
    found = []
    for one in values(before):
        verdict, key = there.went[one.row, one.key]
        if verdict not in (Verdict.KEPT, Verdict.WIDENED) or _odd(one.value):
            continue
        again, last = back.went.get((one.row, key), (Verdict.LOST, key))
        value = home.rows[one.row].rest.get(last)
        if again in (Verdict.KEPT, Verdict.WIDENED) and not (same(one.value, value) or wider(one.value, value)):
            found.append(f"{one.part} of {one.row}: {one.value!r} → {value!r}")
    return found


def unlike(after: Sight, raw: Rows) -> list[str]:
    """What an engine's own client finds otherwise than a backup reads it."""
    if after.rows.keys() != raw.keys():
        return [f"ids: {sorted(after.rows)}, and by the engine's client {sorted(raw)}"]
    found = []
    for row, (dense, rest) in after.rows.items():
        theirs = raw[row].vectors
        if len(dense) == len(theirs) == 1:
            theirs = dict(zip(dense, theirs.values(), strict=True))
        if dense.keys() != theirs.keys() or not all(np.allclose(dense[name], theirs[name], rtol=1e-6, atol=1e-7) for name in dense):
            found.append(f"vectors of {row}: {dense}, and by the engine's client {theirs}")
        if shown(rest) != shown(raw[row].rest):
            found.append(f"{row}: {shown(rest)}, and by the engine's client {shown(raw[row].rest)}")
    return found


def shown(value: Any) -> Any:
    """A value as it compares: what JSON hasn't as text; numbers know their type."""
    if isinstance(value, dict):
        return {key: shown(one) for key, one in sorted(value.items())}
    if isinstance(value, list | tuple):
        return [shown(one) for one in value]
    if isinstance(value, bytes):
        return value.hex()
    return (
        value if isinstance(value, str | bool | int) or value is None else repr(value) if isinstance(value, float) else str(value)
    )
