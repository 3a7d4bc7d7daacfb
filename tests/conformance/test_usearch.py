"""Does the USearch engine keep and give back what usearch itself says is in an index? Seeded and inspected with raw usearch."""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from usearch.index import Index

import strongroom
from strongroom.engines.usearch import Usearch
from strongroom.engines.usearch.layout import NotAnIndex, order_of, parse
from strongroom.errors import SourceChanged, Unreadable
from strongroom.model import Region
from strongroom.progress import SILENT
from strongroom.repository import Argon2Cost

DIMENSION = 32
ROWS = 700
DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "i8": "int8", "u8": "uint8"}
SHAPES = ["plain", "empty", "own keys", "threads", "removed", "reused", "all removed"]


def vectors(count: int = ROWS, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype(np.float32)


def built(shape: str, dtype: str = "f32", metric: str = "l2sq") -> Index:
    """An index in one of the states that users' indexes are in."""
    index = Index(ndim=DIMENSION, metric=metric, dtype=dtype, connectivity=6, expansion_add=40)
    if shape == "empty":
        return index
    keys = np.random.default_rng(5).permutation(ROWS).astype(np.int64) * 11 + 10**12 if shape == "own keys" else np.arange(ROWS)
    index.add(keys, np.abs(vectors()) if dtype == "u8" else vectors(), threads=4 if shape == "threads" else 1)
    if shape in ("removed", "reused"):
        index.remove([0, 3, 4, ROWS - 1])
    if shape == "reused":
        index.add(np.arange(ROWS, ROWS + 3), vectors(3, 9), threads=1)
    if shape == "all removed":
        index.remove(list(range(ROWS)))
    return index


def saved(index: Index, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    index.save(str(path))
    return rested(path)


def rested(path: Path) -> Path:
    os.utime(path, (1, 1))  # long at rest
    return path


def freeze(path: Path):
    return Usearch().source(f"usearch://{path}").freeze(SILENT)


def bare(column: pa.Array) -> bytes:
    values = column if pa.types.is_fixed_size_binary(column.type) else column.flatten()
    width = values.type.bit_width // 8
    return memoryview(values.buffers()[1])[values.offset * width : (values.offset + len(values)) * width].tobytes()


def live_rows(frozen) -> dict[int, bytes]:
    """Id -> bytes of the vector, as they lie in the index."""
    found = {}
    for block in frozen.rows(frozen.description.collections[0].name):
        batch = block.live()
        content = bare(batch.column("vector"))
        width = len(content) // max(1, batch.num_rows)
        ids = batch.column("id").to_pylist()
        found.update({one: content[row * width : (row + 1) * width] for row, one in enumerate(ids)})
    return found


def raw_live(path: Path, dtype: str) -> dict[int, bytes]:
    index = Index.restore(str(path))
    number = np.dtype({"f32": "f4", "f16": "f2", "bf16": "u2", "i8": "i1", "u8": "u1"}[dtype])
    return {int(key): _raw_vector(index, int(key), dtype, number) for key in index.keys}


def _raw_vector(index: Index, key: int, dtype: str, number: np.dtype) -> bytes:
    if dtype == "bf16":
        return (np.asarray(index.get(key, "f32"), np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()
    return np.asarray(index.get(key, dtype)).astype(number).tobytes()


@pytest.fixture
def room(tmp_path: Path) -> strongroom.Strongroom:
    return strongroom.init(str(tmp_path / "repository"), password="x", cost=Argon2Cost(1, 1, 64))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_rows_files_and_answers_are_those_of_usearch(shape: str, dtype: str, tmp_path: Path) -> None:
    metric = {"f32": "l2sq", "f16": "ip"}.get(dtype, "cos")
    path = saved(built(shape, dtype, metric), tmp_path / "index.usearch")
    with freeze(path) as frozen:
        rows = live_rows(frozen)
        assert rows == raw_live(path, dtype)
        field = frozen.description.collections[0].fields[0]
        assert frozen.description.collections[0].count == len(rows)
        assert (field.dtype, field.dimension) == (DTYPES[dtype], DIMENSION)
        assert field.metric == {"l2sq": "l2", "ip": "ip", "cos": "cosine"}[metric]
        asked = np.rint(25 * vectors(20, 77)) if dtype in ("i8", "u8") else vectors(20, 77)
        asked = np.abs(asked) if dtype == "u8" else asked
        answers = frozen.search("index", "vector", asked, 10)
        assert_covered(frozen, path)
        frozen.check()
    index = Index.restore(str(path))
    found = index.search(asked.astype({"i8": np.int8, "u8": np.uint8}.get(dtype, np.float32)), 10)
    for place in range(len(asked)):
        assert answers.ids[place] == tuple(found[place].keys.tolist())
        assert answers.distances[place].tobytes() == found[place].distances.tobytes()
    assert all(answers.ids) == bool(rows)


def assert_covered(frozen, path: Path) -> None:
    """Regions are the file, and those of vectors are the blocks' columns."""
    artifact, content = frozen.artifacts()[0], path.read_bytes()
    regions: list[Region] = list(artifact.regions())
    assert b"".join(artifact.read(one.offset, one.length) for one in regions) == content
    assert len({one.key for one in regions}) == len(regions)
    blocks = [bare(block.batch.column("vector")) for block in frozen.rows("index")]
    columns = [one for one in regions if one.column]
    assert [one.block for one in columns] == list(range(len(blocks)))
    assert [content[one.offset : one.offset + one.length] for one in columns] == blocks


def test_nodes_of_several_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("strongroom.engines.protocol.BLOCK_BYTES", 64 * 4 * DIMENSION)
    monkeypatch.setattr("strongroom.engines.usearch.layout.BLOCK_BYTES", 999)
    monkeypatch.setattr("strongroom.engines.usearch.layout._PIECE", 100)
    path = saved(built("own keys"), tmp_path / "index.usearch")
    with freeze(path) as frozen:
        assert len(list(frozen.rows("index"))) == -(-ROWS // 64)
        assert live_rows(frozen) == raw_live(path, "f32")
        assert_covered(frozen, path)


@pytest.mark.parametrize(("shape", "dtype"), [("reused", "f32"), ("threads", "bf16"), ("own keys", "i8"), ("empty", "f16")])
def test_files_come_back_byte_for_byte_and_rows_into_a_new_index(
    shape: str, dtype: str, room: strongroom.Strongroom, tmp_path: Path
) -> None:
    path = saved(built(shape, dtype, "cos"), tmp_path / "src" / "index.usearch")
    room.backup(f"usearch://{path}")
    report = room.restore("latest", f"usearch://{tmp_path}/out/other.usearch", require_exact=True)
    assert (tmp_path / "out" / "other.usearch").read_bytes() == path.read_bytes()
    assert shape == "empty" or any("bit for bit" in check for check in report.checks)
    out = tmp_path / "out" / "new.usearch"
    room.restore("latest", f"usearch://{out}", rung=strongroom.Rung.REBUILD)
    assert raw_live(out, dtype) == raw_live(path, dtype)
    assert shape == "empty" or Index.restore(str(out)).connectivity == 6


def test_a_key_of_several_rows_numbers_them(room: strongroom.Strongroom, tmp_path: Path) -> None:
    index = Index(ndim=DIMENSION, metric="ip", dtype="f32", multi=True)
    index.add(np.arange(ROWS) // 3, vectors(), threads=1)
    path = saved(index, tmp_path / "src" / "index.usearch")
    with freeze(path) as frozen:
        rows = live_rows(frozen)
        assert list(rows.values()) == [one.tobytes() for one in vectors()]
        asked = vectors(40, 8)
        answers = frozen.search("index", "vector", asked, 10)
        for ids, distances, query in zip(answers.ids, answers.distances, asked, strict=True):
            assert len(set(ids)) == 10
            assert np.allclose(1 - np.stack([vectors()[one] for one in ids]) @ query, distances, atol=1e-4)
    room.backup(f"usearch://{path}")
    room.restore("latest", f"usearch://{tmp_path}/out/x.usearch", require_exact=True)
    assert (tmp_path / "out" / "x.usearch").read_bytes() == path.read_bytes()


def test_records_follow_their_keys(tmp_path: Path) -> None:
    """Several threads put vectors in any order; removed ones leave records without a row."""
    for shape, first in (("threads", 0), ("removed", 0), ("reused", 3)):
        path = saved(built(shape), tmp_path / f"{shape}.usearch")
        everything = list(range(ROWS + first))
        pq.write_table(pa.table({"document": [f"text {one}" for one in everything]}), path.with_suffix(".parquet"))
        rested(path.with_suffix(".parquet"))
        with freeze(path) as frozen:
            for block in frozen.rows(shape):
                batch = block.live()
                assert batch.column("document").to_pylist() == [f"text {one}" for one in batch.column("id").to_pylist()]
                assert batch.num_rows == len(Index.restore(str(path)))
    pq.write_table(pa.table({"document": ["x"] * (ROWS + 99)}), path.with_suffix(".parquet"))
    rested(path.with_suffix(".parquet"))
    with pytest.raises(SourceChanged), freeze(path):
        pass


@pytest.mark.parametrize("shape", ["plain", "threads", "own keys"])
def test_an_array_beside_the_index_takes_no_room(shape: str, room: strongroom.Strongroom, tmp_path: Path) -> None:
    path = saved(built(shape), tmp_path / "src" / "index.usearch")
    room.backup(f"usearch://{path}")
    np.save(path.with_suffix(".npy"), vectors())
    content = rested(path.with_suffix(".npy")).read_bytes()
    report = room.backup(f"usearch://{path}")
    assert report.snapshot.manifest.stored_bytes < len(content) / 5
    room.restore("latest", f"usearch://{tmp_path}/out/x.usearch", require_exact=True)
    assert (tmp_path / "out" / "x.npy").read_bytes() == content


@pytest.mark.parametrize("dtype", ["f64", "e5m2", "b1"])
def test_numbers_that_no_row_can_hold_are_refused(dtype: str, tmp_path: Path) -> None:
    index = Index(ndim=DIMENSION, metric="hamming" if dtype == "b1" else "cos", dtype=dtype)
    index.add(np.arange(9), np.packbits(vectors(9) > 0, axis=1) if dtype == "b1" else vectors(9))
    path = saved(index, tmp_path / "index.usearch")
    with pytest.raises(Unreadable, match="only f32, f16, bf16, i8 and u8"), freeze(path):
        pass


@pytest.mark.parametrize("cut", [0, 7, 8, 2000, 90_000, -4, -1, "longer"])
def test_what_is_not_a_whole_index_is_refused(cut: int | str, tmp_path: Path) -> None:
    path = saved(built("plain"), tmp_path / "index.usearch")
    content = path.read_bytes()
    path.write_bytes(content + b"\0" if cut == "longer" else content[:cut])
    rested(path)
    with pytest.raises(Unreadable, match="index"), freeze(path):
        pass


_WHOLE: list[bytes] = []


def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    if not _WHOLE:
        index = Index(ndim=4, metric="l2sq", dtype="f32", connectivity=3)
        index.add(np.arange(60), vectors(60)[:, :4], threads=1)
        _WHOLE.append(saved(index, tmp_path_factory.mktemp("whole") / "x.usearch").read_bytes())
    return _WHOLE[0]


def understood(content: bytes) -> None:
    def read(offset: int, length: int) -> bytes:
        assert 0 <= offset <= offset + length <= len(content), "nothing is read that isn't there"
        return content[offset : offset + length]

    layout = parse(read, len(content))
    order = order_of(layout, read)
    assert order.count * 10 < len(content)
    assert sum(one.length for one in layout.regions()) == len(content)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1 << 20), st.binary(min_size=1, max_size=9)), min_size=1, max_size=4),
    st.integers(0, 1 << 20),
    st.booleans(),
)
def test_no_damage_leads_the_parser_astray(tmp_path_factory, patches, length, shorten) -> None:
    content = bytearray(whole(tmp_path_factory))
    for offset, patch in patches:
        heads = 968 + offset % 240 if offset % 3 else offset % len(content)
        content[heads : heads + len(patch)] = patch
    with suppress(NotAnIndex):
        understood(bytes(content[: length % len(content)] if shorten else content))


def test_lengths_are_not_believed(tmp_path_factory) -> None:
    content = whole(tmp_path_factory)
    understood(content)
    head = 8 + 60 * 16
    assert content[head : head + 7] == b"usearch"
    for place, form, value in (
        *((0, "<I", 61), (4, "<I", 17), (head + 17, "<Q", 1 << 62), (head + 33, "<Q", 1 << 63), (head + 64, "<Q", 1 << 61)),
        *((head + 72, "<Q", 1 << 40), (head + 80, "<Q", 0), (head + 104, "<H", 0x7FFF), (head + 104, "<h", -1)),
    ):
        damaged = bytearray(content)
        struct.pack_into(form, damaged, place, value)
        with pytest.raises(NotAnIndex):
            understood(bytes(damaged))
