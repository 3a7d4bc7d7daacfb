"""Does the hnswlib engine keep and give back what hnswlib itself says is in an index? Seeded and inspected with raw hnswlib."""

from __future__ import annotations

import json
import os
import shutil
import struct
from contextlib import suppress
from pathlib import Path

import hnswlib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import strongroom
from strongroom.engines.hnswlib import Hnswlib
from strongroom.engines.hnswlib.layout import NotAnIndex, check_upper, order_of, parse
from strongroom.engines.indexfile.held import OpenFile
from strongroom.errors import Refused, SourceChanged, Unreadable, WrongRequest
from strongroom.model import Region, Status
from strongroom.progress import SILENT
from strongroom.repository import Argon2Cost
from strongroom.snapshots.manifest import Part

DIMENSION = 32
ROWS = 700


def vectors(count: int = ROWS, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype(np.float32)


def built(shape: str, space: str) -> hnswlib.Index:
    """An index in one of the states that users' indexes are in."""
    index = hnswlib.Index(space, DIMENSION)
    index.init_index(2 * ROWS if shape == "roomy" else ROWS, M=6, ef_construction=40, allow_replace_deleted=True)
    if shape == "empty":
        return index
    labels = np.random.default_rng(5).permutation(ROWS).astype(np.int64) * 11 + 10**12 if shape == "own labels" else np.arange(ROWS)
    index.add_items(vectors(), labels, num_threads=4 if shape == "threads" else 1)
    if shape in ("deleted", "replaced"):
        for label in (0, 3, 4, ROWS - 1):
            index.mark_deleted(label)
    if shape == "replaced":
        index.add_items(vectors(3, 9), np.arange(ROWS, ROWS + 3), replace_deleted=True, num_threads=1)
    if shape == "updated":
        index.add_items(vectors(20, 10), np.arange(50, 70), num_threads=1)
    if shape == "grown":
        index.resize_index(ROWS + 50)
        index.add_items(vectors(50, 11), np.arange(ROWS, ROWS + 50), num_threads=1)
    if shape == "all deleted":
        for label in range(ROWS):
            index.mark_deleted(label)
    return index


SHAPES = ["plain", "roomy", "empty", "own labels", "threads", "deleted", "replaced", "updated", "grown", "all deleted"]


def saved(index: hnswlib.Index, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    index.save_index(str(path))
    return rested(path)


def rested(path: Path) -> Path:
    os.utime(path, (1, 1))  # long at rest
    return path


def freeze(path: Path, query: str = ""):
    return Hnswlib().source(f"hnswlib://{path}{query}").freeze(SILENT)


def live_rows(frozen) -> dict[int, bytes]:
    """Id -> bytes of the vector."""
    found = {}
    for block in frozen.rows(frozen.description.collections[0].name):
        batch = block.live()
        matrix = np.asarray(batch.column("vector").flatten(), np.float32).reshape(batch.num_rows, DIMENSION)
        found.update(zip(batch.column("id").to_pylist(), [row.tobytes() for row in matrix], strict=True))
    return found


def raw_live(path: Path, space: str, labels: list[int]) -> dict[int, bytes]:
    """What hnswlib itself gives for those of the labels that aren't deleted."""
    index = hnswlib.Index(space, DIMENSION)
    index.load_index(str(path))
    found = {}
    for label in labels:
        try:
            found[label] = np.asarray(index.get_items([label]), np.float32).tobytes()
        except RuntimeError:  # deleted
            continue
    return found


@pytest.fixture
def room(tmp_path: Path) -> strongroom.Strongroom:
    return strongroom.init(str(tmp_path / "repository"), password="x", cost=Argon2Cost(1, 1, 64))


@pytest.mark.parametrize("space", ["l2", "cosine", "ip"])
@pytest.mark.parametrize("shape", SHAPES)
def test_rows_files_and_answers_are_those_of_hnswlib(shape: str, space: str, tmp_path: Path) -> None:
    index = built(shape, space)
    path = saved(index, tmp_path / "index.bin")
    asked = vectors(20, 77)
    with freeze(path, f"?space={space}&ef=40") as frozen:
        assert live_rows(frozen) == raw_live(path, space, list(index.get_ids_list()))
        assert frozen.description.collections[0].count == len(live_rows(frozen))
        field = frozen.description.collections[0].fields[0]
        assert (field.metric, field.dimension, field.index["M"], field.index["ef"]) == (space, DIMENSION, 6, 40)
        answers = frozen.search("index", "vector", asked, 10)
        assert_covered(frozen, path)
        frozen.check()
    if shape in ("empty", "all deleted"):
        assert answers.ids == ((),) * len(asked)
        return
    again = hnswlib.Index(space, DIMENSION)
    again.load_index(str(path))
    again.set_ef(40)
    labels, distances = again.knn_query(asked, 10)
    assert answers.ids == tuple(tuple(row) for row in labels.tolist())
    assert [one.tobytes() for one in answers.distances] == [one.tobytes() for one in distances]


def assert_covered(frozen, path: Path) -> None:
    """Regions are the file, and those of level 0 hold the blocks' vectors."""
    artifact, content = frozen.artifacts()[0], path.read_bytes()
    regions: list[Region] = list(artifact.regions())
    assert b"".join(artifact.read(one.offset, one.length) for one in regions) == content
    assert len({one.key for one in regions}) == len(regions)
    blocks = [np.asarray(block.batch.column("vector").flatten()).tobytes() for block in frozen.rows("index")]
    strided = [one for one in regions if one.stride]
    assert [one.block for one in strided] == list(range(len(blocks)))
    for one, block in zip(strided, blocks, strict=True):
        records = np.frombuffer(content[one.offset : one.offset + one.length], np.uint8).reshape(-1, one.stride)
        assert records[:, one.vector_offset : one.vector_offset + one.vector_length].tobytes() == block


def test_rows_of_several_blocks_are_cut_where_regions_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("strongroom.engines.protocol.BLOCK_BYTES", 64 * 4 * DIMENSION)
    path = saved(built("replaced", "l2"), tmp_path / "index.bin")
    with freeze(path) as frozen:
        assert len(list(frozen.rows("index"))) == -(-ROWS // 64)
        assert_covered(frozen, path)
        matrix = frozen.artifacts()[0].known.matrix
        whole = matrix.read(0, matrix.length)
        assert whole == b"".join(np.asarray(b.batch.column("vector").flatten()).tobytes() for b in frozen.rows("index"))
        assert matrix.read(1001, 5000) == whole[1001:6001]


def test_what_is_read_with_the_rows_is_stored_as_if_read_for_the_file(
    room: strongroom.Strongroom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But read once less: in a first snapshot, after changes, and when nothing changed."""
    monkeypatch.setattr("strongroom.engines.protocol.BLOCK_BYTES", 64 * 4 * DIMENSION)
    shutil.copytree(tmp_path / "repository", tmp_path / "same keys")
    other = strongroom.open(str(tmp_path / "same keys"), password="x")
    path = tmp_path / "src" / "index.bin"
    with_rows = stored_parts(room, path, tmp_path / "a", monkeypatch, passes=2)
    monkeypatch.setattr("strongroom.engines.hnswlib.freeze.Records", lambda *_: None)
    assert with_rows == stored_parts(other, path, tmp_path / "b", monkeypatch, passes=3)
    assert any(part.differences for parts in with_rows for part in parts)


def stored_parts(
    room: strongroom.Strongroom, path: Path, place: Path, monkeypatch: pytest.MonkeyPatch, passes: int
) -> list[tuple[Part, ...]]:
    """The parts of an index in four snapshots, each of which restores, and read level 0 so many times."""
    monkeypatch.setenv("STRONGROOM_STATE_DIR", str(place / "state"))
    read, reading, found = list[tuple[int, int]](), OpenFile.read, list[tuple[Part, ...]]()

    def counted(file: OpenFile, offset: int, length: int) -> bytes:
        read.append((offset, length))
        return reading(file, offset, length)

    for shape in ("plain", "updated", "updated", "deleted"):
        saved(built(shape, "l2"), path)
        with monkeypatch.context() as patched:
            patched.setattr(OpenFile, "read", counted)
            read.clear()
            found.append(room.backup(f"hnswlib://{path}?space=l2", reread=True).snapshot.manifest.artifacts[0].parts)
        layout = parse(lambda offset, length: path.read_bytes()[offset:][:length], path.stat().st_size)
        level0 = sum(length for offset, length in read if layout.place(0) <= offset < layout.upper)
        assert level0 == passes * ROWS * layout.stride
        room.restore("latest", f"hnswlib://{place}/out.bin", overwrite=True)
        assert (place / "out.bin").read_bytes() == path.read_bytes()
    return found


@pytest.mark.parametrize("shape", ["replaced", "threads", "own labels", "empty"])
def test_files_come_back_byte_for_byte(shape: str, room: strongroom.Strongroom, tmp_path: Path) -> None:
    path = saved(built(shape, "cosine"), tmp_path / "src" / "index.bin")
    room.backup(f"hnswlib://{path}?space=cosine")
    report = room.restore("latest", f"hnswlib://{tmp_path}/out/other.bin", require_exact=True)
    assert (tmp_path / "out" / "other.bin").read_bytes() == path.read_bytes()
    assert json.loads((tmp_path / "out" / "other.bin.json").read_text()) == {"space": "cosine", "dim": DIMENSION, "ef": 64}
    assert shape == "empty" or any("bit for bit" in check for check in report.checks)
    room.backup(f"hnswlib://{tmp_path}/out/other.bin")
    first, second = (one.manifest.collections[0] for one in room.snapshots())
    assert (first.rows_root, first.catalog.fields) == (second.rows_root, second.catalog.fields)


def test_rows_are_built_into_an_index_again(room: strongroom.Strongroom, tmp_path: Path) -> None:
    for shape, space in (("own labels", "ip"), ("replaced", "cosine")):
        path = saved(built(shape, space), tmp_path / shape / "index.bin")
        room.backup(f"hnswlib://{path}?space={space}")
        with freeze(path, f"?space={space}") as frozen:
            expected = live_rows(frozen)
        out = tmp_path / "out" / shape / "new.bin"
        room.restore("latest", f"hnswlib://{out}", rung=strongroom.Rung.REBUILD)
        found = raw_live(out, space, list(expected))
        assert found.keys() == expected.keys()
        if space == "ip":
            assert found == expected


# -- which space ------------------------------------------------------------------------------------------------------------


def test_the_space_is_taken_from_the_file_beside_the_index(tmp_path: Path) -> None:
    path = saved(built("plain", "ip"), tmp_path / "index.bin")
    (tmp_path / "index.bin.json").write_text('{"space": "ip", "ef": 33}')
    rested(tmp_path / "index.bin.json")
    with freeze(path) as frozen:
        field = frozen.description.collections[0].fields[0]
        assert (field.metric, field.index["ef"]) == ("ip", 33)
        assert [one.path for one in frozen.artifacts()] == ["index.bin", "index.bin.json"]
    with pytest.raises(WrongRequest, match="space=cosine"), freeze(path, "?space=cosine"):
        pass


def test_a_space_that_nobody_said_is_named_in_the_ledger(tmp_path: Path) -> None:
    path = saved(built("plain", "l2"), tmp_path / "index.bin")
    with freeze(path) as frozen:
        item = next(one for one in frozen.description.ledger if one.item == "space")
        assert (item.status, frozen.description.collections[0].fields[0].metric) == (Status.NOT_OFFERED, "l2")
        assert "nobody said" in item.note
        assert len(frozen.artifacts()) == 1


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"space": "hamming"}', '{"space": "l2", "dim": 31}', "{", '{"space": "l2", "ef": -1}']
)
def test_a_file_that_says_nonsense_of_the_space(text: str, tmp_path: Path) -> None:
    path = saved(built("plain", "l2"), tmp_path / "index.bin")
    (tmp_path / "index.bin.json").write_text(text)
    rested(tmp_path / "index.bin.json")
    with pytest.raises(Unreadable, match=r"index\.bin\.json"), freeze(path):
        pass


@pytest.mark.parametrize("query", ["?space=hamming", "?space", "?speed=1", "?ef=0", "?ef=x", "?ef=-3", "?cosine"])
def test_urls_that_ask_for_what_there_isnt(query: str) -> None:
    with pytest.raises(WrongRequest):
        Hnswlib().source(f"hnswlib:///srv/index.bin{query}")


def test_a_target_takes_no_space(tmp_path: Path) -> None:
    with pytest.raises(WrongRequest, match="gives a space to a target"):
        Hnswlib().target(f"hnswlib://{tmp_path}/index.bin?space=l2")


# -- what lies beside ---------------------------------------------------------------------------------------------------------


def beside(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path.with_suffix(".parquet"))
    return rested(path.with_suffix(".parquet"))


def texts(frozen) -> dict[object, str]:
    found: dict[object, str] = {}
    for block in frozen.rows("index"):
        batch = block.live()
        found.update(zip(batch.column("id").to_pylist(), batch.column("document").to_pylist(), strict=True))
    return found


def test_records_of_deleted_rows_may_stay_in_the_sidecar(tmp_path: Path) -> None:
    """By position and by id: each row that is left has its own document."""
    path = saved(built("replaced", "l2"), tmp_path / "index.bin")
    live = sorted({*range(ROWS + 3)} - {0, 3, 4, ROWS - 1})
    everything = list(range(ROWS + 3))
    for columns in (
        {"document": [f"text {one}" for one in everything]},
        {"id": everything[::-1], "document": [f"text {one}" for one in everything[::-1]]},
        {"id": live[::-1], "document": [f"text {one}" for one in live[::-1]]},
    ):
        beside(path, **columns)
        with freeze(path) as frozen:
            assert texts(frozen) == {one: f"text {one}" for one in live}


def test_text_ids_of_a_sidecar_name_rows_and_answers(tmp_path: Path) -> None:
    path = saved(built("deleted", "l2"), tmp_path / "index.bin")
    beside(path, id=[f"name {one}" for one in range(ROWS)], document=[f"text {one}" for one in range(ROWS)])
    with freeze(path) as frozen:
        found = texts(frozen)
        assert found == {f"name {one}": f"text {one}" for one in range(ROWS) if one not in (0, 3, 4, ROWS - 1)}
        answers = frozen.search("index", "vector", vectors()[[7, 3]], 3)
        assert answers.ids[0][0] == "name 7"
        assert "name 3" not in answers.ids[1]


def test_a_sidecar_without_the_deleted_rows_is_not_joined_by_position(tmp_path: Path) -> None:
    """Its records are not at their labels' places: another row's document would be taken for a row's own."""
    path = saved(built("deleted", "l2"), tmp_path / "index.bin")
    beside(path, document=[f"text {one}" for one in range(ROWS) if one not in (0, 3, 4, ROWS - 1)])
    with freeze(path) as frozen:
        assert "document" not in frozen.schema.names
        assert any(one.status is Status.NOT_CAPTURED for one in frozen.description.ledger)


@pytest.mark.parametrize(("shape", "records"), [("plain", ROWS + 1), ("plain", ROWS - 1), ("deleted", ROWS + 1), ("own labels", 9)])
def test_a_sidecar_of_another_moment_is_refused(shape: str, records: int, tmp_path: Path) -> None:
    path = saved(built(shape, "l2"), tmp_path / "index.bin")
    beside(path, document=["x"] * records)
    with pytest.raises(SourceChanged, match="records"), freeze(path):
        pass


@pytest.mark.parametrize("order", ["same", "other", "foreign"])
@pytest.mark.parametrize("shape", ["plain", "deleted"])
def test_an_array_beside_the_index_comes_back_and_takes_no_room(
    shape: str, order: str, room: strongroom.Strongroom, tmp_path: Path
) -> None:
    path = saved(built(shape, "l2"), tmp_path / "src" / "index.bin")
    kept = {"same": vectors(), "other": vectors()[::-1], "foreign": vectors(ROWS, 99)}[order]
    room.backup(f"hnswlib://{path}?space=l2")
    np.save(path.with_suffix(".npy"), np.ascontiguousarray(kept))
    content = rested(path.with_suffix(".npy")).read_bytes()
    report = room.backup(f"hnswlib://{path}?space=l2")
    room.restore("latest", f"hnswlib://{tmp_path}/out/new.bin", require_exact=True)
    assert (tmp_path / "out" / "new.npy").read_bytes() == content
    stored = report.snapshot.manifest.stored_bytes
    assert stored > len(content) / 2 if order == "foreign" else stored < len(content) / 5


def test_other_arrays_are_kept_as_plain_bytes(room: strongroom.Strongroom, tmp_path: Path) -> None:
    path = saved(built("plain", "l2"), tmp_path / "src" / "index.bin")
    beside_it = path.with_suffix(".npy")
    np.save(beside_it, vectors().astype(np.float64))
    for content in (beside_it.read_bytes(), b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 3000, b"", b"x" * 999):
        beside_it.write_bytes(content)
        rested(beside_it)
        room.backup(f"hnswlib://{path}")
        room.restore("latest", f"hnswlib://{tmp_path}/out/new.bin", overwrite=True)
        assert (tmp_path / "out" / "new.npy").read_bytes() == content


def test_an_array_that_no_snapshot_has_is_not_taken_away(room: strongroom.Strongroom, tmp_path: Path) -> None:
    path = saved(built("plain", "l2"), tmp_path / "src" / "index.bin")
    room.backup(f"hnswlib://{path}")
    (tmp_path / "out").mkdir()
    np.save(tmp_path / "out" / "new.npy", vectors())
    kept = (tmp_path / "out" / "new.npy").read_bytes()
    room.restore("latest", f"hnswlib://{tmp_path}/out/new.bin")
    room.restore("latest", f"hnswlib://{tmp_path}/out/new.bin", overwrite=True, rung=strongroom.Rung.REBUILD)
    assert (tmp_path / "out" / "new.npy").read_bytes() == kept
    np.save(path.with_suffix(".npy"), vectors(ROWS, 3))
    rested(path.with_suffix(".npy"))
    room.backup(f"hnswlib://{path}")
    (tmp_path / "out" / "new.bin").unlink()
    (tmp_path / "out" / "new.bin.json").unlink()
    with pytest.raises(Refused, match=r"new\.npy"):
        room.restore("latest", f"hnswlib://{tmp_path}/out/new.bin")
    assert (tmp_path / "out" / "new.npy").read_bytes() == kept


def test_labels_that_are_no_int64_are_texts(room: strongroom.Strongroom, tmp_path: Path) -> None:
    index = hnswlib.Index("l2", DIMENSION)
    index.init_index(10)
    labels = np.array([2**64 - 1, 2**63, 5], np.uint64)
    index.add_items(vectors(3), labels)
    path = saved(index, tmp_path / "src" / "index.bin")
    with freeze(path) as frozen:
        assert set(live_rows(frozen)) == {str(one) for one in labels.tolist()}
        assert frozen.search("index", "vector", vectors(3), 1).ids == tuple((str(one),) for one in labels.tolist())
    room.backup(f"hnswlib://{path}")
    room.restore("latest", f"hnswlib://{tmp_path}/out/new.bin", require_exact=True)
    room.restore("latest", f"hnswlib://{tmp_path}/out/rebuilt.bin", rung=strongroom.Rung.REBUILD)
    assert pq.read_table(tmp_path / "out" / "rebuilt.parquet")["id"].to_pylist() == [str(one) for one in labels.tolist()]


@pytest.mark.parametrize("labels", [[2**64 - 2, 2**63, 5], [0, 1, 2]])
def test_ids_of_a_sidecar_that_are_no_int64_are_texts(room: strongroom.Strongroom, tmp_path: Path, labels: list[int]) -> None:
    """They are the labels, or ids of their own."""
    index = hnswlib.Index("l2", DIMENSION)
    index.init_index(10)
    index.add_items(vectors(3), np.array(labels, np.uint64))
    path = saved(index, tmp_path / "src" / "index.bin")
    ids, documents = [5, 2**64 - 2, 2**63], ["c", "a", "b"]
    pq.write_table(pa.table({"id": pa.array(ids, pa.uint64()), "document": documents}), path.with_suffix(".parquet"))
    records = [ids.index(one) for one in labels] if labels[0] else [0, 1, 2]
    with freeze(path) as frozen:
        found = {row["id"]: row["document"] for block in frozen.rows("index") for row in block.live().to_pylist()}
        assert found == {str(ids[one]): documents[one] for one in records}
        assert frozen.search("index", "vector", vectors(3), 1).ids == tuple((str(ids[one]),) for one in records)
    room.backup(f"hnswlib://{path}")
    room.restore("latest", f"hnswlib://{tmp_path}/out/rebuilt.bin", rung=strongroom.Rung.REBUILD)
    again = pq.read_table(tmp_path / "out" / "rebuilt.parquet").to_pylist()
    assert {row["id"]: row["document"] for row in again} == found


# -- files that are no index ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [0, 50, 96, 97, 20_000, -4, -1, "longer", "brute force"])
def test_what_is_not_a_whole_index_is_refused(cut: int | str, tmp_path: Path) -> None:
    path = saved(built("plain", "l2"), tmp_path / "index.bin")
    content = path.read_bytes()
    if cut == "brute force":
        flat = hnswlib.BFIndex("l2", DIMENSION)
        flat.init_index(ROWS)
        flat.add_items(vectors())
        flat.save_index(str(path))
    else:
        path.write_bytes(content + b"\0\0\0\0" if cut == "longer" else content[:cut])
    rested(path)
    with pytest.raises(Unreadable, match="index"), freeze(path):
        pass


_WHOLE: list[bytes] = []


def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    if not _WHOLE:
        index = hnswlib.Index("l2", 4)
        index.init_index(60, M=2)
        index.add_items(vectors(60)[:, :4], num_threads=1)
        _WHOLE.append(saved(index, tmp_path_factory.mktemp("whole") / "x.bin").read_bytes())
    return _WHOLE[0]


def understood(content: bytes) -> None:
    def read(offset: int, length: int) -> bytes:
        assert 0 <= offset <= offset + length <= len(content), "nothing is read that isn't there"
        return content[offset : offset + length]

    layout = parse(read, len(content))
    check_upper(layout, read)
    order = order_of(layout, read)
    assert order.count * layout.stride < len(content)
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
        place = offset % (96 if offset % 3 else len(content))
        content[place : place + len(patch)] = patch
    with suppress(NotAnIndex):
        understood(bytes(content[: length % len(content)] if shorten else content))


def test_lengths_are_not_believed(tmp_path_factory) -> None:
    content = whole(tmp_path_factory)
    understood(content)
    for place, value in ((8, 1 << 62), (16, 1 << 62), (16, 61), (24, 1 << 40), (32, 0), (40, 1 << 63), (52, 70), (56, 1 << 60)):
        form = "<I" if place == 52 else "<Q"
        damaged = bytearray(content)
        struct.pack_into(form, damaged, place, value)
        if (place, value) == (8, 1 << 62):  # capacity is no length of the file
            understood(bytes(damaged))
            continue
        with pytest.raises(NotAnIndex):
            understood(bytes(damaged))


def test_levels_of_no_possible_length_are_found(tmp_path_factory) -> None:
    content = whole(tmp_path_factory)
    layout = parse(lambda offset, length: content[offset : offset + length], len(content))
    words = np.frombuffer(content[layout.upper :], "<u4")
    place = layout.upper + 4 * int(np.flatnonzero(words)[0])
    level = 4 + 4 * layout.links
    for length in (level + 4, level - 4, level * (layout.top_level + 1), 0xFFFFFFFC):
        damaged = bytearray(content)
        struct.pack_into("<I", damaged, place, length)
        with pytest.raises(NotAnIndex, match="no possible length"):
            understood(bytes(damaged))


def test_links_that_lead_nowhere_end_the_child_and_not_the_backup(room: strongroom.Strongroom, tmp_path: Path) -> None:
    path = saved(built("plain", "l2"), tmp_path / "src" / "index.bin")
    content = bytearray(path.read_bytes())
    stride = struct.unpack_from("<Q", content, 24)[0]
    for row in range(ROWS):
        struct.pack_into("<II", content, 96 + row * stride + 4, 0x7FFFFFFF, 0x7FFFFFF0)
    path.write_bytes(content)
    rested(path)
    report = room.backup(f"hnswlib://{path}")
    assert any("crashed" in item.note for item in report.snapshot.manifest.ledger)
    room.restore("latest", f"hnswlib://{tmp_path}/out/new.bin")
    assert (tmp_path / "out" / "new.bin").read_bytes() == bytes(content)


def test_a_huge_capacity_is_not_allocated(tmp_path: Path) -> None:
    path = saved(built("plain", "l2"), tmp_path / "index.bin")
    content = bytearray(path.read_bytes())
    struct.pack_into("<Q", content, 8, 1 << 60)
    path.write_bytes(content)
    rested(path)
    with freeze(path) as frozen:
        assert len(frozen.search("index", "vector", vectors(3), 5).ids[0]) == 5
