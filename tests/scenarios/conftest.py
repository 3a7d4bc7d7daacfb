"""What do the scenarios run on? A small FAISS index and a repository each, made once and copied; a real S3 server."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from azurite import Azurite
from commands import PASSWORD, Place, build_index
from milvus_server import Milvus
from postgres import Postgres
from rclone import Rclone
from seaweed import SeaweedFS

from strongroom.library import init_repository
from strongroom.repository import Argon2Cost


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Made once: tests that write copy it."""
    folder = tmp_path_factory.mktemp("pristine")
    place = Place(folder / "repo", build_index(folder / "src" / "x.faiss"))
    room = init_repository(str(place.repo), password=PASSWORD, cost=Argon2Cost(1, 1, 64))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STRONGROOM_STATE_DIR", str(folder / "state"))
        room.backup(place.source, tags={"env": "test"}, model="encoder@1")
    return place


@pytest.fixture
def place(pristine: Place, tmp_path: Path) -> Place:
    """A repository of the test's own."""
    shutil.copytree(pristine.repo, tmp_path / "repo")
    return Place(tmp_path / "repo", pristine.index)


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory):
    """A running S3 server."""
    server = SeaweedFS(tmp_path_factory.mktemp("seaweed"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    """A running Azure Blob Storage."""
    yield from _running(Azurite(tmp_path_factory.mktemp("azurite")))


@pytest.fixture(scope="session")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rclone]:
    """A running S3 server that ignores conditions."""
    yield from _running(Rclone(tmp_path_factory.mktemp("rclone")))


Server = TypeVar("Server", Postgres, Azurite, Rclone)


def _running(server: Server) -> Iterator[Server]:
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A running PostgreSQL server with pgvector, logical decoding on. Each test makes its own databases."""
    yield from _running(Postgres())


@pytest.fixture(scope="session", params=[18, pytest.param(16, marks=pytest.mark.soak)])
def any_postgres(request: pytest.FixtureRequest) -> Iterator[Postgres]:
    """Each of the versions of the server that are tried."""
    if request.param == 18:
        yield request.getfixturevalue("postgres")
    else:
        yield from _running(Postgres(request.param))


@pytest.fixture(scope="module")
def milvus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Milvus]:
    """A running Milvus server, which is busy even if nobody asks it. Each test uses databases of its own."""
    server = Milvus(tmp_path_factory.mktemp("milvus"))
    try:
        yield server
    finally:
        server.stop()
