"""Is every segment of every journal there, whole, and the successor of the one before?"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from strongroom.errors import Damaged
from strongroom.journal.retention import trimmed
from strongroom.journal.segments import segment_name
from strongroom.journal.spans import spans
from strongroom.journal.stream import Chain, read_chain, read_changes, streams
from strongroom.operations.verify.examination import Examination


def check_journals(look: Examination, *, data: bool) -> None:
    """All heads, and with `data` all operations too."""
    try:
        kept_from = trimmed(look.repository)
    except Damaged as error:
        look.find(error.subject, error.problem)
        kept_from = {}
    present = streams(look.repository)
    look.progress.begin("journal", sum(map(len, present.values())), "objects")
    for stream, sizes in present.items():
        chain = read_chain(look.repository, stream, sizes)
        look.count("journal segments", len(sizes))
        for problem in chain.problems:
            look.find(problem.subject, problem.problem)
        _check_beginning(look, chain, sizes, kept_from.get(stream, 0))
        if data:
            _check_operations(look, chain)


def _check_beginning(look: Examination, chain: Chain, present: Iterable[int], kept_from: int) -> None:
    for number in range(kept_from, min(present, default=kept_from)):
        look.find(segment_name(chain.stream, number), "missing")


def _check_operations(look: Examination, chain: Chain) -> None:
    for front in (front for span in spans(chain) for front in span.fronts):
        try:
            deque(read_changes(look.repository, front), maxlen=0)
        except Damaged as error:
            look.find(error.subject, error.problem)
        look.progress.advance(1)
