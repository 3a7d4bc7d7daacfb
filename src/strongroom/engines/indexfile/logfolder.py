"""Where is the log of an index file, and which file holds what of it?

In its folder, `<index file>.oplog`, `saved` names, as JSON, the index files that the capture saved, by inode, size and time of
writing, and their marks. That is written before the file gets its name: whatever crashes, what stands under the name is known.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from strongroom.engines.oplog.folder import OplogFolder
from strongroom.engines.oplog.layout import of_log
from strongroom.engines.staging import write_durably

_KEPT_RECORDS = 64


class IndexLogFolder(OplogFolder):
    """The folder of the log of the index at `index`."""

    def __init__(self, index: Path) -> None:
        super().__init__(index.with_name(index.name + ".oplog"), index.name)
        self.index = index

    def saved_mark(self, status: os.stat_result) -> str | None:
        """The mark up to which an index file holds the operations; None if the capture didn't save this very file, nor one last
        that this is a copy of, with its time of writing."""
        known = self.read("saved") or []
        alike = [one for one in known if [one["size"], one["written"]] == [status.st_size, status.st_mtime_ns]]
        for one in reversed(alike):
            if one["inode"] == status.st_ino:
                return str(one["mark"])
        return str(alike[0]["mark"]) if alike and alike == known[-1:] else None

    def last_saved(self, log: bytes) -> str | None:
        """The mark of the file that the capture saved last, of one log."""
        marks = [str(one["mark"]) for one in self.read("saved") or [] if of_log(one["mark"], log)]
        return marks[-1] if marks else None

    def current_mark(self) -> str | None:
        """That of the file which stands under the index's name."""
        try:
            return self.saved_mark(self.index.stat())
        except FileNotFoundError:
            return None

    def remember_saved(self, status: os.stat_result, mark: str) -> None:
        """Note, durably, what a file holds that will get the index's name."""
        one = {"inode": status.st_ino, "size": status.st_size, "written": status.st_mtime_ns, "mark": mark}
        known = [*(self.read("saved") or []), one][-_KEPT_RECORDS:]
        write_durably(self.path / "saved", json.dumps(known).encode())
