"""What do the fault tests damage? Two FAISS sources and a repository of three snapshots, each test a copy of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from worlds import Sources, World, build_source, build_world


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    folder = tmp_path_factory.mktemp("sources")
    first = build_source(folder / "a", "first", 1)
    second = build_source(folder / "b", "second", 2)
    changed = build_source(folder / "c", "first", 1, changed=20)
    return Sources(first, second, changed)


@pytest.fixture(scope="session")
def pristine(sources: Sources, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Never to be changed: three snapshots of two sources, two key slots."""
    return build_world(tmp_path_factory.mktemp("pristine"), sources)


@pytest.fixture(scope="session")
def foreign(sources: Sources, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Another repository with the same password and the same sources. Never to be changed."""
    return build_world(tmp_path_factory.mktemp("foreign"), sources)


@pytest.fixture
def world(pristine: World, tmp_path: Path, own_state: Path) -> World:
    """A copy of the pristine repository, and of what the machine remembers of it, to be damaged."""
    return pristine.copy(tmp_path / "repository", own_state)
