"""Does each engine hold what came from each other one as the plan's table says, and do rows come home as they were?

`promises.py` compares what a backup of the target reads, value by value; `raw_rows.py` what the engine's own client finds there. In
`make test` each engine is source once and target once; all pairs, and the way back, are for `make soak`.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from processes import apart
from promises import Sight, differences, judge, seen, unlike
from raw_awkward import MAKE, listed, vectors
from raw_engines import RAW as EMBEDDED
from raw_rows import READ
from raw_servers import RUNNING, SERVERS

import strongroom
from strongroom import engines
from strongroom.engines.conversions import RARE
from strongroom.errors import StrongroomError
from strongroom.model import Verdict
from strongroom.progress import SILENT
from strongroom.repository import Argon2Cost

CHEAP = Argon2Cost(1, 1, 64)
RAW = {**EMBEDDED, **SERVERS}
ONE_VECTOR = ("chroma", "chroma+http", "faiss", "hnswlib", "usearch", "milvus")
NO_GAPS = (*ONE_VECTOR, "milvus-lite", "sqlite-vec")
DTYPES = {"faiss": ("float32",), "hnswlib": ("float32",), "redis": ("float32", "float16", "bfloat16")}
METRICS = {"qdrant-edge": ("l2", "ip", "cosine", "l1"), "qdrant-local": ("l2", "ip", "cosine", "l1")}
METRICS |= {"lancedb": ("l2", "ip", "cosine", "hamming")}
RING = tuple(RAW)


@dataclasses.dataclass(frozen=True)
class Made:
    """A collection of one engine and its snapshot."""

    room: strongroom.Strongroom
    snapshot: str
    before: Sight


@pytest.fixture(scope="module", autouse=True)
def _servers_end():
    yield
    RUNNING.stop()


_MADE: dict[tuple[str, str], Made] = {}


@pytest.fixture
def make(tmp_path_factory):
    """A source, made once and left alone."""

    def made(name: str, kind: str) -> Made:
        if (name, kind) not in _MADE:
            place = tmp_path_factory.mktemp("source")
            (place / "there").mkdir()
            apart(MAKE[name], RAW[name].path(place / "there"), kind)
            url = RAW[name].url(place / "there")
            room = strongroom.init(str(place / "repository"), password="x", cost=CHEAP)
            _MADE[name, kind] = Made(room, room.backup(url).snapshot.id, seen(url))
        return _MADE[name, kind]

    return made


def refuses(target: str, before: Sight) -> bool:
    """What can't go there at all: nothing else is refused, and no less."""
    fields = before.collection.fields
    if target in ONE_VECTOR and len(fields) > 1:
        return True
    if target in NO_GAPS and any(len(row.vectors) < len(fields) for row in before.rows.values()):
        return True
    return any(
        one.dtype not in DTYPES.get(target, (one.dtype,)) or one.metric not in METRICS.get(target, (one.metric,)) for one in fields
    )


def check_refusal(made: Made, target: str, place: Any) -> None:
    with pytest.raises(StrongroomError) as refused:
        made.room.restore(made.snapshot, RAW[target].url(place))
    assert "\n" not in str(refused.value)
    assert is_empty(RAW[target].url(place))


def is_empty(url: str) -> bool:
    try:
        with engines.source_of(url).freeze(SILENT) as frozen:
            return not frozen.description.collections
    except StrongroomError:
        return True


def go(made: Made, target: str, place: Any) -> Any:
    """Restore, and judge: what is there now, and where each value went."""
    place.mkdir()
    url = RAW[target].url(place)
    plan = made.room.plan_restore(made.snapshot, url)
    report = made.room.restore(made.snapshot, url)
    assert report.plan.conversions == plan.conversions
    after = seen(url)
    judged = judge(plan.conversions, made.before, after)
    wrong = judged.wrong + unlike(after, apart(READ[target], RAW[target].path(place)))
    assert not wrong, "\n".join(wrong)
    return after, judged


def there_and_back(made: Made, source: str, target: str, tmp_path: Any) -> None:
    after, there = go(made, target, tmp_path / "there")
    room = strongroom.init(str(tmp_path / "another"), password="x", cost=CHEAP)
    between = Made(room, room.backup(RAW[target].url(tmp_path / "there")).snapshot.id, after)
    home, back = go(between, source, tmp_path / "home")
    assert home.rows.keys() == made.before.rows.keys()
    assert not differences(made.before, there, back, home)


PAIRS = [(one, other) for one in RAW for other in RAW if one != other]


@pytest.mark.parametrize(("source", "target"), list(zip(RING, (*RING[1:], RING[0]), strict=True)))
def test_the_table_is_right(source, target, tmp_path, make):
    go(make(source, "plain"), target, tmp_path / "there")


@pytest.mark.soak
@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_rows_come_home(source, target, tmp_path, make):
    there_and_back(make(source, "plain"), source, target, tmp_path)


TOLD = (("faiss", "qdrant-edge"), ("qdrant-local", "redis"))
"""Pairs with numbers that the one can hold and the other can't, and with a metric that it doesn't have."""


@pytest.mark.parametrize(("source", "target"), [pytest.param(*one, marks=() if one in TOLD else pytest.mark.soak) for one in PAIRS])
def test_the_table_is_right_of_more(source, target, tmp_path, make):
    made = make(source, "more")
    if refuses(target, made.before):
        (tmp_path / "there").mkdir()
        check_refusal(made, target, tmp_path / "there")
    else:
        go(made, target, tmp_path / "there")


@pytest.mark.parametrize(
    "target", [pytest.param(name, marks=() if name == "redis" else pytest.mark.soak) for name in RAW if name != "lancedb"]
)
def test_the_table_is_right_of_rarer_types(target, tmp_path, make):
    go(make("lancedb", "rarer"), target, tmp_path / "there")


def with_uris(path: str) -> None:
    import lancedb

    rows = {"id": ["a", "b", "c"], "vector": listed(vectors()[:3]), "uri": ["file:///ü", None, "s3://b/c"], "number": [1, 2, 3]}
    lancedb.connect(path).create_table("things", pa.table(rows))


def uris_of_chroma(path: str) -> list[str | None]:
    import chromadb

    got = chromadb.PersistentClient(path).get_collection("things", embedding_function=None).get(include=["uris", "metadatas"])
    assert not any("uri" in one for one in got["metadatas"])
    return [uri for _, uri in sorted(zip(got["ids"], got["uris"], strict=True))]


@pytest.mark.parametrize(
    "between", [pytest.param(name, marks=() if name == "redis" else pytest.mark.soak) for name in RAW if name != "lancedb"]
)
def test_uris_are_uris_after_a_detour(between, tmp_path):
    """Those of Chroma aren't metadata, those of LanceDB a column."""
    apart(with_uris, str(tmp_path / "source"))
    (tmp_path / "there").mkdir()
    url = RAW[between].url(tmp_path / "there")
    for number, (one, other) in enumerate([(f"lancedb://{tmp_path}/source", url), (url, f"lancedb://{tmp_path}/home")]):
        room = strongroom.init(str(tmp_path / f"repository{number}"), password="x", cost=CHEAP)
        room.backup(one)
        room.restore("latest", other)
    room.restore("latest", f"chroma://{tmp_path}/chroma")
    assert apart(uris_of_chroma, str(tmp_path / "chroma")) == ["file:///ü", None, "s3://b/c"]
    assert [seen(f"lancedb://{tmp_path}/home").given[row]["uri"] for row in "abc"] == ["file:///ü", None, "s3://b/c"]


def with_payloads(path: str, payloads: list[str]) -> None:
    import lancedb

    rows = {"id": [f"row {n}" for n in range(len(payloads))], "vector": listed(vectors()[: len(payloads)]), "payload": payloads}
    lancedb.connect(path).create_table("things", pa.table(rows | {"word": ["a column's"] * len(payloads)}))


@pytest.mark.parametrize("target", ["chroma", "milvus-lite", "qdrant-edge", "redis"])
def test_two_things_of_one_name_are_not_made_one(target, tmp_path):
    (tmp_path / "there").mkdir()
    apart(with_payloads, str(tmp_path / "source"), ['{"word": "a column\'s"}', '{"word": "another"}'])
    room = strongroom.init(str(tmp_path / "repository"), password="x", cost=CHEAP)
    room.backup(f"lancedb://{tmp_path}/source")
    with pytest.raises(StrongroomError, match="'row 1' has 'word' twice"):
        room.restore("latest", RAW[target].url(tmp_path / "there"))
    assert is_empty(RAW[target].url(tmp_path / "there"))


def test_keys_that_get_another_name_are_no_other_key(tmp_path):
    """`id` is a field of Milvus, and what begins with `#` Chroma's own."""
    given = {"id": 1, "_id": 2, "__id": 3, "#a": 4, "_#a": 5}
    apart(with_payloads, str(tmp_path / "source"), [json.dumps(given)])
    room = strongroom.init(str(tmp_path / "repository"), password="x", cost=CHEAP)
    room.backup(f"lancedb://{tmp_path}/source")
    for target in ("milvus-lite", "chroma"):
        place = tmp_path / target
        place.mkdir()
        room.restore("latest", RAW[target].url(place))
        rest = apart(READ[target], RAW[target].path(place))["row 0"].rest
        assert sorted(value for value in rest.values() if isinstance(value, int)) == [1, 2, 3, 4, 5], rest


@pytest.mark.parametrize("kind", ["objects", "lists"])
def test_a_payload_as_deep_as_qdrant_takes_it(kind, tmp_path):
    """Deeper ones it takes, too, and can't be opened any more."""
    for depth in (123, 124):
        around = depth - 1
        inner = '{"a":' * around + "{}" + "}" * around if kind == "objects" else '{"a":' + "[" * around + "]" * around + "}"
        apart(with_payloads, str(tmp_path / f"source{depth}"), [inner])
        room = strongroom.init(str(tmp_path / f"repository{depth}"), password="x", cost=CHEAP)
        room.backup(f"lancedb://{tmp_path}/source{depth}")
        url = f"qdrant-edge://{tmp_path}/things{depth}"
        if depth == 123:
            room.restore("latest", url)
            (row,) = apart(READ["qdrant-edge"], f"{tmp_path}/things{depth}").values()
            assert json.dumps({"a": row.rest["a"]}, separators=(",", ":")) == inner
        else:
            with pytest.raises(StrongroomError, match="nested 124 deep"):
                room.restore("latest", url)
            assert is_empty(url)


def test_each_wrong_verdict_is_found_out(tmp_path, make):
    made = make("lancedb", "plain")
    url = f"sqlite-vec://{tmp_path}/things.db"
    table = made.room.restore(made.snapshot, url).plan.conversions
    after = seen(url)
    assert not judge(table, made.before, after).wrong
    for place, one in enumerate(table):
        if one.part.startswith(("null vectors", "uri")):
            continue  # nothing of that is there
        for verdict in set(Verdict) - {one.verdict}:
            wrong = [*table[:place], dataclasses.replace(one, verdict=verdict), *table[place + 1 :]]
            assert judge(wrong, made.before, after).wrong, f"{one} as {verdict}"


def test_an_exact_restore_has_no_table(tmp_path, make):
    made = make("faiss", "plain")
    assert made.room.plan_restore(made.snapshot, f"faiss://{tmp_path}/back.faiss").conversions == ()


LETTERS = {"vector": "v", "null vectors of": "n", "metric of": "m", "payload": "p", "column": "c", "document": "d", "id": "i"}


def letters(table: Any) -> str:
    """What of a table isn't kept or widened; an index is always another one, but for where there is none, and
    numbers that few payloads have are left out."""
    worse = [one for one in table if one.verdict in (Verdict.CHANGED, Verdict.LOST) and not one.part.endswith(RARE)]
    found = {LETTERS.get(one.part.partition(": ")[0].rpartition(" ")[0], "") for one in worse if not one.part.startswith("index")}
    found |= {"x" for one in worse if one.part.startswith("index") and one.verdict is Verdict.LOST}
    return "".join(sorted(found)) or "·"


@pytest.mark.soak
def test_the_matrix_of_the_documentation(tmp_path, make):
    head = "| from ↓ to → | " + " | ".join(RAW)
    lines = [f"{head} |", "|" + "---|" * (len(RAW) + 1)]
    for source in RAW:
        made, cells = make(source, "plain"), []
        for target in RAW:
            place = tmp_path / target
            place.mkdir(exist_ok=True)
            same = source == target
            cells.append("" if same else letters(made.room.plan_restore(made.snapshot, RAW[target].url(place)).conversions))
        lines.append(f"| **{source}** | {' | '.join(cells)} |")
    matrix = "\n".join(lines)
    print(matrix)
    assert matrix in (Path(__file__).parents[2] / "docs" / "ENGINES.md").read_text()
