"""How are changes of the journal applied to staged keys? By the commands that make them, in order."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from strongroom.engines.changes import ACT, Act, CatalogChange, Change, RowChanges
from strongroom.engines.redis.definitions import Definition, read_definitions
from strongroom.engines.redis.frozen import wait_until_indexed
from strongroom.engines.redis.loading import keys_of, note_expiry, put_element, put_key, rows_in
from strongroom.engines.redis.names import Names, raw_of
from strongroom.engines.redis.rows import EXPIRES, Row, hash_fields
from strongroom.errors import EngineFailed
from strongroom.model import Collection, Selection

_TOGETHER = 500


class Applying:
    """Changes, on their way into staged keys."""

    def __init__(self, client: Any, names: Names, selection: Selection) -> None:
        self._client, self._names, self._selection = client, names, selection
        self._indexes = {one.name: one for one in read_definitions(client, names).indexes}
        self._sets: dict[str, Collection] = {}

    def run(self, changes: Iterable[Change]) -> int:
        """Apply all in order; gives the number of operations."""
        count = 0
        for change in changes:
            if isinstance(change, CatalogChange):
                self._change_catalog(change)
                count += 1
            elif self._selection.wants(change.identity):
                self._change_rows(change)
                count += len(change)
        for name in self._indexes:
            wait_until_indexed(self._client, self._names.indexes + raw_of(name))
        return count

    def _change_catalog(self, change: CatalogChange) -> None:
        for name, one in change.present.items():
            if one.catalog.get("kind") == "vector set":
                self._sets[name] = one
        if change.whole and not change.present:
            self._empty()
        elif not change.whole:
            for name in change.gone:
                if self._selection.wants(name):
                    self._drop(self._selection.target_name(name))

    def _empty(self) -> None:
        for name in list(self._indexes):
            self._drop(name)
        for key in keys_of(self._client, self._names.keys):
            self._client.unlink(key)
        self._client.delete(self._names.expiry)

    def _drop(self, name: str) -> None:
        if name in self._indexes:
            self._client.execute_command("FT.DROPINDEX", self._names.indexes + raw_of(name))
            del self._indexes[name]
        elif self._client.type(self._names.keys + raw_of(name)) == b"vectorset":
            self._client.unlink(self._names.keys + raw_of(name))

    def _change_rows(self, change: RowChanges) -> None:
        name = self._selection.target_name(change.identity)
        definition = self._indexes.get(name)
        collection = definition.collection(0) if definition else self._sets.get(change.identity) or self._set_of(name)
        acts = change.batch.column(ACT).to_pylist()
        rows = rows_in(change.batch.select(change.batch.schema.names[4:]), collection)
        pipeline = self._client.pipeline(transaction=False)
        for number, (act, row) in enumerate(zip(acts, rows, strict=True), 1):
            if definition is None:
                self._element(pipeline, raw_of(name), collection, Act(act), row)
            else:
                self._key(pipeline, definition, Act(act), row)
            if number % _TOGETHER == 0:
                pipeline.execute()
        pipeline.execute()

    def _set_of(self, name: str) -> Collection:
        """A vector set that came with the snapshot."""
        from strongroom.engines.redis.reading import collection_of

        found = collection_of(name, self._client.execute_command("VINFO", self._names.keys + raw_of(name)))
        if found is None:
            raise EngineFailed(f"{name}: the journal changes rows of a collection that isn't there")
        self._sets[name] = found
        return found

    def _element(self, pipeline: Any, key: bytes, collection: Collection, act: Act, row: Row) -> None:
        if act is Act.DELETE:
            pipeline.execute_command("VREM", self._names.keys + key, raw_of(row.id))
        else:
            put_element(pipeline, self._names.keys + key, collection, row)

    def _key(self, pipeline: Any, definition: Definition, act: Act, row: Row) -> None:
        key = definition.key_of(row.id)
        if act is Act.PUT:
            put_key(pipeline, self._names, definition, row)
        elif act is Act.DELETE:
            pipeline.unlink(self._names.keys + key)
            pipeline.hdel(self._names.expiry, key)
        else:
            self._merge(pipeline, definition, act, row)

    def _merge(self, pipeline: Any, definition: Definition, act: Act, row: Row) -> None:
        """Set the fields that are named, remove those that are null."""
        key = definition.key_of(row.id)
        if act is Act.UPDATE:
            pipeline.execute()
            if not self._client.exists(self._names.keys + key):
                return
        sources = {one.source for one in definition.vectors}
        given = {name: value for name, value in row.payload.items() if value is not None and name != EXPIRES}
        fields = hash_fields(Row(row.id, row.vectors, given), definition.vectors)
        gone = [raw_of(name) for name, value in row.payload.items() if value is None and name not in {EXPIRES, *sources}]
        if fields:
            pipeline.hset(self._names.keys + key, mapping=fields)
        if gone:
            pipeline.hdel(self._names.keys + key, *gone)
        if EXPIRES in row.payload:
            note_expiry(pipeline, self._names, key, row.payload)
