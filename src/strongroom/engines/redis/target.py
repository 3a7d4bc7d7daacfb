"""How is a state built in a Redis database and put in its place?

Keys are staged in the same database under `strongroom:TOKEN:k:`, indexes over them under `strongroom:TOKEN:i:`; one transaction
renames all of them, so that users see the old state or the new one. What a run has done is noted in a directory of this machine.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
from blake3 import blake3

from strongroom.engines.conversions import Becoming, Loaded, Ways, of_payloads, table
from strongroom.engines.redis.definitions import definition_for, read_definitions
from strongroom.engines.redis.loading import rows_in
from strongroom.engines.redis.names import RECEIPT, raw_of
from strongroom.engines.redis.rows import hash_fields, hash_row
from strongroom.engines.redis.server import Address, client_of, speaking
from strongroom.engines.redis.stage import RedisStage
from strongroom.model import Collection, Conversion, Fidelity, Field, Selection
from strongroom.repository.state import state_directory

_DTYPES = ("float32", "float16", "bfloat16")


class RedisTarget:
    """A database of a server, to be written."""

    holds_one = False

    def __init__(self, address: Address) -> None:
        self._address = address

    def occupied(self, collections: Sequence[str]) -> Sequence[str]:
        """Indexes and keys of these names. Other keys that are in the way are found before the cut-over."""
        client = client_of(self._address)
        try:
            with speaking(self._address):
                there = {one.name for one in read_definitions(client).indexes} if not self._address.database else set()
                return [name for name in collections if name in there or client.exists(raw_of(name))]
        finally:
            client.close()

    def receipt(self) -> bytes | None:
        client = client_of(self._address)
        try:
            with speaking(self._address):
                found: bytes | None = client.get(RECEIPT)
                return found
        finally:
            client.close()

    def objections(self, collection: Collection, schema: pa.Schema) -> Sequence[str]:
        """RediSearch has no integer vectors but in database 0, and no index elsewhere."""
        found = [f"Redis has no index over {one.dtype} vectors" for one in collection.fields if one.dtype not in _DTYPES]
        if collection.catalog.get("kind") != "vector set" and self._address.database:
            found.append("RediSearch has indexes in database 0 only")
        if not collection.fields:
            found.append("it has no vector field")
        return found

    def losses(self, collection: Collection, schema: pa.Schema) -> Sequence[str]:
        kind = collection.catalog.get("kind")
        if kind == "vector set":
            return ["keys of no collection are not restored"]
        found = []
        if kind == "hash":
            found.append("single fields of a hash that would expire (HEXPIRE) stay")
        if kind == "json":
            found.append("numbers of vectors in JSON documents become float32")
        if kind is None:
            found.append(f"rows become hashes with keys that begin with '{collection.name}:'")
        return [*found, "keys of no collection are not restored"]

    def conversions(self, collection: Collection, schema: pa.Schema) -> Sequence[Conversion]:
        own = collection.catalog.get("kind") is not None
        definition = definition_for(collection, f"{collection.name}:")
        there = {one.name: one.field() for one in definition.vectors} if not own else {one.name: one for one in collection.fields}

        def load(batch: pa.RecordBatch) -> Loaded:
            rows = list(rows_in(batch, collection))
            hashes = [hash_row(hash_fields(row, definition.vectors), definition.vectors) for row in rows]
            return of_payloads(batch, [row.id for row in rows], [payload for _, payload in hashes])

        def vector(field: Field) -> Becoming:
            its = there[field.name]
            return Becoming(its.dtype, its.metric, str(its.index.get("kind", "HNSW")))

        return table(collection, schema, Ways(load, vector, self.fidelity(collection), gaps=True, own=own))

    def fidelity(self, collection: Collection) -> Fidelity:
        """A vector set keeps directions and lengths apart, and codes."""
        if collection.catalog.get("kind") != "vector set":
            return Fidelity.KEPT
        return Fidelity.NORMALIZED if collection.fields[0].index.get("quantization") == "f32" else Fidelity.CODED

    def stage(self, token: str, selection: Selection) -> RedisStage:
        """Open or re-open the stage of `token`. Raises Locked, Unreachable, or Refused where users would see what is staged."""
        base = state_directory() / "redis" / blake3(self._address.url.encode()).hexdigest()[:16]
        return RedisStage(self._address, base, token, selection)
