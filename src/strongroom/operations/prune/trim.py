"""Which journal segments go with the snapshots that were forgotten? Those that no moment after a kept snapshot needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial

from strongroom.errors import Damaged
from strongroom.journal.ends import beginnings, stream_names
from strongroom.journal.retention import first_needed, trim
from strongroom.journal.segments import segment_name
from strongroom.journal.spans import spans
from strongroom.journal.stream import read_front, segments_of
from strongroom.model import Position
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
    for stream in () if damaged else stream_names(repository):
        sizes = segments_of(repository, stream)
        with suppress(Damaged):
            source = read_front(repository, segment_name(stream, max(sizes))).head.source if sizes else ""
            bases = [one.manifest.position for one in snapshots if one.manifest.source == source]
            first = _first_needed(repository, stream, sizes, bases)
            if _is_held(repository, snapshots, source):
                continue
            if dry_run:
                going |= {segment_name(stream, number): size for number, size in sizes.items() if number < first}
            else:
                going |= trim(repository, stream, first, sizes, partial(_is_held, repository, snapshots, source))
    return going


def _first_needed(repository: Repository, stream: str, sizes: Mapping[int, int], bases: Sequence[Position]) -> int:
    """By the beginning of a stream, if its operations have one order: what comes later then is of later snapshots. 0 if a segment
    of it can't be read."""
    if len(sizes) != max(sizes, default=-1) - min(sizes, default=0) + 1:
        return 0
    for chain in beginnings(repository, stream, sizes):
        if chain.problems:
            return 0
        scopes = {scope for front in chain.fronts for scope in (*front.head.begins, *front.head.ends)}
        if chain.whole or scopes <= {""}:
            first = first_needed(spans(chain), bases, reader(repository))
            if first is not None:
                return first
    return 0


def _is_held(repository: Repository, snapshots: Sequence[Snapshot], source: str) -> bool:
    """Does a hold cover a collection, a tenant or all of this source? Then its journal stays whole."""
    broad = Holding(tuple(one for one in holding(repository).holds if one.scope.is_broad))
    return any(broad.over(one) for one in snapshots if one.manifest.source == source)
