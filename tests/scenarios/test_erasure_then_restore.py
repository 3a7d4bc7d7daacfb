"""Somebody asked to be forgotten, then a backup is restored. By which road do rows come back? By none; and a hold comes first."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import PASSWORD, Ended, strongroom
from runbooks import runbook

from strongroom.library import init_repository
from strongroom.repository import Argon2Cost

DIMENSION, ROWS = 16, 200
COURT = ("--authority", "CASE-114", "--reason", "discovery")
MARK = b"letter of user 3"
"""In the document of each row that is to be forgotten, and of no other."""


@dataclass
class Letters:
    """A FAISS index with a Parquet sidecar: letters of ten users in batches, followed by scans; and a replica of it all."""

    folder: Path
    rows: list[dict[str, str]] = field(default_factory=list)
    full: str = ""
    """The moment at which all letters were there."""

    @property
    def source(self) -> str:
        return f"faiss://{self.folder}/src/letters.faiss"

    @property
    def replica(self) -> str:
        return str(self.folder / "replica")

    @property
    def env(self) -> dict[str, str | None]:
        return {"STRONGROOM_REPOSITORY": str(self.folder / "repo")}

    def run(self, *arguments: str | Path) -> Ended:
        return strongroom(*arguments, env=self.env)

    def add(self, batch: str, count: int) -> None:
        for number in range(len(self.rows), len(self.rows) + count):
            text = f"letter of user {number % 10}, number {number}"
            self.rows.append({"id": f"l{number}", "document": text, "user": f"u{number % 10}", "batch": batch})
        self.keep()

    def keep(self) -> None:
        """Write the files anew, and have the journal follow."""
        (self.folder / "src").mkdir(exist_ok=True)
        index = faiss.IndexFlatL2(DIMENSION)
        numbers = [int(row["id"][1:]) for row in self.rows]
        index.add(np.stack([np.random.default_rng(one).standard_normal(DIMENSION) for one in numbers]).astype(np.float32))
        path = self.folder / "src" / "letters.faiss"
        faiss.write_index(index, str(path))
        pq.write_table(pa.Table.from_pylist(self.rows), path.with_suffix(".parquet"))
        for one in (path, path.with_suffix(".parquet")):
            os.utime(one, (len(self.rows), len(self.rows)))
        done = self.run("journal", "follow", self.source, "--scan", "--once", "--batch-key", "batch", "-q")
        assert done.code == 0, done


@pytest.fixture
def letters(tmp_path: Path) -> Letters:
    """Two batches, each with letters of user 3, a snapshot after each; then his letters are deleted at the source."""
    made = Letters(tmp_path)
    init_repository(str(tmp_path / "repo"), password=PASSWORD, cost=Argon2Cost(1, 1, 64))
    made.add("first", ROWS)
    made.add("second", 100)
    made.run("backup", made.source, "-q").done()
    made.run("copy", "--to", made.replica, "-q").done()
    made.full = made.run("journal", "status", "--no-ask", "--json").done().json[0]["until"]
    made.rows = [row for row in made.rows if row["user"] != "u3"]
    made.keep()
    return made


def restored(folder: Path) -> bytes:
    """All that a restore left below a folder, which is gone afterwards."""
    table = pq.read_table(next(folder.rglob("*.parquet")))
    assert table.num_rows > 50  # it gave back something
    content = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    content += json.dumps(table.to_pylist()).encode()  # columns are compressed
    shutil.rmtree(folder)
    return content


def test_no_road_leads_back(letters: Letters, tmp_path: Path) -> None:
    names = [one["id"] for one in letters.run("snapshots", "--json").done().json]
    of = ("--source", letters.source)
    roads = {
        **{f"snapshot {name[:6]}": (name,) for name in names},
        "a moment": ("--at", letters.full, *of),
        "an undo": ("--undo", "second", "--at", letters.full, *of),
    }
    out = tmp_path / "out"

    def walk(road: tuple[str, ...], *more: str) -> bytes:
        where, *options = road if not road[0].startswith("--") else ("", *road)
        words = [one for one in (where, f"faiss://{out}/x.faiss", *options, *more) if one]
        done = letters.run("restore", *words, "-q")
        assert done.code == 0, (road, done)
        return restored(out)

    assert MARK in walk(roads["an undo"])

    held = letters.run("hold", "place", "latest", *COURT, "--json").done().json["hold"]["id"]
    request = {"FILTER": "user=u3", "REQUEST": "Art. 17 request 2026-118"}
    with runbook("somebody asks to be forgotten", letters.env, **request) as play:
        refused = play.step(code=5)
        assert "CASE-114" in refused.out  # the list says who to ask
        assert "nothing was erased" in refused.err
        play.left.clear()
    letters.run("hold", "release", held, *COURT).done()

    places = {"REPLICA": letters.replica, "CERTIFICATE": tmp_path / "erased.json", "TARGET": f"faiss://{out}/x.faiss"}
    with runbook("somebody asks to be forgotten", letters.env, **request, **places) as play:
        play.step()
        play.step()
        (listed,) = letters.run("certificate", "list", "--json").done().json
        play.step(ERASURE=listed["id"], PUBLIC_KEY=public_key(letters, listed["id"], tmp_path))
        assert MARK in walk((names[-1],), "-r", letters.replica)  # it doesn't know yet: the runbook says so
        play.step()
        assert "erased" in play.step().out
    assert MARK not in restored(out)

    for name, road in roads.items():
        assert MARK not in walk(road), name
    assert MARK not in walk(roads["an undo"], "-r", letters.replica)
    drilled = tmp_path / "drilled"
    letters.run("drill", "--target", f"faiss://{drilled}/x.faiss", "-q", "--source", letters.source).done()
    assert MARK not in restored(drilled)
    shutil.rmtree(tmp_path / "repo")
    assert letters.run("certificate", "verify", tmp_path / "erased.json", "--json").done().json["reason"] == request["REQUEST"]


def public_key(letters: Letters, erasure: str, folder: Path) -> str:
    """As somebody took it down once, over a way that he trusts."""
    letters.run("certificate", "show", erasure, "--out", folder / "other.json").done()
    return str(letters.run("certificate", "verify", folder / "other.json", "--json").done().json["public_key"])
