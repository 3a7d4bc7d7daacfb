"""What Strongroom can do with a Milvus server: `milvus://host:19530/database`, or `milvus+https://...`.

place.py      URLs, and how collections are called          connection.py  requests, secrets, what errors mean
shape.py      which columns rows have, by their schema       columns.py     rows <-> Milvus's messages
listing.py    databases, collections, users, the ledger      reading.py     all rows of a collection, by key
moment.py     reads all until it is one moment               frozen.py      source and frozen state
creation.py   how a collection is made like another one      loading.py     how rows get into it
target.py     target, what fits there                        stage.py       a new state beside the one that users see
staged.py     which collections are being built              cutover.py     how they get their places
search.py     what an index answers                          lite/          Milvus Lite: the same in the user's own process
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from strongroom.errors import WrongRequest

if TYPE_CHECKING:
    from strongroom.engines.milvus.frozen import ServerSource
    from strongroom.engines.milvus.target import ServerTarget

__all__ = ["Milvus", "SecureMilvus"]


class Milvus:
    """The engine plug-in. What it works with is imported when it is used."""

    name = "milvus"
    loading = "strongroom.engines.milvus.search:load"
    encrypted_scheme = "milvus+https"

    def version(self) -> str:
        """That of the client library: the server's is known when it is asked. Raises WrongRequest if there is none."""
        try:
            return f"pymilvus {version('pymilvus')}"
        except PackageNotFoundError as error:
            raise WrongRequest("pymilvus is not installed", hint="pip install 'strongroom[milvus]'") from error

    def compatible(self, written_by: str) -> bool:
        """A server gives no files out that could be installed."""
        return False

    def source(self, url: str) -> ServerSource:
        """Opens nothing. Raises WrongRequest."""
        from strongroom.engines.milvus.frozen import ServerSource
        from strongroom.engines.milvus.place import Place

        return ServerSource(Place.parse(url))

    def target(self, url: str) -> ServerTarget:
        """Touches nothing. Raises WrongRequest."""
        from strongroom.engines.milvus.place import Place
        from strongroom.engines.milvus.target import ServerTarget

        return ServerTarget(Place.parse(url))

    def scratch(self, directory: Path, collections: Sequence[str]) -> str:
        """The URL of a new database on the server that STRONGROOM_MILVUS_SCRATCH names. Raises WrongRequest if there is no such
        variable."""
        from strongroom.engines.milvus.scratch import new_database

        return new_database(os.environ.get("STRONGROOM_MILVUS_SCRATCH", ""), collections)

    def drop_scratch(self, url: str) -> None:
        """Drop that database, if it is one."""
        from strongroom.engines.milvus.scratch import drop_database

        drop_database(url)


class SecureMilvus(Milvus):
    """The same by TLS: only the URL's scheme is another."""

    encrypted_scheme = ""
