"""Are these the same rows? Keyed fingerprints of rows, and one root over all rows of a collection. Pure; holds no rows.

A row's fingerprint is 16 bytes of PMAC (Black and Rogaway 2002) with AES-256: each 16-byte block of a value is masked by a
secret that depends on its place, encrypted, and all are summed by XOR. Unlike a chained or called-per-row hash that is one
pass of AES over a whole column, at memory speed; and whoever can choose rows can't make two collide without the key.

    column digest D_c = E(sum of E(block ^ mask[place in value]) ^ name of c and length of the value)     null: no digest
    row fingerprint   = E(sum over columns of E(D_c) ^ 1)
    bucket b          = sum mod 2^64 in each half of the fingerprints that begin with b (10 bits), and how many
    root              = keyed BLAKE3 of all buckets

Sums don't depend on the order of rows, so the same rows have the same root however they are stored, and a root can be brought
forward by adding and subtracting. A null is the same as a column that isn't there.

A vector by itself, whatever holds it, has a fingerprint of its bytes alone:

    vector fingerprint = E(sum of E(block ^ mask[place in value]) ^ "vector" and length)
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import zstandard
from blake3 import blake3

from strongroom.engines.python_values import values_of
from strongroom.model import ROLE, Bytes, Role
from strongroom.repository.crypto import block_cipher, derive

Words = npt.NDArray[np.uint64]
Octets = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]
Short = npt.NDArray[np.uint32]
BUCKETS = 1024
_CHUNK_BLOCKS = 1 << 13


@dataclass(frozen=True, slots=True)
class Values:
    """A column as bytes: the value of row i is `data[starts[i] : starts[i] + lengths[i]]`; `even` if its type has one width."""

    kind: str
    data: Octets
    starts: Places
    lengths: Places
    even: bool


@dataclass(frozen=True, slots=True)
class Prints:
    """The fingerprints of a batch: of its rows, shape (rows, 2), and of the vectors of its vector columns, likewise."""

    rows: Words
    vectors: Mapping[str, Words]


class Fingerprinter:
    """Fingerprints rows under one repository's key."""

    def __init__(self, key: bytes) -> None:
        self._key = derive(key, "pmac")
        self.root_key = derive(key, "root")
        self._masks = np.zeros((0, 2), np.uint64)
        self._names = functools.lru_cache(maxsize=4096)(self._name_of)

    def rows(self, batch: pa.RecordBatch) -> Words:
        """The fingerprints of the rows of a batch: shape (rows, 2). Columns are known by role, else by name."""
        return self.prints(batch).rows

    def prints(self, batch: pa.RecordBatch) -> Prints:
        """The fingerprints of the rows, and those of the vectors of each vector column without nulls, for one pass over them."""
        total, vectors = np.zeros((batch.num_rows, 2), np.uint64), dict[str, Words]()
        single = sum(role_of(field) == Role.VECTOR for field in batch.schema) == 1
        for field, column in zip(batch.schema, batch.columns, strict=True):
            values = _values_of(_bare(column))
            sums = self._sums(values)
            if role_of(field) == Role.VECTOR and not column.null_count and values.even:
                vectors[field.name] = self._of_vectors(sums, values.lengths)
            total ^= self._column(canonical_name(field, single_vector=single), column, values, sums)
        total[:, 0] ^= np.uint64(1)
        return Prints(self._encrypt(total), vectors)

    def digests(self, batch: pa.RecordBatch) -> dict[str, Words]:
        """For each column the digests of its values, (rows, 2): of equal values of one role (or name) the same, of nulls zero; of
        vectors their fingerprints."""
        found = dict[str, Words]()
        for field, column in zip(batch.schema, batch.columns, strict=True):
            values = _values_of(_bare(column))
            sums = self._sums(values)
            vectors = self._of_vectors(sums, values.lengths) if role_of(field) == Role.VECTOR and values.even else None
            found[field.name] = digests = self._column(canonical_name(field, single_vector=True), column, values, sums)
            if vectors is not None:
                gaps = _with_null_elements(_bare(column))
                plain = np.asarray(column.is_valid()) & (True if gaps is None else ~gaps)
                digests[plain] = vectors[plain]
        return found

    def vectors(self, content: Bytes, width: int) -> Words:
        """The fingerprints of vectors of `width` bytes that lie one after another: shape (vectors, 2)."""
        data = np.frombuffer(content, np.uint8)
        rows = len(data) // width
        return self._of_vectors(self._even(data, rows, width), np.full(rows, width, np.int64))

    def _of_vectors(self, sums: Words, lengths: Places) -> Words:
        named = sums ^ self._names("vector")
        named[:, 0] ^= lengths.astype(np.uint64)
        return self._encrypt(named)

    def _column(self, name: str, column: pa.Array, values: Values, sums: Words) -> Words:
        """E(D_c) for each row, zero where the value is null."""
        column = _bare(column)
        terms = self._terms(name, values, sums)
        gaps = _with_null_elements(column)
        if gaps is not None:
            odd = _as_json(column.filter(pa.array(gaps)))
            terms[gaps] = self._terms(name, odd, self._sums(odd))
        if column.null_count:
            terms[np.asarray(column.is_null())] = 0
        return terms

    def _terms(self, name: str, values: Values, sums: Words) -> Words:
        """E(D_c) of each value, also of those beneath nulls."""
        sums ^= self._names(f"{values.kind}:{name}")
        sums[:, 0] ^= values.lengths.astype(np.uint64)
        return self._encrypt(self._encrypt(sums))

    def _sums(self, values: Values) -> Words:
        """The type alone decides how a value is cut, never the batch that it happens to be in."""
        if not len(values.starts) or (values.even and not values.lengths[0]):
            return np.zeros((len(values.starts), 2), np.uint64)
        if values.even:
            return self._even(values.data, len(values.starts), int(values.lengths[0]))
        return self._ragged(values.data, values.starts, values.lengths)

    def _even(self, data: Octets, rows: int, width: int) -> Words:
        """Values of `width` bytes each, one after another; what doesn't fill whole blocks is padded as ragged values are. Pieces
        stay in a core's L2 cache."""
        blocks = -(-width // 16)
        masks = self._mask(blocks).reshape(1, blocks * 2)
        result = np.empty((rows, 2), np.uint64)
        step = max(1, _CHUNK_BLOCKS // blocks)
        room = np.empty((step, blocks * 2), np.uint64)
        coded = np.empty(step * blocks * 16 + 15, np.uint8)
        encrypt = block_cipher(self._key)
        for start in range(0, rows, step):
            count = min(step, rows - start)
            masked = _masked(data[start * width : (start + count) * width], masks, room[:count])
            encrypt(masked.data.cast("B"), coded.data)
            result[start : start + count] = _fold(coded[: masked.nbytes].view(np.uint64).reshape(count, blocks * 2))
        return result

    def _ragged(self, data: Octets, starts: Places, lengths: Places) -> Words:
        """Values of any lengths: each is padded by 0x80 and zeros to whole blocks."""
        padded = np.concatenate([data, np.zeros(16, np.uint8)])
        windows = np.lib.stride_tricks.as_strided(padded, shape=(len(data) + 1, 16), strides=(1, 1), writeable=False)
        counts = lengths // 16 + 1
        result = np.empty((len(starts), 2), np.uint64)
        ends = np.cumsum(counts)
        row = 0
        while row < len(starts):
            base = int(ends[row - 1]) if row else 0
            stop = max(row + 1, int(np.searchsorted(ends, base + 8 * _CHUNK_BLOCKS, side="right")))
            result[row:stop] = self._ragged_part(windows, starts[row:stop], lengths[row:stop], counts[row:stop])
            row = stop
        return result

    def _ragged_part(
        self,
        windows: Octets,
        starts: Places,
        lengths: Places,
        counts: Places,
    ) -> Words:
        firsts = np.cumsum(counts) - counts
        place = np.arange(int(counts.sum()), dtype=np.int64) - np.repeat(firsts, counts)
        at = np.minimum(np.repeat(starts, counts) + place * 16, len(windows) - 1)
        blocks = windows[at].view(np.uint64)
        last = firsts + counts - 1
        tails = lengths % 16
        blocks[last] = (blocks[last] & _KEEP[tails]) | _PAD[tails]
        blocks ^= self._mask(int(counts.max()))[place]
        return np.bitwise_xor.reduceat(self._encrypt(blocks), firsts, axis=0)

    def _encrypt(self, blocks: Words) -> Words:
        source = np.ascontiguousarray(blocks)
        room = np.empty(source.nbytes + 15, np.uint8)
        if source.nbytes:
            block_cipher(self._key)(source.data.cast("B"), room.data)
        return room[: source.nbytes].view(np.uint64).reshape(-1, 2)

    def _mask(self, blocks: int) -> Words:
        masks = self._masks  # another thread may put a shorter or longer one there at any time
        if len(masks) < blocks:
            counters = np.zeros((1 << (blocks - 1).bit_length(), 2), np.uint64)
            counters[:, 0] = np.arange(len(counters))
            counters[:, 1] = np.uint64(0x6D61736B)
            self._masks = masks = self._encrypt(counters)
        return masks[:blocks]

    def _name_of(self, name: str) -> Words:
        return np.frombuffer(blake3(name.encode(), key=self.root_key).digest(16), np.uint64)


class RowsRoot:
    """The root over all rows of a collection, gathered batch by batch. Memory: 24 KiB, whatever the number of rows, until it is
    settled."""

    def __init__(self, fingerprinter: Fingerprinter) -> None:
        self._fingerprinter = fingerprinter
        self._sums = np.zeros((BUCKETS, 2), np.uint64)
        self._counts = np.zeros(BUCKETS, np.int64)
        self._settled: tuple[int, str] | None = None

    @property
    def count(self) -> int:
        return self._settled[0] if self._settled else int(self._counts.sum())

    def settle(self) -> None:
        """No more rows follow: only their count and their digest are kept."""
        self._settled = self.count, self.digest()
        self._sums, self._counts = self._sums[:0].copy(), self._counts[:0].copy()

    def add(self, batch: pa.RecordBatch) -> None:
        """Count the rows of a batch in."""
        self.add_prints(self._fingerprinter.rows(batch))

    def add_prints(self, prints: Words) -> None:
        """Count rows in by their fingerprints, shape (rows, 2)."""
        buckets = (prints[:, 0] & np.uint64(BUCKETS - 1)).astype(np.intp)
        np.add.at(self._sums[:, 0], buckets, prints[:, 0])
        np.add.at(self._sums[:, 1], buckets, prints[:, 1])
        self._counts += np.bincount(buckets, minlength=BUCKETS)

    def add_root(self, other: bytes) -> None:
        """Count in the rows of another root (`encode`). Raises ValueError if that is none."""
        content = zstandard.ZstdDecompressor().decompress(other, max_output_size=24 * BUCKETS)
        if len(content) != 24 * BUCKETS:
            raise ValueError("the sums of a root have another length")
        self._sums += np.frombuffer(content, "<u8", 2 * BUCKETS).reshape(BUCKETS, 2)
        self._counts += np.frombuffer(content, "<i8", BUCKETS, 16 * BUCKETS)

    def encode(self) -> bytes:
        """All that there is of it, to be counted into another one. Not of a settled one."""
        assert self._settled is None  # noqa: S101 - the caller's own
        return zstandard.compress(self._sums.astype("<u8").tobytes() + self._counts.astype("<i8").tobytes())

    def digest(self) -> str:
        """The root, 64 hex digits."""
        if self._settled:
            return self._settled[1]
        content = self._sums.astype("<u8").tobytes() + self._counts.astype("<i8").tobytes()
        return blake3(content, key=self._fingerprinter.root_key).hexdigest()


def short(prints: Words) -> Short:
    """The first SHORT_BYTES of fingerprints, shape (rows, 3): enough to know a row or vector again, and less to keep. That two of a
    thousand million differ and look equal has a chance of 10^-11."""
    return np.ascontiguousarray(prints).view(np.uint32).reshape(-1, 4)[:, :3].copy()


SHORT_BYTES = 12


def role_of(field: pa.Field) -> Role | None:
    """What a column means, None if its field doesn't say."""
    value = (field.metadata or {}).get(ROLE)
    return Role(value.decode()) if value else None


def canonical_name(field: pa.Field, *, single_vector: bool) -> str:
    """The name that a column has in every engine: its role, where there can be only one of it."""
    role = role_of(field)
    if role in (Role.ID, Role.DOCUMENT, Role.URI, Role.PAYLOAD) or (role == Role.VECTOR and single_vector):
        return f"@{role.value}"
    return f"@vector {field.name}" if role == Role.VECTOR else field.name


_BYTES = np.arange(16)
_KEEP = np.where(_BYTES[None, :] < _BYTES[:, None], 0xFF, 0).astype(np.uint8).view(np.uint64)
_PAD = np.where(_BYTES[None, :] == _BYTES[:, None], 0x80, 0).astype(np.uint8).view(np.uint64)


def _masked(data: Octets, masks: Words, room: Words) -> Words:
    """The values of a column, padded to whole blocks and masked, in `room` (rows, words of a value)."""
    width = len(data) // len(room)
    if width % 16 == 0:
        return np.bitwise_xor(data.view(np.uint64).reshape(room.shape), masks, out=room)
    octets = room.view(np.uint8)
    octets[:, :width] = data.reshape(len(room), width)
    octets[:, width] = 0x80
    octets[:, width + 1 :] = 0
    return np.bitwise_xor(room, masks, out=room)


def _fold(words: Words) -> Words:
    """XOR of all blocks of each row: (rows, blocks * 2) to (rows, 2). Turned first, so that the loops are as long as the rows."""
    columns = np.ascontiguousarray(words.T).reshape(words.shape[1] // 2, -1)
    folded: Words = np.bitwise_xor.reduce(columns, axis=0).reshape(2, -1).T
    return folded


def _bare(column: pa.Array) -> pa.Array:
    """An extension type counts as its storage, a dictionary as its values."""
    if isinstance(column, pa.ExtensionArray):
        return _bare(column.storage)
    return _bare(column.dictionary_decode()) if pa.types.is_dictionary(column.type) else column


def _with_null_elements(column: pa.Array) -> npt.NDArray[np.bool_] | None:
    """The lists of numbers, themselves not null, that have no bare bytes because an element is null; None if there are none."""
    if not _is_plain_list(column.type) or not (elements := _elements(column)).null_count:
        return None
    gaps = np.asarray(elements.is_null()).reshape(len(column), -1).any(axis=1) & np.asarray(column.is_valid())
    return gaps if gaps.any() else None


def _elements(column: pa.FixedSizeListArray) -> pa.Array:
    """Those of all slots, null lists included."""
    width = column.type.list_size
    return column.values.slice(column.offset * width, len(column) * width)


def _values_of(column: pa.Array) -> Values:
    kind = column.type
    if pa.types.is_boolean(kind) or (pa.types.is_integer(kind) and not pa.types.is_uint64(kind)):
        return _fixed("int", column if pa.types.is_int64(kind) else column.cast(pa.int64()), len(column))
    if _is_plain_list(kind):
        return _fixed(f"list {kind.value_type}", _elements(column), len(column), kind.list_size)
    if _is_plain(kind):
        return _fixed(str(kind), column, len(column))
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _variable("text", column)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return _variable("bytes", column)
    return _as_json(column)


def _as_json(column: pa.Array) -> Values:
    texts = [None if value is None else json.dumps(value, sort_keys=True, default=repr) for value in values_of(column)]
    return _variable("nested", pa.array(texts, pa.large_string()))


def _is_plain(kind: pa.DataType) -> bool:
    """Values of a fixed number of whole bytes each."""
    return bool((pa.types.is_primitive(kind) and kind.bit_width % 8 == 0) or pa.types.is_fixed_size_binary(kind))


def _is_plain_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_list(kind) and _is_plain(kind.value_type))


def _fixed(kind: str, values: pa.Array, rows: int, per_row: int = 1) -> Values:
    each = values.type.bit_width // 8
    width = each * per_row
    buffer = values.buffers()[1]
    if buffer is None or not rows:
        data = np.zeros(rows * width, np.uint8)
    else:
        data = np.frombuffer(buffer, np.uint8)[values.offset * each : values.offset * each + rows * width]
    return Values(kind, data, np.arange(rows, dtype=np.int64) * width, np.full(rows, width, np.int64), even=True)


def _variable(kind: str, column: pa.Array) -> Values:
    large = pa.types.is_large_string(column.type) or pa.types.is_large_binary(column.type)
    _, offsets, content = column.buffers()
    rows = len(column)
    if offsets is None or not rows:
        return Values(kind, np.zeros(0, np.uint8), np.zeros(rows, np.int64), np.zeros(rows, np.int64), even=False)
    bounds = np.frombuffer(offsets, np.int64 if large else np.int32).astype(np.int64)[column.offset : column.offset + rows + 1]
    data = np.frombuffer(content, np.uint8) if content is not None and content.size else np.zeros(0, np.uint8)
    return Values(kind, data[int(bounds[0]) : int(bounds[-1])], bounds[:-1] - bounds[0], np.diff(bounds), even=False)


def row_key(column: pa.Array) -> pa.Array:
    """Ids as text, so that 7 and "7" are the same id in engines that know only one of the two."""
    return column if pa.types.is_string(column.type) else column.cast(pa.string())
