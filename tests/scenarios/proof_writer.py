"""A program that writes to a database at random from several threads, and notes the truth at moments: what the database itself says
while every writer holds still.

    python proof_writer.py ENGINE PLACE FOLDER SEED THREADS EVERY

Stops after the moment that follows a file FOLDER/stop. A moment is FOLDER/moment-<n>.json: its time, or the
engine's position where only that is exact, and each row of each collection as text. FOLDER/done-<pid> counts the operations, so
that a driver which kills it knows how many there were.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

STILL_SECONDS = 1.1
"""Clocks of whole seconds, as Chroma's log has them, can tell what came before a moment from what came after."""


class Database(Protocol):
    """How an engine is written to and read. All methods may be called by several threads at once."""

    def act(self, draw: random.Random, thread: int) -> int:
        """One random call on shared rows; gives how many operations that was."""

    def change_catalog(self, draw: random.Random) -> int:
        """A collection made, changed, renamed or dropped; gives how many operations that was. Never called beside itself."""

    def read(self) -> dict[str, dict[str, Any]]:
        """Each row of each collection, as what compares equal if it is the same row."""


class Writers:
    def __init__(self, database: Database, folder: Path, seed: int, threads: int, every: int) -> None:
        self._database, self._folder, self._seed, self._every = database, folder, seed, every
        self._still, self._idle = threading.Event(), threading.Barrier(threads + 1)
        self._go = threading.Barrier(threads + 1)
        self._count, self._lock = 0, threading.Lock()
        self._failed: list[BaseException] = []
        self._threads = [threading.Thread(target=self._write, args=(number,), daemon=True) for number in range(threads)]

    def run(self) -> None:
        for thread in self._threads:
            thread.start()
        goal = self._every
        while True:
            while self._count < goal and not self._failed:
                time.sleep(0.01)
            self._still.set()
            if self._failed:
                raise self._failed[0]
            self._idle.wait(300)
            time.sleep(STILL_SECONDS)
            self._note()
            if (self._folder / "stop").exists():
                return
            goal = self._count + self._every
            self._still.clear()
            self._go.wait(300)

    def _write(self, number: int) -> None:
        draw = random.Random(f"{self._seed}-{os.getpid()}-{number}")
        while True:
            if self._still.is_set():
                self._idle.wait(300)
                self._go.wait(300)
            try:
                rare = number == 0 and draw.random() < 0.02
                done = self._database.change_catalog(draw) if rare else self._database.act(draw, number)
            except BaseException as error:  # noqa: BLE001 - the main thread says it
                self._failed.append(error)
                return
            with self._lock:
                self._count += done

    def _note(self) -> None:
        """The truth, all of it or nothing."""
        now = time.time()
        count = len(list(self._folder.glob("moment-*.json")))
        unfinished = self._folder / f"unfinished-{os.getpid()}"
        position = getattr(self._database, "position", None)
        at = datetime.fromtimestamp(now, UTC).isoformat() if position is None else position()
        unfinished.write_text(json.dumps({"at": at, "rows": getattr(self._database, "settled", self._database.read)()}))
        os.replace(unfinished, self._folder / f"moment-{count:03d}.json")
        (self._folder / f"done-{os.getpid()}").write_text(str(self._count))


def database(engine: str, place: str) -> Database:
    """The database of an engine: `open_database(place)` of the module proof_<engine>."""
    opened: Database = importlib.import_module(f"proof_{engine}").open_database(place)
    return opened


if __name__ == "__main__":
    kind, where, notes, seed, threads, every = sys.argv[1:]
    Writers(database(kind, where), Path(notes), int(seed), int(threads), int(every)).run()
