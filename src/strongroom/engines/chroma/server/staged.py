"""Which collections of a server are being built, and as what? The server has them, a file of this machine says which is which."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from strongroom.engines.chroma.catalog import Address
from strongroom.engines.chroma.creation import hnsw_of
from strongroom.engines.chroma.server import listing
from strongroom.engines.chroma.server.bodies import creation_of, later_metadata
from strongroom.engines.chroma.server.connection import Server
from strongroom.engines.chroma.server.place import STAGED
from strongroom.engines.staging import write_durably
from strongroom.errors import NotFound
from strongroom.model import Collection


@dataclass(frozen=True, slots=True)
class Staged:
    """A collection that is built: the server's id of it, the name that it has meanwhile, and the one that it shall have."""

    id: str
    database: str
    name: str
    wanted: str


class StagedCollections:
    """Those of one restore, by identity: the id that the collection had where it was backed up, or, of another engine, its name."""

    def __init__(self, server: Server, directory: Path, token: str) -> None:
        self._server = server
        self._file = directory / "staged.json"
        self._own = f"{STAGED}{token}-"

    def all(self) -> Mapping[str, Staged]:
        try:
            return {identity: Staged(**said) for identity, said in json.loads(self._file.read_bytes()).items()}
        except FileNotFoundError:
            return {}

    def aside(self, number: int) -> str:
        """What a collection is called that is being replaced. Those are nobody's to drop but the cut-over's that put them there."""
        return f"{STAGED}replaced-{self._own.removeprefix(STAGED)}{number}"

    def make(self, identity: str, address: Address, collection: Collection) -> Staged:
        """An empty collection, in place of what an earlier run left of it."""
        present = self.all()
        taken = {one.name for one in present.values()}
        fresh = next(name for number in range(len(taken) + 1) if (name := f"{self._own}{number}") not in taken)
        name = present[identity].name if identity in present else fresh
        self._make_database(address.database)
        self._remove(address.database, name)
        where = self._server.collections(address.database)
        made = self._server.ask("POST", *where, name=name, **creation_of(collection.catalog, hnsw_of(collection)))
        if later_metadata(collection.catalog):
            self._server.ask("PUT", *where, str(made["id"]), new_metadata=dict(collection.catalog["metadata"]))
        staged = Staged(str(made["id"]), address.database, name, address.name)
        self._note({**present, identity: staged})
        return staged

    def rename(self, identity: str, wanted: str) -> None:
        """It shall have another name."""
        present = self.all()
        self._note({**present, identity: replace(present[identity], wanted=wanted)})

    def drop(self, identity: str) -> None:
        present = dict(self.all())
        staged = present.pop(identity)
        self._remove(staged.database, staged.name)
        self._note(present)

    def clear(self) -> None:
        """Remove all of them from the server, also those of which there is no note."""
        with suppress(NotFound):  # there is no such tenant or database yet
            for raw in listing.every(self._server):
                if str(raw["name"]).startswith(self._own):
                    self._remove(str(raw["database"]), str(raw["name"]))

    def _note(self, staged: Mapping[str, Staged]) -> None:
        write_durably(self._file, json.dumps({identity: asdict(one) for identity, one in staged.items()}).encode())

    def _remove(self, database: str, name: str) -> None:
        with suppress(NotFound):
            self._server.ask("DELETE", *self._server.collections(database, name))

    def _make_database(self, database: str) -> None:
        tenant = self._server.place.tenant
        for path, name in (((), tenant), ((tenant, "databases"), database)):
            try:
                self._server.ask("GET", "tenants", *path, name)
            except NotFound:
                self._server.ask("POST", "tenants", *path, name=name)
