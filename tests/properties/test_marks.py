"""A set of numbers in pages of bits is a set of numbers."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom.codecs.runs import NONE
from strongroom.snapshots.marks import Marks

NUMBERS = st.integers(0, 200_000) | st.sampled_from([0, 7, 8, 65_535, 65_536, 1 << 31, int(NONE) - 1])
STRETCHES = st.tuples(st.integers(0, 200_000), st.integers(0, 70_000))


@settings(deadline=None)
@given(st.lists(st.lists(NUMBERS, max_size=40)), st.lists(STRETCHES, max_size=3), STRETCHES, st.lists(NUMBERS))
def test_what_was_marked_is_there_and_nothing_else(singles, stretches, asked, others) -> None:
    marks, known = Marks(), set[int]()
    for numbers in [*singles, *(range(start, start + count) for start, count in stretches)]:
        marks.mark(np.array([*numbers, NONE], np.uint32))
        known.update(numbers)
    wanted = np.array([*others, *(number for numbers in singles for number in numbers), NONE], np.uint32)
    assert marks.of(wanted).tolist() == [number in known for number in wanted.tolist()]
    start, count = asked
    assert marks.part(start, count).tolist() == [number in known for number in range(start, start + count)]
