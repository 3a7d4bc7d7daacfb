"""hnswlib: one index file, and beside it perhaps a sidecar. `hnswlib:///srv/index.bin` or `hnswlib:///srv/index.bin?space=cosine`

layout      where elements, links and labels lie in an index file
space       which metric it is for, which the file doesn't say
freeze      rows, regions and answers of one moment
target      how an index is put in place or built anew
library     what hnswlib itself is asked, in a child process
engines/indexfile   sidecars, locks, stages: what index files have in common
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from strongroom.errors import WrongRequest

if TYPE_CHECKING:
    from strongroom.engines.hnswlib.live import CapturedHnswlib
    from strongroom.engines.hnswlib.target import HnswlibTarget
    from strongroom.engines.indexfile.source import IndexSource


class Hnswlib:
    """The engine plug-in. What it works with is imported when it is used: a child process needs the library alone."""

    name = "hnswlib"
    loading = "strongroom.engines.hnswlib.library:load"

    def version(self) -> str:
        """The version of the installed package. Raises WrongRequest if there is none."""
        try:
            return version("hnswlib")
        except PackageNotFoundError as error:
            raise WrongRequest("hnswlib is not installed", hint="install it with: pip install 'strongroom[hnswlib]'") from error

    def compatible(self, written_by: str) -> bool:
        """The format has no version of its own and search changed between releases: the same major.minor version only."""
        return self.version().split(".")[:2] == written_by.split(".")[:2]

    def source(self, url: str) -> IndexSource:
        from strongroom.engines.hnswlib.freeze import hnswlib_source
        from strongroom.engines.hnswlib.space import asked_of

        path, asked = asked_of(url)
        return hnswlib_source(path, self.version(), asked)

    def target(self, url: str) -> HnswlibTarget:
        """A target takes its space from the snapshot: a URL that gives one is refused."""
        from strongroom.engines.hnswlib.space import asked_of
        from strongroom.engines.hnswlib.target import HnswlibTarget

        path, asked = asked_of(url)
        if asked.space or asked.ef:
            raise WrongRequest(f"{url!r} gives a space to a target", hint="leave ?... out: a restore takes it from the snapshot")
        return HnswlibTarget(path, self.version())

    def capture(self, client: Any, url: str, every: float, anew: bool) -> CapturedHnswlib:
        """The index itself knows its space: a URL may repeat it."""
        from strongroom.engines.hnswlib.live import capture
        from strongroom.engines.hnswlib.space import asked_of

        path, asked = asked_of(url)
        if asked.space not in ("", getattr(client, "space", "")):
            raise WrongRequest(f"{url!r} gives another space than the index has", hint=f"it has {client.space}")
        return capture(client, path, every, anew)

    def scratch(self, directory: Path, collections: Sequence[str]) -> str:
        """The URL of an index called as the collection is."""
        name = collections[0].replace("/", "_").replace("?", "_") if collections else "index"
        return f"hnswlib://{directory.absolute()}/{name}.bin"
