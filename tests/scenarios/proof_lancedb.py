"""How is LanceDB written to and read in the proof of the journal? Ids of notes are there several times, those of people once."""

from __future__ import annotations

import hashlib
import json
import random
import threading
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import lance
import lancedb
import numpy as np
import pyarrow as pa

DIMENSION, IDS = 16, 2_000
NAMES = ("notes", "people")
CONFLICTS = ("conflict", "Conflict", "Retry", "retry", "concurrent")


def rows(draw: random.Random, ids: list[int]) -> pa.Table:
    numbers = np.random.default_rng(draw.getrandbits(32))
    vectors = pa.array(numbers.standard_normal(len(ids) * DIMENSION).astype(np.float32))
    second = pa.array(numbers.standard_normal(len(ids) * 4).astype(np.float16))
    many = [[[float(draw.random()) for _ in range(3)] for _ in range(draw.randrange(3))] or None for _ in ids]
    halves = pa.FixedSizeListArray.from_arrays(second, 4)
    there = pa.array([None if draw.random() < 0.2 else place for place in range(len(ids))], pa.int64())
    return pa.table(
        {
            "id": pa.array([f"row {number}" for number in ids]),
            "vector": pa.FixedSizeListArray.from_arrays(vectors, DIMENSION),
            "half": halves.take(there),
            "many": pa.array(many, pa.list_(pa.list_(pa.float32(), 3))),
            "text": pa.array([draw.choice((None, "", f"text {draw.getrandbits(30)}")) for _ in ids], pa.utf8()),
            "tags": pa.array([draw.choice((None, [], ["red", None], ["blue"])) for _ in ids], pa.list_(pa.utf8())),
            "size": pa.array([draw.choice((None, 1, 2, 3)) for _ in ids], pa.int32()),
        }
    )


class LanceDB:
    def __init__(self, place: str) -> None:
        self._place = Path(place)
        self._database = lancedb.connect(place)
        self._catalog = threading.Lock()

    def prepare(self) -> None:
        for name in NAMES:
            if name not in self._database.table_names():
                self._database.create_table(name, rows(random.Random(name), [1, 2, 3]))

    def act(self, draw: random.Random, thread: int) -> int:
        name = draw.choice(NAMES)
        count = draw.choice((1, 1, 3, 10, 40))
        ids = draw.sample(range(IDS), count)
        named = ",".join(f"'row {number}'" for number in ids)
        kind = draw.random()
        new = rows(draw, ids)

        def call() -> None:
            table = self._database.open_table(name)
            if kind < 0.45 or (kind < 0.65 and name == "people"):
                table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(new)
            elif kind < 0.6:
                table.add(new)
            elif kind < 0.65:
                table.add(new.slice(0, 1))
                table.add(new.slice(0, 1))
            elif kind < 0.75:
                table.update(where=f"id IN ({named})", values={"text": f"text {draw.getrandbits(30)}"})
            elif kind < 0.97:
                table.delete(f"id IN ({named})")
            else:
                table.optimize(cleanup_older_than=timedelta(days=7))

        retried(call)
        return count

    def change_catalog(self, draw: random.Random) -> int:
        """Never of the tables that others write to, but for their indices."""
        with self._catalog:
            extras = [name for name in self._database.table_names() if name not in NAMES]
            kind = draw.random()
            if len(extras) > 2 or (extras and kind < 0.3):
                name = draw.choice(extras)
                self._drop(name)
                if kind < 0.15:  # another one of the same name
                    self._database.create_table(name, rows(draw, [7, 7, 8]))
                return 1
            if extras and kind < 0.6:
                self._change(draw, draw.choice(extras))
                return 1
            self._database.create_table(f"extra-{draw.getrandbits(40)}", rows(draw, [1, 1, 2, 3]))
            return 3

    def _drop(self, name: str) -> None:
        """What came to a table since somebody looked at it last goes with it: so it is noted from when to when that was."""
        note, began = self._place.with_name(f"drop-{time.time_ns()}.json"), time.time()
        note.write_text(json.dumps([name, began, None]))
        self._database.drop_table(name)
        note.write_text(json.dumps([name, began, time.time()]))

    def _change(self, draw: random.Random, name: str) -> None:
        table = self._database.open_table(name)
        if "more" in table.schema.names:
            table.drop_columns(["more"])
        elif draw.random() < 0.5:
            table.add_columns({"more": "1"})
        else:
            self._database.create_table(name, rows(draw, [4, 5]), mode="overwrite")

    def read(self) -> dict[str, dict[str, Any]]:
        """Rows by what is in them, each with how often it is there."""
        found = {}
        for folder in sorted(self._place.glob("*.lance")):
            data = lance.dataset(str(folder)).to_table()
            prints = Counter(f"{row['id']} {hashed(row)}" for row in data.to_pylist())
            found[folder.stem] = dict(prints)
        return found


def hashed(row: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(row, sort_keys=True, default=repr).encode()).hexdigest()[:24]


def retried(call: Any) -> Any:
    """Lance leaves it to the user to come again after some conflicts."""
    for attempt in range(50):
        try:
            return call()
        except (RuntimeError, OSError, ValueError) as error:
            if not any(word in str(error) for word in CONFLICTS):
                raise
            time.sleep(0.01 * (attempt + 1))
    return call()


def open_database(place: str) -> LanceDB:
    opened = LanceDB(place)
    opened.prepare()
    return opened
