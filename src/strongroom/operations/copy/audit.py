"""How the audit log reaches a replica: as long as it has a beginning of the primary's. Who works at a replica leaves entries
there, and from then on each of the two goes its own way: entries of both in one chain would look like tampering."""

from __future__ import annotations

from collections.abc import Mapping

from strongroom.errors import NotFound
from strongroom.operations.copy.transport import Transport
from strongroom.repository import Repository
from strongroom.repository.audit_log import FOLDER
from strongroom.repository.store import Listed


def send_audit(
    primary: Repository, replica: Repository, transport: Transport, here: Mapping[str, int], there: Mapping[str, int]
) -> tuple[str, ...]:
    """Send the entries that the replica lacks, in their order; gives why they aren't sent, if so."""
    ours = sorted(name for name in here if name.startswith(FOLDER))
    theirs = max((name for name in there if name.startswith(FOLDER)), default="")
    missing = [Listed(name, here[name]) for name in ours if name not in there]
    if theirs and not (theirs in here and _same(primary, replica, theirs)):
        return ("audit log: there are entries of the replica's own; both logs are whole, each in its store",)
    transport.send(missing)
    return ()


def _same(primary: Repository, replica: Repository, name: str) -> bool:
    try:
        return primary.store.read(name) == replica.store.read(name)
    except NotFound:  # taken away since it was listed: whoever verifies the log sees it
        return False
