"""Does a change come out of a segment as it went in, and is a segment that was touched always reported as damage?"""

from __future__ import annotations

import io
from dataclasses import replace

import pyarrow as pa
import pytest
from any_changes import IDENTITIES, chain_of, collection, new_room, new_sealer, operations, row_changes, told
from any_rows import dtypes
from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom.engines.changes import ACT, CatalogChange, RowChanges, change_schema, from_pieces, spool, to_pieces, unspool
from strongroom.errors import Damaged
from strongroom.journal.segments import decode_changes, decode_front, encode, segment_name
from strongroom.journal.stream import read_changes
from strongroom.model import ROLE, Role

row_runs = st.tuples(st.sampled_from(IDENTITIES), st.lists(operations, min_size=1, max_size=5)).map(
    lambda one: row_changes(one[0], one[1], range(len(one[1])), [str(number) for number in range(len(one[1]))])
)
catalogs = st.builds(
    CatalogChange,
    st.dictionaries(st.sampled_from(IDENTITIES), st.sampled_from(["a", "b"]).map(collection)),
    st.lists(st.sampled_from(IDENTITIES), unique=True).map(tuple),
    st.integers(0, 2**50),
    st.text(max_size=5),
    st.booleans(),
    st.text(max_size=3),
)
changes = st.lists(row_runs | catalogs, max_size=5)


@given(changes)
def test_changes_come_out_as_they_went_in(given_: list) -> None:
    file = io.BytesIO()
    assert spool(given_, file) == sum(map(len, given_))
    file.seek(0)
    assert told(unspool(file)) == told(given_)


@given(dtypes, st.lists(st.booleans(), min_size=1, max_size=6), st.integers(1, 5), st.data())
def test_vectors_of_every_type_travel(dtype: str, there: list[bool], dimension: int, data: st.DataObject) -> None:
    if dtype == "bfloat16":
        kind = pa.binary(2 * dimension)
        column = pa.array(
            [data.draw(st.binary(min_size=2 * dimension, max_size=2 * dimension)) if one else None for one in there], kind
        )
    else:
        width = {"float16": "halffloat"}.get(dtype, dtype)
        kind = pa.list_(pa.type_for_alias(width), dimension)
        column = pa.array([[number % 7 for number in range(dimension)] if one else None for one in there], kind)
    rows = pa.schema([pa.field("id", pa.int64(), metadata={ROLE: Role.ID}), pa.field("v", kind, metadata={ROLE: Role.VECTOR})])
    schema = change_schema(rows)
    own = [pa.array([0] * len(there), field.type) if field.name == ACT else pa.nulls(len(there), field.type) for field in schema][
        :4
    ]
    schema = pa.schema([field.with_nullable(True) for field in schema])
    batch = pa.record_batch([*own, pa.array(range(len(there)), pa.int64()), column], schema=schema)
    head, pieces = to_pieces(RowChanges("n", "i", batch))
    back = from_pieces(head, [piece for _, piece in pieces])
    assert isinstance(back, RowChanges)
    assert back.batch.schema.equals(schema, check_metadata=True)
    assert back.batch.equals(batch)


@given(changes)
@settings(max_examples=30)
def test_a_segment_gives_back_its_changes(given_: list) -> None:
    room = new_room()
    sealer = new_sealer(room)
    sealer.add(given_, {"": "9"}, 5)
    front = sealer.seal()
    chain = chain_of(room)
    assert chain.problems == ()
    assert [one.head for one in chain.fronts] == [front.head]
    # times never go back within a stream, else all is as it was
    assert [str(one)[:40] for one in told(read_changes(room.repository, front))] == [str(one)[:40] for one in told(given_)]
    assert front.head.count == sum(map(len, given_))


@pytest.fixture(scope="module")
def sealed():
    room = new_room()
    sealer = new_sealer(room)
    rows = [(act, f"row {act}", [1.0, 2.0, 3.0], True, "text", None, '{"a": 1}') for act in (0, 1, 2)]
    sealer.add([row_changes("first", rows, [1, 2, 3], ["1", "2", "3"])], {"": "3"}, 5)
    front = sealer.seal()
    return room.repository.keys, front, room.repository.store.read(front.head.name)


@given(st.data())
def test_any_touched_bit_is_damage(sealed, data: st.DataObject) -> None:
    keys, front, content = sealed
    place = data.draw(st.integers(0, 8 * len(content) - 1))
    touched = bytearray(content)
    touched[place // 8] ^= 1 << place % 8
    with pytest.raises(Damaged):
        list(decode_changes(keys, decode_front(keys, front.head.name, bytes(touched)), bytes(touched)))


@given(st.data())
def test_any_cut_is_damage(sealed, data: st.DataObject) -> None:
    keys, front, content = sealed
    cut = content[: data.draw(st.integers(0, len(content) - 1))]
    with pytest.raises(Damaged):
        list(decode_changes(keys, decode_front(keys, front.head.name, cut), cut))


def test_a_segment_under_another_name_is_damage(sealed) -> None:
    keys, front, content = sealed
    for name in (segment_name(front.head.stream, 7), segment_name("0" * 32, 0)):
        with pytest.raises(Damaged):
            decode_front(keys, name, content)


def test_a_body_of_another_segment_is_damage(sealed) -> None:
    """Both are whole and of this repository: the head was signed for its own operations only."""
    keys, front, content = sealed
    other, swapped = encode(
        keys, replace(front.head), [row_changes("first", [(3, "row 0", [0.0] * 3, False, None, None, None)], [1], ["1"])]
    )
    mixed = front.content + swapped[other.length :]
    assert decode_front(keys, front.head.name, mixed).head == front.head
    with pytest.raises(Damaged, match="not the ones"):
        list(decode_changes(keys, decode_front(keys, front.head.name, mixed), mixed))
    assert list(decode_changes(keys, front, content))
