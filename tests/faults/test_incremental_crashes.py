"""Does an incremental backup that dies or meets a fault, wherever, leave everything whole, and does the next one go on?"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from faulty_store import WRITES, FaultyStore
from lives import SEEN, Life, Mood, draw_of, make_small
from living_sources import made

from strongroom.operations.backup.run import BackupOptions, backup
from strongroom.snapshots import history, known
from strongroom.snapshots.manifest import StoredCollection


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(monkeypatch)


def stored(life: Life, snapshot: str) -> StoredCollection:
    (collection,) = history.read(life.open(), snapshot).manifest.collections
    return collection


def blocks_of(life: Life, snapshot: str) -> set[str]:
    return {block.blob for block in stored(life, snapshot).vectors["vector"]}


def compacting(folder: Path) -> Life:
    """The second source took its vectors from the first; its next backup gives up segments and writes rows of two of them anew."""
    life = Life(folder, ("hnsw", "flat"))
    before = [life.back_up(0), life.back_up(1)]
    assert blocks_of(life, before[0]) & blocks_of(life, before[1])
    for seed in range(4):
        life.sources[1].change("insert", draw_of(seed))
        life.back_up(1)
    life.sources[1].change("delete_most", draw_of(5))
    life.back_up(1)
    life.sources[1].change("insert_between", draw_of(6))
    return life


def adopting(folder: Path) -> Life:
    """A source is backed up for the first time, and others have most of its vectors."""
    life = Life(folder, ("flat", "hnswlib"))
    life.back_up(0)
    life.sources[0].change("update", draw_of(1))
    life.back_up(0)
    life.sources[1] = made(folder / "another", "hnswlib", seed=1)
    life.sources[1].change("insert", draw_of(2))
    return life


SCENES: dict[str, Callable[[Path], Life]] = {"compacting": compacting, "adopting": adopting}


def operations_of(life: Life) -> list[str]:
    """What the backup of the second source does when nothing fails, and that it is what the scene says."""
    counted = life.copy()
    store = counted.store = FaultyStore(counted.inner)
    counted.server = counted.open_on(store)
    SEEN.clear()
    earlier = {blob for one in counted.kept for blob in blocks_of(counted, one)}
    made = backup(counted.server, life.sources[1].url, BackupOptions(probes=0)).snapshot.id
    assert SEEN["pieces given up"] or blocks_of(counted, made) & earlier
    return [one.verb for one in store.operations]


def faults_of(verb: str) -> list[str]:
    """Those that make a difference at an operation."""
    return ["crash before", *(["crash after", "unreachable after", "exists after", "twice"] if verb in WRITES else ["cut"])]


@pytest.mark.parametrize("scene", SCENES)
def test_an_incremental_backup_meets_every_fault_at_every_operation(scene: str, tmp_path: Path) -> None:
    life = SCENES[scene](tmp_path)
    verbs = operations_of(life)
    assert verbs.count("create") >= 3
    for number, verb in enumerate(verbs):
        for fault in faults_of(verb):
            one = life.copy()
            one.back_up(1, Mood(fault, number))
            one.is_whole()
            one.restart()
            made = one.back_up(1, reread=True)
            assert made is not None
            one.is_whole([made])
            if number == len(verbs) // 2:
                one.ends_well(answers=False)


class FullDisk:
    """Arrow as it is, but that files can't be opened to be written, or take nothing."""

    def __init__(self, how: str) -> None:
        self.how, self.met = how, 0

    def __getattr__(self, name: str) -> object:
        return getattr(pa, name)

    def OSFile(self, path: str, mode: str = "rb") -> object:  # noqa: N802 - as Arrow calls it
        if mode != "wb":
            return pa.OSFile(path, mode)
        self.met += 1
        if self.how == "opened":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        file = pa.OSFile(path, mode)
        file.close()
        return pa.PythonFile(_Full(), "w")


class _Full(io.RawIOBase):
    def writable(self) -> bool:
        return True

    def write(self, content: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("how", ["opened", "written"])
def test_a_backup_goes_on_where_nothing_can_be_remembered(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known of rows only saves time: a full disk beside the source ends no backup."""
    life, full = Life(tmp_path, ("hnsw", "flat")), FullDisk(how)
    with monkeypatch.context() as patch:
        patch.setattr(known, "pa", full)
        for what in ("update", "insert_between"):
            assert life.back_up(0)
            life.sources[0].change(what, draw_of(1))
        assert life.back_up(0)
        life.is_whole()
    assert full.met > 3
    life.sources[0].change("insert", draw_of(2))
    assert life.back_up(0)
    assert not [path for path in tmp_path.glob("state-*/*/rows/*/*") if path.name.startswith(known._UNFINISHED)]
    life.ends_well()
