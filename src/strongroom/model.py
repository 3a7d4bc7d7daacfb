"""The nouns: what a source holds, and what a snapshot of it is. Plain frozen data, no behaviour that needs I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

Json = Any
"""A value that the json module can write and read back unchanged."""

Bytes = bytes | bytearray | memoryview
"""Anything that holds plain bytes without a copy."""

ROLE = b"strongroom.role"
"""Key of the Arrow field metadata that says what a column of rows is; the value is one of `Role`."""


class Role(StrEnum):
    """What a column of rows means. Columns without a role are engine-specific and travel along as they are."""

    ID = "id"  # utf8 or int64, unique in the collection, never null
    VECTOR = "vector"  # fixed-size list of float32, float16, int8 or uint8; bfloat16 as fixed_size_binary(2 * dimension)
    DOCUMENT = "document"  # utf8, nullable
    URI = "uri"  # utf8, nullable
    PAYLOAD = "payload"  # utf8: one canonical JSON object (sorted keys, no spaces), nullable
    COLUMN = "column"  # any other Arrow column that the engine has as a column of its own


class Cut(StrEnum):
    """How a file of the index plane is cut into the pieces that are stored."""

    FORMAT = "by its format"  # vectors, links, codes and ids apart
    CONTENT = "by content"  # where its bytes say (codecs.chunks): it is of no known format
    BLOCKS = "in fixed blocks"  # of one length each


class Status(StrEnum):
    CAPTURED = "captured"
    NOT_OFFERED = "not offered by the engine"
    NOT_CAPTURED = "not captured"


INDEX_FILES = "index files"
"""The ledger item of an engine that gives no files out, 'not offered': its snapshots are restored from their rows."""


@dataclass(frozen=True, slots=True)
class LedgerItem:
    """One line of the completeness ledger: something that the engine has, and whether the snapshot has it too."""

    item: str
    status: Status
    note: str = ""


@dataclass(frozen=True, slots=True)
class Field:
    """One named vector of a collection. `dtype` is float32, float16, bfloat16, int8 or uint8; `metric` l2, ip or cosine.

    `index` holds the kind of the vector index and its parameters, as the engine names them. `decoded` is True where the
    engine keeps only a lossy code and the rows therefore hold its reconstruction.
    """

    name: str
    dtype: str
    dimension: int
    metric: str
    index: Mapping[str, Json] = field(default_factory=dict)
    decoded: bool = False


@dataclass(frozen=True, slots=True)
class Lineage:
    """Which encoder made the vectors. None where nobody said."""

    model: str | None = None
    version: str | None = None
    origin: str | None = None  # 'engine' or 'user'


@dataclass(frozen=True, slots=True)
class Collection:
    """One collection of a source. `name` is unique in the source; `catalog` is all that the engine keeps about it; `feed` is what
    the engine wants to be shown again when it is asked what changed since (`ChangeFeed.unchanged`), and means nothing to others."""

    name: str
    count: int
    fields: tuple[Field, ...]
    catalog: Mapping[str, Json] = field(default_factory=dict)
    lineage: Lineage = Lineage()
    feed: Json = None

    def vector_field(self, name: str) -> Field:
        return next(f for f in self.fields if f.name == name)


@dataclass(frozen=True, slots=True)
class Description:
    """The catalog plane of a source: engine, version, collections, whatever else the engine keeps, and the ledger."""

    engine: str
    engine_version: str
    collections: tuple[Collection, ...]
    catalog: Mapping[str, Json] = field(default_factory=dict)
    ledger: tuple[LedgerItem, ...] = ()
    _places: Mapping[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_places", {one.name: place for place, one in enumerate(self.collections)})

    def collection(self, name: str) -> Collection:
        return self.collections[self._places[name]]

    def has(self, name: str) -> bool:
        return name in self._places


@dataclass(frozen=True, slots=True)
class Position:
    """A place in an engine's change feed: a sequence number, a version, or a fingerprint of the files."""

    kind: str
    value: str


@dataclass(frozen=True, slots=True)
class Stretch:
    """Slots [first, first + count) of a storage order hold the very rows, all columns and which of them are dead, that slots
    [then, then + count) held at an earlier position."""

    first: int
    count: int
    then: int


@dataclass(frozen=True, slots=True)
class Until:
    """How far an engine shall go on by its own log: all that was committed up to a time (microseconds since 1970), or up to a place
    in the log; `text` is how it was asked for."""

    time: int | None
    place: int | None
    text: str


class FoundBy(StrEnum):
    """How a backup knew which rows of a collection had changed."""

    FEED = "change feed"  # the engine said which rows can't have changed; only the others were read
    FINGERPRINTS = "fingerprints"  # all rows were read and compared
    NOTHING = "nothing changed"  # the engine said so of all of its source
    ALL = "all rows are new"  # there was nothing to compare them with


@dataclass(frozen=True, slots=True)
class RowBlock:
    """A batch of rows in the order in which the engine stores them.

    `dead` marks slots (bool, one a row of `batch`) that the engine still stores and no longer shows; None means none. Keeping
    them lets a vector column be byte for byte a region of the index file, and therefore be stored once. In dead slots only
    the vector columns mean anything. `records` says what else lay where the vectors were read: then nobody reads that again.
    """

    batch: pa.RecordBatch
    dead: npt.NDArray[np.bool_] | None = None
    records: Records | None = None

    def live(self) -> pa.RecordBatch:
        """The rows that the engine shows."""
        if self.dead is None or not self.dead.any():
            return self.batch
        import pyarrow as pa  # here, since an engine's child process needs the nouns and not Arrow

        return self.batch.filter(pa.array(~self.dead))


@dataclass(frozen=True, slots=True)
class Copy:
    """`length` bytes at `place` of a region that are those from byte `offset` of vector column `column` of RowBlock `block`."""

    place: int
    length: int
    column: str
    block: int
    offset: int


@dataclass(frozen=True, slots=True)
class Region:
    """`length` bytes of an artifact from `offset`, all of one nature, so that they can be compressed well and stored once.

    `kind` is 'bytes' (anything), 'int32' or 'int64' (links, ids), or a vector dtype (float32, float16, bfloat16, int8, uint8).
    If `stride` is not 0 the region is `length / stride` records of `stride` bytes, each with a vector of dtype `kind` at
    `vector_offset`, `vector_length` bytes long; vectors and remainder are then stored apart.

    If `column` is given, the region is that vector column of the collection's RowBlock number `block`, byte for byte: it was
    read with the rows already and is not read again. With a stride, it is the vectors of its records that are that column; with a
    stride and `block` -1 they are some vectors of that field, nobody knows which. The collection is the artifact's; `collection`
    names it if that has none. If only parts of the region are vectors that were read with the rows, `copies` says which, in order
    and without overlap.

    `key` names the region among those of its file, the same in every later state of the file: what isn't vectors in it is then
    stored as its difference to the region of that key in the snapshot before, if that is smaller. So the same things should lie at
    the same offsets of regions of one key, in files that grow at the end of a list too.
    """

    offset: int
    length: int
    kind: str = "bytes"
    stride: int = 0
    vector_offset: int = 0
    vector_length: int = 0
    column: str = ""
    block: int = -1
    copies: tuple[Copy, ...] = ()
    key: str = ""
    collection: str = ""

    @property
    def geometry(self) -> tuple[int, int, int]:
        """How its records are cut: stride, where the vector begins, how long it is."""
        return self.stride, self.vector_offset, self.vector_length


@dataclass(frozen=True, slots=True)
class Records:
    """A strided region of the file at an artifact's `path`, from which a block of rows was read: what its records hold beside the
    vectors. It was proven that both make the region's bytes again."""

    path: str
    region: Region
    rest: Bytes


@dataclass(frozen=True, slots=True)
class Answers:
    """What an index answered to q queries: `ids[i]` the ids found for query i (int or str), best first, and their distances.

    `distances` are exactly what the engine returned, float32 or float64, compared bit for bit.
    """

    ids: tuple[tuple[int | str, ...], ...]
    distances: tuple[npt.NDArray[np.floating[Any]], ...]

    def __len__(self) -> int:
        return len(self.ids)


class Fidelity(StrEnum):
    """How an engine gives back the vectors that it is loaded with."""

    KEPT = "kept"  # bit for bit
    NORMALIZED = "normalized"  # the same direction, at unit length
    CODED = "coded"  # only as lossy codes


class Verdict(StrEnum):
    """What becomes of a part of a collection whose rows are loaded into an engine."""

    KEPT = "kept"  # it comes back of the same type, with the same values
    WIDENED = "widened"  # in another type, and no value is lost
    CHANGED = "changed"  # it comes back as something else
    LOST = "lost"  # it can't be had there


@dataclass(frozen=True, slots=True)
class Conversion:
    """One part of a collection: what it is in the snapshot, what it becomes where the rows are loaded, and what of it differs."""

    collection: str
    part: str
    was: str
    becomes: str
    verdict: Verdict
    note: str = ""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which collections to restore and under which names. An empty `collections` means all of them."""

    collections: tuple[str, ...] = ()
    renames: Mapping[str, str] = field(default_factory=dict)

    def wants(self, name: str) -> bool:
        return not self.collections or name in self.collections

    def target_name(self, name: str) -> str:
        return self.renames.get(name, name)

    def chosen(self, collections: Sequence[Collection]) -> tuple[Collection, ...]:
        return tuple(c for c in collections if self.wants(c.name))

    @property
    def everything(self) -> bool:
        return not self.collections and not self.renames
