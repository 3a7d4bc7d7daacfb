"""What lies in the folder of a captured shard's log besides the log?

<shard>.oplog/version     JSON: the shard's own number of its last operation that changed it when the capture knew all to be
                          durable, that of its last one (which failed, or changed nothing), at most, and the run of the machine
                          in which that was
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from strongroom.engines.boot import boot
from strongroom.engines.oplog.folder import OplogFolder
from strongroom.engines.staging import write_durably
from strongroom.errors import Locked


@dataclass(frozen=True, slots=True)
class Known:
    """The shard's number of its last operation that changed it when all was durable, and of its last one, at most; and has the
    machine been running since, so that what was written later is there too?"""

    version: int
    number: int
    same_run: bool

    def fits(self, version: int, calls: int) -> bool:
        """Can a shard at `version` be what it was then and the effect of so many calls, and nothing else?"""
        return self.version <= version <= self.number + calls and (self.same_run or not calls)


class EdgeLogFolder(OplogFolder):
    """The folder of the log of the shard at `shard`."""

    def __init__(self, shard: Path) -> None:
        super().__init__(shard.with_name(shard.name + ".oplog"), shard.name)

    def is_captured(self) -> bool:
        """Does a process capture the shard at this moment?"""
        try:
            os.close(self.take_lock())
        except Locked:
            return True
        except FileNotFoundError:
            return False
        return False

    def remember(self, version: int, number: int) -> None:
        said = {"version": version, "number": number, "boot": boot()}
        write_durably(self.path / "version", json.dumps(said).encode())

    def known(self) -> Known | None:
        """None if nothing is."""
        said = self.read("version")
        if said is None:
            return None
        version = int(said["version"])
        return Known(version, int(said.get("number", version)), said["boot"] is not None and said["boot"] == boot())


class Numbers:
    """Each call takes one of the shard's numbers, also if it fails, but its segments show only calls that changed something: so the
    last number is counted, and known anew from each call that surely changed something."""

    def __init__(self, folder: EdgeLogFolder) -> None:
        known = folder.known()
        self._folder = folder
        self._last = known.number if known else 0
        self._after: int | None = None

    def called(self) -> None:
        self._last += 1
        self._after = None if self._after is None else self._after + 1

    def shown(self) -> None:
        """The call surely changed something."""
        self._after = 0

    def remember(self, version: int) -> None:
        """The shard was flushed, and is at `version`."""
        if self._after is not None:
            self._last = min(self._last, version + self._after)
        self._last = max(self._last, version)
        self._folder.remember(version, self._last)
