"""How damaged and missing manifests, index objects and key slots come back: from a copy of the repository, byte for byte."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from strongroom.errors import Damaged, NotFound
from strongroom.operations.repair.replacing import is_whole, read_if_there, replace
from strongroom.operations.repair.replicas import Replica
from strongroom.operations.repair.report import Notes
from strongroom.operations.verify import Finding
from strongroom.repository import Store
from strongroom.repository.key_slots import FOLDER as KEYS

_NAME = re.compile("(keys|index|snapshots)/[0-9a-f]{64}")


def mend_objects(store: Store, replicas: Sequence[Replica], findings: Iterable[Finding], notes: Notes, *, dry_run: bool) -> None:
    """Put whole bytes under the names of these findings, as far as a replica has them."""
    for name in dict.fromkeys(finding.subject.partition(",")[0] for finding in findings):
        if _NAME.fullmatch(name):
            _mend(store, name, replicas, notes, dry_run=dry_run)


def _mend(store: Store, name: str, replicas: Sequence[Replica], notes: Notes, *, dry_run: bool) -> None:
    present = read_if_there(store, name)
    if present is not None and is_whole(name, present):
        notes.could_not(name, "its bytes are those that were written: nothing can be put in their place")
        return
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
        return
    hint = ": 'strongroom key remove' takes it away" if name.startswith(KEYS) else ""
    if not name.startswith("index/"):  # what those listed is found without them
        notes.could_not(name, ("; ".join(reasons) or "only a copy of this repository can have it, and none was given") + hint)
