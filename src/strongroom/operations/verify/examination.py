"""What is gathered while a repository is looked at: findings, and what was seen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

from strongroom.operations.proving import Proving
from strongroom.operations.verify.report import Finding, VerifyOptions
from strongroom.progress import Progress
from strongroom.repository import SNAPSHOTS, Pack, Repository
from strongroom.snapshots.fingerprints import Fingerprinter
from strongroom.snapshots.history import Snapshot
from strongroom.snapshots.manifest import StoredCollection

Needs = dict[bytes, list[Snapshot]]
"""Blob id to the snapshots that need the blob."""


@dataclass
class Examination:
    """One look at a repository. Each kind of check adds to it."""

    repository: Repository
    options: VerifyOptions
    progress: Progress
    proven: dict[str, int] = field(default_factory=dict)
    """Pack id to length of those that were read and are whole; those that are given from the start are not read again."""
    bad: set[str] = field(default_factory=set)
    """The ids of packs that are missing or not as they were written."""
    spare: set[str] = field(default_factory=set)
    """Those of them that are there and whose damage breaks no snapshot: other packs have what is needed."""
    unlisted: set[str] = field(default_factory=set)
    """The ids of packs that are needed and that no index object lists."""
    unplaced: set[bytes] = field(default_factory=set)
    """Blobs that are needed and that no pack is known to hold."""
    looked_at: dict[str, int] = field(default_factory=dict)
    recall: dict[str, float] = field(default_factory=dict)
    shredded: list[str] = field(default_factory=list)
    """Tenants who were erased and whose rows nobody can read, a line each."""
    _found: dict[tuple[str, str], dict[str, None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.fingerprinter = Fingerprinter(self.repository.keys.fingerprint)

    @cached_property
    def proving(self) -> Proving:
        """What keeps what is proven, from when it is first asked for."""
        return Proving(self.repository)

    @contextmanager
    def keeping_proofs(self) -> Iterator[None]:
        """Every blob that is read meanwhile, by whatever check, counts as proven; kept at the end, also of one that fails."""
        before, self.repository.proving = self.repository.proving, lambda place: self.proving.blob(place)
        try:
            yield
        finally:
            self.repository.proving = before
            if "proving" in self.__dict__:
                self.proving.keep()

    @property
    def unkept(self) -> str:
        """Why what was proven could not be kept for the coverage; '' if it was, or there was nothing to keep."""
        return self.proving.unkept if "proving" in self.__dict__ else ""

    @property
    def findings(self) -> tuple[Finding, ...]:
        return tuple(Finding(subject, problem, tuple(broken)) for (subject, problem), broken in self._found.items())

    def find(self, subject: str, problem: str, snapshots: Sequence[Snapshot] = (), *, ids: tuple[str, ...] = ()) -> None:
        """Note a finding; what is found twice breaks the snapshots of both."""
        broken = self._found.setdefault((subject, problem), {})
        broken.update(dict.fromkeys([*ids, *(snapshot.id for snapshot in snapshots)]))

    @contextmanager
    def apart(self) -> Iterator[list[Finding]]:
        """Gives, once it ends, what was found meanwhile, be it found before too."""
        found: list[Finding] = []
        before, self._found = self._found, {}
        try:
            yield found
        finally:
            found += self.findings
            fresh, self._found = self._found, before
            for (subject, problem), broken in fresh.items():
                self._found.setdefault((subject, problem), {}).update(broken)

    def count(self, what: str, amount: int) -> None:
        self.looked_at[what] = self.looked_at.get(what, 0) + amount

    def packs(self) -> list[Pack]:
        """Those that index objects list, and those that were found without."""
        return [*self.repository.index.packs.values(), *self.repository.unlisted.packs.values()]


def needs_of(snapshots: Iterable[Snapshot]) -> Needs:
    needs: Needs = {}
    for snapshot in snapshots:
        for blob in set(snapshot.manifest.blobs()):
            needs.setdefault(bytes.fromhex(blob), []).append(snapshot)
    return needs


def users_of(blobs: Iterable[bytes], needs: Needs) -> list[Snapshot]:
    """The snapshots that need any of these blobs."""
    return list({snapshot.id: snapshot for blob in blobs for snapshot in needs.get(blob, ())}.values())


def subject_of(snapshot: Snapshot, collection: StoredCollection) -> str:
    return f"{SNAPSHOTS}{snapshot.id}, collection {collection.name}"
