"""How is the room of what was deleted freed in a bucket that keeps versions? Once its lock has ended, each version is removed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from strongroom.operations.lock.looking import at_once, survey
from strongroom.progress import SILENT, Progress
from strongroom.repository import Repository
from strongroom.repository.first_versions import FirstVersions
from strongroom.repository.locking import locking_of
from strongroom.repository.object_lock import ObjectLock, Version


@dataclass(frozen=True, slots=True)
class Freed:
    """Versions, with their bytes, that were deleted and `went` for good now, and that `stay`, since they are locked or it isn't
    known what is needed (`problems`)."""

    went: tuple[int, ...] = ()
    stay: tuple[int, ...] = ()
    problems: tuple[str, ...] = ()


def free_versions(repository: Repository, grace: timedelta, *, dry_run: bool = False, progress: Progress = SILENT) -> Freed:
    """Remove what lies behind delete markers that are older than a time of grace, nobody needs, and no lock holds. What isn't
    deleted is never touched, nor is anything hidden that is needed: that may be an attacker's work. Repeatable."""
    writer = locking_of(repository.store)
    if writer is None:
        return Freed()
    found = survey(repository, writer.lock)
    shown = [name for name in found.first.strange if not found.first.history[name][0].is_marker]
    latest = writer.lock.now() - grace
    hidden = [
        name
        for name, versions in found.first.history.items()
        if versions[0].is_marker and versions[0].stored <= latest and name not in found.needed.names
    ]
    sizes = tuple(one.size for name in hidden for one in found.first.history[name] if not one.is_marker)
    if shown or found.needed.missing:
        why = [f"{name}: {found.first.strange[name]}" for name in shown] + [
            f"blob {one[:16]} is nowhere" for one in found.needed.missing
        ]
        return Freed((), sizes, tuple(f"{one}: old versions stay" for one in why))
    if dry_run:
        return Freed((), sizes)
    progress.begin("removing old versions", len(hidden), "objects")
    went: list[int] = []
    stay: list[int] = []
    for gone, kept in at_once(hidden, lambda name: _remove(writer.lock, found.first, name)):
        went += gone
        stay += kept
        progress.advance(1)
    return Freed(tuple(went), tuple(stay))


def _remove(lock: ObjectLock, first: FirstVersions, name: str) -> tuple[list[int], list[int]]:
    """Markers go last: until then they hide what is left."""
    versions = first.history[name]
    kept: list[Version] = [one for one in versions if not one.is_marker and not lock.remove(one)]
    if not kept:
        for one in versions:
            if one.is_marker:
                lock.remove(one)
    return [one.size for one in versions if not one.is_marker and one not in kept], [one.size for one in kept]
