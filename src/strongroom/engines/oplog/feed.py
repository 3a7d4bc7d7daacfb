"""What did a capture record, as the changes that go to the journal?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from strongroom.engines.changes import Change
from strongroom.engines.oplog.folder import OplogFolder
from strongroom.engines.oplog.layout import KIND, Log, Record, mark_of, of_log
from strongroom.engines.oplog.reader import OplogReader
from strongroom.errors import Gap, NotFound

Decode = Callable[[Log, Sequence[Record]], Iterable[Change]]
Begin = Callable[[bytes], str]
"""From which mark of a log on a follower begins, so that a snapshot which is made then can be gone on from. Raises Refused."""


@contextmanager
def following(folder: OplogFolder, holder: str, decode: Decode, begin: Begin) -> Iterator[OplogFeed]:
    """The feed of a captured source. Raises NotFound if it isn't captured."""
    require_log(folder)
    feed = OplogFeed(folder, holder, decode, begin)
    try:
        yield feed
    finally:
        feed.close()


def release(folder: OplogFolder, holder: str) -> bool:
    """Hold nothing back for `holder` any more. Gives whether something was. Raises NotFound if the source isn't captured."""
    require_log(folder)
    held = folder.let_go(holder)
    folder.drop()
    return held


def require_log(folder: OplogFolder) -> None:
    """Raises NotFound if there is no log."""
    if not folder.exists():
        raise NotFound(
            f"{folder.of} has no log: its engine keeps none",
            hint="write through strongroom.capture(...), or follow it with --scan",
        )


class OplogFeed:
    """See `protocol.Feed`. The only scope is ''."""

    kind = KIND

    def __init__(self, folder: OplogFolder, holder: str, decode: Decode, begin: Begin) -> None:
        self._folder = folder
        self._holder = holder
        self._decode = decode
        self._begin = begin
        self._reader: OplogReader | None = None
        self._mark = ""
        self.ended: int | None = None

    def begin(self) -> Mapping[str, str]:
        current = self._folder.log_id()
        if current is None:
            raise NotFound(f"the log of {self._folder.of} is gone")
        mark = self._begin(current)
        self._go(current, mark)
        self._folder.hold(self._holder, mark)
        return {"": mark}

    def resume(self, marks: Mapping[str, str]) -> None:
        mark = marks[""]
        logs = dict.fromkeys(one.log for one in self._folder.segments())
        log = next((one for one in logs if of_log(mark, one)), None)
        if log is None:
            raise Gap(f"the log of {self._folder.of} is another one: it was captured anew")
        if any(record.operations for record in self._go(log, mark).all()) or log == self._folder.log_id():
            self._go(log, mark)
        else:
            raise Gap(f"the log of {self._folder.of} ended here: it was captured anew")
        self._folder.hold(self._holder, mark)

    def read(self) -> tuple[Sequence[Change], Mapping[str, str], bool]:
        reader = self._reader
        assert reader is not None  # noqa: S101 - begun or resumed
        goes_on = self._folder.log_id() == reader.end.log  # asked before: what came before another log began is read
        found = reader.read()
        if not found and not goes_on:
            self.ended = reader.latest or None
            raise Gap(f"the log of {self._folder.of} ended with operation {reader.end.number}: it was captured anew")
        if not found:
            return [], {"": self._mark}, False
        assert reader.log is not None  # noqa: S101 - it has read
        for record in found:
            if record.operations:
                self._mark = mark_of(reader.log.id, record.last, record.chain)
        return list(self._decode(reader.log, found)), {"": self._mark}, not goes_on or reader.more()

    def behind(self, marks: Mapping[str, str]) -> tuple[int, int]:
        mark = marks[""]
        current = self._folder.log_id()
        if current is None or not of_log(mark, current):
            raise Gap(f"the log of {self._folder.of} is another one")
        with OplogReader(self._folder, current) as reader:
            reader.seek(mark)
            count = size = 0
            for record in reader.all():
                if record.operations:
                    count, size = count + record.operations, size + len(record.body)
            return count, size

    def shipped(self, marks: Mapping[str, str]) -> None:
        self._folder.hold(self._holder, marks[""])
        self._folder.drop()

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()

    def _go(self, log: bytes, mark: str) -> OplogReader:
        self.close()
        self._reader = OplogReader(self._folder, log)
        self._reader.seek(mark)
        self._mark = mark
        return self._reader
