"""A store that drops connections, answers 429 and 503, stalls or restarts: is the backup whole, or failed in one line?

A proxy before a real S3 server does the harm. What came of it is looked at past the proxy.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import obstore
import pytest
from azurite import Azurite
from commands import PASSWORD, build_index, strongroom
from seaweed import SeaweedFS
from tcp_proxy import TcpProxy

from strongroom.errors import AlreadyExists, Unreachable
from strongroom.library import Strongroom, init_repository, open_repository
from strongroom.repository import Argon2Cost, open_store
from strongroom.repository.store import Store
from strongroom.repository.writer import create_once

NUMBERS = itertools.count()
FOREVER = 1_000_000


@dataclass
class Behind:
    """A repository, the way to it that can be harmed, and a source."""

    url: str
    proxy: TcpProxy
    environment: Callable[[int | None], dict[str, str]]
    index: Path
    patch: pytest.MonkeyPatch

    def store(self, *, harmed: bool = True) -> Store:
        self._go(harmed)
        return open_store(self.url)

    def open(self, *, harmed: bool = True) -> Strongroom:
        self._go(harmed)
        return open_repository(self.url, password=PASSWORD)

    def backup(self) -> None:
        self.open().backup(f"faiss:{self.index}")

    def assert_whole(self, folder: Path, count: int = 1) -> None:
        """Past the proxy: so many snapshots, each of them proven, and the last one restores to the source."""
        room = self.open(harmed=False)
        assert len(room.snapshots()) == count
        assert not room.damaged_snapshots()
        report = room.verify()
        assert report.passed
        assert report.looked_at["snapshots"] == count
        room.restore("latest", f"faiss:{folder}/out/x.faiss")
        assert (folder / "out" / "x.faiss").read_bytes() == self.index.read_bytes()

    def variables(self, *, retries: float, request: float = 60) -> dict[str, str | None]:
        patience = {"STRONGROOM_RETRY_SECONDS": str(retries), "STRONGROOM_REQUEST_SECONDS": str(request)}
        return {**self.environment(self.proxy.port), **patience, "STRONGROOM_REPOSITORY": self.url}

    def _go(self, harmed: bool) -> None:
        for name, value in self.environment(self.proxy.port if harmed else None).items():
            self.patch.setenv(name, value)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_index(tmp_path_factory.mktemp("faults") / "x.faiss")


@pytest.fixture
def behind(seaweed: SeaweedFS, index: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Behind]:
    proxy = TcpProxy(seaweed.port)
    seaweed.make_bucket("faults")
    monkeypatch.setenv("STRONGROOM_RETRY_SECONDS", "60")
    monkeypatch.setenv("STRONGROOM_REQUEST_SECONDS", "2")
    there = Behind(f"s3://faults/{next(NUMBERS)}", proxy, seaweed.environment, index, monkeypatch)
    there._go(False)
    init_repository(there.url, password=PASSWORD, cost=Argon2Cost(1, 1, 64))
    try:
        yield there
    finally:
        proxy.close()


FAULTS: dict[str, Callable[[TcpProxy], None]] = {
    "cut while a pack is sent": lambda proxy: proxy.cut(sent=200_000, connections=5),
    "cut before the first answer": lambda proxy: proxy.cut(answered=0, connections=5),
    "cut in an answer": lambda proxy: proxy.cut(answered=100, connections=5),
    "refused": lambda proxy: proxy.refuse(5),
    "stalled": lambda proxy: proxy.stall(),
    "503": lambda proxy: proxy.answer(503, 6, retry_after=1, body=b"<Error><Code>SlowDown</Code></Error>"),
    "429": lambda proxy: proxy.answer(429, 6, retry_after=1),
    "500": lambda proxy: proxy.answer(500, 3),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_passes_leaves_a_whole_backup(behind: Behind, fault: str, tmp_path: Path) -> None:
    FAULTS[fault](behind.proxy)
    behind.backup()
    assert behind.proxy.harmed > 0
    behind.proxy.heal()
    behind.assert_whole(tmp_path)


@pytest.mark.parametrize("fault", ["cut in an answer", "stalled", "503"])
def test_what_passes_leaves_a_whole_restore_and_prune(behind: Behind, fault: str, tmp_path: Path) -> None:
    behind.backup()
    room = behind.open()
    FAULTS[fault](behind.proxy)
    room.restore("latest", f"faiss:{tmp_path}/through/x.faiss")
    assert (tmp_path / "through" / "x.faiss").read_bytes() == behind.index.read_bytes()
    FAULTS[fault](behind.proxy)
    before = behind.proxy.harmed
    behind.open().prune()
    assert behind.proxy.harmed > before
    behind.proxy.heal()
    behind.assert_whole(tmp_path)


LASTING: dict[str, Callable[[TcpProxy], None]] = {
    "cut while a pack is sent": lambda proxy: proxy.cut(sent=200_000, connections=FOREVER),
    "503": lambda proxy: proxy.answer(503, FOREVER),
    "stalled": lambda proxy: proxy.stall(FOREVER),
    "refused": lambda proxy: proxy.refuse(FOREVER),
}


@pytest.mark.parametrize("fault", LASTING)
def test_what_lasts_fails_in_one_line_and_a_repeat_is_whole(behind: Behind, fault: str, tmp_path: Path) -> None:
    LASTING[fault](behind.proxy)
    env = behind.variables(retries=1, request=1)
    strongroom("backup", "--quiet", f"faiss:{behind.index}", env=env).failed(1, "did not answer", "run the same command again")
    assert behind.proxy.harmed > 0
    assert behind.open(harmed=False).snapshots() == []
    behind.proxy.heal()
    strongroom("backup", "--quiet", f"faiss:{behind.index}", env=env).done()
    behind.assert_whole(tmp_path)


def test_a_lost_answer_is_no_conflict(behind: Behind) -> None:
    """The object landed; obstore, repeating the request, is told that it exists. Whoever has names of its own settles it."""
    behind.proxy.cut(answered=0)
    with pytest.raises(AlreadyExists):
        behind.store().create("packs/ab/lost", b"1")
    assert behind.store(harmed=False).read("packs/ab/lost") == b"1"
    behind.proxy.cut(answered=0)
    create_once(behind.store(), "packs/ab/settled", b"2")
    assert behind.store(harmed=False).read("packs/ab/settled") == b"2"
    assert behind.proxy.harmed == 2


@pytest.mark.parametrize("ask", ["create", "read", "size", "delete", "list"])
def test_whatever_stalls_is_asked_again(behind: Behind, ask: str) -> None:
    behind.store(harmed=False).create("packs/ab/there", b"1")
    behind.patch.setenv("STRONGROOM_REQUEST_SECONDS", "0.5")
    behind.proxy.stall(2)
    store = behind.store()
    if ask == "create":
        store.create("packs/ab/x", b"2")
        assert behind.store(harmed=False).read("packs/ab/x") == b"2"
    elif ask == "delete":
        store.delete("packs/ab/there")
        assert list(behind.store(harmed=False).list("packs/")) == []
    elif ask == "list":
        assert [one.name for one in store.list("packs/")] == ["packs/ab/there"]
    else:
        assert getattr(store, ask)("packs/ab/there") == {"read": b"1", "size": 1}[ask]
    assert behind.proxy.harmed == 2


def test_two_writes_that_meet_are_tried_again(behind: Behind) -> None:
    """S3 answers 409 to a conditional create while another one is under way, which may fail: nothing is there yet."""
    behind.proxy.answer(409, 2, body=b"<Error><Code>ConditionalRequestConflict</Code></Error>")
    behind.store().create("packs/ab/met", b"1")
    assert behind.store(harmed=False).read("packs/ab/met") == b"1"
    assert behind.proxy.harmed == 2


def test_a_listing_that_breaks_off_is_neither_short_nor_double(behind: Behind) -> None:
    raw = behind.store(harmed=False)
    names = [f"index/{number:04}" for number in range(1_100)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: raw.create(name, b"x"), names))
    listing = behind.store().list("index/")
    got = [next(listing).name]  # the first page came; the second one doesn't for longer than obstore waits
    behind.proxy.cut_all()
    behind.proxy.answer(503, 6)
    got += [one.name for one in listing]
    assert behind.proxy.harmed >= 6
    assert sorted(got) == names


def test_a_listing_that_stays_broken_is_no_empty_one(behind: Behind, monkeypatch: pytest.MonkeyPatch) -> None:
    behind.store(harmed=False).create("index/a", b"x")
    monkeypatch.setenv("STRONGROOM_RETRY_SECONDS", "1")
    behind.proxy.answer(503, FOREVER)
    with pytest.raises(Unreachable):
        list(behind.store().list("index/"))


def test_without_retries_the_first_failure_counts(behind: Behind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRONGROOM_RETRY_SECONDS", "0")
    behind.proxy.answer(503)
    with pytest.raises(Unreachable):
        behind.store().size("config")
    assert behind.proxy.harmed == 1


def test_a_server_that_restarts_in_the_middle(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while the backup waits for it, and started again with what it had."""
    server = Azurite(tmp_path / "server")
    server.start()
    proxy = TcpProxy(server.port)
    try:
        server.make_container("faults")
        monkeypatch.setenv("STRONGROOM_RETRY_SECONDS", "120")
        behind = Behind("az://faults/restarted", proxy, server.environment, index, monkeypatch)
        behind._go(False)
        init_repository(behind.url, password=PASSWORD, cost=Argon2Cost(1, 1, 64))
        room = behind.open()
        proxy.pause()
        with ThreadPoolExecutor(1) as pool:
            backup = pool.submit(room.backup, f"faiss:{index}")
            server.stop()
            proxy.cut_all()
            proxy.resume()
            server.start()
            backup.result()
        behind.assert_whole(tmp_path)
    finally:
        proxy.close()
        server.stop()


@pytest.mark.soak
def test_a_server_that_restarts_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SeaweedFS, killed at whatever the backups are doing; each backup ends whole."""
    server = SeaweedFS(tmp_path / "server")
    server.start()
    proxy, done = TcpProxy(server.port), threading.Event()

    def trouble() -> None:
        for wait in itertools.cycle((0.3, 1.1, 2.3, 10.0)):
            if done.wait(wait):
                return
            server.stop()
            proxy.cut_all()
            server.start()

    try:
        server.make_bucket("faults")
        monkeypatch.setenv("STRONGROOM_RETRY_SECONDS", "240")
        index = tmp_path / "x.faiss"
        behind = Behind("s3://faults/soak", proxy, server.environment, index, monkeypatch)
        behind._go(False)
        init_repository(behind.url, password=PASSWORD, cost=Argon2Cost(1, 1, 64))
        with ThreadPoolExecutor(1) as pool:
            troubled = pool.submit(trouble)
            for seed in range(4):
                build_index(index, rows=40_000, seed=seed)
                behind.backup()
            done.set()
            troubled.result()
        behind.assert_whole(tmp_path, count=4)
    finally:
        done.set()
        proxy.close()
        server.stop()


def test_an_upload_that_was_cut_leaves_nothing(behind: Behind, seaweed: SeaweedFS) -> None:
    behind.patch.setenv("STRONGROOM_RETRY_SECONDS", "0")
    behind.proxy.cut(sent=500_000)
    with pytest.raises(Unreachable):
        behind.store().create("packs/ab/cut", bytes(3_000_000))
    raw = seaweed.raw("faults", behind.url.rpartition("/")[2])
    assert not [item for chunk in obstore.list(raw, prefix="packs") for item in chunk]
