"""Do packs and the blob index give back what went in, and is every flipped byte found?"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import mmap
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom import codecs
from strongroom.errors import Damaged
from strongroom.repository import BlobWriter, blob_index, open_store
from strongroom.repository import packs as repository_packs
from strongroom.repository import writer as repository_writer
from strongroom.repository.blob_index import BlobIndex
from strongroom.repository.crypto import content_hash
from strongroom.repository.framing import Kind, seal, unseal
from strongroom.repository.keys import Keys
from strongroom.repository.packs import Blob, OpenPack, Pack, PackReader, directory_of, pack_name, read_directory, read_pack

KEYS = Keys.of(bytes(range(32)), b"r" * 16)
FOREIGN = Keys.of(bytes(32), b"r" * 16)
MOVED = Keys.of(bytes(range(32)), b"R" * 16)
blobs = st.lists(st.tuples(st.binary(max_size=300), st.sampled_from(codecs.KINDS)), max_size=8)


def packed(contents: list[tuple[bytes, str]], keys: Keys = KEYS, room: int = 1 << 16) -> tuple[Pack, bytes]:
    """A pack of these blobs; its buffer was used before, so that it is full of other bytes."""
    pack = OpenPack(keys, bytearray(b"\xaa" * room))
    for plain, kind in contents:
        codec, payload = codecs.encode(plain, kind)
        blob = pack.reserve(keys.identify(plain), codec, len(plain), len(payload))
        assert blob is not None
        pack.fill(blob, payload)
    finished, content = pack.finish()
    return finished, bytes(content)


def opened(keys: Keys, pack: Pack, content: bytes) -> list[bytes]:
    reader = PackReader(keys, pack.id, pack.salt)
    return [reader.open(blob, content[blob.offset : blob.offset + blob.stored]) for blob in pack.blobs]


@settings(max_examples=100, deadline=None)
@given(blobs)
def test_a_pack_gives_its_blobs_back(contents) -> None:
    pack, content = packed(contents)
    assert pack.id == content_hash(content).hex()
    assert pack.size == len(content)
    assert opened(KEYS, pack, content) == [plain for plain, _ in contents]
    assert read_pack(KEYS, pack.name, content) == pack
    assert read_directory(KEYS, pack.name, len(content), lambda at, length: content[at : at + length]) == pack


def test_one_blob_after_another_needs_the_room_of_one_pack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whoever stores little at a time holds one pack in memory, however many he writes."""
    rooms: list[int] = []
    made = repository_packs._room
    monkeypatch.setattr(repository_packs, "_room", lambda size: rooms.append(size) or made(size))
    monkeypatch.setattr(repository_packs, "PACK_BYTES", 4_000)
    contents = [np.random.default_rng(number).bytes(1_500) for number in range(20)]
    with BlobWriter(open_store(str(tmp_path)), KEYS, BlobIndex()) as writer:
        for content in contents:
            writer.submit(content, "bytes").result()
        written = writer.close()
    assert len(written) == 10
    assert rooms == [4_000]
    stored = [plain for pack in written for plain in opened(KEYS, pack, (tmp_path / pack.name).read_bytes())]
    assert stored == contents


@pytest.mark.parametrize(("idle", "left"), [(0.0, 1), (3600.0, 2)])
def test_the_room_of_a_second_pack_goes_back_once_nobody_needs_it(idle: float, left: int, monkeypatch, tmp_path: Path) -> None:
    """While one pack was on its way another was begun; later one at a time is written again."""
    rooms: list[weakref.ref[mmap.mmap]] = []
    made = repository_packs._room

    def noted(size: int) -> mmap.mmap:
        room = made(size)
        rooms.append(weakref.ref(room))
        return room

    monkeypatch.setattr(repository_packs, "_room", noted)
    monkeypatch.setattr(repository_packs, "PACK_BYTES", 4_000)
    monkeypatch.setattr(repository_writer, "_IDLE_SECONDS", idle)
    store, go_on = open_store(str(tmp_path)), threading.Event()
    create = store.create
    monkeypatch.setattr(store, "create", lambda *asked: go_on.wait(30) and create(*asked))
    draw = np.random.default_rng(1)
    with BlobWriter(store, KEYS, BlobIndex()) as writer:
        stored = [writer.submit(draw.bytes(1_500), "bytes") for _ in range(3)]
        while len(rooms) < 2:
            stored.append(writer.submit(draw.bytes(100), "bytes"))
            time.sleep(0.01)
        go_on.set()
        for one in stored:
            one.result()
        writer.submit(draw.bytes(100), "bytes").result()
        gc.collect()
        assert sum(room() is not None for room in rooms) == left
        writer.close()


def test_a_blob_larger_than_the_buffer_gets_a_pack_of_its_own() -> None:
    plain = np.random.default_rng(1).bytes(5_000)
    pack, content = packed([(plain, "bytes")], room=100)
    assert opened(KEYS, pack, content) == [plain]
    full = OpenPack(KEYS, bytearray(1_000))
    assert full.reserve(bytes(32), 0, 500, 500) is not None
    assert full.reserve(bytes(32), 0, 500, 500) is None


def test_every_flipped_byte_of_a_pack_is_found() -> None:
    """By its name; and where nobody looks at that, by what is encrypted: no blob is ever silently another one."""
    contents = [(b"first " * 9, "text"), (b"", "bytes"), (np.arange(40, dtype=np.float32).tobytes(), "float32")]
    pack, content = packed(contents)
    for place in range(len(content)):
        altered = bytearray(content)
        altered[place] ^= 1
        with pytest.raises(Damaged):
            read_pack(KEYS, pack.name, bytes(altered))
        hit = [blob for blob in pack.blobs if blob.offset <= place < blob.offset + blob.stored]
        for blob in hit:
            with pytest.raises(Damaged):
                PackReader(KEYS, pack.id, pack.salt).open(blob, bytes(altered[blob.offset : blob.offset + blob.stored]))
        if not hit:
            with pytest.raises(Damaged):
                read_directory(KEYS, pack.name, len(altered), lambda at, length, now=altered: bytes(now[at : at + length]))


@settings(max_examples=100, deadline=None)
@given(blobs.filter(bool), st.data())
def test_a_truncated_pack_is_damage(contents, data) -> None:
    pack, content = packed(contents)
    short = content[: data.draw(st.integers(0, len(content) - 1))]
    for name in (pack.name, pack_name(content_hash(short).hex())):
        with pytest.raises(Damaged):
            read_pack(KEYS, name, short)


@pytest.mark.parametrize("part", ["id", "codec", "plain", "number"])
def test_a_blob_is_bound_to_what_is_said_of_it(part: str) -> None:
    pack, content = packed([(b"first text", "text"), (b"other text", "text")])
    first, other = pack.blobs
    wrong = dataclasses.replace(first, **{part: other.id if part == "id" else getattr(first, part) + 1})
    with pytest.raises(Damaged):
        PackReader(KEYS, pack.id, pack.salt).open(wrong, content[first.offset : first.offset + first.stored])


def test_a_blob_that_was_sealed_under_the_id_of_another_is_damage() -> None:
    """It decrypts and decodes: only its hash tells. A restore relies on that, and doesn't read back what it writes."""
    plain = b"not what its id says"
    open_pack = OpenPack(KEYS, bytearray(1 << 12))
    place = open_pack.reserve(KEYS.identify(b"something else"), codecs.RAW, len(plain), len(plain))
    assert place is not None
    open_pack.fill(place, plain)
    pack, content = open_pack.finish()
    with pytest.raises(Damaged, match="not what its id says"):
        opened(KEYS, pack, bytes(content))


def test_swapped_blobs_are_damage() -> None:
    pack, content = packed([(b"first text", "text"), (b"other text", "text")])
    first, other = pack.blobs
    with pytest.raises(Damaged):
        PackReader(KEYS, pack.id, pack.salt).open(first, content[other.offset : other.offset + other.stored])


@pytest.mark.parametrize("keys", [FOREIGN, MOVED], ids=["another master key", "another repository id"])
def test_another_repository_cannot_read_it(keys: Keys) -> None:
    pack, content = packed([(b"text", "text")])
    with pytest.raises(Damaged):
        read_pack(keys, pack.name, content)
    with pytest.raises(Damaged):
        opened(keys, pack, content)


def test_no_plain_byte_is_in_a_pack() -> None:
    plain = b"a sentence that nobody should read"
    _, content = packed([(plain, "bytes"), (plain * 2, "text")])
    assert plain[:8] not in content
    assert KEYS.identify(plain) not in content


blob_entries = st.tuples(
    st.binary(min_size=32, max_size=32), st.integers(0, 255), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)
)


@st.composite
def packs(draw) -> Pack:
    found, offset = [], 38
    for number, (blob_id, codec, plain, stored) in enumerate(draw(st.lists(blob_entries, max_size=5))):
        found.append(Blob(blob_id, codec, plain, offset, stored, number))
        offset += stored
    pack_id, salt = draw(st.binary(min_size=32, max_size=32)), draw(st.binary(min_size=32, max_size=32))
    pack = Pack(pack_id.hex(), salt, draw(st.integers(0, 2**64 - 1)), directory_of(found))
    assert pack.blobs == tuple(found) == tuple(pack.blob(number) for number in range(len(found)))
    return pack


@settings(max_examples=100, deadline=None)
@given(st.lists(packs(), max_size=5))
def test_index_objects_give_their_packs_back(content: list[Pack]) -> None:
    assert list(blob_index.decode("index/x", blob_index.encode(content))) == content


@settings(max_examples=200, deadline=None)
@given(st.lists(packs(), min_size=1, max_size=3), st.data())
def test_a_shortened_index_is_damage_or_fewer_packs(content: list[Pack], data) -> None:
    whole = blob_index.encode(content)
    short = whole[: data.draw(st.integers(0, len(whole) - 1))]
    with contextlib.suppress(Damaged):
        found = list(blob_index.decode("index/x", short))
        assert found == content[: len(found)]
        assert len(found) < len(content)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_garbage_is_damage_or_packs_and_never_another_error(garbage: bytes) -> None:
    with contextlib.suppress(Damaged):
        list(blob_index.decode("index/x", garbage))
    name = content_hash(garbage).hex()
    for kind in Kind:
        with pytest.raises(Damaged):
            unseal(KEYS, kind, f"x/{name}", garbage)
    with pytest.raises(Damaged):
        read_pack(KEYS, pack_name(name), garbage)


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([Kind.INDEX, Kind.SNAPSHOT]))
def test_a_sealed_object_opens_as_what_it_is(plain: bytes, kind: Kind) -> None:
    name, content = seal(KEYS, kind, plain)
    assert unseal(KEYS, kind, f"x/{name}", content) == plain
    for keys, other in ((FOREIGN, kind), (MOVED, kind), *((KEYS, one) for one in Kind if one != kind)):
        with pytest.raises(Damaged):
            unseal(keys, other, f"x/{name}", content)


def test_every_flipped_byte_of_a_sealed_object_is_found_even_under_a_fitting_name() -> None:
    name, content = seal(KEYS, Kind.INDEX, b"plain " * 5)
    for place in range(len(content)):
        altered = bytearray(content)
        altered[place] ^= 0x80
        for fitting in (name, content_hash(altered).hex()):
            with pytest.raises(Damaged):
                unseal(KEYS, Kind.INDEX, f"index/{fitting}", bytes(altered))


def test_the_same_plain_bytes_are_never_sealed_alike() -> None:
    assert seal(KEYS, Kind.INDEX, b"same") != seal(KEYS, Kind.INDEX, b"same")
    assert packed([(b"same", "bytes")])[1] != packed([(b"same", "bytes")])[1]
