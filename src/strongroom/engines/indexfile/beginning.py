"""How does the capture of an index begin, so that its file, its log and what is in memory tell the same from the first moment on?

What is in memory must be what the index file holds; then the operations that the log has beyond the file, which a killed writer
left, are applied to it. Where there is no file yet, or the caller says `anew`, what is in memory is saved, and another log begins.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from strongroom.engines.indexfile.live import Live, apply_run, numbers
from strongroom.engines.indexfile.logfolder import IndexLogFolder
from strongroom.engines.indexfile.place import beside
from strongroom.engines.indexfile.recorder import Recorder, fresh_path, name_saved, save_beside
from strongroom.engines.indexfile.rowlog import Numbers, ids_of, numbers_of, vectors_of
from strongroom.engines.oplog.layout import MOST_BYTES, Kind, Log, mark_of, of_log
from strongroom.engines.oplog.opening import DAMAGED, begin_log, beginning, new_log, require_whole
from strongroom.engines.oplog.reader import OplogReader
from strongroom.engines.oplog.writer import OplogWriter
from strongroom.engines.staging import sync_directory
from strongroom.errors import Gap, Refused


def begin(index: Path, live: Live, *, every: float, anew: bool) -> Recorder:
    """Take the log of the index at `index` and bring `live` up to date with it. Raises Locked if another process captures it,
    Refused if memory and file don't hold the same, and Unreadable if the log is damaged."""
    require_alone(index)
    if live.dimension * 4 > MOST_BYTES:
        raise Refused(f"vectors of {live.dimension:,} numbers can't be recorded", hint=f"they have {MOST_BYTES // 4:,} at most")
    folder = IndexLogFolder(index)
    folder.make()
    lock = folder.take_lock()
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
    width = Numbers(live.dimension, live.dtype).width
    for record in reader.all():
        if record.kind is Kind.PARAMETERS:
            live.set_parameters(json.loads(record.tag))
        else:
            put = record.kind is Kind.PUT
            vectors = numbers(live.dtype, vectors_of(record, width), live.dimension) if put else None
            apply_run(live, ids_of(record), vectors)
        count += record.operations
    return count


def _log(folder: IndexLogFolder, live: Live, *, anew: bool) -> Log:
    """The log to go on with."""
    index = folder.index
    fresh = fresh_path(index)
    try:
        save_beside(index, fresh, live)
        if not anew and not index.exists() and (gone := folder.log_id()) is not None:
            _require_nothing_beyond(folder, gone)
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
        if mark is None and current is not None:
            _require_nothing_beyond(folder, current)
        return _begun(folder, live, None)
    finally:
        fresh.unlink(missing_ok=True)


def _continued(folder: IndexLogFolder, live: Live, current: bytes, mark: str) -> Log:
    with OplogReader(folder, current) as reader:
        try:
            reader.seek(mark)
            log = _of_kind(folder, live, reader.log)
            recover(live, reader)
        except Gap as gap:
            raise Refused(f"the log of {folder.of} is damaged: {gap}", hint=DAMAGED) from gap
        require_whole(folder, reader)
        return log


def _require_nothing_beyond(folder: IndexLogFolder, current: bytes) -> None:
    """Raises Refused if a log has operations that the file which was saved last lacks: they were said to be kept, and whether one
    that stands in its place has them nobody can tell."""
    with OplogReader(folder, current) as reader:
        try:
            reader.seek(folder.last_saved(current) or mark_of(current, 0, 0))
            beyond = sum(record.operations for record in reader.all())
        except Gap:  # the log is damaged, or an older copy
            beyond = 0
    if beyond:
        raise Refused(
            f"{folder.of} is gone, or not what its capture saved last, and its log has {beyond:,} operations of after that",
            hint="put that file back (or a copy of the same time of writing), or give anew=True to go on with what is in memory",
        )


def _of_kind(folder: IndexLogFolder, live: Live, log: Log | None) -> Log:
    """The log that was found. Raises Refused if it is of other vectors."""
    if log is None or numbers_of(log.about) != Numbers(live.dimension, live.dtype):
        raise Refused(f"the log of {folder.of} is of another kind of index", hint="give anew=True to begin another one")
    return log


def _begun(folder: IndexLogFolder, live: Live, fresh: Path | None) -> Log:
    """A log that begins with the index file as it is, or as `fresh` has it."""
    log = new_log(Numbers(live.dimension, live.dtype).about)
    if fresh is None:
        folder.remember_saved(folder.index.stat(), beginning(log))
        live.accompany(folder.index)
    else:
        name_saved(folder, live, fresh, beginning(log))
    begin_log(folder, log)
    folder.set_log(log.id, dimension=live.dimension, dtype=live.dtype)
    sync_directory(folder.path.parent)
    return log
