"""Which of a snapshot's collections do the operations after it mean? Pure.

An operation names a collection by its identity, which lasts when it is renamed; a snapshot has what its engine keeps about it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from strongroom.engines.changes import CatalogChange, Change
from strongroom.model import Collection


def identities_of(
    collections: Sequence[Collection], after: Iterable[Change], before: Callable[[], Iterable[Change]]
) -> dict[str, str]:
    """The identity of each collection, by its name in the snapshot: the one that its catalog holds, else that of the name it had
    then. `after` and `before` are the operations after and before it; those before are only asked for if need be."""
    named = dict[str, str]()
    for change in after:
        if isinstance(change, CatalogChange):
            mentioned = {**{identity: one.name for identity, one in change.present.items()}, **dict.fromkeys(change.gone, "")}
        else:
            mentioned = {change.identity: change.name}
        named = {**mentioned, **named}
    found = dict[str, str]()
    for one in collections:
        held = {str(value) for value in one.catalog.values() if isinstance(value, str | int)}
        for identity in held & named.keys():
            found[one.name] = identity
    if len(found) < len(collections) and named.keys() - found.values():
        for identity, name in (*_names_of(before()).items(), *named.items()):
            if identity not in found.values():
                found.setdefault(name, identity)
    return {one.name: found.get(one.name, one.name) for one in collections}


def _names_of(changes: Iterable[Change]) -> dict[str, str]:
    """What the collections were called in the end that were there then."""
    names = dict[str, str]()
    for change in changes:
        if not isinstance(change, CatalogChange):
            names.setdefault(change.identity, change.name)
            continue
        gone = names.keys() - change.present.keys() if change.whole else set(change.gone)
        names = {identity: name for identity, name in names.items() if identity not in gone}
        names |= {identity: one.name for identity, one in change.present.items()}
    return names
