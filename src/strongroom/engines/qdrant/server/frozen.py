"""A Qdrant server at one moment, as a backup sees it: points in files of this machine, answers from the live index."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from strongroom.engines import stopwatch
from strongroom.engines.protocol import Artifact
from strongroom.engines.qdrant.conversion import ORIGINAL_ID, row_id
from strongroom.engines.qdrant.server.connection import Server, connected, require_folder
from strongroom.engines.qdrant.server.definitions import Listing, described
from strongroom.engines.qdrant.server.ledger import ledger
from strongroom.engines.qdrant.server.moment import Moment, Rows, read_moment, read_once
from strongroom.engines.qdrant.server.native import KeptFile, NativeSnapshots
from strongroom.engines.qdrant.server.place import Place
from strongroom.errors import EngineFailed, NotFound, Unreadable
from strongroom.model import Answers, Description, Position, RowBlock
from strongroom.progress import Progress

KIND = "qdrant-print"
_QUERIES_AT_ONCE = 64


class QdrantSource:
    """A server, or a folder, to be read. `staged` are the collections that count, by the names that they shall have, if not all
    do."""

    def __init__(self, place: Place, staged: Mapping[str, str] | None = None) -> None:
        self._place = place
        self._staged = staged

    def unchanged_since(self, position: Position, moment: float) -> bool:
        """Only reading it can tell."""
        return False

    @contextmanager
    def freeze(self, progress: Progress) -> Iterator[FrozenQdrant]:
        """All points, read until they were the same twice. Raises Unreachable, NotFound, Refused, Unreadable, Locked or
        SourceChanged."""
        require_folder(self._place)
        with tempfile.TemporaryDirectory(prefix="strongroom-moment-") as place, ExitStack() as leaving:
            native = None
            if self._place.snapshots and self._staged is None:
                native = NativeSnapshots(self._place, Path(place) / "native")
                leaving.callback(native.close)
            with connected(self._place, Unreadable) as server:
                moment = self._read(server, Path(place) / "read", progress, native)
            yield FrozenQdrant(self._place, moment, native.files if native else ())

    def _read(self, server: Server, folder: Path, progress: Progress, native: NativeSnapshots | None) -> Moment:
        narrow = not self._place.folder
        if self._staged is None:
            return read_moment(server, folder, progress, narrow=narrow, between=native.take if native else None)
        found = [described(server, name, actual, (), narrow=narrow) for name, actual in sorted(self._staged.items())]
        return read_once(server, Listing(tuple(found), ()), folder, progress)


class FrozenQdrant:
    """See `protocol.Frozen`."""

    rows_in_artifacts = False
    search_disturbs = False

    def __init__(self, place: Place, moment: Moment, files: Sequence[KeptFile]) -> None:
        self._place = place
        self._rows: dict[str, Rows] = {one.listed.name: one for one in moment.rows}
        self._files = tuple(files)
        found = tuple(one.listed.collection(one.count) for one in moment.rows)
        engine = "qdrant-local" if place.folder else "qdrant"
        self.description = Description(engine, moment.version, found, {}, tuple(ledger(place, moment, found)))
        self.position = Position(KIND, f"{moment.print()}+{len(place.nodes)}" if place.snapshots else moment.print())

    def rows(self, collection: str) -> Iterator[RowBlock]:
        """Points by ascending id."""
        for batch in self._of(collection).batches():
            yield RowBlock(batch)

    def artifacts(self) -> Sequence[Artifact]:
        """The server's own snapshots, if they were asked for."""
        return self._files

    def search(self, collection: str, field: str, queries: npt.NDArray[np.float32], k: int) -> Answers:
        """What the live index answers, which may have gone on."""
        listed = self._of(collection).listed
        name = next(one.name for one in listed.shape.vectors if one.column == field)
        ids: list[tuple[str, ...]] = []
        scores: list[npt.NDArray[np.floating]] = []
        with connected(self._place, EngineFailed) as server:
            for start in range(0, len(queries), _QUERIES_AT_ONCE):
                asked = [_query(query.tolist(), name, k) for query in queries[start : start + _QUERIES_AT_ONCE]]
                for one in server.ask("query_batch_points", listed.actual, asked):
                    ids.append(tuple(row_id(point.id, dict(point.payload or {})) for point in one.points))
                    scores.append(np.array([point.score for point in one.points], np.float64))
            alone = [_query(query.tolist(), name, k) for query in queries] if stopwatch.is_timing() else []
            stopwatch.again(lambda one: server.ask("query_batch_points", listed.actual, one), alone)
        return Answers(tuple(ids), tuple(scores))

    def unchanged_since(self, position: Position, moment: float) -> bool:
        """The same points and catalog were read."""
        return position == self.position

    def repeatable(self, collection: str) -> bool:
        """A server goes on with its index meanwhile."""
        return False

    def check(self) -> None:
        """What was read lies in files of ours."""

    def _of(self, collection: str) -> Rows:
        if collection not in self._rows:
            raise NotFound(f"there is no collection {collection!r}", hint=f"there are: {', '.join(self._rows)}")
        return self._rows[collection]


def _query(vector: list[float], name: str, k: int) -> Any:
    from qdrant_client import models

    payload = models.PayloadSelectorInclude(include=[ORIGINAL_ID])
    return models.QueryRequest(query=vector, using=name or None, limit=k, with_payload=payload)
