"""Do equal rows have equal fingerprints, and does every change give another one?"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom.model import ROLE, Role
from strongroom.snapshots.fingerprints import Fingerprinter, RowsRoot, short

FINGERPRINTER = Fingerprinter(b"k" * 32)
DIMENSION = 4
texts = st.one_of(st.none(), st.text(max_size=40), st.sampled_from(["", "a" * 15, "a" * 16, "a" * 17, "a" * 32, "\0" * 16]))
words = st.integers(0, 2**32 - 1)
row = st.tuples(
    st.lists(words, min_size=DIMENSION, max_size=DIMENSION),
    texts,
    st.one_of(st.none(), st.integers(-(2**31), 2**31 - 1)),
    st.one_of(st.none(), st.booleans()),
)
rows = st.lists(row, max_size=30)
some_rows = st.lists(row, min_size=1, max_size=30)


def field(name: str, kind: pa.DataType, role: Role) -> pa.Field:
    return pa.field(name, kind, metadata={ROLE: role.value.encode()})


def vectors(bits: list[list[int]]) -> pa.FixedSizeListArray:
    """float32 vectors of just these bits, whatever they mean."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.array(bits, np.uint32).ravel().view(np.float32)), DIMENSION)


def batch_of(content, ids=None) -> pa.RecordBatch:
    ids = [f"row {number}" for number in range(len(content))] if ids is None else ids
    schema = pa.schema(
        [
            field("id", pa.string(), Role.ID),
            field("vector", pa.list_(pa.float32(), DIMENSION), Role.VECTOR),
            field("text", pa.string(), Role.DOCUMENT),
            field("rank", pa.int32(), Role.COLUMN),
            field("flag", pa.bool_(), Role.COLUMN),
        ]
    )
    bits, documents, ranks, flags = zip(*content, strict=True) if content else ((), (), (), ())
    return pa.record_batch(
        [pa.array(ids, pa.string()), vectors(list(bits)), *map(pa.array, (documents, ranks, flags), schema.types[2:])],
        schema=schema,
    )


def one_column(values, kind=None, role: Role = Role.COLUMN, name: str = "x") -> pa.RecordBatch:
    column = values if isinstance(values, pa.Array) else pa.array(values, kind)
    return pa.record_batch([column], schema=pa.schema([field(name, column.type, role)]))


def root(*batches: pa.RecordBatch) -> str:
    total = RowsRoot(FINGERPRINTER)
    for batch in batches:
        total.add(batch)
    return total.digest()


@settings(max_examples=100, deadline=None)
@given(rows, st.randoms(use_true_random=False), st.data())
def test_order_batches_slices_and_column_order_do_not_matter(content, draw, data) -> None:
    batch = batch_of(content)
    shuffled = batch.take(pa.array(draw.sample(range(len(content)), len(content)), pa.int64()))
    shuffled = shuffled.select(draw.sample(shuffled.schema.names, shuffled.num_columns))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=4)))
    pieces = [shuffled.slice(low, high - low) for low, high in zip([0, *cuts], [*cuts, len(content)], strict=True)]
    assert root(*pieces) == root(batch)
    assert root(*pa.Table.from_batches(pieces, shuffled.schema).combine_chunks().to_batches()) == root(batch)


@settings(max_examples=50, deadline=None)
@given(some_rows, st.data())
def test_a_slice_of_a_larger_batch_is_its_rows(content, data) -> None:
    """Offsets into buffers and into the bits of booleans and nulls."""
    low = data.draw(st.integers(0, len(content)))
    high = data.draw(st.integers(low, len(content)))
    ids = [f"row {number}" for number in range(len(content))]
    assert root(batch_of(content, ids).slice(low, high - low)) == root(batch_of(content[low:high], ids[low:high]))


@settings(max_examples=200, deadline=None)
@given(some_rows, st.data())
def test_every_changed_bit_of_a_vector_is_seen(content, data) -> None:
    """Also where float32 calls both sides equal (-0.0) or both of them NaN."""
    place = data.draw(st.integers(0, len(content) - 1))
    element, bit = data.draw(st.integers(0, DIMENSION - 1)), data.draw(st.integers(0, 31))
    bits, *others = content[place]
    changed = [word ^ (1 << bit) if number == element else word for number, word in enumerate(bits)]
    other = [*content[:place], (changed, *others), *content[place + 1 :]]
    assert root(batch_of(other)) != root(batch_of(content))


@pytest.mark.parametrize(("one", "other"), [(0x00000000, 0x80000000), (0x7FC00000, 0x7FC00001), (0x7F800001, 0xFFC00000)])
def test_zeros_and_nans_are_their_bits(one: int, other: int) -> None:
    bits = [one, other]
    first, second = (batch_of([([word] * DIMENSION, "text", 1, True)]) for word in bits)
    assert root(first) != root(second)
    for dtype, shift in (("float32", 0), ("float16", 16)):
        kind = np.uint32 if not shift else np.uint16
        columns = [one_column(pa.array(np.array([word >> shift], kind).view(dtype))) for word in (0x00000000, 0x80000000)]
        assert root(columns[0]) != root(columns[1])


@settings(max_examples=100, deadline=None)
@given(some_rows, st.data())
def test_every_changed_value_is_seen(content, data) -> None:
    place = data.draw(st.integers(0, len(content) - 1))
    column = data.draw(st.integers(1, 3))
    value = data.draw(
        [texts, st.one_of(st.none(), st.integers(-(2**31), 2**31 - 1)), st.sampled_from([None, True, False])][column - 1]
    )
    changed = tuple(value if number == column else old for number, old in enumerate(content[place]))
    other = [*content[:place], changed, *content[place + 1 :]]
    assert (root(batch_of(other)) == root(batch_of(content))) == (changed == content[place])


@settings(max_examples=100, deadline=None)
@given(st.lists(row, min_size=2, max_size=10), st.data())
def test_a_value_that_moves_to_another_row_is_seen(content, data) -> None:
    one, other = data.draw(st.permutations(range(len(content))))[:2]
    column = data.draw(st.integers(0, 3))
    swapped = [list(each) for each in content]
    swapped[one][column], swapped[other][column] = swapped[other][column], swapped[one][column]
    assert (root(batch_of(swapped)) == root(batch_of(content))) == (content[one][column] == content[other][column])


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=40), st.text(max_size=40))
def test_a_value_that_moves_to_another_column_is_seen(one: str, other: str) -> None:
    schema = pa.schema([field("a", pa.string(), Role.COLUMN), field("b", pa.string(), Role.COLUMN)])
    there, swapped = (pa.record_batch([[a], [b]], schema=schema) for a, b in ((one, other), (other, one)))
    assert (root(there) == root(swapped)) == (one == other)


@settings(max_examples=200, deadline=None)
@given(texts, texts)
def test_different_texts_differ(one: str | None, other: str | None) -> None:
    assert (root(one_column([one], pa.string())) == root(one_column([other], pa.string()))) == (one == other)


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 31, 32, 48])
@pytest.mark.parametrize("role", [Role.ID, Role.DOCUMENT, Role.COLUMN])
def test_no_text_is_taken_for_its_padding(length: int, role: Role) -> None:
    """Padded as the fingerprint pads: 0x80, then zeros to the next block."""
    text = b"a" * length
    paddings = [b"\x80" + bytes(count) for count in range(17)] + [bytes(count) for count in range(1, 33)]
    contents = [text, *(text + padding for padding in paddings)]
    roots = {root(one_column(pa.array([content], pa.binary()), role=role)) for content in contents}
    assert len(roots) == len(set(contents))


def test_no_list_of_numbers_is_taken_for_a_padded_one() -> None:
    """Whole blocks and broken ones go different ways through the code."""
    roots = set()
    for width in range(1, 40):
        values = pa.array(np.zeros(width, np.uint8))
        roots.add(root(one_column(pa.FixedSizeListArray.from_arrays(values, width))))
    assert len(roots) == 39


@settings(max_examples=50, deadline=None)
@given(rows)
def test_null_is_a_column_that_is_not_there_and_empty_is_not(content) -> None:
    batch = batch_of(content)
    for value, same in ((None, True), ("", not content)):
        wider = batch.append_column(field("more", pa.string(), Role.COLUMN), pa.array([value] * len(content), pa.string()))
        assert (root(wider) == root(batch)) == same


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(st.none(), st.integers(-(2**31), 2**31 - 1)), max_size=20))
def test_the_width_of_an_integer_does_not_matter(values) -> None:
    assert root(one_column(values, pa.int32())) == root(one_column(values, pa.int64()))


@settings(max_examples=50, deadline=None)
@given(st.lists(texts, max_size=20), st.sampled_from([Role.ID, Role.DOCUMENT, Role.COLUMN]))
def test_the_width_of_a_texts_offsets_does_not_matter(values, role: Role) -> None:
    assert root(one_column(values, pa.string(), role)) == root(one_column(values, pa.large_string(), role))


def test_a_row_twice_is_not_once_nor_thrice() -> None:
    batch = batch_of([([1, 2, 3, 4], "text", 1, True)])
    assert len({root(*[batch] * times) for times in range(5)}) == 5


def test_another_key_gives_another_root() -> None:
    batch = batch_of([([1, 2, 3, 4], "text", 1, True)])
    other = RowsRoot(Fingerprinter(b"K" * 32))
    other.add(batch)
    assert other.digest() != root(batch)


def test_the_names_of_roles_do_not_matter_and_those_of_columns_do() -> None:
    for role in (Role.ID, Role.DOCUMENT):
        assert root(one_column(["text"], role=role, name="a")) == root(one_column(["text"], role=role, name="b"))
    assert root(one_column(["text"], name="a")) != root(one_column(["text"], name="b"))
    assert root(one_column(["text"], role=Role.ID)) != root(one_column(["text"], role=Role.DOCUMENT))


def test_what_is_under_a_null_does_not_matter() -> None:
    """Arrow leaves the bytes of a null as they happened to be."""
    hidden = pa.Array.from_buffers(pa.int64(), 2, [pa.py_buffer(b"\x01"), pa.py_buffer(np.array([1, 99]).tobytes())])
    assert hidden.to_pylist() == [1, None]
    assert root(one_column(hidden)) == root(one_column([1, None], pa.int64()))


# -- nulls in and of lists of numbers --------------------------------------------------------------------------------------

LISTS = [pa.float32(), pa.int8(), pa.uint64(), pa.float16(), pa.binary(2), pa.int16()]
elements = st.lists(st.sampled_from([None, 0, 1]), min_size=DIMENSION, max_size=DIMENSION)
lists_with_nulls = st.lists(st.one_of(st.none(), elements), max_size=12)


def lists(content, kind: pa.DataType, hidden: int = 0) -> pa.FixedSizeListArray:
    """`content` as fixed-size lists; beneath every null lies the byte `hidden`, and an odd one passes for an element."""
    elements = [(one is None, element) for one in content for element in (one or [None] * DIMENSION)]
    data = b"".join(bytes([hidden if element is None else element]) * (kind.bit_width // 8) for _, element in elements)
    valid = [element is not None or (is_null and hidden % 2 == 1) for is_null, element in elements]
    values = pa.Array.from_buffers(kind, len(elements), [bits(valid), pa.py_buffer(data)])
    present = bits([one is not None for one in content])
    return pa.FixedSizeListArray.from_buffers(pa.list_(kind, DIMENSION), len(content), [present], children=[values])


def bits(valid: list[bool]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(np.array(valid, bool), bitorder="little").tobytes())


@pytest.mark.parametrize("kind", LISTS, ids=str)
@settings(max_examples=60, deadline=None)
@given(lists_with_nulls, st.data())
def test_null_lists_and_elements_are_the_same_in_every_batch(kind: pa.DataType, content, data) -> None:
    """Cut anywhere, alone or sliced out of a larger column, and whatever lies beneath the nulls."""
    whole = root(one_column(lists(content, kind)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=4)))
    spans = list(zip([0, *cuts], [*cuts, len(content)], strict=True))
    for hidden in (0, 1, 2, 255):
        batch = one_column(lists(content, kind, hidden))
        assert root(*(batch.slice(low, high - low) for low, high in spans)) == whole
        assert root(*(one_column(lists(content[low:high], kind, hidden)) for low, high in spans)) == whole


@settings(max_examples=100, deadline=None)
@given(lists_with_nulls, lists_with_nulls, st.sampled_from(LISTS))
def test_lists_of_other_nulls_differ(one, other, kind: pa.DataType) -> None:
    """A null element is not 0, and a list of nulls no null list."""
    same = sorted(map(repr, one)) == sorted(map(repr, other))
    assert (root(one_column(lists(one, kind))) == root(one_column(lists(other, kind)))) == same


def test_a_null_element_is_no_zero_and_a_list_of_nulls_no_null() -> None:
    kinds = [None, [None] * 4, [0] * 4, [None, 0, 0, 0], [0, None, 0, 0], [0, 0, 0, None]]
    assert len({root(one_column(lists([one], pa.float32()))) for one in kinds}) == len(kinds)


def test_a_null_vector_does_not_change_its_neighbours() -> None:
    """Their fingerprints stay those of a column without nulls."""
    full = FINGERPRINTER.rows(one_column(lists([[1, 0, 1, 0], [0, 1, 0, 1]], pa.float32())))
    mixed = FINGERPRINTER.rows(one_column(lists([[1, 0, 1, 0], None, [0, None, 0, 1], [0, 1, 0, 1]], pa.float32())))
    assert np.array_equal(mixed[[0, 3]], full)


def test_a_null_of_a_dictionary_is_a_null() -> None:
    """Whether the place is null or the word that it stands for."""
    words = pa.DictionaryArray.from_arrays(pa.array([0, 1, 0], pa.int8()), pa.array(["a", None]))
    assert words.to_pylist() == ["a", None, "a"]
    assert root(one_column(words)) == root(one_column(["a", None, "a"]))


@pytest.mark.parametrize("kind", [pa.list_(pa.float32(), 0), pa.binary(0)], ids=str)
def test_vectors_of_no_numbers_are_still_there(kind: pa.DataType) -> None:
    empty = [] if pa.types.is_fixed_size_list(kind) else b""
    assert len({root(one_column(pa.array(content, kind))) for content in ([empty], [None], [empty, empty])}) == 3


def test_the_digest_of_a_vector_is_its_fingerprint_and_that_of_a_null_nothing() -> None:
    values = [[1.0, 2.0, 3.0, 4.0], None, [5.0, 6.0, 7.0, 8.0], [5.0, None, 7.0, 8.0]]
    found = FINGERPRINTER.digests(one_column(values, pa.list_(pa.float32(), DIMENSION), Role.VECTOR, "v"))["v"]
    bare = FINGERPRINTER.vectors(np.array([values[0], values[2]], np.float32).tobytes(), 4 * DIMENSION)
    assert (found[[0, 2]] == bare).all()
    assert not found[1].any()
    assert not (found[3] == bare[1]).any()
    kept = np.ascontiguousarray(short(found)[:, :2]).view(np.uint64)[:, 0]
    assert (kept == found[:, 0]).all(), "what a block keeps of a fingerprint begins with a row's digest"


@settings(max_examples=50, deadline=None)
@given(some_rows, st.data())
def test_digests_tell_which_column_changed(content, data) -> None:
    where, other = data.draw(st.integers(0, len(content) - 1)), data.draw(row)
    changed = [*content[:where], other, *content[where + 1 :]]
    before, after = FINGERPRINTER.digests(batch_of(content)), FINGERPRINTER.digests(batch_of(changed))
    for at, name in enumerate(("vector", "text", "rank", "flag")):
        differs = (before[name] != after[name]).any(axis=1)
        assert np.flatnonzero(differs).tolist() == ([where] if content[where][at] != other[at] else [])
