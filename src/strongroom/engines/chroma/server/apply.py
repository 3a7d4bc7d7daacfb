"""How are changes of the journal applied to the staged collections of a server? They say of whole rows what became of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa

from strongroom.engines.changes import ACT, OWN_COLUMNS, Act, CatalogChange, Change, RowChanges
from strongroom.engines.chroma.server.connection import Server
from strongroom.engines.chroma.server.loading import Loading
from strongroom.engines.chroma.server.staged import StagedCollections
from strongroom.errors import EngineFailed
from strongroom.model import Collection, Selection

_TUNED = ("ef_search", "num_threads", "batch_size", "sync_threshold", "resize_factor")
"""What of an index can be configured later."""


class Applying:
    """Applies changes to what is staged."""

    def __init__(self, server: Server, staged: StagedCollections, selection: Selection) -> None:
        self._server = server
        self._staged = staged
        self._selection = selection
        self._loading: dict[str, Loading] = {}

    def run(self, changes: Iterable[Change]) -> int:
        """Gives the number of operations. Raises EngineFailed."""
        count = 0
        for change in changes:
            if isinstance(change, CatalogChange):
                self._change_catalog(change)
                count += 1
            elif change.identity in self._staged.all():
                self._change_rows(change)
                count += len(change)
        return count

    def _change_rows(self, change: RowChanges) -> None:
        staged = self._staged.all()[change.identity]
        loading = self._loading.get(staged.id) or self._loading.setdefault(
            staged.id, Loading(self._server, staged.database, staged.id)
        )
        own = {field.name for field in OWN_COLUMNS}
        for act, run in _runs(change.batch):
            if act not in (Act.PUT, Act.DELETE):
                raise EngineFailed(f"a server's journal has no operation {act}")
            loading.delete(run.column("id").to_pylist())
            if act is Act.PUT:
                loading.add(run.select([name for name in run.schema.names if name not in own]))

    def _change_catalog(self, change: CatalogChange) -> None:
        present = self._staged.all()
        doomed = present.keys() - change.present.keys() if change.whole else present.keys() & set(change.gone)
        for identity in sorted(doomed):
            self._loading.pop(present[identity].id, None)
            self._staged.drop(identity)
        for identity, collection in change.present.items():
            if identity not in present and not self._selection.wants(collection.name):
                continue
            address = self._server.place.address(self._selection.target_name(collection.name))
            if identity not in present:
                self._staged.make(identity, address, collection)
                continue
            self._staged.rename(identity, address.name)
            self._configure(present[identity].database, present[identity].id, collection)

    def _configure(self, database: str, staged: str, collection: Collection) -> None:
        where = self._server.collections(database, staged)
        metadata = collection.catalog.get("metadata")
        if metadata:  # a server doesn't take metadata away
            self._server.ask("PUT", *where, new_metadata=dict(metadata))
        tuned = {key: value for key, value in collection.fields[0].index.items() if key in _TUNED}
        if tuned:
            self._server.ask("PUT", *where, new_configuration={"hnsw": tuned})


def _runs(batch: pa.RecordBatch) -> Iterator[tuple[Act, pa.RecordBatch]]:
    """Operations of one kind on rows of other ids each."""
    acts, ids = batch.column(ACT).to_pylist(), batch.column("id").to_pylist()
    start, seen = 0, set[str]()
    for row in range(batch.num_rows + 1):
        if row == batch.num_rows or acts[row] != acts[start] or ids[row] in seen:
            if row > start:
                yield Act(acts[start]), batch.slice(start, row - start)
            start, seen = row, set()
        if row < batch.num_rows:
            seen.add(ids[row])
