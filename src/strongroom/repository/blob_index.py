"""Which pack holds which blob. An index object lists packs; the blob index of a repository is the union of all of them.

one pack: pack id 32 | pack salt 32 | size u64 | entries u32 | the pack's directory, little endian, one after another

In memory a blob costs 57 bytes: its entry in the pack's directory and 16 of a sorted table.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from strongroom.errors import Damaged
from strongroom.repository.packs import ENTRIES, ENTRY, ID_BYTES, Blob, Pack

_PACK = struct.Struct("<32s32sQI")


@dataclass(frozen=True, slots=True)
class Place:
    """A blob and the pack in which it lies."""

    pack: Pack
    blob: Blob


def encode(packs: Iterable[Pack]) -> bytes:
    """The plain bytes of an index object."""
    return b"".join(
        _PACK.pack(bytes.fromhex(pack.id), pack.salt, pack.size, len(pack.directory) // ENTRY.size) + pack.directory
        for pack in packs
    )


def decode(name: str, plain: bytes) -> Iterator[Pack]:
    """The packs that an index object lists. Raises Damaged if its lengths don't add up."""
    offset = 0
    while offset < len(plain):
        if len(plain) - offset < _PACK.size:
            raise Damaged(name, "it ends in the middle of a pack")
        pack_id, salt, size, count = _PACK.unpack_from(plain, offset)
        offset += _PACK.size
        end = offset + count * ENTRY.size
        if end > len(plain):
            raise Damaged(name, "it ends in the middle of a pack")
        yield Pack(pack_id.hex(), salt, size, plain[offset:end])
        offset = end


@dataclass(frozen=True, slots=True)
class _Table:
    """Entries in order of `head`, the first 8 bytes of a blob's id: in which pack, by its number here, and which blob of it."""

    head: npt.NDArray[np.uint64]
    pack: npt.NDArray[np.uint32]
    number: npt.NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.head)

    @classmethod
    def of(cls, packs: Sequence[Pack], first: int) -> _Table:
        """The blobs of packs, which have the numbers from `first` on."""
        entries = np.frombuffer(b"".join(pack.directory for pack in packs), ENTRIES)
        counts = np.array([pack.count for pack in packs])
        places = np.arange(len(entries)) - np.repeat(np.cumsum(counts) - counts, counts)
        packs_of = np.repeat(np.arange(first, first + len(packs), dtype=np.uint32), counts)
        return cls(entries["head"].astype(np.uint64), packs_of, places.astype(np.uint32))._sorted()

    def merged(self, later: _Table) -> _Table:
        """Of equal ids the earlier packs stay first."""
        head, pack = np.concatenate((self.head, later.head)), np.concatenate((self.pack, later.pack))
        return _Table(head, pack, np.concatenate((self.number, later.number)))._sorted()

    def _sorted(self) -> _Table:
        order = np.argsort(self.head, kind="stable")
        return _Table(self.head[order], self.pack[order], self.number[order])

    def find(self, head: np.uint64) -> Iterator[tuple[int, int]]:
        """Pack and blob number of each entry that begins so."""
        for at in range(int(self.head.searchsorted(head)), len(self.head)):
            if self.head[at] != head:
                return
            yield int(self.pack[at]), int(self.number[at])


class BlobIndex:
    """Every known place of every blob. A blob may lie in several packs; each of them will do. Any thread, several at once."""

    def __init__(self) -> None:
        self.packs: dict[str, Pack] = {}
        self._numbered: list[Pack | None] = []
        self._tables: tuple[_Table, ...] = ()
        self._new: list[Pack] = []
        self._lock = threading.Lock()

    def add(self, pack: Pack) -> None:
        with self._lock:
            if pack.id not in self.packs:
                self.packs[pack.id] = pack
                self._new.append(pack)

    def replace(self, pack: Pack) -> None:
        """Another word about a pack that is known counts."""
        with self._lock:
            self._numbered = [None if one is not None and one.id == pack.id else one for one in self._numbered]
            self._new = [one for one in self._new if one.id != pack.id] + [pack]
            self.packs[pack.id] = pack

    def places(self, blob_id: bytes) -> tuple[Place, ...]:
        """Where the blob lies, first added first; empty if nowhere."""
        return tuple(Place(pack, pack.blob(number)) for pack, number in self._find(blob_id))

    def __contains__(self, blob_id: bytes) -> bool:
        return any(True for _ in self._find(blob_id))

    def __len__(self) -> int:
        """How many different blobs there are; takes time and memory for all of their ids."""
        return len({blob_id for pack in list(self.packs.values()) for blob_id, *_ in ENTRY.iter_unpack(pack.directory)})

    def only(self, packs: Container[str]) -> BlobIndex:
        """An index of those of its packs, with the same tables, which are not copied."""
        self._settle()
        chosen = BlobIndex()
        with self._lock:
            chosen._tables = self._tables
            chosen._numbered = [pack if pack is not None and pack.id in packs else None for pack in self._numbered]
        chosen.packs = {pack.id: pack for pack in chosen._numbered if pack is not None}
        return chosen

    def _find(self, blob_id: bytes) -> Iterator[tuple[Pack, int]]:
        if self._new:
            self._settle()
        head = np.uint64(int.from_bytes(blob_id[:8], "big"))
        for table in self._tables:
            for place, number in table.find(head):
                pack = self._numbered[place]
                at = number * ENTRY.size
                if pack is not None and pack.directory[at : at + ID_BYTES] == blob_id:
                    yield pack, number

    def _settle(self) -> None:
        """Make a table of the packs that were added, and merge while a table isn't twice as long as the next: so there are few, and
        an entry is moved seldom."""
        with self._lock:
            if not self._new:
                return
            table = _Table.of(self._new, len(self._numbered))
            self._numbered.extend(self._new)
            tables = list(self._tables)
            while tables and len(tables[-1]) < 2 * len(table):
                table = tables.pop().merged(table)
            self._tables = (*tables, table)
            self._new = []  # last: who finds it empty relies on the tables
