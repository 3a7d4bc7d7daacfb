"""A Qdrant server over REST: `qdrant://host:6333`, by TLS `qdrants://host:6333`; `qdrant-local:///folder` is one of the local
mode of its client. Experimental: what the local mode can do has met it, what only a server can do has never met one.

place.py        URLs, and how collections are called      connection.py   the client, secrets, what errors mean
definitions.py  what is said of a collection, and how one is made from that
moment.py       reads all rows until they are one moment  native.py       the server's own snapshots, from and to files
frozen.py       source and frozen state                   ledger.py       what a snapshot has of a server
target.py       target                                    stage.py        a new state beside the one that users see
cutover.py      aliases are switched
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from strongroom.errors import WrongRequest

if TYPE_CHECKING:
    from strongroom.engines.qdrant.server.frozen import QdrantSource
    from strongroom.engines.qdrant.server.target import QdrantTarget


def load() -> None:
    """There is nothing to be loaded: the server answers."""


class QdrantServer:
    """The engine plug-in. What it works with is imported when it is used."""

    name = "qdrant"
    loading = "strongroom.engines.qdrant.server:load"
    encrypted_scheme = "qdrants"
    experimental = True

    def version(self) -> str:
        """That of the client: the server's is known when it is asked. Raises WrongRequest if there is none."""
        try:
            return f"qdrant-client {version('qdrant-client')}"
        except PackageNotFoundError as error:
            raise WrongRequest("qdrant-client is not installed", hint="pip install 'strongroom[qdrant]'") from error

    def compatible(self, written_by: str) -> bool:
        """Only the server can tell: `QdrantStage.adopt` asks it for its version."""
        return True

    def source(self, url: str) -> QdrantSource:
        """Opens nothing. Raises WrongRequest."""
        from strongroom.engines.qdrant.server.frozen import QdrantSource
        from strongroom.engines.qdrant.server.place import Place

        return QdrantSource(Place.parse(url))

    def target(self, url: str) -> QdrantTarget:
        """Touches nothing. Raises WrongRequest."""
        from strongroom.engines.qdrant.server.place import Place
        from strongroom.engines.qdrant.server.target import QdrantTarget

        return QdrantTarget(Place.parse(url))

    def scratch(self, directory: Path, collections: Sequence[str]) -> str:
        """The URL of a folder of the local mode: it takes the same rows, and nobody else can reach it."""
        return f"qdrant-local://{quote(str(directory.absolute()))}/qdrant"


class SecureQdrantServer(QdrantServer):
    """The same by TLS: only the URL's scheme is another."""

    encrypted_scheme = ""


class QdrantLocal(QdrantServer):
    """The local mode of the client, which keeps rows and no index. Every test runs on the real one."""

    name = "qdrant-local"
    experimental = False
    encrypted_scheme = ""
