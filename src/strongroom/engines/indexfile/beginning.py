"""How does the capture of an index begin, so that its file, its log and what is in memory tell the same from the first moment on?

What is in memory must be what the index file holds; then the operations that the log has beyond the file, which a killed writer
left, are applied to it. Where there is no file yet, or the caller says `anew`, what is in memory is saved, and another log begins.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from contextlib import suppress
from pathlib import Path

from strongroom.engines.indexfile.live import Live, apply_run, numbers
from strongroom.engines.indexfile.oplog import MOST_BYTES, End, Kind, Log, number_of, of_log
from strongroom.engines.indexfile.oplog_folder import OplogFolder
from strongroom.engines.indexfile.oplog_reader import OplogReader
from strongroom.engines.indexfile.oplog_writer import OplogWriter
from strongroom.engines.indexfile.place import beside
from strongroom.engines.indexfile.recorder import Recorder, fresh_path, name_saved, save_beside
from strongroom.engines.staging import sync_directory
from strongroom.errors import Gap, Locked, Refused

_DAMAGED = "restore the last moment from the journal, or give anew=True to go on with what the index file holds"


def begin(index: Path, live: Live, *, every: float, anew: bool) -> Recorder:
    """Take the log of the index at `index` and bring `live` up to date with it. Raises Locked if another process captures it,
    Refused if memory and file don't hold the same, and Unreadable if the log is damaged."""
    require_alone(index)
    if live.dimension * 4 > MOST_BYTES:
        raise Refused(f"vectors of {live.dimension:,} numbers can't be recorded", hint=f"they have {MOST_BYTES // 4:,} at most")
    folder = OplogFolder(index)
    folder.make()
    lock = _locked(folder)
    try:
        for leftover in (*folder.path.glob("*.new"), fresh_path(index)):
            leftover.unlink(missing_ok=True)
        log = _log(folder, live, anew=anew)
        writer = OplogWriter(folder, log)
        with suppress(Gap):
            folder.drop()
        return Recorder(folder, writer, live, every, lock)
    except BaseException:
        os.close(lock)
        raise


def require_alone(index: Path) -> None:
    """Raises Refused if tables lie beside the index: nobody would tell what changes in them."""
    found = [path.name for path in beside(index) if path.exists()]
    if found:
        raise Refused(
            f"{found[0]} lies beside the index, and what changes in it isn't recorded",
            hint="keep it elsewhere, or make snapshots more often instead",
        )


def recover(live: Live, reader: OplogReader) -> int:
    """Apply what a log has from the reader's place on; gives the number of operations."""
    count = 0
    for record in reader.all():
        if record.kind is Kind.PARAMETERS:
            live.set_parameters(json.loads(record.tag))
        else:
            put = record.kind is Kind.PUT
            apply_run(live, record.ids, numbers(live.dtype, record.vectors, live.dimension) if put else None)
        count += len(record.ids)
    return count


def _log(folder: OplogFolder, live: Live, *, anew: bool) -> Log:
    """The log to go on with."""
    index = folder.index
    fresh = fresh_path(index)
    try:
        save_beside(index, fresh, live)
        if anew or not index.exists():
            return _begun(folder, live, fresh)
        if not live.same(fresh, index):
            raise Refused(
                f"what is in memory is not what {index} holds",
                hint="load the index from there (its log brings it up to date), or give anew=True to replace the file",
            )
        mark, current = folder.current_mark(), folder.log_id()
        if mark is not None and current is not None and of_log(mark, current):
            return _continued(folder, live, current, mark)
        return _begun(folder, live, None)
    finally:
        fresh.unlink(missing_ok=True)


def _continued(folder: OplogFolder, live: Live, current: bytes, mark: str) -> Log:
    with OplogReader(folder, current) as reader:
        try:
            reader.seek(mark)
            log = _of_kind(folder, live, reader.log)
            recover(live, reader)
        except Gap as gap:
            raise Refused(f"the log of {folder.index.name} is damaged: {gap}", hint=_DAMAGED) from gap
        _require_whole(folder, reader)
        return log


def _of_kind(folder: OplogFolder, live: Live, log: Log | None) -> Log:
    """The log that was found. Raises Refused if it is of other vectors."""
    if log is None or (log.dimension, log.dtype) != (live.dimension, live.dtype):
        raise Refused(f"the log of {folder.index.name} is of another kind of index", hint="give anew=True to begin another one")
    return log


def _require_whole(folder: OplogFolder, reader: OplogReader) -> None:
    """Raises Refused if there is more of the log behind its end, or others have kept more of it: that end was not torn."""
    end = reader.end
    segment, _ = reader.place
    shipped = [number_of(one.shipped) for one in folder.holders() if of_log(one.shipped, end.log)]
    later = [one for one in folder.segments(end.log) if segment is None or one.first > segment.first]
    if later or max(shipped, default=0) > end.number:
        raise Refused(
            f"the log of {folder.index.name} is damaged after operation {end.number:,}",
            hint=_DAMAGED,
        )


def _begun(folder: OplogFolder, live: Live, fresh: Path | None) -> Log:
    """A log that begins with the index file as it is, or as `fresh` has it."""
    log = Log(secrets.token_bytes(16), live.dimension, live.dtype)
    if fresh is None:
        folder.remember_saved(folder.index.stat(), End(log.id).mark)
        live.accompany(folder.index)
    else:
        name_saved(folder, live, fresh, End(log.id).mark)
    OplogWriter(folder, log).close()
    folder.set_log(log)
    sync_directory(folder.path.parent)
    return log


def _locked(folder: OplogFolder) -> int:
    descriptor = os.open(folder.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise Locked(
            f"another process captures {folder.index}", hint="one process writes an index; close the other capture"
        ) from error
    return descriptor
