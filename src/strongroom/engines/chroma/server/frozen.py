"""A Chroma server at one moment, as a backup sees it: rows in files of this machine, answers from the live index."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from strongroom.engines import stopwatch
from strongroom.engines.chroma.catalog import Address
from strongroom.engines.chroma.client import exact
from strongroom.engines.chroma.server import listing
from strongroom.engines.chroma.server.captured import log_of
from strongroom.engines.chroma.server.connection import Server
from strongroom.engines.chroma.server.listing import Listed
from strongroom.engines.chroma.server.logged import Marked, Unsettled, read_marked
from strongroom.engines.chroma.server.moment import Moment, Rows, read_moment, read_once
from strongroom.engines.chroma.server.place import Place
from strongroom.engines.oplog.calls import end_of
from strongroom.engines.oplog.feed import following, release
from strongroom.engines.oplog.folder import OplogFolder
from strongroom.engines.oplog.layout import KIND as OPLOG
from strongroom.engines.oplog.rows import changes_of
from strongroom.engines.protocol import Artifact, Feed
from strongroom.errors import EngineFailed, Gap, NotFound, Unreadable, WrongRequest
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
        with tempfile.TemporaryDirectory(prefix="strongroom-moment-") as place, Server(self._place, Unreadable) as server:
            folder = Path(place)
            marked = self._marked(server, folder, progress) if self._staged is None and self._place.database else None
            moment = marked.moment if marked else read_moment(server, self._chosen(server), folder / "read", progress)
            yield FrozenServer(self._place, moment, marked.mark if marked else None)

    def feed(self, holder: str, batch_key: str | None) -> AbstractContextManager[Feed]:
        """What the capture of a client recorded. Raises NotFound if there is none, WrongRequest if the URL names no database."""
        folder = self._log()
        return following(folder, holder, changes_of, lambda log: end_of(folder, log).place)

    def release(self, holder: str) -> bool:
        """Hold the log of the capture back no more for `holder`."""
        return release(self._log(), holder)

    def _log(self) -> OplogFolder:
        if not self._place.database:
            raise WrongRequest(
                f"{self._place.shown} is no database: a capture is that of one",
                hint="write chroma+http://host:port/tenant/database, as it was captured",
            )
        return log_of(self._place)

    def _marked(self, server: Server, folder: Path, progress: Progress) -> Marked | None:
        """The moment by the log of a capture; None if there is none, or none that can be trusted yet."""
        oplog = log_of(self._place)
        log = oplog.log_id() if oplog.exists() else None
        if log is None:
            return None
        (folder / "once").mkdir()
        with suppress(Unsettled, Gap):
            return read_marked(oplog, log, lambda attempt: read_once(server, None, folder / "once", attempt, progress))
        return None

    def _chosen(self, server: Server) -> list[Listed] | None:
        if self._staged is None:
            return None
        found = [(self._staged[str(one["id"])], one) for one in listing.every(server) if str(one["id"]) in self._staged]
        return sorted((Listed(self._place.named(address), one) for address, one in found), key=lambda one: one.name)


class FrozenServer:
    """See `protocol.Frozen`."""

    rows_in_artifacts = False
    search_disturbs = False

    def __init__(self, place: Place, moment: Moment, mark: str | None = None) -> None:
        self._place = place
        self._rows: dict[str, Rows] = {one.listed.name: one for one in moment.rows}
        found = tuple(one.listed.collection(one.count) for one in moment.rows)
        self.description = Description(
            engine="chroma+http",
            engine_version=moment.version,
            collections=found,
            catalog={"tenant": place.tenant, "databases": list(moment.databases)},
            ledger=tuple(listing.ledger(found, moment.readings, moment.left, logged=mark is not None)),
        )
        self.position = Position(KIND, moment.print()) if mark is None else Position(OPLOG, mark)

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
            asked = list(np.ascontiguousarray(queries, np.float32)) if stopwatch.is_timing() else []
            stopwatch.again(lambda one: server.ask("POST", *where, query_embeddings=one, n_results=k, include=["distances"]), asked)
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
