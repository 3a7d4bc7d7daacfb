"""USearch: one index file, and beside it perhaps a sidecar. `usearch:///srv/index.usearch`

layout      where vectors, links and keys lie in an index file
freeze      rows, regions and answers of one moment
target      how an index is put in place or built anew
library     what usearch itself is asked, in a child process
engines/indexfile   sidecars, locks, stages: what index files have in common
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from strongroom.engines.indexfile.place import path_of
from strongroom.errors import WrongRequest

if TYPE_CHECKING:
    from strongroom.engines.indexfile.source import IndexSource
    from strongroom.engines.usearch.live import CapturedUsearch
    from strongroom.engines.usearch.target import UsearchTarget


class Usearch:
    """The engine plug-in. What it works with is imported when it is used: a child process needs the library alone."""

    name = "usearch"
    loading = "strongroom.engines.usearch.library:load"

    def version(self) -> str:
        """The version of the installed package. Raises WrongRequest if there is none."""
        try:
            return version("usearch")
        except PackageNotFoundError as error:
            raise WrongRequest("usearch is not installed", hint="install it with: pip install 'strongroom[usearch]'") from error

    def compatible(self, written_by: str) -> bool:
        """The same major.minor version: minor versions changed kernels, and with them the last bits of distances."""
        return self.version().split(".")[:2] == written_by.split(".")[:2]

    def source(self, url: str) -> IndexSource:
        from strongroom.engines.usearch.freeze import usearch_source

        return usearch_source(path_of(url, "usearch", "USearch", "index.usearch"), self.version())

    def target(self, url: str) -> UsearchTarget:
        from strongroom.engines.usearch.target import UsearchTarget

        return UsearchTarget(path_of(url, "usearch", "USearch", "index.usearch"), self.version())

    def capture(self, client: Any, url: str, every: float, anew: bool) -> CapturedUsearch:
        from strongroom.engines.usearch.live import capture

        return capture(client, path_of(url, "usearch", "USearch", "index.usearch"), every, anew)

    def scratch(self, directory: Path, collections: Sequence[str]) -> str:
        """The URL of an index called as the collection is."""
        name = collections[0].replace("/", "_") if collections else "index"
        return f"usearch://{directory.absolute()}/{name}.usearch"
