"""A Milvus server at one moment, as a backup sees it: rows in files of this machine, answers from the live index."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from strongroom.engines.milvus import listing
from strongroom.engines.milvus.connection import Server
from strongroom.engines.milvus.listing import Listed
from strongroom.engines.milvus.moment import Moment, read_moment
from strongroom.engines.milvus.place import Place
from strongroom.engines.milvus.reading import Rows
from strongroom.engines.milvus.search import nearest
from strongroom.engines.protocol import Artifact
from strongroom.errors import EngineFailed, NotFound, Unreadable
from strongroom.model import Answers, Description, Position, RowBlock
from strongroom.progress import Progress

KIND = "milvus-print"


class ServerSource:
    """A server, or one of its databases, to be read. `staged` are the server's numbers of the collections that count, if not all
    do, and what each will be called."""

    def __init__(self, place: Place, staged: Mapping[int, str] | None = None) -> None:
        self._place = place
        self._staged = staged

    def unchanged_since(self, position: Position, moment: float) -> bool:
        """Only reading it can tell."""
        return False

    @contextmanager
    def freeze(self, progress: Progress) -> Iterator[FrozenServer]:
        """All rows, read until they were the same twice. Raises Unreachable, NotFound, Refused, Unreadable or SourceChanged."""
        with tempfile.TemporaryDirectory(prefix="strongroom-moment-") as place, Server(self._place, Unreadable) as server:
            moment = read_moment(server, self._chosen(server), Path(place) / "read", progress)
            yield FrozenServer(self._place, moment)

    def _chosen(self, server: Server) -> list[Listed] | None:
        if self._staged is None:
            return None
        found = []
        for database in listing.databases(server):
            for own in listing.names(server, database):
                name = self._staged.get(listing.identity(server, database, own) or -1)
                if name is not None:
                    found.append(listing.describe(server, database, own, name))
        return sorted(found, key=lambda one: one.name)


class FrozenServer:
    """See `protocol.Frozen`."""

    rows_in_artifacts = False
    search_disturbs = False

    def __init__(self, place: Place, moment: Moment) -> None:
        self._place = place
        self._rows: dict[str, Rows] = {one.listed.name: one for one in moment.rows}
        self.description = described("milvus", moment, moment.how, files=False)
        self.position = Position(KIND, moment.print())

    def rows(self, collection: str) -> Iterator[RowBlock]:
        """By partition, then by key."""
        for batch in self._of(collection).batches():
            yield RowBlock(batch)

    def artifacts(self) -> Sequence[Artifact]:
        """A server gives its files to nobody."""
        return ()

    def search(self, collection: str, field: str, queries: npt.NDArray[np.float32], k: int) -> Answers:
        """What the live index answers, which may have gone on."""
        with Server(self._place, EngineFailed) as server:
            return nearest(server, self._of(collection).listed, field, queries, k)

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


def described(engine: str, moment: Moment, how: str, *, files: bool) -> Description:
    """What was read, as a snapshot describes it."""
    found = [(one.listed, one.hidden) for one in moment.rows]
    access = {"users": list(moment.access.users), "roles": dict(moment.access.roles)} if moment.access.users is not None else {}
    return Description(
        engine=engine,
        engine_version=moment.version,
        collections=tuple(one.listed.collection(one.count) for one in moment.rows),
        catalog={"databases": moment.databases, **access},
        ledger=tuple(listing.ledger(found, how, moment.left, moment.access, files=files)),
    )
