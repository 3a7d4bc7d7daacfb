"""Is every number of a payload itself, or the text that stood there?"""

from __future__ import annotations

import json
import math
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from strongroom.engines.payloads import Number, common, exact, finite, joined, written
from strongroom.errors import EngineFailed

NUMBERS = st.one_of(st.integers(), st.integers(-(1 << 65), 1 << 65), st.floats())
VALUES = st.recursive(
    st.one_of(NUMBERS, st.none(), st.booleans(), st.text(max_size=3)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
)


def expected(value: Any) -> Any:
    """By another way than the one that is tested."""
    if isinstance(value, dict):
        return {key: expected(one) for key, one in value.items()}
    if isinstance(value, list):
        return list(map(expected, value))
    rare = isinstance(value, float) and not math.isfinite(value)
    rare |= type(value) is int and not -(2**63) <= value < 2**64
    return json.dumps(value) if rare else value


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=3), VALUES, max_size=4))
def test_rare_numbers_are_their_texts(payload: dict[str, Any]) -> None:
    text = json.dumps(payload)
    assert json.dumps(common(text)) == json.dumps(expected(payload))
    assert json.loads(written(exact(text))) == json.loads(text) or "NaN" in text
    assert json.dumps(exact(text)) == text


DIGITS = st.text("0123456789", min_size=1, max_size=25)
DECIMALS = st.builds(
    lambda sign, whole, rest, power: f"{sign}{int(whole)}.{rest}{power}",
    st.sampled_from(["", "-"]), DIGITS, DIGITS, st.sampled_from(["", "e5", "E-7", "e+300", "e310", "e-300", "e-320", "e-400"]),
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(DECIMALS, min_size=1, max_size=4), st.text(max_size=4))
@example(["0.1", "0.10", "0.1000000000000000055511151231257827", "0.10000000000000001"], "")
@example(["0.1234567890123456789", "9007199254740993.0", "1e-400", "4.9e-324"], '"strongroom number ')
def test_every_digit_stays(numbers: list[str], beside: str) -> None:
    text = f'{{"{beside and "x"}":{json.dumps(beside)},"list":[{",".join(numbers)}]}}'
    again = written(exact(text))
    there = json.loads(again, parse_float=Decimal)
    assert there == {**json.loads(text), "list": there["list"]}
    for given_text, kept, in_common in zip(numbers, there["list"], common(text)["list"], strict=True):
        said = Decimal(given_text)
        digits = len(said.as_tuple().digits)
        double = Decimal(f"{float(given_text):.{digits}g}")
        assert kept == said or (double == said and float(kept) == float(given_text))
        assert in_common == (float(given_text) if double == said else given_text)


def test_doubles_stay_numbers_however_long_they_are_written() -> None:
    """As C's printf and older Pythons write them."""
    texts = ["0.1000000000000000055511151231257827", "0.10000000000000001", "1e22", "0.30", "-0.0", "0.000", "0e999"]
    for text in texts:
        assert type(exact(f'{{"x":{text}}}')["x"]) is type(common(f'{{"x":{text}}}')["x"]) is float
    for text in ("0.12345678901234567890", "1e400", "-1e-400", "9007199254740993.0", "1.23456789e-320", "1" * 5000):
        assert exact(f'{{"x":{text}}}') == {"x": Number(text)}
        assert common(f'{{"x":{text}}}') == {"x": text}
        assert written(exact(f'{{"x":{text}}}')) == f'{{"x":{text}}}'


@pytest.mark.parametrize("text", ["1" * 5000, "1e400", "-1e999"])
def test_no_number_is_too_long(text: str) -> None:
    assert common(f'{{"x": {text}}}') == {"x": text}


def test_columns_beside_a_payload() -> None:
    nan = float("nan")
    assert json.dumps(joined("r", {"a": 1, "n": nan}, {"a": 1, "b": nan, "n": float("nan")})) == '{"a": 1, "n": NaN, "b": NaN}'
    for other in (2, nan, None, "1"):
        with pytest.raises(EngineFailed, match="'r' has 'a' twice"):
            joined("r", {"a": 1}, {"a": other})


def test_what_each_engine_is_given() -> None:
    text = '{"a": 18446744073709551616, "b": NaN, "c": 1e400, "d": -0.0, "e": -Infinity}'
    assert written(exact(text), spaced=True) == text
    assert written(finite(text), spaced=True) == text.replace("NaN", '"NaN"').replace("-Infinity", '"-Infinity"')
    assert json.dumps(common(text)) == '{"a": "18446744073709551616", "b": "NaN", "c": "1e400", "d": -0.0, "e": "-Infinity"}'
    assert exact(None) == finite("") == common(None) == {}
