"""Is the journal at a replica always a beginning of the primary's, and does a moment come back from it?"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import faiss
import numpy as np
import pytest
from faulty_store import FaultyStore, SimulatedCrash, at
from worlds import CHEAP, PASSWORD, names_in

from strongroom.errors import StrongroomError
from strongroom.journal.stream import read_chain, streams
from strongroom.library import Strongroom, init_repository, open_repository
from strongroom.operations.copy import CopyOptions, copy
from strongroom.operations.follow.run import FollowOptions
from strongroom.operations.replicate import lag_of
from strongroom.repository.local_store import LocalStore
from strongroom.repository.policies import publish

SCAN = FollowOptions(every=5, once=True, scan=True)


class Followed:
    """An index that changes, and the moments at which it was followed."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "index.faiss"
        self.source = f"faiss://{self.path}"
        self.room = init_repository(str(folder / "primary"), password=PASSWORD, cost=CHEAP)
        self.moments: list[tuple[str, bytes]] = []
        self.rows(40)
        self.room.backup(self.source)
        self.follow()

    def rows(self, count: int) -> None:
        index = faiss.IndexFlatL2(8)
        index.add(np.random.default_rng(1).standard_normal((count, 8)).astype(np.float32))
        faiss.write_index(index, str(self.path))

    def follow(self) -> None:
        self.room.follow(self.source, SCAN)
        self.moments.append((self.room.journal_status()[0].until, self.path.read_bytes()))

    def grow(self, count: int) -> None:
        self.rows(count)
        self.follow()


@pytest.fixture
def followed(tmp_path: Path) -> Followed:
    one = Followed(tmp_path)
    for count in (45, 50):
        one.grow(count)
    return one


def segments(store: LocalStore) -> list[str]:
    return [name for name in names_in(store, "journal/") if "/epochs/" not in name]


def require_beginning(room: Strongroom, replica: Strongroom) -> int:
    """Gives how many segments there are."""
    for stream in streams(replica.repository):
        theirs, ours = read_chain(replica.repository, stream), read_chain(room.repository, stream)
        assert theirs.problems == ()
        assert [one.hash for one in theirs.fronts] == [one.hash for one in ours.fronts][: len(theirs.fronts)]
    return len(segments(replica.repository.store))


def test_a_moment_comes_back_from_the_replica(followed: Followed, tmp_path: Path) -> None:
    copy(followed.room.repository, LocalStore(tmp_path / "replica"))
    replica = open_repository(str(tmp_path / "replica"), password=PASSWORD)
    assert require_beginning(followed.room, replica) == len(segments(followed.room.repository.store)) >= 2
    assert names_in(replica.repository.store, "journal/") == names_in(followed.room.repository.store, "journal/")
    moment, _ = followed.moments[1]
    replica.restore("latest", f"faiss://{tmp_path}/out/index.faiss", at=moment, source=followed.source)
    assert faiss.read_index(str(tmp_path / "out" / "index.faiss")).ntotal == 45
    followed.grow(55)
    lag = lag_of(followed.room.repository, LocalStore(tmp_path / "replica"))
    assert (lag.snapshots, lag.segments) == (0, 1)
    assert lag.seconds > 0
    copy(followed.room.repository, LocalStore(tmp_path / "replica"))
    assert lag_of(followed.room.repository, LocalStore(tmp_path / "replica")).objects == 0


def test_a_crash_at_each_write_leaves_a_beginning(followed: Followed, tmp_path: Path) -> None:
    counting = FaultyStore(LocalStore(tmp_path / "whole"))
    copy(followed.room.repository, counting)
    writes = [one.number for one in counting.operations if one.verb == "create" and one.name.startswith("journal/")]
    for fault in ("crash before", "crash after", "unreachable after"):
        for number in writes:
            folder = tmp_path / f"{fault}-{number}"
            with suppress(SimulatedCrash, StrongroomError):
                copy(followed.room.repository, FaultyStore(LocalStore(folder), at(number, fault)))
            require_beginning(followed.room, open_repository(str(folder), password=PASSWORD))
            copy(followed.room.repository, LocalStore(folder))
            assert segments(LocalStore(folder)) == segments(followed.room.repository.store)


def test_a_damaged_segment_is_told_and_nothing_after_it_is_sent(followed: Followed, tmp_path: Path) -> None:
    second = segments(followed.room.repository.store)[1]
    path = tmp_path / "primary" / second
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.chmod(0o600)
    path.write_bytes(content)
    report = copy(followed.room.repository, LocalStore(tmp_path / "replica"))
    assert not report.whole
    assert any(second in line for line in report.damaged)
    assert len(segments(LocalStore(tmp_path / "replica"))) == 1


def test_both_went_on(followed: Followed, tmp_path: Path) -> None:
    """A promoted replica and the old primary: what one has under other bytes is told, and stays."""
    copy(followed.room.repository, LocalStore(tmp_path / "replica"))
    replica = open_repository(str(tmp_path / "replica"), password=PASSWORD)
    followed.grow(55)
    followed.rows(60)
    replica.follow(followed.source, SCAN)
    last = segments(replica.repository.store)[-1]
    theirs = replica.repository.store.read(last)
    report = copy(followed.room.repository, LocalStore(tmp_path / "replica"))
    assert replica.repository.store.read(last) == theirs
    assert (report.different, report.whole) == ((last,), False)
    followed.grow(65)  # nor is anything put after it
    copy(followed.room.repository, LocalStore(tmp_path / "replica"))
    assert segments(replica.repository.store)[-1] == last


def test_a_rule_for_a_collection_keeps_the_journal_out(followed: Followed, tmp_path: Path) -> None:
    publish(followed.room.repository, {"residency": [{"name": "eu", "collection": "people", "regions": ["eu-*"]}]})
    report = copy(followed.room.repository, LocalStore(tmp_path / "us"), CopyOptions(region="us-east-1", leave_out=True))
    assert report.snapshots == len(followed.room.snapshots())
    assert "journal of" in report.left_out[0]
    assert names_in(LocalStore(tmp_path / "us"), "journal/") == []
    assert lag_of(followed.room.repository, LocalStore(tmp_path / "us")).segments == 0
