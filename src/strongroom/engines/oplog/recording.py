"""How are operations recorded one after another, durable before the call that makes them returns, or soon afterwards?

Whoever changes the source enters the recording, which one thread can do at a time; waiting for the disk is outside of it, so that
calls share a flush. A log that can't be trusted any more takes no further record, and says why.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar, Self

from strongroom.engines.oplog.folder import OplogFolder
from strongroom.engines.oplog.layout import LONGEST_TAG, Kind
from strongroom.engines.oplog.writer import OplogWriter
from strongroom.errors import Refused, WrongRequest, from_os_error
from strongroom.model import Bytes


class Recording:
    """The one writer of a log, used by any threads of its process. `every` is after how many seconds a record is durable at the
    latest; 0: before the call returns."""

    again: ClassVar[str] = "capture again with anew=True: another log begins"
    """What helps when the log can't be trusted any more."""

    def __init__(self, folder: OplogFolder, writer: OplogWriter, every: float, lock_file: int) -> None:
        self._folder = folder
        self._writer = writer
        self._every = every
        self._lock_file = lock_file
        self._tags = threading.local()
        self._problem = ""
        self._closing = threading.Event()
        self._lock = threading.RLock()
        os.register_at_fork(after_in_child=_forgotten(weakref.ref(self)))
        self._timer = threading.Thread(target=self._keep_time, name="strongroom-capture", daemon=True) if every else None
        if self._timer is not None:
            self._timer.start()

    def __enter__(self) -> Self:
        self._lock.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and not issubclass(kind, Exception):  # Ctrl-C comes between any two steps
            self.interrupted()
        self._lock.release()

    def interrupted(self) -> None:
        """A call was left between any two steps. Called inside."""
        self.unknown(f"a call that changes {self._folder.of} was interrupted")

    def require_sound(self) -> None:
        """Raises Refused if the log doesn't tell any more what the source is. Called inside, before a change."""
        if self._problem:
            raise Refused(self._problem, hint=self.again)

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
        before = self.tag
        self._tags.name = name.encode()
        try:
            yield
        finally:
            self._tags.name = before

    @property
    def tag(self) -> bytes:
        """The name of the batch to which belongs what this thread does; empty if to none."""
        found: bytes = getattr(self._tags, "name", b"")
        return found

    def go_on_with_batches(self, before: Recording) -> None:
        """The batches that threads have begun in a recording before this one go on in it."""
        self._tags = before._tags

    def disown(self) -> None:
        """This process is a child of the one that records."""
        self._problem = f"{self._folder.of} is captured by the parent of this process"
        if self._lock_file >= 0:
            os.close(self._lock_file)  # the parent has it still
            self._lock_file = -1

    def close(self) -> None:
        """Make all durable and let go of the log."""
        self._closing.set()
        if self._timer is not None:
            self._timer.join()
        with self:
            self._problem = self._problem or f"the capture of {self._folder.of} was closed"
            if self._lock_file >= 0:
                try:
                    self._writer.close()
                finally:
                    os.close(self._lock_file)
                    self._lock_file = -1

    def _not_recorded(self, error: BaseException) -> None:
        """Whatever keeps a record from being made makes the log unsound. Raises what a failed disk is told by."""
        if isinstance(error, OSError):
            raise self._failed(error) from error
        self.unknown(f"an operation on {self._folder.of} could not be recorded")

    def _append(self, kind: Kind, count: int, body: Sequence[Bytes], tag: bytes = b"") -> None:
        try:
            self._writer.append(kind, count, body, tag)
        except BaseException as error:
            self._not_recorded(error)
            raise

    def _rotate(self) -> None:
        """Begin another segment, then drop what nobody needs."""
        try:
            self._writer.rotate()
        except OSError as error:
            raise self._failed(error) from error
        self._folder.drop()

    def _failed(self, error: OSError) -> Exception:
        self._problem = f"operations on {self._folder.of} can't be recorded any more: {error.strerror or error}"
        return from_os_error(error, str(self._folder.path))

    def _keep_time(self) -> None:
        while not self._closing.wait(self._every):
            if self._writer.pending:
                try:
                    self._writer.sync()
                except OSError as error:
                    self._failed(error)
                    return
                self._writer.make_room()


def _forgotten(found: weakref.ref[Recording]) -> Callable[[], None]:
    """In a forked child nothing is recorded: the log is the parent's."""

    def forget() -> None:
        recording = found()
        if recording is not None:
            recording.disown()

    return forget
