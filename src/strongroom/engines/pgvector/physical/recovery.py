"""How is PostgreSQL told to go on from a base backup to a moment? By its own recovery, when it is started first.

The log after the base backup is laid into a folder of the data directory, as the files that a restore_command fetches. Only as
much of it is laid as the moment needs, and a target is set only if a record after it was laid: PostgreSQL refuses to start if it
comes to the end of the log before its target, and the end is the moment then.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from strongroom.engines.changes import Change, RowChanges
from strongroom.engines.pgvector.moment import lsn_text
from strongroom.engines.pgvector.physical.feed import BYTES, HISTORY, PLACE, TIMELINE
from strongroom.engines.pgvector.physical.records import Record, Records
from strongroom.errors import Damaged, Refused
from strongroom.model import Json, Until

LOG_FOLDER = "strongroom_wal"
SIGNAL = "recovery.signal"
SETTINGS = "postgresql.auto.conf"
_OURS = re.compile(r"\s*(restore_command|recovery_target\w*)\s*=")
_COMMAND = f'cp {LOG_FOLDER}/%f "%p"'


def prepare(root: Path, base: Mapping[str, Json], log: Iterable[Change], until: Until) -> str:
    """Lay the log and write the settings. `base` is the catalog of the base backup. Gives a line that says what was laid. Raises
    Damaged if the log doesn't go on where the base backup ended, Refused if it never came to the moment or is another one."""
    laying = Laying(root / LOG_FOLDER, int(base["stop"]), int(base["timeline"]), int(base["segment_bytes"]))
    reached = laying.run(log, until)
    timeline = laying.timeline
    settings = {"restore_command": _COMMAND, "recovery_target_timeline": str(timeline), "recovery_target_action": "promote"}
    if reached and until.time is not None:
        settings["recovery_target_time"] = datetime.fromtimestamp(until.time // 1_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S")
        settings["recovery_target_time"] += f".{until.time % 1_000_000:06d}+00"
    elif reached and until.place is not None:
        settings |= {"recovery_target_lsn": lsn_text(until.place), "recovery_target_inclusive": "off"}
    elif until.place is not None and laying.end < until.place:
        raise Refused(f"the journal's log ends at {lsn_text(laying.end)}, before {until.text}")
    file = root / SETTINGS
    kept = [line for line in (file.read_text().splitlines() if file.exists() else []) if not _OURS.match(line)]
    lines = [f"{name} = '{value}'" for name, value in settings.items()]
    file.write_text(
        "\n".join([*kept, f"# {until.text}, restored by Strongroom; {LOG_FOLDER}/ may go once it is there", *lines, ""])
    )
    (root / SIGNAL).touch(0o600)
    where = f"up to {until.text}" if reached else f"to its end, {lsn_text(laying.end)}, which is {until.text}"
    return f"{laying.files} files of the log laid; PostgreSQL's recovery goes on {where}, on timeline {timeline}"


def settings_of(root: Path) -> dict[str, str]:
    """What `prepare` told PostgreSQL; nothing if it didn't."""
    if not (root / SIGNAL).exists():
        return {}
    lines = (line.partition("=") for line in (root / SETTINGS).read_text().splitlines() if _OURS.match(line))
    return {name.strip(): value.strip() for name, _, value in lines}


@dataclass
class Laying:
    """Writes the files of the log after `stop`, where the base backup's own last file ends with zeros."""

    folder: Path
    stop: int
    timeline: int
    segment_bytes: int
    files: int = 0
    end: int = 0
    _file: BinaryIO | None = field(default=None, repr=False)

    def run(self, log: Iterable[Change], until: Until) -> bool:
        """True if a record after the moment was laid: then the rest isn't needed."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        self.end = -(-self.stop // self.segment_bytes) * self.segment_bytes
        records = Records(self.end, self.segment_bytes)
        try:
            for place, timeline, content, history in _rows(log):
                if timeline != self.timeline:
                    self._turn(place, timeline, history)
                    records = Records(place, self.segment_bytes)
                skipped = max(0, self.end - place)
                if skipped >= len(content):
                    continue
                self._write(place + skipped, content[skipped:])
                if any(_after(one, until) for one in records.take(place + skipped, content[skipped:])):
                    return True
            return False
        finally:
            self._close()
            for file in self.folder.iterdir():
                file.chmod(0o600)

    def _write(self, place: int, content: bytes) -> None:
        """The pieces end where files end."""
        if place != self.end:
            raise Damaged("the journal's log", f"it goes on at {lsn_text(place)}, not at {lsn_text(self.end)}")
        if self._file is None:
            self._file = self._opened(place)
        self._file.seek(place % self.segment_bytes)
        self._file.write(content)
        self.end += len(content)
        if self.end % self.segment_bytes == 0:
            self._close()

    def _turn(self, place: int, timeline: int, history: bytes | None) -> None:
        """Another timeline goes on at a place: its first file begins as that of the one before."""
        if place < self.stop or timeline < self.timeline:
            raise Refused(
                f"timeline {timeline} left that of the base backup at {lsn_text(place)}, before its end ({lsn_text(self.stop)})",
                hint="restore a snapshot of after the switch",
            )
        if history is None or place > self.end:
            raise Damaged("the journal's log", f"it turns to timeline {timeline} and doesn't say how")
        self._close()
        name = self._path(place).name
        before = next((one for one in (self.folder / name, self.folder.parent / "pg_wal" / name) if one.exists()), None)
        self.timeline, self.end = timeline, place
        (self.folder / f"{timeline:08X}.history").write_bytes(history)
        if place % self.segment_bytes and before is not None:
            shutil.copyfile(before, self._path(place))
            self.files += 1

    def _opened(self, place: int) -> BinaryIO:
        path = self._path(place)
        if not path.exists():
            if place % self.segment_bytes:
                raise Damaged("the journal's log", f"the beginning of its file at {lsn_text(place)} isn't there")
            with path.open("wb") as file:
                file.truncate(self.segment_bytes)
            self.files += 1
        return path.open("r+b")

    def _path(self, place: int) -> Path:
        number, a_log = place // self.segment_bytes, (1 << 32) // self.segment_bytes
        return self.folder / f"{self.timeline:08X}{number // a_log:08X}{number % a_log:08X}"

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None


def _after(record: Record, until: Until) -> bool:
    if until.place is not None:
        return record.start >= until.place
    return record.time is not None and until.time is not None and record.time > until.time


def _rows(log: Iterable[Change]) -> Iterator[tuple[int, int, bytes, bytes | None]]:
    for change in log:
        if isinstance(change, RowChanges):
            columns = [change.batch.column(name).to_pylist() for name in (PLACE, TIMELINE, BYTES, HISTORY)]
            yield from zip(*columns, strict=True)
