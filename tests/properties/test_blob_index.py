"""Does the blob index say of every blob what a plain dict would say?"""

from __future__ import annotations

import itertools
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom.repository.blob_index import BlobIndex, Place
from strongroom.repository.packs import Blob, Pack, directory_of

# few ids, many of which begin with the same 8 bytes, which is all that the tables are sorted by
heads = st.sampled_from([bytes(8), b"\xff" * 8, bytes(7) + b"\x01", b"\x80" + bytes(7)])
blob_ids = st.builds(lambda head, tail: head + bytes(23) + bytes([tail]), heads, st.integers(0, 3)) | st.binary(
    min_size=32, max_size=32
)
entries = st.tuples(blob_ids, st.integers(0, 255), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))


def pack_of(number: int, held: list[tuple[bytes, int, int, int]]) -> Pack:
    blobs = [Blob(blob_id, codec, plain, 0, stored, place) for place, (blob_id, codec, plain, stored) in enumerate(held)]
    return Pack(f"{number:064x}", bytes(32), 1_000, directory_of(blobs))


packs = st.builds(pack_of, st.integers(0, 20), st.lists(entries, max_size=6))


class Model:
    """The same in the plainest way: a list of places a blob."""

    def __init__(self, packs: list[Pack] | None = None) -> None:
        self.packs: dict[str, Pack] = {}
        for pack in packs or []:
            self.add(pack)

    def add(self, pack: Pack) -> None:
        self.packs.setdefault(pack.id, pack)

    def places(self, blob_id: bytes) -> tuple[Place, ...]:
        return tuple(Place(pack, blob) for pack in self.packs.values() for blob in pack.blobs if blob.id == blob_id)

    def known(self) -> set[bytes]:
        return {blob.id for pack in self.packs.values() for blob in pack.blobs}


def agree(index: BlobIndex, model: Model, asked: set[bytes]) -> None:
    assert index.packs == model.packs
    assert len(index) == len(model.known())
    for blob_id in asked | model.known():
        assert index.places(blob_id) == model.places(blob_id)
        assert (blob_id in index) == (blob_id in model.known())


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(packs, st.booleans()), max_size=25), st.sets(blob_ids, max_size=5), st.data())
def test_it_says_what_a_dict_says(added, asked, data) -> None:
    """Asked in between or only at the end, and so is an index of some of its packs, which later ones don't reach."""
    index, model = BlobIndex(), Model()
    for pack, ask in added:
        index.add(pack)
        model.add(pack)
        if ask:
            agree(index, model, asked)
    chosen = data.draw(st.sets(st.sampled_from(sorted(model.packs)))) if model.packs else set()
    some, some_model = index.only(chosen), Model([pack for pack in model.packs.values() if pack.id in chosen])
    agree(index, model, asked)
    agree(some, some_model, asked | model.known())
    for more, more_model, number in ((index, model, 100), (some, some_model, 101)):
        late = pack_of(number, data.draw(st.lists(entries, max_size=3)))
        more.add(late)
        more_model.add(late)
    agree(index, model, asked)
    agree(some, some_model, asked | model.known())


def test_an_id_that_is_too_short_is_nowhere() -> None:
    index = BlobIndex()
    index.add(pack_of(1, [(bytes(32), 0, 1, 17)]))
    assert [index.places(short) for short in (b"", bytes(8), bytes(31), b"nowhere")] == [()] * 4


def test_offsets_follow_from_the_lengths_before_however_long() -> None:
    held = [(bytes([number]) * 32, 0, 1, 2**32 - 1) for number in range(5)]
    index = BlobIndex()
    index.add(pack_of(1, held))
    assert [index.places(blob_id)[0].blob.offset for blob_id, *_ in held] == [38 + number * (2**32 - 1) for number in range(5)]


def random_packs(count: int, blobs: int) -> list[Pack]:
    ids = np.random.default_rng(1).bytes(32 * count * blobs)
    cut = iter(ids[at : at + 32] for at in range(0, len(ids), 32))
    return [pack_of(number, [(blob_id, 0, 9, 25) for blob_id in itertools.islice(cut, blobs)]) for number in range(count)]


def test_blobs_need_sixty_bytes_each() -> None:
    def made() -> BlobIndex:
        index = BlobIndex()
        for number in range(100):
            index.add(Pack(f"{number:064x}", bytes(32), 1, np.random.default_rng(number).bytes(41 * 2_000)))
            if number % 7 == 0:
                assert bytes(32) not in index
        assert bytes(32) not in index
        return index

    tracemalloc.start()
    try:
        index = made()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(index) == 200_000
    assert held < 62 * 200_000


def test_threads_find_what_was_added_while_others_add() -> None:
    content = random_packs(600, 3)
    index = BlobIndex()

    def add_and_find(mine: list[Pack]) -> None:
        for pack in mine:
            index.add(pack)
            assert all(index.places(blob.id) == (Place(pack, blob),) for blob in pack.blobs)

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(add_and_find, content[start::4]) for start in range(4)]:
            future.result()
    agree(index, Model(list(index.packs.values())), set())
