"""Do ids, texts, numbers and vectors as people have them come back from any engine, or is it said that they can't go there?

The rows start as a LanceDB table, go into the engine, and come back from it into another table. What a target can't hold is refused
in one line, and nothing is put in place.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from processes import apart
from raw_engines import RAW as EMBEDDED
from raw_servers import RUNNING, SERVERS

import strongroom
from strongroom.errors import StrongroomError
from strongroom.repository import Argon2Cost

CHEAP = Argon2Cost(1, 1, 64)
RAW = {**EMBEDDED, **SERVERS}
QUICK = ("faiss", "pgvector", "qdrant-edge", "redis", "sqlite-vec")
IDS = [
    "plain", "with space", "ünï-cödé", "😀", "a'b\"c`d", "%_\\*?[x]", "{curly}", "select", "0", "007", "-1", "1.5", str(2**64 - 1),
    str(2**64), str(uuid.UUID(int=7)), "x" * 400, "né\u0301", "日本語", "tab\there", "line\nbreak",
]  # fmt: skip
TEXTS = ["", "😀 emoji", "quote ' \" ` \\", "<b>&amp;</b>", "right ‮to left", "a\tb\nc", '{"json": [1]}', "null", None, "é" * 5000]
CASES: dict[str, Any] = {
    "texts": lambda: table(IDS, 8, [TEXTS[n % len(TEXTS)] for n in range(len(IDS))]),
    "nul": lambda: table(["a", "b"], 8, ["with \0 inside", "\0"]),
    "megabyte": lambda: table(["a", "b"], 8, ["x" * (1 << 20), "y"]),
    "one dimension": lambda: table(["a", "b", "c"], 1, ["x", "y", "z"]),
    "many dimensions": lambda: table(["a", "b", "c"], 16_000, ["x", "y", "z"]),
    "float16": lambda: table(["a", "b", "c"], 8, ["x", "y", "z"], np.float16),
    "int64 ids": lambda: table(pa.array([0, 1, 2**53 + 1, 2**63 - 2]), 8, ["x", "y", "z", None]),
    "extremes": lambda: extremes(),
}
REFUSED = {
    ("nul", "pgvector"), ("megabyte", "milvus"), ("float16", "faiss"), ("float16", "hnswlib"), ("many dimensions", "sqlite-vec"),
}  # fmt: skip
"""What can't be held there, by case and engine: no more is refused than this, and no less."""


def table(ids: Any, dimension: int, documents: Any, dtype: Any = np.float32) -> pa.Table:
    vectors = np.random.default_rng(3).standard_normal((len(ids), dimension)).astype(dtype)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), dimension)
    numbers = [n if n % 3 else None for n in range(len(ids))]
    return pa.table(
        {"id": ids, "vector": column, "document": pa.array(documents, pa.utf8()), "number": pa.array(numbers, pa.int64())}
    )


def extremes() -> pa.Table:
    """Numbers at the ends of what their types can hold."""
    made = table(["a", "b", "c", "d"], 8, ["x", "y", "z", None])
    made = made.append_column("whole", pa.array([2**63 - 1, -(2**63), 2**53 + 1, 0]))
    made = made.append_column("ratio", pa.array([1e308, -5e-324, 0.1, None]))
    return made.append_column("flag", pa.array([True, False, None, True]))


def make(path: str, case: str) -> None:
    lancedb.connect(path).create_table("things", CASES[case]())


def rows(path: str) -> dict[str, tuple[Any, ...]]:
    """Id, vector, document and the other values of each row, nulls left out; a vector as float32, which every element fits."""
    opened = lancedb.connect(path)
    found = {}
    for one in opened.open_table(opened.table_names()[0]).to_arrow().to_pylist():
        vector = next(name for name, value in one.items() if isinstance(value, list))
        rest = {name: value for name, value in one.items() if name not in ("id", vector, "document") and value is not None}
        rest.pop("payload", None)
        found[str(one["id"])] = np.float32(one[vector]).tobytes(), one["document"], rest
    return found


@pytest.fixture(scope="module", autouse=True)
def _servers_end():
    yield
    RUNNING.stop()


def _pairs():
    for case in CASES:
        for name in RAW:
            if name != "lancedb":
                soak = case != "texts" or name not in QUICK
                yield pytest.param(case, name, id=f"{case}-{name}", marks=pytest.mark.soak if soak else ())


@pytest.mark.parametrize(("case", "name"), _pairs())
def test_it_comes_back_or_is_refused(case, name, tmp_path):
    raw = RAW[name]
    (tmp_path / "there").mkdir()
    apart(make, str(tmp_path / "source"), case)
    truth = apart(rows, str(tmp_path / "source"))
    room = strongroom.init(str(tmp_path / "repository"), password="x", cost=CHEAP)
    room.backup(f"lancedb://{tmp_path}/source")
    there = raw.url(tmp_path / "there")
    if (case, name) in REFUSED:
        with pytest.raises(StrongroomError) as refused:
            room.restore("latest", there)
        assert "\n" not in str(refused.value)
        assert refused.value.hint or refused.value.exit_code
        with pytest.raises(StrongroomError):
            apart(rows_of, there)
        return
    room.restore("latest", there)
    back = strongroom.init(str(tmp_path / "another"), password="x", cost=CHEAP)
    back.backup(there)
    back.restore("latest", f"lancedb://{tmp_path}/back")
    found = apart(rows, str(tmp_path / "back"))
    assert found.keys() == truth.keys()
    for key, (vector, document, rest) in truth.items():
        assert found[key] == (vector, document, as_text(rest) if name == "redis" else rest), key


def as_text(values: dict[str, Any]) -> dict[str, str]:
    """The fields of a hash are text, as the plan says."""
    return {name: json.dumps(value) for name, value in values.items()}


def rows_of(url: str) -> int:
    """How many there are. Raises if there is nothing."""
    from strongroom import engines
    from strongroom.progress import SILENT

    with engines.source_of(url).freeze(SILENT) as frozen:
        counts = [one.count for one in frozen.description.collections]
    if not counts:
        raise StrongroomError("there is nothing")
    return sum(counts)
