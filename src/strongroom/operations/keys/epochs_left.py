"""What is still sealed by the keys of which epoch? Told by the first bytes of the objects themselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from strongroom.errors import NotFound
from strongroom.progress import SILENT, Progress
from strongroom.repository import PACKS, Repository
from strongroom.repository.carrying import START_BYTES, start_of
from strongroom.repository.framing import Kind
from strongroom.repository.store import Listed

_READERS = 16
_OF_NO_EPOCH = ("keys/", "keyring/", "sessions/", "leaving/", "probe/", "config")


@dataclass(frozen=True, slots=True)
class Sealed:
    """An object as it lies in the store (be it one that carries another), its bytes, and the epoch whose key seals it."""

    name: str
    size: int
    kind: Kind
    epoch: int


@dataclass(frozen=True, slots=True)
class EpochLeft:
    """How much is sealed by the keys of an epoch: objects, bytes, and of these packs."""

    epoch: int
    objects: int
    bytes: int
    packs: int


def sealed_by(repository: Repository, *, believe_index: bool = False, progress: Progress = SILENT) -> Iterator[Sealed]:
    """All objects of the store with their epochs. `believe_index`: of packs that the blob index lists it says the epoch, which
    saves a request each; else everything is asked."""
    index = repository.index.packs if believe_index else {}
    store, keys = repository.store.inner, repository.keys

    def look(listed: Listed) -> Sealed | None:
        pack = index.get(listed.name.rpartition("/")[2]) if listed.name.startswith(PACKS) else None
        if pack is not None:
            return Sealed(listed.name, listed.size, Kind.PACK, keys.number_of(pack.salt))
        with suppress(NotFound):
            found = start_of(store.read(listed.name, 0, START_BYTES))
            if found is not None:
                return Sealed(listed.name, listed.size, found[0], keys.number_of(found[1]))
        return None

    with ThreadPoolExecutor(_READERS, thread_name_prefix="strongroom-epochs") as pool:
        listed = [one for one in store.list("") if not one.name.startswith(_OF_NO_EPOCH)]
        progress.begin("reading headers", len(listed), "objects")
        for found in pool.map(look, listed):
            progress.advance(1)
            if found is not None:
                yield found


def by_epoch(objects: Iterable[Sealed]) -> tuple[EpochLeft, ...]:
    """Summed up, the oldest epoch first."""
    found: dict[int, list[Sealed]] = {}
    for one in objects:
        found.setdefault(one.epoch, []).append(one)
    return tuple(_sum(epoch, some) for epoch, some in sorted(found.items()))


def _sum(epoch: int, objects: list[Sealed]) -> EpochLeft:
    return EpochLeft(epoch, len(objects), sum(one.size for one in objects), sum(one.kind == Kind.PACK for one in objects))
