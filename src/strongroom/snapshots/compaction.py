"""Which segments and blocks of vectors does a backup write anew, so that a long line of snapshots stays quick to restore? Pure.

What is mostly dead is given up, and its living rows are written again. Small ones are merged as in a log-structured merge tree
(O'Neil et al. 1996, size-tiered): as soon as there are many of about one size they become one of the next size, so that n rows
written a few at a time are rewritten about log(n) times and lie in few segments at any moment. Rows are taken from the source,
which is read anyway: nothing is fetched for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BUDGET_BYTES = 64 << 20
"""How much one backup may write only to tidy up."""

FEW = 8
"""So many of about one size may lie there; one more, and they are merged."""

_GROWTH = 4
_MOSTLY = 0.5


@dataclass(frozen=True, slots=True)
class Piece:
    """A segment or a block: its first number, how many rows or vectors it has, how many of them are in use, and bytes of each."""

    start: int
    count: int
    used: int
    width: int

    @property
    def cost(self) -> int:
        """Bytes that are written if it is given up."""
        return self.used * self.width


def retired(pieces: Sequence[Piece], budget: int = BUDGET_BYTES) -> frozenset[int]:
    """The first numbers of the pieces to give up, the cheapest for what they free first. Pieces a quarter as long as the longest
    are merged with no others: gathered rows make pieces of half a block of the source's, and those are half dead by then."""
    full = max((piece.count for piece in pieces), default=0)
    chosen: dict[int, Piece] = {}
    left = budget
    for piece in sorted(pieces, key=lambda one: (one.used / max(1, one.count), one.start)):
        if piece.used < _MOSTLY * piece.count and piece.cost <= left:
            chosen[piece.start] = piece
            left -= piece.cost
    for tier in _tiers([piece for piece in pieces if piece.start not in chosen and piece.used < full // 4]):
        cost = sum(piece.cost for piece in tier)
        if len(tier) > FEW and cost <= left:
            chosen.update((piece.start, piece) for piece in tier)
            left -= cost
    return frozenset(chosen)


def _tiers(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Pieces of about one size together, the smallest ones first."""
    tiers: dict[int, list[Piece]] = {}
    for piece in pieces:
        size, tier = max(1, piece.used), 0
        while size >= _GROWTH:
            size, tier = size // _GROWTH, tier + 1
        tiers.setdefault(tier, []).append(piece)
    return [tiers[tier] for tier in sorted(tiers)]
