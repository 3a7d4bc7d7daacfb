"""What is locked, until when, and what should be and isn't?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from strongroom.operations.lock.looking import Looked, Surveyed, look, survey
from strongroom.progress import SILENT, Progress
from strongroom.repository import Repository
from strongroom.repository.lock_rules import Rule, rules
from strongroom.repository.locking import locking_of
from strongroom.repository.object_lock import require_object_lock


@dataclass(frozen=True, slots=True)
class FolderLocks:
    """The needed objects of one folder: how many, how many of them are locked, and when the first lock ends (ISO 8601, '' if
    none is)."""

    folder: str
    objects: int
    bytes: int
    locked: int
    until: str


@dataclass(frozen=True, slots=True)
class LockStatus:
    """`rule` that holds (None: none), what the `bucket` does by itself, the locks by folder, when the first of all ends, and
    `findings`: what is not as it must be."""

    url: str
    rule: Rule | None
    bucket: str
    folders: tuple[FolderLocks, ...]
    until: str
    spare_objects: int
    spare_bytes: int
    findings: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.findings


def lock_status(repository: Repository, progress: Progress = SILENT) -> LockStatus:
    """Reads the bucket's versions and a head of each needed object. Raises UnsafeStore where there is no object lock."""
    lock = require_object_lock(repository.store.url)
    found = survey(repository, lock)
    writer = locking_of(repository.store)
    declared = rules(found.first, repository.keys)
    rule = declared[-1] if declared else None
    looked = list(look(found, progress))
    now = lock.now()
    findings = [
        *_of_rule(rule, writer.rule if writer else None),
        *_of_objects(looked, rule, now),
        *(f"blob {blob[:16]}: a snapshot needs it and no pack has it" for blob in found.needed.missing),
        *(f"{name}: {why}" for name, why in sorted(found.first.strange.items())),
    ]
    spare = list(_spare(found))
    return LockStatus(
        lock.url,
        rule,
        lock.bucket.object_lock() or "can't be asked",
        tuple(_by_folder(looked)),
        _soonest(looked),
        len(spare),
        sum(spare),
        tuple(findings),
    )


def _of_rule(declared: Rule | None, used: Rule | None) -> Iterator[str]:
    if declared is None or not declared.is_on:
        yield "no rule for object lock holds: 'strongroom lock set --for 30d' declares one"
    elif used is None or used.id != declared.id:
        yield f"the newest rule ({declared.period.days} days, {declared.mode}) isn't the one that new objects are locked by"


def _of_objects(looked: Iterable[Looked], rule: Rule | None, now: datetime) -> Iterator[str]:
    for one in looked:
        name = one.version.name
        if one.shown:
            yield f"{name}: {one.shown}; 'strongroom lock recover' brings it back"
        if rule is None or not rule.covers(name):
            continue
        if one.retention is None:
            yield f"{name}: not locked"
        elif not rule.is_kept(one.retention, now):
            what = one.retention.mode if one.retention.mode is not rule.mode else f"until {one.retention.until:%Y-%m-%d %H:%M}"
            yield f"{name}: locked less than the rule says ({what}); run 'strongroom lock extend'"


def _by_folder(looked: Sequence[Looked]) -> Iterator[FolderLocks]:
    for folder in sorted({one.folder for one in looked}):
        those = [one for one in looked if one.folder == folder]
        locked = sum(one.retention is not None for one in those)
        yield FolderLocks(folder, len(those), sum(one.version.size for one in those), locked, _soonest(those))


def _soonest(looked: Iterable[Looked]) -> str:
    ends = [one.retention.until for one in looked if one.retention]
    return min(ends).isoformat() if ends else ""


def _spare(found: Surveyed) -> Iterator[int]:
    """Bytes of the versions that nobody needs."""
    for name, versions in found.first.history.items():
        needed = found.first.first(name) if name in found.needed.names and name not in found.first.strange else None
        yield from (one.size for one in versions if not one.is_marker and one != needed)
