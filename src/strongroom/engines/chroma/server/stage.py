"""How is a state built on a Chroma server and put in its place?

strongroom-<token>-<n>              collections being built, in the database where they belong
strongroom-replaced-<token>-<n>     those that they replace, until all are in place
<notes>/.strongroom-<token>/        (on this machine) staged.json: which collection is which; publishing: what is renamed
<notes>/receipt.json                what the last restore from this machine was
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from strongroom.engines.changes import Change
from strongroom.engines.chroma.catalog import Address
from strongroom.engines.chroma.server.apply import Applying
from strongroom.engines.chroma.server.connection import Server
from strongroom.engines.chroma.server.cutover import CutOver
from strongroom.engines.chroma.server.frozen import ServerSource
from strongroom.engines.chroma.server.loading import Loading
from strongroom.engines.chroma.server.place import Place
from strongroom.engines.chroma.server.staged import StagedCollections
from strongroom.engines.staging import StagedEntries, write_durably
from strongroom.errors import Damaged, EngineFailed
from strongroom.model import Collection, Description, Selection

RECEIPT = "receipt.json"


class ServerStage:
    """See `protocol.Stage` and `protocol.Replaying`."""

    def __init__(self, place: Place, notes: Path, token: str) -> None:
        self._place, self._notes = place, notes
        self._entries = StagedEntries(notes, token, ())
        self.directory = self._entries.directory
        try:
            self._server = Server(place, EngineFailed)
            self._staged = StagedCollections(self._server, self.directory, token)
            if not (self.directory / "begun").exists():
                self._staged.clear()
                write_durably(self.directory / "begun", b"")
        except BaseException:
            self._entries.close()
            raise

    def artifact_path(self, path: str) -> Path:
        """There are none. Raises Damaged."""
        raise Damaged(f"artifact {path!r}", "a server takes no files")

    def adopt(self, description: Description, selection: Selection) -> None:
        """Nothing was installed."""

    def load(self, collection: Collection, batches: Iterable[pa.RecordBatch]) -> None:
        """Make the collection anew and add the rows. Raises EngineFailed if the server refuses, or has another number of rows."""
        of_chroma = "schema_str" in collection.catalog
        identity = str(collection.catalog["id"]) if of_chroma else f"name:{collection.name}"
        staged = self._staged.make(identity, self._place.address(collection.name), collection)
        loading = Loading(self._server, staged.database, staged.id)
        rows = sum(map(loading.add, batches))
        loaded = loading.count()
        if loaded != rows:
            raise EngineFailed(f"the server has {loaded} rows in {collection.name!r} after {rows} were added")

    def identity(self, collection: Collection) -> str:
        """The id that it had where it was backed up."""
        staged = {one.id: identity for identity, one in self._staged.all().items()}
        return staged[str(collection.catalog["id"])]

    def apply(self, changes: Iterable[Change], selection: Selection) -> int:
        """Apply changes of the journal in order: see `apply`."""
        return Applying(self._server, self._staged, selection).run(changes)

    def seal(self) -> None:
        """A server keeps what it has answered to."""

    def source(self) -> ServerSource:
        """The staged collections, called as they will be."""
        tenant = self._place.tenant
        return ServerSource(self._place, {one.id: Address(tenant, one.database, one.wanted) for one in self._staged.all().values()})

    def publish(self, receipt: bytes, *, overwrite: bool) -> None:
        """Rename each into its place: see `cutover`. Raises Refused if something is in the way."""
        cut_over = CutOver(self._server, self._staged, self.directory / "publishing")
        cut_over.run(overwrite=overwrite)
        write_durably(self._notes / RECEIPT, receipt)
        cut_over.remove_replaced()
        self.discard()

    def discard(self) -> None:
        """Remove what is staged."""
        self._staged.clear()
        self._entries.discard()
        self.close()

    def close(self) -> None:
        """Let go of the stage; it stays for a later run."""
        self._entries.close()
        self._server.close()
