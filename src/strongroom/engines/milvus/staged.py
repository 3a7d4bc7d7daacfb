"""Which collections of a server are being built, and as what? The server has them, a file of this machine says which is which."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from strongroom.engines.milvus import listing
from strongroom.engines.milvus.connection import NotOffered, Server
from strongroom.engines.milvus.creation import is_of_milvus
from strongroom.engines.milvus.loading import pairs
from strongroom.engines.milvus.place import DEFAULT, STAGED
from strongroom.engines.staging import write_durably
from strongroom.errors import NotFound
from strongroom.model import Collection


@dataclass(frozen=True, slots=True)
class Staged:
    """A collection that is built: the server's number of it, the name that it has meanwhile, and what it shall be."""

    id: int
    database: str
    own: str
    wanted: str
    aliases: Sequence[str]
    loaded: bool


class StagedCollections:
    """Those of one restore, by the name that they have in the snapshot's place."""

    def __init__(self, server: Server, directory: Path, token: str) -> None:
        self._server = server
        self._file = directory / "staged.json"
        self._own = f"{STAGED}{token}_"

    def all(self) -> Mapping[str, Staged]:
        try:
            return {name: Staged(**said) for name, said in json.loads(self._file.read_bytes()).items()}
        except FileNotFoundError:
            return {}

    def aside(self, number: int) -> str:
        """What a collection is called that is being replaced."""
        return f"{STAGED}replaced_{self._own.removeprefix(STAGED)}{number}"

    def fresh(self, collection: Collection) -> tuple[str, str]:
        """Database and name for a new collection like this one: whatever an earlier run left there is removed."""
        name = collection.name
        present = self.all()
        taken = {one.own for one in present.values()}
        unused = next(own for number in range(len(taken) + 1) if (own := f"{self._own}{number}") not in taken)
        own = present[name].own if name in present else unused
        database, _ = self._server.place.address(name)
        if database != DEFAULT and database not in self._server.ask("ListDatabases").db_names:
            _, _, common = self._server.messages
            said = collection.catalog.get("database_properties", {}) if is_of_milvus(collection) else {}
            self._server.ask("CreateDatabase", database=database, properties=pairs(common, said))
        self._drop(database, own)
        return database, own

    def note(self, name: str, database: str, own: str, collection: Collection) -> None:
        """It is there, in whatever state."""
        said = collection.catalog if is_of_milvus(collection) else {}
        _, wanted = self._server.place.address(name)
        identity = listing.identity(self._server, database, own)
        staged = Staged(identity or 0, database, own, wanted, list(said.get("aliases", ())), bool(said.get("loaded", True)))
        present = {**self.all(), name: staged}
        write_durably(self._file, json.dumps({each: asdict(one) for each, one in present.items()}).encode())

    def clear(self) -> None:
        """Remove all of them from the server, also those of which there is no note."""
        with suppress(NotFound, NotOffered):  # there is no such database yet
            for database in listing.databases(self._server):
                for name in listing.names(self._server, database):
                    if name.startswith(self._own):
                        self._drop(database, name)

    def _drop(self, database: str, own: str) -> None:
        if listing.identity(self._server, database, own) is not None:
            self._server.ask("DropCollection", database=database, collection_name=own)
