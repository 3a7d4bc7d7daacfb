"""How are the operations on a live index recorded, whatever dies in between?

Whoever changes the index enters the recorder, which one thread can do at a time, applies the change first and records its effect
then: the log says what was applied. An operation that was applied and not recorded went with the memory of the process that died;
nobody was told that it was done. The call returns when the record is durable, or, if the capture was so opened, soon afterwards.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from strongroom.engines.indexfile.live import Live, Vectors
from strongroom.engines.indexfile.oplog import LONGEST_TAG, Ids, Kind
from strongroom.engines.indexfile.oplog_folder import OplogFolder
from strongroom.engines.indexfile.oplog_writer import OplogWriter
from strongroom.engines.staging import sync_directory
from strongroom.errors import Refused, WrongRequest, from_os_error
from strongroom.model import Json

_NOBODY = np.zeros(1, np.int64)


class Recorder:
    """Records what is done to one live index. `every` is after how many seconds a record is durable at the latest; 0: before the
    call returns."""

    def __init__(self, folder: OplogFolder, writer: OplogWriter, live: Live, every: float, lock_file: int) -> None:
        self._folder = folder
        self._writer = writer
        self._live = live
        self._every = every
        self._lock_file = lock_file
        self._tags = threading.local()
        self._problem = ""
        self._closing = threading.Event()
        self._lock = threading.RLock()
        self._count = live.count()
        os.register_at_fork(after_in_child=_forgotten(weakref.ref(self)))
        self._timer = threading.Thread(target=self._keep_time, name="strongroom-capture", daemon=True) if every else None
        if self._timer is not None:
            self._timer.start()

    def __enter__(self) -> Recorder:
        self._lock.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and not issubclass(kind, Exception):  # Ctrl-C comes between any two steps
            self.unknown(f"a call that changes {self._folder.index.name} was interrupted")
        self._lock.release()

    def require_sound(self) -> None:
        """Raises Refused if the log doesn't tell any more what the index is. Called inside, before a change."""
        if self._problem:
            raise Refused(self._problem, hint="capture the index again with anew=True: it is saved, and another log begins")
        if self._live.count() != self._count:
            self._problem = (
                f"{self._folder.index.name} was changed past its capture: {self._live.count():,} rows, not {self._count:,}"
            )
            self.require_sound()

    def put(self, ids: Ids, vectors: Vectors, count: int | None = None) -> None:
        """These rows are what they are now; `count` is how many there must be, if that is known. Called inside."""
        self._append(Kind.PUT, ids, vectors, count=count)

    def delete(self, ids: Ids) -> None:
        """These rows are gone. Called inside."""
        self._append(Kind.DELETE, ids)

    def parameters(self, said: Mapping[str, Json]) -> None:
        """From here on the index is searched so. Called inside."""
        self._append(Kind.PARAMETERS, _NOBODY, None, json.dumps(dict(said)).encode())

    @property
    def count(self) -> int:
        """How many rows there were after what was recorded last: after `require_sound`, how many there are."""
        return self._count

    def unknown_unless_unchanged(self, what: str) -> None:
        """A call failed, and changed nothing if there are as many rows as before."""
        if self._live.count() != self._count:
            self.unknown(what)

    def unknown(self, what: str) -> None:
        """Something was done whose effect can't be told: nothing is recorded any more."""
        self._problem = self._problem or what

    def settle(self) -> None:
        """After the lock was given back: what was recorded is as durable as it was asked to be."""
        if not self._every:
            self.flush()
        elif self._problem:
            self.require_sound()

    def flush(self) -> None:
        """All that was recorded is durable."""
        try:
            self._writer.sync()
        except OSError as error:
            raise self._failed(error) from error

    @contextmanager
    def batch(self, name: str) -> Iterator[None]:
        """What this thread does meanwhile belongs to an ingest batch."""
        if not name or len(name.encode()) > LONGEST_TAG:
            raise WrongRequest(f"a batch can't be called {name[:40]!r}", hint="give a name of 1 to 60,000 bytes")
        before = getattr(self._tags, "name", b"")
        self._tags.name = name.encode()
        try:
            yield
        finally:
            self._tags.name = before

    def save(self) -> None:
        """Replace the index file, all or nothing; its mark is known before. Then what only the old one needed is dropped."""
        with self:
            self.require_sound()
            self.flush()
            index = self._folder.index
            try:
                fresh = fresh_path(index)
                save_beside(index, fresh, self._live)
                name_saved(self._folder, self._live, fresh, self._writer.end.mark)
            except OSError as error:
                raise from_os_error(error, str(index)) from error
            try:
                self._writer.rotate()
            except OSError as error:
                raise self._failed(error) from error
            self._folder.drop()

    def disown(self) -> None:
        """This process is a child of the one that records."""
        self._problem = f"{self._folder.index.name} is captured by the parent of this process"
        if self._lock_file >= 0:
            os.close(self._lock_file)  # the parent has it still
            self._lock_file = -1

    def close(self) -> None:
        """Make all durable and let go of the log. The index file stays as it was saved last."""
        self._closing.set()
        if self._timer is not None:
            self._timer.join()
        with self:
            self._problem = self._problem or f"the capture of {self._folder.index.name} was closed"
            if self._lock_file >= 0:
                try:
                    self._writer.close()
                finally:
                    os.close(self._lock_file)
                    self._lock_file = -1

    def _append(
        self, kind: Kind, ids: Ids, vectors: Vectors | None = None, tag: bytes | None = None, count: int | None = None
    ) -> None:
        self._count = self._live.count() if count is None else count
        try:
            self._writer.append(kind, ids, vectors, getattr(self._tags, "name", b"") if tag is None else tag)
        except OSError as error:
            raise self._failed(error) from error
        except BaseException:
            self.unknown(f"an operation on {self._folder.index.name} could not be recorded")
            raise

    def _failed(self, error: OSError) -> Exception:
        self._problem = f"operations on {self._folder.index.name} can't be recorded any more: {error.strerror or error}"
        return from_os_error(error, str(self._folder.path))

    def _keep_time(self) -> None:
        while not self._closing.wait(self._every):
            if self._writer.pending:
                try:
                    self._writer.sync()
                except OSError as error:
                    self._failed(error)
                    return


def _forgotten(found: weakref.ref[Recorder]) -> Callable[[], None]:
    """In a forked child nothing is recorded: the log is the parent's."""

    def forget() -> None:
        recorder = found()
        if recorder is not None:
            recorder.disown()

    return forget


def fresh_path(index: Path) -> Path:
    """Where an index is written before it gets its name."""
    return index.with_name(f".{index.name}.capturing")


def save_beside(index: Path, fresh: Path, live: Live) -> None:
    """Write the index to `fresh`, which nobody may read who may not read `index`."""
    os.close(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600 if index.exists() else 0o666))
    live.save(str(fresh))


def name_saved(folder: OplogFolder, live: Live, fresh: Path, mark: str) -> None:
    """Give a file that was just written the index's name, once it is durable and known to hold what came up to `mark`."""
    index = folder.index
    with suppress(FileNotFoundError):
        shutil.copymode(index, fresh)
    descriptor = os.open(fresh, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        folder.remember_saved(os.fstat(descriptor), mark)
    finally:
        os.close(descriptor)
    live.accompany(index)
    os.replace(fresh, index)
    sync_directory(index.parent)
