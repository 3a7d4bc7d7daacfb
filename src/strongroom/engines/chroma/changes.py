"""Which slots of the vector index hold the rows that they held at an earlier snapshot? Chroma's log tells, as long as it goes back
that far.

Each collection's log is a prefix shorter after every purge, and each entry has a higher number than those before. So if the last
entry that the log held then is still there, and is the same one, every change since is in the log too; and the database is not an
older copy that went on in another way. What the segments had not taken in then counts as a change, and must still be there as well.

An id that no entry names has the vector and the document of then. That it lies in the same slot is not for the log to say, as an
index may be built anew: a mark of the ids of each few slots in a row is kept with the snapshot.
"""

from __future__ import annotations

import base64
import json
import sqlite3
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from blake3 import blake3

from strongroom.engines.chroma.catalog import METADATA_SCOPE, VECTOR_SCOPE, Entry
from strongroom.engines.chroma.hnsw import slot_labels
from strongroom.engines.chroma.log import Log, entries_of
from strongroom.engines.chroma.rows import Places
from strongroom.model import Collection, Json, Stretch

_FEWEST_SLOTS, _MOST_MARKS = 64, 4096
"""A mark stands for so many slots at least; there are no more marks than that, so that a manifest stays small."""

_MARK_BYTES = 6
"""One that is wrong by chance (1 in 10^14) takes an index that was built anew, in another order, for the one of then."""


def described(connection: sqlite3.Connection, log: Log, entry: Entry, places: Places, root: Path) -> Json:
    """What `unchanged` wants to be shown again; None if nothing could be told from it: the log is empty, or nothing is indexed."""
    numbers = log.numbers(entry.identity)
    if not numbers or places.header is None or not places.header.count:
        return None
    last, taken = numbers[-1], min(entry.position(VECTOR_SCOPE), entry.position(METADATA_SCOPE))
    count = places.header.count
    slots = max(_FEWEST_SLOTS, -(-count // _MOST_MARKS))
    marks = _marks(_names(places, entry, root), slots)
    return {"last": last, "taken": taken, "log": _log_mark(connection, numbers, taken, last), "slots": slots, "ids": marks}


def unchanged(
    connection: sqlite3.Connection, log: Log, entry: Entry, places: Places, root: Path, now: Collection, then: Collection
) -> Iterator[Stretch]:
    """The slots whose rows are those of then."""
    feed = then.feed
    same = all(now.catalog.get(name) == then.catalog.get(name) for name in ("id", "dimension", "segments"))
    if not same or not isinstance(feed, dict) or places.header is None:
        return
    last, taken = int(feed["last"]), int(feed["taken"])
    if _log_mark(connection, log.numbers(entry.identity), taken, last) != feed["log"]:
        return
    changed = {identity for (identity,) in entries_of(connection, "id", log.numbers(entry.identity, taken))}
    names = _names(places, entry, root)
    touched = np.fromiter((name in changed for name in names), np.bool_, len(names))
    slots = int(feed["slots"])
    alike = [
        mark == before and not touched[number * slots : (number + 1) * slots].any()
        for number, (mark, before) in enumerate(zip(_marks(names, slots), feed["ids"], strict=False))
    ]
    for kept, run in groupby(range(len(alike)), key=alike.__getitem__):
        numbers = list(run)
        first, end = numbers[0] * slots, min((numbers[-1] + 1) * slots, len(names))
        if kept:
            yield Stretch(first, end - first, first)


def _log_mark(connection: sqlite3.Connection, numbers: Sequence[int], taken: int, last: int) -> str:
    """Of those of a collection's entries that weren't taken in everywhere, and the last one; '' if that is gone."""
    if last not in numbers:
        return ""
    found = blake3()
    for row in entries_of(connection, "*", [one for one in numbers if one == last or taken < one < last]):
        found.update(json.dumps([value.hex() if isinstance(value, bytes) else value for value in row]).encode())
    return base64.b64encode(found.digest(16)).decode()


def _names(places: Places, entry: Entry, root: Path) -> list[str]:
    """The id of the row that each slot shows, '' for dead ones."""
    assert places.header is not None  # noqa: S101 - asked for only if there is an index
    shown = places.shown(slot_labels(root / entry.vector_segment, places.header))
    return [places.ids[label] if label else "" for label in shown.tolist()]


def _marks(names: list[str], slots: int) -> list[str]:
    pieces = (names[start : start + slots] for start in range(0, len(names), slots))
    return [base64.b64encode(blake3(json.dumps(piece).encode()).digest(_MARK_BYTES)).decode() for piece in pieces]
