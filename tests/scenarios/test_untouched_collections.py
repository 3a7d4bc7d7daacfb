"""Is of many collections only read what changed, and nothing taken for unchanged that isn't? Looked at with Lance, not our code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import pytest

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
