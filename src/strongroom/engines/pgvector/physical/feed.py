"""What does the server add to its log? Every byte of it, as it comes, from a physical slot.

A follower's slot keeps the log from where it is; it moves on only over what the repository has. Marks are PLACE:SYSTEM:TIMELINE.
An operation is a stretch of the log (a row with its place, timeline and bytes), or the history of a timeline that begins there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace

import psycopg
import pyarrow as pa

from strongroom.engines.changes import Act, Change, RowChanges, change_schema
from strongroom.engines.pgvector.moment import lsn_number, lsn_text
from strongroom.engines.pgvector.physical.place import Server
from strongroom.engines.pgvector.physical.replication import Replication, Switch, Wal
from strongroom.errors import Gap, Unreachable, Unreadable

KIND = NAME = "wal"
"""Of positions: PLACE:SYSTEM:TIMELINE, a byte of the log, of which cluster, and on which timeline."""

PLACE, TIMELINE, BYTES, HISTORY = "place", "timeline", "bytes", "history"
SCHEMA = change_schema(
    pa.schema([(PLACE, pa.int64()), (TIMELINE, pa.int64()), (BYTES, pa.large_binary()), (HISTORY, pa.large_binary())])
)
"""`place` is where the bytes begin; a `history` is that of `timeline`, which begins at `place`."""

_READ_BYTES = 4 << 20
_MESSAGE_BYTES = 128 << 10
_READ_SECONDS, _ASK_SECONDS = 2.0, 0.05
_PATIENCE_SECONDS, _PAUSE_SECONDS = 60.0, 0.5
_GONE = ("already been removed", "not in this server's history", "ahead of the WAL flush position")
_NO_SLOT, _ACTIVE = ("does not exist", "invalidated", "can no longer", "cannot read from"), "is active for PID"


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in the log of a cluster, and the timeline on which it is."""

    place: int
    system: str
    timeline: int

    @classmethod
    def parse(cls, text: str) -> Mark:
        place, system, timeline = text.split(":")
        return cls(int(place), system, int(timeline))

    def __str__(self) -> str:
        return f"{self.place}:{self.system}:{self.timeline}"


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stretch of the log from `place` on; `mark` is the place after it, `time` when it was sent (microseconds)."""

    mark: Mark
    time: int
    place: int
    content: bytes
    history: bytes | None = None


@contextmanager
def following(server: Server, holder: str) -> Iterator[WalFeed]:
    """The feed of a cluster. Raises Unreadable or Unreachable."""
    feed = WalFeed(server, _slot(holder))
    try:
        yield feed
    finally:
        feed.close()


def release(server: Server, holder: str) -> bool:
    """Drop the slot of a follower. Gives whether there was one."""
    with closing(Replication(server)) as connection:
        return _drop(connection, _slot(holder))


class WalFeed:
    """See `protocol.Feed`. The only scope is ''."""

    kind = KIND

    def __init__(self, server: Server, slot: str) -> None:
        self._server = server
        self._slot = slot
        self._asking = Replication(server)
        self._segment_bytes = self._asking.segment_bytes()
        self._stream: Replication | None = None
        self._mark = Mark(0, "", 0)
        self._kept = 0
        self._ahead: tuple[list[Change], bool] | None = None

    def close(self) -> None:
        self._leave()
        self._asking.close()

    def begin(self) -> Mapping[str, str]:
        self._leave()
        self._ahead = None
        place, identity = self._reserve(), self._asking.identity()
        self._mark, self._kept = Mark(place, identity.system, identity.timeline), place
        return {"": str(self._mark)}

    def resume(self, marks: Mapping[str, str]) -> None:
        """What comes first is read at once: only that proves that the server still has it. A slot that somebody dropped is made
        again, which loses nothing as long as the server has the log."""
        self._leave()
        self._mark = self._same(marks)
        self._kept = self._mark.place
        self._ahead = self._gathered()

    def read(self) -> tuple[Sequence[Change], Mapping[str, str], bool]:
        found, more = self._ahead or self._gathered()
        if self._ahead is not None:  # read a while ago
            self._ahead, more = None, True
        return found, {"": str(self._mark)}, more

    def behind(self, marks: Mapping[str, str]) -> tuple[int, int]:
        """An operation counts as many bytes as the server sends at once, so this is about how many there are."""
        missing = max(0, self._asking.identity().flushed - self._same(marks).place)
        return -(-missing // _MESSAGE_BYTES), missing

    def shipped(self, marks: Mapping[str, str]) -> None:
        self._kept = Mark.parse(marks[""]).place
        if self._stream is not None:
            with suppress(psycopg.OperationalError):  # then the server keeps more than it need
                self._stream.keep(self._kept)

    # -- the slot --------------------------------------------------------------------------------------------------------------

    def _same(self, marks: Mapping[str, str]) -> Mark:
        """Raises Gap if they are of another cluster."""
        mark = Mark.parse(marks[""])
        if mark.system != self._asking.identity().system:
            raise Gap(f"{self._server.shown} is another cluster now: its system identifier is not the one of before")
        return mark

    def _reserve(self) -> int:
        """Make the slot anew. Gives from where on the server keeps its log."""
        _drop(self._asking, self._slot)
        self._asking.ask(f'CREATE_REPLICATION_SLOT "{self._slot}" PHYSICAL (RESERVE_WAL true)')
        return lsn_number(str(_slot_row(self._asking, self._slot)[1]))

    # -- the stream ------------------------------------------------------------------------------------------------------------

    def _gathered(self) -> tuple[list[Change], bool]:
        """What the server has flushed until now, or as much as fits; and whether there is more. Raises Gap, Unreadable or
        Unreachable."""
        rows: list[Stretch] = []
        began = time.monotonic()
        while True:
            try:
                more = self._fill(rows)
                return changes_of(rows), more
            except (psycopg.OperationalError, Unreachable, Unreadable) as error:
                self._leave()
                said = " ".join(str(error).split())
                if rows:  # what came is given first
                    return changes_of(rows), True
                if any(words in said for words in _GONE):
                    raise Gap(
                        f"{self._server.shown} has not the log after {lsn_text(self._mark.place)} any more: {said}"
                    ) from error
                if isinstance(error, Unreadable) and not any(words in said for words in (*_NO_SLOT, _ACTIVE)):
                    raise
                if time.monotonic() - began > _PATIENCE_SECONDS:
                    raise Unreachable(f"{self._server.shown}: {said}", hint="see whether another follower runs") from error
                self._again(slot=any(words in said for words in _NO_SLOT))

    def _again(self, *, slot: bool) -> None:
        """After a pause, connect anew; make the slot anew if it is lost."""
        time.sleep(_PAUSE_SECONDS)
        with suppress(Unreachable, Unreadable):
            self._asking.close()
            self._asking = Replication(self._server)
            if slot:
                self._reserve()

    def _fill(self, rows: list[Stretch]) -> bool:
        goal, until = self._asking.identity().flushed, time.monotonic() + _READ_SECONDS
        size = 0
        if goal < self._mark.place:
            raise Gap(
                f"{self._server.shown} has another history: its log ends at {lsn_text(goal)}, ours at {lsn_text(self._mark.place)}"
            )
        while self._mark.place < goal:
            stream = self._stream or self._start()
            heard = stream.next(_ASK_SECONDS)
            if isinstance(heard, Wal):
                self._take(heard, rows)
                size += len(heard.content)
            elif isinstance(heard, Switch):
                self._switch(heard, rows)
            if size >= _READ_BYTES or time.monotonic() > until:
                return True
        return False

    def _start(self) -> Replication:
        stream = Replication(self._server)
        try:
            stream.start(self._slot, self._mark.place, self._mark.timeline, self._kept)
        except BaseException:
            stream.close()
            raise
        self._stream = stream
        return stream

    def _take(self, wal: Wal, rows: list[Stretch]) -> None:
        """Add what was sent, cut where a file of the log ends."""
        if wal.place != self._mark.place:
            raise Gap(f"{self._server.shown} sent its log from {lsn_text(wal.place)} on, not from {lsn_text(self._mark.place)}")
        at = 0
        while at < len(wal.content):
            place = wal.place + at
            piece = wal.content[at : at + self._segment_bytes - place % self._segment_bytes]
            at += len(piece)
            self._mark = replace(self._mark, place=place + len(piece))
            rows.append(Stretch(self._mark, wal.time, place, piece))

    def _switch(self, switch: Switch, rows: list[Stretch]) -> None:
        """Another timeline goes on: its history says so, then its log is sent."""
        assert self._stream is not None  # noqa: S101 - it spoke
        if switch.place != self._mark.place:
            raise Gap(f"timeline {switch.timeline} began at {lsn_text(switch.place)}, not at {lsn_text(self._mark.place)}")
        history = str(self._asking.ask(f"TIMELINE_HISTORY {switch.timeline}")[0][1]).encode()
        self._mark = replace(self._mark, timeline=switch.timeline)
        rows.append(Stretch(self._mark, time.time_ns() // 1000, switch.place, b"", history))
        self._stream.start(self._slot, switch.place, switch.timeline, self._kept)

    def _leave(self) -> None:
        if self._stream is not None:
            self._stream.close()
        self._stream = None


def changes_of(rows: Sequence[Stretch]) -> list[Change]:
    """As the journal has them."""
    if not rows:
        return []
    columns = [
        pa.array([int(Act.INSERT)] * len(rows), pa.int8()),
        pa.array([one.time for one in rows], pa.int64()),
        pa.array([str(one.mark) for one in rows], pa.utf8()),
        pa.nulls(len(rows), pa.utf8()),
        pa.array([one.place for one in rows], pa.int64()),
        pa.array([one.mark.timeline for one in rows], pa.int64()),
        pa.array([one.content for one in rows], pa.large_binary()),
        pa.array([one.history for one in rows], pa.large_binary()),
    ]
    return [RowChanges(NAME, NAME, pa.record_batch(columns, schema=SCHEMA))]


def _slot(holder: str) -> str:
    return f"strongroom_wal_{holder}"


def _slot_row(connection: Replication, slot: str) -> tuple[str | None, ...]:
    """Its type (None if there is no such slot), and from where on it keeps the log."""
    return connection.ask(f'READ_REPLICATION_SLOT "{slot}"')[0]


def _drop(connection: Replication, slot: str) -> bool:
    """The server takes a while to see that a reader is gone. Raises Unreadable if one still reads after a minute."""
    until = time.monotonic() + _PATIENCE_SECONDS
    while _slot_row(connection, slot)[0] is not None:
        try:
            connection.ask(f'DROP_REPLICATION_SLOT "{slot}"')
            return True
        except Unreadable as error:
            if _ACTIVE not in str(error) or time.monotonic() > until:
                raise
            time.sleep(_ASK_SECONDS)
    return False
