"""A bad ingest goes on top of good rows, good writes come after it, and it alone is taken back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from strongroom.cli.demo.database import Rows, Seen
from strongroom.engines.isolation import call
from strongroom.library import Strongroom
from strongroom.operations.follow.run import Event, FollowOptions

_PROGRAM = "strongroom.cli.demo.database"
BATCH = "nightly"
_GOOD = {"reviewed": "yes", "batch": "review"}


@dataclass(frozen=True, slots=True)
class TakenBack:
    """What was done wrong and taken back: rows written by the bad batch, good ones later, and how many rows then are as must be."""

    bad: int
    good: int
    rows: int
    rows_equal: int
    seconds: float


@contextmanager
def followed(room: Strongroom, source: str) -> Iterator[None]:
    """The journal is kept meanwhile, as 'strongroom journal follow' does."""
    stop, ready = threading.Event(), threading.Event()

    def tell(event: Event) -> None:
        if event.what == "following":
            ready.set()

    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(room.follow, source, FollowOptions(every=1.0, batch_key="batch"), stop=stop, tell=tell)
        following.add_done_callback(lambda _: ready.set())
        ready.wait()
        try:
            yield
        finally:
            stop.set()
            following.result()


def take_back(
    room: Strongroom, database: Path, before: Seen, target: Path, look: Callable[[Path], Seen], step: Callable[[str], Any]
) -> TakenBack:
    """Spoil the database, write on, and restore all but the bad batch to `target`."""
    names = list(before.rows)
    bad, good = names[:: len(names) // 200], names[:: len(names) // 300]
    vectors = np.random.default_rng(23).standard_normal((len(bad), len(before.rows[bad[0]][0]) // 4)).astype(np.float32)
    spoilt = Rows(bad, vectors, ["\N{REPLACEMENT CHARACTER}" for _ in bad], [{"batch": BATCH} for _ in bad])
    with step("follow its changes; a bad batch overwrites rows; good writes come after it"), followed(room, f"chroma://{database}"):
        call(f"{_PROGRAM}:write", str(database), spoilt)
        call(f"{_PROGRAM}:note", str(database), good, _GOOD)
    with step(f"restore everything but batch {BATCH!r}"):
        report = room.restore("latest", f"chroma://{target}", undo=BATCH, source=f"chroma://{database}")
    now = look(target)
    chosen = set(good)
    expected = {name: (row[0], row[1], {**row[2], **_GOOD} if name in chosen else row[2]) for name, row in before.rows.items()}
    equal = sum(now.rows.get(name) == row for name, row in expected.items()) if len(now.rows) == len(expected) else 0
    return TakenBack(len(bad), len(good), len(expected), equal, report.seconds)
