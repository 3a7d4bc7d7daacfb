"""How is a state built on a Milvus server and put in its place?

strongroom_<token>_<n>              collections being built, in the database where they belong
strongroom_replaced_<token>_<n>     those that they replace, until all are in place
<notes>/.strongroom-<token>/        (on this machine) staged.json: which collection is which; publishing: what is renamed
<notes>/receipt.json                what the last restore from this machine was
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from strongroom.engines.milvus import listing
from strongroom.engines.milvus.connection import Server
from strongroom.engines.milvus.creation import offer_of
from strongroom.engines.milvus.cutover import CutOver
from strongroom.engines.milvus.frozen import ServerSource
from strongroom.engines.milvus.loading import Loading
from strongroom.engines.milvus.place import Place
from strongroom.engines.milvus.reading import wait_until_loaded
from strongroom.engines.milvus.staged import StagedCollections
from strongroom.engines.staging import StagedEntries, write_durably
from strongroom.errors import Damaged, EngineFailed
from strongroom.model import Collection, Description, Selection

RECEIPT = "receipt.json"


class ServerStage:
    """See `protocol.Stage`."""

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
        """Make the collection anew, add the rows, build its indexes and load it. Raises EngineFailed if the server refuses."""
        database, own = self._staged.fresh(collection)
        Loading(self._server, database, own, offer_of(listing.version_of(self._server))).run(collection, batches)
        self._staged.note(collection.name, database, own, collection)

    def seal(self) -> None:
        """A server keeps what it has answered to; all collections with an index are loaded, at once."""
        for name, one in self._staged.all().items():
            wait_until_loaded(self._server, listing.describe(self._server, one.database, one.own, name))

    def source(self) -> ServerSource:
        """The staged collections, called as they will be."""
        return ServerSource(self._place, {one.id: name for name, one in self._staged.all().items()})

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
