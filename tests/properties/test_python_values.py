"""Do columns have the same values for Python wherever pandas is or isn't installed?"""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as some

from strongroom.engines.python_values import values_of

MOMENT = datetime.datetime(2024, 2, 29, 12, 30, 15, 1)
AS_NUMBER = 1_709_209_815_000_001_000
TIMES = [
    (pa.timestamp("ns"), AS_NUMBER, MOMENT, "2024-02-29 12:30:15.000001001"),
    (pa.timestamp("ns"), -1_000, datetime.datetime(1969, 12, 31, 23, 59, 59, 999_999), "1969-12-31 23:59:59.999999001"),
    (pa.timestamp("ns", "+01:00"), AS_NUMBER, None, "2024-02-29 13:30:15.000001001+01:00"),
    (pa.time64("ns"), 1_000, datetime.time(0, 0, 0, 1), "00:00:00.000001001"),
    (pa.duration("ns"), 1_000, datetime.timedelta(microseconds=1), "0:00:00.000001001"),
    (pa.duration("ns"), -1_000, datetime.timedelta(microseconds=-1), "-1 day, 23:59:59.999999001"),
]


@pytest.mark.parametrize(("kind", "number", "whole", "text"), TIMES)
def test_nanoseconds_are_texts_where_microseconds_do_not_do(kind: pa.DataType, number: int, whole: object, text: str) -> None:
    values = pa.array([number, number + 1, None], kind)
    found = values_of(values)
    assert found[1:] == [text, None]
    assert whole is None or found[0] == whole
    lists = [found[:2], None, found[2:]]
    assert values_of(pa.ListArray.from_arrays(pa.array([0, None, 2, 3], pa.int32()), values)) == lists
    assert values_of(pa.StructArray.from_arrays([values, values], ["a", "b"]).slice(1)) == [
        {"a": text, "b": text},
        {"a": None, "b": None},
    ]
    assert values_of(pa.FixedSizeListArray.from_arrays(values.slice(1), 2)) == [[text, None]]
    pairs = pa.MapArray.from_arrays(pa.array([0, 2, 2], pa.int32()), pa.array(["x", "y"]), values.slice(0, 2))
    assert values_of(pairs) == [[("x", found[0]), ("y", text)], []]
    assert values_of(values.dictionary_encode()) == found


@given(some.lists(some.none() | some.integers(-(1 << 62), 1 << 62)))
def test_all_digits_stay(numbers: list[int | None]) -> None:
    texts = [one if isinstance(one, str) else None for one in values_of(pa.array(numbers, pa.timestamp("ns")))]
    for number, text in zip(numbers, texts, strict=True):
        if text is not None:
            assert pa.array([text]).cast(pa.timestamp("ns")).cast(pa.int64())[0].as_py() == number
        else:
            assert number is None or number % 1000 == 0


def test_others_are_as_arrow_gives_them() -> None:
    column = pa.array([[{"a": 1, "b": b"x"}], None, []])
    assert values_of(column) == column.to_pylist()


PROGRAM = """
import sys
import pyarrow as pa
from strongroom.engines.without_pandas import do_without_pandas
if sys.argv[1] == "without":
    do_without_pandas()
else:
    import pandas
from strongroom.snapshots.fingerprints import Fingerprinter
moments = pa.array([[{n}, {n} + 1], None, [7000]], pa.list_(pa.timestamp("ns")))
print(Fingerprinter(bytes(32)).prints(pa.record_batch([moments], ["t"])).rows.tobytes().hex())
"""


def test_rows_have_the_same_fingerprints_with_and_without_pandas(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.replace("{n}", str(AS_NUMBER)))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with_, without = (
        subprocess.run([sys.executable, program, how], env=env, capture_output=True, text=True, check=True).stdout
        for how in ("with", "without")
    )
    assert with_ == without
    assert len(with_) > 90
