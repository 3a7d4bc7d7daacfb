"""How blobs get into packs: identified, stored once, coded, encrypted and uploaded by several threads within a memory budget."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from strongroom import codecs
from strongroom.errors import AlreadyExists, Damaged, NotFound, Unreachable
from strongroom.model import Bytes
from strongroom.progress import UNHURRIED, Pace
from strongroom.repository.blob_index import BlobIndex
from strongroom.repository.keys import Keys
from strongroom.repository.packs import Buffer, CodedBlob, OpenPack, Pack
from strongroom.repository.store import Store

WORKERS = 3
"""Coding threads: two cores' worth and one that may wait for the store."""

IN_FLIGHT_BYTES = 32 << 20
"""How many plain bytes may wait for or be in the hands of the workers."""

_IDLE_SECONDS = 1.0
"""A buffer that no pack has needed for so long goes back to the system: who stores little needs one."""


def create_once(store: Store, name: str, content: bytes | memoryview) -> None:
    """Create an object that is named by its content. If it is there in spite of the error, a try of ours landed and its answer
    was lost: that is success if it is whole. Raises Damaged if a shorter or longer object has taken the name."""
    try:
        store.create(name, content)
    except (AlreadyExists, Unreachable) as error:
        size = _size_of(store, name)
        if size is None:
            raise
        if size != len(content):
            raise Damaged(name, f"{size} bytes are there where {len(content)} belong") from error


def _size_of(store: Store, name: str) -> int | None:
    try:
        return store.size(name)
    except NotFound:
        return None


class BlobWriter:
    """One writing session: `put` blobs, then `close`, which gives the packs to be listed in the blob index.

    Blobs that `known` has are not stored again. Any failure of a worker is raised by the next `put` or by `close`.
    """

    def __init__(self, store: Store, keys: Keys, known: BlobIndex, workers: int = WORKERS) -> None:
        self._store = store
        self._keys = keys
        self._known = known
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="strongroom-writer")
        self._budget = _Budget(IN_FLIGHT_BYTES)
        self._lock = threading.Lock()
        self._claimed: set[bytes] = set()
        self._open: OpenPack | None = None
        self._buffers: list[tuple[float, Buffer]] = []
        self._packs: list[Pack] = []
        self._failure: BaseException | None = None
        self.stored_bytes = 0
        self.pace: Pace = UNHURRIED

    def submit(self, data: Bytes, kind: str, then: Callable[[bytes], None] | None = None) -> Future[bytes]:
        """Store `data` soon; the future gives its id. Blocks while the memory budget is used up.

        `kind` says what the bytes are (`codecs.encode`). `then` runs in the worker once the id is known.
        """
        self._raise_failure()
        size = memoryview(data).nbytes
        self._budget.take(size)
        return self._pool.submit(self._guarded, size, lambda: self._code(data, kind, size, then))

    def submit_coded(self, blob: CodedBlob) -> Future[bytes]:
        """As `submit`, of a blob that is coded already and whose id was checked."""
        self._raise_failure()
        size = memoryview(blob.payload).nbytes
        self._budget.take(size)
        return self._pool.submit(self._guarded, size, lambda: self._store_coded(blob))

    def has(self, blob_id: bytes) -> bool:
        """Is the blob in a pack that was really there when the session began?"""
        return blob_id in self._known

    def close(self) -> tuple[Pack, ...]:
        """Wait for everything, upload the last pack, and give all packs of this session. Raises what any worker raised."""
        self._pool.shutdown(wait=True)
        self._raise_failure()
        if self._open is not None:
            self._upload(self._open)
            self._open = None
        return tuple(self._packs)

    def __enter__(self) -> BlobWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _guarded(self, size: int, store: Callable[[], bytes]) -> bytes:
        try:
            if self._failure is not None:
                raise self._failure
            return store()
        except BaseException as error:
            self._failure = self._failure or error
            raise
        finally:
            self._budget.give(size)

    def _code(self, data: Bytes, kind: str, size: int, then: Callable[[bytes], None] | None) -> bytes:
        blob_id = self._keys.identify(data)
        if self._claim(blob_id):
            codec, payload = codecs.encode(data, kind)
            self._place(CodedBlob(blob_id, codec, size, payload))
        if then is not None:
            then(blob_id)
        return blob_id

    def _store_coded(self, blob: CodedBlob) -> bytes:
        if self._claim(blob.id):
            self._place(blob)
        return blob.id

    def _claim(self, blob_id: bytes) -> bool:
        with self._lock:
            if blob_id in self._claimed or blob_id in self._known:
                return False
            self._claimed.add(blob_id)
            return True

    def _place(self, coded: CodedBlob) -> None:
        length = memoryview(coded.payload).nbytes
        while True:
            with self._lock:
                pack = self._open or self._new_pack()
                self._let_go_of_idle_buffers()
                blob = pack.reserve(coded.id, coded.codec, coded.plain, length)
                self._open = pack if blob is not None else None
            if blob is not None:
                break
            self._upload(pack)  # first of all, so that its buffer can be that of the next one
        pack.fill(blob, coded.payload)

    def _new_pack(self) -> OpenPack:
        return OpenPack(self._keys, self._buffers.pop()[1] if self._buffers else None)

    def _let_go_of_idle_buffers(self) -> None:
        if self._buffers and self._buffers[0][0] + _IDLE_SECONDS < time.monotonic():
            del self._buffers[0]

    def _upload(self, full: OpenPack) -> None:
        pack, content = full.finish()
        self.pace.written(pack.size)
        create_once(self._store, pack.name, content)
        free = _is_free(content)
        with self._lock:
            if free:
                self._buffers.append((time.monotonic(), full.buffer))
            self._packs.append(pack)
            self.stored_bytes += pack.size

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure


def _is_free(content: memoryview) -> bool:
    """May the buffer be used again? Not if the store has kept it, as the one in memory does, or has not let go of it yet."""
    try:
        content.release()
    except BufferError:
        return False
    return True


class _Budget:
    """Bytes that may be in flight. One request larger than the whole budget is let through alone."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._used = 0
        self._changed = threading.Condition()

    def take(self, amount: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._used == 0 or self._used + amount <= self._total)
            self._used += amount

    def give(self, amount: int) -> None:
        with self._changed:
            self._used -= amount
            self._changed.notify_all()
