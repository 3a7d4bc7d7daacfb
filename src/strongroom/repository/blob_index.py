"""Which pack holds which blob. An index object lists packs; the blob index of a repository is the union of all of them.

one pack: pack id 32 | pack salt 32 | size u64 | entries u32 | the pack's directory, little endian, one after another
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from strongroom.errors import Damaged
from strongroom.repository.packs import ENTRY, Blob, Pack, blobs_of, directory_of

_PACK = struct.Struct("<32s32sQI")


@dataclass(frozen=True, slots=True)
class Place:
    """A blob and the pack in which it lies."""

    pack: Pack
    blob: Blob


def encode(packs: Iterable[Pack]) -> bytes:
    """The plain bytes of an index object."""
    return b"".join(
        _PACK.pack(bytes.fromhex(pack.id), pack.salt, pack.size, len(pack.blobs)) + directory_of(pack.blobs) for pack in packs
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
        yield Pack(pack_id.hex(), salt, size, blobs_of(plain[offset:end]))
        offset = end


class BlobIndex:
    """Every known place of every blob. A blob may lie in several packs; each of them will do."""

    def __init__(self) -> None:
        self._places: dict[bytes, tuple[Place, ...]] = {}
        self.packs: dict[str, Pack] = {}

    def add(self, pack: Pack) -> None:
        if pack.id in self.packs:
            return
        self.packs[pack.id] = pack
        for blob in pack.blobs:
            self._places[blob.id] = (*self._places.get(blob.id, ()), Place(pack, blob))

    def places(self, blob_id: bytes) -> tuple[Place, ...]:
        """Where the blob lies; empty if nowhere."""
        return self._places.get(blob_id, ())

    def __len__(self) -> int:
        return len(self._places)
