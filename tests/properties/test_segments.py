"""Do rows come back bit for bit from the blobs of a segment, and is garbage always reported as damage?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from any_rows import Blobs, Numbers, Rows, blocks, bytes_of, write
from hypothesis import given, settings
from hypothesis import strategies as st
from test_manifest import SMALL

from strongroom.errors import Damaged
from strongroom.model import RowBlock
from strongroom.snapshots.manifest import Segment, StoredCollection, decode, encode
from strongroom.snapshots.segments import encode_rest, read_segment
from strongroom.snapshots.slots import Slots


@pytest.fixture(scope="module", autouse=True)
def numbers_are_known() -> Iterator[None]:
    pa.register_extension_type(Numbers(pa.binary(1)))
    yield
    pa.unregister_extension_type("strongroom.test.numbers")


def read(collection: StoredCollection, blobs: Blobs, schema: pa.Schema, segment: Segment | None = None) -> RowBlock:
    """The rows of the collection's only segment, or of another one in its place."""
    return read_segment(segment or collection.segments[0], schema, Slots(collection, blobs.read), blobs.read)


@settings(max_examples=200, deadline=None)
@given(blocks(min_rows=1))
def test_a_block_comes_back_bit_for_bit(rows: Rows) -> None:
    stored, blobs = write(rows)
    (segment,), batch = stored.segments, rows.block.batch
    back = read(stored, blobs, batch.schema)
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
@given(blocks(min_rows=1))
def test_a_vector_column_without_nulls_is_a_blob_of_its_bare_values(rows: Rows) -> None:
    """Just what a region of an index file would hold, dead slots too."""
    stored, blobs = write(rows)
    (segment,) = stored.segments
    bare = {name: b"".join(contents) for name, contents in rows.vectors.items() if None not in contents}
    assert segment.vectors == {}
    assert {name: [blobs.kept[bytes.fromhex(one.blob)] for one in those] for name, those in stored.vectors.items()} == {
        name: [content] for name, content in bare.items()
    }


@settings(max_examples=100, deadline=None)
@given(blocks(min_rows=1))
def test_a_segment_survives_its_manifest(rows: Rows) -> None:
    stored, blobs = write(rows)
    (segment,) = stored.segments
    schema = rows.block.batch.schema
    (back,) = decode("x", encode(replace(SMALL, collections=(stored,)))).collections
    assert back == stored
    assert back.arrow_schema().equals(schema, check_metadata=True)
    assert read(back, blobs, back.arrow_schema()).batch.num_rows == segment.rows


@settings(max_examples=100, deadline=None)
@given(blocks(min_rows=1, null_vectors=False), st.integers(1, 40), st.booleans(), st.data())
def test_blobs_of_the_wrong_length_are_damage(rows: Rows, change: int, longer: bool, data) -> None:
    stored, blobs = write(rows)
    name = bytes.fromhex(data.draw(st.sampled_from(sorted(one.blob for those in stored.vectors.values() for one in those))))
    content = blobs.kept[name]
    blobs.kept[name] = content + bytes(change) if longer else content[: max(0, len(content) - change)]
    with pytest.raises(Damaged):
        read(stored, blobs, rows.block.batch.schema)


@settings(max_examples=100, deadline=None)
@given(blocks(min_rows=1), st.sampled_from([-1, 1, 8, -(10**6), 2**62]))
def test_another_number_of_rows_is_damage(rows: Rows, more: int) -> None:
    stored, blobs = write(rows)
    (segment,) = stored.segments
    with pytest.raises(Damaged):
        read(stored, blobs, rows.block.batch.schema, replace(segment, rows=segment.rows + more))


@settings(max_examples=100, deadline=None)
@given(blocks(min_rows=1), st.data())
def test_a_missing_blob_or_column_is_damage(rows: Rows, data) -> None:
    stored, blobs = write(rows)
    (segment,) = stored.segments
    schema = rows.block.batch.schema
    with pytest.raises(Damaged):
        read(stored, blobs, schema.append(pa.field("more", pa.int8())))
    del blobs.kept[
        bytes.fromhex(
            data.draw(st.sampled_from(sorted([segment.rest, *(one.blob for those in stored.vectors.values() for one in those)])))
        )
    ]
    with pytest.raises(Damaged):
        read(stored, blobs, schema)


@settings(max_examples=200, deadline=None)
@given(blocks(min_rows=1), st.data())
def test_garbage_in_the_place_of_columns_is_read_or_damage(rows: Rows, data) -> None:
    stored, blobs = write(rows)
    (segment,) = stored.segments
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
        assert read(stored, blobs, rows.block.batch.schema).batch.num_rows == segment.rows
    except Damaged as error:
        assert kind == "change" or segment.rest[:16] in error.subject


@settings(max_examples=200, deadline=None)
@given(blocks(min_rows=1), st.data())
def test_the_same_rows_give_the_same_bytes_whatever_they_were_cut_from(rows: Rows, data) -> None:
    """A slice of a block; rows taken from here and there; pieces joined."""
    batch = rows.block.batch
    first = data.draw(st.integers(0, batch.num_rows - 1))
    count = data.draw(st.integers(1, batch.num_rows - first))
    expected = bytes(encode_rest(batch.take(pa.array(range(first, first + count)))))
    assert bytes(encode_rest(batch.slice(first, count))) == expected
    chosen = pa.array([first <= place < first + count for place in range(batch.num_rows)])
    assert bytes(encode_rest(batch.filter(chosen))) == expected
    pieces = [batch.slice(place, 1) for place in range(first, first + count)]
    assert bytes(encode_rest(pa.Table.from_batches(pieces).combine_chunks().to_batches()[0])) == expected


def test_what_lies_beneath_a_null_is_not_stored() -> None:
    numbers = pa.Array.from_buffers(pa.int64(), 3, [pa.py_buffer(b"\x05"), pa.py_buffer(np.array([1, 77, 3], np.int64))])
    same = pa.array([1, None, 3])
    assert numbers.equals(same)
    assert bytes(encode_rest(pa.record_batch([numbers], ["n"]))) == bytes(encode_rest(pa.record_batch([same], ["n"])))
