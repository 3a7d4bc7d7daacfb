"""What do the tests of hosts happen to that can't read? A repository in memory, an administrator, a host with its own state."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from towns import empty_store, files_in
from worlds import CHEAP, files_of

from strongroom.clock import Clock
from strongroom.operations.backup.run import BackupOptions, BackupReport, backup
from strongroom.operations.forget import ForgetOptions, forget
from strongroom.operations.prune.run import PruneOptions, prune
from strongroom.operations.verify import Level, VerifyOptions, verify
from strongroom.repository import KeySlot, Repository, Secret, Store
from strongroom.repository.host_repository import HostRepository

ADMIN, OPERATOR, HOST = Secret.passphrase("admin"), Secret.passphrase("operator"), Secret.passphrase("host")
GRACE, PAST = timedelta(hours=24), 25 * 3600.0


@contextmanager
def machine(state: Path) -> Iterator[None]:
    """What is done inside is done on another machine, which has this state."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STRONGROOM_STATE_DIR", str(state))
        yield


@dataclass
class Site:
    """The store, the host's own state, and what each snapshot must give back as long as it is kept."""

    store: Store
    state: Path
    slot: KeySlot
    kept: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)
    seconds: float = field(default_factory=time.time)

    def admin(self, secret: Secret = ADMIN, store: Store | None = None) -> Repository:
        return Repository.open(store or self.store, secret, clock=Clock(wall=lambda: self.seconds))

    def host(self, store: Store | None = None) -> HostRepository:
        """As a new process of the host opens it. Its state counts when it is used: see `back_up`."""
        with machine(self.state):
            opened = Repository.open(store or self.store, HOST, clock=Clock(wall=lambda: self.seconds))
        assert isinstance(opened, HostRepository)
        return opened

    def back_up(self, source: Path, store: Store | None = None, by: Repository | None = None) -> str:
        return self.report(source, store, by).snapshot.id

    def report(self, source: Path, store: Store | None = None, by: Repository | None = None, *, probes: int = 0) -> BackupReport:
        with machine(self.state):
            made = backup(by or self.host(store), f"faiss://{source}", BackupOptions(probes=probes))
        self.kept[made.snapshot.id] = files_of(source)
        return made

    def forget(self, *names: str) -> None:
        forget(self.admin(), ForgetOptions(names))
        for name in names:
            self.kept.pop(name)

    def prune(self, *, grace: timedelta = GRACE) -> None:
        prune(self.admin(), PruneOptions(grace, 0.0))

    def is_whole(self) -> None:
        """By an administrator: nothing is found, and every kept snapshot has its files."""
        repository = self.admin()
        report = verify(repository, None, VerifyOptions(Level.DATA))
        assert report.findings == (), report.findings
        assert set(self.kept) <= set(report.healthy)
        for snapshot, content in self.kept.items():
            assert files_in(repository, snapshot) == content

    def bytes_of_packs(self) -> int:
        return sum(listed.size for listed in self.store.list("packs/"))


def new_site(folder: Path) -> Site:
    store = empty_store()
    admin = Repository.create(store, ADMIN, cost=CHEAP)
    admin.add_key(OPERATOR, "operator", cost=CHEAP)
    slot = admin.add_key(HOST, "web-1", cost=CHEAP, write_only=True)
    return Site(store, folder / "host", slot)
