"""What does a test of stored rows need? Blocks of rows of any columns, and a place for blobs."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from blake3 import blake3
from hypothesis import strategies as st

from strongroom.codecs import KINDS
from strongroom.model import ROLE, Collection, Field, Role, RowBlock
from strongroom.snapshots.fingerprints import Fingerprinter
from strongroom.snapshots.known import KnownWriter
from strongroom.snapshots.manifest import StoredCollection, encode_schema
from strongroom.snapshots.rows_writer import RowsWriter

KEY = bytes(range(32))
FINGERPRINTER = Fingerprinter(KEY)
texts = st.text(max_size=12)
floats = st.floats(allow_nan=False)
maybe = st.one_of(st.none(), texts)
dtypes = st.sampled_from(["float32", "float16", "bfloat16", "int8", "uint8"])


def identify(content) -> bytes:
    """The keyed hash that names a blob."""
    return blake3(content, key=KEY).digest()


WIDTHS = {"float32": 4, "float16": 2, "int8": 1, "uint8": 1, "bfloat16": 2}
ids = {pa.string(): texts, pa.int64(): st.integers(-(2**63), 2**63 - 1)}
others = {
    pa.bool_(): st.booleans(),
    pa.binary(): st.binary(max_size=9),
    pa.list_(pa.int16()): st.lists(st.none() | st.integers(-5, 5), max_size=3),
    pa.struct([("a", pa.string()), ("b", pa.float64())]): st.fixed_dictionaries({"a": maybe, "b": floats}),
    pa.dictionary(pa.int8(), pa.string()): st.sampled_from(["red", "green", ""]),
    pa.timestamp("us", "UTC"): st.integers(0, 2**50),
}


class Numbers(pa.ExtensionType):
    """A vector under a name of its own, as Lance has for bfloat16."""

    def __init__(self, storage: pa.DataType) -> None:
        super().__init__(storage, "strongroom.test.numbers")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: pa.DataType, serialized: bytes) -> Numbers:
        return cls(storage)


@dataclass
class Blobs:
    """Where blobs go instead of into packs."""

    kept: dict[bytes, bytes] = field(default_factory=dict)

    def submit(self, content, kind: str) -> Future[bytes]:
        assert kind in KINDS
        future: Future[bytes] = Future()
        name = identify(content)
        self.kept[name] = bytes(content)
        future.set_result(name)
        return future

    def read(self, name: bytes) -> bytes:
        return self.kept[name]

    def has(self, name: str) -> bool:
        return bytes.fromhex(name) in self.kept


def vector_type(dtype: str, dimension: int, *, extension: bool) -> pa.DataType:
    bare = pa.binary(2 * dimension) if dtype == "bfloat16" else pa.list_(pa.from_numpy_dtype(np.dtype(dtype)), dimension)
    return Numbers(bare) if extension else bare


def vector_column(contents: list[bytes | None], kind: pa.DataType, width: int) -> pa.Array:
    """Vectors of just these bytes; 0xEE lies beneath the nulls."""
    data = pa.py_buffer(b"".join(b"\xee" * width if one is None else one for one in contents))
    valid = None
    if None in contents:
        valid = pa.py_buffer(np.packbits([one is not None for one in contents], bitorder="little").tobytes())
    storage = kind.storage_type if isinstance(kind, pa.ExtensionType) else kind
    if pa.types.is_fixed_size_binary(storage):
        return pa.Array.from_buffers(storage, len(contents), [valid, data])
    values = pa.Array.from_buffers(storage.value_type, len(contents) * storage.list_size, [None, data])
    column = pa.Array.from_buffers(storage, len(contents), [valid], children=[values])
    return pa.ExtensionArray.from_storage(kind, column) if isinstance(kind, pa.ExtensionType) else column


def bytes_of(column: pa.Array, width: int) -> list[bytes | None]:
    """The bare bytes of each vector."""
    storage = column.storage if isinstance(column, pa.ExtensionArray) else column
    if pa.types.is_fixed_size_binary(storage.type):
        return storage.to_pylist()
    data = (storage.values.view(f"uint{8 * width // storage.type.list_size}").to_numpy() if len(storage) else np.zeros(0)).tobytes()
    starts = range(storage.offset * width, (storage.offset + len(storage)) * width, width)
    return [data[start : start + width] if valid.as_py() else None for start, valid in zip(starts, storage.is_valid(), strict=True)]


def column_field(name: str, kind: pa.DataType, role: Role) -> pa.Field:
    return pa.field(name, kind, metadata={ROLE: role.value.encode()})


@dataclass
class Rows:
    """A block, its vector fields, and the bytes that its vectors were made of."""

    block: RowBlock
    fields: tuple[Field, ...]
    vectors: dict[str, list[bytes | None]]

    def width(self, name: str) -> int:
        return next(WIDTHS[field.dtype] * field.dimension for field in self.fields if field.name == name)


@st.composite
def blocks(draw, min_rows: int = 0, null_vectors: bool = True) -> Rows:
    """A slice of a larger block, of any columns."""
    rows = draw(st.integers(min_rows, 20))
    before, after = draw(st.integers(0, 3)), draw(st.integers(0, 3))
    total = before + rows + after

    def several(one: st.SearchStrategy) -> list:
        return draw(st.lists(one, min_size=total, max_size=total))

    def column(name: str, kinds: dict, role: Role, null: bool = True) -> tuple[pa.Field, pa.Array]:
        kind = draw(st.sampled_from(list(kinds)))
        values = several(st.one_of(st.none(), kinds[kind]) if null else kinds[kind])
        return column_field(name, kind, role), pa.array(values, kind)

    columns = [column("id", ids, Role.ID, null=False), column("text", {pa.string(): texts}, Role.DOCUMENT)]
    columns += [column(f"other {n}", others, Role.COLUMN) for n in range(draw(st.integers(0, 2)))]
    fields, vectors = [], {}
    for number in range(draw(st.integers(0 if not min_rows else 1, 2))):
        field = Field(f"vector {number}", draw(dtypes), draw(st.integers(1, 9)), "l2")
        width = WIDTHS[field.dtype] * field.dimension
        kind = vector_type(field.dtype, field.dimension, extension=draw(st.booleans()))
        one = st.binary(min_size=width, max_size=width)
        contents = several(st.none() | one if null_vectors and draw(st.booleans()) else one)
        columns.append((column_field(field.name, kind, Role.VECTOR), vector_column(contents, kind, width)))
        fields.append(field)
        vectors[field.name] = contents[before : before + rows]
    columns = draw(st.permutations(columns))
    batch = pa.record_batch([values for _, values in columns], schema=pa.schema([field for field, _ in columns]))
    dead = np.array(draw(st.lists(st.booleans(), min_size=rows, max_size=rows)), bool) if draw(st.booleans()) else None
    return Rows(RowBlock(batch.slice(before, rows), dead), tuple(fields), vectors)


def write(rows: Rows) -> tuple[StoredCollection, Blobs]:
    """A collection of one block, as the first snapshot of it stores it."""
    blobs, batch = Blobs(), rows.block.batch
    catalog = Collection("x", rows.block.live().num_rows, rows.fields)
    table = KnownWriter(None, [one.name for one in rows.fields], complete=True)
    writer = RowsWriter(catalog, FINGERPRINTER, blobs.submit, identify, table)
    writer.add(rows.block, FINGERPRINTER.prints(batch))
    writer.end_of_rows()
    done = writer.finish()()
    return StoredCollection(
        catalog, encode_schema(batch.schema), "0" * 64, done.segments, (), done.vectors, done.order, done.slots
    ), blobs
