"""Which packs are needed, for which of their blobs? Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from strongroom.repository.packs import Pack


@dataclass(frozen=True, slots=True)
class PackUse:
    """A pack, those of its blobs that are needed and that no other pack was chosen for, and the bytes of these and of the rest."""

    pack: Pack
    needed: tuple[bytes, ...]
    needed_bytes: int
    unused_bytes: int


def uses_of(packs: Iterable[Pack], needs: Collection[bytes]) -> list[PackUse]:
    """Each pack's use. A blob that lies in several packs counts for the one that holds the most that is needed, so that two prunes
    come to the same result."""
    packs = list(packs)
    blobs = {pack.id: pack.blobs for pack in packs}
    weight = {pack.id: sum(blob.stored for blob in blobs[pack.id] if blob.id in needs) for pack in packs}
    chosen: set[bytes] = set()
    uses = []
    for pack in sorted(packs, key=lambda pack: (-weight[pack.id], pack.id)):
        mine = [blob for blob in blobs[pack.id] if blob.id in needs and blob.id not in chosen]
        chosen.update(blob.id for blob in mine)
        used = sum(blob.stored for blob in mine)
        unused = sum(blob.stored for blob in blobs[pack.id]) - used
        uses.append(PackUse(pack, tuple(blob.id for blob in mine), used, unused))
    return uses
