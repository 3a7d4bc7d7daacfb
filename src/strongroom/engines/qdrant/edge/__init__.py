"""Qdrant Edge: Qdrant's segment engine in the user's own process. `qdrant-edge:///srv/notes`, the folder of a shard.

shape       what a shard's configuration says, and the columns of its points       conversion   points <-> rows
library     what qdrant_edge itself is asked, in a child process                    moment       a private copy of one moment
frozen      rows, files and answers of that moment                                  layout       where vectors lie in its files
target      how a shard is put in place or built anew                               live         the capture of an open shard
engines/oplog   the log of a captured shard
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from strongroom.errors import WrongRequest

if TYPE_CHECKING:
    from strongroom.engines.qdrant.edge.frozen import EdgeSource
    from strongroom.engines.qdrant.edge.live import CapturedShard
    from strongroom.engines.qdrant.edge.target import EdgeTarget

SCHEME = "qdrant-edge"


class QdrantEdge:
    """The engine plug-in. What it works with is imported when it is used: a child process needs the library alone."""

    name = SCHEME
    loading = "strongroom.engines.qdrant.edge.library:load"

    def version(self) -> str:
        """The version of the installed package. Raises WrongRequest if there is none."""
        try:
            return version("qdrant-edge-py")
        except PackageNotFoundError as error:
            raise WrongRequest("Qdrant Edge is not installed", hint="pip install 'strongroom[qdrant-edge]'") from error

    def compatible(self, written_by: str) -> bool:
        """The same major.minor version: before 1.0 a minor release may change the files."""
        return self.version().split(".")[:2] == written_by.split(".")[:2]

    def source(self, url: str) -> EdgeSource:
        from strongroom.engines.qdrant.edge.frozen import EdgeSource

        return EdgeSource(_path(url))

    def target(self, url: str) -> EdgeTarget:
        from strongroom.engines.qdrant.edge.target import EdgeTarget

        return EdgeTarget(_path(url))

    def capture(self, client: Any, url: str, every: float, anew: bool) -> CapturedShard:
        from strongroom.engines.qdrant.edge.live import capture

        return capture(client, _path(url), every, anew)

    def scratch(self, directory: Path, collections: Sequence[str]) -> str:
        """The URL of a shard called as the collection is."""
        name = collections[0].replace("/", "_") if collections else "shard"
        return f"{SCHEME}://{directory.absolute()}/{name}"


def _path(url: str) -> Path:
    scheme, _, rest = url.partition(":")
    hint = f"write {SCHEME}:///absolute/path or {SCHEME}:relative/path, the folder of a shard"
    if rest.startswith("//"):
        rest = rest[2:]
        if not rest.startswith("/"):
            raise WrongRequest(f"{url!r} names a host, and this engine reads a folder", hint=hint)
    path = Path(rest)
    if scheme != SCHEME or not rest or "\0" in rest or not path.name or path.name == "..":
        raise WrongRequest(f"{url!r} names no shard", hint=hint)
    return path.absolute()
