"""What does every test need? Notes of its own about repositories, and engines that start at once and don't wait for each other's
threads."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import command_forks
import engine_forks
import processes
import pytest

from strongroom.repository.crypto import Argon2Cost

Argon2Cost.__init__.__defaults__ = (1, 1, 64)
"""A password is slow to try on purpose; no test tries any. `COMMAND` in a process of its own has the real default."""
os.environ["OMP_NUM_THREADS"] = "1"
engine_forks.fork_children()


def pytest_configure(config: pytest.Config) -> None:
    """Processes that share the tests among them take their forks from the same nurseries."""
    if config.getoption("numprocesses", None) and sys.platform == "linux":
        assert all(one.name for one in (engine_forks.CHILDREN, command_forks.COMMANDS, processes.CLIENTS))


@pytest.fixture(scope="session")
def states(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for each next test."""
    place = tmp_path_factory.mktemp("states")
    return (place / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def own_state(states: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes what this machine remembers of real repositories."""
    place = next(states)
    place.mkdir()
    monkeypatch.setenv("STRONGROOM_STATE_DIR", str(place))
    return place
