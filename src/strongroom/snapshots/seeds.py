"""Which vectors of other collections may a new one use? Those that lie in the repository already, whatever engine they came from.

The same embeddings in several engines are stored once: blocks of vectors are shared, in whatever order each engine has them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from strongroom.codecs.runs import NONE, Numbers
from strongroom.model import Bytes, Field
from strongroom.snapshots.fingerprints import Short
from strongroom.snapshots.known import Lookup, read_prints
from strongroom.snapshots.manifest import Block, StoredCollection

MOST_VECTORS = 8_000_000
"""So many vectors of others are looked at: 30 bytes of memory each."""

Adopt = Callable[[str, Block], int]
"""Takes a block of another collection into a field; gives the number of its first vector there."""


class Seeds:
    """Blocks of other collections' vectors, by the field that they fit."""

    def __init__(
        self, blocks: Mapping[str, Sequence[Block]] | None = None, read_blob: Callable[[bytes], Bytes] | None = None
    ) -> None:
        self._blocks = {name: list(those) for name, those in (blocks or {}).items() if those}
        self._read_blob = read_blob
        self._lookups: dict[str, Lookup] = {}
        self._bases: dict[str, np.ndarray] = {}
        self._adopted: dict[tuple[str, int], int] = {}

    def has(self, name: str) -> bool:
        """Is there anything for this field?"""
        return name in self._blocks

    def find(self, name: str, prints: Short, adopt: Adopt) -> Numbers:
        """The numbers of these vectors, NONE for those that nobody has. Blocks in which one is found are taken in."""
        lookup = self._lookup(name)
        at = lookup.find(prints)
        found = np.full(len(prints), NONE, np.uint32)
        there = np.flatnonzero(at != NONE)
        bases = self._bases[name]
        blocks = np.searchsorted(bases, at[there], side="right") - 1
        for number in np.unique(blocks).tolist():
            chosen = there[blocks == number]
            if (name, number) not in self._adopted:
                self._adopted[name, number] = adopt(name, self._blocks[name][number])
            found[chosen] = self._adopted[name, number] + (at[chosen] - bases[number])
        return found

    def _lookup(self, name: str) -> Lookup:
        if name not in self._lookups:
            blocks = self._blocks[name]
            counts = np.array([block.count for block in blocks], np.int64)
            self._bases[name] = np.cumsum(counts) - counts
            prints = np.concatenate([self._prints(block) for block in blocks])
            self._lookups[name] = Lookup(prints, np.arange(len(prints), dtype=np.uint32))
        return self._lookups[name]

    def _prints(self, block: Block) -> Short:
        assert self._read_blob is not None  # noqa: S101 - who gives blocks gives this too
        return read_prints(block.prints, block.count, self._read_blob)


def seeds_of(
    fields: Sequence[Field],
    others: Sequence[StoredCollection],
    has: Callable[[str], bool],
    read_blob: Callable[[bytes], Bytes],
) -> Seeds:
    """What of `others` (the newest first) fits the fields of a new collection: blocks of the same dtype and dimension whose blobs
    are still there."""
    chosen: dict[str, list[Block]] = {}
    for field in fields:
        left = MOST_VECTORS
        blocks: dict[str, Block] = {}
        for other in others:
            for theirs in other.catalog.fields:
                if (theirs.dtype, theirs.dimension) != (field.dtype, field.dimension):
                    continue
                for block in other.vectors.get(theirs.name, ()):
                    usable = block.prints and all(map(has, block.blobs()))
                    if usable and block.blob not in blocks and block.count <= left:
                        blocks[block.blob] = block
                        left -= block.count
        chosen[field.name] = list(blocks.values())
    return Seeds(chosen, read_blob)
