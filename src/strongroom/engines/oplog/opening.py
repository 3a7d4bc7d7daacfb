"""How is a log gone on with after its writer was killed? Its torn end is cut off; an end that isn't torn but damaged is told."""

from __future__ import annotations

import secrets

from strongroom.engines.oplog.folder import OplogFolder
from strongroom.engines.oplog.layout import End, Log, number_of, of_log
from strongroom.engines.oplog.reader import OplogReader
from strongroom.engines.oplog.writer import OplogWriter
from strongroom.errors import Refused

DAMAGED = "restore the last moment from the journal, or give anew=True to go on with what the source holds"


def new_log(about: bytes) -> Log:
    return Log(secrets.token_bytes(16), about)


def begin_log(folder: OplogFolder, log: Log) -> None:
    """Its first segment is durable. The folder doesn't name the log yet: until it does the one before is the log."""
    OplogWriter(folder, log).close()


def beginning(log: Log) -> str:
    """The mark of a log without operations."""
    return End(log.id).mark


def require_whole(folder: OplogFolder, reader: OplogReader) -> None:
    """Raises Refused if there is more of the log behind its end, or others have kept more of it: that end was not torn."""
    end = reader.end
    segment, _ = reader.place
    shipped = [number_of(one.shipped) for one in folder.holders() if of_log(one.shipped, end.log)]
    later = [one for one in folder.segments(end.log) if segment is None or one.first > segment.first]
    if later or max(shipped, default=0) > end.number:
        raise Refused(f"the log of {folder.of} is damaged after operation {end.number:,}", hint=DAMAGED)
