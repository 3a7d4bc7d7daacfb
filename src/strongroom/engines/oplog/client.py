"""How is any client wrapped whose source keeps its state itself, so that what it changes is recorded?

An adapter says which calls change what (`CapturedObject.changing`), and asks the source what it holds (`Adapter`). All else is the
same for every client: what a call may touch is recorded before it, what the source holds of that after it, whatever the call was.
So a record says whole rows, and may be told twice; and a call whose answer was lost is settled as one that was answered.
"""

from __future__ import annotations

import functools
import inspect
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from typing import Any, ClassVar, Protocol, Self, TypeVar

from strongroom.engines.oplog.calls import CallRecorder, Outcome, open_calls
from strongroom.engines.oplog.folder import OplogFolder
from strongroom.errors import Refused
from strongroom.model import Json

_SETTLED_SECONDS = 60.0
"""So often the log is told that the source keeps what it was told."""
UNDER_WAY_SECONDS = 2.0
"""A call whose caller died, or heard nothing, may still be under way at the source: so long is waited before it is asked."""
T = TypeVar("T")


class Adapter(Protocol):
    """What must be known of one kind of source."""

    def before(self, intent: Json) -> None:
        """A call of this intent is about to be made. Raises `Strayed` if others have changed the source past the capture."""

    def read_back(self, intent: Json, outcome: Outcome) -> None:
        """Tell what the source holds of all that a call of this intent may have touched. Raises `Strayed`, as `before` does."""

    def heard(self, error: Exception) -> bool:
        """Did the source answer a call that failed so, or was it never asked?"""

    def known(self) -> Json:
        """What is to be compared when the log is opened again; None if nothing is known."""

    def compare(self, known: Json) -> None:
        """The source has not been captured since. Raises `Strayed` if it isn't what it was."""

    def close(self) -> None: ...


class Strayed(Exception):
    """The source isn't what the log says: others write to it past the capture."""


class Capture:
    """The recording of what is done through one client, by any threads of one process."""

    def __init__(self, folder: OplogFolder, about: bytes, adapter: Adapter, *, every: float, anew: bool) -> None:
        """Raises Locked, Refused or Unreadable, as `open_calls` does, and what asking the source raises."""
        self._folder, self._about, self._adapter, self._every = folder, about, adapter, every
        self._lock = threading.RLock()
        self._shipping: Any = None
        self._heard = False
        """Is it known that the source is not at work on the call that is not done?"""
        self._recorder = self._open(anew=anew)
        self._settled = time.monotonic()
        said = folder.read("known")
        if said is not None and said["mark"] == self._recorder.place and said["known"] is not None:
            try:
                adapter.compare(said["known"])
            except Strayed as strayed:
                self._begin_anew(strayed)

    def made(self, touches: Callable[[], Json], call: Callable[[], T]) -> T:
        """Make a call, and record what came of it. `touches` says what it may change. Raises what the call does."""
        with self._lock:
            self._recorder.require_sound()
            try:
                intent = self._next(touches)
            except Strayed as strayed:
                self._begin_anew(strayed)
                intent = self._next(touches)
            answered: list[T] = []
            try:
                with self._recorder.call(intent) as outcome:
                    answered.append(self._called(call))
                    self._adapter.read_back(intent, outcome)
            except Strayed as strayed:
                self._begin_anew(strayed)
            if time.monotonic() - self._settled > _SETTLED_SECONDS:
                with suppress(Exception):  # the call was made, and is recorded: it hasn't failed
                    self.save()
            return answered[0]

    def _called(self, call: Callable[[], T]) -> T:
        self._heard = False
        try:
            return call()
        except Exception as error:
            self._heard = self._adapter.heard(error)
            raise

    def _settle(self, intent: Json, outcome: Outcome) -> None:
        """Find out what came of a call that isn't known to be done."""
        if not self._heard:
            time.sleep(UNDER_WAY_SECONDS)
        self._adapter.read_back(intent, outcome)

    def _next(self, touches: Callable[[], Json]) -> Json:
        """The intent of the next call, asked for once it is known what the one before did. Raises Strayed unless what the log says
        is what the source is, as far as can be seen."""
        with self._recorder:
            self._recorder.require_settled()
        intent = touches()
        self._adapter.before(intent)
        return intent

    def batch(self, name: str) -> AbstractContextManager[None]:
        return self._recorder.batch(name)

    def save(self) -> None:
        """The source keeps what it is told: of the log only what is not yet shipped is needed."""
        with self._lock, self._recorder:
            self._note_known()
            self._recorder.settled()
            self._settled = time.monotonic()

    def flush(self) -> None:
        self._recorder.flush()

    def shipped_by(self, shipping: Any) -> None:
        self._shipping = shipping

    def close(self) -> None:
        shipping, self._shipping = self._shipping, None
        try:
            self._recorder.flush()
            if shipping is not None:
                shipping.stop()
        finally:
            with self._lock:
                try:
                    with self._recorder:
                        self._note_known()
                finally:
                    self._recorder.close()
                    self._adapter.close()

    def _open(self, *, anew: bool) -> CallRecorder:
        opening = functools.partial(open_calls, self._folder, self._about, self._settle, every=self._every)
        try:
            return opening(anew=anew)
        except Strayed as strayed:
            self._warn(strayed)
            return opening(anew=True)

    def _begin_anew(self, why: Strayed) -> None:
        """End the log, for what was changed past it isn't known, and begin another: who follows finds the gap, and makes a
        snapshot."""
        warnings.warn(
            f"{self._folder.of}: {why}; another log begins, and a snapshot must close the gap", RuntimeWarning, stacklevel=4
        )
        before = self._recorder
        before.close()
        self._recorder = self._open(anew=True)
        self._recorder.go_on_with_batches(before)

    def _warn(self, why: Strayed) -> None:
        said = f"{self._folder.of}: {why}; another log begins, and a snapshot must close the gap"
        warnings.warn(said, RuntimeWarning, stacklevel=5)

    def _note_known(self) -> None:
        """Asked inside the recorder, with no call under way."""
        known = None if self._recorder.has_open_call else self._adapter.known()
        self._folder.write("known", {"mark": self._recorder.place, "known": known})


class CapturedObject:
    """A client, or an object that it gave: used as the object itself. `changing` names the calls that change the source, each with
    a function of the object and the call's arguments, by name, that says what it may touch."""

    changing: ClassVar[Mapping[str, Callable[[Any, Mapping[str, Any]], Json]]] = {}
    refused: ClassVar[Mapping[str, str]] = {}
    """Calls whose effect can't be recorded, and what to do instead."""

    def __init__(self, wrapped: Any, capture: Capture) -> None:
        self._wrapped = wrapped
        self._capture = capture

    def wrap(self, answer: Any) -> Any:
        """What a call gives, for the caller."""
        return answer

    def __getattr__(self, name: str) -> Any:
        if name in self.refused:
            raise Refused(f"{name} on a captured client can't be recorded", hint=self.refused[name])
        found = getattr(self._wrapped, name)
        if not callable(found):
            return found
        touches = self.changing.get(name)

        @functools.wraps(found)
        def call(*given: Any, **named: Any) -> Any:
            if touches is None:
                return self.wrap(found(*given, **named))
            bound = inspect.signature(found).bind(*given, **named)
            bound.apply_defaults()
            arguments = bound.arguments
            return self.wrap(self._capture.made(lambda: touches(self._wrapped, arguments), lambda: found(*given, **named)))

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            object.__setattr__(self, name, value)
        else:
            setattr(self._wrapped, name, value)

    def __repr__(self) -> str:
        return f"captured {self._wrapped!r}"


class CapturedClientObject(CapturedObject):
    """The client itself: see `protocol.CapturedClient`."""

    def batch(self, name: str) -> AbstractContextManager[None]:
        """What this thread changes meanwhile belongs to an ingest batch: `restore --at before:NAME` undoes it."""
        return self._capture.batch(name)

    def save(self) -> None:
        self._capture.save()

    def flush(self) -> None:
        """All that was changed so far survives a loss of power."""
        self._capture.flush()

    def shipped_by(self, shipping: Any) -> None:
        self._capture.shipped_by(shipping)

    def close(self) -> None:
        """End the capture; with `ship` all is kept before. The client itself stays open."""
        self._capture.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
