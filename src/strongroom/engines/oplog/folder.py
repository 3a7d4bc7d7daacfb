"""What lies in the folder of a local log, `<source>.oplog` (mode 0700), and when may a part of it go?

lock                      held by the process that captures
log                       JSON: the id of the log that is written; one whose writer began anew is another
known                     JSON: what the source was at a mark, to see whether others changed it
settled                   JSON: up to which mark a source that keeps its state itself has made all durable
<log id>-<number>.ops     segments, each named by its first operation
holders/<name>            JSON: up to which mark one who follows has kept the log elsewhere, and how long he is waited for
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from strongroom.engines.oplog.layout import number_of, of_log
from strongroom.engines.staging import write_durably
from strongroom.errors import Locked, Unreadable
from strongroom.model import Json

LEASE_SECONDS = 24 * 3600
"""Who follows and doesn't come back for so long holds nothing back."""
make_durable = getattr(os, "fdatasync", os.fsync)
"""The content of an open file, by its descriptor."""

_SEGMENT = re.compile(r"([0-9a-f]{32})-(\d{20})\.ops")


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """A file of the log: which log's, and the number of its first operation."""

    path: Path
    log: bytes
    first: int


@dataclass(frozen=True, slots=True)
class Holder:
    """Up to which mark somebody has kept the log."""

    name: str
    shipped: str
    until: float


class OplogFolder:
    """The folder of a log at `path`; `of` is what the source is called."""

    def __init__(self, path: Path, of: str) -> None:
        self.path = path
        self.of = of

    def exists(self) -> bool:
        return (self.path / "log").is_file()

    def make(self) -> None:
        self.path.mkdir(mode=0o700, exist_ok=True)
        (self.path / "holders").mkdir(mode=0o700, exist_ok=True)

    def take_lock(self) -> int:
        """The descriptor of the lock, which one process has. Raises Locked."""
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            hint = "one process writes a source; close the other capture"
            raise Locked(f"another process captures {self.of}", hint=hint) from error
        return descriptor

    def log_id(self) -> bytes | None:
        """That of the log that is written now; None if there is none. Raises Unreadable."""
        said = self.read("log")
        try:
            return None if said is None else bytes.fromhex(said["id"])
        except (TypeError, KeyError, ValueError) as error:
            raise Unreadable(f"{self.path / 'log'} doesn't say which log it is") from error

    def set_log(self, log: bytes, **about: Json) -> None:
        """From here on this log is written; `about` is for people."""
        write_durably(self.path / "log", json.dumps({"strongroom_oplog": 1, "id": log.hex(), **about}).encode())

    def segment_path(self, log: bytes, first: int) -> Path:
        return self.path / f"{log.hex()}-{first:020d}.ops"

    def segments(self, log: bytes | None = None) -> list[Segment]:
        """Those of one log, or of all, in the order of their numbers."""
        found = []
        with suppress(FileNotFoundError):
            for path in self.path.iterdir():
                named = _SEGMENT.fullmatch(path.name)
                if named and (log is None or bytes.fromhex(named[1]) == log):
                    found.append(Segment(path, bytes.fromhex(named[1]), int(named[2])))
        return sorted(found, key=lambda one: (one.log, one.first))

    def current_mark(self) -> str | None:
        """Up to which mark the source has all that was recorded; None if that isn't known: all of the log is needed."""
        said = self.read("settled")
        return None if said is None else str(said["mark"])

    def settled(self, mark: str) -> None:
        """The source has made durable all up to a mark."""
        write_durably(self.path / "settled", json.dumps({"mark": mark}).encode())

    # -- who still needs what --------------------------------------------------------------------------------------------------

    def hold(self, name: str, shipped: str) -> None:
        """Keep what comes after a mark, for as long as the lease says."""
        write_durably(self._holder(name), json.dumps({"shipped": shipped, "until": time.time() + LEASE_SECONDS}).encode())

    def let_go(self, name: str) -> bool:
        try:
            self._holder(name).unlink()
        except FileNotFoundError:
            return False
        return True

    def holders(self) -> list[Holder]:
        """Those whose lease is not over."""
        found = []
        with suppress(FileNotFoundError):
            for path in (self.path / "holders").iterdir():
                said = self.read(f"holders/{path.name}") if path.suffix == "" else None
                if said is not None and said["until"] > time.time():
                    found.append(Holder(path.name, said["shipped"], said["until"]))
        return found

    def drop(self) -> int:
        """Remove the segments that nobody needs: neither who follows nor, after a crash, the source. Gives how many."""
        current, holders, mark = self.log_id(), self.holders(), self.current_mark()
        present = self.segments()
        doomed = []
        for segment, after in zip(present, [*present[1:], None], strict=True):
            last = after.first - 1 if after is not None and after.log == segment.log else None
            wanted = [one for one in holders if of_log(one.shipped, segment.log)]
            if segment.log == current:
                needed = last is None or mark is None or not of_log(mark, segment.log) or number_of(mark) < last
            else:
                needed = False
            held = any(last is None or number_of(one.shipped) < last for one in wanted)
            if not needed and not held:
                doomed.append(segment)
        for segment in doomed:
            segment.path.unlink(missing_ok=True)
        return len(doomed)

    def write(self, name: str, said: Json) -> None:
        """Replace a small file, durably."""
        write_durably(self.path / name, json.dumps(said).encode())

    def _holder(self, name: str) -> Path:
        return self.path / "holders" / re.sub(r"[^0-9A-Za-z_-]", "_", name)

    def read(self, name: str) -> Any:
        """The JSON of a small file; None if it isn't there. Raises Unreadable."""
        try:
            return json.loads((self.path / name).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise Unreadable(
                f"{self.path / name} can't be read: {error}", hint="capture with anew=True to begin another log"
            ) from error


def after(segments: Sequence[Segment], number: int) -> Segment | None:
    """The segment of one log that has the operation after `number`; its last one if there is none yet."""
    fitting = [one for one in segments if one.first <= number + 1]
    return fitting[-1] if fitting else None
