"""Is a snapshot that was made by Chroma's own log the same as one for which every row was read?

Seeded and changed with chromadb; read again with `reread`, under another name of the same directory, and with chromadb itself.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
import pytest
from told import check_probes, sealed, told

from strongroom.library import Strongroom, init_repository
from strongroom.model import FoundBy
from strongroom.repository import Argon2Cost
from strongroom.snapshots.manifest import StoredCollection

DIMENSION, ROWS, SYNC = 12, 640, 100


@dataclass
class World:
    """A collection of 640 rows, all but the last few of them indexed, and a repository that has a snapshot of it."""

    folder: Path
    room: Strongroom
    draw: np.random.Generator = field(default_factory=lambda: np.random.default_rng(4))
    following: int = 0

    @property
    def directory(self) -> Path:
        return self.folder / "db"

    def client(self) -> Any:
        from chromadb.config import Settings

        return chromadb.PersistentClient(str(self.directory), Settings(anonymized_telemetry=False))

    def collection(self, name: str = "things") -> Any:
        return self.client().get_collection(name, embedding_function=None)

    def create(self, name: str = "things") -> None:
        configuration = {"hnsw": {"space": "l2", "sync_threshold": SYNC, "batch_size": 20}}
        self.client().create_collection(name, configuration=configuration, embedding_function=None)

    def write(self, documents: dict[str, str]) -> None:
        """Other texts for rows; their vectors are sent along, as Chroma demands, and are the same."""
        names = list(documents)
        found = self.collection().get(names, include=["embeddings"])
        vectors = dict(zip(found["ids"], found["embeddings"], strict=True))
        self.collection().update(names, [vectors[name] for name in names], documents=list(documents.values()))

    def vectors(self, count: int) -> np.ndarray:
        return self.draw.standard_normal((count, DIMENSION)).astype(np.float32)

    def add(self, count: int, name: str = "things") -> None:
        for start in range(self.following, self.following + count, 90):
            names = [f"thing-{number}" for number in range(start, min(start + 90, self.following + count))]
            texts = [f"the text of {name}" for name in names]
            notes = [{"number": number} for number in range(len(names))]
            self.collection(name).add(names, self.vectors(len(names)), notes, texts)
        self.following += count

    def backup(self, name: str = "db", *, reread: bool = False) -> StoredCollection:
        probes = 0 if reread else None
        record = self.room.backup(f"chroma://{self.folder / name}", reread=reread, probes=probes).snapshot.manifest
        return next(one for one in record.collections if one.name == "things")

    def let_go(self) -> None:
        """Chroma keeps a database open for as long as the process lives."""
        from chromadb.api.shared_system_client import SharedSystemClient

        for system in list(SharedSystemClient._identifier_to_system.values()):  # there is no public way
            system.stop()
        SharedSystemClient.clear_system_cache()

    def copy(self, to: str) -> None:
        self.let_go()
        shutil.copytree(self.directory, self.folder / to)

    def put_back(self, of: str) -> None:
        self.let_go()
        shutil.rmtree(self.directory)
        shutil.copytree(self.folder / of, self.directory)

    def log(self) -> list[int]:
        with sqlite3.connect(self.directory / "chroma.sqlite3") as connection:
            return [number for (number,) in connection.execute("SELECT seq_id FROM embeddings_queue ORDER BY seq_id")]

    def keep_the_log(self) -> None:
        """No purge any more."""
        self.let_go()
        config = json.dumps({"automatically_purge": False, "_type": "EmbeddingsQueueConfigurationInternal"})
        with sqlite3.connect(self.directory / "chroma.sqlite3") as connection:
            connection.execute("UPDATE embeddings_queue_config SET config_json_str = ?", (config,))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, init_repository(str(tmp_path / "repo"), password="x", cost=Argon2Cost(1, 1, 64)))
    made.create()
    made.add(ROWS)
    (tmp_path / "same").symlink_to(made.directory)
    assert made.backup().found_by == FoundBy.ALL
    assert made.log()
    yield made
    made.let_go()


def check(world: World, found_by: FoundBy = FoundBy.FEED) -> StoredCollection:
    """Back up by the log, then all of it under another name, and compare."""
    stored = world.backup()
    assert stored.found_by == found_by
    repository = world.room.repository
    by_feed = told(repository, stored)
    again = world.backup("same", reread=True)
    assert again.slots_read == again.slots
    assert told(repository, again) == by_feed
    content = world.collection().get(include=["documents", "metadatas", "embeddings"])
    rows = [dict(row[0]) for row in by_feed.rows if row is not None]
    notes = [None if row["payload"] is None else json.loads(row["payload"]) for row in rows]
    seen = {row["id"]: (row["document"], note) for row, note in zip(rows, notes, strict=True)}
    assert seen == {
        one: (d, m or None) for one, d, m in zip(content["ids"], content["documents"], content["metadatas"], strict=True)
    }
    vectors = {"embedding": np.asarray(content["embeddings"], np.float32).reshape(-1, DIMENSION)}
    (probes,) = sealed(repository, stored).values()
    check_probes({"embedding": probes}, content["ids"], vectors)
    return stored


def test_only_what_is_new_is_read(world: World) -> None:
    world.add(5)
    assert check(world).slots_read < ROWS / 2


def test_it_is_restored_exactly(world: World) -> None:
    world.collection().update(["thing-1", "thing-500"], world.vectors(2))
    world.collection().delete(["thing-2"])
    assert world.backup().found_by == FoundBy.FEED
    report = world.room.restore("latest", f"chroma://{world.folder / 'restored'}", require_exact=True)
    assert report.checks
    for path in world.directory.rglob("*"):
        if path.is_file():
            assert (world.folder / "restored" / path.relative_to(world.directory)).read_bytes() == path.read_bytes()


def test_where_nothing_changed_no_indexed_row_is_read(world: World) -> None:
    assert check(world).slots_read < 2 * SYNC


def test_a_changed_document(world: World) -> None:
    world.write({"thing-7": "another text"})
    stored = check(world)
    assert 0 < stored.slots_read < ROWS / 2
    assert check(world).slots_read <= stored.slots_read


def test_changed_metadata(world: World) -> None:
    world.collection().update(["thing-300"], metadatas=[{"number": 99, "more": "é"}])
    check(world)


def test_a_changed_vector(world: World) -> None:
    world.collection().update(["thing-400"], world.vectors(1))
    check(world)
    check(world)


def test_upserts_of_old_and_new_rows(world: World) -> None:
    world.collection().upsert(["thing-100", "unheard of"], world.vectors(2), [{"number": 1}] * 2, ["a", "b"])
    check(world)


def test_deleted_rows(world: World) -> None:
    world.collection().delete([f"thing-{number}" for number in (3, 4, 200)])
    check(world)
    check(world)


def test_a_row_that_went_and_came_back(world: World) -> None:
    world.collection().delete(["thing-50"])
    world.collection().add(["thing-50"], world.vectors(1), documents=["it is back"])
    check(world)


def test_what_the_index_had_not_taken_in_then(world: World) -> None:
    """The entry is older than the snapshot, and the index takes it in afterwards."""
    world.collection().update(["thing-10"], world.vectors(1))
    world.write({"thing-11": "pending"})
    check(world)
    world.add(8)
    check(world)
    world.keep_the_log()
    world.add(2 * SYNC)
    check(world)


def test_after_a_purge_all_rows_are_read(world: World) -> None:
    world.write({"thing-10": "purged"})
    last = max(world.log())
    world.add(3 * SYNC)
    assert min(world.log()) > last
    check(world, FoundBy.FINGERPRINTS)


def test_where_the_log_is_kept_any_number_of_changes_is_told(world: World) -> None:
    world.keep_the_log()
    world.add(3 * SYNC)
    assert check(world).slots_read < ROWS


def test_a_database_that_went_another_way(world: World) -> None:
    """An older copy was put back, and as much was written to it as had been before."""
    world.keep_the_log()
    world.copy("older")
    world.write({f"thing-{number}": f"one way {number}" for number in range(6)})
    check(world)
    world.put_back("older")
    world.write({f"thing-{number}": f"other way {number}" for number in range(6)})
    check(world, FoundBy.FINGERPRINTS)


def test_an_older_database(world: World) -> None:
    world.copy("older")
    world.add(3)
    world.backup()
    world.put_back("older")
    check(world, FoundBy.FINGERPRINTS)


def test_a_collection_that_was_made_anew(world: World) -> None:
    world.client().delete_collection("things")
    world.create()
    world.following = 0
    world.add(ROWS)
    check(world, FoundBy.FINGERPRINTS)


def test_an_index_that_was_built_anew(world: World) -> None:
    """From the whole log, when its folder was lost: the same rows, in any order."""
    world.keep_the_log()
    world.client().delete_collection("things")
    world.create()
    world.following = 0
    world.add(ROWS)
    world.backup()
    world.let_go()
    for folder in [one for one in world.directory.iterdir() if one.is_dir()]:
        shutil.rmtree(folder)
    with sqlite3.connect(world.directory / "chroma.sqlite3") as connection:
        connection.execute("UPDATE max_seq_id SET seq_id = 0 WHERE segment_id IN (SELECT id FROM segments WHERE scope = 'VECTOR')")
    world.add(2 * SYNC)
    world.collection().query(world.vectors(1), n_results=1)
    check(world, FoundBy.FINGERPRINTS)


def test_another_collection_shares_the_log(world: World) -> None:
    following, world.following = world.following, 0
    world.create("others")
    world.add(2 * SYNC, "others")
    world.collection("others").update(["thing-5"], world.vectors(1))
    world.following = following
    assert check(world).slots_read < 2 * SYNC
    world.write({"thing-5": "of things"})
    world.collection("others").delete(["thing-6"])
    check(world)


@pytest.mark.parametrize("seed", range(2))
def test_any_changes_one_after_another(world: World, seed: int) -> None:
    draw, names = np.random.default_rng(seed), [f"thing-{number}" for number in range(ROWS)]
    fed = 0
    if seed == 1:
        world.keep_the_log()
    for _ in range(6):
        for _ in range(int(draw.integers(1, 5))):
            things, some = world.collection(), draw.choice(names, int(draw.integers(1, 6)), replace=False).tolist()
            what = int(draw.integers(0, 6))
            if what == 0:
                things.update(some, metadatas=[{"drawn": int(draw.integers(1000))} for _ in some])
            elif what == 1:
                things.update(some, world.vectors(len(some)))
            elif what == 2:
                things.upsert(some, world.vectors(len(some)), documents=["upserted"] * len(some))
            elif what == 3:
                things.delete(some)
            elif what == 4:
                names += [f"thing-{number}" for number in range(world.following, world.following + 30)]
                world.add(30)
            else:
                things.add(some, world.vectors(len(some)))
        repository, stored = world.room.repository, world.backup()
        fed += stored.found_by == FoundBy.FEED
        assert told(repository, world.backup("same", reread=True)) == told(repository, stored)
    assert fed
