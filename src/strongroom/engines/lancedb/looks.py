"""What looks at a followed table found, kept for the follower that comes after one which was killed.

    <number>/looks    JSON: `looked` and `ended` as in `hold.Held`, and the run of the machine in which that was

Written without waiting for the disk, after what was found is held: in another run of the machine it counts for nothing.
"""

from __future__ import annotations

import json
from pathlib import Path

from strongroom.engines.boot import boot

_OFTEN = 1_000_000
"""Microseconds by which a table that is still there is looked at anew before that is written again."""


class Looks:
    """Of the table held in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._path = folder.parent / "looks"
        self.looked = self.ended = 0
        try:
            said = json.loads(self._path.read_bytes())
            if said["boot"] == boot() and said["boot"] is not None:
                self.looked, self.ended = int(said["looked"]), int(said["ended"])
        except (FileNotFoundError, ValueError):  # nobody looked yet, or the machine stopped while it was written
            pass

    def keep(self, looked: int, ended: int) -> None:
        """Remember until when nothing else was there, and when the end was noticed (0: it wasn't)."""
        if ended == self.ended and 0 <= looked - self.looked < _OFTEN:
            return
        self.looked, self.ended = looked, ended
        fresh = self._path.with_suffix(".new")
        fresh.write_text(json.dumps({"boot": boot(), "looked": looked, "ended": ended}))
        fresh.replace(self._path)
