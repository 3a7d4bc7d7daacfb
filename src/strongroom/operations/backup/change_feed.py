"""Which rows of a collection need a backup not read, since the engine says that they lie as they lay at the snapshot before?

Only where all else that a reading is for is known too: the rows' whole fingerprints, for the root, and queries with their exact
answers, for the probes. Else every row is read, which gives the same snapshot and costs time only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from strongroom.engines.protocol import ChangeFeed, Frozen
from strongroom.errors import Damaged
from strongroom.model import Collection, Stretch
from strongroom.operations.backup.predecessor import Predecessor
from strongroom.snapshots import probes
from strongroom.snapshots.probes import Probes


@dataclass(frozen=True, slots=True)
class Unread:
    """What the engine says of a collection since the snapshot before: where rows are the same. `schema` is that of all rows,
    `sealed` the queries of every field with the answers that were right then."""

    stretches: tuple[Stretch, ...]
    schema: str
    sealed: Mapping[str, Probes]


def unread(frozen: Frozen, collection: Collection, before: Predecessor, queries: int) -> Unread | None:
    """What need not be read of a collection, None if all of it must be. `queries` are wanted of each field."""
    then = before.collection(collection.name)
    record = before.snapshot.manifest if before.snapshot else None
    if not isinstance(frozen, ChangeFeed) or then is None or record is None:
        return None
    known = sealed(frozen, collection, before, queries)
    stretches = tuple(frozen.unchanged(collection.name, then.catalog, record.position)) if known is not None else ()
    return Unread(stretches, then.schema, known) if stretches and known is not None else None


def sealed(frozen: Frozen, collection: Collection, before: Predecessor, queries: int) -> dict[str, Probes] | None:
    """The probes of every field with the answers that were right at the snapshot before; None if those of one can't go on."""
    then = before.collection(collection.name)
    if then is None or not before.made_alike(frozen.description.engine_version):
        return None
    sets, found = {one.field: one.blob for one in then.probes}, dict[str, Probes]()
    measures = {one.name: one.metric for one in then.catalog.fields}
    for field in collection.fields if queries else ():
        blob = sets.get(field.name, "")
        if not blob or measures.get(field.name) != field.metric or not before.has(blob):
            return None
        try:
            one = probes.decode(before.repository.read_blob(bytes.fromhex(blob)))
        except Damaged:
            return None
        if one.k != probes.K or one.rows is None:
            return None
        found[field.name] = one
    return found
