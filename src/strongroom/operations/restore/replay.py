"""What does a restored index answer to the sealed queries?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from strongroom.engines.protocol import Frozen
from strongroom.errors import EngineFailed
from strongroom.model import Answers, Selection
from strongroom.repository import Repository
from strongroom.snapshots import probes
from strongroom.snapshots.manifest import ProbeSet, StoredCollection
from strongroom.snapshots.probes import Probes

Replayed = tuple[str, ProbeSet, Probes, Answers]
"""Collection, set of probes, what was sealed, what is answered now."""


def names_of(frozen: Frozen) -> list[str]:
    """The collections of a frozen state."""
    return [collection.name for collection in frozen.description.collections]


def actual_name(frozen: Frozen, wanted: str) -> str:
    """The collection of that name, or the only one: an index file's collection is called as the file is."""
    collections = frozen.description.collections
    return collections[0].name if len(collections) == 1 else wanted


def replay(repository: Repository, frozen: Frozen, chosen: Sequence[StoredCollection], selection: Selection) -> Iterator[Replayed]:
    """Every set of probes with what the restored index answers to it: collection, set, sealed probes, given answers. Left out are
    those that the engine can't answer and couldn't answer at the source either. Raises EngineFailed for others."""
    for collection in chosen:
        name = actual_name(frozen, selection.target_name(collection.name))
        for probe in collection.probes:
            sealed = probes.decode(repository.read_blob(bytes.fromhex(probe.blob)))
            try:
                given = ask(frozen, name, probe.field, sealed)
            except EngineFailed:
                if probe.live:
                    raise
                continue
            yield name, probe, sealed, given


def ask(frozen: Frozen, collection: str, field: str, sealed: Probes) -> Answers:
    """What the index answers to the sealed queries. Raises EngineFailed."""
    return frozen.search(collection, field_name(frozen, collection, field), sealed.queries, sealed.k)


def field_name(frozen: Frozen, collection: str, wanted: str) -> str:
    """The field to ask: the one of that name, or the only one, whatever the engine calls it."""
    names = [one.name for one in frozen.description.collection(collection).fields]
    if wanted in names:
        return wanted
    if len(names) == 1:
        return names[0]
    raise EngineFailed(f"{collection} has no vector field {wanted!r} any more")
