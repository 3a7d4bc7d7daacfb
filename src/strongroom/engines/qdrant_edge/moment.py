"""How is one moment of a shard copied, so that neither its owner nor somebody who opens it changes it meanwhile?

Whoever has a shard open holds a lock on its `wal` folder. If nobody does, we take it while the files are copied. If its owner
captures it, he makes a pause between two calls, and so the copy is as if he had been killed there: the shard's own log has what its
segments lack. Somebody else's open shard can't be copied.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from strongroom.engines.oplog.calls import end_of
from strongroom.engines.oplog.layout import KIND
from strongroom.engines.private_copy import copy_file
from strongroom.engines.qdrant_edge.library import CONFIG
from strongroom.engines.qdrant_edge.logfolder import EdgeLogFolder
from strongroom.errors import Gap, Locked, NotFound, SourceChanged, Unreadable
from strongroom.model import Position

PARTS = ("wal", "segments")
PATIENCE_SECONDS = 60.0


def copy_moment(shard: Path, copy: Path) -> Position:
    """Copy a shard into the empty folder `copy`. Raises NotFound, Unreadable, Locked or SourceChanged."""
    require_shard(shard)
    try:
        with _still(shard) as position:
            for source in files_of(shard):
                target = copy / source.relative_to(shard)
                target.parent.mkdir(parents=True, exist_ok=True)
                copy_file(source, target)
            return position
    except FileNotFoundError as error:
        raise SourceChanged(f"{error.filename} vanished while it was copied", hint="run it again") from error
    except PermissionError as error:
        raise Unreadable(f"{error.filename} can't be read", hint="run as a user who may read the whole shard") from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise Unreadable(f"no room for a private copy of {shard}", hint="free as much space as the shard takes") from error


def require_shard(shard: Path) -> None:
    """Raises NotFound or Unreadable if there is none."""
    if not shard.is_dir():
        raise NotFound(f"there is no folder {shard}", hint="check the path; it is the one given to EdgeShard")
    if not (shard / CONFIG).is_file() or not all((shard / part).is_dir() for part in PARTS):
        raise Unreadable(f"{shard} is no shard of Qdrant Edge: it has no {CONFIG}, wal or segments", hint="check the path")


def files_of(shard: Path) -> list[Path]:
    """All that is the shard's own, in the order in which it is put in place: the configuration, which makes it one, comes last."""
    found = [path for part in PARTS for path in sorted((shard / part).rglob("*")) if path.is_file()]
    return [*found, shard / CONFIG]


@contextmanager
def _still(shard: Path) -> Iterator[Position]:
    """Nothing of the shard changes while this is open. Gives the position at which it is."""
    folder = EdgeLogFolder(shard)
    wal = os.open(shard / "wal", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _take(wal):
            with suppress(Gap):
                if folder.closed_as(shard):
                    yield _position(folder)
                    return
            yield Position("files", _stamps(shard))
            return
    finally:
        os.close(wal)
    if not folder.exists() or not folder.is_captured():
        hint = "close it while the backup runs, or write through strongroom.capture(shard, ...)"
        raise Locked(f"another process has {shard} open", hint=hint)
    with folder.pause(PATIENCE_SECONDS):
        yield _position(folder)


def _position(folder: EdgeLogFolder) -> Position:
    log = folder.log_id()
    if log is None:
        raise SourceChanged(f"the log of {folder.of} is gone", hint="run it again")
    end = end_of(folder, log)
    if end.intent:
        raise SourceChanged(f"it isn't known what the last call on {folder.of} did", hint="let its owner make another call")
    return Position(KIND, end.place)


def _take(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _stamps(shard: Path) -> str:
    """Of all files, in a form that says when they were written last."""
    latest = max(path.stat().st_mtime_ns for path in files_of(shard))
    return f"{latest}:{time.time_ns()}"
