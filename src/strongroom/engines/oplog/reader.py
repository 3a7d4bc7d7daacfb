"""How is a local log read from a place on, while another process writes it?"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from strongroom.engines.oplog.folder import OplogFolder, Segment, after, make_durable
from strongroom.engines.oplog.layout import (
    HEADER_BYTES,
    MOST_BYTES,
    PROOF,
    End,
    Log,
    Record,
    decode_header,
    number_of,
    records,
    suffix,
)
from strongroom.errors import Gap

READ_BYTES = 2 * MOST_BYTES


class OplogReader:
    """Goes through one log, record by record, across its segments; an open segment stays readable when it is removed."""

    def __init__(self, folder: OplogFolder, log: bytes) -> None:
        self._folder = folder
        self.id = log
        self._segment: Segment | None = None
        self._descriptor = -1
        self._offset = 0
        self.log: Log | None = None
        self.end = End(log)
        self.latest = 0
        """When the last operation that was read happened."""

    def __enter__(self) -> OplogReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def place(self) -> tuple[Segment | None, int]:
        """The segment that is read, and up to which byte."""
        return self._segment, self._offset

    def seek(self, mark: str) -> None:
        """Go on after a mark. Raises Gap if the log doesn't have that place, or it isn't what it was."""
        number = number_of(mark)
        segment = after(self._folder.segments(self.id), number)
        if segment is None:
            raise Gap(f"the log of {self._folder.of} doesn't go back to operation {number}")
        self._open(segment)
        while self.end.number < number:
            found = self._some(number)
            if not found:
                raise Gap(f"the log of {self._folder.of} ends before operation {number}: it is an older copy")
        if suffix(self.id, self.end.chain) != mark.partition(":")[2]:
            raise Gap(f"operation {number} of the log of {self._folder.of} is another one now: it is of another copy")

    def seek_end(self) -> None:
        """Go to where the log ends now. Raises Gap if it has no segment."""
        segments = self._folder.segments(self.id)
        if not segments:
            raise Gap(f"the log of {self._folder.of} is gone")
        self._open(segments[-1])
        while self.read():
            pass

    def read(self) -> Sequence[Record]:
        """The next records, at most READ_BYTES of them; none at the end. They are durable: had the machine lost its power after
        they were kept elsewhere, others could have taken their numbers. Raises Gap if segments went that weren't read."""
        self._ahead, ahead = [], self._ahead
        if ahead:
            return ahead
        found = self._some()
        while not found and self._next():
            found = self._some()
        if found:
            make_durable(self._descriptor)
        return found

    def more(self) -> bool:
        """Is there more already, in this segment or in the next?"""
        length = os.pread(self._descriptor, PROOF.size, self._offset)
        if len(length) == PROOF.size and PROOF.unpack(length)[0]:
            return True
        here = self._segment
        return here is not None and self._folder.segments(self.id)[-1:] > [here]

    def all(self) -> Iterator[Record]:
        """All records up to where the log ends."""
        while found := self.read():
            yield from found

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    _ahead: Sequence[Record] = ()
    """Records of the same read as the mark that was sought."""

    def _some(self, until: int | None = None) -> list[Record]:
        """Records of the open segment; with `until` those after that operation are kept for the next read."""
        content = os.pread(self._descriptor, READ_BYTES, self._offset)
        found = list(records(content, self._offset, self.end))
        if not found and len(content) == READ_BYTES and PROOF.unpack_from(content)[0] > READ_BYTES:  # one row may be so long
            content = os.pread(self._descriptor, PROOF.unpack_from(content)[0], self._offset)
            found = list(records(content, self._offset, self.end))
        if until is not None:
            found = [one for one in found if one.first <= until]
        if found:
            last = found[-1]
            self._offset, self.end, self.latest = last.offset, End(self.id, last.last, last.chain), last.time
            if until is not None and last.last > until:  # a mark may lie within a record
                self._ahead = [last.after(until)]
        return found

    def _next(self) -> bool:
        """Open the segment after the one that ends here."""
        here = self._segment
        later = [one for one in self._folder.segments(self.id) if here is None or one.first > here.first]
        if not later:
            return False
        if later[0].first != self.end.number + 1:
            if self._some_more():
                return False
            raise Gap(f"operations {self.end.number + 1} to {later[0].first - 1} of {self._folder.of} were dropped")
        self._open(later[0])
        return True

    def _some_more(self) -> bool:
        """Did the segment get more while its successor was looked for?"""
        content = os.pread(self._descriptor, READ_BYTES, self._offset)
        return next(records(content, self._offset, self.end), None) is not None

    def _open(self, segment: Segment) -> None:
        try:
            descriptor = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise Gap(f"the log of {self._folder.of} was dropped from operation {segment.first} on") from error
        self.close()
        self._descriptor = descriptor
        self.log, first, chain = decode_header(segment.path.name, os.pread(descriptor, HEADER_BYTES, 0))
        self._segment, self._offset, self.end, self._ahead = segment, HEADER_BYTES, End(self.id, first - 1, chain), []
