"""What does a restore leave under way that fails in the middle?"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from worlds import PASSWORD, World

from strongroom.engines import staging
from strongroom.errors import Refused
from strongroom.library import open_repository
from strongroom.operations.restore import files
from strongroom.operations.restore.run import RestoreOptions, restore
from strongroom.operations.restore.state import RestoreState
from strongroom.progress import Silent


class Interrupted(Silent):
    """Like Ctrl-C once the first part is there."""

    def __init__(self) -> None:
        self._installing = False

    def begin(self, stage: str, total: int | None, unit: str) -> None:
        self._installing = stage == "files"

    def advance(self, amount: int) -> None:
        if self._installing:
            raise KeyboardInterrupt


def test_nothing_is_written_once_it_has_failed(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are closed by then, and their descriptors may be those of others."""
    write, lock = files._File.write, threading.Lock()
    begun, under_way = 0, 0

    def slow(self: Any, *asked: Any) -> None:
        nonlocal begun, under_way
        with lock:
            begun, under_way = begun + 1, under_way + 1
            last = begun > 1
        time.sleep(0.5 * last)
        write(self, *asked)
        with lock:
            under_way -= 1

    monkeypatch.setattr(files._File, "write", slow)
    repository = open_repository(str(world.folder), password=PASSWORD).repository
    with pytest.raises(KeyboardInterrupt):
        restore(repository, world.order[0], f"faiss://{tmp_path}/index.faiss", progress=Interrupted())
    assert begun > 1
    assert under_way == 0


def test_files_are_durable_before_they_count_as_whole(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From then on nobody reads them back: a power cut would leave torn ones that a restore puts in place."""
    sync, durable, late = os.fsync, set[int](), list[str]()

    def synced(descriptor: int) -> None:
        sync(descriptor)
        durable.add(os.fstat(descriptor).st_ino)

    def adopted(self: RestoreState) -> None:
        places = [self._path.parent / "new", *(self._path.parent / "new").rglob("*")]
        late.extend(one.name for one in places if one.stat().st_ino not in durable)
        assert len(places) > 1
        noted(self)

    noted = RestoreState.set_adopted
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(RestoreState, "set_adopted", adopted)
    repository = open_repository(str(world.folder), password=PASSWORD).repository
    restore(repository, world.order[0], f"faiss://{tmp_path}/index.faiss")
    assert late == []


def test_what_was_written_since_a_cut_over_began_is_not_replaced_unasked(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing stood there, the restore died before its first rename, and whoever uses the place began anew."""
    repository, target = open_repository(str(world.folder), password=PASSWORD).repository, f"faiss://{tmp_path}/index.faiss"
    write = staging.write_durably

    def dies(path: Path, content: bytes) -> None:
        write(path, content)
        if path.name == "publishing":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(staging, "write_durably", dies)
        restore(repository, world.order[0], target)
    mine = [tmp_path / "index.faiss", tmp_path / "index.jsonl"]
    for path in mine:
        path.write_bytes(b"mine")
    with pytest.raises(Refused, match="already there"):
        restore(repository, world.order[0], target)
    assert [path.read_bytes() for path in mine] == [b"mine", b"mine"]
    restore(repository, world.order[0], target, RestoreOptions(overwrite=True))
    assert mine[0].read_bytes() != b"mine"
    assert not mine[1].exists()  # it would be a sidecar of the restored index
    assert not list(tmp_path.glob(".strongroom-*"))
