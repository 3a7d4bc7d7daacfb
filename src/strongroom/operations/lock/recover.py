"""How does what was hidden or overwritten come back? What was first stored under each name is made to be what the bucket shows.

Works on a bucket in which nothing is left to see, `config` and the key slots included: all is read from old versions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from strongroom.access.roles import may
from strongroom.clock import SYSTEM_CLOCK, Clock
from strongroom.errors import Refused, StrongroomError, UnsafeStore
from strongroom.operations.lock.looking import Surveyed, at_once, surveyed
from strongroom.progress import SILENT, Progress
from strongroom.repository import INDEX, PACKS, SNAPSHOTS, Repository, Secret, Store
from strongroom.repository.closing import FOLDER as KEYRING
from strongroom.repository.first_versions import FirstVersions
from strongroom.repository.lock_rules import Rule, rules
from strongroom.repository.object_lock import ObjectLock, object_lock_of

_ORDER = (PACKS, INDEX, "journal/")
_LAST = (SNAPSHOTS, "config")


@dataclass(frozen=True, slots=True)
class RecoverReport:
    """What was brought back, or would be in a dry run.

    `objects`     that are needed          `recovered`   of them, names that were hidden or overwritten and are shown again
    `failed`      what is needed and could not be brought back          `strange`   objects that are nobody's, left as they are
    `epochs`      of the keys that were begun after the time that was given, hidden: what is sealed with them doesn't open
    """

    dry_run: bool
    objects: int
    recovered: tuple[str, ...]
    bytes: int
    failed: tuple[str, ...] = ()
    strange: tuple[str, ...] = ()
    epochs: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return not self.failed


def recover(
    store: Store,
    secret: Secret,
    *,
    since: datetime | None = None,
    dry_run: bool = False,
    clock: Clock = SYSTEM_CLOCK,
    progress: Progress = SILENT,
) -> RecoverReport:
    """Bring back what the repository must have and the bucket doesn't show. With `since`, what was forgotten, pruned or revoked
    after that time (the store's) comes back too, and epochs of the keys begun since are hidden: for an attacker who had the
    repository's key. What honest backups wrote in such an epoch is lost with it.

    Raises UnsafeStore where there are no versions, NoRepository, WrongKey, Refused (no administrator), StoreDenied. Repeatable.
    """
    lock = object_lock_of(store.url)
    if lock is None:
        hint = "bring back the copies that you have: 'strongroom verify --repair --from REPLICA'"
        raise UnsafeStore(f"{store.url} is no S3 bucket: it keeps no versions", hint=hint)
    first = FirstVersions(lock)
    epochs = _begun_since(first, since)
    opened = Repository.open(first, secret, clock=clock)
    if not may(opened.identity.role, "recover_objects"):
        raise Refused(f"a key of the role {opened.identity.role} may not do this", hint="only admin may")
    found = surveyed(lock, first, opened, since)
    rule = next(iter(rules(first, found.view.keys)[-1:]), None)
    gone = [name for name in found.needed.names if name not in first.strange and not first.is_current(name)]
    failed = [f"blob {blob[:16]}: a snapshot needs it and no pack has it" for blob in found.needed.missing]
    back: list[str] = []
    for name in epochs if not dry_run else ():
        lock.hide(name)
    for stage in (_stage(gone, 0), _stage(gone, 1), _stage(gone, 2)) if not dry_run else ():
        progress.begin("bringing back", len(stage), "objects")
        for name, problem in zip(stage, at_once(stage, lambda name: _bring_back(lock, found, rule, name)), strict=True):
            (failed if problem else back).append(f"{name}: {problem}" if problem else name)
            progress.advance(1)
    recovered = sorted(gone if dry_run else back)
    return RecoverReport(
        dry_run,
        len(found.needed.names),
        tuple(recovered),
        sum(first.first(name).size for name in recovered),
        tuple(failed),
        tuple(f"{name}: {why}" for name, why in sorted(first.strange.items()) if name not in epochs),
        tuple(epochs),
    )


def _begun_since(first: FirstVersions, since: datetime | None) -> list[str]:
    """Epochs of the keys that an attacker may have begun to shut everybody else out. They are left out of what is read."""
    begun = [] if since is None else [name for name in first.names(KEYRING) if first.first(name).stored >= since]
    for name in begun:
        first.leave_out(name, "it was begun after the time that was given")
    return begun


def _stage(names: Sequence[str], number: int) -> list[str]:
    """As a backup writes: packs before what lists them, manifests and `config` last."""
    return sorted(name for name in names if (0 if name.startswith(_ORDER) else 2 if name.startswith(_LAST) else 1) == number)


def _bring_back(lock: ObjectLock, found: Surveyed, rule: Rule | None, name: str) -> str:
    """Take away what lies over the version that counts; what may not be taken away, since it was locked, is covered by a copy.
    Gives what stands against it."""
    first = found.first.first(name)
    try:
        for version in found.first.history[name]:
            if version == first:
                return ""
            if not lock.remove(version):
                return _copy_up(lock, found, rule, name)
    except StrongroomError as error:
        return str(error)
    return "what counts is not among its versions"


def _copy_up(lock: ObjectLock, found: Surveyed, rule: Rule | None, name: str) -> str:
    retention = lock.retention(found.first.first(name))
    if rule is not None and rule.is_on:
        retention = rule.at(lock.now())
    if retention is None:
        return "what lies over it can't be removed, and there is no rule to lock a copy by"
    lock.put(name, found.first.read(name), retention, anew=False)
    return ""
