"""sqlite-vec: vec0 tables in an sqlite database. `sqlite-vec:///srv/notes.db`.

definition  what a vec0 table is                             catalog     what a database holds, and what of it is in the rows
moment      a private copy of one moment                     shadow      rows, from the tables in which vec0 keeps them
pages       where vectors lie in the file                    frozen      rows, file and answers of that moment
conversion  rows of any engine -> a vec0 table               target      how a database is put in place or built anew
library     what sqlite-vec itself is asked, in a child process
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from strongroom.engines.staged_file import path_of
from strongroom.errors import WrongRequest

if TYPE_CHECKING:
    from strongroom.engines.sqlite_vec.frozen import SqliteVecSource
    from strongroom.engines.sqlite_vec.target import SqliteVecTarget

SCHEME = "sqlite-vec"


class SqliteVec:
    """The engine plug-in. What it works with is imported when it is used."""

    name = SCHEME
    loading = "strongroom.engines.sqlite_vec.library:load"

    def version(self) -> str:
        """The version of the installed package. Raises WrongRequest if there is none, or Python can't load it."""
        from strongroom.engines.sqlite_vec.library import extensible

        try:
            found = version("sqlite-vec")
        except PackageNotFoundError as error:
            raise WrongRequest("sqlite-vec is not installed", hint="pip install 'strongroom[sqlite-vec]'") from error
        extensible()
        return found

    def compatible(self, written_by: str) -> bool:
        """The same major.minor version: before 1.0 a minor release may change the tables."""
        return self.version().split(".")[:2] == written_by.split(".")[:2]

    def source(self, url: str) -> SqliteVecSource:
        from strongroom.engines.sqlite_vec.frozen import SqliteVecSource

        return SqliteVecSource(path_of(url, SCHEME, "notes.db"))

    def target(self, url: str) -> SqliteVecTarget:
        from strongroom.engines.sqlite_vec.target import SqliteVecTarget

        return SqliteVecTarget(path_of(url, SCHEME, "notes.db"))

    def scratch(self, directory: Path, collections: Sequence[str]) -> str:
        """The URL of a database of its own."""
        return f"{SCHEME}://{directory.absolute()}/scratch.db"
