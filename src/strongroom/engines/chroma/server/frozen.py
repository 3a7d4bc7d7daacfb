"""A Chroma server at one moment, as a backup sees it: rows in files of this machine, answers from the live index."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from strongroom.engines.chroma.catalog import Address
from strongroom.engines.chroma.client import exact
from strongroom.engines.chroma.server import listing
from strongroom.engines.chroma.server.connection import Server
from strongroom.engines.chroma.server.listing import Listed
from strongroom.engines.chroma.server.moment import Moment, Rows, read_moment
from strongroom.engines.chroma.server.place import Place
from strongroom.engines.protocol import Artifact
from strongroom.errors import EngineFailed, NotFound, Unreadable
from strongroom.model import Answers, Description, Position, RowBlock
from strongroom.progress import Progress

KIND = "chroma-print"
_QUERIES_AT_ONCE = 64


class ServerSource:
    """A tenant of a server, or one of its databases, to be read. `staged` are the ids of the collections that count, if not all do,
    and where each will lie."""

    def __init__(self, place: Place, staged: Mapping[str, Address] | None = None) -> None:
        self._place = place
        self._staged = staged

    def unchanged_since(self, position: Position, moment: float) -> bool:
        """Only reading it can tell."""
        return False

    @contextmanager
    def freeze(self, progress: Progress) -> Iterator[FrozenServer]:
        """All rows, read until they were the same twice. Raises Unreachable, NotFound, Refused, Unreadable or SourceChanged."""
        with tempfile.TemporaryDirectory(prefix="strongroom-moment-") as folder, Server(self._place, Unreadable) as server:
            yield FrozenServer(self._place, read_moment(server, self._chosen(server), Path(folder), progress))

    def _chosen(self, server: Server) -> list[Listed] | None:
        if self._staged is None:
            return None
        found = [(self._staged[str(one["id"])], one) for one in listing.every(server) if str(one["id"]) in self._staged]
        return sorted((Listed(self._place.named(address), one) for address, one in found), key=lambda one: one.name)


class FrozenServer:
    """See `protocol.Frozen`."""

    rows_in_artifacts = False
    search_disturbs = False

    def __init__(self, place: Place, moment: Moment) -> None:
        self._place = place
        self._rows: dict[str, Rows] = {one.listed.name: one for one in moment.rows}
        found = tuple(one.listed.collection(one.count) for one in moment.rows)
        self.description = Description(
            engine="chroma+http",
            engine_version=moment.version,
            collections=found,
            catalog={"tenant": place.tenant, "databases": list(moment.databases)},
            ledger=tuple(listing.ledger(found, moment.readings)),
        )
        self.position = Position(KIND, moment.print())

    def rows(self, collection: str) -> Iterator[RowBlock]:
        """In the order in which the server has them."""
        for batch in self._of(collection).batches():
            yield RowBlock(batch)

    def artifacts(self) -> Sequence[Artifact]:
        """A server gives its files to nobody."""
        return ()

    def search(self, collection: str, field: str, queries: npt.NDArray[np.float32], k: int) -> Answers:
        """What the live index answers, which may have gone on."""
        listed = self._of(collection).listed
        ids: list[tuple[str, ...]] = []
        distances: list[npt.NDArray[np.floating]] = []
        with Server(self._place, EngineFailed) as server:
            where = server.collections(listed.database, listed.id, "query")
            for start in range(0, len(queries), _QUERIES_AT_ONCE):
                some = list(np.ascontiguousarray(queries[start : start + _QUERIES_AT_ONCE], np.float32))
                answer = server.ask("POST", *where, query_embeddings=some, n_results=k, include=["distances"])
                ids += map(tuple, answer["ids"])
                distances += map(exact, answer["distances"])
        return Answers(tuple(ids), tuple(distances))

    def unchanged_since(self, position: Position, moment: float) -> bool:
        """The same rows and catalog were read."""
        return position == self.position

    def repeatable(self, collection: str) -> bool:
        """An index that is built again has other links."""
        return False

    def check(self) -> None:
        """What was read lies in files of ours."""

    def _of(self, collection: str) -> Rows:
        if collection not in self._rows:
            raise NotFound(f"there is no collection {collection!r}", hint=f"there are: {', '.join(self._rows)}")
        return self._rows[collection]
