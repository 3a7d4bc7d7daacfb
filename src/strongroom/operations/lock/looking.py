"""How is each object that is needed locked, and is it what its name shows?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from strongroom.errors import UnsafeStore
from strongroom.operations.lock.needed import Needed, needed
from strongroom.progress import Progress
from strongroom.repository import Repository
from strongroom.repository.first_versions import FirstVersions
from strongroom.repository.locking import Locking, locking_of
from strongroom.repository.object_lock import ObjectLock, Retention, Version, require_object_lock

T = TypeVar("T")
R = TypeVar("R")
_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Looked:
    """One object that is needed: the version that counts, how that is locked, and what the bucket shows instead ('' if that
    version; 'hidden' behind a delete marker, or 'overwritten')."""

    version: Version
    retention: Retention | None
    shown: str = ""

    @property
    def folder(self) -> str:
        folder, slash, _ = self.version.name.partition("/")
        return folder + slash


@dataclass(frozen=True, slots=True)
class Surveyed:
    """All versions of a repository's objects, what is needed of them, and the repository as it was first stored."""

    lock: ObjectLock
    first: FirstVersions
    view: Repository
    needed: Needed


def survey(repository: Repository, lock: ObjectLock, since: datetime | None = None) -> Surveyed:
    """Raises StoreDenied or UnsafeStore where versions can't be asked for."""
    return surveyed(lock, FirstVersions(lock), repository, since)


def surveyed(lock: ObjectLock, first: FirstVersions, opened: Repository, since: datetime | None) -> Surveyed:
    view = Repository(first, opened.config, opened.keys, opened.identity, opened.clock, opened.signer)
    return Surveyed(lock, first, view, needed(view, first, since))


def look(found: Surveyed, progress: Progress) -> Iterator[Looked]:
    """Each needed object, by name. A request for each."""

    def one(name: str) -> Looked:
        version = found.first.first(name)
        shown = "" if found.first.is_current(name) else "hidden" if found.first.shows(name).is_marker else "overwritten"
        return Looked(version, found.lock.retention(version), shown)

    names = sorted(name for name in found.needed.names if name not in found.first.strange)
    progress.begin("looking at locks", len(names), "objects")
    for looked in at_once(names, one):
        progress.advance(1)
        yield looked


def at_once(items: Iterable[T], work: Callable[[T], R]) -> Iterator[R]:
    """Many requests side by side, results in order; the first failure is raised and ends it."""
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="strongroom-lock") as pool:
        try:
            yield from pool.map(work, items)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def locking(repository: Repository) -> Locking:
    """The locks of a repository that has a rule for them. Raises UnsafeStore if it hasn't."""
    found = locking_of(repository.store)
    if found is None:
        require_object_lock(repository.store.url)
        raise UnsafeStore(
            f"{repository.store.url} has no rule for object lock", hint="declare one: 'strongroom lock set --for 30d'"
        )
    return found
