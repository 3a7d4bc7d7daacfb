"""Are equal fingerprints paired, each as often as it is on both sides?"""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from strongroom.snapshots.pairing import left_over, pairs

FEW = st.lists(st.tuples(*[st.integers(0, 3)] * 3), max_size=40)


def _prints(rows):
    return np.array(rows, np.uint32).reshape(-1, 3)


@given(FEW, FEW, st.sampled_from([1, 3, 1 << 20]))
def test_as_many_pairs_as_both_sides_have(ours, theirs, at_once):
    one, other = pairs(_prints(ours), _prints(theirs), at_once)
    assert [ours[at] for at in one] == [theirs[at] for at in other]
    assert len(set(one)) == len(set(other)) == len(one)
    assert Counter(ours[at] for at in one) == Counter(ours) & Counter(theirs)


@given(FEW, FEW)
def test_what_is_left_over_is_the_difference(ours, theirs):
    mine, others = left_over(_prints(ours), _prints(theirs))
    assert Counter(row for row, alone in zip(ours, mine, strict=True) if alone) == Counter(ours) - Counter(theirs)
    assert Counter(row for row, alone in zip(theirs, others, strict=True) if alone) == Counter(theirs) - Counter(ours)


def test_one_word_of_three_is_enough_to_differ():
    base = np.array([[1, 2, 3]], np.uint32)
    for word in range(3):
        other = base.copy()
        other[0, word] += 1
        assert len(pairs(base, other)[0]) == 0
