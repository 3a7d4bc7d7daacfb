"""What lies in the folder of a captured shard's log besides the log?

<shard>.oplog/version     JSON: the shard's own number of its last operation when the capture knew all to be durable, and the
                          run of the machine in which that was
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
    """The shard's number of its last operation when all was durable; and has the machine been running since, so that what was
    written later is there too?"""

    version: int
    same_run: bool

    def fits(self, version: int, calls: int) -> bool:
        """Can a shard at `version` be what it was then and the effect of so many calls, and nothing else?"""
        return self.version <= version <= self.version + calls and (self.same_run or not calls)


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

    def remember(self, version: int) -> None:
        write_durably(self.path / "version", json.dumps({"version": version, "boot": boot()}).encode())

    def known(self) -> Known | None:
        """None if nothing is."""
        said = self.read("version")
        return None if said is None else Known(int(said["version"]), said["boot"] is not None and said["boot"] == boot())
