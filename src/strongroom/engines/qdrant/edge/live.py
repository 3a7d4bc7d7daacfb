"""An open shard whose changes go to a log: what each call changes is found out by asking the shard itself, before and after it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from strongroom.engines.changes import Act, change_schema
from strongroom.engines.oplog.calls import CallRecorder, Outcome
from strongroom.engines.qdrant.conversion import ORIGINAL_ID, batch_of, row_id
from strongroom.engines.qdrant.edge import indexes, recovery
from strongroom.engines.qdrant.edge.library import config_at, version_at
from strongroom.engines.qdrant.edge.logfolder import EdgeLogFolder, Numbers
from strongroom.engines.qdrant.shape import Shape, collection_of, shape_of
from strongroom.errors import Refused
from strongroom.model import Json

IDENTITY = "shard"
_FIRST = {
    **dict.fromkeys(("upsert_points",), "points"),
    **dict.fromkeys(("update_vectors",), "point_vectors"),
    **dict.fromkeys(
        ("delete_points", "delete_vectors", "set_payload", "overwrite_payload", "delete_payload", "clear_payload"), "point_ids"
    ),
    **dict.fromkeys(
        (
            *("delete_points_by_filter", "delete_vectors_by_filter", "set_payload_by_filter"),
            *("overwrite_payload_by_filter", "delete_payload_by_filter", "clear_payload_by_filter"),
        ),
        "filter",
    ),
}
"""The operations on points, each with the name of its first argument, which says on which."""
_OF_INDEXES = ("create_field_index", "delete_field_index")
_REFUSED = {
    "update": "Qdrant doesn't tell what is in an UpdateOperation: call upsert_points(...) and the like on the captured shard",
    "create_dense_vector": "close the capture, add the vector, and capture with anew=True",
    "create_sparse_vector": "close the capture, add the vector, and capture with anew=True",
    "delete_vector_name": "close the capture, drop the vector, and capture with anew=True",
    "update_from_snapshot": "close the capture, update the shard, and capture with anew=True",
}
_SCROLLED = 5_000
_SETTLED_OPERATIONS = 50_000
"""After so many the shard is flushed, so that what a crash leaves is soon looked through."""


class LiveShard:
    """A shard as it is asked what it holds."""

    def __init__(self, shard: Any, path: Path) -> None:
        self.shard = shard
        self.path = path
        self.shape: Shape = shape_of(config_at(str(path)))
        self._schema = change_schema(self.shape.schema)
        self._schema = pa.schema([self._schema.field(0), *list(self._schema)[4:]])

    def records(self, points: Sequence[Any]) -> list[Any]:
        """Those of these points that are there, with all that they have."""
        return list(self.shard.retrieve(points, True, True)) if points else []

    def matching(self, filter_: Any) -> list[Any]:
        """The ids of the points that a filter finds."""
        import qdrant_edge

        found: list[Any] = []
        offset = None
        while True:
            asked = qdrant_edge.ScrollRequest(offset=offset, limit=_SCROLLED, filter=filter_, with_payload=False, with_vector=False)
            some, offset = self.shard.scroll(asked)
            found += [one.id for one in some]
            if offset is None:
                return found

    def intent(self, points: Sequence[Any]) -> dict[str, Json]:
        """What a call on these points may touch: their ids, and as what rows they are known where that is something else."""
        ids = [one if isinstance(one, int) else str(one) for one in dict.fromkeys(points)]
        named = {}
        for one in self.shard.retrieve(ids, [ORIGINAL_ID], False) if ids else ():
            row = row_id(one.id, dict(one.payload or {}))
            if row != str(one.id):
                named[str(one.id)] = row
        return {"points": ids, "named": named}

    def tell(self, intent: Json, outcome: Outcome) -> None:
        """What an intent may have touched is this now."""
        if "indexes" in intent:
            self.tell_indexes(outcome)
            return
        points: list[Any] = intent["points"]
        for start in range(0, len(points), _SCROLLED):
            self._tell_points(points[start : start + _SCROLLED], intent["named"], outcome)

    def tell_indexes(self, outcome: Outcome) -> None:
        self.shard.flush()
        outcome.catalog({IDENTITY: collection_of(self.path.name, 0, config_at(str(self.path)), indexes.said_at(self.path))})

    def _tell_points(self, points: list[Any], named: dict[str, str], outcome: Outcome) -> None:
        there = batch_of(self.shape, self.records(points))
        present = set(there.column(0).to_pylist())
        gone = [one for one in (named.get(str(point), str(point)) for point in points) if one not in present]
        parts = []
        if gone:
            absent = [pa.nulls(len(gone), field.type) for field in list(self._schema)[2:]]
            acts = pa.array([Act.DELETE] * len(gone), pa.int8())
            parts.append(pa.record_batch([acts, pa.array(gone, pa.utf8()), *absent], schema=self._schema))
        if there.num_rows:
            acts = pa.array([Act.PUT] * there.num_rows, pa.int8())
            parts.append(pa.record_batch([acts, *there.columns], schema=self._schema))
        for part in parts:
            outcome.rows(self.path.name, IDENTITY, part)


class CapturedShard:
    """An `EdgeShard`. The operations that `UpdateOperation` makes are its methods, with the same arguments: `upsert_points(...)`,
    `delete_points_by_filter(...)` and so on. Everything else of it is asked of the shard, which nobody should change past this."""

    def __init__(self, live: LiveShard, folder: EdgeLogFolder, recorder: CallRecorder) -> None:
        self._live = live
        self._folder = folder
        self._recorder = recorder
        self._ship: Any = None
        self._closed = False
        self._since = 0
        self._numbers = Numbers(folder)

    @property
    def path(self) -> Path:
        """The folder of the shard."""
        return self._live.path

    def batch(self, name: str) -> AbstractContextManager[None]:
        """What this thread changes meanwhile belongs to an ingest batch of this name: `restore --at before:NAME` undoes it."""
        return self._recorder.batch(name)

    def save(self) -> None:
        """Flush the shard: what its files lack of the log is little again."""
        with self._recorder as recorder:
            recorder.require_sound()
            recorder.require_settled()
            self._settle()

    flush = save

    def optimize(self) -> bool:
        """Let Qdrant build its indexes. No row changes."""
        with self._recorder as recorder:
            recorder.require_sound()
            recorder.require_settled()
            return bool(self._live.shard.optimize())

    def shipped_by(self, shipping: Any) -> None:
        """`shipping` keeps the log elsewhere until its `stop` is called, which `close` does."""
        self._ship = shipping

    def close(self) -> None:
        """End the capture and close the shard. With `ship` all is kept before."""
        shipping, self._ship = self._ship, None
        if self._closed:
            return
        self._closed = True
        try:
            self.save()
            if shipping is not None:
                shipping.stop()
        finally:
            with self._recorder:
                self._live.shard.close()
            self._recorder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        if name in _FIRST:
            return partial(self._change, name)
        if name in _OF_INDEXES:
            return partial(self._change_index, name)
        if name in _REFUSED:
            raise Refused(f"{name} on a captured shard can't be recorded", hint=_REFUSED[name])
        return getattr(self._live.shard, name)

    def _change(self, name: str, *given: Any, **named: Any) -> None:
        operation = _operation(name)(*given, **named)
        first = given[0] if given else named[_FIRST[name]]
        with self._recorder as recorder:
            recorder.require_sound()
            recorder.require_settled()
            intent = self._touched(_FIRST[name], first)
            with self._call(intent, operation):
                if name == "upsert_points" and intent["points"]:
                    self._numbers.shown()
        recorder.settle()

    def _touched(self, kind: str, first: Any) -> dict[str, Json]:
        if kind == "filter":
            return self._live.intent(self._live.matching(first))
        return self._live.intent([one.id for one in first] if kind in ("points", "point_vectors") else first)

    @contextmanager
    def _call(self, intent: dict[str, Json], operation: Any) -> Iterator[None]:
        with self._recorder.call(intent) as outcome:
            self._numbers.called()
            self._live.shard.update(operation)
            self._live.tell(intent, outcome)
            yield
        self._since += max(1, len(intent.get("points", ())))
        if self._since >= _SETTLED_OPERATIONS:
            self._settle()

    def _change_index(self, name: str, *given: Any, **named: Any) -> None:
        operation = _operation(name)(*given, **named)
        with self._call({"indexes": True}, operation):
            pass

    def _settle(self) -> None:
        self._live.shard.flush()
        self._numbers.remember(version_at(self.path))
        self._recorder.settled()
        self._since = 0


def _operation(name: str) -> Callable[..., Any]:
    import qdrant_edge

    made: Callable[..., Any] = getattr(qdrant_edge.UpdateOperation, name)
    return made


def capture(shard: Any, path: Path, every: float, anew: bool) -> CapturedShard:
    """See `protocol.Capturing`."""
    recovery.require_open(shard, path)
    live, folder = LiveShard(shard, path), EdgeLogFolder(path)
    about = recovery.about(json.dumps(sorted(one.name for one in live.shape.vectors)))
    return CapturedShard(live, folder, recovery.recorder_of(live, folder, about, every, anew))
