"""Which fingerprints are in both of two collections, each counted as often as it occurs? Pure."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from strongroom.snapshots.fingerprints import Places, Short

_AT_ONCE = 1 << 20
"""So many fingerprints are sorted at a time: about 50 bytes of memory each."""


def pairs(ours: Short, theirs: Short, at_once: int = _AT_ONCE) -> tuple[Places, Places]:
    """The places of equal fingerprints, (pairs,) on each side: no place is in two pairs, no two equal ones are left unpaired."""
    found = list(_pairs(ours, theirs, at_once))
    none = np.zeros(0, np.int64)
    return np.concatenate([none, *(one for one, _ in found)]), np.concatenate([none, *(other for _, other in found)])


def _pairs(ours: Short, theirs: Short, at_once: int) -> Iterator[tuple[Places, Places]]:
    """Fingerprints look random: a remainder of them cuts both sides into pieces of about one size."""
    pieces = np.uint32((len(ours) + len(theirs)) // at_once + 1)
    if pieces == 1:
        yield _matched(ours, theirs)
        return
    for piece in range(int(pieces)):
        mine, others = (np.flatnonzero(side[:, 2] % pieces == piece) for side in (ours, theirs))
        one, other = _matched(ours[mine], theirs[others])
        yield mine[one], others[other]


def _matched(ours: Short, theirs: Short) -> tuple[Places, Places]:
    """Both sides sorted as one list, ours first among equals: the n-th of ours belongs to the n-th of theirs."""
    both = np.concatenate([ours, theirs])
    order = np.lexsort((both[:, 2], both[:, 1], both[:, 0]))
    if not len(order):
        return order, order
    sorted_ = both[order]
    first = np.concatenate([[True], (sorted_[1:] != sorted_[:-1]).any(axis=1)])
    group, start = np.cumsum(first) - 1, np.flatnonzero(first)
    is_ours = order < len(ours)
    many_ours = np.bincount(group[is_ours], minlength=len(start))
    many_theirs = np.bincount(group[~is_ours], minlength=len(start))
    rank = np.arange(len(order)) - start[group] - np.where(is_ours, 0, many_ours[group])
    return order[is_ours & (rank < many_theirs[group])], order[~is_ours & (rank < many_ours[group])] - len(ours)


def left_over(ours: Short, theirs: Short) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which of ours, and which of theirs, have no equal on the other side."""
    alone = np.ones(len(ours), np.bool_), np.ones(len(theirs), np.bool_)
    for side, places in zip(alone, pairs(ours, theirs), strict=True):
        side[places] = False
    return alone
