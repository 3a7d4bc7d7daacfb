"""The client's side of a captured index: it is used as the index itself, and what changes it is recorded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from strongroom.engines.indexfile.live import Live
from strongroom.engines.indexfile.recorder import Recorder
from strongroom.engines.indexfile.rowlog import Ids
from strongroom.errors import Refused, WrongRequest


class Captured:
    """An index whose changes go to a log. Everything else of it is asked of the index; `index` is the index itself, which nobody
    should change past this."""

    refused: ClassVar[dict[str, str]] = {}
    """Calls whose effect can't be recorded, and what to do instead."""

    def __init__(self, index: Any, live: Live, recorder: Recorder, path: Path) -> None:
        self._index = index
        self._live = live
        self._recorder = recorder
        self._path = path
        self._ship: Any = None

    @property
    def index(self) -> Any:
        return self._index

    @property
    def path(self) -> Path:
        """The index file."""
        return self._path

    def batch(self, name: str) -> AbstractContextManager[None]:
        """What this thread changes meanwhile belongs to an ingest batch of this name: `restore --at before:NAME` undoes it."""
        return self._recorder.batch(name)

    def save(self) -> None:
        """Save the index to its file, all or nothing."""
        self._recorder.save()

    def shipped_by(self, shipping: Any) -> None:
        """`shipping` keeps the log elsewhere until its `stop` is called, which `close` does."""
        self._ship = shipping

    def flush(self) -> None:
        """All that was changed so far survives a loss of power."""
        self._recorder.flush()

    def close(self) -> None:
        """End the capture; what was recorded stays, the file is as it was saved last. With `ship` all is kept before."""
        shipping, self._ship = self._ship, None
        try:
            if shipping is not None:
                self._recorder.flush()
                shipping.stop()
        finally:
            self._recorder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        if name in self.refused:
            raise Refused(f"{name} on a captured index can't be recorded", hint=self.refused[name])
        return getattr(self._index, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            object.__setattr__(self, name, value)
        else:
            setattr(self._index, name, value)

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, key: Any) -> bool:
        return key in self._index

    def __getitem__(self, key: Any) -> Any:
        return self._index[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._index)

    def _salvage(self, ids: Ids) -> None:
        """A call failed: record what it left of these rows. Called inside the recorder."""
        try:
            found, vectors = self._live.present(ids)
            self._recorder.delete(ids[~np.isin(ids, found)])
            self._recorder.put(found, vectors)
        except BaseException:
            self._recorder.unknown(f"a call that changes {self._path.name} failed, and what it left can't be told")
            raise

    def _elsewhere(self, path: Any) -> bool:
        """Is this another file than the captured one?"""
        return Path(path).absolute() != self._path


def checked_ids(given: Any) -> Ids:
    """Ids as they are recorded. Raises Refused for those that can't be."""
    asked = given if isinstance(given, np.ndarray) else np.asarray(given)
    if asked.size == 1 and asked.dtype == np.int64 and asked.item() >= 0:  # one row a call must cost next to nothing
        return asked.reshape(1)
    if asked.size and (asked.dtype.kind not in "iu" or int(asked.min()) < 0 or int(asked.max()) >= 1 << 63):
        raise Refused("ids must be whole numbers from 0 to 2^63 - 1 where an index is captured", hint="give others")
    return np.ascontiguousarray(np.atleast_1d(asked), np.int64)


def require(condition: bool, problem: str, hint: str) -> None:
    """Raises WrongRequest unless an index can be captured."""
    if not condition:
        raise WrongRequest(problem, hint=hint)
