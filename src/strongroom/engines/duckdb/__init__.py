"""DuckDB: tables with FLOAT[n] columns in a database file. `duckdb:///srv/store.duckdb`.

moment      a private copy of one moment                  definition  what a table is: its name, columns, keys, indexes
library     what DuckDB itself is asked, in a child       catalog     what a database holds, and what of it is in the rows
frozen      rows, files and answers of that moment        conversion  rows of any engine -> a table
target      how a database is put in place or built anew  streaming   rows through a pipe from the child
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from strongroom.engines.staged_file import path_of
from strongroom.errors import WrongRequest

if TYPE_CHECKING:
    from strongroom.engines.duckdb.frozen import DuckSource
    from strongroom.engines.duckdb.target import DuckTarget

SCHEME = "duckdb"


class DuckDB:
    """The engine plug-in. What it works with is imported when it is used."""

    name = SCHEME
    loading = "strongroom.engines.duckdb.library:load"

    def version(self) -> str:
        """The version of the installed package. Raises WrongRequest if there is none."""
        try:
            return version("duckdb")
        except PackageNotFoundError as error:
            raise WrongRequest("DuckDB is not installed", hint="pip install 'strongroom[duckdb]'") from error

    def compatible(self, written_by: str) -> bool:
        """The same major.minor version: an index is of the release of vss that wrote it."""
        return self.version().split(".")[:2] == written_by.split(".")[:2]

    def source(self, url: str) -> DuckSource:
        from strongroom.engines.duckdb.frozen import DuckSource

        return DuckSource(path_of(url, SCHEME, "store.duckdb"))

    def target(self, url: str) -> DuckTarget:
        from strongroom.engines.duckdb.target import DuckTarget

        return DuckTarget(path_of(url, SCHEME, "store.duckdb"))

    def scratch(self, directory: Path, collections: Sequence[str]) -> str:
        """The URL of a database of its own."""
        return f"{SCHEME}://{directory.absolute()}/scratch.duckdb"
