"""What does every test need? Notes of its own about repositories, and engines that start at once and don't wait for each other's
threads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from engine_forks import fork_children

from strongroom.repository.crypto import Argon2Cost

Argon2Cost.__init__.__defaults__ = (1, 1, 64)
"""A password is slow to try on purpose; no test tries any. `COMMAND` in a process of its own has the real default."""
os.environ["OMP_NUM_THREADS"] = "1"
fork_children()


@pytest.fixture(autouse=True)
def own_state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes what this machine remembers of real repositories."""
    place = tmp_path_factory.mktemp("state")
    monkeypatch.setenv("STRONGROOM_STATE_DIR", str(place))
    return place
