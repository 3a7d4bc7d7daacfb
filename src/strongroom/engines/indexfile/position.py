"""Which position does a snapshot of index files have? The mark in the log of their capture, else their stamps."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from strongroom.engines.indexfile import held as files
from strongroom.engines.indexfile.held import TICK_SECONDS, Held
from strongroom.engines.indexfile.logfolder import IndexLogFolder
from strongroom.engines.oplog.layout import KIND
from strongroom.errors import Unreadable
from strongroom.model import Position


def position_of(held: Held) -> Position:
    """A file that its capture saved is what the log's operations up to its mark made; tables beside it have no log."""
    if not held.sidecars and held.array is None:
        with suppress(Unreadable):
            mark = IndexLogFolder(held.index.path).saved_mark(held.index.status)
            if mark is not None:
                return Position(KIND, mark)
    return files.position_of(file.status for file in held.files)


def unchanged_since(path: Path, beside: tuple[Path, ...], position: Position, moment: float) -> bool:
    """The same files, last written clearly before that moment."""
    if position.kind != KIND:
        return files.unchanged_since(path, beside, position, moment)
    try:
        present = [path.stat(), *(one.stat() for one in beside if one.exists())]
        same = IndexLogFolder(path).saved_mark(present[0]) == position.value
    except (OSError, Unreadable):
        return False
    return same and max(max(one.st_mtime, one.st_ctime) for one in present) < moment - TICK_SECONDS
