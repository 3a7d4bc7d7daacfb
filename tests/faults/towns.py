"""What do the tests of forget and prune happen to? A repository in memory whose clock is set, and what it must give back."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from faulty_store import FaultyStore, felt
from worlds import PASSWORD, World, files_of, restored

from strongroom.clock import Clock
from strongroom.operations.backup.run import BackupOptions, backup
from strongroom.operations.forget import ForgetOptions, forget
from strongroom.operations.prune.run import PruneOptions, PruneReport, prune
from strongroom.operations.verify import Level, VerifyOptions, VerifyReport, verify
from strongroom.repository import Repository, Secret, Store, open_store
from strongroom.snapshots import history
from strongroom.snapshots.parts import ArtifactReader
from strongroom.snapshots.slots import Slots

GRACE = timedelta(hours=24)
PAST = 25 * 3600.0
_NAMES = itertools.count()
OLD = Secret.passphrase(PASSWORD)
FOLDERS = ("index/", "keys/", "packs/", "snapshots/", "tombstones/")
Content = tuple[bytes, ...]


def empty_store() -> Store:
    return open_store(f"memory://towns-{next(_NAMES)}")


def stored_copy(world: World) -> Store:
    """The repository in memory."""
    store = empty_store()
    for path in sorted(world.folder.rglob("*")):
        if path.is_file():
            store.create(path.relative_to(world.folder).as_posix(), path.read_bytes())
    return store


def everything(store: Store) -> dict[str, bytes]:
    return {one.name: store.read(one.name) for folder in FOLDERS for one in store.list(folder)}


def files_in(repository: Repository, snapshot: str) -> Content:
    """The files of a snapshot, joined from their blobs."""
    record = history.read(repository, snapshot).manifest
    slots = {one.name: Slots(one, repository.read_blob) for one in record.collections}
    reader = ArtifactReader(slots, repository.read_blob, repository.keys.identify)
    return tuple(b"".join(reader.read(part) for part in artifact.parts) for artifact in record.artifacts)


def verified(store: Store, folder: Path) -> VerifyReport:
    """By a machine that has never seen the repository: the copies of one repository are no rollbacks of each other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STRONGROOM_STATE_DIR", str(folder / f"state-{next(_NAMES)}"))
        return verify(Repository.open(store, OLD), None, VerifyOptions(Level.DATA))


@dataclass
class Town:
    """A store, a clock that is set, and what each snapshot must give back as long as it is kept."""

    store: Store
    folder: Path
    kept: dict[str, Content] = field(default_factory=dict)
    seconds: float = field(default_factory=time.time)

    def open(self, store: Store | None = None) -> Repository:
        return Repository.open(store or self.store, OLD, clock=Clock(wall=lambda: self.seconds))

    def back_up(self, source: Path, store: Store | None = None, *, by: Repository | None = None) -> str:
        made = backup(by or self.open(store), f"faiss://{source}", BackupOptions(probes=0)).snapshot.id
        self.kept[made] = files_of(source)
        return made

    def forget(self, *names: str, store: Store | None = None) -> None:
        forget(self.open(store), ForgetOptions(names))
        for name in names:
            self.kept.pop(name)

    def prune(self, store: Store | None = None, *, max_unused: float = 0.0, grace: timedelta = GRACE) -> PruneReport:
        return prune(self.open(store), PruneOptions(grace, max_unused))

    def wait(self) -> None:
        self.seconds += PAST

    def is_whole(self, *, really: bool = False) -> None:
        """Verify finds nothing, and every kept snapshot has its files; `really` restored, if asked."""
        report = verified(self.store, self.folder)
        assert report.findings == ()
        assert set(self.kept) <= set(report.healthy)
        repository = self.open()
        for snapshot, content in self.kept.items():
            assert files_in(repository, snapshot) == content
            if really:
                assert restored(repository, snapshot, self.folder / f"restored-{next(_NAMES)}") == content

    def ends_clean(self) -> None:
        """After two more prunes, each past the time of grace, nothing is left that isn't needed."""
        for _ in range(3):
            self.prune()
            self.wait()
        self.is_whole(really=True)
        report = self.prune()
        assert (report.condemned.packs, report.waiting.packs, report.unlisted.packs, report.unused_bytes) == (0, 0, 0, 0)
        assert list(self.store.list("tombstones/condemned/")) == list(self.store.list("tombstones/unlisted/")) == []
        assert report.kept.packs == len(list(self.store.list("packs/")))


def town_of(world: World, folder: Path) -> Town:
    return Town(stored_copy(world), folder, dict(world.expected))


def before_marking(world: World, folder: Path) -> Town:
    """The second one's packs are of no use; of the first one's, the third needs a part. One index object lists all packs."""
    town = town_of(world, folder)
    repository = town.open()
    listed = [one.name for one in town.store.list("index/")]
    repository.add_index(list(repository.index.packs.values()))
    for name in listed:
        town.store.delete(name)
    town.forget(*world.order[:2])
    return town


def before_sweeping(world: World, folder: Path) -> Town:
    town = before_marking(world, folder)
    town.prune()
    town.wait()
    return town


Stage = Callable[[World, Path], Town]
STAGES: dict[str, tuple[Stage, Callable[[Town, Store], object]]] = {
    "forget": (town_of, lambda town, store: town.forget(*list(town.kept)[:2], store=store)),
    "mark": (before_marking, lambda town, store: town.prune(store)),
    "sweep": (before_sweeping, lambda town, store: town.prune(store)),
    "at once": (before_marking, lambda town, store: town.prune(store, grace=timedelta(0))),
}


def every_operation(stage: str, world: World, folder: Path, fault: str = "") -> Iterator[tuple[int, Town]]:
    """The number of each operation of the work at which the fault is felt, and a town before it."""
    begin, work = STAGES[stage]
    counted = begin(world, folder)
    store = FaultyStore(counted.store)
    work(counted, store)
    assert len(store.operations) > 5
    for number in felt(fault, store.operations):
        yield number, begin(world, folder)
