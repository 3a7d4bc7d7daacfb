"""The physical way of PostgreSQL and pgvector: `pgvector+physical://user@host:port`, a whole cluster by its files and its log.

place.py         URLs                                             replication.py   the protocol by which files and log are sent
received.py      a base backup, and is it what was sent?          programs.py      which server programs are on this machine?
kept.py          the one before, so that only changes are sent
scratch.py       a server over a copy of the files                frozen.py        sources and frozen state
target.py        the directory that is restored                   feed.py          the log, as it comes
records.py       what stands in the log, record by record         recovery.py      how PostgreSQL is told to go on to a moment
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from strongroom.errors import WrongRequest

if TYPE_CHECKING:
    from strongroom.engines.pgvector.physical.frozen import DirectorySource, ServerSource
    from strongroom.engines.pgvector.physical.target import ClusterTarget

__all__ = ["PhysicalPgvector"]


class PhysicalPgvector:
    """The engine plug-in. What it works with is imported when it is used."""

    name = "pgvector+physical"
    loading = "strongroom.engines.pgvector.search:load"

    def version(self) -> str:
        """Of which servers the programs are here. Raises WrongRequest without psycopg."""
        from strongroom.engines.pgvector.physical.programs import installed

        try:
            version("psycopg")
        except PackageNotFoundError as error:
            raise WrongRequest("psycopg is not installed", hint="pip install 'strongroom[pgvector]'") from error
        return "programs of PostgreSQL " + (", ".join(one.version for one in installed()) or "none")

    def compatible(self, written_by: str) -> bool:
        """True if the programs of the same major version are on this machine: no others open the files."""
        from strongroom.engines.pgvector.physical.programs import installed

        found = re.match(r"PostgreSQL (\d+)", written_by)
        return found is not None and any(one.major == int(found[1]) for one in installed())

    def source(self, url: str) -> ServerSource | DirectorySource:
        """Opens nothing. Raises WrongRequest."""
        from strongroom.engines.pgvector.physical.frozen import DirectorySource, ServerSource
        from strongroom.engines.pgvector.physical.place import Server, parse

        place = parse(url)
        return ServerSource(place) if isinstance(place, Server) else DirectorySource(place)

    def target(self, url: str) -> ClusterTarget:
        """Touches nothing. Raises WrongRequest."""
        from strongroom.engines.pgvector.physical.place import Server, parse
        from strongroom.engines.pgvector.physical.target import ClusterTarget

        place = parse(url)
        if isinstance(place, Server):
            raise WrongRequest(
                "a cluster's files are restored into a directory, not into a running server",
                hint=f"write {self.name}:///srv/pgdata, then start PostgreSQL on it",
            )
        return ClusterTarget(place)

    def scratch(self, directory: Path, collections: Sequence[str]) -> str:
        """A folder in an empty directory."""
        from strongroom.engines.pgvector.physical.place import directory_url

        return directory_url(directory / "data", tuple(collections))
