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
from dataclasses import dataclass
from pathlib import Path

from strongroom.engines.oplog.calls import end_of
from strongroom.engines.oplog.gate import pause
from strongroom.engines.oplog.layout import KIND
from strongroom.engines.private_copy import copy_file
from strongroom.engines.qdrant.edge.library import CONFIG
from strongroom.engines.qdrant.edge.logfolder import EdgeLogFolder, Known
from strongroom.errors import Gap, Locked, NotFound, SourceChanged, Unreadable
from strongroom.model import Position

PARTS = ("wal", "segments")
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Moment:
    """Where the shard's log ended while its files were copied, if it has one. `calls` were made since all was durable."""

    stamp: str
    mark: str = ""
    known: Known | None = None
    calls: int = 0

    def position(self, version: int) -> Position:
        """Of a copy that is at `version`, now that Qdrant has brought it in order: a place in the log, if the copy is just what was
        recorded up to there."""
        if self.mark and self.known is not None and self.known.fits(version, self.calls):
            return Position(KIND, self.mark)
        return Position("files", self.stamp)


def copy_moment(shard: Path, copy: Path) -> Moment:
    """Copy a shard into the empty folder `copy`. Raises NotFound, Unreadable, Locked or SourceChanged."""
    require_shard(shard)
    try:
        with _still(shard) as found:
            for source in files_of(shard):
                target = copy / source.relative_to(shard)
                target.parent.mkdir(parents=True, exist_ok=True)
                copy_file(source, target)
            return found
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
def _still(shard: Path) -> Iterator[Moment]:
    """Nothing of the shard changes while this is open."""
    folder = EdgeLogFolder(shard)
    wal = os.open(shard / "wal", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _take(wal):
            yield _moment(shard, folder)
            return
    finally:
        os.close(wal)
    if not folder.exists() or not folder.is_captured():
        hint = "close it while the backup runs, or write through strongroom.capture(shard, ...)"
        raise Locked(f"another process has {shard} open", hint=hint)
    with pause(folder.path, folder.of, PATIENCE_SECONDS):
        yield _moment(shard, folder)


def _moment(shard: Path, folder: EdgeLogFolder) -> Moment:
    stamp = _stamp(shard)
    with suppress(Gap, Unreadable):
        log = folder.log_id() if folder.exists() else None
        if log is not None:
            end = end_of(folder, log)
            if not end.intent:
                return Moment(stamp, end.place, folder.known(), end.intents)
    return Moment(stamp)


def _take(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _stamp(shard: Path) -> str:
    """When one of the files was written last, and when that was looked at."""
    return f"{max(path.stat().st_mtime_ns for path in files_of(shard))}:{time.time_ns()}"
