"""How blobs lie in a pack.

    header 6 | salt 32 | blob ciphertext and tag, one after another | directory ciphertext and tag | u32 directory length
    directory: entry of 41 bytes a blob, in order: id 32 | codec u8 | plain length u32 | stored length u32, little endian

A pack's key comes from its salt; blob i (from 0) has nonce i + 1 and the directory nonce 0, so no nonce meets a key twice.
Each blob is bound to its id, its codec and length, and to the repository. The directory repeats what the blob index says, so
that a lost index can be made again from the packs. A pack's name is the BLAKE3 of all of its bytes.
"""

from __future__ import annotations

import mmap
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from strongroom import codecs
from strongroom.errors import Damaged
from strongroom.model import Bytes
from strongroom.repository.crypto import SALT_BYTES, TAG_BYTES, NotAuthentic, content_hash
from strongroom.repository.framing import HEADER_BYTES, Kind, header, require_header, require_whole
from strongroom.repository.keys import Keys

ID_BYTES = 32
ENTRY = struct.Struct("<32sBII")
ENTRIES = np.dtype([("head", ">u8"), ("tail", "V24"), ("codec", "u1"), ("plain", "<u4"), ("stored", "<u4")])
"""The same entry for numpy: `head` are the first 8 bytes of the blob's id."""

PACK_BYTES = 16 << 20
"""A pack is closed when the next blob would take it past this size."""

Buffer = bytearray | mmap.mmap

_LENGTH = struct.Struct("<I")
_START = HEADER_BYTES + SALT_BYTES


@dataclass(frozen=True, slots=True)
class Blob:
    """Where a blob lies in a pack: `number` is its place among the pack's blobs, `stored` its length with the tag."""

    id: bytes
    codec: int
    plain: int
    offset: int
    stored: int
    number: int

    def binding(self, repository_id: bytes) -> bytes:
        return repository_id + self.id + struct.pack("<BI", self.codec, self.plain)


@dataclass(frozen=True, slots=True)
class Pack:
    """A finished pack: its id (64 hex digits), its salt, its length and its directory, which is 41 bytes a blob; `blobs` and `blob`
    read it when they are asked, since an index knows millions of blobs and needs few."""

    id: str
    salt: bytes
    size: int
    directory: bytes

    @property
    def name(self) -> str:
        return pack_name(self.id)

    @property
    def count(self) -> int:
        return len(self.directory) // ENTRY.size

    @property
    def blobs(self) -> tuple[Blob, ...]:
        return tuple(blobs_of(self.directory))

    def blob(self, number: int) -> Blob:
        """One blob, by its place among the pack's."""
        blob_id, codec, plain, stored = ENTRY.unpack_from(self.directory, number * ENTRY.size)
        before = np.frombuffer(self.directory, ENTRIES, number)["stored"].sum(dtype=np.uint64)
        return Blob(blob_id, codec, plain, _START + int(before), stored, number)


def pack_name(pack_id: str) -> str:
    return f"packs/{pack_id[:2]}/{pack_id}"


@dataclass(frozen=True, slots=True)
class CodedBlob:
    """A blob as its codec left it and not encrypted, so that it can go into another pack; `plain` is its plain length."""

    id: bytes
    codec: int
    plain: int
    payload: Bytes


class OpenPack:
    """A pack being filled by several threads: places are reserved in order, then encrypted side by side."""

    def __init__(self, keys: Keys, buffer: Buffer | None = None) -> None:
        """`buffer` is one that an earlier pack gave back: new pages cost as much as the encryption."""
        salt = keys.new_salt()
        self._salt = salt
        self._keys = keys
        self._box = keys.box(Kind.PACK.purpose, salt)
        self._buffer: Buffer = _room(PACK_BYTES) if buffer is None else buffer
        self._buffer[:_START] = header(Kind.PACK) + salt
        self._end = _START
        self._blobs: list[Blob] = []
        self._unfinished = 0
        self._idle = threading.Condition()

    def reserve(self, blob_id: bytes, codec: int, plain: int, payload: int) -> Blob | None:
        """A place for a blob of `payload` coded bytes, or None if this pack has no room. One thread at a time."""
        stored = payload + TAG_BYTES
        tail = (len(self._blobs) + 1) * ENTRY.size + TAG_BYTES + _LENGTH.size
        if self._blobs and self._end + stored + tail > len(self._buffer):
            return None
        if self._end + stored + tail > len(self._buffer):
            larger = _room(self._end + stored + tail)
            larger[:_START] = self._buffer[:_START]
            self._buffer = larger
        blob = Blob(blob_id, codec, plain, self._end, stored, len(self._blobs))
        self._blobs.append(blob)
        self._end += stored
        with self._idle:
            self._unfinished += 1
        return blob

    def fill(self, blob: Blob, payload: Bytes) -> None:
        """Encrypt a blob into its reserved place. Any thread, several at once."""
        try:
            place = memoryview(self._buffer)[blob.offset : blob.offset + blob.stored]
            self._box.seal_into(blob.number + 1, payload, blob.binding(self._keys.repository_id), place)
            place.release()
        finally:
            with self._idle:
                self._unfinished -= 1
                self._idle.notify_all()

    @property
    def buffer(self) -> Buffer:
        """The buffer, for another pack, once this one's bytes are stored."""
        return self._buffer

    def finish(self) -> tuple[Pack, memoryview]:
        """Wait for every reserved blob, add the directory, and give the pack and its bytes."""
        with self._idle:
            self._idle.wait_for(lambda: self._unfinished == 0)
        bound = header(Kind.PACK) + self._keys.repository_id
        plain = directory_of(self._blobs)
        directory = self._box.seal(0, plain, bound)
        tail = directory + _LENGTH.pack(len(directory))
        self._buffer[self._end : self._end + len(tail)] = tail
        content = memoryview(self._buffer)[: self._end + len(tail)]
        return Pack(content_hash(content).hex(), self._salt, len(content), plain), content


def _room(size: int) -> mmap.mmap:
    """What isn't written of it takes no memory, and it goes back to the system when it is let go of."""
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def directory_of(blobs: Iterable[Blob]) -> bytes:
    """The directory's plain bytes."""
    return b"".join(ENTRY.pack(blob.id, blob.codec, blob.plain, blob.stored) for blob in blobs)


def blobs_of(directory: Bytes) -> Iterator[Blob]:
    """The inverse of `directory_of`: offsets and numbers follow from the order."""
    offset = _START
    for number, (blob_id, codec, plain, stored) in enumerate(ENTRY.iter_unpack(directory)):
        yield Blob(blob_id, codec, plain, offset, stored, number)
        offset += stored


class PackReader:
    """Opens blobs of one pack. Any thread, several at once."""

    def __init__(self, keys: Keys, pack_id: str, salt: bytes) -> None:
        self._keys = keys
        self._name = pack_name(pack_id)
        self._box = keys.box(Kind.PACK.purpose, salt)

    def open(self, blob: Blob, sealed: Bytes) -> Bytes:
        """The plain bytes of a blob: decrypted, decoded, and its id checked. Raises Damaged."""
        return self.coded(blob, sealed)[1]

    def coded(self, blob: Blob, sealed: Bytes) -> tuple[CodedBlob, Bytes]:
        """As `open`, with what its codec made of the bytes before them."""
        subject = f"{self._name}, blob {blob.id.hex()[:16]}"
        if len(sealed) != blob.stored:
            raise Damaged(subject, f"truncated: {len(sealed)} of {blob.stored} bytes are there")
        try:
            payload = self._box.open(blob.number + 1, sealed, blob.binding(self._keys.repository_id))
            plain = codecs.decode(blob.codec, payload, blob.plain)
        except NotAuthentic as error:
            raise Damaged(subject, "altered or swapped: it doesn't decrypt") from error
        except codecs.CodecError as error:
            raise Damaged(subject, f"it doesn't decode ({error})") from error
        if self._keys.identify(plain) != blob.id:
            raise Damaged(subject, "its content is not what its id says")
        return CodedBlob(blob.id, blob.codec, blob.plain, payload), plain


def read_pack(keys: Keys, name: str, content: bytes) -> Pack:
    """What a whole pack holds, by its own directory; its bytes are checked against its name. Raises Damaged."""
    require_whole(name, content)
    return read_directory(keys, name, len(content), lambda offset, length: content[offset : offset + length])


def read_directory(keys: Keys, name: str, size: int, read: Callable[[int, int], bytes]) -> Pack:
    """What a pack of `size` bytes holds, by its own directory; `read(offset, length)` gives its bytes. Raises Damaged."""
    if size < _START + TAG_BYTES + _LENGTH.size:
        raise Damaged(name, "it is too short for a pack")
    front = read(0, _START + TAG_BYTES)
    start, salt = require_header(name, Kind.PACK, front), front[HEADER_BYTES:_START]
    end = read(size - _LENGTH.size, _LENGTH.size)
    if len(end) < _LENGTH.size:
        raise Damaged(name, f"it was listed with {size:,} bytes and is shorter")
    (length,) = _LENGTH.unpack(end)
    at = max(_START, size - _LENGTH.size - length)
    try:
        directory = keys.box(Kind.PACK.purpose, salt).open(0, read(at, size - _LENGTH.size - at), start + keys.repository_id)
    except NotAuthentic as error:
        raise Damaged(name, str(error) or "its directory was not written with this repository's key") from error
    if len(directory) % ENTRY.size:
        raise Damaged(name, "its directory ends in the middle of an entry")
    return Pack(name.rpartition("/")[2], salt, size, directory)
