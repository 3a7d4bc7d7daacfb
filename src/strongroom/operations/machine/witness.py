"""What this machine remembers of a repository: which snapshots were the newest, which packs were proven, and which are damaged.

Object storage can be rolled back as a whole by whoever controls it: the last snapshots taken away leave no gap that the others
could show. A witness outside of the repository shows it. And a listing doesn't show that a pack's bytes were altered: a backup
must be told not to rely on it. Losing this file costs only that knowledge; it holds no secret.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from strongroom.repository import Repository
from strongroom.repository.state import alone_at, state_directory

Notes = dict[str, Any]


class Witness:
    """The notes about one repository, in the state directory."""

    def __init__(self, repository: Repository) -> None:
        self._path = state_directory() / f"{repository.config.repository_id.hex()}.json"
        self._notes = self._read()

    @property
    def newest(self) -> tuple[str, ...]:
        """The ids of the snapshots that were the newest when this machine last saw the repository."""
        return tuple(self._notes["newest"])

    @property
    def proven(self) -> Mapping[str, float]:
        """Pack id to the time (seconds since 1970) at which all of it was last read and found right."""
        return dict(self._notes["proven"])

    @property
    def damaged(self) -> Mapping[str, float]:
        """Pack id to the time at which it was found damaged, until it is proven again."""
        return dict(self._notes["damaged"])

    def usual(self, source: str) -> int:
        """How many snapshots of a source the fullest day had that this machine knows of; 0 if it knows of none."""
        found = self._notes["fullest"].get(source, 0)
        return found if isinstance(found, int) else 0

    def saw_day(self, source: str, snapshots: int) -> None:
        """A day had so many snapshots of a source, and nobody doubts it."""
        if snapshots > self.usual(source):
            self._change(lambda notes: notes["fullest"].update({source: snapshots}))

    def saw(self, newest: Sequence[str], present: Collection[str]) -> None:
        """These are the newest ones now. A remembered one that isn't present stays remembered: it was taken away."""

        def change(notes: Notes) -> None:
            missing = [snapshot for snapshot in notes["newest"] if snapshot not in present]
            notes["newest"] = [*newest, *missing]

        self._change(change)

    def judged(self, at: float, *, whole: Iterable[str] = (), damaged: Iterable[str] = (), gone: Iterable[str] = ()) -> None:
        """These packs were read at this time, all of them if they are whole; those that are gone are forgotten."""

        def change(notes: Notes) -> None:
            for pack in whole:
                notes["proven"][pack] = at
                notes["damaged"].pop(pack, None)
            for pack in damaged:
                notes["damaged"][pack] = at
            for pack in gone:
                notes["damaged"].pop(pack, None)
                notes["proven"].pop(pack, None)

        self._change(change)

    def _read(self) -> Notes:
        try:
            kept = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            kept = {}
        empty: Notes = {"newest": [], "proven": {}, "damaged": {}, "fullest": {}}
        known = kept if isinstance(kept, dict) else {}
        return {name: known[name] if isinstance(known.get(name), type(value)) else value for name, value in empty.items()}

    def _change(self, change: Callable[[Notes], None]) -> None:
        """Change the notes as they are now, one writer at a time. Best effort: a machine that can't remember can still back up."""
        try:
            with alone_at(self._path):
                self._notes = self._read()
                change(self._notes)
                fresh = self._path.with_suffix(".fresh")
                fresh.write_text(json.dumps(self._notes))
                fresh.replace(self._path)
        except OSError:
            return


@contextmanager
def remembering_damage(repository: Repository) -> Iterator[None]:
    """Packs that are found damaged inside, by whoever needs their blobs, are remembered whatever comes of it."""
    try:
        yield
    finally:
        met = repository.take_damaged()
        if met:
            Witness(repository).judged(repository.clock.now().timestamp(), damaged=met)
