"""How does an operation get into a local log, and how is it known that it will stay there?

The segment that is written has its full length on the disk and is mapped into memory: what was appended outlives the process,
killed or not, from then on; and the machine once it was made durable. `sync` does that for all that was appended: calls that wait
for it at the same time share one.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
import zlib
from collections.abc import Sequence

from strongroom.engines.oplog.folder import OplogFolder, make_durable
from strongroom.engines.oplog.layout import (
    HEADER_BYTES,
    PROOF,
    RECORD,
    RECORD_BYTES,
    End,
    Kind,
    Log,
    encode_header,
    padded,
    record_length,
)
from strongroom.engines.oplog.reader import OplogReader
from strongroom.engines.staging import sync_directory
from strongroom.errors import Unreadable
from strongroom.model import Bytes

SEGMENT_BYTES = 32 << 20
_clock = time.time_ns


class OplogWriter:
    """The one writer of a log. `append` is called by one thread at a time, `sync` by any number."""

    def __init__(self, folder: OplogFolder, log: Log) -> None:
        """Go on where the log ends; what a dead writer left half written is cut off. A log without a segment begins."""
        self._folder = folder
        self._log = log
        self._syncing = threading.Lock()
        self._descriptor = -1
        self._number, self._chain, self._latest = 0, 0, 0
        self._at = HEADER_BYTES
        if folder.segments(log.id):
            self._resume()
        else:
            self._begin_segment(0)
        self._synced = self._number

    @property
    def end(self) -> End:
        return End(self._log.id, self._number, self._chain)

    @property
    def pending(self) -> bool:
        """Is there something that isn't durable yet?"""
        return self._synced != self._number

    def append(self, kind: Kind, count: int, body: Sequence[Bytes], tag: bytes = b"") -> None:
        """One record of `count` operations, at least 1; `body` are its bytes, in pieces. Raises OSError if the disk is full."""
        length = record_length(len(tag), sum(map(len, body)))
        if self._at + length > self._room:
            self._rotate(length)
        view, at = self._view, self._at
        place, end = at + RECORD_BYTES, at + length
        if tag:
            view[place : place + len(tag)] = tag
            place += padded(len(tag))
        for piece in body:
            view[place : place + len(piece)] = piece
            place += len(piece)
        now = _clock() // 1000
        self._latest = now if now > self._latest else self._latest
        RECORD.pack_into(view, at + 8, self._number + 1, self._latest, count, kind, 0, len(tag))
        chain = zlib.crc32(view[at + 8 : end], self._chain)
        PROOF.pack_into(view, at, length, chain)  # from here on it is there
        self._at, self._chain = end, chain
        self._number += count

    def sync(self) -> None:
        """What was appended before the call is durable after it. Raises OSError: whether it is can't be known then."""
        wanted = self._number
        with self._syncing:
            if self._synced >= wanted:
                return
            number = self._number
            make_durable(self._descriptor)
            self._synced = number

    def rotate(self) -> None:
        """Begin another segment, so that this one can be dropped, unless it is empty."""
        if self._at > HEADER_BYTES:
            self._rotate(0)

    def close(self) -> None:
        """Make all durable and give back the room that wasn't needed."""
        with self._syncing:
            if self._descriptor >= 0:
                self._end_segment()

    def _rotate(self, needed: int) -> None:
        with self._syncing:
            self._end_segment()
            self._begin_segment(needed)
            self._synced = self._number

    def _end_segment(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        try:
            self._view.release()
            self._map.close()
            os.ftruncate(descriptor, self._at)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _begin_segment(self, needed: int) -> None:
        """The file gets its name when its beginning is durable."""
        path = self._folder.segment_path(self._log.id, self._number + 1)
        fresh = path.with_suffix(".new")
        descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, encode_header(self._log, self._number + 1, self._chain))
            self._extend(descriptor, max(SEGMENT_BYTES, HEADER_BYTES + needed))
            os.fsync(descriptor)
            os.rename(fresh, path)
            sync_directory(path.parent)
        except BaseException:
            os.close(descriptor)
            raise
        self._take(descriptor, HEADER_BYTES)

    def _extend(self, descriptor: int, size: int) -> None:
        """Zeros, of which the disk has room for every one: a full disk is told here, not when memory is written."""
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, size)
        else:
            os.ftruncate(descriptor, size)

    def _take(self, descriptor: int, at: int) -> None:
        self._room = os.fstat(descriptor).st_size
        self._map = mmap.mmap(descriptor, self._room)
        self._view = memoryview(self._map)
        self._descriptor, self._at = descriptor, at

    def _resume(self) -> None:
        with OplogReader(self._folder, self._log.id) as reader:
            reader.seek_end()
            segment, at = reader.place
            if reader.log != self._log or segment is None:
                raise Unreadable(f"{self._folder.path} is a log of something else", hint="capture with anew=True")
            self._number, self._chain, self._latest = reader.end.number, reader.end.chain, reader.latest
        descriptor = os.open(segment.path, os.O_RDWR | os.O_CLOEXEC)
        os.ftruncate(descriptor, at)  # a torn record must not be found again behind one that is shorter
        self._extend(descriptor, max(SEGMENT_BYTES, at))
        os.fsync(descriptor)
        self._take(descriptor, at)
