"""Where in a FAISS index file its vectors, codes, links and ids lie, and how the file is cut by that. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from strongroom.engines.protocol import BLOCK_BYTES, rows_per_block
from strongroom.engines.regions import fixed_blocks
from strongroom.model import Json, Region

_GROUP_BYTES = 512 << 10
"""About how many bytes of short inverted lists make one region. Of 200,000 PQ codes of 48 bytes in 4,096 lists 147 KB were
stored after 1 % of removals and of inserts by regions of 140 KB, 161 KB by 650 KB, and 1.1 MB by a list's codes or ids each."""

_LONG_LIST_BYTES = 128 << 10
"""From which mean length on codes and ids of a list are regions of their own, each compressed by what it is."""


@dataclass(frozen=True, slots=True)
class Span:
    """`length` bytes at `offset` holding elements of one kind; `record` bytes belong together and are never cut apart. `name` is
    unique in the file, and the same in every later state of the index."""

    offset: int
    length: int
    kind: str
    record: int = 1
    name: str = ""

    def regions(self) -> Iterator[Region]:
        record = max(1, self.record)
        step = rows_per_block(record) * record
        if self.kind in ("int32", "int64", "uint8"):  # small records: as many as fit, not as many as a block has rows
            step = max(1, BLOCK_BYTES // record) * record
        return fixed_blocks(self.name, self.offset, self.offset + self.length, step, self.kind)


@dataclass(frozen=True, slots=True)
class Lists:
    """Inverted lists: list i has `sizes[i]` codes of `code_size` bytes at `offsets[i]`, followed by as many int64 ids."""

    sizes: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    code_size: int
    kind: str
    name: str = "lists"

    @property
    def length(self) -> int:
        """Bytes of all lists, which lie one after another."""
        return int(self.sizes.sum()) * (self.code_size + 8)

    def ids_offset(self, number: int) -> int:
        return int(self.offsets[number]) + int(self.sizes[number]) * self.code_size

    def spans(self) -> Iterator[tuple[Span, Span]]:
        """Codes and ids of each list that isn't empty."""
        for number in np.flatnonzero(self.sizes).tolist():
            count, name = int(self.sizes[number]), f"{self.name} {number}"
            codes = Span(int(self.offsets[number]), count * self.code_size, self.kind, self.code_size, f"{name} codes")
            yield codes, Span(self.ids_offset(number), 8 * count, "int64", 8, f"{name} ids")

    def regions(self) -> Iterator[Region]:
        """Long lists as codes and ids. Short ones in groups, always of the same lists: what a list gains or loses shifts only the
        rest of its group."""
        mean = self.length // max(1, len(self.sizes))
        if mean >= _LONG_LIST_BYTES:
            for pair in self.spans():
                for span in pair:
                    yield from span.regions()
            return
        together = 1 << (max(1, _GROUP_BYTES // max(1, mean)).bit_length() - 1)
        begins = [*self.offsets[::together].tolist(), int(self.offsets[0]) + self.length]
        for number, (begin, end) in enumerate(pairwise(begins)):
            yield from fixed_blocks(f"{self.name} from {number * together}", begin, end)


@dataclass(frozen=True, slots=True)
class Layout:
    """What an index file holds and where. `spans` and `listed` are all typed parts of the file, however deep they are nested.

    `vectors` is the span of all vectors in order of position, `lists` the inverted lists that hold the rows; without lists
    rows are in order of position. `exact` says that the float32 vectors lie in one or the other as they were added.
    """

    size: int
    dimension: int
    count: int
    metric: str
    index: Mapping[str, Json]
    spans: tuple[Span, ...] = ()
    listed: tuple[Lists, ...] = ()
    vectors: Span | None = None
    lists: Lists | None = None
    id_map: Span | None = None

    @property
    def exact(self) -> bool:
        if self.lists is None:
            return self.vectors is not None
        return self.lists.kind == "float32" and "transforms" not in self.index

    def regions(self) -> Iterator[Region]:
        """The whole file as typed regions of at most BLOCK_BYTES; what no span covers is 'bytes'."""
        position = 0
        parts: list[tuple[int, Span | Lists]] = [(span.offset, span) for span in self.spans]
        parts += [(int(lists.offsets[0]), lists) for lists in self.listed if lists.sizes.any()]
        for offset, part in sorted(parts, key=lambda part: part[0]):
            yield from fixed_blocks(f"before {part.name}", position, offset)
            rows = self.vectors if self.lists is None else self.lists
            yield from self._rows(part) if part is rows and self.exact else part.regions()
            position = offset + part.length
        yield from fixed_blocks("end", position, self.size)

    def _rows(self, part: Span | Lists) -> Iterator[Region]:
        """The vectors cut as the rows are, so that a region is a block's column, and with lists the ids between."""
        block = 0
        for codes, ids in part.spans() if isinstance(part, Lists) else ((part, None),):
            for region in codes.regions():
                yield replace(region, column="vector", block=block, key="")
                block += 1
            if ids is not None:
                yield from ids.regions()
