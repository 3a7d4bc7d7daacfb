"""Who keeps in the repository what was just read and found right? One look of a verify or drill at the packs."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from strongroom.errors import Damaged, StrongroomError
from strongroom.operations.machine.witness import Witness
from strongroom.repository import PACKS, Repository, proofs
from strongroom.repository.blob_index import Place
from strongroom.repository.proofs import Look, Notes

_OFTEN = 300.0
"""Seconds after which what was proven is kept: more than that a killed look doesn't lose."""
_MANY = 16
"""Objects with notes before they are merged into one."""


class Proving:
    """A look at packs that begins now. What it proves is kept in the repository now and then and at the end.

    All is dated to the moment at which the look, or the part of it that is kept at once, began: it was read later than that, never
    earlier. What can't be kept (a store that may only be read) is lost for the coverage and harms nothing else; `unkept` says why.
    """

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self.unkept = ""
        self.known, self.problems = read_notes(repository)
        self._number = self.known.highest + 1
        self._remembered = Witness(repository).proven
        self._fresh = Notes()
        self._since = self._begun = _whole_micros(repository.clock.now().timestamp())
        self._started = repository.clock.timer()
        self._lock = threading.Lock()

    def last_proven(self, pack: str, numbers: Iterable[int]) -> float:
        """When the least recently proven of these blobs of a pack was: seconds since 1970, 0 if one never was or is damaged. What
        this machine proved and could not keep counts too."""
        times = []
        for number in numbers:
            if self.known.damaged(pack, number):
                return 0.0
            times.append(self.known.proven(pack, number, self._begun) or 0.0)
        return max(min(times, default=0.0), proofs.dated(self._remembered.get(pack, 0.0), self._begun))

    def whole(self, pack: str) -> None:
        """All of a pack was read just now: every blob, and its directory."""
        self._note(pack, damaged=False)

    def damaged(self, pack: str, numbers: Iterable[int] | None = None) -> None:
        """These blobs of a pack, or all, are not what they were."""
        self._note(pack, numbers, damaged=True)

    def blob(self, place: Place) -> None:
        """One blob was read from its pack just now. Any thread."""
        self._note(place.pack.id, [place.blob.number], damaged=False)

    def _note(self, pack: str, numbers: Iterable[int] | None = None, *, damaged: bool) -> None:
        with self._lock:
            self._fresh.add(pack, Look(self._number, damaged, self._since), numbers)
            due = self._repository.clock.timer() - self._started > _OFTEN
        if due:
            self.keep()

    def keep(self) -> None:
        """Keep what was noted so far, durably if that is possible. If there are many objects by now, one takes their place."""
        with self._lock:
            fresh, self._fresh = self._fresh, Notes()
            self._started = self._repository.clock.timer()
            # a clock that was set back since: what follows is dated by the earlier of the two
            fresh, self._since = self._as_read(fresh), _whole_micros(self._repository.clock.now().timestamp())
        if not fresh.packs:
            return
        try:
            proofs.write(self._repository.store, self._repository.keys, fresh)
            self._merge()
        except (StrongroomError, OSError) as error:
            self.unkept = str(error)

    def _as_read(self, fresh: Notes) -> Notes:
        now = _whole_micros(self._repository.clock.now().timestamp())
        if now >= self._since:
            return fresh
        earlier = Notes()
        for pack, standing in fresh.packs.items():
            for look, blobs in standing.notes.items():
                earlier.add(pack, Look(look.number, look.damaged, min(look.at, now)), blobs)
        return earlier

    def _merge(self) -> None:
        """Every so many objects only: where nothing may be deleted, they must not double each time. What is said of packs that are
        gone goes with them."""
        store = self._repository.store
        if sum(1 for _ in store.list(proofs.FOLDER)) % _MANY:
            return
        found, _ = proofs.read_all(store, self._repository.keys)
        there = {listed.name.rpartition("/")[2] for listed in store.list(PACKS)}
        merged = Notes()
        for notes in found.values():
            merged.update(notes)
        name = proofs.write(store, self._repository.keys, merged.only(there))
        for old in found.keys() - {name}:
            store.delete(old)


def read_notes(repository: Repository) -> tuple[Notes, list[Damaged]]:
    """All that is known, merged, and the objects that can't be believed."""
    found, problems = proofs.read_all(repository.store, repository.keys)
    notes = Notes()
    for one in found.values():
        notes.update(one)
    return notes, problems


def _whole_micros(seconds: float) -> float:
    return round(seconds * 1e6) / 1e6
