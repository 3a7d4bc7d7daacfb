"""What lies in the folder of a captured shard's log besides the log, and how is a pause made between two calls?

<shard>.oplog/closed      JSON: the shard's files as its capture left them when it was closed
<shard>.oplog/gate, call  flocked: each call is made within `call`, and passes `gate` before. Who holds both sees no call under
                          way, and isn't kept waiting by one call after another
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from strongroom.engines.oplog.folder import OplogFolder
from strongroom.engines.staging import write_durably
from strongroom.errors import Locked
from strongroom.model import Json

_WAIT_SECONDS = 0.002


class EdgeLogFolder(OplogFolder):
    """The folder of the log of the shard at `shard`."""

    def __init__(self, shard: Path) -> None:
        super().__init__(shard.with_name(shard.name + ".oplog"), shard.name)

    # -- who has it ------------------------------------------------------------------------------------------------------------

    def is_captured(self) -> bool:
        """Does a process capture the shard at this moment?"""
        try:
            os.close(self.take_lock())
        except Locked:
            return True
        except FileNotFoundError:
            return False
        return False

    @contextmanager
    def pause(self, seconds: float) -> Iterator[None]:
        """No call is made while this is open. Raises Locked if one takes longer than so many seconds."""
        gate, call = self.open_gate()
        try:
            until = time.monotonic() + seconds
            for one in (gate, call):
                while not _try(one):
                    if time.monotonic() > until:
                        raise Locked(f"a call on {self.of} has taken {seconds:g} s", hint="run it again later")
                    time.sleep(_WAIT_SECONDS)
            yield
        finally:
            os.close(call)
            os.close(gate)

    def open_gate(self) -> tuple[int, int]:
        """Descriptors of `gate` and `call`."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        return os.open(self.path / "gate", flags, 0o600), os.open(self.path / "call", flags, 0o600)

    # -- is it what the capture left -------------------------------------------------------------------------------------------

    def remember_closed(self, shard: Path) -> None:
        write_durably(self.path / "closed", json.dumps(_state_of(shard)).encode())

    def forget_closed(self) -> None:
        with suppress(FileNotFoundError):
            (self.path / "closed").unlink()

    def was_closed(self) -> bool:
        """Did the last capture end in order?"""
        return (self.path / "closed").exists()

    def closed_as(self, shard: Path) -> bool:
        """Are the shard's files those that the last capture left when it ended in order?"""
        said: Json = self.read("closed") if self.exists() else None
        return said is not None and said == _state_of(shard)


def _state_of(shard: Path) -> dict[str, list[int]]:
    """Of each file its inode, size and time of writing."""
    found = {}
    for path in sorted(shard.rglob("*")):
        if path.is_file():
            status = path.stat()
            found[path.relative_to(shard).as_posix()] = [status.st_ino, status.st_size, status.st_mtime_ns]
    return found


def _try(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
