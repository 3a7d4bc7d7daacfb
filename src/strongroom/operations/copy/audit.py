"""How the audit log reaches a replica: as a beginning of the primary's, or not at all. Two logs put together would look forged."""

from __future__ import annotations

from strongroom.operations.copy.transport import Transport
from strongroom.repository import Store
from strongroom.repository.audit_log import FOLDER
from strongroom.repository.store import Listed


def send_audit_log(primary: Store, replica: Store, transport: Transport, here: dict[str, int]) -> str:
    """Send the entries that the replica lacks, in their order; gives why, if none can follow on what is there: somebody worked at
    the replica, which wrote entries of its own, or the primary's log was taken away."""
    ours = {name: here[name] for name in sorted(here) if name.startswith(FOLDER)}
    theirs = {one.name for one in replica.list(FOLDER)}
    missing = [Listed(name, size) for name, size in ours.items() if name not in theirs]
    common = max(ours.keys() & theirs, default="")
    if not missing:
        return ""
    if theirs and (common != max(theirs) or primary.read(common) != replica.read(common)):
        return f"audit log: {len(missing)} entries don't follow on those that are there: keep an 'audit export' of each"
    transport.send(missing)
    return ""
