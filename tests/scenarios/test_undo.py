"""Does `restore --undo` take back one faulty batch and nothing else, on a real Chroma database? Every row is compared with a model
that never saw the batch."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import chroma_writer
import numpy as np
import pytest
from commands import PASSWORD, Ended, strongroom
from processes import apart

from strongroom.library import Strongroom, init_repository, open_repository
from strongroom.repository import Argon2Cost

DIMENSION, ROWS = 8, 400

Row = tuple[list[float], str | None, dict[str, Any] | None]


@dataclass
class World:
    """A Chroma database of 400 rows with a journal, and a model of what good writes alone make of it. A step is written, sealed and
    told to the model, unless it is bad."""

    folder: Path
    draw: np.random.Generator = field(default_factory=lambda: np.random.default_rng(11))
    model: dict[str, Row] = field(default_factory=dict)

    @property
    def source(self) -> str:
        return f"chroma://{self.folder}/db"

    @property
    def room(self) -> Strongroom:
        return open_repository(str(self.folder / "repo"), password=PASSWORD)

    def run(self, *arguments: str | Path) -> Ended:
        return strongroom(*arguments, env={"STRONGROOM_REPOSITORY": str(self.folder / "repo")})

    def follow(self) -> None:
        done = self.run("journal", "follow", self.source, "--batch-key", "batch", "--once", "--quiet")
        assert done.code == 0, done

    def vectors(self, count: int) -> list[list[float]]:
        return self.draw.standard_normal((count, DIMENSION)).astype(np.float32).tolist()

    def write(self, *steps: dict[str, Any], good: bool = True) -> None:
        apart(chroma_writer.write, str(self.folder / "db"), list(steps))
        if good:
            for step in steps:
                tell(self.model, step)
        self.follow()

    def read(self, name: str) -> dict[str, Row]:
        return dict(apart(chroma_writer.read, str(self.folder / name))["docs"])


def tell(model: dict[str, Row], step: dict[str, Any]) -> None:
    """What a call of chromadb does to rows. A good insert is told as such only if it took effect when it was made."""
    ids = step.get("ids", ())
    given = zip(*(step.get(name) or [None] * len(ids) for name in ("embeddings", "documents", "metadatas")), strict=True)
    for one, (vector, document, payload) in zip(ids, given, strict=True):
        there = model.get(one)
        if step["do"] == "delete":
            model.pop(one, None)
        elif step["do"] == "add" or (step["do"] == "upsert" and there is None):
            model[one] = (vector, document, payload)
        elif there is not None:
            kept = {key: value for key, value in {**(there[2] or {}), **(payload or {})}.items() if value is not None}
            model[one] = (vector or there[0], there[1] if document is None else document, kept or None)


def names(stem: str, *numbers: int) -> list[str]:
    return [f"{stem}{number}" for number in range(*numbers)]


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    init_repository(str(tmp_path / "repo"), password=PASSWORD, cost=Argon2Cost(1, 1, 64))
    payloads = [{"n": number, "batch": "seed", "lang": "en" if number % 2 else "de"} for number in range(ROWS)]
    seed = {"do": "add", "ids": names("d", ROWS), "embeddings": made.vectors(ROWS), "metadatas": payloads}
    made.write({"do": "create"}, {**seed, "documents": names("text ", ROWS)})
    return made


def bad_batch(world: World) -> None:
    """Changes rows 100 to 199 and makes 100 of its own; removes rows 300 to 319, which nobody tags."""
    ids = [*names("d", 100, 200), *names("bad", 100)]
    payloads = [{"batch": "crawl-7", "n": -1, "junk": True}] * 200
    rows = {"ids": ids, "embeddings": world.vectors(200), "metadatas": payloads, "documents": ["junk"] * 200}
    world.write({"do": "upsert", **rows}, good=False)


def good_writes(world: World) -> None:
    """All that may come after: partial updates, whole ones, deletes, inserts anew, and new rows."""
    update, batch = {"do": "update"}, {"batch": "good"}
    world.write(
        {**update, "ids": names("d", 100, 120), "metadatas": [{"stars": 5, **batch}] * 20},
        {**update, "ids": names("d", 120, 140), "embeddings": world.vectors(20), "metadatas": [batch] * 20},
        {**update, "ids": names("d", 140, 150), "embeddings": world.vectors(10), "documents": ["fresh"] * 10, "metadatas":
         [{"n": 7, "junk": None, "lang": "fr", **batch}] * 10},
        {"do": "delete", "ids": names("d", 150, 160)},
        {"do": "delete", "ids": names("d", 160, 170)},
        {"do": "add", "ids": names("d", 160, 170), "embeddings": world.vectors(10), "metadatas": [batch] * 10},
        {"do": "add", "ids": names("bad", 50, 60), "embeddings": world.vectors(10), "metadatas": [{"again": 1, **batch}] * 10},
        {**update, "ids": names("bad", 5), "metadatas": [{"stars": 5}] * 5},
        {"do": "delete", "ids": names("bad", 90, 100)},
        {"do": "upsert", "ids": names("new", 30), "embeddings": world.vectors(30), "metadatas": [batch] * 30},
    )  # fmt: skip


def same(found: dict[str, Row], model: dict[str, Row]) -> None:
    assert found.keys() == model.keys()
    for one, (vector, document, payload) in model.items():
        assert found[one] == (np.array(vector, np.float32).tolist(), document, payload), one


def test_one_batch_is_taken_back_and_nothing_else(world: World) -> None:
    bad_batch(world)
    good_writes(world)
    seen = world.room.plan_restore("latest", f"chroma://{world.folder}/back", undo="crawl-7").moment
    assert seen is not None
    assert seen.undo is not None
    report = world.room.restore("latest", f"chroma://{world.folder}/back", undo="crawl-7")
    back, real = world.read("back"), world.read("db")
    same(back, world.model)
    assert report.plan.moment == seen
    fates = Counter[str]()
    later = {*names("d", 100, 170), *names("bad", 50, 60), *names("bad", 90, 100)}
    for one in (*names("d", 100, 200), *names("bad", 100)):
        if back.get(one) == real.get(one):
            fates["kept"] += 1
        else:
            fates["removed" if one not in back else "partly" if one in later else "put back"] += 1
    assert seen.undo.rows == fates
    assert fates == {"removed": 80, "put back": 30, "partly": 50, "kept": 40}
    assert (seen.undo.operations, seen.undo.lost_updates, seen.undo.replacements) == (200, 5, 0)
    assert neighbours(world, real, back) == (seen.undo.probes_changed, seen.undo.neighbours)
    assert seen.undo.probes == 32
    assert {one.id for one in seen.undo.sample if one.fate == "removed"} <= set(names("bad", 100))


def neighbours(world: World, real: dict[str, Row], back: dict[str, Row]) -> tuple[int, int]:
    """By brute force: how many of the sealed queries change their first 10 neighbours, and how many neighbours."""
    from strongroom.snapshots import probes

    repository = world.room.repository
    (collection,) = world.room.snapshot().manifest.collections
    sealed = probes.decode(repository.read_blob(bytes.fromhex(collection.probes[0].blob)))
    first = []
    for rows in (real, back):
        ids, vectors = list(rows), np.array([row[0] for row in rows.values()], np.float64)
        distances = ((sealed.queries[:, None, :] - vectors[None]) ** 2).sum(-1)
        first.append([{ids[place] for place in order[:10]} for order in distances.argsort(1)])
    differing = [len(then - now) for then, now in zip(*first, strict=True)]
    return sum(one > 0 for one in differing), sum(differing)


def test_what_a_filter_means_is_taken_back_deletes_too(world: World) -> None:
    """A faulty run overwrote and removed rows in German; a good one puts some of the removed ones in anew."""
    german = names("d", 200, 240, 2)
    before = world.room.journal_status()[0].until
    wrong = {"embeddings": world.vectors(20), "metadatas": [{"n": -1, "wrong": 1}] * 20, "documents": ["junk"] * 20}
    world.write({"do": "update", "ids": german, **wrong}, good=False)
    world.write({"do": "delete", "ids": german[:10]}, good=False)
    world.write({"do": "delete", "ids": ["d201", "d203"]})
    until = world.room.journal_status()[0].until
    anew = {"ids": german[:4], "embeddings": world.vectors(4), "metadatas": [{"lang": "de", "anew": 1}] * 4}
    world.write({"do": "add", **anew})
    world.write({"do": "update", "ids": german[5:7], "metadatas": [{"stars": 3}] * 2})
    args = (
        "restore",
        "--where",
        "lang=de and collection=docs",
        "--between",
        before,
        until,
        f"chroma://{world.folder}/back",
        "--json",
    )
    undo = world.run(*args).done().json["plan"]["moment"]["undo"]
    back = world.read("back")
    for one in german[:4]:  # a good write was held up by nothing then, and is not now
        assert back[one][2] == {"lang": "de", "anew": 1}
    assert back[german[5]][2] == {"n": int(german[5][1:]), "batch": "seed", "lang": "de", "stars": 3}
    same(back, world.model)
    assert undo["rows"] == {"kept": 4, "brought back": 4, "partly": 2, "put back": 10}
    assert (undo["operations"], undo["replacements"], undo["lost_updates"]) == (30, 4, 0)


def test_a_batch_in_two_parts_up_to_a_moment(world: World) -> None:
    """--at bounds the state; a mistake that goes on after it is none of its business."""
    bad_batch(world)
    world.write({"do": "update", "ids": names("d", 100, 110), "metadatas": [{"stars": 1}] * 10})
    until = world.room.journal_status()[0].until
    model = dict(world.model)
    ids = names("d", 10)
    world.write({"do": "update", "ids": ids, "metadatas": [{"batch": "crawl-7"}] * 10}, good=False)
    world.write({"do": "delete", "ids": names("d", 300, 310)})
    there = world.room.restore("latest", f"chroma://{world.folder}/then", undo="crawl-7", at=until).plan.moment
    assert there is not None
    assert there.undo is not None
    assert there.undo.operations == 200
    same(world.read("then"), model)
    world.room.restore("latest", f"chroma://{world.folder}/now", undo="crawl-7")
    same(world.read("now"), world.model)


def test_the_snapshot_is_one_of_before_the_batch(world: World) -> None:
    """A backup that was made since holds the mistake."""
    world.write({"do": "delete", "ids": ["d0"]})
    before = world.room.backup(world.source).snapshot.id
    bad_batch(world)
    world.room.backup(world.source)
    world.write({"do": "delete", "ids": ["d1"]})
    report = world.room.restore("latest", f"chroma://{world.folder}/back", undo="crawl-7")
    assert report.plan.snapshot == before
    same(world.read("back"), world.model)


def test_over_the_live_source(world: World) -> None:
    """Refused without --overwrite; then it is the new state, and following goes on from it."""
    bad_batch(world)
    world.run("restore", "--undo", "crawl-7", world.source, "--quiet").failed(5, "not empty")
    world.run("restore", "--undo", "crawl-7", world.source, "--overwrite", "--quiet", "--json").done()
    same(world.read("db"), world.model)
    world.write({"do": "delete", "ids": ["d1"]})
    world.run("restore", "--at", world.room.journal_status()[0].until, f"chroma://{world.folder}/back", "--quiet").done()
    same(world.read("back"), world.model)
    world.run("restore", "--undo", "crawl-7", f"chroma://{world.folder}/x").failed(5, "crawl-7", "hole", "--at")


def test_what_cannot_be_undone_is_refused(world: World) -> None:
    bad_batch(world)
    target = f"chroma://{world.folder}/back"
    world.run("restore", "--undo", "crawl-8", target).failed(5, "belongs to batch 'crawl-8'", "crawl-7 (200 operations")
    times = ("--between", "2026-01-01", "2026-01-02")
    world.run("restore", "--where", "junk=true", *times, target).failed(5, "no operation", "journal batches")
    world.run("restore", "--where", "junk is true", *times, target).failed(2, "--where", "KEY=VALUE")
    world.run("restore", "--where", "junk=true", target).failed(2, "--between")
    world.run("restore", *times, target).failed(2, "--where")
    world.run("restore", "--where", "junk=true", "--between", "2026-01-02", "2026-01-01", target).failed(2, "after")
    world.run("restore", "--where", "junk=true", "--between", "soon", "later", target).failed(2, "'soon' is no time")
    world.run("restore", "--undo", "crawl-7", *times, target).failed(2, "--undo")
    world.run("restore", "latest", target, "--undo", "crawl-7").failed(2, "--undo chooses the snapshot")
    assert not (world.folder / "back").exists()


def test_batches_are_listed_and_the_plan_is_shown(world: World) -> None:
    bad_batch(world)
    world.write({"do": "delete", "ids": ["d1", "d2"]})
    listed = world.run("journal", "batches", "--json").done().json
    assert [(one["batch"], one["operations"], one["rows"]) for one in listed] == [("crawl-7", 200, 200), (None, 2, 2)]
    assert listed[0]["collections"] == ["docs"]
    shown = world.run("journal", "batches", world.source).done().out
    assert "crawl-7" in shown
    planned = world.run("restore", "--undo", "crawl-7", f"chroma://{world.folder}/back", "--dry-run").done().out
    assert "takes back batch 'crawl-7': 200 operations on 200 rows" in planned
    assert "100  removed" in planned
    assert "probes change their first 10 neighbours" in planned
    assert not (world.folder / "back").exists()
    told = world.run("restore", "--undo", "crawl-7", f"chroma://{world.folder}/back", "--quiet").done().out
    assert told.index("takes back batch") < told.index("restored")
