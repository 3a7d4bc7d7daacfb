"""How does what begins an epoch of the keys come back? From a copy of the repository, before all else: nothing opens without."""

from __future__ import annotations

from collections.abc import Sequence

from strongroom.errors import Damaged, NotFound
from strongroom.operations.repair.replacing import read_if_there
from strongroom.operations.repair.replicas import copies_of
from strongroom.operations.repair.report import Notes
from strongroom.operations.verify import Finding
from strongroom.repository import Repository, Store
from strongroom.repository.closing import FOLDER, closings
from strongroom.repository.epochs import Epoch
from strongroom.repository.keyring import name_of, newest_closing, numbers, read_beginning, require_signed
from strongroom.repository.writer import create_once


def mend_epochs(store: Store, replicas: Sequence[Repository], notes: Notes, *, dry_run: bool) -> list[Finding]:
    """Put back what is missing, or isn't signed by the epoch before. Two that are signed and differ are left for people to judge:
    then somebody had old keys. Each comes from a replica that opened with it, so it was proven."""
    found: list[Finding] = []
    for replica in copies_of(store, replicas):
        closed = max(closings(one.name for one in store.list(FOLDER)), default=0)
        for number in numbers(replica.store):
            before = replica.keys.epoch(number - 1)
            problem = None if before is None else _problem(store, number, before, replica.config.repository_id)
            if before is None or problem is None or number <= closed:
                continue
            whole = read_beginning(replica.store, number)
            require_signed(whole, before.verifying, replica.config.repository_id)
            found.append(Finding(whole.name, problem))
            if not dry_run:
                store.delete(whole.name)
                create_once(store, whole.name, whole.content)
            notes.did(whole.name, f"put back from {replica.store.url}")
        found += _mend_closing(store, replica, closed, notes, dry_run=dry_run)
    return found


def _mend_closing(store: Store, replica: Repository, closed: int, notes: Notes, *, dry_run: bool) -> list[Finding]:
    """Put back what closes epochs, where neither it is there nor what it takes the place of."""
    there = newest_closing(replica.store)
    if there is None or closed >= there.number or read_if_there(store, name_of(there.number)) is not None:
        return []
    if not dry_run:
        create_once(store, there.name, there.content)
    notes.did(there.name, f"put back from {replica.store.url}")
    return [Finding(there.name, "missing")]


def _problem(store: Store, number: int, before: Epoch, repository_id: bytes) -> str | None:
    if read_if_there(store, name_of(number)) is None:
        return "missing"
    try:
        require_signed(read_beginning(store, number), before.verifying, repository_id)
    except NotFound:
        return "missing"
    except Damaged as error:
        return error.problem
    return None
