"""How do rows get into a collection of a server?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa

from strongroom.engines.chroma.server.bodies import body_of
from strongroom.engines.chroma.server.connection import Server
from strongroom.model import Json

_MOST_BYTES = 8 << 20
"""Of one request. Servers refuse more than 40 MB of JSON."""


class Loading:
    """Writes to one collection."""

    def __init__(self, server: Server, database: str, identity: str) -> None:
        self._server = server
        self._where = server.collections(database, identity)
        said = server.ask("GET", "pre-flight-checks")
        self._most = int(said.get("max_batch_size") or 1000)
        self._coded = bool(said.get("supports_base64_encoding"))

    def add(self, batch: pa.RecordBatch) -> int:
        """Add rows whose ids aren't there; gives how many they are."""
        for some in self._pieces(batch):
            body = body_of(some, coded=self._coded)
            self._server.ask("POST", *self._where, "add", **body)
            self._take_away_leftovers(body["ids"], body.get("metadatas") or [None] * some.num_rows)
        return int(batch.num_rows)

    def _take_away_leftovers(self, ids: Sequence[str], given: Sequence[Mapping[str, Json] | None]) -> None:
        """Chroma 1.5 keeps lists in the metadata of collections that were deleted, and gives them to new rows."""
        found = self._server.ask("POST", *self._where, "get", ids=ids, include=["metadatas"])
        wanted = {one: set(metadata or ()) for one, metadata in zip(ids, given, strict=True)}
        odd = {one: set(has or ()) - wanted[one] for one, has in zip(found["ids"], found["metadatas"] or (), strict=True)}
        odd = {one: keys for one, keys in odd.items() if keys}
        if odd:
            nulls = [dict.fromkeys(keys) for keys in odd.values()]
            self._server.ask("POST", *self._where, "update", ids=list(odd), metadatas=nulls)

    def delete(self, ids: list[str]) -> None:
        for start in range(0, len(ids), self._most):
            self._server.ask("POST", *self._where, "delete", ids=ids[start : start + self._most])

    def count(self) -> int:
        return int(self._server.ask("GET", *self._where, "count"))

    def _pieces(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        """Parts of a batch that go into one request each."""
        each = max(1, batch.nbytes // max(1, batch.num_rows))
        step = max(1, min(self._most, _MOST_BYTES // each))
        for start in range(0, batch.num_rows, step):
            yield batch.slice(start, step)
