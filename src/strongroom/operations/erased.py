"""Which erasures concern a snapshot, and do rows that they mean lie in it? Asked by every restore, and by `erase` itself."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from strongroom.model import Selection
from strongroom.operations.erased_rows import NOTHING_ERASED, Erased, erased_among
from strongroom.operations.restore_moment import MomentPlan
from strongroom.repository import Repository
from strongroom.repository.erasures import Erasure, erasures
from strongroom.snapshots.history import Snapshot
from strongroom.snapshots.holding import subject_of
from strongroom.snapshots.manifest import StoredCollection


def erased_in(repository: Repository, snapshot: Snapshot, moment: MomentPlan | None, selection: Selection) -> Erased:
    """What may not come back of a snapshot, or of a moment after it. Filters are asked of the rows that are there, not of
    those that were there when it was erased; those of a moment are asked of its rows once they are there. Raises Damaged."""
    concerned = concerning(erasures(repository), snapshot)
    if not concerned:
        return NOTHING_ERASED
    if moment is None:
        rows = sum(rows_in(repository, concerned, snapshot, selection).values())
        return Erased(tuple(concerned), f"{rows:,} rows were erased: what is left is loaded") if rows else NOTHING_ERASED
    return Erased(tuple(concerned), "rows were erased: what is left of the moment's is loaded")


def concerning(found: Sequence[Erasure], snapshot: Snapshot) -> list[Erasure]:
    """Those that may mean rows of a snapshot."""
    subject = subject_of(snapshot.id, snapshot.manifest)
    return [
        one
        for one in found
        if one.what.source in ("", subject.source) and (not one.what.tenant or one.what.tenant in subject.tenants)
    ]


def rows_in(
    repository: Repository, concerned: Sequence[Erasure], snapshot: Snapshot, selection: Selection | None = None
) -> dict[str, int]:
    """How many rows of each collection these erasures mean; those without any are left out. Raises Damaged."""
    found: dict[str, int] = {}
    for collection in snapshot.manifest.collections:
        mine = [one for one in concerned if _is_of(one, snapshot, collection)]
        if not mine or (selection is not None and not selection.wants(collection.name)):
            continue
        count = _count(repository, mine, snapshot, collection)
        if count:
            found[collection.name] = count
    return found


def _is_of(one: Erasure, snapshot: Snapshot, collection: StoredCollection) -> bool:
    return one.what.collection in ("", collection.name)


def _count(repository: Repository, mine: Sequence[Erasure], snapshot: Snapshot, collection: StoredCollection) -> int:
    from strongroom.operations.snapshot_rows import snapshot_rows  # it restores what has no rows of its own

    with tempfile.TemporaryDirectory(prefix="strongroom-erase-") as scratch:
        rows = snapshot_rows(repository, snapshot, collection, Path(scratch))
        return sum(sum(erased_among(mine, collection.name, batch)) for batch in rows)
