"""Milvus Lite: Milvus in the user's own process. `milvus-lite:///srv/notes.db`, the folder that a client is given (from 3.0 on).

library   what milvus_lite itself is asked, in a child process       frozen   files and rows of one moment, from private copies
target    how a folder is put in place or built anew
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from strongroom.errors import WrongRequest

if TYPE_CHECKING:
    from strongroom.engines.milvus.lite.frozen import LiteSource
    from strongroom.engines.milvus.lite.target import LiteTarget

SCHEME = "milvus-lite"


class MilvusLite:
    """The engine plug-in. What it works with is imported when it is used."""

    name = SCHEME
    loading = "strongroom.engines.milvus.lite.library:load"

    def version(self) -> str:
        """The version of the installed package. Raises WrongRequest if there is none."""
        try:
            return version("milvus-lite")
        except PackageNotFoundError as error:
            raise WrongRequest("Milvus Lite is not installed", hint="pip install 'strongroom[milvus-lite]'") from error

    def compatible(self, written_by: str) -> bool:
        """The same major.minor version."""
        return self.version().split(".")[:2] == written_by.split(".")[:2]

    def source(self, url: str) -> LiteSource:
        from strongroom.engines.milvus.lite.frozen import LiteSource

        return LiteSource(_path(url))

    def target(self, url: str) -> LiteTarget:
        from strongroom.engines.milvus.lite.target import LiteTarget

        return LiteTarget(_path(url))

    def scratch(self, directory: Path, collections: Sequence[str]) -> str:
        return f"{SCHEME}://{directory.absolute()}/scratch.db"


def _path(url: str) -> Path:
    scheme, _, rest = url.partition(":")
    hint = f"write {SCHEME}:///absolute/path.db or {SCHEME}:relative/path.db, the folder that a client is given"
    if rest.startswith("//"):
        rest = rest[2:]
        if not rest.startswith("/"):
            raise WrongRequest(f"{url!r} names a host, and this engine reads a folder", hint=hint)
    path = Path(rest)
    if scheme != SCHEME or not rest or "\0" in rest or not path.name or path.name == "..":
        raise WrongRequest(f"{url!r} names no folder of Milvus Lite", hint=hint)
    return path.absolute()
