"""Do lists of numbers come back from runs, and are malformed runs refused?"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom.codecs import CodecError, runs
from strongroom.codecs.runs import NONE

numbers = st.integers(0, 2**32 - 2)
pieces = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9), numbers | st.integers(0, 20)), max_size=12)


def laid_out(drawn) -> tuple[np.ndarray, np.ndarray]:
    """Positions, and the numbers that stand there, for (gap, length, first number) of pieces that count up."""
    at, values, end = [], [], 0
    for gap, length, first in drawn:
        for step in range(length):
            if first + step < NONE:
                at.append(end + gap + step)
                values.append(first + step)
        end += gap + length
    return np.array(at, np.int64), np.array(values, np.uint32)


@settings(max_examples=200, deadline=None)
@given(pieces, st.integers(0, 30))
def test_a_list_comes_back(drawn, more: int) -> None:
    at, values = laid_out(drawn)
    found = runs.runs_of(at, values)
    back = runs.decode(runs.encode(found))
    count = (int(at[-1]) + 1 if len(at) else 0) + more
    expected = np.full(count, NONE, np.uint32)
    expected[at] = values
    assert runs.expand(back, count).tolist() == expected.tolist()
    assert runs.expand(back, count // 2).tolist() == expected[: count // 2].tolist(), "what lies beyond is left out"
    assert [getattr(back, name).tolist() for name in ("at", "length", "number")] == [
        getattr(found, name).tolist() for name in ("at", "length", "number")
    ]


@settings(max_examples=200, deadline=None)
@given(pieces)
def test_there_are_as_few_runs_as_there_can_be(drawn) -> None:
    at, values = laid_out(drawn)
    breaks = sum(
        not (a + 1 == b and x + 1 == y) for a, b, x, y in zip(at, at[1:], values.tolist(), values[1:].tolist(), strict=False)
    )
    assert len(runs.runs_of(at, values)) == (breaks + 1 if len(at) else 0)


@settings(max_examples=200, deadline=None)
@given(pieces, st.lists(st.integers(0, 60), max_size=5))
def test_parts_joined_are_the_whole(drawn, cuts: list[int]) -> None:
    at, values = laid_out(drawn)
    borders = [0, *sorted(min(cut, len(at)) for cut in cuts), len(at)]
    parts = [runs.runs_of(at[a:b], values[a:b]) for a, b in itertools.pairwise(borders)]
    assert runs.encode(runs.joined(parts)) == runs.encode(runs.runs_of(at, values))


@settings(max_examples=200, deadline=None)
@given(pieces, st.lists(numbers, max_size=80))
def test_runs_replace_what_stands_where_they_are(drawn, before: list[int]) -> None:
    at, values = laid_out(drawn)
    result, expected = np.array(before, np.uint32), list(before)
    runs.apply(runs.runs_of(at, values), result)
    for place, value in zip(at.tolist(), values.tolist(), strict=True):
        if place < len(expected):
            expected[place] = value
    assert result.tolist() == expected


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60) | st.lists(st.integers(0, 2**32 - 1), max_size=15).map(lambda them: np.array(them, "<u4").tobytes()))
def test_garbage_is_read_or_refused(content: bytes) -> None:
    try:
        found = runs.decode(content)
    except CodecError:
        return
    assert len(content) == 12 * len(found)
    assert (found.length > 0).all()
    assert (np.diff(found.at) >= found.length[:-1]).all(), "in order, without overlap"
    assert ((found.number >= 0) & (found.number + found.length <= 2**32)).all()
    assert runs.encode(found) == content
    assert len(runs.expand(found, 50)) == 50


@pytest.mark.parametrize(
    "columns", [([0], [0], [5]), ([2], [2**32 - 1], [0]), ([0], [2], [2**32 - 1]), ([0, 0], [2**32 - 1, 2], [0, 0])]
)
def test_runs_that_go_beyond_are_refused(columns) -> None:
    with pytest.raises(CodecError):
        runs.decode(b"".join(np.array(column, "<u4").tobytes() for column in columns))


def test_the_layout_is_what_the_page_says() -> None:
    content = runs.encode(runs.runs_of(np.array([2, 3, 7]), np.array([10, 11, 5], np.uint32)))
    assert np.frombuffer(content, "<u4").tolist() == [2, 3, 2, 1, 10, 2**32 + 5 - 12]
