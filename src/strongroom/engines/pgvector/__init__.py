"""What Strongroom can do with PostgreSQL and its extension pgvector: `pgvector://user@host:port/database`, over the network.

address.py      URLs, and how collections are called            server.py      connections and what their errors mean
catalog.py      tables, columns, indexes, constraints           columns.py     what a PostgreSQL column is in Arrow
copying.py      rows as binary COPY                             moment.py      one moment that several connections see
frozen.py       source and frozen state                         definitions.py the SQL that makes a table again
target.py       target and stage                                replay.py      changes of the journal, as SQL
feed.py         the change feed                                 pgoutput.py    the messages of a logical slot
slot.py         slot, publication and event triggers
search.py       what an index answers                           rights.py      roles, grants, types of the database's own
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from strongroom.errors import WrongRequest

if TYPE_CHECKING:
    from strongroom.engines.pgvector.frozen import PgSource
    from strongroom.engines.pgvector.target import PgTarget

__all__ = ["Pgvector"]


class Pgvector:
    """The engine plug-in. What it works with is imported when it is used."""

    name = "pgvector"
    loading = "strongroom.engines.pgvector.search:load"

    def version(self) -> str:
        """That of the client library: the server's is known when it is asked. Raises WrongRequest if there is none."""
        try:
            return f"psycopg {version('psycopg')}"
        except PackageNotFoundError as error:
            raise WrongRequest("psycopg is not installed", hint="pip install 'strongroom[pgvector]'") from error

    def compatible(self, written_by: str) -> bool:
        """A server gives no files out that could be installed."""
        return False

    def source(self, url: str) -> PgSource:
        """Opens nothing. Raises WrongRequest."""
        from strongroom.engines.pgvector.address import Address
        from strongroom.engines.pgvector.frozen import PgSource

        address = Address.parse(url)
        return PgSource(address, address.layout)

    def target(self, url: str) -> PgTarget:
        """Touches nothing. Raises WrongRequest."""
        from strongroom.engines.pgvector.address import Address
        from strongroom.engines.pgvector.target import PgTarget

        return PgTarget(Address.parse(url))

    def scratch(self, directory: Path, collections: Sequence[str]) -> str:
        """The URL of a new schema in the database that STRONGROOM_PGVECTOR_SCRATCH names. Raises WrongRequest if there is no such
        variable."""
        from strongroom.engines.pgvector.scratch import new_schema

        return new_schema(os.environ.get("STRONGROOM_PGVECTOR_SCRATCH", ""))

    def drop_scratch(self, url: str) -> None:
        """Drop that schema, if it is one."""
        from strongroom.engines.pgvector.scratch import drop_schema

        drop_schema(url)
