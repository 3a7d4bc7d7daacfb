"""How are changes of the journal applied to a staged Chroma directory? Rows through Chroma's own API, which keeps its index; what a
collection is called and how it is configured by sqlite, as in every restore."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from strongroom.engines import isolation
from strongroom.engines.changes import CatalogChange, Change, RowChanges, spool
from strongroom.engines.chroma import edit
from strongroom.engines.chroma.catalog import Address
from strongroom.engines.chroma.creation import create_like
from strongroom.engines.staging import remove
from strongroom.model import Selection

_SPOOL_BYTES = 64 << 20
"""So much is handed over to one process of Chroma's."""


def apply(root: Path, scratch: Path, changes: Iterable[Change], selection: Selection) -> int:
    """Apply changes in order; gives the number of operations. Raises EngineFailed."""
    count = 0
    for step in _steps(changes):
        if isinstance(step, CatalogChange):
            _change_catalog(root, step, selection)
            count += 1
        else:
            count += _change_rows(root, scratch, step)
    return count


def _steps(changes: Iterable[Change]) -> Iterator[CatalogChange | list[RowChanges]]:
    """Row changes gathered, up to the next change of the catalog."""
    gathered: list[RowChanges] = []
    room = _SPOOL_BYTES
    for change in changes:
        if isinstance(change, CatalogChange):
            yield gathered
            gathered, room = [], _SPOOL_BYTES
            yield change
            continue
        gathered.append(change)
        room -= change.batch.nbytes
        if room <= 0:
            yield gathered
            gathered, room = [], _SPOOL_BYTES
    yield gathered


def _change_rows(root: Path, scratch: Path, changes: list[RowChanges]) -> int:
    """Only of collections that are there: what isn't selected isn't."""
    known = {identity: (one.tenant, one.database, one.name) for identity, one in edit.addresses(root).items()} if changes else {}
    wanted = [one for one in changes if one.identity in known]
    if not wanted:
        return 0
    path = scratch / "changes.spool"
    try:
        with path.open("wb") as file:
            count = spool(wanted, file)
        isolation.call("strongroom.engines.chroma.client:apply", str(root), known, str(path))
    finally:
        remove(path)
    return count


def _change_catalog(root: Path, change: CatalogChange, selection: Selection) -> None:
    present = edit.addresses(root)
    doomed = present.keys() - change.present.keys() if change.whole else present.keys() & set(change.gone)
    for identity in sorted(doomed):
        edit.drop(root, present.pop(identity))
    for identity, collection in change.present.items():
        if identity not in present and not selection.wants(collection.name):
            continue
        address = Address.parse(selection.target_name(collection.name))
        if identity not in present:
            create_like(root, address, collection)
        elif present[identity] != address:
            edit.move(root, identity, address)
        edit.give_configuration(root, address, collection.catalog)
