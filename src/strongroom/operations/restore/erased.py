"""Which erasures concern a snapshot, and do rows that they mean lie in it? Asked by every restore, and by `erase` itself."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from strongroom.model import Selection
from strongroom.operations.journal.moment import MomentPlan
from strongroom.operations.restore.erased_rows import NOTHING_ERASED, Erased, erased_among
from strongroom.repository import Repository
from strongroom.repository.erasures import Erasure, erasures
from strongroom.snapshots.history import Snapshot
from strongroom.snapshots.holding import subject_of
from strongroom.snapshots.manifest import StoredCollection
from strongroom.snapshots.tenant_parts import opened


def erased_in(repository: Repository, snapshot: Snapshot, moment: MomentPlan | None, selection: Selection) -> Erased:
    """What may not come back of a snapshot, or of a moment after it. Filters are asked of the rows that are there, not of
    those that were there when it was erased; those of a moment are asked of its rows once they are there. Raises Damaged."""
    concerned = concerning(erasures(repository), snapshot)
    shredded = _shredded(snapshot)
    if not concerned:
        return Erased(why=shredded) if shredded else NOTHING_ERASED
    if moment is None:
        rows = sum(rows_in(repository, concerned, snapshot, selection).values())
        why = f"{rows:,} rows were erased: what is left is loaded" if rows else ""
        columns = {one.name: one.tenant_column for one in snapshot.manifest.collections if one.tenant_column}
        return Erased(tuple(concerned) if rows else (), "; ".join(filter(None, (shredded, why))), columns)
    return Erased(tuple(concerned), "rows were erased: what is left of the moment's is loaded")


def _shredded(snapshot: Snapshot) -> str:
    """Whose rows an opened snapshot lacks, in words."""
    gone = [f"{rows:,} rows of tenant {one}" for one, rows in sorted(snapshot.shredded.items())]
    return f"{', '.join(gone)} are not in it: they were erased with the key that opens them" if gone else ""


def concerning(found: Sequence[Erasure], snapshot: Snapshot) -> list[Erasure]:
    """Those that may mean rows of a snapshot."""
    subject = subject_of(snapshot.id, snapshot.manifest)
    tenants = subject.tenants | {key.tenant for key in snapshot.unsealing.values()} | snapshot.shredded.keys()
    return [one for one in found if one.what.source in ("", subject.source) and (not one.what.tenant or one.what.tenant in tenants)]


def rows_in(
    repository: Repository, concerned: Sequence[Erasure], snapshot: Snapshot, selection: Selection | None = None
) -> dict[str, int]:
    """How many rows of each collection these erasures mean; those without any are left out. Raises Damaged."""
    found: dict[str, int] = {}
    whole = {one.what.tenant for one in concerned if one.what.is_of_whole_tenant}
    singly = [one for one in concerned if not one.what.is_of_whole_tenant]
    for collection in snapshot.manifest.collections:
        mine = [one for one in concerned if _is_of(one, snapshot, collection)]
        if not mine or (selection is not None and not selection.wants(collection.name)):
            continue
        if collection.tenant_column:
            count = sum(part.rows for part in collection.tenants if part.tenant in whole)
            mine = [one for one in mine if one in singly]
            count += _count(repository, mine, *_opened(repository, snapshot, collection)) if mine else 0
        else:
            count = _count(repository, mine, snapshot, collection)
        if count:
            found[collection.name] = count
    return found


def _is_of(one: Erasure, snapshot: Snapshot, collection: StoredCollection) -> bool:
    return one.what.collection in ("", collection.name)


def _count(repository: Repository, mine: Sequence[Erasure], snapshot: Snapshot, collection: StoredCollection) -> int:
    from strongroom.operations.restore.snapshot_rows import snapshot_rows  # it restores what has no rows of its own

    with tempfile.TemporaryDirectory(prefix="strongroom-erase-") as scratch:
        rows = snapshot_rows(repository, snapshot, collection, Path(scratch))
        return sum(sum(erased_among(mine, collection.name, batch, collection.tenant_column)) for batch in rows)


def _opened(repository: Repository, snapshot: Snapshot, collection: StoredCollection) -> tuple[Snapshot, StoredCollection]:
    whole = opened(repository, snapshot)
    return whole, next(one for one in whole.manifest.collections if one.name == collection.name)
