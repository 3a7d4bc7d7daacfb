"""How does an operation get into a local log, and how is it known that it will stay there?

The segment that is written has its full length on the disk and is mapped into memory: what was appended outlives the process,
killed or not, from then on; and the machine once it was made durable. `sync` does that for all that was appended: calls that wait
for it at the same time share one.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import threading
import time
from collections.abc import Sequence
from zlib import crc32

from strongroom.engines.oplog.folder import OplogFolder, make_durable
from strongroom.engines.oplog.layout import (
    HEADER_BYTES,
    PROOF,
    RECORD,
    End,
    Kind,
    Log,
    encode_header,
)
from strongroom.engines.oplog.reader import OplogReader
from strongroom.engines.staging import sync_directory
from strongroom.errors import Unreadable
from strongroom.model import Bytes

SEGMENT_BYTES = 32 << 20
_POPULATE_WRITE = 23
_WORTH_BYTES = 16 << 10
"""Who writes less between two flushes doesn't wait long for pages."""
_system = ctypes.CDLL(None) if sys.platform == "linux" else None
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
        self._at = self._prepared = HEADER_BYTES
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
        now = _clock() // 1000
        if now > self._latest:
            self._latest = now
        head = RECORD.pack(self._number + 1, self._latest, count, kind, 0, len(tag))
        if tag:
            head += tag + bytes(-len(tag) & 7)
        if count == 1:  # many write so, and each step costs when an insert has left nothing else in the caches
            self._write_one(b"".join((head, *body)))
        else:
            self._write(head, *body)
        self._number += count

    def _write_one(self, said: bytes) -> None:
        if len(said) & 7:
            said += bytes(-len(said) & 7)
        at, end = self._at, self._at + PROOF.size + len(said)
        if end > self._room:
            self._rotate(end - at)
            at, end = self._at, self._at + end - at
        self._view[at + PROOF.size : end] = said
        self._chain = chain = crc32(said, self._chain)
        PROOF.pack_into(self._view, at, end - at, chain)  # from here on it is there
        self._at = end

    def _write(self, *pieces: Bytes) -> None:
        length = PROOF.size + sum(map(len, pieces)) + 7 & -8
        if self._at + length > self._room:
            self._rotate(length)
        view, at = self._view, self._at
        end, place = at + length, at + PROOF.size
        for piece in pieces:
            view[place : place + len(piece)] = piece
            place += len(piece)
        chain = crc32(view[at + PROOF.size : end], self._chain)
        PROOF.pack_into(view, at, length, chain)
        self._at, self._chain = end, chain

    def sync(self) -> None:
        """What was appended before the call is durable after it. Raises OSError: whether it is can't be known then."""
        wanted = self._number
        with self._syncing:
            if self._synced >= wanted:
                return
            number = self._number
            make_durable(self._descriptor)
            self._synced = number

    def make_room(self) -> None:
        """Once all is durable: have the system take as much of the segment into memory as was written since the last time, so that
        `append` needn't wait for one page after the other. What is in it stays."""
        with self._syncing:
            written, self._prepared = self._at - self._prepared, self._at
            start = self._at & -mmap.PAGESIZE
            length = min(written * 5 // 4, self._room - start)
            if _system is not None and written >= _WORTH_BYTES and self._descriptor >= 0:
                address = ctypes.addressof(ctypes.c_char.from_buffer(self._map)) + start
                _system.madvise(ctypes.c_void_p(address), ctypes.c_size_t(length), _POPULATE_WRITE)  # older kernels refuse

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
        self._prepared = at

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
