"""How are calls recorded whose source keeps its state itself, so that a kill leaves source and log knowing the same?

What a call may touch is recorded, durably, before it is made; what it changed, and that it is done, after it. A call that was begun
and is not known to be done may have happened, in part or not at all: whoever opens the log, or makes the next call, asks the source
what the touched rows are, and records that. So the log never lacks what the source has, and says nothing that never was.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Self

import pyarrow as pa

from strongroom.engines.changes import Change
from strongroom.engines.oplog.folder import OplogFolder
from strongroom.engines.oplog.gate import Gate
from strongroom.engines.oplog.layout import Kind, Log, Record, mark_of, of_log
from strongroom.engines.oplog.opening import DAMAGED, begin_log, beginning, new_log, require_whole
from strongroom.engines.oplog.reader import OplogReader
from strongroom.engines.oplog.recording import Recording
from strongroom.engines.oplog.rows import catalog_body, changes_of, rows_bodies
from strongroom.engines.oplog.writer import OplogWriter
from strongroom.errors import Gap, Refused, StrongroomError
from strongroom.model import Bytes, Collection, Json


class Outcome:
    """What came of a call, told in the order in which it happened."""

    def __init__(self, append: Callable[[int, list[Bytes]], None]) -> None:
        self._append = append

    def rows(self, name: str, identity: str, batch: pa.RecordBatch) -> None:
        """Rows of a collection changed: `batch` has the column `changes.ACT` before those of its rows, each nullable."""
        for count, body in rows_bodies(name, identity, batch):
            self._append(count, body)

    def catalog(self, present: Mapping[str, Collection], gone: Sequence[str] = (), *, whole: bool = False) -> None:
        """Collections changed: see `changes.CatalogChange`."""
        self._append(1, catalog_body(present, gone, whole))


ReadBack = Callable[[Json, Outcome], None]
"""Tells the outcome what all that a call may have touched, by its intent, is now: rows that are there are put, others deleted."""


class CallRecorder(Recording):
    """Records calls, one at a time."""

    def __init__(
        self, folder: OplogFolder, writer: OplogWriter, end: CallsEnd, read_back: ReadBack, every: float, lock_file: int
    ) -> None:
        self._place = end.place
        self._intent = end.intent
        self._intent_tag = end.tag
        self._read_back = read_back
        self._gate = Gate(folder.path)
        super().__init__(folder, writer, every, lock_file)

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            self._gate.enter()
        except BaseException:
            super().__exit__(None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._gate.leave()
        super().__exit__(kind, *rest)

    @property
    def place(self) -> str:
        """The mark of the last operation. Asked inside, with no call under way, it is what the source holds."""
        return self._place

    @property
    def has_open_call(self) -> bool:
        """Is there a call of which it isn't known what it did? Asked inside."""
        return bool(self._intent)

    @contextmanager
    def call(self, intent: Json) -> Iterator[Outcome]:
        """A call is made within: `intent` says, as JSON, what it may touch. Its outcome is told before the context ends; if it
        fails, the source is asked. Raises Refused if the log can't be trusted, and what `read_back` does about a call before."""
        with self:
            self.require_sound()
            self.require_settled()
            self._intent, self._intent_tag = [intent], self.tag
            self._append(Kind.INTENT, 1, [_padded(intent)], self.tag)
            if not self._every:
                self.flush()  # a loss of power must not leave the source ahead of all that is known
            try:
                yield Outcome(self._changed)
            except Exception:
                with suppress(Exception):  # the call's own problem is told; this is tried again before the next
                    self.require_settled()
                raise
            self._done()
        self.settle()

    def require_settled(self) -> None:
        """Record what a call did that isn't known to be done. Called inside. Raises what asking the source does."""
        if self._intent:
            self._read_back(self._intent[0], Outcome(self._changed))
            self._done()

    def settled(self) -> None:
        """The source has made durable all that was recorded: what was only needed for that is dropped, once it is known what the
        last call did. Called inside."""
        self.flush()
        if not self._intent:  # its record lies before what was told of it already
            self._folder.settled(self._place)
            self._rotate()

    def interrupted(self) -> None:
        """The call isn't done: the source is asked before the next one."""

    def close(self) -> None:
        super().close()
        self._gate.close()

    def _changed(self, count: int, body: list[Bytes]) -> None:
        self._append(Kind.CHANGES, count, body, self._intent_tag)
        self._place = self._writer.end.mark

    def _done(self) -> None:
        self._append(Kind.DONE, 1, [])
        self._intent = []


class CallsEnd:
    """Where a log of calls ends: the mark of its last operation, and the intent of a call that isn't known to be done."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.intent: list[Json] = []
        self.intents = 0
        """How many calls were begun since the place that was begun at."""
        self.tag = b""

    def saw(self, log: Log, record: Record) -> None:
        if record.kind is Kind.INTENT:
            self.intent, self.tag = [_read(record)], record.tag.encode()
            self.intents += 1
        elif record.kind is Kind.DONE:
            self.intent = []
        else:
            self.place = mark_of(log.id, record.last, record.chain)


CatchUp = Callable[[Iterator[Change], CallsEnd], None]


def open_calls(
    folder: OplogFolder,
    about: bytes,
    read_back: ReadBack,
    *,
    every: float,
    anew: bool,
    catch_up: CatchUp | None = None,
) -> CallRecorder:
    """Take the log of a source, or begin one, about what `about` says (at most 16 bytes); settle what a killed process left open.

    `catch_up` is told, before that, what was recorded since the source made all durable (a loss of power may have taken it from the
    source), and where the log ends, once it has gone through all of that. Raises Locked if another process captures, Refused or
    Unreadable if the log is of something else, or damaged."""
    folder.make()
    lock = folder.take_lock()
    try:
        for leftover in folder.path.glob("*.new"):
            leftover.unlink()
        current = folder.log_id()
        if anew or current is None:
            log = _begun(folder, about)
            end = CallsEnd(beginning(log))
        else:
            log, end = _continued(folder, current, about, catch_up)
        recorder = CallRecorder(folder, OplogWriter(folder, log), end, read_back, every, lock)
        with recorder:
            recorder.require_settled()
        with suppress(Gap):
            folder.drop()
        return recorder
    except BaseException:
        with suppress(OSError):
            os.close(lock)
        raise


def end_of(folder: OplogFolder, log: bytes) -> CallsEnd:
    """Where a log of calls ends now. Raises Gap."""
    with OplogReader(folder, log) as reader:
        end = from_settled(folder, reader)
        for record in reader.all():
            end.saw(_of(reader), record)
        return end


def from_settled(folder: OplogFolder, reader: OplogReader) -> CallsEnd:
    """Go to the mark up to which the source is known to have made all durable, else to where the log begins. Raises Gap."""
    mark = folder.current_mark()
    if mark is None or not of_log(mark, reader.id):
        mark = mark_of(reader.id, 0, 0)
    reader.seek(mark)
    return CallsEnd(mark)


def _begun(folder: OplogFolder, about: bytes) -> Log:
    log = new_log(about)
    begin_log(folder, log)
    folder.set_log(log.id, about=about.decode(errors="replace"))
    folder.settled(beginning(log))  # after it: the log before would miss its own
    return log


def _continued(folder: OplogFolder, current: bytes, about: bytes, catch_up: CatchUp | None) -> tuple[Log, CallsEnd]:
    with OplogReader(folder, current) as reader:
        try:
            end = from_settled(folder, reader)
            log = _of(reader)
            if log.about != about:
                raise Refused(f"the log of {folder.of} is of something else", hint="give anew=True to begin another one")
            changes = _changes(reader, log, end)
            if catch_up is not None:
                catch_up(changes, end)
            deque(changes, 0)
        except Gap as gap:
            raise Refused(f"the log of {folder.of} is damaged: {gap}", hint=DAMAGED) from gap
        require_whole(folder, reader)
        return log, end


def _changes(reader: OplogReader, log: Log, end: CallsEnd) -> Iterator[Change]:
    """To where the log ends, which `end` is told."""
    for record in reader.all():
        end.saw(log, record)
        yield from changes_of(log, [record])


def _of(reader: OplogReader) -> Log:
    if reader.log is None:
        raise StrongroomError("no segment is open")
    return reader.log


def _padded(intent: Json) -> bytes:
    """JSON may end with any number of spaces: a record is padded by zeros, which it may not."""
    text = json.dumps(intent).encode()
    return text.ljust(len(text) + 7 & -8)


def _read(record: Record) -> Json:
    return json.loads(bytes(record.body))
