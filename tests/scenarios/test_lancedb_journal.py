"""Do LanceDB's versions, followed, give back every moment? Each kind of change on the real engine, versions that are cleaned up,
tables that go, two processes that write at once; truth is what Lance itself says of each version.
"""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import command_forks
import lance
import lancedb
import numpy as np
import pyarrow as pa
import pytest
from commands import PASSWORD, environment
from forks import DEVNULL
from processes import program

from strongroom.engines.changes import CatalogChange, Change, RowChanges
from strongroom.engines.lancedb import feed as feeds
from strongroom.engines.lancedb.hold import Held
from strongroom.engines.lancedb.manifest import files_of, read_manifest
from strongroom.engines.lancedb.prints import names
from strongroom.engines.lancedb.versions import manifests
from strongroom.errors import Gap, Locked, Refused, WrongRequest
from strongroom.library import Strongroom, init_repository
from strongroom.operations.follow.run import FollowOptions, FollowReport
from strongroom.repository import Argon2Cost

HERE = Path(__file__).parent
State = dict[str, Counter[str]]


def rows(first: int, count: int, generation: int = 0) -> pa.Table:
    numbers = np.random.default_rng([first, generation])
    vectors = pa.array(numbers.standard_normal(count * 8).astype(np.float32))
    return pa.table(
        {
            "id": pa.array([f"row {number}" for number in range(first, first + count)]),
            "vector": pa.FixedSizeListArray.from_arrays(vectors, 8),
            "text": [f"text {number} of {generation}" for number in range(first, first + count)],
            "load": [f"load {generation}"] * count,
        }
    )


def state(directory: Path) -> State:
    """Every row of every table, as often as it is there."""
    found = {}
    for folder in sorted(directory.glob("*.lance")):
        found[folder.stem] = Counter(repr(row) for row in lance.dataset(str(folder)).to_table().to_pylist())
    return found


@dataclass
class World:
    """A database, the repository in which it is followed, and what was true when."""

    folder: Path
    room: Strongroom
    moments: list[tuple[str, float, State]] = field(default_factory=list)
    said: list[tuple[str, str]] = field(default_factory=list)

    @property
    def directory(self) -> Path:
        return self.folder / "db"

    @property
    def source(self) -> str:
        return f"lancedb://{self.directory}"

    @property
    def database(self) -> Any:
        return lancedb.connect(str(self.directory))

    def follow(self) -> FollowReport:
        options = FollowOptions(once=True, batch_key="load", probes=0)
        return self.room.follow(self.source, options, tell=lambda event: self.said.append((event.what, event.text)))

    def do(self, what: str, call: Callable[[], Any]) -> None:
        call()
        time.sleep(0.01)
        self.moments.append((what, time.time(), state(self.directory)))
        time.sleep(0.01)

    def restored(self, at: str, *only: str) -> State:
        place = self.folder / "back"
        shutil.rmtree(place, ignore_errors=True)
        self.room.restore("latest", f"lancedb://{place}", at=at, collections=only)
        return state(place)

    def check(self) -> None:
        for what, moment, truth in self.moments:
            assert self.restored(datetime.fromtimestamp(moment, UTC).isoformat()) == truth, what

    @property
    def operations(self) -> int:
        return self.room.journal_status(self.source)[0].operations


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path, init_repository(str(tmp_path / "repo"), password=PASSWORD, cost=Argon2Cost(1, 1, 64)))
    made.database.create_table("items", rows(0, 300))
    made.database.create_table("twice", pa.concat_tables([rows(0, 3), rows(0, 3)]))
    return made


# -- each kind of change -------------------------------------------------------------------------------------------------------


def test_every_kind_of_change_comes_back(world: World) -> None:
    world.follow()
    items, twice = world.database.open_table("items"), world.database.open_table("twice")
    merge = items.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
    world.do("add", lambda: items.add(rows(300, 10, 1)))
    world.do("update", lambda: items.update(where="id = 'row 3'", values={"text": "new"}))
    world.do("delete", lambda: items.delete("id IN ('row 4', 'row 7')"))
    world.do("merge", lambda: merge.execute(rows(295, 30, 2)))
    world.do("copies", lambda: twice.add(rows(0, 3)))
    world.do("one copy goes", lambda: twice.delete("_rowid = 0"))
    world.do("compaction", items.optimize)
    world.follow()
    index = {"vector_column_name": "vector", "index_type": "IVF_FLAT", "num_partitions": 2}
    world.do("index", lambda: items.create_index(metric="cosine", **index))
    world.do("rows after the index", lambda: items.add(rows(400, 9, 3)))
    world.do("a column more", lambda: items.add_columns({"more": "1"}))
    world.do("and less", lambda: items.drop_columns(["more"]))
    world.do("overwritten", lambda: world.database.create_table("items", rows(0, 5, 4), mode="overwrite"))
    world.do("an older version again", lambda: world.database.open_table("items").restore(3))
    world.do("a new table", lambda: world.database.create_table("fresh", rows(0, 4)))
    world.do("emptied", lambda: world.database.open_table("fresh").delete("true"))
    world.follow()
    world.room.backup(world.source, probes=0)
    world.do("after a snapshot", lambda: twice.delete("id = 'row 1'"))
    world.follow()
    world.check()
    assert not world.room.journal_status(world.source)[0].holes


def test_answers_come_through_the_index_after_a_replay(world: World) -> None:
    world.follow()
    items = world.database.open_table("items")
    items.create_index(metric="cosine", vector_column_name="vector", index_type="IVF_FLAT", num_partitions=2)
    world.do("rows after the index", lambda: items.add(rows(300, 50, 1)))
    world.follow()
    world.check()
    restored = lance.dataset(str(world.folder / "back" / "items.lance"))
    (index,) = restored.describe_indices()
    statistics = restored.stats.index_stats(index.name)
    assert (index.index_type, statistics["num_indexed_rows"], statistics["num_unindexed_rows"]) == ("IVF_FLAT", 350, 0)


def test_compaction_is_no_operation(world: World) -> None:
    world.follow()
    items = world.database.open_table("items")
    for number in range(5):
        items.add(rows(300 + number, 1, number))
    items.delete("id = 'row 1'")
    assert world.follow().operations == 6
    version = items.version
    items.optimize()
    assert items.version > version
    assert world.follow().operations == 0


def test_rows_that_lance_moved_are_compared_by_what_is_in_them(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where the transaction doesn't say that it was a compaction."""
    monkeypatch.setattr("strongroom.engines.lancedb.differences.REWRITE", -1)
    world.follow()
    items = world.database.open_table("items")
    items.add(rows(300, 5))
    assert world.follow().operations == 5
    items.optimize()
    assert world.follow().operations == 0


def test_a_moment_by_version_and_by_batch(world: World) -> None:
    world.follow()
    items = world.database.open_table("items")
    items.add(rows(300, 5, 1))
    before = state(world.directory)
    version = items.version
    items.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(rows(298, 9, 2))
    world.database.open_table("twice").delete("id = 'row 2'")
    world.follow()
    assert world.restored(f"items={version}") == before
    assert world.restored("before:load 2") == before
    assert world.restored(f"items={version + 1}")["items"] == state(world.directory)["items"]


@pytest.mark.soak
def test_a_key_is_one_while_its_values_are_unique(world: World) -> None:
    """Also for who comes after a follower that was killed: each session asks the table anew."""
    world.follow()
    items = world.database.open_table("items")
    world.do("replaced", lambda: items.update(where="id = 'row 1'", values={"text": "new"}))
    world.do("gone and back", lambda: items.delete("id = 'row 2'"))
    world.do("back", lambda: items.add(rows(2, 1, 5)))
    assert world.follow().operations == 3
    world.do("there twice", lambda: items.add(rows(1, 1, 1)))
    assert world.follow().operations == 1 + 301
    world.do("one of them new", lambda: items.update(where="text LIKE '%of 1'", values={"text": "newer"}))
    assert world.follow().operations == 2
    world.do("there once", lambda: items.delete("text = 'newer'"))
    assert world.follow().operations == 1 + 300
    nameless = rows(7, 1).set_column(0, "id", pa.nulls(1, pa.string()))
    world.do("null", lambda: items.add(nameless))
    world.do("not null", lambda: items.delete("id IS NULL"))
    world.follow()
    world.check()


@pytest.mark.soak
def test_ids_that_are_numbers_and_vectors_with_nulls(world: World) -> None:
    """In a table that has nothing but id, vector and text."""

    def numbered(first: int, vectors: list[list[float | None] | None]) -> pa.Table:
        ids = pa.array(range(first, first + len(vectors)), pa.int64())
        columns = {"id": ids, "vector": pa.array(vectors, pa.list_(pa.float32(), 2))}
        return pa.table({**columns, "text": [None if number % 2 else "x" for number in range(len(vectors))]})

    place = str(world.directory / "numbered.lance")
    lance.write_dataset(numbered(0, [[1, 2], None, [3, 4], [5, None]]), place)
    world.follow()
    world.do("add", lambda: lance.write_dataset(numbered(10, [None, [1, 1]]), place, mode="append"))
    world.do("null elements", lambda: lance.write_dataset(numbered(20, [None, [1, None]]), place, mode="append"))
    world.do("update", lambda: lance.dataset(place).update({"text": "'new'"}, where="id IN (0, 1, 3)"))
    world.do("delete", lambda: lance.dataset(place).delete("id = 2"))
    world.follow()
    world.check()


def test_one_load_is_undone_where_there_is_a_key(world: World) -> None:
    world.follow()
    items = world.database.open_table("items")
    merge = items.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
    merge.execute(rows(298, 5, 1))
    merge.execute(rows(299, 1, 2))
    merge.execute(rows(400, 1, 2))
    world.follow()
    place = world.folder / "undone"
    world.room.restore("latest", f"lancedb://{place}", undo="load 1", source=world.source)
    (told,) = (one.to_table().to_pylist() for one in [lance.dataset(str(place / "items.lance"))])
    found = {row["id"]: row["load"] for row in told}
    assert {one for one in found if found[one] == "load 1"} == set()
    assert {one: found.get(one) for one in ("row 298", "row 299", "row 300", "row 400")} == {
        "row 298": "load 0",
        "row 299": "load 2",
        "row 300": None,
        "row 400": "load 2",
    }
    world.database.open_table("twice").add(rows(1, 1, 3))
    world.follow()
    with pytest.raises(WrongRequest, match="no id that is theirs alone"):
        world.room.restore("latest", f"lancedb://{world.folder / 'never'}", undo="load 3", source=world.source)


def test_a_moment_goes_to_another_engine_where_there_is_a_key(world: World) -> None:
    world.database.drop_table("twice")
    world.follow()
    items = world.database.open_table("items")
    items.delete("id IN ('row 1', 'row 2')")
    items.merge_insert("id").when_matched_update_all().execute(rows(3, 2, 1))
    world.follow()
    at = world.room.journal_status(world.source)[0].until
    report = world.room.restore("latest", f"hnswlib://{world.folder / 'items.hnsw'}", at=at)
    assert any("298 rows of the moment read back" in one for one in report.checks), report.checks


def test_renamed_and_selected_tables(world: World) -> None:
    world.follow()
    world.database.open_table("items").add(rows(300, 5, 1))
    world.database.open_table("twice").add(rows(9, 1, 1))
    world.follow()
    place = world.folder / "back"
    at = world.room.journal_status(world.source)[0].until
    world.room.restore("latest", f"lancedb://{place}", at=at, collections=["items"], renames={"items": "twice"})
    assert state(place) == {"twice": state(world.directory)["items"]}


# -- what can be lost ----------------------------------------------------------------------------------------------------------


def cleaned(table: Any) -> None:
    lance.dataset(table.to_lance().uri).cleanup_old_versions(timedelta(0), delete_unverified=True)


def test_what_was_looked_at_survives_a_cleanup(world: World) -> None:
    """Also if it isn't sealed, and who follows is killed."""
    items = world.database.open_table("items")
    with feeds.following(world.directory, "me", None) as feed:
        marks = feed.begin()
        items.add(rows(300, 2, 1))
        items.delete("id = 'row 300'")
        first = feed.read()[0]
    items.add(rows(310, 1, 1))
    cleaned(items)
    assert len(manifests(world.directory / "items.lance")) == 1
    with feeds.following(world.directory, "me", None) as feed:
        feed.resume(marks)
        again = feed.read()[0]
    assert [len(one) for one in again] == [2, 1, 1] == [*map(len, first), 1]
    assert isinstance(again[0], RowChanges)
    assert again[0].batch.equals(first[0].batch)  # type: ignore[union-attr]


def test_versions_that_were_cleaned_up_unseen_are_a_hole(world: World) -> None:
    world.follow()
    items = world.database.open_table("items")
    world.do("kept", lambda: items.add(rows(300, 2, 1)))
    world.follow()
    lost = time.time()
    items.add(rows(310, 2, 1))
    items.delete("id = 'row 310'")
    cleaned(items)
    time.sleep(0.01)
    report = world.follow()
    assert len(report.gaps) == len(report.snapshots) == 1
    assert any(what == "gap" and "cleaned up before" in text for what, text in world.said)
    world.do("after", lambda: items.add(rows(320, 2, 1)))
    world.follow()
    (hole,) = world.room.journal_status(world.source)[0].holes
    assert "cleaned up before" in hole.reason
    world.check()
    with pytest.raises(Refused, match="hole"):
        world.restored(datetime.fromtimestamp(lost + 0.001, UTC).isoformat())


@pytest.mark.soak
def test_a_table_dropped_while_nobody_followed_hides_only_itself(world: World) -> None:
    """What it held until it was dropped is refused, said and shown; all else of the same time is there, and needs no snapshot."""
    world.follow()
    items, twice = (world.database.open_table(name) for name in ("items", "twice"))
    world.do("followed", lambda: twice.add(rows(40, 1)))
    world.follow()
    twice.add(rows(50, 1))
    world.room.backup(world.source)
    other = state(world.directory)["items"]
    lost = time.time()
    time.sleep(0.01)
    items.add(rows(300, 2, 1))
    world.database.drop_table("twice")
    world.database.create_table("twice", rows(70, 2))
    report = world.follow()
    assert not report.gaps
    assert not report.snapshots
    assert [text.count("twice was dropped") for what, text in world.said if what == "unseen"] == [1]
    world.do("another of its name", lambda: world.database.open_table("twice").add(rows(71, 1)))
    world.follow()
    world.check()
    status = world.room.journal_status(world.source)[0]
    assert not status.holes
    (unseen,) = status.unseen
    moment = datetime.fromtimestamp(lost, UTC).isoformat()
    assert unseen.since < moment < unseen.until
    for at in (moment, "items=2", "before:load 1"):
        with pytest.raises(Refused, match=r"twice was dropped between .* what it held then isn't known"):
            world.restored(at)
    assert world.restored(moment, "items") == {"items": other}
    with pytest.raises(Refused, match="twice was dropped"):
        world.restored(moment, "twice")
    for edge in (unseen.since, unseen.until):
        world.restored(edge)


def test_what_came_just_before_a_drop_is_not_guessed(world: World) -> None:
    """The follower is there, and hasn't looked since."""
    with feeds.following(world.directory, "me", None) as feed:
        feed.begin()
        assert feed.read()[0] == feed.read()[0] == []
        looked = time.time_ns() // 1000
        time.sleep(0.01)
        world.database.open_table("twice").add(rows(50, 1))
        world.database.drop_table("twice")
        (end,) = feed.read()[0]
    assert isinstance(end, CatalogChange)
    assert end.unseen_since is not None
    assert 0 < end.unseen_since < looked < end.time


def test_what_a_killed_follower_saw_counts_for_the_next(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until when a table was as it is held, and when it was gone; not if the machine began to run anew since."""
    with feeds.following(world.directory, "me", None) as feed:
        marks = feed.begin()
        before = time.time_ns() // 1000
        assert feed.read()[0] == feed.read()[0] == []
    looked = time.time_ns() // 1000
    time.sleep(0.01)
    world.database.open_table("twice").add(rows(50, 1))
    world.database.drop_table("twice")
    gone = time.time_ns() // 1000
    with feeds.following(world.directory, "me", None) as feed:
        feed.resume(marks)
    noticed = time.time_ns() // 1000
    time.sleep(0.01)
    end = ending(world, marks)
    assert end.unseen_since is not None
    assert before < end.unseen_since < looked < gone < end.time < noticed
    monkeypatch.setattr("strongroom.engines.lancedb.looks.boot", lambda: "another run")
    end = ending(world, marks)
    assert end.unseen_since is not None
    assert end.unseen_since < before < noticed < end.time


def ending(world: World, marks: Mapping[str, str]) -> CatalogChange:
    """What a follower that goes on from the marks, and is killed then, says of a drop."""
    with feeds.following(world.directory, "me", None) as feed:
        feed.resume(marks)
        (end,) = feed.read()[0]
    assert isinstance(end, CatalogChange)
    return end


def test_nothing_is_unseen_before_the_last_version_that_was_held(world: World) -> None:
    with feeds.following(world.directory, "me", None) as feed:
        marks = feed.begin()
    folder = world.directory / "twice.lance"
    newest = read_manifest(folder / manifests(folder)[max(manifests(folder))])
    world.database.drop_table("twice")
    assert ending(world, marks).unseen_since == newest.micros


def test_a_drop_under_way_is_no_proof_that_nothing_came(world: World) -> None:
    """Of a drop that has taken the newest version and not yet the others, only what was seen before it counts."""
    folder = world.directory / "twice.lance"
    world.database.open_table("twice").add(rows(50, 1))
    newest, older = (folder / path for _, path in sorted(manifests(folder).items(), reverse=True)[:2])
    with feeds.following(world.directory, "me", None) as feed:
        feed.begin()
        assert feed.read()[0] == []
        came = time.time_ns() // 1000
        world.database.open_table("twice").add(rows(60, 1))
        (folder / manifests(folder)[max(manifests(folder))]).unlink()
        assert feed.read()[0] == []
        newest.unlink()
        assert feed.read()[0] == []
        older.unlink()
        shutil.rmtree(folder)
        (end,) = feed.read()[0]
    assert isinstance(end, CatalogChange)
    assert end.unseen_since is not None
    assert end.unseen_since < came


def test_a_table_dropped_and_made_again_is_another(world: World) -> None:
    with feeds.following(world.directory, "me", None) as feed:
        feed.begin()
        world.database.open_table("twice").add(rows(50, 1))
        assert len(feed.read()[0]) == 1
        world.database.drop_table("twice")
        world.database.create_table("twice", rows(70, 2))
        world.database.open_table("twice").add(rows(80, 1))
        changes, marks, _ = feed.read()
        end, made, first, second = changes
        assert isinstance(end, CatalogChange) and end.gone == ("twice",) and not end.present
        assert isinstance(made, CatalogChange) and list(made.present) == ["twice"] and not made.gone
        assert (len(first), len(second)) == (2, 1)
        assert end.time <= made.time
        feed.shipped(marks)
        world.database.drop_table("twice")
        _, marks, _ = feed.read()
    with feeds.following(world.directory, "me", None) as feed:  # killed after it was sealed, before it was shipped
        feed.resume(marks)
        assert feed.read()[0] == []


def test_a_load_too_large_for_memory_is_kept_by_a_snapshot(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.follow()
    monkeypatch.setattr(feeds, "MOST_BYTES", 20_000)
    items = world.database.open_table("items")
    world.do("small", lambda: items.add(rows(300, 5, 1)))
    world.follow()
    items.add(rows(1000, 2_000, 1))
    report = world.follow()
    assert ["MiB at once" in one for one in report.gaps] == [True]
    world.do("after", lambda: items.add(rows(400, 5, 1)))
    world.follow()
    world.check()


def test_one_follower_at_a_time_and_release(world: World) -> None:
    with feeds.following(world.directory, "me", None) as feed:
        feed.begin()
        with feeds.following(world.directory, "me", None) as other, pytest.raises(Locked):
            other.begin()
        with pytest.raises(Locked):
            feeds.release(world.directory, "me")
    assert feeds.release(world.directory, "me")
    assert not feeds.release(world.directory, "me")
    assert not list(world.directory.glob(".strongroom-*"))


def test_what_is_shipped_is_not_held(world: World) -> None:
    items = world.database.open_table("items")
    with feeds.following(world.directory, "me", None) as feed:
        feed.begin()
        for number in range(20):
            items.add(rows(300 + number, 1))
        items.optimize()
        _, marks, more = feed.read()
        assert not more
        feed.shipped(marks)
        (held,) = world.directory.glob(".strongroom-journal-me/*/items.lance")
        assert len(manifests(held)) == 1
        assert len(list((held / "data").iterdir())) == 1
    items.add(rows(900, 1))
    with feeds.following(world.directory, "me", None) as feed:
        shutil.rmtree(world.directory / ".strongroom-journal-me")  # then the table itself is asked
        feed.resume(marks)
        assert [len(one) for one in feed.read()[0]] == [1]
        shutil.rmtree(held.parents[1])
    cleaned(items)
    with feeds.following(world.directory, "me", None) as feed, pytest.raises(Gap):
        feed.resume(marks)


def test_much_that_is_slow_to_read_is_read_in_pieces(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of which goes on where the one before ended, also in another process."""
    items = world.database.open_table("items")
    with feeds.following(world.directory, "me", None) as feed:
        feed.begin()
        _, marks, _ = feed.read()
        feed.shipped(marks)
    for number in range(5):
        items.add(rows(300 + number, 1))
    monkeypatch.setattr("strongroom.engines.lancedb.feed._READ_SECONDS", 0.0)
    found, more = [], True
    while more:
        with feeds.following(world.directory, "me", None) as feed:
            feed.resume(marks)
            for _ in range(2):
                changes, marks, more = feed.read()
                feed.shipped(marks)
                found.append([len(one) for one in changes])
    assert [one for one in found if one] == [[1]] * 5


def test_what_comes_while_a_follower_catches_up_keeps_its_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads in pieces what was there when it began, and says nothing of what came since."""
    world.follow()
    items = world.database.open_table("items")
    for number in range(3):
        world.do("before", lambda number=number: items.add(rows(300 + number, 1)))
    step = feeds.LanceFeed._step

    def disturbed(feed: feeds.LanceFeed, held: Held) -> Iterator[Change]:
        monkeypatch.setattr(feeds.LanceFeed, "_step", step)
        world.do("meanwhile", lambda: items.add(rows(310, 1)))
        return step(feed, held)

    monkeypatch.setattr(feeds, "_READ_SECONDS", 0.0)
    monkeypatch.setattr(feeds.LanceFeed, "_step", disturbed)
    world.follow()
    world.do("after", lambda: items.add(rows(320, 1)))
    world.follow()
    world.check()


def test_nothing_is_said_to_be_seen_while_an_end_is_not_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table goes between the two looks of a read."""
    look, looks = feeds.LanceFeed._look, iter((False, False, True))

    def dropped(feed: feeds.LanceFeed) -> None:
        if next(looks, False):
            world.database.drop_table("twice")
        look(feed)

    monkeypatch.setattr(feeds.LanceFeed, "_look", dropped)
    with feeds.following(world.directory, "me", None) as feed:
        feed.begin()
        assert (feed.read()[0], feed.seen > 0) == ([], True)
        world.database.open_table("items").add(rows(300, 1))
        changes, _, more = feed.read()
        assert (len(changes), more, feed.seen) == (1, False, 0)
        assert isinstance(feed.read()[0][0], CatalogChange)
        assert feed.seen > 0


# -- what is read from Lance's own bytes ---------------------------------------------------------------------------------------


def test_manifests_are_read_as_lance_reads_them(world: World) -> None:
    items = world.database.open_table("items")
    items.add(rows(300, 2, 1))
    items.delete("id IN ('row 1', 'row 300')")
    items.create_scalar_index("id")
    items.optimize()
    folder = world.directory / "items.lance"
    data = lance.dataset(str(folder))
    for entry in data.versions():
        version = data.checkout_version(entry["version"])
        manifest = read_manifest(folder / manifests(folder)[entry["version"]])
        assert manifest.micros == round(entry["timestamp"].timestamp() * 1e6)
        its = [fragment.metadata for fragment in version.get_fragments()]
        found = list(manifest.fragments.values())
        assert [one.number for one in found] == [one.id for one in its]
        assert [(one.rows, one.live) for one in found] == [(one.physical_rows, one.num_rows) for one in its]
        assert [one.files for one in found] == [tuple(file.path for file in one.files) for one in its]
        files = files_of(manifest.entries)
        assert all((folder / file).is_file() for file in files)
        dead = sum(one.deletion_file is not None for one in its)
        assert sum(file.startswith("_deletions/") for file in files) == dead
        assert len(manifest.indices) == len(version.describe_indices())


def test_a_row_is_known_by_its_values_however_they_lie() -> None:
    batch = pa.record_batch(
        {
            "number": pa.array([1, None, 0, 1], pa.int16()),
            "truth": pa.array([True, False, None, True]),
            "text": pa.array(["a", "", None, "a"]).dictionary_encode(),
            "many": pa.array([[[1.0, 2.0]], [], None, [[1.0, 2.0]]], pa.list_(pa.list_(pa.float32(), 2))),
            "gaps": pa.array([[1, None], [0, 0], None, [1, None]], pa.list_(pa.int8(), 2)),
            "parts": pa.array([{"x": 1}, {"x": None}, None, {"x": 1}]),
            "time": pa.array([1, 2, None, 1], pa.timestamp("us")),
            "nothing": pa.nulls(4),
        }
    )
    found = names(batch).to_pylist()
    assert found[0] == found[3]
    assert len(set(found)) == 3
    assert names(batch.slice(1, 2)).to_pylist() == found[1:3]
    assert names(batch.take([3, 2, 1])).to_pylist() == [found[3], found[2], found[1]]
    one = pa.record_batch({"a": ["xy", "x"], "b": ["", "y"]})
    assert len(set(names(one).to_pylist())) == 2


# -- processes -----------------------------------------------------------------------------------------------------------------

WRITER = """
import random, sys, time
sys.path.insert(0, sys.argv[1])
from proof_lancedb import open_database
database, draw, until = open_database(sys.argv[2]), random.Random(sys.argv[3]), time.time() + float(sys.argv[4])
while time.time() < until:
    database.act(draw, 0)
"""


def test_two_processes_write_and_the_follower_is_killed(world: World) -> None:
    """Truth: every version as Lance itself shows it afterwards, at the time that it gives."""
    variables = environment(STRONGROOM_REPOSITORY=str(world.folder / "repo"))
    command = ["journal", "follow", world.source, "--every", "1", "--quiet"]
    assert program("-c", WRITER, HERE, world.directory, "0", "0.5").wait() == 0
    world.follow()
    begun = time.time()
    writers = [program("-c", WRITER, HERE, world.directory, str(seed), "5") for seed in (1, 2)]
    draw = random.Random(5)
    while any(one.poll() is None for one in writers):
        follower = command_forks.start(command, variables, stdout=DEVNULL, stderr=DEVNULL)
        time.sleep(draw.uniform(2, 4))
        follower.kill()
        follower.wait()
    assert [one.wait() for one in writers] == [0, 0]
    world.follow()
    history = {
        name: [(entry["timestamp"].timestamp(), entry["version"]) for entry in lance.dataset(str(folder)).versions()]
        for name, folder in ((one.stem, one) for one in world.directory.glob("*.lance"))
    }
    stamps = sorted(stamp for name in ("notes", "people") for stamp, _ in history[name] if stamp > begun)
    for stamp in draw.sample(stamps[len(stamps) // 3 :], min(4, len(stamps) // 2)):
        versions = {name: max(version for time_, version in all_ if time_ <= stamp) for name, all_ in history.items()}
        truth = {
            name: Counter(
                repr(row) for row in lance.dataset(str(world.directory / f"{name}.lance"), version=version).to_table().to_pylist()
            )
            for name, version in versions.items()
        }
        assert world.restored(datetime.fromtimestamp(stamp, UTC).isoformat(timespec="microseconds")) == truth
    assert not world.room.journal_status(world.source)[0].holes
