"""Are a shard and its log what the last capture left, and how are they brought to know the same after a crash?

The shard numbers its operations, and each call of the capture is one: so a shard that was changed past its capture, or an older
copy that was put in its place, is found out. What a loss of power took from the shard is put there again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import pyarrow as pa

from strongroom.engines.changes import ACT, Act, Change, RowChanges
from strongroom.engines.oplog.calls import CallRecorder, CallsEnd, open_calls
from strongroom.engines.qdrant.conversion import batch_of, point_id
from strongroom.engines.qdrant.edge import library
from strongroom.engines.qdrant.edge.logfolder import EdgeLogFolder
from strongroom.engines.qdrant.edge.moment import require_shard
from strongroom.errors import Refused, WrongRequest

if TYPE_CHECKING:
    from strongroom.engines.qdrant.edge.live import LiveShard

_ANEW = "give anew=True: the shard is as it is, and another log begins"
_COMPARED = 2_000


def require_open(shard: Any, path: Path) -> None:
    """Raises WrongRequest, NotFound or Refused unless `shard` is the open shard of the folder `path`."""
    if type(shard).__name__ != "EdgeShard" or not hasattr(shard, "snapshot_manifest"):
        raise WrongRequest(f"{type(shard)} is no qdrant_edge.EdgeShard", hint="give one")
    require_shard(path)
    if not _has_open(path / "wal"):
        raise Refused(f"the shard of {path} isn't open in this process", hint="give the folder that it was loaded from")
    if library.config_at(str(path)).get("wal_enabled") is False:
        raise Refused("a shard without a write-ahead log can't be captured", hint="create it with wal_enabled=True")


def about(vectors: str) -> bytes:
    """What the log of a shard with these vectors is about."""
    return b"edge" + crc32(vectors.encode()).to_bytes(4, "big").hex().encode()


def recorder_of(live: LiveShard, folder: EdgeLogFolder, said: bytes, every: float, anew: bool) -> CallRecorder:
    """Take the log and bring shard and log to know the same. Raises Refused, Locked or Unreadable."""
    live.shard.flush()
    now = library.version_at(live.path)
    if anew or not folder.exists():
        folder.make()
        folder.remember(now, now)
    before = folder.known()
    number = now

    def catch_up(changes: Iterator[Change], end: CallsEnd) -> None:
        nonlocal number
        expected = _expected(changes)
        if before is None or now < before.version:
            raise Refused(f"{live.path} is an older copy of the shard that was captured", hint=_ANEW)
        if now > before.number + end.intents:
            raise Refused(f"{live.path} was changed past its capture", hint=_ANEW)
        number = before.number + end.intents
        open_ = {str(one) for intent in end.intent for one in intent.get("points", ())}
        _put_back(live, {one: row for one, row in expected.items() if str(point_id(one)) not in open_})

    recorder = open_calls(folder, said, live.tell, every=every, anew=anew, catch_up=catch_up)
    with recorder:
        live.shard.flush()
        version = library.version_at(live.path)
        folder.remember(version, max(version, number))
        recorder.settled()
    return recorder


def _expected(changes: Iterator[Change]) -> dict[str, pa.RecordBatch | None]:
    """What rows are after the changes: one of a batch, or None where it is gone."""
    rows: dict[str, pa.RecordBatch | None] = {}
    for change in changes:
        if isinstance(change, RowChanges):
            ids, acts = change.batch.column(4).to_pylist(), change.batch.column(ACT).to_pylist()
            for place, (one, act) in enumerate(zip(ids, acts, strict=True)):
                rows[one] = change.batch.slice(place, 1) if act == Act.PUT else None
    return rows


def _put_back(live: LiveShard, expected: dict[str, pa.RecordBatch | None]) -> None:
    """Where the shard has something else, it is told what it must have."""
    import qdrant_edge

    ids = list(expected)
    for start in range(0, len(ids), _COMPARED):
        some = ids[start : start + _COMPARED]
        there = batch_of(live.shape, live.records([point_id(one) for one in some]))
        found = {row[live.shape.id]: row for row in there.to_pylist()}
        for one in some:
            wanted = expected[one]
            if wanted is None:
                if one in found:
                    live.shard.update(qdrant_edge.UpdateOperation.delete_points([point_id(one)]))
                continue
            rows = wanted.select(live.shape.schema.names)
            if rows.to_pylist() != [found.get(one)]:
                library.insert(live.shard, pa.record_batch(rows.columns, schema=live.shape.schema), live.shape.names)


def _has_open(folder: Path) -> bool:
    """Does this process have the folder open?"""
    wanted = folder.stat()
    for name in os.listdir("/dev/fd"):  # noqa: PTH208 - numbers, not files
        try:
            if os.path.samestat(os.fstat(int(name)), wanted):
                return True
        except OSError:  # the listing's own descriptor
            continue
    return False
