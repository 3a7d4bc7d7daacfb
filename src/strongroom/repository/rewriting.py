"""How the small objects of a repository are kept few: new ones that say the same are stored before the old ones go.

A reader that listed an old one and doesn't find it looks again, and finds the new one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator

from strongroom.errors import Damaged
from strongroom.repository import tombstones
from strongroom.repository.pack_listing import INDEX
from strongroom.repository.packs import Pack
from strongroom.repository.repository import Repository
from strongroom.repository.tombstones import Tombstone, What, earliest

_SMALL_BYTES = 1 << 20
_MANY = 8
_BLOBS = 200_000
"""In one index object; 8 MB."""


def rewrite_index(repository: Repository, gone: Collection[str]) -> int:
    """Let no index object list the packs that are `gone`, and merge small objects if they are many. Gives how many were replaced.

    What is said of other packs is said at any moment by an old object or a new one; a pack's own directory repeats it.
    """
    replaced: list[str] = []
    small: list[str] = []
    listed: dict[str, list[Pack]] = {}
    for one in list(repository.store.list(INDEX)):
        packs = repository.read_index_object(one.name)
        if isinstance(packs, Damaged):
            continue
        listed[one.name] = packs
        if any(pack.id in gone for pack in packs):
            replaced.append(one.name)
        elif one.size < _SMALL_BYTES:
            small.append(one.name)
    if len(small) > _MANY:
        replaced += small
    settled = repository.index.packs  # where two index objects disagree about a pack
    kept = {pack.id: settled.get(pack.id, pack) for name in replaced for pack in listed[name] if pack.id not in gone}
    for group in _groups(kept.values()):
        repository.add_index(group)
    for name in replaced:
        repository.store.delete(name)
    return len(replaced)


def renew_index(repository: Repository, outdated: Collection[str]) -> list[str]:
    """Say with the newest key what these index objects say; each goes once all of it reads back. Gives the names of those that
    stay: they can't be read, or what took their place can't."""
    listed: dict[str, list[Pack]] = {}
    for name in outdated:
        packs = repository.read_index_object(name)
        if not isinstance(packs, Damaged):
            listed[name] = packs
    for group in _groups({pack.id: pack for packs in listed.values() for pack in packs}.values()):
        repository.add_index(group)
    said: set[str] = set()
    for one in repository.store.list(INDEX):
        packs = [] if one.name in outdated else repository.read_index_object(one.name)
        said.update(() if isinstance(packs, Damaged) else (pack.id for pack in packs))
    going = [name for name, packs in listed.items() if said.issuperset(pack.id for pack in packs)]
    for name in going:
        repository.store.delete(name)
    return sorted(set(outdated) - set(going))


def _groups(packs: Iterable[Pack]) -> Iterator[list[Pack]]:
    group: list[Pack] = []
    blobs = 0
    for pack in packs:
        if group and blobs + len(pack.blobs) > _BLOBS:
            yield group
            group, blobs = [], 0
        group.append(pack)
        blobs += len(pack.blobs)
    yield group


def merge_forgotten(repository: Repository) -> int:
    """One tombstone for all snapshots that were forgotten, if there are many. Gives how many were replaced."""
    buried = repository.tombstones(What.FORGOTTEN)
    if len(buried) <= _MANY:
        return 0
    since = earliest(buried)
    parents = {parent for tombstone in buried for parent in tombstone.parents} - since.keys()
    tombstones.bury(repository.store, repository.keys, Tombstone(What.FORGOTTEN, since, tuple(parents)))
    return _drop(repository, buried, lambda _: True)


def drop_settled(repository: Repository, what: What, matters: Callable[[str], bool]) -> int:
    """Drop the tombstones of which no pack matters any more."""
    return _drop(repository, repository.tombstones(what), lambda tombstone: not any(matters(one) for one in tombstone.since))


def _drop(repository: Repository, buried: Iterable[Tombstone], is_settled: Callable[[Tombstone], bool]) -> int:
    settled = [tombstone for tombstone in buried if is_settled(tombstone)]
    for tombstone in settled:
        repository.store.delete(tombstone.name)
    return len(settled)
