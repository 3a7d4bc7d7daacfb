"""Do manifests and segments survive encoding, and is garbage always reported as damage?"""

from __future__ import annotations

import base64
import dataclasses
import json
import struct
import tracemalloc
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import zstandard
from any_rows import dtypes, floats, maybe, texts
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from strongroom.errors import Damaged
from strongroom.model import Collection, Field, LedgerItem, Lineage, Position, Status
from strongroom.snapshots.manifest import (
    Block,
    Manifest,
    Part,
    ProbeSet,
    Segment,
    StoredArtifact,
    StoredCollection,
    TenantPart,
    Vectors,
    decode,
    encode,
    encode_schema,
    pack_dead,
)

# -- manifests of any contents ---------------------------------------------------------------------------------------------

counts = st.integers(0, 2**63)
hashes = st.binary(min_size=32, max_size=32).map(bytes.hex)
jsons = st.recursive(
    st.none() | st.booleans() | st.integers() | floats | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
catalogs = st.dictionaries(texts, jsons, max_size=3)


def tuples(one: st.SearchStrategy, most: int = 3) -> st.SearchStrategy:
    return st.lists(one, max_size=most).map(tuple)


fields = st.builds(Field, texts, dtypes, counts, st.sampled_from(["l2", "ip", "cosine"]), catalogs, st.booleans())
collections = st.builds(Collection, texts, counts, tuples(fields), catalogs, st.builds(Lineage, maybe, maybe, maybe))
deads = st.one_of(st.none(), st.lists(st.booleans()).map(lambda bits: np.array(bits, bool))).map(pack_dead)
prints = st.just("") | hashes
segments = st.builds(Segment, counts, counts, hashes, prints, st.dictionaries(texts, hashes, max_size=3), deads)
blocks = st.builds(Block, counts, counts, hashes, prints, counts)
probes = st.builds(ProbeSet, texts, counts, counts, hashes, st.booleans(), st.booleans(), st.none() | floats)
by_first = st.builds(Vectors, texts, texts, counts, st.sampled_from(["slots", "numbers"]), counts)
by_places = st.builds(Vectors, texts, texts, counts, st.just("numbers"), places=hashes)
vectors = by_first | by_places
keys = st.just("") | texts
kinds = st.sampled_from(["bytes", "int32", "int64"]) | dtypes
plain_parts = st.builds(Part, counts, kinds, hashes, key=keys)
changed_parts = st.builds(Part, counts, kinds, hashes, check=hashes, key=keys, differences=tuples(hashes))
copying_parts = st.builds(Part, counts, dtypes, hashes, sources=tuples(hashes), check=hashes, ranges=tuples(vectors))
apart_parts = st.builds(Part, counts, dtypes, hashes, st.integers(1, 2**40), counts, counts, hashes)
strided_parts = st.builds(
    *(Part, counts, dtypes, st.just(""), st.integers(1, 2**40), counts, counts, prints),
    check=hashes,
    key=keys,
    differences=tuples(hashes),
    vectors=vectors,
)
parts = plain_parts | changed_parts | copying_parts | apart_parts | strided_parts
schemas = st.lists(st.sampled_from(["id", "", "ünï"]), max_size=2).map(
    lambda names: encode_schema(pa.schema([(n, "int8") for n in names]))
)
stored_collections = st.builds(
    *(StoredCollection, collections, schemas, hashes, tuples(segments), tuples(probes)),
    vectors=st.dictionaries(texts, tuples(blocks), max_size=2),
    order=tuples(hashes),
    slots=counts,
)
stored_artifacts = st.builds(StoredArtifact, texts, counts, maybe, st.booleans(), tuples(parts), cut=texts)
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
    processor=texts,
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


@settings(deadline=None)
@given(manifests)
def test_written_in_pieces_it_is_one_object_in_order(manifest: Manifest) -> None:
    text = zstandard.decompress(encode(manifest)).decode()
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))


def test_of_many_collections_it_takes_little_more_memory_than_its_text() -> None:
    catalog = {f"key {number}": {"a": [number, str(number)]} for number in range(20)}
    field = Field("v", "float32", 8, "l2", {})
    many = tuple(
        StoredCollection(Collection(f"tenant-{number}", 2, (field,), catalog), "", "0" * 64, (Segment(0, 2, "0" * 64),), (), {})
        for number in range(400)
    )
    kinds = dict.fromkeys(("created", "source", "host", "engine", "engine_version", "strongroom_version"), "x")
    rest = {"rows_plane": "segments", "root": "0" * 64, "parents": (), "tags": {}, "catalog": {}, "ledger": ()}
    record = Manifest(**kinds, **rest, position=Position("", ""), collections=many, artifacts=(), source_bytes=0, stored_bytes=0)
    tracemalloc.start()
    try:
        content = encode(record)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert decode("x", content) == record
    assert peak < 4 * len(zstandard.decompress(content))


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
    assert list(Part(1, "bytes", "a", check="d", differences=("b", "c")).blobs()) == ["a", "b", "c"]
    some = Vectors("x", "y", 1, "numbers", places="p")
    assert list(Part(1, "float32", "", 8, 0, 4, "b", differences=("c",), vectors=some).blobs()) == ["b", "c", "p"]
    assert list(Part(1, "float32", "", 4, 0, 4, vectors=Vectors("x", "y", 1, "slots")).blobs()) == []
    assert list(Part(1, "bytes", "a", ranges=(some, replace(some, places="q"))).blobs()) == ["a", "p", "q"]


def test_a_collection_needs_all_blobs_of_its_rows() -> None:
    segment, block = Segment(0, 1, "rest", "prints", {"v": "mapped"}), Block(0, 1, "vectors", "their prints")
    probe = ProbeSet("v", 1, 1, "probe", live=False)
    stored = StoredCollection(
        Collection("x", 1, ()),
        "",
        "0" * 64,
        (segment,),
        (probe,),
        {"v": (block,), "w": (Block(0, 1, "others"),)},
        ("first", "then"),
    )
    wanted = {"rest", "prints", "mapped", "vectors", "their prints", "others", "first", "then", "probe"}
    assert set(stored.blobs()) == wanted
    assert list(Segment(0, 1, "rest").blobs()) == ["rest"]


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
    body = {**opened(encode(SMALL)), "strongroom_manifest": 4}
    with pytest.raises(Damaged, match="newer Strongroom") as raised:
        decode("snapshots/x", compressed(body))
    assert "newer" in raised.value.hint


@given(st.lists(st.tuples(texts, counts), max_size=4))
def test_rows_of_tenants_survive_in_a_format_of_their_own(told: Sequence[tuple[str, int]]) -> None:
    """An older program must not take a collection for an empty one."""
    parts = tuple(TenantPart(name, rows, "0" * 32, "1" * 64, ("2" * 64,)) for name, rows in told)
    catalog = Collection("x", 1, (), {}, Lineage(None, None, None))
    plain = StoredCollection(catalog, "", "0" * 64, (), ())
    kept = replace(SMALL, collections=(replace(plain, tenant_column="owner", tenants=parts),))
    assert opened(encode(kept))["strongroom_manifest"] == 3
    assert decode("snapshots/x", encode(kept)) == kept
    assert set(kept.blobs()) == ({"1" * 64, "2" * 64} if parts else set())
    body = opened(encode(replace(SMALL, collections=(plain,))))
    assert body["strongroom_manifest"] == 2
    assert "tenants" not in body["collections"][0]


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


# -- deletion vectors --------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.lists(st.booleans(), max_size=300) | st.integers(1, 70_000).map(lambda n: [False] * n + [True] * 9))
def test_a_deletion_vector_comes_back(bits: list[bool]) -> None:
    dead = np.array(bits, bool)
    segment = Segment(0, len(bits), "0" * 64, dead=pack_dead(dead))
    back = segment.dead_slots()
    assert (back is None) == (not dead.any()) == (segment.dead == "")
    assert segment.dead_count() == int(dead.sum())
    if back is not None:
        assert back.tolist() == bits
        with pytest.raises(Damaged, match="deletion vector"):
            replace(segment, rows=int(np.flatnonzero(dead)[-1])).dead_slots()


def test_a_deletion_vector_is_a_portable_roaring_bitmap() -> None:
    """RoaringFormatSpec: cookie 12346, one container, key 0, its cardinality less one, where it begins, and the slots as u16."""
    dead = np.zeros(100, bool)
    dead[[3, 70]] = True
    words = struct.pack("<IIHHIHH", 12346, 1, 0, 1, 16, 3, 70)
    assert base64.b64decode(pack_dead(dead)) == words


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=1, max_size=30), st.integers(0, 50))
def test_garbage_as_a_deletion_vector_is_read_or_damaged(content: bytes, rows: int) -> None:
    try:
        slots = Segment(0, rows, "0" * 64, dead=base64.b64encode(content).decode()).dead_slots()
    except Damaged as error:
        assert "deletion vector" in str(error)
    else:
        assert slots is None or len(slots) == rows


@pytest.mark.parametrize("dead", ["?", "AA", "AA=", "A A==", "ÄÖ==", "AA==\n", "AA=="])
def test_a_deletion_vector_is_base64(dead: str) -> None:
    with pytest.raises(Damaged, match="deletion vector"):
        Segment(0, 8, "0" * 64, dead=dead).dead_slots()


# -- format 1 ----------------------------------------------------------------------------------------------------------------


def first_format(collection: Mapping[str, Any], parts: Sequence[Mapping[str, Any]]) -> bytes:
    """A manifest as format 1 was: these are all members that its segments and parts had."""
    body = {**opened(encode(SMALL)), "strongroom_manifest": 1}
    del body["processor"]  # it may be missing
    catalog = {"name": "x", "count": 3, "fields": [], "catalog": {}, "lineage": {"model": None, "version": None, "origin": None}}
    body["collections"] = [{"catalog": catalog, "schema": "", "rows_root": "0" * 64, "probes": [], **collection}]
    body["artifacts"] = [{"path": "f", "size": 9, "collection": "x", "immutable": False, "parts": list(parts)}]
    return compressed(body)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), hashes, hashes, st.data()), max_size=4))
def test_a_manifest_of_the_first_format_is_read(drawn) -> None:
    """Segments with blobs of their own vectors are numbered one after another, and a bit a slot becomes a Roaring bitmap."""
    segments, expected, start = [], [], 0
    for rows, rest, vector, data in drawn:
        bits = np.array(data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows)), bool)
        dead = base64.b64encode(np.packbits(bits, bitorder="little").tobytes()).decode() if bits.any() else ""
        segments.append({"rows": rows, "vectors": {"v": vector}, "rest": rest, "dead": dead})
        expected.append((start, rows, rest, vector, bits))
        start += rows
    old = {"length": 9, "kind": "int8", "blob": "1" * 64, "stride": 0, "vector_offset": 0, "vector_length": 0, "rest": ""}
    copying = {**old, "sources": ["2" * 64], "check": "3" * 64}
    strided = {**old, "stride": 3, "vector_length": 2, "rest": "4" * 64}
    record = decode("x", first_format({"segments": segments}, [old, copying, strided]))
    (collection,) = record.collections
    assert (collection.order, collection.slots) == ((), start)
    for segment, block, (first, rows, rest, vector, bits) in zip(
        collection.segments, collection.vectors.get("v", ()), expected, strict=True
    ):
        assert (segment.start, segment.rows, segment.rest, segment.prints, segment.vectors) == (first, rows, rest, "", {})
        assert (block.start, block.count, block.blob, block.prints) == (first, rows, vector, "")
        back = segment.dead_slots()
        assert (np.zeros(rows, bool) if back is None else back).tolist() == bits.tolist()
    assert record.artifacts[0].parts == (
        Part(9, "int8", "1" * 64),
        Part(9, "int8", "1" * 64, sources=("2" * 64,), check="3" * 64),
        Part(9, "int8", "1" * 64, 3, 0, 2, "4" * 64),
    )
    assert decode("x", encode(record)) == record, "and written again in this format it is the same"


@pytest.mark.parametrize("dead", ["AA==", "AAAA", "AAAAAA==", "?"])
def test_a_bit_for_each_slot_or_damage(dead: str) -> None:
    content = first_format({"segments": [{"rows": 20, "vectors": {}, "rest": "0" * 64, "dead": dead}]}, [])
    if dead == "AAAA":
        assert decode("x", content).collections[0].segments[0].dead == ""
    else:
        with pytest.raises(Damaged):
            decode("x", content)


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
