"""Which packs go, and which should be written anew? Pure: no storage, no clock."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from strongroom.repository.pack_uses import PackUse
from strongroom.repository.packs import PACK_BYTES

_SMALL_BYTES = PACK_BYTES // 4
_MANY_SMALL = 64


@dataclass(frozen=True, slots=True)
class PackPlan:
    """Packs that nobody needs, packs to be written anew (their needed blobs are copied), and packs that stay as they are."""

    unneeded: tuple[PackUse, ...]
    rewritten: tuple[PackUse, ...]
    kept: tuple[PackUse, ...]

    @property
    def copied(self) -> tuple[bytes, ...]:
        """The blobs to be copied, pack by pack and in the order in which they lie there."""
        return tuple(blob for use in self.rewritten for blob in use.needed)


def plan_packs(uses: Iterable[PackUse], max_unused: float) -> PackPlan:
    """Packs are written anew, those with the greatest unused share first, until what is unused is at most `max_unused` (a share of
    the bytes that stay); and small packs are, if they fill a whole one or are many."""
    unneeded = [use for use in uses if not use.needed]
    used = sorted((use for use in uses if use.needed), key=_need_for_rewriting)
    small = [use for use in used if use.pack.size < _SMALL_BYTES]
    if sum(use.needed_bytes for use in small) < PACK_BYTES and len(small) < _MANY_SMALL:
        small = []
    rewritten = {use.pack.id: use for use in small}
    total = sum(use.pack.size for use in used)
    unused = sum(use.unused_bytes for use in used if use.pack.id not in rewritten)
    for use in used:
        if unused <= max_unused * total:
            break
        if use.pack.id not in rewritten and use.unused_bytes:
            rewritten[use.pack.id] = use
            unused -= use.unused_bytes
    kept = tuple(use for use in used if use.pack.id not in rewritten)
    return PackPlan(tuple(unneeded), tuple(rewritten.values()), kept)


def _need_for_rewriting(use: PackUse) -> tuple[float, str]:
    return use.needed_bytes / use.pack.size, use.pack.id
