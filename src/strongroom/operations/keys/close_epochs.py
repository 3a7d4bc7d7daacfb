"""When may the keys of old epochs be given up, and how? When no object is sealed by them: said first, looked at again, then done.

The word that they will go stands in the store for a time of grace: whoever writes looks for it, and relies on nothing of theirs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from strongroom.errors import AlreadyExists, NotFound, Overtaken, Refused, Unreachable, UnsafeStore
from strongroom.operations.copy import open_replica
from strongroom.operations.keys.epochs_left import by_epoch, sealed_by
from strongroom.operations.prune.run import GRACE
from strongroom.progress import SILENT, Progress
from strongroom.repository import Repository, Store
from strongroom.repository.closing import FOLDER, Closing, close_before, closing_name, closings, decode_closing, require_proven
from strongroom.repository.keyring import name_of, numbers, read_closing
from strongroom.repository.rotation import sealable
from strongroom.repository.sessions import FOLDER as SESSIONS
from strongroom.repository.store import require_deletes


@dataclass(frozen=True, slots=True)
class ClosingReport:
    """`epoch`: all before it are closed if `closed`, else to be closed from `due` on (ISO 8601). `removed`: objects of the keyring
    that went."""

    epoch: int
    closed: bool
    due: str
    removed: tuple[str, ...] = ()


def close_epochs(
    repository: Repository, replicas: Iterable[Store] = (), *, grace: timedelta = GRACE, progress: Progress = SILENT
) -> ClosingReport:
    """Give up the keys of all epochs but the newest: say so, and do it if it was said a time of grace ago.

    Raises Refused while an object of this store or of a replica is sealed by them (each is asked), UnsafeStore. Repeatable after
    any failure: the keys go with the one delete that makes the closing hold.
    """
    if repository.config.overwriting:
        raise UnsafeStore("this store has no conditional creates: keys that may be needed aren't given up there")
    keys = repository.keys
    keys.look_again()
    newest = keys.newest.number
    if not newest:
        raise Refused("the keys were never rotated: there is no older epoch", hint="'strongroom key rotate' begins new keys")
    others = [open_replica(repository, store) for store in replicas]
    for one in (repository, *others):
        _require_unneeded(one, newest, progress)
    closing = _said(repository, newest)
    due = datetime.fromisoformat(closing.closed) + grace
    if due > repository.clock.now():
        return ClosingReport(newest, False, due.isoformat())
    for one in (repository, *others):  # what was stored before the word was there
        _require_unneeded(one, newest, progress)
    require_deletes(repository.store)
    keys.look_again()
    if keys.newest.number != newest:
        raise Overtaken(
            "the keys were rotated meanwhile: nothing was given up", hint="run 'strongroom key reencrypt', then this again"
        )
    removed = _remove(repository, newest)
    keys.close(newest, closing.lineage)
    return ClosingReport(newest, True, due.isoformat(), removed)


def _said(repository: Repository, newest: int) -> Closing:
    """The closing of this epoch, made if there is none; proven. Raises Damaged."""
    store, keys = repository.store, repository.keys
    name = closing_name(newest)
    try:
        closing = read_closing(store, newest)
    except NotFound:
        content = close_before(keys, sealable(repository)[0], repository.clock.now().isoformat())
        try:
            store.create(name, content)
        except (AlreadyExists, Unreachable):  # another one's, or ours
            content = store.read(name)
        closing = decode_closing(newest, content)
    require_proven(closing, newest, keys.newest.verifying, keys.repository_id)
    return closing


def _require_unneeded(repository: Repository, newest: int, progress: Progress) -> None:
    """Raises Refused if an object is sealed by the keys of an older epoch, or the newest epoch isn't there."""
    store = repository.store
    if any(slot.write_only for slot in repository.key_slots()[0]) or next(iter(store.list(SESSIONS)), None):
        why = "hosts that can't read have sealed what they write to keys of their time"
        raise Refused(
            f"{store.url}: {why}: none were given up", hint="old keys stay in a repository that such hosts have written to"
        )
    names = [one.name for one in store.list(FOLDER)]
    if newest not in (*numbers(store), *closings(names)):
        raise Refused(f"{store.url} doesn't have epoch {newest} yet: no keys were given up", hint="run 'strongroom copy' first")
    left = by_epoch(one for one in sealed_by(repository, progress=progress) if one.epoch < newest)
    if left:
        said = "; ".join(f"epoch {one.epoch}: {one.objects} objects, {one.bytes:,} bytes" for one in left)
        hint = "run 'strongroom key reencrypt' until nothing is left, for a replica with --to; 'prune' for packs that nothing lists"
        raise Refused(f"{store.url} still needs older keys ({said}): none were given up", hint=hint)


def _remove(repository: Repository, newest: int) -> tuple[str, ...]:
    """The first delete makes the closing hold."""
    store = repository.store
    there = {one.name for one in store.list(FOLDER)}
    older = [closing_name(number) for number in closings(there) if number < newest]
    begun = [name_of(number) for number in reversed(numbers(store)) if number <= newest]
    going = [name for name in (*begun, *older) if name in there]
    for name in going:
        store.delete(name)
    return tuple(going)
