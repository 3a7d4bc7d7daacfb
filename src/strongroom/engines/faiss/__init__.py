"""FAISS: one index file, and beside it perhaps a sidecar with ids, documents and metadata. `faiss:///srv/index.faiss`

    layout, order   where vectors, codes, links and ids lie in an index file, and in which order it gives its rows
    vectors         how vectors are had
    freeze          rows, regions and answers of one moment;  describe: its ledger
    rebuild         rows to index;  target: how it is put in place
    library         what FAISS itself is asked, in a child process
    engines/indexfile   sidecars, locks, stages: what index files have in common

A writer that saves by rename never disturbs a backup. One that writes in place is noticed if it writes while the backup reads;
one that pauses in the middle of a save for longer than the backup takes is not. One that changes index *and* sidecar should
hold an exclusive flock on `<index file>.lock` while it saves both: a backup holds it shared as long as it reads, and then what
it reads is always one generation of both.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from strongroom.engines.indexfile.place import path_of
from strongroom.errors import WrongRequest

if TYPE_CHECKING:
    from strongroom.engines.faiss.live import CapturedFaiss
    from strongroom.engines.faiss.target import FaissTarget
    from strongroom.engines.indexfile.source import IndexSource

_PACKAGES = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cu12", "faiss")


class Faiss:
    """The engine plug-in. What it works with is imported when it is used: a child process needs the library alone."""

    name = "faiss"
    loading = "strongroom.engines.faiss.library:load"

    def version(self) -> str:
        """The version of the installed FAISS package. Raises WrongRequest if there is none."""
        for package in _PACKAGES:
            try:
                return version(package)
            except PackageNotFoundError:
                continue
        raise WrongRequest("FAISS is not installed", hint="install it with: pip install 'strongroom[faiss]'")

    def compatible(self, written_by: str) -> bool:
        """The installed version is of the same major version and not of an earlier minor one.

        FAISS keeps reading all formats that it ever wrote, but marks new ones only by their four-letter codes: an older
        library may refuse what a newer one wrote. A patch release doesn't change formats.
        """
        installed, written = _release(self.version()), _release(written_by)
        return installed is not None and written is not None and installed[0] == written[0] and installed[1] >= written[1]

    def source(self, url: str) -> IndexSource:
        from strongroom.engines.faiss.freeze import faiss_source

        return faiss_source(path_of(url, "faiss", "FAISS", "index.faiss"), self.version())

    def target(self, url: str) -> FaissTarget:
        from strongroom.engines.faiss.target import FaissTarget

        return FaissTarget(path_of(url, "faiss", "FAISS", "index.faiss"), self.version())

    def capture(self, client: Any, url: str, every: float, anew: bool) -> CapturedFaiss:
        from strongroom.engines.faiss.live import capture

        return capture(client, path_of(url, "faiss", "FAISS", "index.faiss"), every, anew)

    def scratch(self, directory: Path, collections: Sequence[str]) -> str:
        """The URL of an index called as the collection is."""
        name = collections[0].replace("/", "_") if collections else "index"
        return f"faiss://{directory.absolute()}/{name}.faiss"


def _release(text: str) -> tuple[int, int] | None:
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None
