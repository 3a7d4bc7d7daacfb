"""What does a server hold of that which a call may have touched? And did others change it meanwhile?

An intent is {"rows": id of the collection, "ids": [...]}, or {"catalog": true}: any collection may be made, changed or dropped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

import pyarrow as pa

from strongroom.engines.changes import OWN_COLUMNS, Act
from strongroom.engines.chroma.rows import schema_of
from strongroom.engines.chroma.server import listing
from strongroom.engines.chroma.server.bodies import INCLUDED, batch_of
from strongroom.engines.chroma.server.connection import Server
from strongroom.engines.chroma.server.listing import Listed
from strongroom.engines.oplog.calls import Outcome
from strongroom.engines.oplog.client import Strayed
from strongroom.errors import NotFound
from strongroom.model import Json

_TOGETHER = 1024
_CHECK_SECONDS = 1.0
"""So often the number of rows is asked for before a call, to see whether others write."""


class ReadingBack:
    """The adapter of a Chroma server, for one database: see `oplog.client.Adapter`."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._catalog: dict[str, Listed] | None = None
        self._said = ""
        """What the log was told of the collections; '' if nothing since this was made."""
        self._seen = ""
        """How the collections were when they were looked at last."""
        self._looked = 0.0
        self._counts: dict[str, int] = {}
        """Of collections that were looked at: how many rows they must have."""
        self._there: int | None = None
        """How many of the rows of the call under way there were before it."""
        self._checked: dict[str, float] = {}

    def before(self, intent: Json) -> None:
        self._there = None
        if "rows" not in intent or time.monotonic() - self._looked >= _CHECK_SECONDS:
            self._check_catalog()
        if "rows" not in intent:
            return
        identity = intent["rows"]
        try:
            self._check(identity)
            where = self._where(identity)
            self._there = sum(len(one["ids"]) for some in _pieces(intent["ids"]) for one in self._server.rows(where, some, []))
        except NotFound:  # the call will say so
            return

    def read_back(self, intent: Json, outcome: Outcome) -> None:
        there, self._there = self._there, None
        if "rows" not in intent:
            self._tell_catalog(outcome)
            return
        identity = intent["rows"]
        try:
            listed = self._listed(identity)
            if not listed.dimension:
                self._tell_catalog(outcome)
                listed = self._listed(identity)
            left = self._tell_rows(listed, intent["ids"], outcome) if listed.dimension else 0
        except NotFound as error:
            raise Strayed(f"collection {identity} was dropped past its capture") from error
        if there is None or identity not in self._counts:
            self._counts.pop(identity, None)
        else:
            self._counts[identity] += left - there

    def heard(self, error: Exception) -> bool:
        """Errors of chromadb's own are the server's answers, or made before it was asked; all others are the connection's."""
        return isinstance(error, ValueError | TypeError) or type(error).__module__.startswith("chromadb.")

    def known(self) -> Json:
        """The collections, and of each the number of rows."""
        return {one.id: [self._shown(one), self._count(one.id)] for one in listing.collections(self._server)}

    def compare(self, known: Json) -> None:
        present = self.known()
        if present != known:
            odd = sorted(one for one in {*present, *known} if present.get(one) != known.get(one))
            names = {one.id: one.name for one in listing.collections(self._server)}
            raise Strayed(f"it was changed while nobody captured it: {', '.join(names.get(one, one) for one in odd[:5])}")

    def close(self) -> None:
        self._server.close()

    def _check_catalog(self) -> None:
        """Raises Strayed if collections were made, changed or dropped since they were looked at."""
        before, self._seen = self._seen, self._told(listing.collections(self._server))
        self._looked = time.monotonic()
        if before not in ("", self._seen):
            self._catalog, self._said, self._counts = None, "", {}
            raise Strayed("others make, change or drop collections past its capture")

    def _check(self, identity: str) -> None:
        """Raises Strayed if there are more or fewer rows than there should be."""
        counted = self._counts.get(identity)
        if counted is not None and time.monotonic() - self._checked[identity] < _CHECK_SECONDS:
            return
        present = self._count(identity)
        self._checked[identity] = time.monotonic()
        self._counts[identity] = present
        if counted not in (None, present):
            raise Strayed(f"others write past its capture: {present:,} rows in collection {identity}, not {counted:,}")

    def _count(self, identity: str) -> int:
        return int(self._server.ask("GET", *self._where(identity), "count"))

    def _where(self, identity: str) -> tuple[str, ...]:
        return self._server.collections(self._server.place.home, identity)

    def _listed(self, identity: str) -> Listed:
        """Raises NotFound if there is no such collection any more."""
        if self._catalog is None or identity not in self._catalog:
            self._catalog = {one.id: one for one in listing.collections(self._server)}
        if identity not in self._catalog:
            raise NotFound(f"there is no collection {identity}")
        return self._catalog[identity]

    def _tell_catalog(self, outcome: Outcome) -> None:
        """All collections, if they aren't what they were."""
        found = {one.id: one for one in listing.collections(self._server)}
        said = self._seen = self._told(list(found.values()))
        self._catalog = found
        if said != self._said:
            outcome.catalog({identity: one.collection(0) for identity, one in found.items()}, whole=True)
            self._said = said
        self._counts = {identity: count for identity, count in self._counts.items() if identity in found}

    def _told(self, found: Sequence[Listed]) -> str:
        return json.dumps([[one.id, *self._shown(one)] for one in found], sort_keys=True)

    def _shown(self, one: Listed) -> list[Json]:
        """What of a collection its users decide: Chroma itself adds to a schema the keys that it meets."""
        return [one.name, one.dimension, one.raw.get("metadata"), one.raw.get("configuration_json")]

    def _tell_rows(self, listed: Listed, ids: Sequence[str], outcome: Outcome) -> int:
        """What there is of these rows now; gives how many there are."""
        left = 0
        for some in _pieces(list(dict.fromkeys(ids))):
            present = set[str]()
            for answer in self._server.rows(self._where(listed.id), some, INCLUDED):
                found = batch_of(answer, listed.dimension)
                present.update(found.column("id").to_pylist())
                outcome.rows(listed.name, listed.id, _acted(Act.PUT, found))
            gone = [one for one in some if one not in present]
            if gone:
                outcome.rows(listed.name, listed.id, _acted(Act.DELETE, _nothing_of(gone, listed.dimension)))
            left += len(present)
        return left


def _pieces(ids: Sequence[str]) -> list[Sequence[str]]:
    return [ids[start : start + _TOGETHER] for start in range(0, len(ids), _TOGETHER)]


def _acted(act: Act, rows: pa.RecordBatch) -> pa.RecordBatch:
    acts = pa.array([int(act)] * rows.num_rows, pa.int8())
    schema = pa.schema([OWN_COLUMNS[0], *(field.with_nullable(True) for field in rows.schema)])
    return pa.record_batch([acts, *rows.columns], schema=schema)


def _nothing_of(ids: Sequence[str], dimension: int) -> pa.RecordBatch:
    """Rows that are gone: their ids alone."""
    schema = pa.schema([field.with_nullable(True) for field in schema_of(dimension)])
    nulls = [pa.nulls(len(ids), field.type) for field in list(schema)[1:]]
    return pa.record_batch([pa.array(ids, pa.utf8()), *nulls], schema=schema)
