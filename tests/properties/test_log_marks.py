"""Of a log that only its engine reads: does a snapshot hold every stretch of which any byte lies before its place, and no other?"""

from __future__ import annotations

from any_changes import SOURCE, chain_of, new_room
from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom.engines.changes import Change
from strongroom.engines.pgvector.physical.feed import KIND, Mark, Stretch, changes_of
from strongroom.journal.marks import numbers_of
from strongroom.journal.retention import first_needed
from strongroom.journal.sealing import Sealer, Writer
from strongroom.journal.segments import Front
from strongroom.journal.spans import spans
from strongroom.journal.stream import read_changes, stream_of
from strongroom.model import Position


@given(st.lists(st.lists(st.integers(1, 9), max_size=4), min_size=1, max_size=4), st.integers(-3, 60), st.integers(0, 5))
@settings(max_examples=150, deadline=None)
def test_what_a_snapshot_holds_of_a_log(cut: list[list[int]], ahead: int, switch: int) -> None:
    room = new_room()
    begin = place = 1_000
    mark = Mark(begin, "7", 1)
    writer = Writer(stream_of(room.repository, SOURCE), SOURCE, "pgvector+physical", "here", 1, KIND)
    sealer = Sealer(room.repository, writer, None, {"": str(mark)})
    ends: list[int] = []
    for segment in cut:
        rows = []
        for length in segment:
            mark = Mark(place + length, "7", 1 if len(ends) < switch else 2)
            rows.append(Stretch(mark, 5, place, b"x" * length))
            place += length
            ends.append(place)
        sealer.add(changes_of(rows), {"": str(mark)}, 5)
        sealer.seal()
    (span,) = spans(chain_of(room))

    def read(front: Front) -> list[Change]:
        return list(read_changes(room.repository, front))

    def held(at: int, system: str = "7") -> int | None:
        numbers = numbers_of(span, Position(KIND, str(Mark(at, system, 1))), read)
        return None if numbers is None else numbers[""]

    at = begin + ahead
    if not begin <= at <= place:
        assert held(at) is None
        return
    assert held(at, "8") is None
    whole = sum(end - length < at for length, end in zip([one for segment in cut for one in segment], ends, strict=True))
    assert held(at) == whole
    # nothing that comes after it is trimmed
    first = first_needed([span], [Position(KIND, str(Mark(at, "7", 1)))], read)
    assert all(front.head.last <= whole for front in span.fronts if front.head.sequence < first)
