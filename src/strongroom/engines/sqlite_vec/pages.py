"""Where in an sqlite file do the vectors of a vec0 table lie? Pure, but for `read`.

A chunk's vectors are one blob, and of a long blob all but the beginning lies in a chain of overflow pages: the number of the next
page (4 bytes), then what goes on. So most pages of such a file are bytes of a vector column, which are stored with the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from strongroom.engines.protocol import rows_per_block
from strongroom.engines.regions import fixed_blocks
from strongroom.engines.sqlite_vec.definition import Column, Kind, Table
from strongroom.errors import Unreadable
from strongroom.model import Copy, Region

Read = Callable[[int, int], bytes]

_LEAF, _INTERIOR = 13, 5
_NEXT = 4
_BLOCK = 1 << 20
"""Of pages that hold no vectors: so that a change in one of them stores little."""
_STRETCH = 4 << 20
_NUMBER_BYTES = (0, 1, 2, 3, 4, 6, 8, 8, 0, 0)
"""Of a record's column, by its serial type."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A vec0 table, where the trees of its vector columns begin, in their order, and its chunks: number and slots."""

    table: Table
    roots: tuple[int, ...]
    chunks: Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class _Run:
    """`count` pages on end from `page` hold the bytes from `offset` of a column of the table's slots, `total` of them."""

    page: int
    count: int
    offset: int
    total: int
    table: Table
    column: Column


class Pages:
    """The pages of a database file."""

    def __init__(self, read: Read, size: int) -> None:
        head = read(0, 100)
        self._read = read
        self._page = int.from_bytes(head[16:18], "big")
        self._page = 1 << 16 if self._page == 1 else self._page
        self._usable = self._page - head[20]
        self._size = size

    def regions(self, tables: Sequence[Placed]) -> Iterator[Region]:
        """The whole file; pages of vectors say which columns of which row blocks they are."""
        end = 0
        runs = sorted((run for table in tables for run in self._runs(table)), key=lambda run: run.page)
        pieces = [piece for run in runs for piece in self._pieces(run)]
        for start, stop, group in _together(pieces):
            yield from self._others(end, start)
            copies = tuple(copy for run in group for copy in self._copies(run, start))
            yield Region(start, stop - start, copies=copies, collection=group[0].table.name)
            end = stop
        yield from self._others(end, self._size)

    def _others(self, start: int, stop: int) -> Iterator[Region]:
        while start < stop:
            end = min(stop, (start // _BLOCK + 1) * _BLOCK)
            yield from fixed_blocks(f"from {start}", start, end)
            start = end

    def _pieces(self, run: _Run) -> Iterator[tuple[int, int, _Run]]:
        """A run cut into pieces of at most _STRETCH bytes: from where to where in the file."""
        most, each = _STRETCH // self._page, self._usable - _NEXT
        for done in range(0, run.count, most):
            count = min(most, run.count - done)
            start = (run.page + done - 1) * self._page
            piece = _Run(run.page + done, count, run.offset + done * each, run.total - done * each, run.table, run.column)
            yield start, start + count * self._page, piece

    def _copies(self, run: _Run, start: int) -> Iterator[Copy]:
        each = self._usable - _NEXT
        block = rows_per_block(run.table.row_bytes) * run.column.width
        for number in range(run.count):
            place = (run.page + number - 1) * self._page + _NEXT - start
            done, length = number * each, min(each, run.total - number * each)
            while length > 0:
                at, within = divmod(run.offset + done, block)
                part = min(length, block - within)
                yield Copy(place, part, run.column.name, at, within)
                place, done, length = place + part, done + part, length - part

    def _runs(self, placed: Placed) -> Iterator[_Run]:
        first, slots = {}, 0
        for number, size in placed.chunks:
            first[number] = slots, size
            slots += size
        for column, root in zip(placed.table.of(Kind.VECTOR), placed.roots, strict=True):
            for number, page, skipped, total in self._chained(root):
                if number in first and first[number][1] * column.width == total:
                    yield from self._chain(page, first[number][0] * column.width + skipped, total - skipped, placed.table, column)

    def _chain(self, page: int, offset: int, length: int, table: Table, column: Column) -> Iterator[_Run]:
        """The pages of a chain, those on end together."""
        each = self._usable - _NEXT
        begin, count = page, 0
        while length > count * each:
            if not 0 < begin + count <= self._size // self._page:
                raise Unreadable(f"the database is damaged: the pages of a chunk of {table.name} end too early")
            following = int.from_bytes(self._read((begin + count - 1) * self._page, _NEXT), "big")
            count += 1
            if following != begin + count or length <= count * each:
                yield _Run(begin, count, offset, min(length, count * each), table, column)
                offset, length, begin, count = offset + count * each, length - count * each, following, 0

    def _chained(self, root: int) -> Iterator[tuple[int, int, int, int]]:
        """Of each row of a tree that has overflow pages: its number, the first of these pages, how much of the blob, its last
        column, lies before them, and how long that is. Raises Unreadable."""
        waiting, seen = [root], 0
        while waiting:
            number, seen = waiting.pop(), seen + 1
            if not 0 < number <= self._size // self._page or seen > self._size // self._page:
                raise Unreadable(f"the database is damaged: it has no page {number} where one should be")
            page = self._read((number - 1) * self._page, self._page)
            cells = int.from_bytes(page[3:5], "big")
            pointers = 12 if page[0] == _INTERIOR else 8
            places = [int.from_bytes(page[at : at + 2], "big") for at in range(pointers, pointers + 2 * cells, 2)]
            if page[0] == _INTERIOR:
                waiting += [int.from_bytes(page[at : at + 4], "big") for at in places] + [int.from_bytes(page[8:12], "big")]
            elif page[0] == _LEAF:
                yield from (found for at in places if (found := self._cell(page, at)) is not None)
            else:
                raise Unreadable(f"the database is damaged: page {number} belongs to no table")

    def _cell(self, page: bytes, at: int) -> tuple[int, int, int, int] | None:
        payload, at = _varint(page, at)
        number, at = _varint(page, at)
        if payload <= self._usable - 35:
            return None
        least = (self._usable - 12) * 32 // 255 - 23
        local = least + (payload - least) % (self._usable - 4)
        local = local if local <= self._usable - 35 else least
        header, place = _varint(page, at)
        kinds = []
        while place < at + header:
            kind, place = _varint(page, place)
            kinds.append(kind)
        before = header + sum(_NUMBER_BYTES[kind] for kind in kinds[:-1] if kind < len(_NUMBER_BYTES))
        return number, int.from_bytes(page[at + local : at + local + 4], "big"), local - before, payload - before


def _together(pieces: Sequence[tuple[int, int, _Run]]) -> Iterator[tuple[int, int, list[_Run]]]:
    """Pieces of one collection, one right after another, as long as they are no more than _STRETCH; from where to where."""
    group: list[_Run] = []
    start = stop = 0
    for begin, end, run in pieces:
        if group and (begin != stop or run.table is not group[0].table or end - start > _STRETCH):
            yield start, stop, group
            group = []
        start, stop = (start if group else begin), end
        group.append(run)
    if group:
        yield start, stop, group


def _varint(page: bytes, at: int) -> tuple[int, int]:
    """An integer of sqlite's variable length, signed, and where it ends."""
    value = 0
    for place in range(at, at + 8):
        value = value << 7 | page[place] & 0x7F
        if page[place] < 0x80:
            return value, place + 1
    value = value << 8 | page[at + 8]
    return value - (1 << 64) if value >= 1 << 63 else value, at + 9
