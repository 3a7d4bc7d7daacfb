"""Do manifests and segments survive encoding, and is garbage always reported as damage?"""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pytest
import zstandard
from blake3 import blake3
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from strongroom.errors import Damaged
from strongroom.model import ROLE, Collection, Field, LedgerItem, Lineage, Position, Role, RowBlock, Status
from strongroom.snapshots.manifest import (
    Manifest,
    Part,
    ProbeSet,
    Segment,
    StoredArtifact,
    StoredCollection,
    decode,
    encode,
    encode_schema,
    pack_dead,
)
from strongroom.snapshots.segments import read_segment, store_block

# -- manifests of any contents ---------------------------------------------------------------------------------------------

texts = st.text(max_size=12)
counts = st.integers(0, 2**63)
floats = st.floats(allow_nan=False)
hashes = st.binary(min_size=32, max_size=32).map(bytes.hex)
jsons = st.recursive(
    st.none() | st.booleans() | st.integers() | floats | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
catalogs = st.dictionaries(texts, jsons, max_size=3)
dtypes = st.sampled_from(["float32", "float16", "bfloat16", "int8", "uint8"])


def tuples(one: st.SearchStrategy, most: int = 3) -> st.SearchStrategy:
    return st.lists(one, max_size=most).map(tuple)


maybe = st.one_of(st.none(), texts)
fields = st.builds(Field, texts, dtypes, counts, st.sampled_from(["l2", "ip", "cosine"]), catalogs, st.booleans())
collections = st.builds(Collection, texts, counts, tuples(fields), catalogs, st.builds(Lineage, maybe, maybe, maybe))
deads = st.one_of(st.none(), st.lists(st.booleans()).map(lambda bits: np.array(bits, bool))).map(pack_dead)
segments = st.builds(Segment, counts, st.dictionaries(texts, hashes, max_size=3), hashes, deads)
probes = st.builds(ProbeSet, texts, counts, counts, hashes, st.booleans(), st.booleans(), st.none() | floats)
plain_parts = st.builds(Part, counts, st.sampled_from(["bytes", "int32", "int64"]) | dtypes, hashes)
copying_parts = st.builds(Part, counts, dtypes, hashes, sources=tuples(hashes), check=hashes)
strided_parts = st.builds(Part, counts, dtypes, hashes, st.integers(1, 2**40), counts, counts, hashes)
schemas = st.lists(st.sampled_from(["id", "", "ünï"]), max_size=2).map(
    lambda names: encode_schema(pa.schema([(n, "int8") for n in names]))
)
stored_collections = st.builds(StoredCollection, collections, schemas, hashes, tuples(segments), tuples(probes))
stored_artifacts = st.builds(
    StoredArtifact, texts, counts, maybe, st.booleans(), tuples(plain_parts | copying_parts | strided_parts)
)
manifests = st.builds(
    Manifest,
    **dict.fromkeys(("created", "source", "host", "engine", "engine_version", "strongroom_version"), texts),
    position=st.builds(Position, texts, texts),
    rows_plane=st.sampled_from(["segments", "artifacts"]),
    root=hashes,
    parents=tuples(hashes),
    tags=st.dictionaries(texts, texts, max_size=3),
    catalog=catalogs,
    collections=tuples(stored_collections, most=5),
    artifacts=tuples(stored_artifacts),
    ledger=tuples(st.builds(LedgerItem, texts, st.sampled_from(Status), texts)),
    source_bytes=counts,
    stored_bytes=counts,
    seconds=st.dictionaries(texts, floats, max_size=3),
)


def backwards(value):
    """The same value, its mappings filled in another order."""
    if isinstance(value, dict):
        return {name: backwards(inner) for name, inner in reversed(value.items())}
    if isinstance(value, list | tuple):
        return type(value)(map(backwards, value))
    if dataclasses.is_dataclass(value):
        return replace(value, **{f.name: backwards(getattr(value, f.name)) for f in dataclasses.fields(value)})
    return value


def compressed(value) -> bytes:
    return zstandard.compress(json.dumps(value).encode())


def opened(content: bytes):
    return json.loads(zstandard.decompress(content))


def claimed(content: bytes) -> int:
    """How long the plain bytes are, by the frame's own header."""
    try:
        return zstandard.frame_content_size(content)
    except zstandard.ZstdError:
        return 0


def assert_read_or_damaged(content: bytes) -> None:
    """A manifest, or Damaged that names it, and nothing else."""
    if claimed(content) >= 2**30:
        return  # they have a test of their own
    try:
        assert isinstance(decode("snapshots/x", content), Manifest)
    except Damaged as error:
        assert error.subject == "snapshots/x"


@settings(max_examples=80, deadline=None)
@given(manifests)
def test_a_manifest_comes_back_equal(manifest: Manifest) -> None:
    back = decode("snapshots/x", encode(manifest))
    assert back == manifest
    assert sorted(back.blobs()) == sorted(manifest.blobs())
    assert all(type(item.status) is Status for item in back.ledger)


@settings(max_examples=40, deadline=None)
@given(manifests)
def test_equal_manifests_are_equal_bytes(manifest: Manifest) -> None:
    content = encode(manifest)
    other = backwards(manifest)
    assert other == manifest
    assert encode(other) == content
    assert encode(decode("snapshots/x", content)) == content


def test_a_part_needs_all_blobs_that_it_is_made_of() -> None:
    assert list(Part(1, "bytes", "a").blobs()) == ["a"]
    assert list(Part(1, "float32", "a", 8, 0, 4, "b").blobs()) == ["a", "b"]
    assert list(Part(1, "bytes", "a", sources=("b", "c"), check="d").blobs()) == ["a", "b", "c"]


@settings(max_examples=30, deadline=None)
@given(manifests, manifests)
def test_every_field_is_kept_apart(manifest: Manifest, source: Manifest) -> None:
    """A change of one field is a change of the bytes, and of the manifest that is read."""
    content = encode(manifest)
    for name in (field.name for field in dataclasses.fields(Manifest)):
        other = replace(manifest, **{name: getattr(source, name)})
        changed = encode(other)
        assert (changed == content) == (other == manifest), name
        assert (decode("x", changed) == decode("x", content)) == (other == manifest), name


@settings(max_examples=40, deadline=None)
@given(manifests, st.data())
def test_a_truncated_manifest_is_damaged(manifest: Manifest, data) -> None:
    content = encode(manifest)
    for cut in (0, 1, len(content) // 2, len(content) - 1, data.draw(st.integers(0, len(content) - 1))):
        with pytest.raises(Damaged, match="snapshots/x"):
            decode("snapshots/x", content[:cut])


@settings(max_examples=80, deadline=None)
@given(manifests, st.data())
def test_changed_bytes_are_read_or_damaged(manifest: Manifest, data) -> None:
    content = encode(manifest)
    places = st.tuples(st.integers(0, len(content) - 1), st.integers(1, 255))
    for changes in data.draw(st.lists(st.lists(places, min_size=1, max_size=4), min_size=4, max_size=8)):
        changed = bytearray(content)
        for place, bits in changes:
            changed[place] ^= bits
        assert_read_or_damaged(bytes(changed))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_are_damaged(content: bytes) -> None:
    for garbage in (content, zstandard.FRAME_HEADER + content, zstandard.compress(content)):
        assume(claimed(garbage) < 2**30)
        with pytest.raises(Damaged, match="snapshots/x"):
            decode("snapshots/x", garbage)


@settings(max_examples=100, deadline=None)
@given(manifests, jsons, st.data())
def test_json_of_another_shape_is_read_or_damaged(manifest: Manifest, alien, data) -> None:
    """Anything in the place of anything; something missing; something more."""
    body = opened(encode(manifest))
    inner, steps = body, []
    while isinstance(inner, dict | list) and inner and (not steps or data.draw(st.booleans())):
        steps.append((inner, data.draw(st.sampled_from(list(inner) if isinstance(inner, dict) else range(len(inner))))))
        inner = inner[steps[-1][1]]
    holder, key = steps[-1]
    change = data.draw(st.sampled_from(["replace", "remove", "add"]))
    if change == "replace":
        holder[key] = alien
    elif change == "remove":
        del holder[key]
    elif isinstance(holder, dict):
        holder["another"] = alien
    assert_read_or_damaged(compressed(body))
    assert_read_or_damaged(compressed(alien))


OPTIONAL = ("seconds", "processor")


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Manifest) if field.name not in OPTIONAL])
def test_a_manifest_without_a_member_is_damaged(name: str) -> None:
    body = opened(encode(SMALL))
    del body[name]
    with pytest.raises(Damaged, match="not a manifest"):
        decode("snapshots/x", compressed(body))


@pytest.mark.parametrize("blob", ["", "ab", "A" * 64, "../" + "0" * 61, "0" * 65, "0" * 64 + "\n", 7, None])
def test_blobs_that_cannot_be_are_damage(blob) -> None:
    body = opened(encode(SMALL))
    body["artifacts"] = [{"path": "x", "size": 1, "collection": None, "immutable": True, "parts": [opened_part(blob)]}]
    with pytest.raises(Damaged):
        decode("snapshots/x", compressed(body))


def opened_part(blob):
    return {**dataclasses.asdict(Part(1, "bytes", "")), "blob": blob}


def test_another_format_says_what_to_do() -> None:
    body = {**opened(encode(SMALL)), "strongroom_manifest": 2}
    with pytest.raises(Damaged, match="newer Strongroom") as raised:
        decode("snapshots/x", compressed(body))
    assert "newer" in raised.value.hint


def test_json_too_deep_to_read_is_damage() -> None:
    for nested in ("[" * 200_000, '{"a":' * 200_000, "[" * 200_000 + "]" * 200_000):
        with pytest.raises(Damaged):
            decode("snapshots/x", zstandard.compress(nested.encode()))


def test_a_frame_that_claims_to_be_endless_is_damage() -> None:
    """The header says 2^62 bytes; there are three."""
    frame = zstandard.FRAME_HEADER + bytes([0b11000000 | 0b00100000]) + (1 << 62).to_bytes(8, "little") + b"\x19\x00\x00abc"
    assert zstandard.frame_content_size(frame) == 1 << 62
    with pytest.raises(Damaged):
        decode("snapshots/x", frame)


SMALL = Manifest(
    created="2026-01-01T00:00:00+00:00",
    source="faiss:///x",
    host="host",
    engine="faiss",
    engine_version="1",
    strongroom_version="1",
    position=Position("files", "x"),
    rows_plane="segments",
    root="0" * 64,
    parents=(),
    tags={},
    catalog={},
    collections=(),
    artifacts=(),
    ledger=(),
    source_bytes=0,
    stored_bytes=0,
)


# -- segments of any rows --------------------------------------------------------------------------------------------------

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


@pytest.fixture(scope="module", autouse=True)
def numbers_are_known() -> Iterator[None]:
    pa.register_extension_type(Numbers(pa.binary(1)))
    yield
    pa.unregister_extension_type("strongroom.test.numbers")


@dataclass
class Blobs:
    """Where blobs go instead of into packs."""

    kept: dict[bytes, bytes] = dataclasses.field(default_factory=dict)

    def submit(self, content, kind: str) -> Future[bytes]:
        assert kind in {*WIDTHS, "text"}
        future: Future[bytes] = Future()
        name = blake3(content).digest()
        self.kept[name] = bytes(content)
        future.set_result(name)
        return future

    def read(self, name: bytes) -> bytes:
        return self.kept[name]


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


def stored(rows: Rows) -> tuple[Segment, Blobs]:
    blobs = Blobs()
    return store_block(rows.block, rows.fields, blobs.submit).result(), blobs


@settings(max_examples=200, deadline=None)
@given(blocks())
def test_a_block_comes_back_bit_for_bit(rows: Rows) -> None:
    segment, blobs = stored(rows)
    batch = rows.block.batch
    back = read_segment(segment, batch.schema, blobs.read)
    assert back.batch.schema.equals(batch.schema, check_metadata=True)
    assert back.batch.num_rows == batch.num_rows
    back.batch.validate(full=True)
    for name in batch.schema.names:
        if name in rows.vectors:
            assert bytes_of(back.batch.column(name), rows.width(name)) == rows.vectors[name]
        else:
            assert back.batch.column(name).to_pylist() == batch.column(name).to_pylist()
    dead = rows.block.dead
    assert (back.dead is None) == (dead is None or not dead.any())
    if back.dead is not None:
        assert back.dead.dtype == np.bool_
        assert back.dead.tolist() == dead.tolist()
    assert segment.dead_count() == (0 if dead is None else dead.sum())
    assert back.live().num_rows == batch.num_rows - segment.dead_count()


@settings(max_examples=100, deadline=None)
@given(blocks())
def test_a_vector_column_without_nulls_is_a_blob_of_its_bare_values(rows: Rows) -> None:
    """Just what a region of an index file would hold, dead slots too."""
    segment, blobs = stored(rows)
    bare = {name: b"".join(contents) for name, contents in rows.vectors.items() if None not in contents}
    assert {name: blobs.kept[bytes.fromhex(blob)] for name, blob in segment.vectors.items()} == bare


@settings(max_examples=100, deadline=None)
@given(blocks())
def test_a_segment_survives_its_manifest(rows: Rows) -> None:
    segment, blobs = stored(rows)
    schema = rows.block.batch.schema
    catalog = Collection("x", segment.rows, rows.fields)
    kept = StoredCollection(catalog, encode_schema(schema), "0" * 64, (segment,), ())
    (back,) = decode("x", encode(replace(SMALL, collections=(kept,)))).collections
    assert back == kept
    assert back.arrow_schema().equals(schema, check_metadata=True)
    assert read_segment(back.segments[0], back.arrow_schema(), blobs.read).batch.num_rows == segment.rows


@settings(max_examples=100, deadline=None)
@given(blocks(min_rows=1, null_vectors=False), st.integers(1, 40), st.booleans(), st.data())
def test_blobs_of_the_wrong_length_are_damage(rows: Rows, change: int, longer: bool, data) -> None:
    segment, blobs = stored(rows)
    name = bytes.fromhex(data.draw(st.sampled_from(sorted(segment.vectors.values()))))
    content = blobs.kept[name]
    blobs.kept[name] = content + bytes(change) if longer else content[: max(0, len(content) - change)]
    with pytest.raises(Damaged):
        read_segment(segment, rows.block.batch.schema, blobs.read)


@settings(max_examples=100, deadline=None)
@given(blocks(min_rows=1), st.sampled_from([-1, 1, 8, -(10**6), 2**62]))
def test_another_number_of_rows_is_damage(rows: Rows, more: int) -> None:
    segment, blobs = stored(rows)
    with pytest.raises(Damaged):
        read_segment(replace(segment, rows=segment.rows + more), rows.block.batch.schema, blobs.read)


@settings(max_examples=100, deadline=None)
@given(blocks(min_rows=1), st.data())
def test_a_missing_blob_or_column_is_damage(rows: Rows, data) -> None:
    segment, blobs = stored(rows)
    schema = rows.block.batch.schema
    with pytest.raises(Damaged):
        read_segment(segment, schema.append(pa.field("more", pa.int8())), blobs.read)
    del blobs.kept[bytes.fromhex(data.draw(st.sampled_from(sorted(segment.blobs()))))]
    with pytest.raises(Damaged):
        read_segment(segment, schema, blobs.read)


@settings(max_examples=200, deadline=None)
@given(blocks(), st.data())
def test_garbage_in_the_place_of_columns_is_read_or_damage(rows: Rows, data) -> None:
    segment, blobs = stored(rows)
    name = bytes.fromhex(segment.rest)
    content = bytearray(blobs.kept[name])
    kind = data.draw(st.sampled_from(["cut", "change", "random"]))
    if kind == "change":
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    blobs.kept[name] = {
        "cut": lambda: bytes(content[: data.draw(st.integers(0, len(content) - 1))]),
        "change": lambda: bytes(content),
        "random": lambda: data.draw(st.binary(max_size=100)),
    }[kind]()
    try:
        assert read_segment(segment, rows.block.batch.schema, blobs.read).batch.num_rows == segment.rows
    except Damaged as error:
        assert kind == "change" or segment.rest[:16] in error.subject


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 40), st.binary(min_size=1, max_size=6))
def test_a_deletion_vector_has_a_bit_a_slot(rows: int, bits: bytes) -> None:
    segment = Segment(rows, {}, "0" * 64, base64.b64encode(bits).decode())
    if len(bits) == (rows + 7) // 8:
        assert segment.dead_slots().tolist() == [bool(bits[slot // 8] >> slot % 8 & 1) for slot in range(rows)]
    else:
        with pytest.raises(Damaged, match="deletion vector"):
            segment.dead_slots()


@pytest.mark.parametrize("dead", ["?", "AA", "AA=", "A A==", "ÄÖ==", "AA==\n"])
def test_a_deletion_vector_is_base64(dead: str) -> None:
    with pytest.raises(Damaged, match="deletion vector"):
        Segment(8, {}, "0" * 64, dead).dead_slots()
