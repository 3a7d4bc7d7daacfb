"""Is a snapshot that was made by LanceDB's own account of what changed the same as one for which every row was read?

Seeded and changed with lancedb; read again with `reread`, under another name of the same directory, and with lance itself.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import lance
import lancedb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from told import check_probes, sealed, told

from strongroom.engines.lancedb import fragments
from strongroom.library import Strongroom, init_repository
from strongroom.model import FoundBy, Stretch
from strongroom.operations.verify import Level
from strongroom.repository import Argon2Cost
from strongroom.snapshots.history import Snapshot
from strongroom.snapshots.manifest import StoredCollection

DIMENSION = 12
EACH = 100


def rows(first: int, count: int, generation: int = 0, *, far: bool = False) -> pa.Table:
    vectors = np.random.default_rng([first, generation]).standard_normal((count, DIMENSION)).astype(np.float32)
    vectors += np.float32(20 if far else 0)
    return pa.table(
        {
            "id": pa.array(range(first, first + count), pa.int64()),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIMENSION),
            "note": [f"note {number} of {generation}" for number in range(first, first + count)],
        }
    )


@dataclass
class World:
    """A table of four fragments of 100 rows, and a repository that has a snapshot of it."""

    folder: Path
    room: Strongroom
    following: int = 4 * EACH
    generation: int = 0
    snapshots: list[Snapshot] = field(default_factory=list)

    @property
    def directory(self) -> Path:
        return self.folder / "db"

    def table(self) -> Any:
        return lancedb.connect(str(self.directory)).open_table("things")

    def backup(self, name: str = "db", *, reread: bool = False) -> StoredCollection:
        probes = 0 if reread else None  # that they are right is checked against all rows; asking the engine takes seconds
        self.snapshots.append(self.room.backup(f"lancedb://{self.folder / name}", reread=reread, probes=probes).snapshot)
        return self.snapshots[-1].manifest.collections[0]

    def append(self, count: int = EACH, *, far: bool = False) -> None:
        """New rows at the end, near to no query if they are `far`."""
        self.table().add(rows(self.following, count, far=far))
        self.following += count


def new_world(folder: Path) -> World:
    folder.mkdir(parents=True, exist_ok=True)
    table = lancedb.connect(str(folder / "db")).create_table("things", rows(0, EACH))
    for first in range(EACH, 4 * EACH, EACH):
        table.add(rows(first, EACH))
    (folder / "same").symlink_to(folder / "db")
    room = init_repository(str(folder / "repo"), password="x", cost=Argon2Cost(1, 1, 64))
    return World(folder, room)


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = new_world(tmp_path / "world")
    assert made.backup().found_by == FoundBy.ALL
    return made


def check(world: World, found_by: FoundBy = FoundBy.FEED, read: int | None = None) -> StoredCollection:
    """Back up by the feed, then all of it under another name, and compare."""
    stored = world.backup()
    assert stored.found_by == found_by
    if read is not None:
        assert stored.slots_read == read
    repository = world.room.repository
    by_feed = told(repository, stored)
    again = world.backup("same", reread=True)
    assert again.found_by in (FoundBy.FINGERPRINTS, FoundBy.ALL)
    assert again.slots_read == again.slots
    assert told(repository, again) == by_feed
    assert again.schema == stored.schema
    content = lance.dataset(str(world.directory / "things.lance")).to_table()
    assert [dict(row[0])["id"] for row in by_feed.rows] == content["id"].to_pylist()
    vectors = np.array(content["vector"].to_pylist(), np.float32).reshape(-1, DIMENSION)
    assert sealed(repository, stored)
    check_probes(sealed(repository, stored), content["id"].to_pylist(), {"vector": vectors})
    return stored


def test_only_the_rows_of_new_fragments_are_read(world: World) -> None:
    world.append()
    check(world, read=EACH)


def test_where_nothing_changed_nothing_is_read(world: World) -> None:
    assert world.backup().found_by == FoundBy.NOTHING
    assert world.backup().slots_read == 0


def test_a_fragment_that_lost_rows_is_read_again(world: World) -> None:
    world.table().delete("id in (103, 250)")
    check(world, read=2 * EACH - 2)


def test_a_fragment_that_lost_other_rows_than_before_is_read_again(world: World) -> None:
    version = world.table().version
    world.table().delete("id = 103")
    check(world, read=EACH - 1)
    world.table().restore(version)
    world.table().delete("id = 104")
    check(world, read=EACH - 1)


def test_updated_rows_are_read_and_what_is_left_beside_them(world: World) -> None:
    world.table().update(where="id = 120", values={"note": "changed"})
    check(world, read=EACH)
    world.table().update(where="id = 7", values={"vector": [9.0] * DIMENSION})
    check(world, read=EACH)


def test_merged_rows(world: World) -> None:
    more = pa.concat_tables([rows(395, 5, 1), rows(400, 5, 1)])
    world.table().merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(more)
    check(world, read=EACH + 5)


def test_rows_that_vanish_whole_fragments_at_a_time(world: World) -> None:
    world.append(far=True)
    check(world, read=EACH)
    world.table().delete(f"id >= {4 * EACH}")
    check(world, read=0)


def test_a_new_column_has_all_rows_read(world: World) -> None:
    world.table().add_columns({"twice": "id * 2"})
    check(world, FoundBy.ALL)


def test_a_column_that_was_dropped_or_renamed_has_all_rows_read(world: World) -> None:
    world.table().alter_columns({"path": "note", "rename": "remark"})
    check(world, FoundBy.ALL)
    world.table().drop_columns(["remark"])
    check(world, FoundBy.ALL)


def test_a_column_of_the_same_name_that_holds_nothing(world: World) -> None:
    """Dropped and added again as nulls: no file changes, nor does the schema."""
    before = world.snapshots[-1].manifest.collections[0]
    world.table().drop_columns(["note"])
    world.table().add_columns(pa.schema([pa.field("note", pa.string())]))
    after = check(world, FoundBy.FINGERPRINTS, read=4 * EACH)
    assert (after.schema, after.count) == (before.schema, before.count)
    assert after.rows_root != before.rows_root


def test_columns_that_changed_their_names(world: World) -> None:
    world.table().add_columns({"a": "id", "b": "id * 2"})
    world.backup()
    for old, new in (("a", "c"), ("b", "a"), ("c", "b")):
        world.table().alter_columns({"path": old, "rename": new})
    check(world, FoundBy.ALL)


def test_a_compacted_table_is_read_and_found_the_same(world: World) -> None:
    before = told(world.room.repository, world.snapshots[-1].manifest.collections[0])
    world.table().optimize()
    stored = check(world, FoundBy.FINGERPRINTS, read=4 * EACH)
    assert told(world.room.repository, stored) == before


def test_an_older_version_that_is_current_again(world: World) -> None:
    version = world.table().version
    world.append(far=True)
    world.table().delete("id = 5")
    check(world, read=2 * EACH - 1)
    world.table().restore(version)
    check(world, read=EACH)


def test_an_index_that_was_built(world: World) -> None:
    world.table().create_index("id", config=lancedb.index.BTree())
    check(world, read=0)


def test_another_measure_of_nearness_has_all_rows_read(world: World) -> None:
    for _ in range(3):
        world.append()
    check(world, read=3 * EACH)
    world.table().create_index("vector", config=lancedb.index.IvfFlat(distance_type="cosine", num_partitions=1))
    assert world.backup().found_by == FoundBy.FINGERPRINTS


def test_versions_that_were_cleaned_up(world: World) -> None:
    world.append()
    lance.dataset(str(world.directory / "things.lance")).cleanup_old_versions(timedelta(0), delete_unverified=True)
    check(world, read=EACH)


def test_a_table_that_was_made_again(world: World) -> None:
    database = lancedb.connect(str(world.directory))
    database.drop_table("things")
    table = database.create_table("things", rows(0, EACH, 1))
    for first in range(EACH, 4 * EACH, EACH):
        table.add(rows(first, EACH, 1))
    check(world, FoundBy.FINGERPRINTS, read=4 * EACH)


def test_a_table_without_an_id_column(tmp_path: Path) -> None:
    folder = tmp_path / "nameless"
    folder.mkdir()
    database = lancedb.connect(str(folder / "db"))
    table = database.create_table("things", rows(0, EACH).drop_columns(["id"]))
    table.add(rows(EACH, EACH).drop_columns(["id"]))
    world = World(folder, init_repository(str(folder / "repo"), password="x", cost=Argon2Cost(1, 1, 64)))
    (folder / "same").symlink_to(folder / "db")
    world.backup()
    table.add(rows(2 * EACH, EACH).drop_columns(["id"]))
    table.delete("note = 'note 3 of 0'")
    stored = world.backup()
    assert (stored.found_by, stored.slots_read) == (FoundBy.FEED, 2 * EACH - 1)
    assert told(world.room.repository, stored) == told(world.room.repository, world.backup("same", reread=True))


def test_a_lost_cache_only_costs_time(world: World, own_state: Path) -> None:
    world.append()
    shutil.rmtree(own_state)
    stored = world.backup()
    assert (stored.found_by, stored.slots_read) == (FoundBy.FINGERPRINTS, 5 * EACH)
    world.append()
    check(world, read=EACH)


def test_queries_whose_answers_are_gone_are_dropped_and_then_chosen_anew(world: World) -> None:
    [one] = sealed(world.room.repository, world.snapshots[-1].manifest.collections[0]).values()
    world.table().delete(f"id = {one.exact.ids[0][0]}")
    stored = check(world)
    [fewer] = sealed(world.room.repository, stored).values()
    gone = one.exact.ids[0][0]
    lasting = [query.tobytes() for query, ids in zip(one.queries, one.exact.ids, strict=True) if gone not in ids]
    assert 0 < len(lasting) < len(one.queries)
    assert [query.tobytes() for query in fewer.queries] == lasting
    world.table().delete("id % 3 = 0 and id < 150")
    check(world, FoundBy.FINGERPRINTS)


def test_many_small_snapshots_are_tidied_up(world: World) -> None:
    for number in range(12):
        world.append(5)
        if number % 5 == 4:
            world.table().delete(f"id in ({4 * EACH + number}, {4 * EACH + 2 * number})")  # of fragments that are small
        stored = world.backup()
        assert len(stored.segments) < 12
    assert sum(one.manifest.collections[0].found_by == FoundBy.FEED for one in world.snapshots) > 6
    world.append(5)
    check(world)


def test_a_restore_of_such_a_snapshot_is_whole(world: World) -> None:
    world.table().create_index("vector", config=lancedb.index.IvfFlat(distance_type="l2", num_partitions=2))
    world.append()
    world.table().update(where="id = 320", values={"note": "changed"})
    assert world.backup().found_by == FoundBy.FEED
    snapshot = world.snapshots[-1].id
    assert not world.room.verify(snapshot, level=Level.ANSWERS).findings
    target = world.folder / "back"
    world.room.restore(snapshot, f"lancedb://{target}")
    path = "things.lance"
    assert lance.dataset(str(target / path)).to_table() == lance.dataset(str(world.directory / path)).to_table()


LIES = {
    "a stretch too long": lambda all_: [replace(all_[0], count=all_[0].count + 1), *all_[1:]],
    "rows of another place": lambda all_: [replace(all_[0], then=all_[1].then), *all_[1:]],
    "beyond the end": lambda all_: [*all_[:-1], replace(all_[-1], then=10_000)],
    "twice the same": lambda all_: [all_[0], *all_],
    "before the beginning": lambda all_: [replace(all_[0], then=-1), *all_[1:]],
    "nothing at all": lambda all_: [Stretch(0, 0, 0), *all_],
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_a_feed_that_contradicts_itself_loses_no_row(world: World, lie: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = fragments.unchanged
    monkeypatch.setattr(fragments, "unchanged", lambda now, then: iter(lie(list(honest(now, then)))))
    world.append()
    stored = world.backup()
    assert told(world.room.repository, stored) == told(world.room.repository, world.backup("same", reread=True))


STEPS = st.sampled_from(["append", "few", "delete", "update", "merge", "optimize", "restore", "column", "renew", "clean", "scalar"])


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(STEPS, st.integers(0, 399), st.booleans()), min_size=1, max_size=6))
def test_any_changes_one_after_another(steps, tmp_path_factory: pytest.TempPathFactory) -> None:
    world = new_world(tmp_path_factory.mktemp("steps"))
    world.backup()
    versions = [world.table().version]
    for step, number, backed_up in steps:
        change(world, step, number, versions)
        versions.append(world.table().version)
        if backed_up:
            stored = world.backup()
            assert told(world.room.repository, stored) == told(world.room.repository, world.backup("same", reread=True))
    stored = world.backup()
    assert told(world.room.repository, stored) == told(world.room.repository, world.backup("same", reread=True))
    content = lance.dataset(str(world.directory / "things.lance")).to_table()
    vectors = np.array(content["vector"].to_pylist(), np.float32).reshape(-1, DIMENSION)
    check_probes(sealed(world.room.repository, stored), content["id"].to_pylist(), {"vector": vectors})


def change(world: World, step: str, number: int, versions: list[int]) -> None:
    table = world.table()
    world.generation += 1
    if step in ("append", "few"):
        world.append(EACH if step == "append" else 3)
    elif step == "delete":
        table.delete(f"id >= {number} and id < {number + 7}")
    elif step == "update":
        table.update(where=f"id = {number}", values={"note": f"changed {world.generation}"})
    elif step == "merge":
        more = rows(number, 20, world.generation).select(table.schema.names[:3])
        table.merge_insert("id").when_matched_update_all().execute(more)
    elif step == "optimize":
        table.optimize()
    elif step == "restore":
        there = {one["version"] for one in table.list_versions()}
        table.restore(next(one for one in [*versions[number % len(versions) :], table.version] if one in there))
    elif step == "column":
        table.add_columns({f"more{world.generation}": f"id + {number}"})
    elif step == "renew" and "more" in table.schema.names:
        table.drop_columns(["more"])
        table.add_columns(pa.schema([pa.field("more", pa.int64())]) if number % 2 else {"more": f"id + {number}"})
    elif step == "renew":
        table.add_columns({"more": f"id * {number}"})
    elif step == "clean":
        lance.dataset(str(world.directory / "things.lance")).cleanup_old_versions(timedelta(0), delete_unverified=True)
    elif step == "scalar":
        table.create_index("id", config=lancedb.index.BTree(), replace=True)
