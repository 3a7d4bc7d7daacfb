"""What Strongroom can do with a Chroma server over HTTP: `chroma+http://host:port/tenant/database`, or `chroma+https://...`.

place.py      URLs, and how collections are called          connection.py  requests, secrets, what errors mean
listing.py    databases, collections, the ledger            bodies.py      rows <-> bodies of requests and answers
moment.py     reads all rows until they are one moment      frozen.py      source and frozen state
target.py     target                                        stage.py       a new state beside the one that users see
captured.py   which calls of a client change what            reading_back.py  what the server holds of that
apply.py      changes of the journal                        logged.py      a moment by the log of a capture
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from strongroom.errors import WrongRequest

if TYPE_CHECKING:
    from strongroom.engines.chroma.server.captured import CapturedChroma
    from strongroom.engines.chroma.server.frozen import ServerSource
    from strongroom.engines.chroma.server.target import ServerTarget

__all__ = ["ChromaServer"]


def load() -> None:
    """There is nothing to be loaded: the server answers."""


class ChromaServer:
    """The engine plug-in. What it works with is imported when it is used."""

    name = "chroma+http"
    loading = "strongroom.engines.chroma.server:load"
    encrypted_scheme = "chroma+https"

    def version(self) -> str:
        """That of the HTTP library: the server's is known when it is asked. Raises WrongRequest if there is none."""
        try:
            return f"httpx {version('httpx')}"
        except PackageNotFoundError as error:
            raise WrongRequest("httpx is not installed", hint="pip install 'strongroom[chroma-server]'") from error

    def compatible(self, written_by: str) -> bool:
        """A server gives no files out that could be installed."""
        return False

    def source(self, url: str) -> ServerSource:
        """Opens nothing. Raises WrongRequest."""
        from strongroom.engines.chroma.server.frozen import ServerSource
        from strongroom.engines.chroma.server.place import Place

        return ServerSource(Place.parse(url))

    def target(self, url: str) -> ServerTarget:
        """Touches nothing. Raises WrongRequest."""
        from strongroom.engines.chroma.server.place import Place
        from strongroom.engines.chroma.server.target import ServerTarget

        return ServerTarget(Place.parse(url))

    def capture(self, client: Any, url: str, every: float, anew: bool) -> CapturedChroma:
        """See `captured`."""
        from strongroom.engines.chroma.server.captured import capture
        from strongroom.engines.chroma.server.place import Place

        return capture(client, Place.parse(url), every, anew)

    def scratch(self, directory: Path, collections: Sequence[str]) -> str:
        """The URL of an embedded database: it takes the same rows, and nobody else can reach it."""
        return f"chroma://{quote(str(directory.absolute()))}/chroma"


class SecureChromaServer(ChromaServer):
    """The same by TLS: only the URL's scheme is another."""

    encrypted_scheme = ""
