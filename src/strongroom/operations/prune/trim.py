"""Which journal segments go with the snapshots that were forgotten? Those that no moment after a kept snapshot needs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from strongroom.journal.retention import first_needed, trim
from strongroom.journal.segments import segment_name
from strongroom.journal.spans import spans
from strongroom.journal.stream import read_chain, streams
from strongroom.operations.journal.moment import reader
from strongroom.repository import Repository
from strongroom.snapshots import history
from strongroom.snapshots.history import Snapshot
from strongroom.snapshots.holding import Holding, holding


def trim_journals(repository: Repository, *, dry_run: bool) -> dict[str, int]:
    """Names and bytes of the segments that go. A stream of which a segment can't be read is left alone; so are all if a manifest
    can't be."""
    snapshots, damaged = history.read_all(repository)
    going: dict[str, int] = {}
    for stream, sizes in () if damaged else streams(repository).items():
        chain = read_chain(repository, stream, sizes)
        if chain.problems or chain.last is None:
            continue
        bases = [one.manifest.position for one in snapshots if one.manifest.source == chain.last.head.source]
        first = first_needed(spans(chain), bases, reader(repository))
        source = chain.last.head.source
        if _is_held(repository, snapshots, source):
            continue
        if dry_run:
            going |= {segment_name(stream, number): size for number, size in sizes.items() if number < first}
        else:
            going |= trim(repository, stream, first, sizes, partial(_is_held, repository, snapshots, source))
    return going


def _is_held(repository: Repository, snapshots: Sequence[Snapshot], source: str) -> bool:
    """Does a hold cover a collection, a tenant or all of this source? Then its journal stays whole."""
    broad = Holding(tuple(one for one in holding(repository).holds if one.scope.is_broad))
    return any(broad.over(one) for one in snapshots if one.manifest.source == source)
