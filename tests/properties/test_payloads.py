"""Is every number of a payload itself, or the text that stood there?"""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom.engines.payloads import common, exact, finite, joined
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
    assert json.dumps(exact(text)) == text


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
    assert json.dumps(exact(text)) == '{"a": 18446744073709551616, "b": NaN, "c": "1e400", "d": -0.0, "e": -Infinity}'
    assert json.dumps(finite(text)) == '{"a": 18446744073709551616, "b": "NaN", "c": "1e400", "d": -0.0, "e": "-Infinity"}'
    assert json.dumps(common(text)) == '{"a": "18446744073709551616", "b": "NaN", "c": "1e400", "d": -0.0, "e": "-Infinity"}'
    assert exact(None) == finite("") == common(None) == {}
