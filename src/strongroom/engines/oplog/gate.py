"""How does another process, or another thread, see to it that no call is under way while it reads a source that is captured?

In the log's folder lie two files that are flocked: each call is made within `call`, and passes `gate` before. Who holds both sees
no call under way, and isn't kept waiting by one call after another.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from strongroom.errors import Locked

_WAIT_SECONDS = 0.002
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC


class Gate:
    """The side of who makes calls, one at a time. Entered again by the same call, it stays open to it."""

    def __init__(self, folder: Path) -> None:
        self._gate, self._call = _opened(folder)
        self._depth = 0
        self._open = True

    def enter(self) -> None:
        if self._open and not self._depth:
            fcntl.flock(self._gate, fcntl.LOCK_SH)
            fcntl.flock(self._call, fcntl.LOCK_SH)
            fcntl.flock(self._gate, fcntl.LOCK_UN)
        self._depth += 1

    def leave(self) -> None:
        self._depth -= 1
        if self._open and not self._depth:
            fcntl.flock(self._call, fcntl.LOCK_UN)

    def close(self) -> None:
        if self._open:
            self._open = False
            os.close(self._call)
            os.close(self._gate)


@contextmanager
def pause(folder: Path, of: str, seconds: float) -> Iterator[None]:
    """No call is made while this is open. Raises Locked if one takes longer than so many seconds."""
    until = time.monotonic() + seconds
    locks = _opened(folder)
    try:
        for one in locks:
            while not _taken(one):
                if time.monotonic() > until:
                    raise Locked(f"a call on {of} has taken {seconds:g} s", hint="run it again later")
                time.sleep(_WAIT_SECONDS)
        yield
    finally:
        for one in locks:
            os.close(one)


def _opened(folder: Path) -> tuple[int, int]:
    return os.open(folder / "gate", _FLAGS, 0o600), os.open(folder / "call", _FLAGS, 0o600)


def _taken(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
