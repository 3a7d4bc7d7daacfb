"""Which ingest batches are in a journal: how many operations and rows, and when?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from strongroom.engines.changes import BATCH, CatalogChange
from strongroom.journal.overlay import ids_of
from strongroom.journal.spans import Read, Span, spans
from strongroom.journal.stream import read_chain
from strongroom.operations.journal.moment import reader, stream_named
from strongroom.operations.journal.status import iso
from strongroom.repository import Repository

_TOLD = 4


@dataclass(frozen=True, slots=True)
class Batch:
    """An ingest batch (None: operations that name none): how many operations, on how many rows of which collections, and when (UTC)
    the first and the last of them was."""

    batch: str | None
    operations: int
    rows: int
    collections: tuple[str, ...]
    first: str
    last: str


@dataclass
class _Gathered:
    operations: int = 0
    rows: set[tuple[str, str]] = field(default_factory=set)
    collections: dict[str, None] = field(default_factory=dict)
    first: int = 0
    last: int = 0


def journal_batches(repository: Repository, source: str | None = None) -> list[Batch]:
    """By time of the first operation. Raises NotFound (no journal), WrongRequest (several sources) or Damaged."""
    return batches_of(spans(read_chain(repository, stream_named(repository, source))), reader(repository, 1))


def batches_of(found: Sequence[Span], read: Read) -> list[Batch]:
    """Those of some spans. Memory: about 100 bytes for each row that a batch touched."""
    gathered = dict[str | None, _Gathered]()
    for change in (change for span in found for front in span.fronts for change in read(front)):
        if isinstance(change, CatalogChange):
            continue
        tags = change.batch.column(BATCH).to_pylist()
        for tag, one, time in zip(tags, ids_of(change.batch), change.times().tolist(), strict=True):
            held = gathered.setdefault(tag, _Gathered(first=time))
            held.operations += 1
            held.last = time
            held.rows.add((change.identity, one))
            held.collections[change.name] = None
    return [
        Batch(tag, one.operations, len(one.rows), tuple(one.collections), iso(one.first), iso(one.last))
        for tag, one in sorted(gathered.items(), key=lambda item: item[1].first)
    ]


def named(found: Sequence[Batch]) -> str:
    """The last few batches, as one line tells them."""
    tagged = [one for one in found if one.batch is not None]
    told = [f"{one.batch} ({one.operations:,} operations, {one.first[:19]}Z to {one.last[:19]}Z)" for one in tagged[-_TOLD:]]
    more = len(tagged) - len(told)
    return ", ".join(told) + (f" and {more} earlier: see 'strongroom journal batches'" if more > 0 else "")
