"""What Strongroom can do with Chroma's embedded database: a directory with `chroma.sqlite3` and one HNSW folder a collection.

capture.py    copies one moment of a live directory        (child process)
catalog.py    what sqlite says: tenants, collections, configuration
hnsw.py       the files of one vector index
replay.py     what the log holds that the segments don't yet
rows.py       rows, in the order of the vector index
frozen.py     source and frozen state       target.py  target and stage
edit.py       drops and renames collections in a staged database
client.py     all that needs chromadb itself               (child process)
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from strongroom.errors import WrongRequest

if TYPE_CHECKING:
    from strongroom.engines.chroma.frozen import ChromaSource
    from strongroom.engines.chroma.target import ChromaTarget

__all__ = ["Chroma"]


class Chroma:
    """The engine plug-in. URLs are `chroma:///absolute/path` and `chroma:relative/path`. What it works with is imported when it is
    used: a child process needs chromadb alone."""

    name = "chroma"
    loading = "strongroom.engines.chroma.client:load"

    def version(self) -> str:
        """The installed chromadb's version. Raises WrongRequest if there is none."""
        try:
            return version("chromadb")
        except PackageNotFoundError as error:
            raise WrongRequest("chromadb is not installed", hint="pip install 'strongroom[chroma]'") from error

    def compatible(self, written_by: str) -> bool:
        """Same major.minor: a minor release may bring sqlite migrations and another HNSW; patch releases have kept both."""
        return written_by.split(".")[:2] == self.version().split(".")[:2]

    def source(self, url: str) -> ChromaSource:
        """Opens nothing. Raises WrongRequest."""
        from strongroom.engines.chroma.frozen import ChromaSource

        return ChromaSource(_path(url))

    def scratch(self, directory: Path, collections: Sequence[str]) -> str:
        """The URL of a directory inside `directory`."""
        return f"chroma://{quote(str(directory.absolute()))}/chroma"

    def target(self, url: str) -> ChromaTarget:
        """Touches nothing. Raises WrongRequest."""
        from strongroom.engines.chroma.target import ChromaTarget

        return ChromaTarget(_path(url))


def _path(url: str) -> Path:
    scheme, _, rest = url.partition(":")
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        if host:
            raise WrongRequest(
                f"{url!r} names a host, and this engine reads a directory",
                hint="write chroma:///absolute/path or chroma:relative/path; back up a server's data directory on its own machine",
            )
        rest = slash + path
    path = unquote(rest)
    if scheme != "chroma" or not path or "\0" in path or "?" in path or "#" in path:
        raise WrongRequest(f"{url!r} names no Chroma directory", hint="write chroma:///absolute/path or chroma:relative/path")
    return Path(path).absolute()
