"""How damaged and missing manifests, index objects and key slots come back: from a copy of the repository, byte for byte."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress

from strongroom.errors import Damaged, NotFound
from strongroom.journal.segments import number_in
from strongroom.operations.repair.replacing import is_object, is_whole, read_if_there, replace, unfinished
from strongroom.operations.repair.replicas import Replica
from strongroom.operations.repair.report import Notes
from strongroom.operations.verify import Finding
from strongroom.repository import INDEX, REPAIRS, SNAPSHOTS, Repository, Store
from strongroom.repository.key_slots import FOLDER as KEYS
from strongroom.snapshots import history
from strongroom.snapshots.commit import forgotten


def mend_objects(
    repository: Repository, replicas: Sequence[Replica], findings: Iterable[Finding], notes: Notes, *, dry_run: bool
) -> list[Finding]:
    """Put whole bytes under the names of these findings, as far as a replica has them. Gives what else was missing: a manifest that
    comes back names its predecessors."""
    missing, gone = list[Finding](), _forgotten(repository)
    known = set(repository.manifest_ids()) | (gone or frozenset())
    left = list(dict.fromkeys(finding.subject.partition(",")[0] for finding in findings))
    left = [name for name in left if _may_come_back(repository.store, name, gone, notes)]
    while left:
        back = [name for name in left if _mend(repository.store, name, replicas, notes, dry_run=dry_run)]
        found = [] if dry_run else _predecessors(repository, back, known)
        known |= {finding.subject.removeprefix(SNAPSHOTS) for finding in found}
        missing += found
        left = [finding.subject for finding in found if _may_come_back(repository.store, finding.subject, gone, notes)]
    return missing


def abandon_forgotten(repository: Repository) -> bool:
    """A snapshot that was forgotten while a repair of it was cut off doesn't come back. False if it can't be told which are."""
    gone = _forgotten(repository)
    for name in unfinished(repository.store, SNAPSHOTS) if gone else ():
        if gone and name.removeprefix(SNAPSHOTS) in gone:
            repository.store.delete(REPAIRS + name)
    return gone is not None


def _forgotten(repository: Repository) -> frozenset[str] | None:
    """The ids of snapshots that are not to come back; None if a tombstone can't be read."""
    try:
        return forgotten(repository)[0]
    except Damaged:  # a finding of its own
        return None


def _may_come_back(store: Store, name: str, gone: frozenset[str] | None, notes: Notes) -> bool:
    """Not a snapshot that was forgotten, or that may have been."""
    if not name.startswith(SNAPSHOTS):
        return True
    if gone is None and read_if_there(store, name) is None:
        notes.could_not(name, "a tombstone can't be read, which may say that it was forgotten")
        return False
    if gone is not None and name.removeprefix(SNAPSHOTS) in gone:
        notes.could_not(name, "it was forgotten: 'strongroom prune' takes away what is left of it")
        return False
    return True


def _predecessors(repository: Repository, names: Iterable[str], known: set[str]) -> list[Finding]:
    """The snapshots that these manifests name and that nobody knows of."""
    found = []
    for name in names:
        if name.startswith(SNAPSHOTS):
            with suppress(Damaged, NotFound):
                snapshot = history.read(repository, name.removeprefix(SNAPSHOTS))
                known.add(snapshot.id)
                parents = [parent for parent in history.missing_parents([snapshot], ()) if parent not in known]
                problem = f"missing: snapshot {snapshot.id[:12]} names it as its predecessor"
                found += [Finding(SNAPSHOTS + parent, problem, (parent,)) for parent in parents]
    return found


def _mend(store: Store, name: str, replicas: Sequence[Replica], notes: Notes, *, dry_run: bool) -> bool:
    """True if it is back."""
    if not is_object(name):
        if name.startswith((KEYS, SNAPSHOTS)) and not name.endswith("/"):
            notes.could_not(name, "it is no object of a repository: remove it if nobody knows it")
        return False
    present = read_if_there(store, name)
    if present is not None and is_whole(name, present) and number_in(name) is None:
        notes.could_not(name, "it is as it was written, by another key or for another name: remove it if nobody knows it")
        return False
    reasons = []
    for replica in replicas:
        try:
            whole = replica.object(name)
        except NotFound:
            reasons.append(f"{replica.name} has none")
            continue
        except Damaged:
            reasons.append(f"{replica.name} has it damaged")
            continue
        if not dry_run:
            replace(store, name, whole)
        notes.did(name, f"put back from {replica.name}")
        return True
    hint = ": 'strongroom key remove' takes it away" if name.startswith(KEYS) else ""
    if not name.startswith(INDEX):  # what those listed is found without them
        notes.could_not(name, ("; ".join(reasons) or "only a copy of this repository can have it, and none was given") + hint)
    return False
