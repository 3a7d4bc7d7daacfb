"""What does a restore leave under way that fails in the middle?"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from worlds import PASSWORD, World

from strongroom.library import open_repository
from strongroom.operations.restore import files
from strongroom.operations.restore.run import restore
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
