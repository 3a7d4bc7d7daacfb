"""Is of many collections only read what changed, and nothing taken for unchanged that isn't? Looked at with the engines alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import chroma_writer
import lancedb
import numpy as np
import pyarrow as pa
import pytest
from processes import apart

from strongroom.engines import isolation, source_of
from strongroom.errors import EngineFailed
from strongroom.library import Strongroom, init_repository
from strongroom.model import FoundBy, Position
from strongroom.operations.backup.run import BackupOptions, backup
from strongroom.operations.verify import Level
from strongroom.progress import SILENT
from strongroom.repository import Argon2Cost
from strongroom.snapshots.manifest import Manifest

DIMENSION = 8
_UNUSED_LINK = 4 * 32
"""The last place for a link of the first element, which has fewer."""


def rows(name: str, count: int = 40, seed: int = 1) -> pa.Table:
    vectors = np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIMENSION)
    return pa.table({"id": [f"{name}-{number}" for number in range(count)], "vector": column, "text": [name] * count})


@pytest.fixture
def place(tmp_path: Path) -> Path:
    database = lancedb.connect(tmp_path / "db")
    for name in ("one", "other", "third"):
        database.create_table(name, rows(name))
    return tmp_path / "db"


@pytest.fixture
def room(tmp_path: Path) -> Strongroom:
    return init_repository(str(tmp_path / "repository"), password="x", cost=Argon2Cost(1, 1, 64))


def made(room: Strongroom, place: Path, options: BackupOptions | None = None) -> Manifest:
    """A snapshot, from which all comes back as Lance reads it at the source, and answers as it did."""
    snapshot = backup(room.repository, f"lancedb://{place}", options).snapshot
    back = place.with_name(f"back-{snapshot.id[:12]}")
    room.restore(snapshot.id, f"lancedb://{back}", require_exact=True)
    theirs, ours = lancedb.connect(place), lancedb.connect(back)
    names = [one.name for one in snapshot.manifest.collections]
    assert set(names) == {one.stem for one in place.glob("*.lance")} == {one.stem for one in back.glob("*.lance")}
    for name in names:
        assert ours.open_table(name).to_arrow().equals(theirs.open_table(name).to_arrow())
        assert ours.open_table(name).version == theirs.open_table(name).version
    assert room.verify(snapshot.id, level=Level.DATA).passed
    return snapshot.manifest


def found_by(record: Manifest) -> dict[str, FoundBy]:
    return {one.name: one.found_by for one in record.collections}


def test_what_is_as_it_was_is_said_again(room: Strongroom, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = made(room, place)
    lancedb.connect(place).open_table("other").add(rows("more", 5, seed=2))
    asked: list[str] = []
    ask = isolation.ask
    monkeypatch.setattr(isolation, "ask", lambda function, *given: asked.append(given[0]) or ask(function, *given))
    second = backup(room.repository, f"lancedb://{place}").snapshot.manifest
    assert [Path(one).stem for one in asked] == ["other"], "an engine that has nothing new to say isn't asked"
    before = {one.name: one for one in first.collections}
    for one in second.collections:
        if one.name != "other":
            assert one == replace(before[one.name], found_by=FoundBy.NOTHING, slots_read=0)
    changed = next(one for one in second.collections if one.name == "other")
    assert (changed.count, changed.slots_read, changed.found_by) == (45, 5, FoundBy.FEED)
    files = [one for one in second.artifacts if one.collection != "other"]
    assert files == [one for one in first.artifacts if one.collection != "other"]
    assert found_by(made(room, place)) == dict.fromkeys(("one", "other", "third"), FoundBy.NOTHING)


def index(place: Path) -> None:
    lancedb.connect(place).open_table("one").create_scalar_index("id")


def tag(place: Path) -> None:
    lancedb.connect(place).open_table("one").tags.create("kept", 1)


def delete(place: Path) -> None:
    lancedb.connect(place).open_table("one").delete("id = 'one-3'")


def make_anew(place: Path) -> None:
    """It then has as many rows, and the same version, as the one before."""
    database = lancedb.connect(place)
    version = database.open_table("one").version
    database.drop_table("one")
    assert database.create_table("one", rows("one", seed=9)).version == version


def swap(place: Path) -> None:
    """Each takes the other's place."""
    for name, new in (("one", "x"), ("third", "one"), ("x", "third")):
        (place / f"{name}.lance").rename(place / f"{new}.lance")


def restore_earlier(place: Path) -> None:
    table = lancedb.connect(place).open_table("one")
    table.delete("id = 'one-3'")
    table.restore(1)


CHANGES = pytest.mark.parametrize("change", [index, tag, delete, make_anew, swap, restore_earlier], ids=lambda one: one.__name__)


@CHANGES
def test_the_engine_marks_what_changed(change: Callable[[Path], None], place: Path) -> None:
    """Of a tag the description tells."""
    with source_of(f"lancedb://{place}").freeze(SILENT) as frozen:
        position = frozen.position
        assert frozen.as_at(position) == {"one", "other", "third"}
    change(place)
    with source_of(f"lancedb://{place}").freeze(SILENT) as frozen:
        gone = {"one", "third"} if change is swap else {"one"} - ({"one"} if change is tag else set())
        assert frozen.as_at(position) == {"one", "other", "third"} - gone
        assert frozen.as_at(Position("another", position.value)) == set()


@CHANGES
def test_what_changed_is_looked_at(change: Callable[[Path], None], room: Strongroom, place: Path) -> None:
    made(room, place)
    lancedb.connect(place).open_table("other").add(rows("more", 5, seed=2))
    change(place)
    found = found_by(made(room, place))
    assert found["one"] is not FoundBy.NOTHING
    assert (found["third"] is FoundBy.NOTHING) == (change is not swap)


def test_a_table_that_comes_and_one_that_goes(room: Strongroom, place: Path) -> None:
    made(room, place)
    lancedb.connect(place).create_table("late", rows("late"))
    found = found_by(made(room, place))
    assert {name for name, how in found.items() if how is not FoundBy.NOTHING} == {"late"}
    lancedb.connect(place).drop_table("other")
    assert found_by(made(room, place)) == dict.fromkeys(("late", "one", "third"), FoundBy.NOTHING)


def test_what_the_store_lost_is_stored_anew(room: Strongroom, place: Path, tmp_path: Path) -> None:
    first = made(room, place)
    lancedb.connect(place).open_table("other").add(rows("more", 5, seed=2))
    blob = next(blob for one in first.artifacts if one.collection == "third" for blob in one.blobs())
    (found,) = room.repository.index.places(bytes.fromhex(blob))
    (tmp_path / "repository" / found.pack.name).unlink()
    assert found_by(made(room, place))["third"] is not FoundBy.NOTHING


@pytest.mark.parametrize("options", [BackupOptions(reread=True), BackupOptions(model="another@2"), BackupOptions(probes=8)])
def test_who_asks_for_another_snapshot_gets_one(options: BackupOptions, room: Strongroom, place: Path) -> None:
    made(room, place)
    lancedb.connect(place).open_table("other").add(rows("more", 5, seed=2))
    record = made(room, place, options)
    assert FoundBy.NOTHING not in found_by(record).values()
    assert all(one.catalog.lineage.model == "another" for one in record.collections) == (options.model is not None)


def test_what_could_not_be_asked_is_asked_again(room: Strongroom, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot without the engine's answers isn't the model of the next one."""

    def fail(*_: object) -> None:
        raise EngineFailed("it is away")

    with monkeypatch.context() as patch:
        patch.setattr(isolation, "ask", fail)
        backup(room.repository, f"lancedb://{place}")
    lancedb.connect(place).open_table("other").add(rows("more", 5, seed=2))
    record = made(room, place)
    assert FoundBy.NOTHING not in found_by(record).values()
    assert all(probe.live for one in record.collections for probe in one.probes)


# -- Chroma: rows and files of all are read, but an engine that has nothing new to say isn't asked ---------------------------------


def chroma_rows(name: str, count: int, seed: int = 1) -> dict[str, object]:
    vectors = np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype(np.float32)
    return {"ids": [f"{name}-{seed}-{number}" for number in range(count)], "embeddings": vectors.tolist()}


@pytest.fixture
def chroma(tmp_path: Path) -> Path:
    """One whose index is whole on the disk, one of which a part is in the log alone, one that has no index yet."""
    steps: list[dict[str, object]] = []
    for name, count in (("whole", 200), ("partly", 130), ("logged", 7)):
        steps += [{"do": "create", "name": name}, {"do": "add", "name": name, **chroma_rows(name, count)}]
    steps.append({"do": "add", "name": "partly", **chroma_rows("partly", 4, seed=2)})
    apart(chroma_writer.write, str(tmp_path / "chroma"), steps)
    return tmp_path / "chroma"


def asked_of(room: Strongroom, place: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The collections that the engine was asked about for a new snapshot, which is restored, and answers as it says."""
    asked: set[str] = set()
    ask = isolation.ask

    def noted(function: str, *given: object) -> object:
        asked.update([str(given[3])] if function.endswith("client:search") else [])
        return ask(function, *given)

    with monkeypatch.context() as patch:
        patch.setattr(isolation, "ask", noted)
        snapshot = room.backup(f"chroma://{place}").snapshot
    assert all(probe.live for one in snapshot.manifest.collections for probe in one.probes)
    assert all(one.latency for one in snapshot.manifest.collections)
    back = place.with_name(f"back-{snapshot.id[:12]}")
    room.restore(snapshot.id, f"chroma://{back}", require_exact=True)
    shutil.copytree(place, back.with_suffix(".source"))  # who reads a Chroma writes to it
    assert apart(chroma_writer.read, str(back)) == apart(chroma_writer.read, str(back.with_suffix(".source")))
    assert room.verify(snapshot.id, level=Level.ANSWERS).passed
    return asked


def test_a_chroma_that_has_nothing_new_to_say_is_not_asked(room: Strongroom, chroma: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked_of(room, chroma, monkeypatch) == {"whole", "partly", "logged"}
    assert asked_of(room, chroma, monkeypatch) == set()
    apart(chroma_writer.write, str(chroma), [{"do": "add", "name": "logged", **chroma_rows("more", 2, seed=2)}])
    assert asked_of(room, chroma, monkeypatch) == {"logged"}
    vector = chroma_rows("whole", 1, seed=3)["embeddings"]
    apart(chroma_writer.write, str(chroma), [{"do": "update", "name": "whole", "ids": ["whole-1-5"], "embeddings": vector}])
    assert asked_of(room, chroma, monkeypatch) == {"whole"}
    assert asked_of(room, chroma, monkeypatch) == set()


def test_a_chroma_whose_index_was_set_otherwise_is_asked(room: Strongroom, chroma: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked_of(room, chroma, monkeypatch)
    apart(chroma_writer.modify, str(chroma), "whole", {"hnsw": {"ef_search": 7}})
    assert asked_of(room, chroma, monkeypatch) == {"whole"}


def test_a_chroma_whose_index_is_another_is_asked(room: Strongroom, chroma: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows are the same, and one of its files isn't."""
    asked_of(room, chroma, monkeypatch)
    level0 = max(chroma.glob("*/data_level0.bin"), key=lambda one: one.stat().st_size)
    content = bytearray(level0.read_bytes())
    content[_UNUSED_LINK] ^= 1
    level0.write_bytes(content)
    assert asked_of(room, chroma, monkeypatch) == {"whole"}
